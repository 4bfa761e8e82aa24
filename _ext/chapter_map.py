"""The directives ``{chapter-map}``, the chapters with a picture and a question each, and ``{learning-path}``, a table.

Both show tools/chapter_map.toml. The pictures are figures of the chapters, taken from the stored outputs and reduced,
so that none is older than its chapter.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chapter_map_data import Row
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
SMALL = ROOT / "_build" / "map"


def rows(directive: SphinxDirective) -> list[Row]:
    """The rows of the chapters that this book has; the page is read again when they change."""
    sys.path[:0] = [] if str(ROOT / "tools") in sys.path else [str(ROOT / "tools")]
    from book_numbers import page_files
    from chapter_map_data import TABLE, read_rows

    files = {path.stem: path for path in page_files()}
    found = read_rows(list(files))
    for path in (TABLE, *(files[row.page] for row in found)):
        directive.env.note_dependency(str(path))
    return found


def link(text: str, page: str) -> str:
    """A Markdown link to a page beside this one."""
    return f"[{text}]({page}.ipynb)"


class ChapterMap(SphinxDirective):
    """Puts the map in its place: a list with a picture, a link and a question each."""

    def run(self) -> list[nodes.Node]:
        """One list."""
        found = nodes.bullet_list(classes=["chapter-map"])
        found += list(self.items())
        return [found]

    def items(self) -> Iterator[nodes.Node]:
        """One item for each chapter."""
        from chapter_map_data import draw_small

        for row in rows(self):
            *files, alt = draw_small(row, SMALL)
            light, dark = (f"/{file.relative_to(ROOT).as_posix()}" for file in files)
            text = f"**{row.number}** {{doc}}`{row.page}`\n\n{row.question}"
            item = nodes.list_item()
            item += nodes.image(uri=light, alt=alt, classes=["on-white"])
            item += nodes.image(uri=dark, alt=alt, classes=["on-dark", "dark-light"])
            item += self.parse_text_to_nodes(text)
            yield item


class LearningPath(SphinxDirective):
    """Puts the table in its place: what each chapter needs, and what it gives."""

    def run(self) -> list[nodes.Node]:
        """One table."""
        lines = ["| Chapter | needs | gives |", "|---|---|---|"]
        for row in rows(self):
            needs = ", ".join(link(need.split("-")[0].lstrip("0"), need) for need in row.needs) or "nothing"
            lines.append(f"| {row.number} {{doc}}`{row.page}` | {needs} | {row.gives} |")
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("chapter-map", ChapterMap)
    app.add_directive("learning-path", LearningPath)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
