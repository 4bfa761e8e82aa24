"""The widgets' HTML; how the scrubber behaves in a browser is in tests/browser/test_scrubber.py."""

import base64
import io
import itertools
import json
import math
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from PIL import Image

from ddpm import NoiseSchedule
from ddpm.book.widgets import EXPLORED, frame_scrubber, live_front_end, schedule_explorer
from ddpm.book.widgets.explorer import EXPLORED_TIMESTEPS, schedule_page
from tests.browser.test_scrubber import grey_frames, scrubber
from tests.networks import seeded

GREY = torch.full((3, 8, 8), 0.25)


def picture(address):
    """The picture in a data address."""
    data = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def parsed(page):
    return BeautifulSoup(page, "html.parser")


def test_frame_scrubber_works_without_a_script_and_names_its_controls():
    """The last frame, no dead controls, and nothing that would be fetched."""
    source = scrubber(caption="Words")._repr_html_()
    page = parsed(source)
    assert page.img["alt"] == "A grey square growing lighter: t = 4"
    assert np.array_equal(picture(page.img["src"]), np.full((8, 8, 3), 255))
    assert (page.img["width"], page.img["height"]) == ("320", "320")
    assert "display: none" in page.div["style"]
    slider = {
        "type": "range",
        "aria-label": "Frame of: A grey square growing lighter",
        "aria-valuetext": "t = 4",
        "data-lm-suppress-shortcuts": "true",
    }
    assert slider.items() <= page.input.attrs.items()
    assert page.button["aria-label"] == "Play the frames"
    for word in ("http", "import", "src="):
        assert word not in source.replace('src="data:image/png;base64,', "")


def test_frame_scrubber_of_equal_content_is_equal_and_of_other_content_has_another_key():
    assert scrubber()._repr_html_() == scrubber()._repr_html_()
    frames = grey_frames(5)
    other = torch.cat([frames[1:2], frames[1:]])  # the first is another
    made = [frame_scrubber(images, ["t = 0"] * 5, alt="A square") for images in (frames, other)]
    assert len({parsed(one._repr_html_()).figure["data-frames"] for one in made}) == 2
    assert repr(scrubber()) == "<5 frames: t = 0 … t = 4>"


def test_frame_scrubber_keeps_words_from_breaking_out_of_the_page():
    hostile = '"</script><script>alert(1)</script>'
    page = frame_scrubber(grey_frames(2), [hostile, hostile], alt=hostile, caption=hostile)._repr_html_()
    assert page.count("<script>") == page.count("</script>") == 1


@pytest.mark.parametrize(
    ("count", "channels", "side", "steps"), [(3, 1, 7, 0.5 / 63), (3, 3, 7, 0), (25, 3, 97, 1)]
)
def test_frame_scrubber_holds_the_images_to_within_the_palette(count, channels, side, steps):
    """Grey is rounded to one of 64 even steps; 42 pixels do not use up the palette of a colour image.

    Twenty-five frames of snow as large as a chapter's stay below half a megabyte.
    """
    frames = torch.rand(count, channels, side, side - 1, generator=seeded(0)) * 1.2 - 0.1
    page = frame_scrubber(frames, ["t"] * count, alt="noise")._repr_html_()
    assert len(page) < 500_000
    encoded = json.loads(page.split("const frames = ")[1].split(";\n")[0])
    for frame, text in zip(frames.clamp(0, 1), encoded, strict=True):
        image = torch.from_numpy(picture(text)).permute(2, 0, 1) / 255
        assert (image - frame).abs().max() <= steps + 0.5 / 255 + 1e-6


# The schedule explorer


def test_schedule_explorer_draws_its_first_state_with_words_and_closes_its_figure():
    image = parsed(schedule_explorer(GREY[:1]).children[3].value).img
    assert picture(image["src"]).shape[1] > 500
    assert image["alt"].startswith("linear, T = 1000, t = 300: log SNR ")
    assert plt.get_fignums() == []


def test_moving_a_control_redraws_the_page_with_the_numbers_of_that_schedule():
    name, timesteps, percent, page = schedule_explorer(GREY).children
    name.value, timesteps.value, percent.value = "linear, not rescaled", 200, 100
    left = math.sqrt(math.prod(1 - b for b in np.linspace(1e-4, 0.02, 200)))
    assert (
        f"t = 200: log SNR {math.log(left**2 / (1 - left**2)):.2f}, amplitude left {left:.4f}" in page.value
    )
    assert f"at t = T amplitude left {left:.4f}" in page.value
    # The divergence of N(left · 0.25, 1 − left²) from N(0, 1), in bits.
    bits = (left**2 * (0.25**2 - 1) - math.log(1 - left**2)) / (2 * math.log(2))
    assert f"L_T = {bits:.2g} bits per dimension" in page.value


def test_schedule_explorer_offers_what_exists_down_to_the_clean_end():
    for name, timesteps in itertools.product(EXPLORED, EXPLORED_TIMESTEPS):
        assert NoiseSchedule(EXPLORED[name](timesteps)).timesteps == timesteps
    page = schedule_page("cosine", 25, 0, GREY, torch.zeros_like(GREY))
    assert "t = 0: log SNR inf, amplitude left 1.0000" in page


def test_live_front_end_knows_jupyter_by_its_session_and_colab_by_its_module(monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert not live_front_end()
    with monkeypatch.context() as jupyter:
        jupyter.setenv("JPY_SESSION_NAME", "chapters/03-schedules-and-snr.ipynb")
        assert live_front_end()
    monkeypatch.setitem(sys.modules, "google.colab", object())
    assert live_front_end()
