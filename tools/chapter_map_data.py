"""The map of the chapters, read from chapter_map.toml; _ext/chapter_map.py shows it on the front page."""

from __future__ import annotations

import base64
import io
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from book_numbers import ROOT, number_of_chapter, page_cells
from PIL import Image

TABLE = Path(__file__).with_name("chapter_map.toml")
WIDEST = 400  # pixels of a small picture, about twice what it is shown at
COLOURS = 32  # snow in colour weighs as much as everything else on the page, and nobody counts its colours


@dataclass(frozen=True)
class Row:
    """One chapter on the map.

    Attributes:
        page: the chapter's file name without its ending.
        question: what the chapter answers. Markdown.
        figure: name of the figure in the notebook that stands for it.
        needs: the chapters that come before it, as file names without ending.
        gives: what the reader has afterwards. Markdown.
    """

    page: str
    question: str
    figure: str
    needs: tuple[str, ...]
    gives: str

    @property
    def number(self) -> str:
        """The chapter's number, or an appendix's letter."""
        return number_of_chapter(self.page) or ""


def read_rows(pages: list[str]) -> list[Row]:
    """The rows of the chapters that are among `pages`, with those needs that are."""
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))["row"]
    return [
        Row(**(row | {"needs": tuple(need for need in row["needs"] if need in pages)}))
        for row in table
        if row["page"] in pages
    ]


def figure_of(notebook: Path, name: str) -> tuple[Image.Image, str]:
    """A figure of a notebook, from its stored output, and its alt text.

    Raises:
        ValueError: if no cell of the notebook shows a figure of that name.
    """
    for cell in page_cells(notebook):
        shown = cell.metadata.get("mystnb", {})
        if shown.get("figure", {}).get("name") != name:
            continue
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                png = base64.b64decode(output.data["image/png"])
                return Image.open(io.BytesIO(png)).convert("RGBA"), shown["image"]["alt"]
    raise ValueError(f"{notebook.name} shows no figure called {name!r}: see {TABLE.name}")


def draw_small(row: Row, folder: Path) -> tuple[Path, Path, str]:
    """Write the chapter's figure and its dark twin, reduced, into `folder`; return both files and the alt text."""
    from dark_figures import dark_twin

    picture, alt = figure_of(ROOT / "chapters" / f"{row.page}.ipynb", row.figure)
    twin = Image.fromarray(dark_twin(np.array(picture)))
    white = Image.new("RGBA", picture.size, "white")
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / f"{row.page}.png", folder / f"{row.page}-night.png"
    for shown, file in zip((Image.alpha_composite(white, picture), twin), files, strict=True):
        shown.thumbnail((WIDEST, WIDEST), Image.Resampling.LANCZOS)
        shown.quantize(COLOURS, method=Image.Quantize.FASTOCTREE).save(file, optimize=True)
    return *files, alt
