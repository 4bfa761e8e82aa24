"""What stands in several files because each needs it: the version and the address of the repository."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from book_numbers import ROOT
from notebook_form import SETUP_CELL, check, code_cells, read
from repository import options
from set_repository import address, pages_address, set_repository

import ddpm


def read_yaml(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_version_is_the_same_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert read_yaml(ROOT / "CITATION.cff")["version"] == version
    assert ddpm.__version__ == version
    assert re.findall(r"--branch v(\S+)", SETUP_CELL) == [version]


def places(root: Path) -> set[str]:
    """The address as each place has it; empty where none stands."""
    citation = read_yaml(root / "CITATION.cff").get("repository-code", "")
    cells = [code_cells(read(path))[0][1].source for path in (root / "chapters").glob("*.ipynb")]
    assert cells
    return {address(root), citation, *(re.findall(r'repository = .*, "(.*)"', cell)[0] for cell in cells)}


def test_the_address_of_the_repository_is_the_same_everywhere() -> None:
    assert places(ROOT) == {address()}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """As much of the book as the address stands in."""
    for name in ("CITATION.cff", "tools/repository.txt", "chapters/02-forward-process.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path


def test_setting_the_address_reaches_all_places_and_unsetting_leaves_no_trace(copy: Path) -> None:
    before = {path: path.read_bytes() for path in copy.rglob("*.*")}
    set_repository("", copy)
    nowhere = {path: path.read_bytes() for path in copy.rglob("*.*")}
    set_repository("https://github.com/me/a-book", copy)
    assert places(copy) == {"https://github.com/me/a-book"}
    assert all(path.read_bytes() != text for path, text in nowhere.items())
    set_repository("", copy)
    assert {path: path.read_bytes() for path in copy.rglob("*.*")} == nowhere
    assert address() or before == nowhere


@pytest.mark.parametrize(
    "wrong",
    ["me/book", "http://github.com/me/book", "https://github.com/me", "https://github.com/me/book.git"],
)
def test_what_is_no_address_is_refused_and_changes_nothing(wrong: str, copy: Path) -> None:
    before = {path: path.read_bytes() for path in copy.rglob("*.*")}
    with pytest.raises(ValueError, match=r"write https://github\.com/OWNER/NAME"):
        set_repository(wrong, copy)
    assert {path: path.read_bytes() for path in copy.rglob("*.*")} == before


@pytest.mark.parametrize(
    ("repository", "pages"),
    [
        ("https://github.com/Me/book", "https://me.github.io/book/"),
        ("https://github.com/Me/me.github.io", "https://me.github.io/"),
        ("", ""),
    ],
)
def test_where_the_pages_are(repository: str, pages: str) -> None:
    assert pages_address(repository) == pages


def test_a_book_that_is_published_nowhere_has_no_buttons_that_lead_out() -> None:
    nowhere, somewhere = options(""), options("https://github.com/me/book")
    assert not any(nowhere.values())
    assert somewhere["repository_url"] == "https://github.com/me/book"
    assert nowhere.keys() <= somewhere.keys()


def test_nothing_committed_names_another_address_of_the_book() -> None:
    listed = subprocess.run(
        [
            "git",
            "grep",
            "-nIE",
            r"github\.(com|io)[/:][^ ]*(ddpm-book|out-of-the-snow)",
            "--",
            ".",
            ":!tests",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    found = [line for line in listed.stdout.splitlines() if not address() or address() not in line]
    assert found == []


def test_a_set_up_cell_with_another_address_breaks_the_rules(copy: Path) -> None:
    path = copy / "chapters" / "02-forward-process.ipynb"
    assert check(path) == []
    set_repository("https://github.com/someone/else", copy)
    assert any("not in normal form" in problem for problem in check(path))


def test_every_citation_key_has_surname_year_and_word() -> None:
    text = (ROOT / "references.bib").read_text(encoding="utf-8")
    keys = re.findall(r"^@\w+\{([^,]+),", text, re.MULTILINE)
    assert keys
    assert [key for key in keys if not re.fullmatch(r"[a-z]+(19|20)\d\d[a-z]+", key)] == []
    years = dict(re.findall(r"^@\w+\{([^,]+),.*?^  year *= *\{(\d+)\}", text, re.MULTILINE | re.DOTALL))
    assert {key: year for key, year in years.items() if year not in key} == {}
