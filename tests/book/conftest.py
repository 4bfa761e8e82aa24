"""The built pages, for the tests that read them."""

from pathlib import Path

import pytest
from book_numbers import ROOT, page_files
from bs4 import BeautifulSoup

HTML = ROOT / "_build" / "html"


@pytest.fixture(scope="session")
def html() -> Path:
    """The folder of the built pages."""
    if not (HTML / "index.html").exists():
        pytest.fail("The book is not built. Run `make book` first, or `make pages`, which does.")
    return HTML


@pytest.fixture(scope="session")
def pages(html: Path) -> dict[Path, BeautifulSoup]:
    """Every built page, parsed, by its path."""
    paths = [path for path in html.rglob("*.html") if "_static" not in path.parts]
    return {path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in sorted(paths)}


@pytest.fixture(scope="session")
def chapters(pages: dict[Path, BeautifulSoup]) -> dict[str, BeautifulSoup]:
    """The pages of _toc.yml, by file name without ending."""
    by_name = {path.stem: page for path, page in pages.items() if path.parent.name == "chapters"}
    return {source.stem: by_name[source.stem] for source in page_files()}
