"""The one form in which chapters are stored, and the rules that they keep.

A notebook in normal form changes in git only where its content does: cell ids are derived from the
cell's source, there are no execution times, no editor's metadata and no interpreter version, and
widget state is kept only where a widget is shown.
"""

from __future__ import annotations

import copy
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
from set_repository import address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nbformat import NotebookNode

SIZE_LIMIT = 3_000_000  # bytes
WORD_LIMIT = 5000  # of Markdown, formulas included, by the spaces between them
CELL_LIMIT = 90
LINE_LIMIT = 20  # lines of code in a cell
IGNORED_SHARE_LIMIT = 1 / 3  # of the code cells may escape the comparison of outputs
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python", "pygments_lexer": "ipython3"}
CELL_METADATA = {"tags", "mystnb"}
PICTURES = {"image/png", "image/jpeg", "image/svg+xml"}
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
# An absolute path of two or more parts, not inside an address or a fraction.
MACHINE_PATH = re.compile(r"(?<![\w:/.)\]}])/(?:[\w.+-]+/)+[\w.+-]*|\b[A-Z]:\\[\w.\\-]+")


def setup_cell(repository: str) -> str:
    """The set-up cell of a book that is published at this address, or nowhere."""
    text = (Path(__file__).parent / "setup_cell.txt").read_text(encoding="utf-8").strip()
    return text.replace('"{repository}"', f'"{repository}"')


SETUP_CELL = setup_cell(address())


def read(path: Path) -> NotebookNode:
    """Read a notebook's file in the current format."""
    return nbformat.read(path, as_version=4)


def serialise(notebook: NotebookNode) -> str:
    """The text of a notebook's file: sorted keys, one space of indent, a newline at the end."""
    return nbformat.writes(notebook) + "\n"


def code_cells(notebook: NotebookNode) -> list[tuple[int, NotebookNode]]:
    """The code cells that hold code, each with its position among all cells, counted from 1."""
    cells = enumerate(notebook.cells, start=1)
    return [(n, cell) for n, cell in cells if cell.cell_type == "code" and cell.source.strip()]


def tags(cell: NotebookNode) -> list[str]:
    """The tags in a cell's metadata."""
    return cell.metadata.get("tags", [])


def is_setup(cell: NotebookNode) -> bool:
    """Whether the cell is a chapter's set-up cell, perhaps an old one."""
    return "remove-cell" in tags(cell) and "google.colab" in cell.source


# ---- normal form


def cell_ids(cells: list[NotebookNode]) -> Iterator[str]:
    """An id for each cell from its type and source: inserting a cell leaves the other ids alone."""
    seen: dict[str, int] = {}
    for cell in cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:10]
        seen[digest] = seen.get(digest, 0) + 1
        yield digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"


def merged_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring pieces of the same stream: where a kernel flushes is an accident of timing."""
    merged: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and merged and merged[-1].get("name") == output.name:
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


def normalise_cell(cell: NotebookNode, setup: str) -> None:
    """Bring one cell into normal form, in place; its id apart."""
    if is_setup(cell):
        cell.source = setup  # so that a release changes it in one place
    cell.source = "\n".join(line.rstrip() for line in cell.source.strip("\n").split("\n"))
    kept = {key: value for key, value in cell.metadata.items() if key in CELL_METADATA and value}
    cell.metadata = nbformat.from_dict(kept)
    if cell.cell_type != "code":
        return
    cell.outputs = merged_streams(cell.outputs)
    for output in cell.outputs:
        if "metadata" in output:
            output.metadata = nbformat.from_dict({})
        if "image/png" in output.get("data", {}):
            output.data["image/png"] = output.data["image/png"].strip() + "\n"


def shows_widget(notebook: NotebookNode) -> bool:
    """Whether an output of the notebook is an ipywidgets view."""
    outputs = [output for _, cell in code_cells(notebook) for output in cell.outputs]
    return any(WIDGET_VIEW in output.get("data", {}) for output in outputs)


def normalise(notebook: NotebookNode, setup: str = SETUP_CELL) -> NotebookNode:
    """The notebook in normal form with this set-up cell, as a new object. Normalising twice changes nothing more."""
    notebook = copy.deepcopy(notebook)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        normalise_cell(cell, setup)
    for cell, name in zip(notebook.cells, cell_ids(notebook.cells), strict=True):
        cell.id = name
    widgets = {"widgets": notebook.metadata.get("widgets")} if shows_widget(notebook) else {}
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNELSPEC, "language_info": LANGUAGE, **widgets})
    return notebook


# ---- the rules


def has_alt_text(cell: NotebookNode) -> bool:
    """Whether the cell's metadata holds alt text for its figure."""
    return bool(cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "").strip())


def output_problems(output: NotebookNode) -> Iterator[str]:
    """What one output shows that a reader should not see."""
    if output.output_type == "stream" and output.name == "stderr":
        yield f"writes to stderr: {output.text.strip()[:80]!r}"
    shown = [
        output.get("text", ""),
        output.get("data", {}).get("text/plain", ""),
        *output.get("traceback", []),
    ]
    for path in sorted(set(MACHINE_PATH.findall("\n".join(shown)))):
        yield f"shows a path of one machine: {path}"


def cell_problems(cell: NotebookNode) -> Iterator[str]:
    """What breaks a rule in one code cell."""
    lines = len(cell.source.splitlines())
    if lines > LINE_LIMIT:
        yield f"has {lines} lines, the limit is {LINE_LIMIT}"
    errors = [output for output in cell.outputs if output.output_type == "error"]
    if errors and "raises-exception" not in tags(cell):
        yield f"ends in {errors[0].ename}: {errors[0].evalue}"
    drawn = any(PICTURES & set(output.get("data", {})) for output in cell.outputs)
    if drawn and not has_alt_text(cell):
        yield "shows a figure without alt text: set mystnb.image.alt in the cell's metadata"
    if not drawn and "figure" in cell.metadata.get("mystnb", {}):
        yield "has a figure's caption and shows no figure: was it executed with another backend of matplotlib?"
    for output in cell.outputs:
        yield from output_problems(output)


def notebook_problems(notebook: NotebookNode) -> Iterator[str]:
    """What breaks a rule in one notebook; its form and size apart."""
    cells = code_cells(notebook)
    counts = [cell.execution_count for _, cell in cells]
    if counts != list(range(1, len(cells) + 1)):
        yield f"is not executed from top to bottom in a fresh kernel (execution counts {counts})"
    if not cells or not is_setup(cells[0][1]):
        yield "does not begin with the set-up cell of tools/setup_cell.txt, tagged remove-cell"
    ignored = sum("nbval-ignore-output" in tags(cell) for _, cell in cells)
    if ignored > IGNORED_SHARE_LIMIT * len(cells):
        yield f"lets {ignored} of {len(cells)} code cells escape the comparison of outputs"
    words = sum(len(cell.source.split()) for cell in notebook.cells if cell.cell_type == "markdown")
    if words > WORD_LIMIT:
        yield f"has {words:,} words of prose, the limit is {WORD_LIMIT:,}"
    if len(notebook.cells) > CELL_LIMIT:
        yield f"has {len(notebook.cells)} cells, the limit is {CELL_LIMIT}"
    for n, cell in cells:
        yield from (f"cell {n} {problem}" for problem in cell_problems(cell))


def check(path: Path) -> list[str]:
    """All that breaks a rule in one notebook's file; empty where nothing does."""
    text, notebook = path.read_text(encoding="utf-8"), read(path)
    problems = list(notebook_problems(notebook))
    if text != serialise(normalise(notebook)):
        problems.append(
            "is not in normal form: run `make notebooks`, or `make normalise` to keep the outputs"
        )
    if len(text.encode()) > SIZE_LIMIT:
        problems.append(f"has {len(text.encode()) / 1e6:.1f} MB, the limit is {SIZE_LIMIT / 1e6:.0f} MB")
    return problems
