"""How much a page asks of a slow line when it is opened."""

import pytest
from book_numbers import page_cells, page_files

LIMIT = 1_500_000  # bytes, uncompressed
# Fonts and the typesetter of the formulas, which a browser keeps from page to page; the model that a panel draws with.
ASIDE = (".woff", ".woff2", "tex-chtml.js", "assistive-mml.js")
MODELS = ("/_static/live/",)
TEXT_PAGES = [f"chapters/{path.stem}.html" for path in page_files() if path.suffix == ".md"]
FETCHED = """() => performance.getEntries().filter(entry => entry.decodedBodySize !== undefined)
  .map(entry => [entry.name.split("?")[0], entry.decodedBodySize])"""


@pytest.fixture
def weigh(chromium, site):
    """A function that opens a page as a new reader and says what each file weighs."""
    opened = []

    def weigh(address):
        page = chromium.new_context(viewport={"width": 1280, "height": 900}).new_page()
        opened.append(page)
        page.goto(f"{site}/{address}")
        page.wait_for_load_state("networkidle")
        return dict(page.evaluate(FETCHED))

    yield weigh
    for page in opened:
        page.context.close()


@pytest.mark.parametrize("address", TEXT_PAGES)
def test_a_text_page_is_light(address, weigh):
    files = weigh(address)
    counted = {
        name: size
        for name, size in files.items()
        if not name.endswith(ASIDE) and not any(m in name for m in MODELS)
    }
    assert any(name.endswith(".css") for name in counted)
    assert sum(counted.values()) <= LIMIT, sorted(counted.items(), key=lambda file: -file[1])[:8]


def test_pictures_far_below_are_not_fetched_at_first(weigh):
    pictures = [name for name in weigh("chapters/09-evaluation.html") if "/_images/" in name]
    drawn = sum(
        "image/png" in output.get("data", {})
        for path in page_files()
        if path.stem == "09-evaluation"
        for cell in page_cells(path)
        for output in cell.get("outputs", [])
    )
    assert 0 < len(pictures) < drawn
    assert not any(name.endswith("-dark.png") for name in pictures)
