"""The frame scrubber: its HTML, and how it behaves in a real browser under mouse, keyboard and settings."""

import base64
import io
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from ddpm import NoiseSchedule
from ddpm.book.widgets import (
    EXPLORED,
    EXPLORED_TIMESTEPS,
    GREYS,
    MILLISECONDS,
    frame_scrubber,
    live_front_end,
    schedule_explorer,
    schedule_page,
)

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason=f"no Chromium found (looked for {', '.join(NAMES)})"
)


def grey_frames(count=5):
    """Frame k is even grey of level k/(count − 1)."""
    return torch.linspace(0, 1, count).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)


def scrubber(count=5, **options):
    options = {"alt": "A grey square growing lighter"} | options
    return frame_scrubber(grey_frames(count), [f"t = {t}" for t in range(count)], **options)


class Elements(HTMLParser):
    """The attributes of the first element of each kind, and the text of the caption."""

    def __init__(self, page):
        super().__init__()
        self.first = {}
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.first.setdefault(tag, dict(attrs))


def decode(address):
    """The picture in a data address."""
    return Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/png;base64,"))))


# The HTML


def test_without_a_script_the_last_frame_stands_there_with_its_words_and_no_dead_controls():
    first = Elements(scrubber()._repr_html_()).first
    assert first["img"]["alt"] == "A grey square growing lighter: t = 4"
    assert np.array_equal(decode(first["img"]["src"]).convert("L"), np.full((8, 8), 255))
    assert "display: none" in first["div"]["style"]


def test_controls_have_names_and_words():
    first = Elements(scrubber()._repr_html_()).first
    assert first["input"]["type"] == "range"
    assert first["input"]["aria-label"] == "Frame of: A grey square growing lighter"
    assert first["input"]["aria-valuetext"] == "t = 4"
    assert first["input"]["data-lm-suppress-shortcuts"] == "true"
    assert first["button"]["aria-label"] == "Play the frames"


def test_nothing_is_fetched():
    page = scrubber(caption="Words")._repr_html_()
    assert "http" not in page
    assert "import" not in page
    assert "src=" not in page.replace('src="data:image/png;base64,', "")


def test_equal_content_gives_equal_html_and_other_content_another_key():
    assert scrubber()._repr_html_() == scrubber()._repr_html_()
    keys = {
        Elements(made._repr_html_()).first["figure"]["data-frames"] for made in (scrubber(5), scrubber(6))
    }
    assert len(keys) == 2


def test_text_form_is_short():
    assert repr(scrubber()) == "<5 frames: t = 0 … t = 4>"


def test_words_cannot_break_out_of_the_page():
    hostile = '"</script><script>alert(1)</script>'
    page = frame_scrubber(grey_frames(2), [hostile, hostile], alt=hostile, caption=hostile)._repr_html_()
    assert page.count("<script>") == page.count("</script>") == 1
    assert "<script>alert" not in page


@pytest.mark.parametrize("channels", [1, 3])
def test_frames_are_the_images_given_to_within_the_palette(channels):
    """Grey is rounded to one of 64 even steps; 42 pixels do not use up the palette of a colour image."""
    torch.manual_seed(0)
    frames = torch.rand(3, channels, 7, 6) * 1.2 - 0.1  # beyond [0, 1]: clipped
    page = frame_scrubber(frames, ["a", "b", "c"], alt="noise")._repr_html_()
    encoded = json.loads(page.split("const frames = ")[1].split(";\n")[0])
    for frame, text in zip(frames.clamp(0, 1), encoded, strict=True):
        shown = torch.from_numpy(np.array(decode(text).convert("RGB"))).permute(2, 0, 1) / 255
        bound = 0.5 / (GREYS - 1) if channels == 1 else 0
        assert (shown - frame).abs().max() <= bound + 0.5 / 255 + 1e-6


def test_twenty_five_frames_of_snow_stay_below_half_a_megabyte():
    torch.manual_seed(0)
    page = frame_scrubber(torch.rand(25, 3, 96, 96), ["snow"] * 25, alt="snow")._repr_html_()
    assert len(page) < 500_000


@pytest.mark.parametrize(
    ("frames", "labels", "alt", "message"),
    [
        (grey_frames(1), ["a"], "words", "N >= 2"),
        (grey_frames(3)[:, 0], ["a", "b", "c"], "words", "shape"),
        (torch.zeros(3, 2, 8, 8), ["a", "b", "c"], "words", "C = 1 or 3"),
        (grey_frames(3), ["a", "b"], "words", "3 frames need as many labels"),
        (grey_frames(3), [0, 1, 2], "words", "each a string"),
        (grey_frames(3), ["a", "b", "c"], " ", "alt is empty"),
    ],
)
def test_bad_input(frames, labels, alt, message):
    with pytest.raises(ValueError, match=message):
        frame_scrubber(frames, labels, alt=alt)


# In a browser, driven over the pipe that Chromium reads commands of its DevTools protocol from


class Browser:
    """A Chromium without a window, showing one page."""

    def __init__(self, page, folder, **media):
        (folder / "page.html").write_text(
            f"<!doctype html><meta charset=utf-8><body>{page}</body>", encoding="utf-8"
        )
        self.numbers = itertools.count(1)
        command_read, self.command_write = os.pipe()
        self.answer_read, answer_write = os.pipe()
        flags = f"--headless --no-sandbox --disable-gpu --remote-debugging-pipe --user-data-dir={folder / 'profile'}"
        # Chromium reads commands from file 3 and writes answers to file 4; the shell puts ours there.
        shell = f'exec "$0" "$@" 3<&{command_read} 4>&{answer_write}'
        self.process = subprocess.Popen(
            ["bash", "-c", shell, CHROMIUM, *flags.split(), "about:blank"],
            pass_fds=(command_read, answer_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(command_read)
        os.close(answer_write)
        self.buffer = b""
        self.session = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        self.send("Emulation.setEmulatedMedia", features=features)
        self.send("Emulation.setFocusEmulationEnabled", enabled=True)
        self.set_width(800)
        self.send("Page.navigate", url=(folder / "page.html").as_uri())
        self.until("document.readyState === 'complete' && location.protocol === 'file:'")

    def send(self, method, **params):
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.command_write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.buffer:
                piece = os.read(self.answer_read, 1 << 20)
                assert piece, "Chromium has ended"
                self.buffer += piece
            text, self.buffer = self.buffer.split(b"\0", 1)
            answer = json.loads(text)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def set_width(self, width):
        """The size of the window."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )

    def ask(self, expression):
        """The value of a JavaScript expression in the page."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression, seconds=20):
        """Wait for a JavaScript expression to become true."""
        end = time.monotonic() + seconds
        while not self.ask(expression):
            assert time.monotonic() < end, f"still false after {seconds} s: {expression}"
            time.sleep(0.02)

    def press(self, key, code):
        """A key of the keyboard, down and up."""
        text = {"type": "keyDown", "text": " "} if key == " " else {"type": "rawKeyDown"}
        for kind in (text, {"type": "keyUp"}):
            self.send("Input.dispatchKeyEvent", key=key, windowsVirtualKeyCode=code, **kind)

    def click(self, selector, share=0.5):
        """The mouse on an element, at this share of its width."""
        x, y = self.ask(
            f"(() => {{ const box = document.querySelector('{selector}').getBoundingClientRect();"
            f" return [box.left + {share} * box.width, box.top + box.height / 2]; }})()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def state(self, index=0):
        """What the index-th figure shows: label, alternative text, slider, level of grey of the picture on screen."""
        return self.ask(
            f"(() => {{ const figure = document.querySelectorAll('figure')[{index}];"
            " const [image, slider, button] = ['img', 'input', 'button'].map(tag => figure.querySelector(tag));"
            " const canvas = document.createElement('canvas').getContext('2d'); canvas.drawImage(image, 0, 0);"
            " return { label: figure.querySelector('output').textContent, alt: image.alt, value: slider.value,"
            " text: slider.getAttribute('aria-valuetext'), button: button.getAttribute('aria-label'),"
            " grey: canvas.getImageData(1, 1, 1, 1).data[0] }; })()"
        )

    def close(self):
        os.close(self.command_write)
        os.close(self.answer_read)
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def browse(tmp_path):
    """A function that opens a page in a browser; the browser is closed at the end."""
    opened = []

    def browse(page, **media):
        opened.append(Browser(page, tmp_path, **media))
        return opened[-1]

    yield browse
    for browser in opened:
        browser.close()


def frame(index, count=5, button="Play the frames"):
    """The state in which frame `index` of `count` grey ones is shown everywhere alike."""
    label = f"t = {index}"
    level = round(255 * round(index / (count - 1) * (GREYS - 1)) / (GREYS - 1))
    alt = f"A grey square growing lighter: {label}"
    return {"label": label, "alt": alt, "value": str(index), "text": label, "button": button, "grey": level}


def picture_shown(index):
    """JavaScript: the first image has loaded, and the slider is there."""
    return (
        f"document.querySelector('input').value === '{index}'"
        " && document.querySelector('img').complete && document.querySelector('img').naturalWidth > 0"
    )


@needs_browser
def test_keyboard_and_mouse_move_the_frames(browse):
    browser = browse(scrubber()._repr_html_())
    assert browser.state() == frame(4)
    browser.ask("document.querySelector('input').focus()")
    for key, code, expected in (
        ("ArrowLeft", 37, 3),
        ("ArrowDown", 40, 2),
        ("ArrowRight", 39, 3),
        ("Home", 36, 0),
        ("End", 35, 4),
    ):
        browser.press(key, code)
        browser.until(picture_shown(expected))
        assert browser.state() == frame(expected)
    browser.click("input", share=0.5)
    browser.until(picture_shown(2))
    assert browser.state() == frame(2)


@needs_browser
def test_play_starts_anew_at_the_end_can_be_paused_and_stops_at_the_end(browse):
    browser = browse(scrubber(60)._repr_html_())
    browser.ask("document.querySelector('button').focus()")
    browser.press(" ", 32)
    browser.until("document.querySelector('input').value >= 2 && document.querySelector('input').value < 58")
    assert browser.state()["button"] == "Pause the frames"
    browser.click("button")
    paused = browser.ask("Number(document.querySelector('input').value)")
    assert paused < 59
    time.sleep(3 * MILLISECONDS / 1000)
    assert browser.state() == frame(paused, 60)
    browser.ask("document.querySelector('input').focus()")
    for key, code in (("End", 35), ("ArrowLeft", 37), ("ArrowLeft", 37)):
        browser.press(key, code)
    browser.click("button")
    browser.until(picture_shown(59))
    assert browser.state() == frame(59, 60)
    time.sleep(3 * MILLISECONDS / 1000)
    assert browser.state() == frame(59, 60)


@needs_browser
def test_touching_the_slider_stops_the_play(browse):
    browser = browse(scrubber(60)._repr_html_())
    browser.click("button")
    browser.until("document.querySelector('input').value >= 1 && document.querySelector('input').value < 58")
    browser.ask("document.querySelector('input').focus()")
    browser.press("Home", 36)
    time.sleep(3 * MILLISECONDS / 1000)
    assert browser.state() == frame(0, 60)


@needs_browser
def test_several_scrubbers_on_a_page_do_not_disturb_each_other(browse):
    """Two of them even equal, and one with other frames."""
    other = frame_scrubber(1 - grey_frames(3), ["x", "y", "z"], alt="Another")
    browser = browse(scrubber()._repr_html_() + scrubber()._repr_html_() + other._repr_html_())
    browser.ask("document.querySelectorAll('input')[1].focus()")
    browser.press("Home", 36)
    browser.until("document.querySelectorAll('input')[1].value === '0'")
    assert browser.state(0) == frame(4)
    assert browser.state(1) == frame(0)
    assert browser.state(2)["alt"] == "Another: z"
    assert browser.state(2)["grey"] == 0
    browser.ask(
        "window.clocks = 0; const start = setInterval; setInterval = (...rest) => (clocks++, start(...rest))"
    )
    browser.click("button")
    browser.until("document.querySelector('input').value !== '4'")
    assert browser.ask("clocks") == 1  # set up twice, the first figure would play at double speed
    assert browser.state(1) == frame(0)


@needs_browser
def test_labels_with_markup_are_shown_as_they_are(browse):
    labels = ["<b>&amp;</b>", '</script>"']
    browser = browse(frame_scrubber(grey_frames(2), labels, alt="<i>&", caption="<u>&lt;")._repr_html_())
    assert browser.state()["alt"] == f"<i>&: {labels[1]}"
    browser.ask("document.querySelector('input').focus()")
    browser.press("Home", 36)
    browser.until("document.querySelector('input').value === '0'")
    assert browser.state()["label"] == labels[0]
    assert browser.ask("document.querySelector('figcaption').textContent") == "<u>&lt;"


@needs_browser
@pytest.mark.parametrize("preference", ["reduce", "no-preference"])
def test_reduced_motion_leaves_the_slider_alone(browse, preference):
    browser = browse(scrubber()._repr_html_(), prefers_reduced_motion=preference)
    shown = browser.ask("['button', 'input'].map(tag => document.querySelector(tag).checkVisibility())")
    assert shown == [preference == "no-preference", True]


@needs_browser
def test_it_fits_a_phone(browse):
    wide = frame_scrubber(torch.rand(2, 3, 40, 900), ["a", "b"], alt="wide")
    browser = browse(wide._repr_html_())
    browser.set_width(320)
    assert browser.ask("document.documentElement.scrollWidth <= innerWidth")
    box = browser.ask(
        "(({width, height}) => [width, height])(document.querySelector('img').getBoundingClientRect())"
    )
    assert box[0] / box[1] == pytest.approx(900 / 40, rel=0.05)


# The schedule explorer


def flat_picture(channels=1):
    """A picture of one grey, in [-1, 1]."""
    return torch.full((channels, 8, 8), 0.25)


def controls(explorer):
    """(schedule, T, percent, page)."""
    return explorer.children


def test_the_explorer_draws_its_first_state_with_words_and_closes_its_figure():
    open_figures = plt.get_fignums()
    page = controls(schedule_explorer(flat_picture()))[3].value
    first = Elements(page).first["img"]
    assert decode(first["src"]).size[0] > 500
    assert first["alt"].startswith("linear, T = 1000, t = 300: log SNR ")
    assert plt.get_fignums() == open_figures


def test_moving_a_control_redraws_the_page_with_the_numbers_of_that_schedule():
    name, timesteps, percent, page = controls(schedule_explorer(flat_picture(3)))
    before = page.value
    name.value, timesteps.value, percent.value = "linear, not rescaled", 200, 100
    assert page.value != before
    left = math.sqrt(math.prod(1 - b for b in np.linspace(1e-4, 0.02, 200)))
    assert f"t = 200: log SNR {math.log(left**2 / (1 - left**2)):.2f}" in page.value
    assert f"at t = T amplitude left {left:.4f}" in page.value


@pytest.mark.parametrize("name", EXPLORED)
@pytest.mark.parametrize("timesteps", EXPLORED_TIMESTEPS)
def test_every_schedule_on_offer_exists_at_every_length_on_offer(name, timesteps):
    assert NoiseSchedule(EXPLORED[name](timesteps)).timesteps == timesteps


def test_the_clean_end_has_an_infinite_log_snr_and_can_be_shown():
    picture = flat_picture()
    page = schedule_page("cosine", 25, 0, picture, torch.zeros_like(picture))
    assert "t = 0: log SNR inf, amplitude left 1.0000" in page


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (torch.zeros(8, 8), r"shape \(C, H, W\)"),
        (torch.zeros(2, 8, 8), r"shape \(C, H, W\)"),
        (torch.full((1, 8, 8), 1.5), r"lie in \[-1, 1\]"),
        (torch.full((1, 8, 8), float("nan")), r"lie in \[-1, 1\]"),
    ],
)
def test_the_explorer_refuses_what_is_no_picture(picture, message):
    with pytest.raises(ValueError, match=message):
        schedule_explorer(picture)


def test_a_person_is_recognised_by_the_session_that_jupyter_gives_the_kernel(monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert not live_front_end()
    monkeypatch.setenv("JPY_SESSION_NAME", "chapters/03-schedules-and-snr.ipynb")
    assert live_front_end()


def test_colab_is_recognised_by_its_module(monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setitem(sys.modules, "google.colab", object())
    assert live_front_end()
