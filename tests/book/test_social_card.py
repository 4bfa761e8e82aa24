"""What a link to a page shows in a message."""

from pathlib import Path

import pytest
from book_numbers import ROOT
from bs4 import BeautifulSoup
from PIL import Image
from set_repository import address
from social_card import ABOUT, SIZE, description, tags

SITE = "https://me.github.io/book/"


def test_a_published_page_shows_the_card_by_its_full_address() -> None:
    found = tags("chapters/04-posterior", "One step back", SITE)
    assert found["og:url"] == "https://me.github.io/book/chapters/04-posterior.html"
    assert found["og:image"] == "https://me.github.io/book/_static/card.png"
    assert found["og:description"].endswith("What is one step back?")


def test_a_page_that_is_published_nowhere_names_no_address() -> None:
    found = tags("chapters/notation", "Notation", "")
    assert not any("http" in text for text in found.values())
    assert found["og:description"] == ABOUT


def test_the_card_has_the_size_it_says_and_is_light() -> None:
    card = ROOT / "_assets" / "card.png"
    assert Image.open(card).size == SIZE
    assert card.stat().st_size < 100_000


def test_every_page_has_a_title_and_a_description(pages: dict[Path, BeautifulSoup]) -> None:
    for path, page in pages.items():
        if path.name == "index.html":  # sends on to the front page
            continue
        shown = {tag["property"]: tag["content"] for tag in page.select('meta[property^="og:"]')}
        assert shown["og:title"].strip(), path
        assert "<" not in shown["og:title"] + shown["og:description"]
        assert ("og:image" in shown) == bool(address())
        (described,) = page.select('meta[name="description"]')
        assert described["content"].strip(), path


@pytest.mark.parametrize("page", ["01-snow", "11-editing"])
def test_a_chapter_is_described_by_its_question(page: str, chapters: dict[str, BeautifulSoup]) -> None:
    (tag,) = chapters[page].select('meta[property="og:description"]')
    assert tag["content"] == description(page)
    assert description(page).endswith("?")
