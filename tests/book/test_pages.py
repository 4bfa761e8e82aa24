"""The built pages: they ask nothing of the network, name what they show, and carry the right numbers."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from book_numbers import ROOT, number_of_chapter, page_files, read_targets
from bs4 import BeautifulSoup, Tag

# What a browser fetches by itself when it shows a page; links that a reader may follow are not among it.
FETCHING = ["script", "img", "iframe", "video", "audio", "source", "embed", "object"]
LINKS = "stylesheet icon preload modulepreload prefetch preconnect dns-prefetch manifest"
CSS_ADDRESS = re.compile(r"""(?:url\(\s*|@import\s+)["']?([^"')\s]+)""")


def css_addresses(css: str) -> list[str]:
    """The addresses that a style sheet fetches, comments left aside."""
    return CSS_ADDRESS.findall(re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL))


def fetched_addresses(page: BeautifulSoup) -> Iterator[str]:
    """All addresses that a browser fetches for the page's own markup."""
    for tag in page.find_all(FETCHING):
        yield from (str(tag[attribute]) for attribute in ("src", "data") if tag.get(attribute))
        yield from (entry.split()[0] for entry in str(tag.get("srcset", "")).split(",") if entry.strip())
    for link in page.find_all("link"):
        if set(LINKS.split()) & set(link.get("rel") or []):
            yield str(link["href"])
    for style in page.find_all("style"):
        yield from css_addresses(style.get_text())
    for tag in page.find_all(style=True):
        yield from css_addresses(str(tag["style"]))


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


def test_nothing_is_fetched_from_another_host(html: Path, pages: dict[Path, BeautifulSoup]) -> None:
    fetched = [(path.name, address) for path, page in pages.items() for address in fetched_addresses(page)]
    for sheet in html.rglob("*.css"):
        fetched += [(sheet.name, address) for address in css_addresses(sheet.read_text(encoding="utf-8"))]
    assert fetched
    assert [(name, address) for name, address in fetched if is_foreign(address)] == []


def test_what_a_page_fetches_is_there(pages: dict[Path, BeautifulSoup]) -> None:
    missing = {
        (path.name, address)
        for path, page in pages.items()
        for address in fetched_addresses(page)
        if not is_foreign(address) and urlsplit(address).scheme != "data"
        if not (path.parent / unquote(urlsplit(address).path)).exists()
    }
    assert not missing


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


def test_pages_with_formulas_load_the_books_own_mathjax(chapters: dict[str, BeautifulSoup]) -> None:
    with_formulas = {name: page for name, page in chapters.items() if page.select_one("article .math")}
    assert with_formulas
    for name, page in with_formulas.items():
        scripts = [str(script["src"]) for script in page.find_all("script", src=True)]
        assert any("_static/thirdparty/mathjax/tex-chtml.js" in script for script in scripts), name


def test_every_picture_has_alt_text(chapters: dict[str, BeautifulSoup]) -> None:
    def is_text(image: Tag) -> bool:
        alt = str(image.get("alt", "")).strip()
        return len(alt) > 3 and not re.search(r"_images/|\.(png|svg|jpe?g|webp)$", alt)

    pictures = [(name, image) for name, page in chapters.items() for image in page.select("article img")]
    assert pictures
    assert not [(name, str(image)[:120]) for name, image in pictures if not is_text(image)]


def test_one_search_box_only(chapters: dict[str, BeautifulSoup]) -> None:
    counts = {name: len(page.select("button.search-button-field")) for name, page in chapters.items()}
    assert set(counts.values()) == {1}, counts


def test_numbers_on_the_pages_are_those_of_the_file_names(chapters: dict[str, BeautifulSoup]) -> None:
    for name, page in chapters.items():
        chapter = number_of_chapter(name)
        if chapter is None:
            continue
        places = "article .section-number, article .caption-number, .eqno"
        numbers = [tag.get_text() for tag in page.select(places)]
        titles = " ".join(title.get_text() for title in page.select("p.admonition-title"))
        numbers += re.findall(r"Exercise \w+\.\d+", titles)
        found = [re.search(r"\b(\d+[a-z]?|[A-Z])\.", number) for number in numbers]
        assert {match.group(1) for match in found if match} == {chapter}, name


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
def test_colab_button_opens_its_notebook(name: str, chapters: dict[str, BeautifulSoup]) -> None:
    repository = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]
    folder = f"https://colab.research.google.com/github{urlsplit(repository['url']).path}/blob/colab/chapters"
    links = {str(link["href"]) for link in chapters[name].select('a[href*="colab.research.google.com"]')}
    assert links == {f"{folder}/{name}.ipynb"}
