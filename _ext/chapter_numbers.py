"""Take the number of a chapter from its file name: ``chapters/04-posterior`` is chapter 4, ``A-gaussians`` appendix A.

Sphinx counts chapters in the order of the table of contents, so a chapter that is not written
yet would shift every later number: equation (4.1) would be (3.1) until chapter 3 exists. Numbers in
a book must not move. After Sphinx has numbered sections, figures, equations and exercises, the
first component of each number is replaced by the chapter's own.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.util import logging

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

logger = logging.getLogger(__name__)

PREFIX = re.compile(r"(?:^|/)0*([1-9]\d*[a-z]?|[A-Z])-[^/]*$")


def chapter_number(docname: str) -> str | None:
    """The chapter's number, "4" for ``chapters/04-posterior``, an appendix's letter; None for a name without one."""
    match = PREFIX.search(docname)
    return match.group(1) if match else None


def numbered_chapters(docnames: list[str]) -> dict[str, str]:
    """Map each numbered page to its chapter number; warn where there is none, or where two agree."""
    chapters: dict[str, str] = {}
    for docname in docnames:
        number = chapter_number(docname)
        if number is None:
            logger.warning(
                "a page of a numbered part needs a file name like 04-title or A-title", location=docname
            )
        elif number in chapters.values():
            logger.warning("chapter number %s is taken by another file", number, location=docname)
        else:
            chapters[docname] = number
    return chapters


def renumber(env: BuildEnvironment, docname: str, chapter: str) -> None:
    """Replace the first component of every number that belongs to one page."""

    # Sphinx declares whole numbers, and only ever prints them.
    def fixed(number: tuple[int, ...] | list[int]) -> tuple[Any, ...]:
        return (chapter, *tuple(number)[1:])

    sections = env.toc_secnumbers[docname]
    env.toc_secnumbers[docname] = {anchor: fixed(number) for anchor, number in sections.items() if number}
    for figures in env.toc_fignumbers.get(docname, {}).values():
        figures.update({name: fixed(number) for name, number in figures.items()})
    titled = [env.titles[docname], *env.tocs[docname].findall(nodes.reference)]
    for node in titled:
        if node.get("secnumber"):
            node["secnumber"] = fixed(node["secnumber"])


def apply_chapter_numbers(_app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Renumber all chapters, after Sphinx has assigned its own numbers; no page has to be read again."""
    for docname, chapter in numbered_chapters(list(env.toc_secnumbers)).items():
        renumber(env, docname, chapter)
    return []


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx. The priority is above 500, that of the collector which assigns the numbers."""
    app.connect("env-get-updated", apply_chapter_numbers, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
