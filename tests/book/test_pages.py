"""The built pages: they ask nothing of the network, name what they show, and carry the right numbers."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from book_numbers import page_files, read_targets
from bs4 import BeautifulSoup, Tag
from set_repository import address

# What a browser fetches by itself when it shows a page; links that a reader may follow are not among it.
LINKS = "stylesheet icon preload modulepreload prefetch preconnect dns-prefetch manifest"
CSS_ADDRESS = re.compile(r"""(?:url\(\s*|@import\s+)["']?([^"')\s]+)""")


def css_addresses(css: str) -> list[str]:
    """The addresses that a style sheet fetches, comments left aside."""
    return CSS_ADDRESS.findall(re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL))


def fetched_addresses(page: BeautifulSoup) -> Iterator[str]:
    """What a browser fetches by itself when it shows a page; links that a reader may follow are not among it."""
    for tag in page.find_all(True):
        if tag.name == "a" or (tag.name == "link" and not set(LINKS.split()) & set(tag.get("rel") or [])):
            continue
        yield from (str(tag[name]) for name in ("src", "data", "href") if tag.get(name))
        yield from (entry.split()[0] for entry in str(tag.get("srcset", "")).split(",") if entry.strip())
        yield from css_addresses(str(tag.get("style", "")) + (tag.get_text() if tag.name == "style" else ""))


def is_foreign(address: str) -> bool:
    """Whether an address names another host; data: and paths do not."""
    parts = urlsplit(address)
    return bool(parts.netloc) or parts.scheme in {"http", "https", "ftp", "ws", "wss"}


def test_the_finder_of_addresses_finds_what_a_browser_would_fetch() -> None:
    page = BeautifulSoup(
        """<link rel="stylesheet" href="https://a/x.css"><link rel="canonical" href="https://b/">
        <script src="//c/x.js"></script><object data="//i/x"></object><img src="data:,x" srcset="https://d/1.png 2x">
        <style>@import "https://e/x.css"; p { background: url(https://f/x.png) } /* url(https://no/) */</style>
        <p style="background: url('https://g/x.png')"><a href="https://h/">a link may be followed</a></p>""",
        "html.parser",
    )
    foreign = {urlsplit(address).netloc for address in fetched_addresses(page) if is_foreign(address)}
    assert foreign == {"a", "c", "d", "e", "f", "g", "i"}


def test_all_that_is_fetched_is_there_and_not_from_another_host(
    html: Path, pages: dict[Path, BeautifulSoup]
) -> None:
    fetched = [(path, address) for path, page in pages.items() for address in fetched_addresses(page)]
    fetched = [(path, address) for path, address in fetched if urlsplit(address).scheme != "data"]
    assert fetched
    wrong = {
        (path.name, address)
        for path, address in fetched
        if is_foreign(address) or not (path.parent / unquote(urlsplit(address).path)).exists()
    }
    sheets = {path: css_addresses(path.read_text(encoding="utf-8")) for path in html.rglob("*.css")}
    wrong |= {
        (path.name, address) for path, found in sheets.items() for address in found if is_foreign(address)
    }
    assert not wrong


def test_links_inside_the_book_lead_somewhere(html: Path, pages: dict[Path, BeautifulSoup]) -> None:
    ids = {path.resolve(): {str(tag["id"]) for tag in page.find_all(id=True)} for path, page in pages.items()}
    broken = set()
    for path, page in pages.items():
        for link in page.select("article a[href], nav a[href]"):
            parts = urlsplit(str(link["href"]))
            if parts.scheme or parts.netloc:
                continue
            goal = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
            known = ids.get(goal)
            if not goal.exists() or (
                parts.fragment and known is not None and unquote(parts.fragment) not in known
            ):
                broken.add((path.relative_to(html).as_posix(), str(link["href"])))
    assert not broken


def test_every_chapter_has_one_search_box_and_alt_text_for_its_pictures(
    chapters: dict[str, BeautifulSoup],
) -> None:
    pictures = 0
    for name, page in chapters.items():
        assert len(page.select("button.search-button-field")) == 1, name
        for image in page.select("article img"):
            alt = str(image.get("alt", "")).strip()
            assert len(alt) > 3, (name, str(image)[:120])
            assert not re.search(r"_images/|\.(png|svg|jpe?g|webp)$", alt), (name, alt)
            pictures += 1
    assert pictures


def test_every_label_has_the_number_that_the_tools_give_it(chapters: dict[str, BeautifulSoup]) -> None:
    targets = [target for target in read_targets(page_files()).values() if target.number]
    assert {"equation", "section"} <= {target.kind for target in targets}
    for target in targets:
        place = chapters[target.page].find(id=target.anchor)
        assert isinstance(place, Tag), target
        section = place if place.name == "section" else place.find_parent("section")
        shown = {
            "equation": place.select_one(".eqno"),
            "figure": place.select_one(".caption-number"),
            "exercise": place.select_one(".admonition-title"),
            "section": section.select_one(".section-number") if section else None,
        }[target.kind]
        assert shown is not None, target
        number = rf"(?<![\d.]){re.escape(target.number)}(?![\d])"
        assert re.search(number, shown.get_text()), (target, shown.get_text())


@pytest.mark.parametrize("name", [path.stem for path in page_files() if path.suffix == ".ipynb"])
def test_colab_button_opens_its_notebook_or_is_not_there(
    name: str, chapters: dict[str, BeautifulSoup]
) -> None:
    repository = address()
    folder = f"https://colab.research.google.com/github{urlsplit(repository).path}/blob/colab/chapters"
    links = {str(link["href"]) for link in chapters[name].select('a[href*="colab.research.google.com"]')}
    assert links == ({f"{folder}/{name}.ipynb"} if repository else set())
