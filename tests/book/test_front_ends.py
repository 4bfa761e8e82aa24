"""The table of what moves where says what the chapters and the package do."""

import re
import sys

import pytest
from book_numbers import ROOT, page_cells
from bs4 import BeautifulSoup
from front_ends_table import FRONT_ENDS, MOVES, PAGE, STILL, THINGS
from IPython.core.interactiveshell import InteractiveShell

from ddpm.book.widgets import explorer

FRAMES, EXPLORER, PANELS = THINGS


def outputs(page: str) -> str:
    """All HTML that a chapter's cells have left."""
    cells = page_cells(next((ROOT / "chapters").glob(f"{page}-*.ipynb")))
    found = [
        output.get("data", {}).get("text/html", "") for cell in cells for output in cell.get("outputs", [])
    ]
    return "\n".join(found)


def test_frames_are_html_with_a_script_that_needs_no_kernel() -> None:
    assert FRAMES.cells == (MOVES,) * len(FRONT_ENDS)
    assert FRAMES.places()
    for place in FRAMES.places():
        html = outputs(place.zfill(2))
        assert "<script>" in html
        assert 'class="frame-scrubber' in html or "frame-scrubber" in html
        assert not re.search(r"https?://(?!www\.w3\.org)", html)


def test_the_explorer_is_live_where_the_table_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    live = {"these pages": explorer.live_front_end()}
    with monkeypatch.context() as inside:
        inside.setenv("JPY_SESSION_NAME", "chapter.ipynb")
        live["JupyterLab"] = explorer.live_front_end()
    with monkeypatch.context() as inside:
        shell = type("Shell", (), {"user_ns": {"__vsc_ipynb_file__": "chapter.ipynb"}})()
        inside.setattr(explorer, "get_ipython", lambda: shell)
        live["VS Code"] = explorer.live_front_end()
    with monkeypatch.context() as inside:
        inside.setitem(sys.modules, "google.colab", InteractiveShell)
        live["Colab"] = explorer.live_front_end()
    assert tuple(MOVES if live[name] else STILL for name in FRONT_ENDS) == EXPLORER.cells
    assert EXPLORER.places() == ["3"]


def test_panels_are_on_the_pages_that_are_named(chapters: dict[str, BeautifulSoup]) -> None:
    assert PANELS.cells == (MOVES, PAGE, PAGE, PAGE)
    shown = [name for name, page in chapters.items() if page.select("figure.live-model")]
    assert len(shown) == len(PANELS.places()) > 0
    assert (PANELS.places()[0] == "front page") == (shown[0] == "intro")


def test_the_page_shows_every_row(chapters: dict[str, BeautifulSoup]) -> None:
    rows = chapters["running"].select("table tbody tr")
    assert [row.select("td")[0].get_text() for row in rows] == [thing.name for thing in THINGS]


def test_no_chapter_reads_a_file_that_a_wheel_lacks() -> None:
    readers = {
        path.stem
        for path in (ROOT / "chapters").glob("*.ipynb")
        for cell in page_cells(path)
        if cell.cell_type == "code" and re.search(r"[\"']images/", cell.source)
    }
    assert not readers
