"""Pages that hold panels and are opened from the disk, and what tests do with them."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from book_numbers import ROOT
from playwright.sync_api import Browser, Page

PICTURES = """figure => [...figure.querySelectorAll("canvas")].map(canvas => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return [...data];
})"""
PATIENCE = 60_000
HEAD = '<!doctype html><meta charset=utf-8><link rel="stylesheet" href="panel.css">'
STILL = '<img src="still.png" alt="still"><noscript><p>still</p></noscript>'
WALK = {"steps": 5, "seed": 1, "sampler": "ddim", "beside": ""}
DATA = {
    "draw": {"models": "digits fashion-mnist", "controls": "model sampler beside steps spacing eta seed"}
    | WALK,
    "mixture": {"controls": "preset sampler steps spacing eta seed"} | WALK,
    "schedule": {},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All scripts side by side, as the build puts them."""
    # Here, for they load torch, which the tests of plain pages need not wait for.
    from draw_live_still import STILLS
    from export_live_model import FRACTION_BITS, exported
    from live_tables import TABLES, tables_script

    folder = tmp_path_factory.mktemp("panel")
    shutil.copytree(ROOT / "_assets" / "live", folder, dirs_exist_ok=True)
    shutil.copy(STILLS / "live-digits.png", folder / "still.png")
    scripts = dict.fromkeys(FRACTION_BITS, exported) | dict.fromkeys(TABLES, tables_script)
    for name, script in scripts.items():
        (folder / f"{name}.js").write_text(script(name), encoding="utf-8")
    return folder


@pytest.fixture
def show(chromium: Browser, folder: Path) -> Iterator[Any]:
    """A function that opens a page with panels from the disk; its pages are closed afterwards, and made no error."""
    opened, errors = [], []

    def show(
        *panels: str,
        above: str = "",
        script: str = "",
        where: Path = folder,
        data: Any = None,
        **options: Any,
    ) -> Page:
        page = chromium.new_page(**{"reduced_motion": "reduce", **options})
        opened.append(page)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.set_default_timeout(PATIENCE)
        if script:
            page.add_init_script(script)
        figures = "".join(figure(panel, data or {}) for panel in panels or ("draw",))
        file = where / "page.html"
        file.write_text(f"{HEAD}<body>{above}{figures}", encoding="utf-8")
        page.goto(file.as_uri())
        return page

    yield show
    for page in opened:
        page.close()
    assert not errors


def figure(panel: str, data: dict[str, Any]) -> str:
    """A panel as the directive writes it, with its script."""
    known = {"id": f"live-{panel}", "data-panel": panel}
    known |= {f"data-{name}": value for name, value in (DATA[panel] | data).items()}
    attributes = "".join(f' {name}="{value}"' for name, value in known.items())
    return f'<figure class="live-model"{attributes}>{STILL}</figure><script src="panel.js"></script>'


def words(page: Page, text: Any, lane: int = 0) -> None:
    """Wait until a lane of the panel says where it stands."""
    page.locator(".live-where").nth(lane).filter(has_text=text).wait_for()


def said(page: Page, text: str) -> None:
    """Wait until a reader who hears the page is told so."""
    page.locator(".live-said", has_text=text).wait_for(state="attached")


def pictures(page: Page) -> list[np.ndarray]:
    """The red of each canvas, that is grey where it is grey, 0 … 255."""
    return [np.array(values).reshape(-1, 4)[:, 0] for values in page.locator("figure").evaluate(PICTURES)]


def press(page: Page, name: str) -> None:
    """Press a button by keyboard."""
    page.get_by_role("button", name=name, exact=True).press("Enter")


def choose(page: Page, name: str, value: str) -> None:
    """Choose from the list of this name."""
    page.locator(f"[name={name}]").select_option(value)


def count_changes(page: Page) -> None:
    """From now on, how often the panel says where it is, in document.seen."""
    seen = "document.seen = []; new MutationObserver(() => document.seen.push(1)).observe("
    page.evaluate(f"{seen}document.querySelector('.live-where'), {{ childList: true }})")
