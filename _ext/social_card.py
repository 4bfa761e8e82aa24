"""What a message shows that links to a page: its title, its question, and the card of tools/draw_card.py."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

TOOLS = Path(__file__).resolve().parents[1] / "tools"
BOOK = "Out of the Snow"
ABOUT = "Diffusion models, derived line by line, every equation executed and tested, with a small PyTorch package."
SIZE = (1200, 630)


def description(page: str) -> str:
    """The question of a chapter, from the map of the front page; of another page, what the book is."""
    sys.path[:0] = [] if str(TOOLS) in sys.path else [str(TOOLS)]
    from chapter_map_data import read_rows

    questions = {row.page: row.question for row in read_rows([page])}
    return questions.get(page, ABOUT)


def tags(page: str, title: str, baseurl: str) -> dict[str, str]:
    """The properties of the Open Graph protocol; address and picture only where the book is published."""
    found = {
        "og:type": "article",
        "og:site_name": BOOK,
        "og:title": title,
        "og:description": description(page.rsplit("/", 1)[-1]),
    }
    if baseurl:
        found |= {
            "og:url": f"{baseurl}{page}.html",
            "og:image": f"{baseurl}_static/card.png",
            "og:image:width": str(SIZE[0]),
            "og:image:height": str(SIZE[1]),
            "og:image:alt": f"{BOOK}: digits forming out of noise, from left to right",
        }
    return found


def add_tags(app: Sphinx, page: str, _template: str, context: dict[str, Any], _doctree: object) -> None:
    """Write them into the head of one page."""
    title = html.unescape(re.sub(r"<[^>]*>", "", context.get("title", ""))) or BOOK
    found = tags(page, title, app.config.html_baseurl)
    lines = [f'<meta property="{name}" content="{html.escape(text)}" />' for name, text in found.items()]
    card = "summary_large_image" if "og:image" in found else "summary"
    lines.append(f'<meta name="twitter:card" content="{card}" />')
    if 'name="description"' not in context.get("metatags", ""):
        lines.append(f'<meta name="description" content="{html.escape(found["og:description"])}" />')
    context["metatags"] = "\n".join([context.get("metatags", ""), *lines])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("html-page-context", add_tags)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
