"""The normal form of a notebook and the rules of a chapter: each rule is broken once, and must be noticed."""

from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from notebook_form import (
    CELL_LIMIT,
    LINE_LIMIT,
    SETUP_CELL,
    SIZE_LIMIT,
    WORD_LIMIT,
    check,
    normalise,
    read,
    serialise,
)

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="


def chapter() -> NotebookNode:
    """A small chapter that breaks no rule: set-up cell, a printed line, a figure with alt text, an empty cell."""
    figure = new_output("display_data", {"image/png": PIXEL, "text/plain": "<Figure size 1x1>"})
    metadata = {"mystnb": {"figure": {"caption": "A dot.", "name": "fig-dot"}, "image": {"alt": "A dot."}}}
    return new_notebook(
        cells=[
            new_markdown_cell("# Title"),
            new_code_cell(SETUP_CELL, metadata={"tags": ["remove-cell"]}, execution_count=1),
            new_code_cell("print(1)", outputs=[new_output("stream", text="1\n")], execution_count=2),
            new_code_cell("plot()", metadata=metadata, outputs=[figure], execution_count=3),
            new_code_cell("", execution_count=None),
        ]
    )


def stored(folder: Path, notebook: NotebookNode) -> Path:
    """The notebook's file, in normal form."""
    path = folder / "01-title.ipynb"
    path.write_text(serialise(normalise(notebook)), encoding="utf-8")
    return path


def test_normal_form_is_reached_at_once_survives_the_file_and_passes(tmp_path: Path) -> None:
    assert check(stored(tmp_path, chapter())) == []
    once = normalise(chapter())
    assert serialise(normalise(once)) == serialise(once)
    assert serialise(read(stored(tmp_path, chapter()))) == serialise(once)
    nbformat.validate(once)


def test_an_inserted_cell_leaves_the_other_ids_alone_and_equal_cells_get_ids_of_their_own() -> None:
    before = normalise(chapter())
    longer = chapter()
    longer.cells.insert(1, new_markdown_cell("New."))
    longer.cells.append(new_markdown_cell("New."))
    after = normalise(longer)
    assert {cell.id for cell in before.cells} < {cell.id for cell in after.cells}
    assert len({cell.id for cell in after.cells}) == len(after.cells)


def test_another_form_is_reported_and_mended(tmp_path: Path) -> None:
    """What depends on the run is forgotten, and an old set-up cell replaced."""
    noisy = chapter()
    noisy.cells[1].source = SETUP_CELL.replace("--no-deps", "")
    noisy.metadata.update({"language_info": {"version": "3.99"}, "widgets": {"x": 1}, "colab": {}})
    noisy.cells[2].metadata["execution"] = {"iopub.execute_input": "2026-01-01T00:00:00Z"}
    noisy.cells[2].outputs = [new_output("stream", text=part) for part in ("1", "\n")]
    noisy.cells[3].outputs[0].metadata["needs_background"] = "light"
    for cell in noisy.cells:
        cell.id = f"another-{cell.id}"
    assert serialise(normalise(noisy)) == serialise(normalise(chapter()))
    path = tmp_path / "01-title.ipynb"
    nbformat.write(chapter(), path)
    assert any("is not in normal form" in problem for problem in check(path))


def test_widget_state_is_kept_where_a_widget_is_shown_and_only_there() -> None:
    notebook = chapter()
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    assert "widgets" not in normalise(notebook).metadata
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}
    notebook.cells[2].outputs.append(new_output("display_data", view))
    assert "widgets" in normalise(notebook).metadata


@pytest.mark.parametrize("over", [0, 1])
def test_a_chapter_has_room_for_so_many_words_and_cells_and_no_more(over: int, tmp_path: Path) -> None:
    long, many = chapter(), chapter()
    # "# Title" is two words.
    long.cells.append(new_markdown_cell(" ".join(["word"] * (WORD_LIMIT - 2 + over))))
    many.cells += [new_markdown_cell("More.") for _ in range(CELL_LIMIT - len(many.cells) + over)]
    words, cells = (check(stored(tmp_path, notebook)) for notebook in (long, many))
    assert len(words) == len(cells) == over
    assert over == 0 or ("has 5,001 words of prose" in words[0] and "has 91 cells" in cells[0])


def printed(text: str, name: str = "stdout") -> dict:
    return {"outputs": [new_output("stream", name=name, text=text)]}


FAILED = {"outputs": [new_output("error", ename="ValueError", evalue="no", traceback=[])]}
IGNORED = {"metadata": {"tags": ["nbval-ignore-output"], "mystnb": {"image": {"alt": "A dot."}}}}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({2: {"execution_count": None}}, "is not executed from top to bottom"),
        ({2: {"execution_count": 3}, 3: {"execution_count": 2}}, "is not executed from top to bottom"),
        ({1: {"source": "import sys"}}, "does not begin with the set-up cell"),
        ({1: {"metadata": {"tags": []}}}, "does not begin with the set-up cell"),
        ({2: {"source": "\n".join(["pass"] * (LINE_LIMIT + 1))}}, f"cell 3 has {LINE_LIMIT + 1} lines"),
        ({3: {"metadata": {"mystnb": {"image": {"alt": " "}}}}}, "cell 4 shows a figure without alt text"),
        ({3: {"outputs": []}}, "cell 4 has a figure's caption and shows no figure"),
        ({2: FAILED}, "cell 3 ends in ValueError: no"),
        ({2: printed("UserWarning", "stderr")}, "cell 3 writes to stderr: 'UserWarning'"),
        ({2: printed("to /home/me/x\n")}, "cell 3 shows a path of one machine: /home/me/x"),
        ({2: IGNORED, 3: IGNORED}, "lets 2 of 3 code cells escape"),
        ({2: printed("1" * SIZE_LIMIT)}, "MB, the limit is"),
        ({2: FAILED | {"metadata": {"tags": ["raises-exception"]}}}, None),
        ({2: printed("https://example.org/a/b a/b/c 1/2 x)/(y/z ../data/x and/or")}, None),
    ],
)
def test_a_broken_rule_is_reported_and_nothing_else(
    changes: dict[int, dict], complaint: str | None, tmp_path: Path
) -> None:
    notebook = chapter()
    for cell, change in changes.items():
        notebook.cells[cell].update(nbformat.from_dict(change))
    problems = check(stored(tmp_path, notebook))
    assert len(problems) == (complaint is not None)
    assert all(complaint in problem for problem in problems)
