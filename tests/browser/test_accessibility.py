"""What axe-core finds, and what the keyboard reaches."""

import re

import pytest

from tests.browser.axe import UNFOLD, violations


@pytest.fixture
def page(chromium):
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    yield page
    page.close()


# The book's other pages are looked at in test_pages, where they are open already.
@pytest.mark.parametrize("address", ["search.html", "404.html"])
def test_axe_finds_nothing_serious(address, site, page):
    page.goto(f"{site}/{address}")
    assert violations(page) == []


def test_axe_finds_what_is_wrong(page, tmp_path):
    (tmp_path / "bad.html").write_text(
        """<!doctype html><html lang="en"><title>t</title><main><h1>a</h1><h3>b</h3><img src="data:,x">
        <img id="twin" src="data:,y"><style>#twin { display: none } html[data-theme=dark] #twin { display: inline }
        html[data-theme=dark] p { color: #777; background: #666 } .k, mjx-container { color: #eee }</style>
        <p>pale in the dark</p><article><pre><span class="j">import</span> <span class="k">torch</span></pre>
        <mjx-container><b>z</b></mjx-container></article>
        <article><details><summary>s</summary><button></button></details></article></main>""",
        encoding="utf-8",
    )
    page.goto((tmp_path / "bad.html").as_uri())
    found = violations(page)
    pale = [re.search("<[a-z-]+", one)[0] for one in found if one.startswith("light: color-contrast")]
    assert sorted(pale) == ["<mjx-container", "<span"]
    assert any(one.startswith("dark: color-contrast: <p") for one in found)
    others = {one.rsplit(": <", 1)[0] for one in found} - {"light: color-contrast", "dark: color-contrast"}
    assert others == {"light: heading-order", "light: image-alt", "light: button-name", "dark: image-alt"}
    assert sum("image-alt" in one for one in found) == 3


# Whether the element with the focus can be seen to have it: its looks are not those of the same element without.
FOCUSED = """() => {
  const it = document.activeElement, look = () => {
    const style = getComputedStyle(it);
    return [style.outlineStyle, style.outlineWidth, style.boxShadow, style.backgroundColor].join();
  };
  const focused = look();
  it.blur();
  const plain = look();
  it.focus({preventScroll: true, focusVisible: true});
  return {text: (it.textContent || it.getAttribute("aria-label") || it.title || "").trim(), seen: focused !== plain};
}"""


def test_the_keyboard_reaches_the_content_first_and_every_stop_is_seen(site, page):
    page.goto(f"{site}/chapters/04-posterior.html")
    page.evaluate(UNFOLD)
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED)["text"] == "Skip to main content"
    page.keyboard.press("Enter")
    stops = []
    for _ in range(25):
        page.keyboard.press("Tab")
        stops.append(page.evaluate(FOCUSED))
    assert [stop["text"] for stop in stops if not stop["seen"]] == []
    assert page.evaluate("document.activeElement.closest('article') !== null")


@pytest.mark.parametrize(
    ("address", "key", "goal"),
    [
        ("chapters/notation.html", "ArrowRight", "chapters/running.html"),
        ("chapters/running.html", "ArrowLeft", "chapters/notation.html"),
        ("chapters/intro.html", "ArrowLeft", None),
    ],
)
def test_arrow_keys_turn_the_page(address, key, goal, site, page):
    page.goto(f"{site}/{address}")
    page.keyboard.press(key)
    page.wait_for_url(f"{site}/{goal or address}")


def test_arrow_keys_do_their_own_work_where_they_have_some(site, page):
    page.set_viewport_size({"width": 390, "height": 900})
    page.goto(f"{site}/chapters/intro.html")
    for where in ("article pre", "figure.live-model input", "figure.live-model select"):
        page.locator(where).first.evaluate("it => { it.tabIndex = 0; it.focus(); }")
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(300)
        assert page.url == f"{site}/chapters/intro.html", where


def test_arrow_keys_with_others_are_left_alone(site, page):
    page.goto(f"{site}/chapters/running.html")
    for keys in ("Alt+ArrowRight", "Shift+ArrowRight", "Control+ArrowRight"):
        page.keyboard.press(keys)
        page.wait_for_timeout(300)
        assert page.url == f"{site}/chapters/running.html", keys
