"""The directive ``{ledger}``: every equation of the book with its test, made anew at each build.

What it shows is put together by tools/ledger_page.py, in a process of its own that starts with the build: it has to
import PyTorch and all checks, which takes about as long as reading the other pages, so both happen side by side.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, str(ROOT / "tools" / "ledger_page.py"), "--json"]


@cache
def writer() -> subprocess.Popen[str]:
    """The process that writes the ledger, started at the first call."""
    return subprocess.Popen(  # noqa: S603 (a command of our own)
        COMMAND, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@cache
def written() -> dict[str, list[str] | str]:
    """What the process has written, once it is done."""
    page, complaint = writer().communicate()
    if writer().returncode:
        raise ExtensionError(f"tools/ledger_page.py failed:\n{complaint}")
    return json.loads(page)


class Ledger(SphinxDirective):
    """Puts the ledger in its place, and has the page read again when a chapter or a check changes.

    Two parts, ``{ledger} totals`` and ``{ledger} chapters``, because the parser puts sections before what is returned.
    """

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The part that the argument names."""
        page = written()
        for path in page["sources"]:
            self.env.note_dependency(path)
        return self.parse_text_to_nodes(str(page[self.arguments[0]]), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx, and begin to write the ledger."""
    writer()  # at once: the other extensions and the first pages are loaded meanwhile
    app.connect("build-finished", lambda *_: writer().kill())  # in case no page had to be read again
    app.add_directive("ledger", Ledger)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
