"""The floors of pyproject.toml, as far as they can be read; `make oldest` tries them."""

import re
import tomllib

import pytest
from book_numbers import ROOT
from try_releases import floors, unreached

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def project(*requirements, **extras):
    return {"dependencies": requirements, "optional-dependencies": extras}


def test_floors_are_read_from_all_extras():
    asked = project("torch>=2.6", "scikit-learn>=1.5,<1.11", book=["a.b-c>=8"], test=["pytest>=8.0.1"])
    assert floors(asked) == {"torch": "2.6", "scikit-learn": "1.5", "a.b-c": "8", "pytest": "8.0.1"}


@pytest.mark.parametrize("requirement", ["torch", "torch==2.6", "torch<3", "torch~=2.6", "torch>2.6"])
def test_a_requirement_without_a_floor_is_refused(requirement):
    with pytest.raises(ValueError, match=f"asks for '{requirement}'; write a floor, name>=version"):
        floors(project("numpy>=2.0", requirement))


@pytest.mark.parametrize(
    ("floor", "chosen", "reached"),
    [
        ("2", "2.0.0", True),
        ("2.0", "2.0.0", True),
        ("0.4", "0.4", True),
        ("2.10", "2.10.0", True),
        ("0.4", "0.4.3", False),
        ("1.12", "1.13.1", False),
        ("2.1", "2.10", False),
        ("2.10", "2.1", False),
    ],
)
def test_a_floor_that_nobody_can_have_is_named(floor, chosen, reached):
    assert unreached({"x": floor, "y": "1"}, {"x": chosen, "y": "1.0", "z": "7"}) == (
        [] if reached else [f"x>={floor} to {chosen}"]
    )


def test_the_lock_is_within_the_floors():
    lock = re.findall(
        r"^([\w.-]+)==([\d.]+)", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE
    )

    def number(version):
        return [int(part) for part in version.strip(".").split(".")]

    allowed = floors(PROJECT)
    assert allowed.keys() <= dict(lock).keys()
    assert [
        (name, version) for name, version in lock if number(version) < number(allowed.get(name, "0"))
    ] == []
