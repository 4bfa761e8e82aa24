"""The page for addresses that do not exist, shown by a server as GitHub's does it."""

import pytest
from mended_pages import lost_page


@pytest.mark.parametrize("address", ["nowhere", "chapters/nowhere.html", "a/b/c/d/"])
def test_it_looks_like_the_book_and_leads_back_from_any_depth(address, site, chromium):
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    missing = []
    page.on("response", lambda answer: answer.status >= 400 and missing.append(answer.url))
    page.goto(f"{site}/{address}")
    page.wait_for_load_state("networkidle")
    assert missing == [f"{site}/{address}"]
    assert page.locator("h1").inner_text() == "Only snow here"
    assert page.evaluate("getComputedStyle(document.body).fontFamily") != "Times New Roman"
    page.get_by_role("link", name="the front page").click()
    page.wait_for_url(f"{site}/chapters/intro.html")
    page.close()


def test_its_links_begin_at_the_root_of_the_site():
    plain = '<html><head></head><a href="#main">skip</a><a href="chapters/intro.html">home</a></html>'
    made = lost_page(plain, "https://me.github.io/book/")
    assert '<head><base href="/book/">' in made
    assert 'href="404.html#main"' in made
    assert lost_page(made, "https://me.github.io/book/") == made
    assert '<base href="/">' in lost_page(plain, "")
