"""The map of the front page and the plan for teachers say nothing that the chapters do not have."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from book_numbers import HEADING, ROOT, page_cells, page_files, prose_lines, read_targets
from bs4 import BeautifulSoup
from chapter_map_data import Row, draw_small, figure_of, read_rows
from PIL import Image

PAGES = [path.stem for path in page_files()]
CHAPTERS = [path.stem for path in page_files() if path.suffix == ".ipynb"]
ROWS = {row.page: row for row in read_rows(PAGES)}
TARGETS = read_targets(page_files())
TEACHING = (ROOT / "chapters" / "teaching.md").read_text(encoding="utf-8")
REFERENCE = re.compile(r"\{(?:eq|numref|ref)\}`(?:[^`<]*<)?([^`>]+)>?`")


def prose(page: str) -> str:
    """The Markdown of a chapter."""
    cells = page_cells(ROOT / "chapters" / f"{page}.ipynb")
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def test_every_chapter_has_its_row_in_order() -> None:
    assert list(ROWS) == CHAPTERS


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_a_chapter_needs_only_what_it_refers_to_and_what_comes_before(row: Row) -> None:
    used = {TARGETS[label].page for label in REFERENCE.findall(prose(row.page)) if label in TARGETS}
    assert set(row.needs) <= used
    earlier = {*CHAPTERS[: CHAPTERS.index(row.page)], "A-gaussians"}
    assert set(row.needs) <= earlier


def test_rows_and_needs_without_a_page_are_left_out() -> None:
    (row,) = read_rows(["04-posterior"])
    assert (row.page, row.needs, row.number) == ("04-posterior", (), "4")


def test_a_figure_that_no_chapter_shows_is_an_error(tmp_path: Path) -> None:
    notebook = ROOT / "chapters" / "04-posterior.ipynb"
    with pytest.raises(ValueError, match="shows no figure called 'fig-nowhere'"):
        figure_of(notebook, "fig-nowhere")
    light, dark, alt = draw_small(ROWS["04-posterior"], tmp_path)
    assert max(Image.open(light).size) == max(Image.open(dark).size) == 400
    assert len(alt) > 20


def test_the_front_page_shows_each_chapter_once(chapters: dict[str, BeautifulSoup]) -> None:
    items = chapters["intro"].select("ul.chapter-map > li")
    assert [item.select_one("a")["href"] for item in items] == [f"{page}.html" for page in CHAPTERS]
    assert all(item.select_one("img") and item.get_text().rstrip().endswith("?") for item in items)
    table = chapters["intro"].select("table tbody tr")
    assert [row.select_one("a")["href"] for row in table] == [f"{page}.html" for page in CHAPTERS]


def lectures() -> list[str]:
    """The plan, a lecture at a time."""
    starts = [match.start() for match in re.finditer(r"^## ", TEACHING, re.MULTILINE)]
    return [TEACHING[a:b] for a, b in pairwise([*starts, len(TEACHING)])]


def test_there_are_ten_lectures_and_projects() -> None:
    assert [re.match(r"## (\d*)", lecture).group(1) for lecture in lectures()] == [
        *map(str, range(1, 11)),
        "",
    ]


@pytest.mark.parametrize("lecture", lectures()[:10], ids=range(1, 11))
def test_a_lecture_names_sections_and_exercises_of_its_own_chapters(lecture: str) -> None:
    labels = REFERENCE.findall(lecture)
    own = {TARGETS[label].page for label in labels if label.startswith("ch-")}
    elsewhere = {label for label in labels if TARGETS[label].page not in own}
    assert not elsewhere
    lines = [line for page in own for line in prose_lines(prose(page))]
    headings = {match.group(2).rstrip("?") for line in lines if (match := HEADING.match(line))}
    named = {name.rstrip("?") for name in re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", lecture)}
    assert named or any(label.startswith("sec-") for label in labels)
    assert named <= headings
