"""What moves in which program that shows the chapters; _ext/front_ends.py makes a table of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from book_numbers import number_of_chapter, page_cells, page_files

FRONT_ENDS = ("these pages", "JupyterLab", "VS Code", "Colab")
MOVES, STILL, PAGE = "moves", "still picture", "on the page alone"


@dataclass(frozen=True)
class Thing:
    """Something on a page that can move.

    Attributes:
        name: what the table calls it.
        pattern: what stands in a cell that holds one.
        cells: what it does in each of FRONT_ENDS.
    """

    name: str
    pattern: re.Pattern[str]
    cells: tuple[str, str, str, str]

    def places(self) -> list[str]:
        """The numbers of the chapters that hold one; "front page" for the page without a number."""
        found = [
            path.stem for path in page_files() if any(self.pattern.search(c.source) for c in page_cells(path))
        ]
        return [number_of_chapter(page) or "front page" for page in found]


THINGS = (
    # Its own HTML and script in the output of a cell, which all four show; no kernel has to run.
    Thing("Frames under a slider", re.compile(r"\bframe_scrubber\("), (MOVES, MOVES, MOVES, MOVES)),
    # Computed by the kernel as you move it (ddpm.book.widgets.explorer.live_front_end).
    Thing("The schedule explorer", re.compile(r"\bschedule_explorer\("), (STILL, MOVES, MOVES, MOVES)),
    # A directive of the pages, with scripts of its own.
    Thing(
        "Panels that compute", re.compile(r"^`{3,}\{live-[a-z]+\}", re.MULTILINE), (MOVES, PAGE, PAGE, PAGE)
    ),
)
