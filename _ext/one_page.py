"""Let the builder of one long page, from which `make pdf` prints the book, draw all that the builder of pages can.

An extension that registers how to draw its nodes on "singlehtml" alone makes Sphinx forget what is registered on
"html", and hidden cells then end the build.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from sphinx.application import Sphinx

PDF = "out-of-the-snow.pdf"


def fill_in(app: Sphinx) -> None:
    """Add what is registered on "html" alone."""
    handlers = app.registry.translation_handlers
    if "singlehtml" in handlers:
        handlers["singlehtml"] = {**handlers.get("html", {}), **handlers["singlehtml"]}


def write_to_the_root(app: Sphinx, exception: Exception | None) -> None:
    """Write the page as book.html in the root of the book, from where the builder's own addresses lead right."""
    if exception or app.builder.name != "singlehtml":
        return
    name = f"{app.config.root_doc}.html"
    page = (Path(app.outdir) / name).read_text(encoding="utf-8")
    page = page.replace(f'href="{name}#', 'href="#')
    (Path(app.outdir) / "book.html").write_text(page, encoding="utf-8")


class PdfLink(SphinxDirective):
    """A sentence that leads to the PDF, where the build was told that there will be one."""

    def run(self) -> list[nodes.Node]:
        """One paragraph, or nothing."""
        if not os.environ.get("BOOK_AS_PDF"):
            return []
        found = nodes.paragraph()
        found += nodes.raw(
            "", f'<a href="../_static/{PDF}">All chapters as one PDF</a>, to print.', format="html"
        )
        return [found]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("pdf-link", PdfLink)
    app.connect("builder-inited", fill_in)
    app.connect("build-finished", write_to_the_root, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
