"""The page for those who come from the MindSpore port shows every row of the table, in its section."""

import pytest
from bs4 import BeautifulSoup, Tag
from port_map import NOTHING, UNCHANGED, shown
from port_table import SECTIONS

STRAIGHT = str.maketrans("“”‘’", "\"\"''")


def text_of(tag: Tag) -> str:
    """What a reader sees, with straight quotation marks."""
    return " ".join(tag.get_text().translate(STRAIGHT).split())


@pytest.fixture(scope="module")
def lists(chapters: dict[str, BeautifulSoup]) -> list[Tag]:
    """The definition lists of the page, in order."""
    return chapters["from-mindspore"].select("article dl")


def test_every_section_has_its_list_with_every_row(lists: list[Tag]) -> None:
    for section, shown_list in zip(SECTIONS, lists, strict=True):
        heads, bodies = shown_list.find_all("dt"), shown_list.find_all("dd")
        for row, head, body in zip(section.rows, heads, bodies, strict=True):
            theirs, ours = shown(row.theirs, section.theirs), shown(row.ours, section.ours)
            here = UNCHANGED if theirs == ours else ", ".join(ours) or NOTHING.strip("*")
            assert text_of(head) == f"{', '.join(theirs)} → {here}"
            codes = theirs + (ours if theirs != ours else [])
            assert [code.get_text() for code in head.find_all("code")] == codes
            assert text_of(body) == row.change.replace("`", "")
