"""What axe-core finds on every page, light and dark, and what the keyboard reaches."""

import re
from pathlib import Path

import pytest
from book_numbers import page_files

AXE = (Path(__file__).parent / "thirdparty" / "axe.min.js").read_text(encoding="utf-8")
ADDRESSES = [*(f"chapters/{path.stem}.html" for path in page_files()), "search.html", "404.html"]
# Held in addition to what axe calls serious or critical.
RULES = ["heading-order", "page-has-heading-one"]

# All that is folded is opened first, for axe passes over what is not shown.
UNFOLD = """async () => {
  if (window.MathJax?.startup?.promise) await MathJax.startup.promise;
  await document.fonts.ready;
  document.querySelectorAll("article details").forEach(folded => { folded.open = true; });
  document.querySelectorAll("article .toggle-hidden button.toggle-button").forEach(button => button.click());
  // The theme looks a moment later for what scrolls now.
  await new Promise(done => setTimeout(done, 500));
}"""
LOOK = """async ([theme, rules, options]) => {
  const root = document.documentElement;
  root.dataset.theme = root.dataset.mode = theme;
  // Colours that fade over are measured when they have arrived.
  const still = document.head.appendChild(document.createElement("style"));
  still.textContent = "*, ::before, ::after { transition: none !important; animation: none !important }";
  await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
  const found = await axe.run(document, {resultTypes: ["violations"], ...options});
  return found.violations
    .filter(({id, impact}) => ["serious", "critical"].includes(impact) || rules.includes(id))
    .flatMap(({id, nodes}) => nodes.map(node => `${theme}: ${id}: ${node.html.slice(0, 120)}`));
}"""


# Contrast is looked up element by element, which takes long. A formula has the ink of its sentence, so that one word
# stands for it, and in a block of code the words of one kind have one ink.
THIN = """() => {
  document.querySelectorAll("mjx-container").forEach(formula => formula.replaceChildren("formula"));
  document.querySelectorAll("article pre").forEach(block => {
    const seen = new Set();
    for (const word of block.querySelectorAll("span")) {
      if (seen.has(word.className)) word.replaceWith(word.textContent);
      seen.add(word.className);
    }
  });
}"""
COLOURS = ["color-contrast", "link-in-text-block"]


def violations(page):
    """What axe finds on the page that is open; in the dark, where pictures have twins, their texts and all colours."""
    page.evaluate(UNFOLD)
    page.evaluate(AXE)
    others = {"rules": {rule: {"enabled": False} for rule in COLOURS}}
    found = page.evaluate(LOOK, ["light", RULES, others])
    page.evaluate(THIN)
    for theme, rules in (("light", COLOURS), ("dark", [*COLOURS, "image-alt"])):
        found += page.evaluate(LOOK, [theme, RULES, {"runOnly": {"type": "rule", "values": rules}}])
    return found


@pytest.fixture
def page(chromium):
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    yield page
    page.close()


@pytest.mark.parametrize("address", ADDRESSES)
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
        ("chapters/04-posterior.html", "ArrowRight", "chapters/05-elbo.html"),
        ("chapters/04-posterior.html", "ArrowLeft", "chapters/03-schedules-and-snr.html"),
        ("chapters/intro.html", "ArrowLeft", None),
    ],
)
def test_arrow_keys_turn_the_page(address, key, goal, site, page):
    page.goto(f"{site}/{address}")
    page.keyboard.press(key)
    page.wait_for_url(f"{site}/{goal or address}")


@pytest.mark.parametrize("where", ["article pre", "figure.live-model input", "figure.live-model select"])
def test_arrow_keys_do_their_own_work_where_they_have_some(where, site, page):
    page.set_viewport_size({"width": 390, "height": 900})
    page.goto(f"{site}/chapters/intro.html")
    page.evaluate(
        """where => {
      const it = document.querySelector(where);
      it.tabIndex = 0;
      it.focus();
    }""",
        where,
    )
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(300)
    assert page.url == f"{site}/chapters/intro.html"


@pytest.mark.parametrize("keys", ["Alt+ArrowRight", "Shift+ArrowRight", "Control+ArrowRight"])
def test_arrow_keys_with_others_are_left_alone(keys, site, page):
    page.goto(f"{site}/chapters/04-posterior.html")
    page.keyboard.press(keys)
    page.wait_for_timeout(300)
    assert page.url == f"{site}/chapters/04-posterior.html"
