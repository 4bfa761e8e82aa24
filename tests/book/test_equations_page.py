"""The page of the equation ledger: it is there, it lists every equation once, and every entry leads to its equation."""

import re
from urllib.parse import unquote

import pytest
from book_numbers import page_files, read_targets
from bs4 import BeautifulSoup, Tag

PARTS = (
    r"In code: \S",
    r"Checked (by|exactly)[^:]*: \S",
    r"Test: test_\w+ in tests/equations/\w+\.py",
    r"(1 mutant, caught|\d+ mutants, all caught): \S",
)


EQUATIONS = {name: it for name, it in read_targets(page_files()).items() if it.kind == "equation"}


@pytest.fixture(scope="module")
def cards(chapters: dict[str, BeautifulSoup]) -> dict[str, Tag]:
    """The entries of the page by the label in their title."""
    found = chapters["equations"].select("article .sd-card")
    titles = [(card.select_one(".sd-card-title code"), card) for card in found]
    by_label = {code.get_text(): card for code, card in titles if code is not None}
    assert len(by_label) == len(found)
    return by_label


def test_every_equation_has_one_entry_that_leads_to_it_and_says_what_it_must(
    cards: dict[str, Tag], chapters: dict[str, BeautifulSoup]
) -> None:
    assert cards.keys() == EQUATIONS.keys()
    for label, card in cards.items():
        link, target = card.select_one(".sd-card-title a[href]"), EQUATIONS[label]
        assert link is not None, label
        page, _, anchor = unquote(str(link["href"])).partition("#")
        assert (page, anchor, link.get_text()) == (f"{target.page}.html", target.anchor, target.name)
        place = chapters[target.page].find(id=anchor)
        assert isinstance(place, Tag), label
        assert place.select_one(".eqno") is not None, label
        assert card.select_one("div.math"), label
        # The number belongs to the chapter's equation.
        assert card.select_one("div.math .eqno") is None, label
        for pattern in PARTS:
            assert re.search(pattern, card.get_text()), (label, pattern)


def test_the_totals_are_right(cards: dict[str, Tag], chapters: dict[str, BeautifulSoup]) -> None:
    text = " ".join(chapters["equations"].select_one("article").get_text().split())
    counted = re.search(r"In all: (\d+) equations, .*?; (\d+) mutants", text)
    assert counted
    each = [re.findall(r"(\d+) mutants?, (?:all )?caught", card.get_text()) for card in cards.values()]
    assert tuple(map(int, counted.groups())) == (len(cards), sum(int(n) for counts in each for n in counts))
