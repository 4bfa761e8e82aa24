"""The directive ``{ledger}``: every equation of the book with its test, made anew at each build.

What it shows is put together by tools/ledger_page.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]


class Ledger(SphinxDirective):
    """Puts the ledger in its place, and has the page read again when a chapter or a check changes.

    Two parts, ``{ledger} totals`` and ``{ledger} chapters``, because the parser puts sections before what is returned.
    """

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The part that the argument names."""
        sys.path[:0] = [str(ROOT / "tools")]
        from ledger_page import ledger_page, sources

        for path in sources():
            self.env.note_dependency(str(path))
        part = getattr(ledger_page(), self.arguments[0])
        return self.parse_text_to_nodes(part, allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("ledger", Ledger)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
