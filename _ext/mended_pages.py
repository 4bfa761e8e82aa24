"""Mend in the finished pages what the theme and the extensions leave wrong for a screen reader or a slow line.

Each mend is a pattern and what takes its place; test_accessibility.py and test_weight.py in tests/browser/ watch the
results.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from sphinx.application import Sphinx

MENDS: tuple[tuple[re.Pattern[str], str], ...] = (
    # The icons come from the style sheet's fonts; this script would draw them once more, and weighs 1.5 MB.
    (re.compile(r'\s*<script defer src="[^"]*/fontawesome\.js[^"]*"></script>'), ""),
    # A button is called what is written on it, so that it can be asked for by voice.
    (re.compile(r'(<button class="btn search-button-field[^>]*?) aria-label="Search"'), r"\1"),
    # A list may hold entries alone, and a role for entries has to stand in one.
    (re.compile(r'<div role="list" class="citation-list">'), '<div class="citation-list">'),
    (re.compile(r'(<div class="citation" id="[^"]*") role="doc-biblioentry"'), r"\1"),
    # The empty corner of a table heads nothing.
    (re.compile(r'<th( class="[^"]*")?>\s*(?:<p>\s*</p>)?\s*</th>'), r"<td\1></td>"),
)


def mended(page: str) -> str:
    """The HTML of a page with all mends done; a mended page stays as it is."""
    for pattern, replacement in MENDS:
        page = pattern.sub(replacement, page)
    return page


def lost_page(page: str, baseurl: str) -> str:
    """The page for an address that does not exist, whose links lead from the book's root, wherever it is shown."""
    root = urlsplit(baseurl).path or "/"
    # Links to a place on the page itself would lead to the root as well.
    page = re.sub(r'href="#', 'href="404.html#', page)
    return page.replace("<head>", f'<head><base href="{root}">', 1) if "<base" not in page else page


def mend_pages(app: Sphinx, exception: Exception | None) -> None:
    """Rewrite the pages that the build has written."""
    if exception or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        if "_static" not in path.parts:
            page = path.read_text(encoding="utf-8")
            better = mended(page)
            if path.name == "404.html":
                better = lost_page(better, app.config.html_baseurl)
            if better != page:
                path.write_text(better, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("build-finished", mend_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
