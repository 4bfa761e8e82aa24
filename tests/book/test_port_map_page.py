"""The page for those who come from the MindSpore port shows every row of the table, in its section."""

import pytest
from bs4 import BeautifulSoup, Tag
from port_map import NOTHING, UNCHANGED, shown
from port_table import SECTIONS, Section

STRAIGHT = str.maketrans("“”‘’", "\"\"''")


def text_of(tag: Tag) -> str:
    """What a reader sees, with straight quotation marks."""
    return " ".join(tag.get_text().translate(STRAIGHT).split())


@pytest.fixture(scope="module")
def lists(chapters: dict[str, BeautifulSoup]) -> list[Tag]:
    """The definition lists of the page, in order."""
    return chapters["from-mindspore"].select("article dl")


def test_every_section_has_its_list(lists: list[Tag]) -> None:
    assert len(lists) == len(SECTIONS)


@pytest.mark.parametrize(
    ("number", "section"), list(enumerate(SECTIONS)), ids=[section.key for section in SECTIONS]
)
def test_every_row_is_there(number: int, section: Section, lists: list[Tag]) -> None:
    heads, bodies = lists[number].find_all("dt"), lists[number].find_all("dd")
    assert len(heads) == len(bodies) == len(section.rows)
    for row, head, body in zip(section.rows, heads, bodies, strict=True):
        theirs, ours = shown(row.theirs, section.theirs), shown(row.ours, section.ours)
        here = UNCHANGED if theirs == ours else ", ".join(ours) or NOTHING.strip("*")
        assert text_of(head) == f"{', '.join(theirs)} → {here}"
        assert [code.get_text() for code in head.find_all("code")] == theirs + (
            ours if theirs != ours else []
        )
        assert text_of(body) == row.change.replace("`", "")
