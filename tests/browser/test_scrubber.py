"""The frame scrubber in a real browser under mouse, keyboard and settings."""

import pytest
import torch

from ddpm.book.widgets import frame_scrubber
from ddpm.book.widgets.scrubber import GREYS, MILLISECONDS

STATE = """figure => {
  const [image, slider, button] = ["img", "input", "button"].map(tag => figure.querySelector(tag));
  const canvas = document.createElement("canvas").getContext("2d");
  canvas.drawImage(image, 0, 0);
  return {label: figure.querySelector("output").textContent, alt: image.alt, value: slider.value,
    text: slider.getAttribute("aria-valuetext"), button: button.getAttribute("aria-label"),
    grey: canvas.getImageData(1, 1, 1, 1).data[0]};
}"""
PLAY, PAUSE = "Play the frames", "Pause the frames"


def grey_frames(count):
    """Frame k is even grey of strength k/(count − 1)."""
    return torch.linspace(0, 1, count).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)


def scrubber(**options):
    labels = [f"t = {t}" for t in range(5)]
    return frame_scrubber(grey_frames(5), labels, alt="A grey square growing lighter", **options)


@pytest.fixture
def show(chromium, tmp_path):
    """A function that shows scrubbers on a page whose clock stands until the test moves it."""

    def show(*scrubbers, width=800, **options):
        page = chromium.new_page(viewport={"width": width, "height": 900}, **options)
        page.clock.install(time=0)
        # A notebook may run the scripts when all figures are there.
        parts = [made._repr_html_().partition("<script>") for made in scrubbers]
        html = "".join(figure for figure, *_ in parts) + "".join(mark + script for _, mark, script in parts)
        file = tmp_path / "page.html"
        file.write_text(f"<!doctype html><meta charset=utf-8><body>{html}", encoding="utf-8")
        page.goto(file.as_uri())
        page.clock.pause_at(60_000)
        return page

    return show


def shown(page, figure=0):
    """What a figure shows, once its picture is there: words, slider, grey of the picture on screen."""
    found = page.locator("figure").nth(figure)
    found.locator("img").evaluate("image => image.decode()")
    return found.evaluate(STATE)


def frame(index, button=PLAY):
    """The state in which frame `index` of five grey ones is shown everywhere alike."""
    grey = round(255 * round(index / 4 * (GREYS - 1)) / (GREYS - 1))
    label = f"t = {index}"
    words = {"label": label, "text": label, "alt": f"A grey square growing lighter: {label}"}
    return words | {"value": str(index), "button": button, "grey": grey}


def test_frame_scrubber_follows_keyboard_and_mouse(show):
    page = show(scrubber())
    assert shown(page) == frame(4)
    page.focus("input")
    for key, index in (("ArrowLeft", 3), ("ArrowDown", 2), ("ArrowRight", 3), ("Home", 0), ("End", 4)):
        page.keyboard.press(key)
        assert shown(page) == frame(index)
    page.click("input")  # in its middle
    assert shown(page) == frame(2)


def test_frame_scrubber_plays_from_the_beginning_pauses_and_stops_at_the_end(show):
    page = show(scrubber())
    page.focus("button")
    page.keyboard.press("Space")
    assert shown(page) == frame(0, PAUSE)
    page.clock.run_for(2 * MILLISECONDS)
    assert shown(page) == frame(2, PAUSE)
    page.click("button")
    page.clock.run_for(3 * MILLISECONDS)
    assert shown(page) == frame(2)
    page.click("button")
    page.clock.run_for(9 * MILLISECONDS)
    assert shown(page) == frame(4)


def test_frame_scrubber_stops_when_its_slider_is_touched(show):
    page = show(scrubber())
    page.click("button")
    page.focus("input")
    page.keyboard.press("ArrowRight")
    page.clock.run_for(3 * MILLISECONDS)
    assert shown(page) == frame(1)


def test_frame_scrubber_disturbs_no_other_on_its_page(show):
    """Two of them even equal, and one with other frames."""
    page = show(scrubber(), scrubber(), frame_scrubber(1 - grey_frames(3), ["x", "y", "z"], alt="Another"))
    page.locator("input").nth(1).focus()
    page.keyboard.press("Home")
    page.locator("input").nth(2).focus()
    page.keyboard.press("Home")
    page.locator("button").first.click()
    page.clock.run_for(MILLISECONDS)
    assert shown(page) == frame(1, PAUSE)  # set up twice, it would play at double speed
    assert shown(page, 1) == frame(0)
    assert {"alt": "Another: x", "grey": 255}.items() <= shown(page, 2).items()


def test_frame_scrubber_shows_markup_as_it_is(show):
    labels = ["<b>&amp;</b>", '</script>"']
    page = show(frame_scrubber(grey_frames(2), labels, alt="<i>&", caption="<u>&lt;"))
    assert shown(page)["alt"] == f"<i>&: {labels[1]}"
    page.focus("input")
    page.keyboard.press("Home")
    assert shown(page)["label"] == labels[0]
    assert page.locator("figcaption").text_content() == "<u>&lt;"


@pytest.mark.parametrize("preference", ["reduce", "no-preference"])
def test_frame_scrubber_with_reduced_motion_leaves_the_slider_alone(show, preference):
    page = show(scrubber(), reduced_motion=preference)
    assert page.locator("input").is_visible()
    assert page.locator("button").is_visible() == (preference == "no-preference")


def test_frame_scrubber_fits_a_phone(show):
    page = show(frame_scrubber(torch.rand(2, 3, 40, 900), ["a", "b"], alt="wide"), width=320)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    box = page.locator("img").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(900 / 40, rel=0.05)
