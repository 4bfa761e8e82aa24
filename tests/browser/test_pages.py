"""The built book in a real browser: formulas are typeset, nothing is asked of other hosts, all can see and use it."""

import pytest
from book_numbers import page_files

from tests.browser.axe import violations
from tests.browser.conftest import HTML

pytestmark = pytest.mark.usefixtures("built")
ADDRESSES = [f"chapters/{path.stem}.html" for path in page_files()]

OWN = ("http://127.0.0.1:", "file:", "data:", "blob:")

# What there is to see once formulas and fonts are there: each list should be empty.
LOOK = """async () => {
  if (window.MathJax?.startup?.promise) await MathJax.startup.promise;
  await document.fonts.ready;
  document.querySelectorAll("article details").forEach(folded => { folded.open = true; });
  document.querySelectorAll("article .toggle-hidden button.toggle-button").forEach(button => button.click());
  const all = selector => [...document.querySelectorAll(selector)];
  const text = element => element.outerHTML.slice(0, 120);
  const width = document.documentElement.clientWidth;
  const code = document.querySelector("article div.highlight pre"), style = code && getComputedStyle(code);
  const ruler = document.createElement("canvas").getContext("2d");
  if (code) ruler.font = style.font;
  return [{
    "not typeset": all("article .math").filter(formula => formula.querySelectorAll("mjx-container").length !== 1)
      .map(text),
    "wrong formulas": all("mjx-merror, [data-mjx-error]").map(text),
    "broken pictures": all("article img").filter(image => image.complete && !image.naturalWidth).map(text),
    "too wide": all("article *").filter(element => element.getBoundingClientRect().right > width + 1
      && !element.closest("mjx-container, pre, .pst-scrollable-table-container, .sr-only")).map(text),
    "cut off": all("article .math, article .math mjx-container").filter(element =>
      element.scrollWidth > element.clientWidth + 1 && getComputedStyle(element).overflowX === "hidden").map(text),
    "formulas that scroll": all("article div.math").filter(formula =>
      [formula, ...formula.querySelectorAll("mjx-container")].some(it => it.scrollWidth > it.clientWidth + 1))
      .map(text),
    "formulas wider than the line": all("article span.math").filter(formula =>
      formula.querySelector("mjx-math")?.getBoundingClientRect().width > formula.getBoundingClientRect().width + 1)
      .map(text),
    "code that scrolls": width < 1200 ? [] : all("article div.highlight pre, article div.cell_output pre")
      .filter(block => block.scrollWidth > block.clientWidth + 1)
      .map(block => block.textContent.split("\\n").reduce((a, b) => a.length < b.length ? b : a)),
    "scrolls sideways": document.documentElement.scrollWidth > width ? [width] : [],
  }, code && (code.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight))
    / ruler.measureText("0").width];
}"""


# What a page does that it should not, by playwright's name of the event.
PROBLEMS = {
    "pageerror": lambda error: f"error: {error}",
    "console": lambda line: line.type == "error" and line.text,
    "requestfailed": lambda asked: f"failed: {asked.url}",
    "response": lambda answer: answer.status >= 400 and f"missing: {answer.url}",
    "request": lambda asked: not asked.url.startswith(OWN) and f"foreign: {asked.url}",
    "websocket": lambda socket: f"foreign: {socket.url}",
}


@pytest.fixture(scope="module")
def context(chromium):
    """One for all pages, so that what is the same on each is read once."""
    return chromium.new_context()


@pytest.fixture
def page(context):
    """An empty page; `page.problems` collects what it does wrong."""
    page = context.new_page()
    page.problems = []
    for event, problem in PROBLEMS.items():
        page.on(event, lambda it, problem=problem: page.problems.extend(filter(None, [problem(it)])))
    yield page
    page.close()


def look(page, width):
    """Say what is wrong with the page that is open, by kind, at a width, and how many columns of code fit."""
    page.set_viewport_size({"width": width, "height": 900})
    kinds, columns = page.evaluate(LOOK)
    # Not sooner: on a busy machine the network is idle before the scripts have run.
    page.wait_for_load_state("networkidle")
    return {kind: places for kind, places in kinds.items() if places}, columns


@pytest.mark.parametrize(("by", "first", "then"), [("http", 390, 1280), ("file", 1280, 390)])
@pytest.mark.parametrize("address", ADDRESSES)
def test_page_fits_asks_no_other_host_and_is_accessible(address, by, first, then, site, page):
    page.set_viewport_size({"width": first, "height": 900})
    page.goto(f"{site}/{address}" if by == "http" else (HTML / address).as_uri())
    # A reader may also turn a phone, or drag a window's edge.
    for width in (first, then):
        wrong, columns = look(page, width)
        assert (width, wrong, page.problems) == (width, {}, [])
        # The widest line that `ruff format` lets a chapter have is shown without scrolling on a laptop.
        assert width < 1280 or columns is None or columns >= 88
    if by == "http":
        assert violations(page) == []


def test_look_notices_what_is_wrong_with_a_page(page, tmp_path):
    (tmp_path / "bad.html").write_text(
        """<script src="http://script.invalid/x.js"></script><style>p { background: url(https://css.invalid/) }</style>
        <article><p style="width: 2000px">x</p><img src="no.png"><mjx-merror>z</mjx-merror>
        <div class="math" style="width: 9px; overflow: hidden">a long formula</div>
        <span class="math" style="display: inline-block; width: 9px"><mjx-container><mjx-math>too long</mjx-math>
        </mjx-container></span>
        <div class="highlight"><pre style="width: 90px; overflow: auto">a line of code that is long</pre></div>
        </article>
        <script>fetch("https://fetch.invalid/").catch(() => 0); missing();</script>""",
        encoding="utf-8",
    )
    page.goto((tmp_path / "bad.html").as_uri())
    wrong, _ = look(page, 1280)
    assert len(wrong) == 9  # every kind there is
    addresses = ("http://script.invalid/x.js", "https://css.invalid/", "https://fetch.invalid/")
    assert {f"foreign: {address}" for address in addresses} <= set(page.problems)
    assert "error: missing is not defined" in page.problems
    assert any(problem.startswith("failed: ") and problem.endswith("no.png") for problem in page.problems)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_each_figure_shows_its_picture_for_the_theme_on_the_page_itself_over_its_caption(theme, site, page):
    page.emulate_media(color_scheme=theme)
    page.goto(f"{site}/chapters/04-posterior.html")
    figures = page.evaluate("""() => [...document.querySelectorAll("article div.cell_output figure")].map(figure => {
      const shown = [...figure.querySelectorAll("img")].filter(image => getComputedStyle(image).display !== "none");
      const behind = shown.map(image => getComputedStyle(image).backgroundColor);
      const caption = figure.querySelector("figcaption")?.getBoundingClientRect().height;
      return [shown.map(image => image.classList[0]), behind, caption > 0];
    })""")
    expected = [["on-white" if theme == "light" else "on-dark"], ["rgba(0, 0, 0, 0)"], True]
    assert figures == [expected] * len(figures)
    assert len(figures) > 5
