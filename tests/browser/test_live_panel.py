"""The panel in which a reader draws with a model: at rest, by keyboard, step by step, without motion or scripts."""

import re
import shutil

import numpy as np
import pytest
from book_numbers import ROOT
from draw_live_still import SCALE, SEED, STEPS, STILLS, first_and_last
from PIL import Image

from ddpm import load_pretrained
from ddpm.grids import timestep_grid
from tests.browser.panels import PATIENCE, choose, count_changes, pictures, press, said, words

HTML = ROOT / "_build" / "html"
SCHEDULE = load_pretrained("digits").schedule
PICTURE = STILLS / "live-digits.png"
SHOWN = "document.querySelector('canvas').toDataURL()"


def test_drawing_by_keyboard_alone_gives_the_still_picture(show):
    page = show(data={"steps": STEPS})
    words(page, "t = 1000, 0 of 50 calls")
    assert page.locator("img").count() == 0
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Draw"
    page.keyboard.press("Space")
    said(page, f"Drawn from seed {SEED} in 50 calls.")
    noisy, guess = pictures(page)
    still = np.array(Image.open(PICTURE).convert("L"))[SCALE // 2 :: SCALE, SCALE // 2 :: SCALE]
    # The last step shows twice the same, and PyTorch draws it to a grey level.
    assert np.abs(noisy - guess).max() <= 1
    assert np.abs(noisy - still[:, -8:].ravel().astype(int)).max() <= 1
    assert np.abs(first_and_last().squeeze(1).numpy() - np.stack([still[:, :8], still[:, -8:]])).max() <= 1


def test_panel_rests_until_asked_and_then_moves(show):
    page = show(reduced_motion="no-preference")
    words(page, "t = 1000, 0 of 5 calls")
    snow, nothing = pictures(page)
    page.wait_for_timeout(200)
    assert (pictures(page)[0] == snow).all()
    assert snow.std() > 50
    assert not nothing.any()
    count_changes(page)
    press(page, "Draw")
    said(page, "Drawn from seed 1 in 5 calls.")
    assert page.evaluate("document.seen.length") == 5


def test_reduced_motion_shows_the_last_picture_only(show):
    page = show()
    words(page, "t = 1000")
    count_changes(page)
    press(page, "Draw")
    said(page, "Drawn")
    assert page.evaluate("document.seen.length") == 1


def test_steps_one_by_one_lead_where_a_path_at_once_does(show):
    page = show()
    words(page, "t = 1000")
    press(page, "One step")
    said(page, "Stopped at t = 800.")
    words(page, "t = 800, 1 of 5 calls")
    labels = page.locator("canvas").evaluate_all("all => all.map(one => one.ariaLabel)")
    assert labels[0] == "The noisy picture, t = 800 of 1000"
    press(page, "One step")
    words(page, "t = 600, 2 of 5 calls")
    press(page, "Go on")
    said(page, "Drawn")
    by_steps = pictures(page)[0]
    press(page, "Draw again")
    said(page, "Drawn")
    assert (pictures(page)[0] == by_steps).all()


def test_panel_can_be_stopped_on_the_way(show):
    page = show(data={"steps": 50}, reduced_motion="no-preference")
    words(page, "t = 1000")
    press(page, "Draw")
    words(page, re.compile(" [3-9] of 50"))
    press(page, "Pause")
    said(page, "Stopped at t = ")
    page.wait_for_timeout(300)
    before = page.locator(".live-where").inner_text()
    page.wait_for_timeout(300)
    assert page.locator(".live-where").inner_text() == before
    assert page.get_by_role("button", name="Go on").count() == 1


def test_seed_decides_and_what_is_typed_is_made_a_seed(show):
    page = show()
    words(page, "t = 1000")
    first, shown = pictures(page)[0], page.evaluate(SHOWN)
    press(page, "Next seed")
    page.wait_for_function("document.querySelector('[name=seed]').value === '2'")
    assert (pictures(page)[0] != first).any()
    for typed, seed in (("1", "1"), ("-3", "0"), ("2.9", "2"), ("99999999999", str(2**32 - 1)), ("", "0")):
        page.get_by_label("seed").fill(typed)
        page.get_by_label("seed").press("Enter")
        assert page.get_by_label("seed").input_value() == seed
    page.get_by_label("seed").fill("1")
    page.get_by_label("seed").press("Enter")
    page.wait_for_function(f"shown => {SHOWN} === shown", arg=shown)


def test_options_are_those_of_the_samplers(show):
    page = show()
    words(page, "t = 1000")
    choose(page, "eta", "1")
    press(page, "Draw")
    said(page, "Drawn")
    noisy = pictures(page)[0]
    choose(page, "eta", "0")
    press(page, "Draw")
    said(page, "Drawn")
    assert (pictures(page)[0] != noisy).any()
    choose(page, "steps", "10")
    words(page, "0 of 10 calls")
    choose(page, "sampler", "ddpm")
    words(page, "0 of 1000 calls")
    press(page, "One step")
    words(page, "t = 999, 1 of 1000 calls")


def test_two_samplers_go_side_by_side_from_the_same_snow(show):
    """Each stands where it would alone; the one that asks more often catches up in one step."""
    page = show()
    words(page, "t = 1000")
    choose(page, "steps", "10")
    alone = {}
    for sampler in ("dpm++", "ddim"):
        choose(page, "sampler", sampler)
        words(page, "t = 1000, 0 of 10 calls")
        press(page, "Draw")
        said(page, "Drawn from seed 1 in 10 calls.")
        alone[sampler] = pictures(page)[0]
    choose(page, "beside", "dpm++")
    words(page, "t = 1000, 0 of 10 calls", lane=1)
    first, _, second, _ = pictures(page)
    assert (first == second).all()
    press(page, "Draw")
    said(page, "DDIM: Drawn from seed 1 in 10 calls. DPM++: Drawn from seed 1 in 10 calls.")
    first, _, second, _ = pictures(page)
    assert (first == alone["ddim"]).all()
    assert (second == alone["dpm++"]).all()
    assert (first != second).any()
    choose(page, "beside", "ddpm")
    words(page, "t = 1000, 0 of 1000 calls", lane=1)
    press(page, "One step")
    words(page, "t = 900, 1 of 10 calls")
    words(page, "t = 900, 100 of 1000 calls", lane=1)
    assert page.locator(".live-title").all_inner_texts() == ["DDIM", "DDPM"]
    labels = page.locator("canvas").evaluate_all("all => all.map(one => one.ariaLabel)")
    assert labels[2] == "DDPM: The noisy picture, t = 900 of 1000"
    choose(page, "beside", "")
    page.locator("canvas").nth(2).wait_for(state="detached")
    assert page.locator(".live-where").count() == 1


def test_grids_are_marked_and_walked(show):
    page = show()
    words(page, "t = 1000")
    for spacing in ("quadratic", "log-snr", "karras"):
        choose(page, "spacing", spacing)
        words(page, "t = 1000, 0 of 5 calls")
        grid = timestep_grid(SCHEDULE, 5, spacing)
        marks = page.locator(".live-ticks path").first.get_attribute("d")
        assert marks == "".join(f"M{1000 - t} 0v10" for t in grid[:-1])
        press(page, "One step")
        said(page, f"Stopped at t = {grid[1]}.")
        assert page.locator(".live-hand").get_attribute("transform") == f"translate({1000 - grid[1]} 0)"


def test_choices_that_a_sampler_does_not_take_cannot_be_made(show):
    page = show()
    words(page, "t = 1000")
    takes = {
        ("ddim", ""): {"steps", "spacing", "eta"},
        ("dpm++", ""): {"steps", "spacing"},
        ("ddpm", ""): set(),
        ("ddpm", "dpm++"): {"steps", "spacing"},
        ("dpm++", "ddim"): {"steps", "spacing", "eta"},
    }
    for (sampler, beside), possible in takes.items():
        choose(page, "sampler", sampler)
        choose(page, "beside", beside)
        enabled = page.locator("[name=steps]:enabled, [name=spacing]:enabled, [name=eta]:enabled")
        assert {*enabled.evaluate_all("all => all.map(one => one.name)")} == possible


def test_second_model_is_loaded_on_request(show):
    page = show()
    words(page, "t = 1000")
    assert page.evaluate("Object.keys(liveModels)") == ["digits"]
    choose(page, "model", "fashion-mnist")
    page.wait_for_function("document.querySelector('canvas').width === 28")
    press(page, "One step")
    said(page, "Stopped at t = 800.")
    assert pictures(page)[1].max() > 50


def test_nothing_is_loaded_before_the_panel_is_near(show):
    page = show(above='<div style="height: 4000px"></div>')
    page.wait_for_timeout(300)
    assert page.evaluate("typeof liveModels") == "undefined"
    page.locator("figure").scroll_into_view_if_needed()
    words(page, "t = 1000")


@pytest.mark.parametrize("width", [390, 1280])
def test_panel_fits(show, width):
    page = show(viewport={"width": width, "height": 900})
    words(page, "t = 1000")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [box.bounding_box() for box in page.locator("canvas").all()]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert min(box["width"] for box in boxes) > 120


def test_still_picture_stands_where_no_script_runs(show):
    page = show(java_script_enabled=False)
    assert page.locator("img").is_visible()
    assert page.locator("noscript").is_visible()
    assert page.locator("button").count() == 0


def test_panel_draws_without_workers(show):
    page = show(script="delete window.Worker")
    words(page, "t = 1000")
    press(page, "Draw")
    said(page, "Drawn from seed 1 in 5 calls.")


def test_panel_says_that_a_model_is_missing(show, folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("digits.js"))
    page = show(where=tmp_path)
    words(page, "The panel does not run here: digits.js cannot be loaded.")


GUIDED = {
    "models": "fashion-mnist-classes",
    "classes": "T-shirt/top, Trouser, Pullover",
    "label": 1,
    "guidance": 2,
    "controls": "label guidance",
}


def test_class_and_scale_are_those_that_are_chosen(show):
    """Without guidance, w = 0, the class changes nothing; with it both do."""
    page, drawn = show(data=GUIDED), {}
    words(page, "t = 1000")
    assert page.locator("[name=label]").input_value() == "1"
    assert page.locator("[name=label] option").all_inner_texts() == ["T-shirt/top", "Trouser", "Pullover"]
    for label, scale in (("1", "2"), ("1", "0"), ("0", "0"), ("0", "2")):
        choose(page, "label", label)
        choose(page, "guidance", scale)
        words(page, "t = 1000, 0 of 5 calls")
        press(page, "Draw")
        said(page, "Drawn from seed 1 in 5 calls.")
        drawn[label, scale] = pictures(page)[0]
    assert (drawn["1", "0"] == drawn["0", "0"]).all()
    assert (drawn["1", "2"] != drawn["0", "2"]).any()
    assert (drawn["1", "2"] != drawn["1", "0"]).any()


PRESSED = [
    ("intro", "draw", "Draw", "Drawn from seed 1 in 50 calls."),
    ("07-training", "sampling", "One step", "Stopped at t = 999."),
    ("08-sampling", "sampling", "One step", "Stopped at t = 980."),
    ("10-conditioning", "guidance", "One step", "Stopped at t = 950."),
    ("08-sampling", "mixture", "Walk", "80 points walked from seed 1 in 50 steps."),
]


@pytest.fixture
def built(chromium):
    """A function that opens a page of the book from the disk; no page asks a host or fails."""
    pages, wrong = [], []

    def built(name):
        page = chromium.new_page(reduced_motion="reduce")
        pages.append(page)
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda asked: wrong.append(asked.url) if asked.url.startswith("http") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
        page.goto((HTML / "chapters" / f"{name}.html").as_uri())
        return page

    if not (HTML / "index.html").exists():
        pytest.skip("the book is not built")
    yield built
    for page in pages:
        page.close()
    assert not wrong


@pytest.mark.parametrize(("name", "panel", "pressed", "answer"), PRESSED)
def test_panel_of_a_page_runs_from_the_disk_and_asks_no_host(built, name, panel, pressed, answer):
    place = built(name).locator(f"#live-{panel}")
    place.scroll_into_view_if_needed()
    place.locator(".live-where").first.filter(has_text="t = 1000, 0 of ").wait_for()
    place.get_by_role("button", name=pressed, exact=True).press("Enter")
    place.locator(".live-said", has_text=answer).wait_for(state="attached")


def test_schedules_of_chapter_3_move_from_the_disk(built):
    place = built("03-schedules-and-snr").locator("#live-schedule")
    place.scroll_into_view_if_needed()
    place.locator("[name=schedule]").select_option("linear, not rescaled")
    place.locator("[name=timesteps]").select_option("200")
    place.locator("[name=t]").press("End")
    # What the chapter says of the line that it begins with.
    place.locator(".live-where", has_text="t = 200 of 200: λ = −1.9, √ᾱ = 0.364").wait_for()
