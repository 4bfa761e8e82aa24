"""A wheel holds whatever the package has: every folder of it, and every file that is not Python."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


def test_a_wheel_holds_every_file_of_the_package() -> None:
    data, found = SETUPTOOLS["package-data"], 0
    for path in (ROOT / "ddpm").rglob("*.*"):
        if path.suffix == ".pyc":
            continue
        package = ".".join(path.parent.relative_to(ROOT).parts)
        assert package in SETUPTOOLS["packages"], path
        patterns = ["*.py", *data["*"], *data.get(package, [])]
        assert any(path.match(pattern) for pattern in patterns), path
        found += path.suffix != ".py"
    assert found >= 7
