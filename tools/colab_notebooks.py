"""Write the chapters for Colab, which shows MyST's directives and roles raw, to _build/colab/chapters.

    python tools/colab_notebooks.py [FOLDER]

Roles and directives become plain Markdown, labels become numbers, links to other chapters lead to
the published book, solutions are folded, and before each stands an empty answer with its check. The
publishing workflow pushes the result to the branch `colab`, where each page's Colab button points.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from book_numbers import (
    EXERCISE,
    HEADING,
    ROOT,
    Numbering,
    page_cells,
    page_files,
    prose_lines,
    read_targets,
)
from nbformat.v4 import new_code_cell, new_markdown_cell
from notebook_form import normalise, read, serialise
from plain_markdown import Resolver, UnknownSyntaxError, read_bibliography
from set_repository import address, pages_address

from ddpm.book.exercises import EXERCISES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbformat import NotebookNode

SOLUTION = "#### Solution"
BEFORE_SOLUTION = re.compile(rf"\n+(?={SOLUTION})")  # a section folds from the start of a cell


def published_url(root: Path) -> str:
    """Address of the published book; empty if it is published nowhere."""
    return pages_address(address(root))


def page_title(path: Path) -> str:
    """The first heading of a page."""
    sources = [cell.source for cell in page_cells(path) if cell.cell_type == "markdown"]
    lines = (line for source in sources for line in prose_lines(source))
    return next(match.group(2) for line in lines if (match := HEADING.match(line)))


def captions(cell: NotebookNode, resolver: Resolver) -> Iterator[NotebookNode]:
    """A Markdown cell with the number and caption of the figure that a code cell draws, if it draws one."""
    figure = cell.metadata.get("mystnb", {}).get("figure", {})
    if figure.get("caption"):
        name = resolver.targets[figure["name"]].name if "name" in figure else "Figure"
        yield new_markdown_cell(f"**{name}.** {resolver.resolve_inline(figure['caption'])}")


def empty_answers(source: str) -> Iterator[NotebookNode]:
    """A code cell to fill in for each exercise of a Markdown cell that has a check, with the check below."""
    for match in EXERCISE.finditer(source):
        exercise = EXERCISES.get(match.group(1).removeprefix("ex-"))
        if exercise:
            yield new_code_cell(exercise.stub)


def plain_cells(notebook: NotebookNode, resolver: Resolver) -> Iterator[NotebookNode]:
    """The cells of a chapter in plain Markdown, captions and answers as cells of their own, empty cells left out."""
    numbering = Numbering(resolver.page)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text, *solutions = BEFORE_SOLUTION.split(resolver.resolve(cell.source, numbering))
            yield from (new_markdown_cell(part) for part in [text] if part.strip())
            # A solution stands at the end of a cell, behind the one exercise that the cell may hold.
            yield from empty_answers(cell.source)
            yield from (new_markdown_cell(part) for part in solutions)
        else:
            yield cell
            yield from captions(cell, resolver)


def fold_solutions(notebook: NotebookNode) -> None:
    """Tell Colab to show the sections that are solutions folded, in place."""
    for cell in notebook.cells:
        cell.metadata["id"] = cell.id
    folded = [cell.id for cell in notebook.cells if cell.source.startswith(SOLUTION)]
    notebook.metadata["colab"] = {"collapsed_sections": folded, "provenance": [], "toc_visible": True}


def colab_notebook(path: Path, resolver: Resolver) -> NotebookNode:
    """One chapter for Colab."""
    notebook = read(path)
    notebook.cells = list(plain_cells(notebook, resolver))
    page = f" [Read it as a page]({resolver.url}chapters/{resolver.page}.html)." if resolver.url else ""
    notebook.cells.insert(0, new_markdown_cell(f"*A chapter of Out of the Snow.{page}*"))
    notebook = normalise(notebook)
    fold_solutions(notebook)
    return notebook


def colab_notebooks(root: Path) -> dict[str, NotebookNode]:
    """All chapters for Colab, by file name."""
    paths = page_files(root)
    targets, titles = read_targets(paths), {path.stem: page_title(path) for path in paths}
    bibliography, url = read_bibliography(root / "references.bib"), published_url(root)
    return {
        path.name: colab_notebook(path, Resolver(path.stem, targets, titles, bibliography, url))
        for path in paths
        if path.suffix == ".ipynb"
    }


def main(folder: Path) -> None:
    """Write them all."""
    try:
        notebooks = colab_notebooks(ROOT)
    except UnknownSyntaxError as error:
        sys.exit(f"{error}")
    folder.mkdir(parents=True, exist_ok=True)
    for name, notebook in notebooks.items():
        (folder / name).write_text(serialise(notebook), encoding="utf-8")
        print(folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "_build" / "colab" / "chapters")
