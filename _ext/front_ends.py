"""The directive ``{front-ends}``: a table of what moves where, from tools/front_ends_table.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx

TOOLS = Path(__file__).resolve().parents[1] / "tools"


class FrontEnds(SphinxDirective):
    """Puts the table in its place."""

    def run(self) -> list[nodes.Node]:
        """One table, a row for each kind of thing that is somewhere in the book."""
        sys.path[:0] = [] if str(TOOLS) in sys.path else [str(TOOLS)]
        from front_ends_table import FRONT_ENDS, THINGS, page_files

        for path in page_files():
            self.env.note_dependency(str(path))
        lines = [f"| What | Where | {' | '.join(FRONT_ENDS)} |", "|---" * (2 + len(FRONT_ENDS)) + "|"]
        for thing in THINGS:
            if places := thing.places():
                lines.append(f"| {thing.name} | {', '.join(places)} | {' | '.join(thing.cells)} |")
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("front-ends", FrontEnds)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
