"""The directive ``{ledger}``: every equation of the book with its test.

What it shows is put together by tools/ledger_page.py, in a process of its own that starts with the build: it has to
import PyTorch and all checks, which takes about as long as reading the other pages, so both happen side by side. The
result is kept in _build and used again as long as no chapter and no check has changed.
"""

from __future__ import annotations

import hashlib
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
STORE = ROOT / "_build" / "ledger.json"


@cache
def fingerprint() -> str:
    """Changes whenever a chapter, a check, or the program that writes the ledger does."""
    sys.path[:0] = [str(ROOT / "tools")]
    from ledger_page import sources

    digest = hashlib.sha256()
    for path in (*sources(), *sorted((ROOT / "tools").glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def stored() -> dict[str, list[str] | str] | None:
    """The ledger of the last build, if nothing has changed since."""
    if not STORE.is_file():
        return None
    page = json.loads(STORE.read_text(encoding="utf-8"))
    return page if page["fingerprint"] == fingerprint() else None


@cache
def writer() -> subprocess.Popen[str]:
    """The process that writes the ledger, started at the first call."""
    return subprocess.Popen(  # noqa: S603 (a command of our own)
        COMMAND, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@cache
def written() -> dict[str, list[str] | str]:
    """The ledger: that of the last build, or what the process has written once it is done."""
    if (page := stored()) is not None:
        return page
    text, complaint = writer().communicate()
    if writer().returncode:
        raise ExtensionError(f"tools/ledger_page.py failed:\n{complaint}")
    page = {**json.loads(text), "fingerprint": fingerprint()}
    STORE.parent.mkdir(exist_ok=True)
    unfinished = STORE.with_suffix(".part")
    unfinished.write_text(json.dumps(page), encoding="utf-8")
    unfinished.replace(STORE)
    return page


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
    if stored() is None:
        writer()  # at once: the other extensions and the first pages are loaded meanwhile
        app.connect("build-finished", lambda *_: writer().kill())  # in case the page was not read again
    app.add_directive("ledger", Ledger)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
