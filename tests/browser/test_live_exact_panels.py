"""The two panels without a network: points that walk back to a mixture, and schedules with a photograph."""

import numpy as np
import pytest
import torch
from export_live_model import snow
from live_tables import LENGTHS, MIXTURES, mixture_schedule

from ddpm import GaussianMixtureOracle, NoiseSchedule
from ddpm.book.photographs import cat_photograph
from ddpm.book.widgets import EXPLORED
from ddpm.samplers import ddim
from tests.browser.panels import choose, pictures, press, said, words

# ---- the panel of the points

COLOURS = """places => {
  const context = document.querySelector("canvas").getContext("2d");
  return places.map(([x, y]) => [...context.getImageData(x, y, 1, 1).data].slice(0, 3));
}"""


def points_are_drawn(page, x):
    """Whether the canvas, which shows [-3.2, 3.2]², has the colour of a point wherever one of these lies in it."""
    points = x.view(-1, 2)[x.view(-1, 2).abs().amax(1) < 3.15]
    assert len(points) > 70
    places = (torch.stack([points[:, 0], -points[:, 1]], 1) + 3.2) / 6.4 * 640
    colours = torch.tensor(page.evaluate(COLOURS, places.int().tolist()))
    # Edges of other points that lie over one change the last digits.
    return bool((colours - torch.tensor([0xD5, 0x5E, 0x00])).abs().max() <= 4)


def test_points_walk_by_keyboard_and_can_be_stopped(show):
    page = show("mixture")
    words(page, "t = 1000, 0 of 5 steps")
    assert points_are_drawn(page, snow(1, (80, 1, 1, 2)))
    press(page, "One step")
    said(page, "Stopped at t = 800.")
    words(page, "t = 800, 1 of 5 steps")
    label = page.locator("canvas").get_attribute("aria-label")
    assert label == "80 points at t = 800 of 1000, over the density of the noisy data; the data are 10 bumps"
    press(page, "Go on")
    said(page, "80 points walked from seed 1 in 5 steps.")
    oracle = GaussianMixtureOracle(mixture_schedule(), *MIXTURES["ring"])
    *_, last = ddim(oracle, snow(1, (80, 1, 1, 2)), 5, clip_x0=False)
    assert points_are_drawn(page, last.x)
    assert not points_are_drawn(page, snow(1, (80, 1, 1, 2)))


def test_every_distribution_and_sampler_can_be_chosen(show):
    page = show("mixture")
    for name in MIXTURES:
        choose(page, "preset", name)
        words(page, "t = 1000, 0 of 5 steps")
        press(page, "Walk")
        said(page, "80 points walked")
    choose(page, "sampler", "ddpm")
    words(page, "t = 1000, 0 of 1000 steps")
    assert (
        page.locator("[name=steps], [name=eta], [name=spacing]").evaluate_all(
            "all => all.map(one => one.disabled)"
        )
        == [True] * 3
    )
    choose(page, "sampler", "dpm++")
    assert page.locator("[name=eta]").is_disabled()
    assert page.locator("[name=steps]").is_enabled()


def test_a_distribution_is_drawn_by_keyboard_and_by_mouse(show):
    page = show("mixture")
    choose(page, "preset", "your own")
    words(page, "Draw bumps here")
    assert page.get_by_role("button", name="Walk", exact=True).is_disabled()
    canvas = page.locator("canvas")
    canvas.focus()
    # The second does not move the cross, and a bump is there already.
    for key in ("Enter", "Enter", *["ArrowRight"] * 6, "Space"):
        canvas.press(key)
    assert "the data are 2 bumps" in canvas.get_attribute("aria-label")
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 120, box["y"] + 20, steps=20)
    page.mouse.up()
    page.mouse.move(box["x"] + 20, box["y"] + 200)
    count = int(canvas.get_attribute("aria-label").split("the data are ")[1].split()[0])
    assert 5 <= count <= 9
    words(page, "t = 1000, 0 of 5 steps")
    press(page, "Walk")
    said(page, "80 points walked")
    press(page, "Clear")
    words(page, "Draw bumps here")
    choose(page, "preset", "ring")
    assert not page.get_by_role("button", name="Clear").is_visible()


# ---- the panel of the schedules


def test_schedule_panel_shows_the_level_that_is_chosen(show):
    """The picture to one grey level, the numbers to their last digit, the dot at λ_t, for every schedule and length."""
    page = show("schedule")
    cat, slider = 2 * (cat_photograph() * 255).round() / 255 - 1, page.locator("[name=t]")
    noise = snow(1, (3, 64, 64))
    words(page, "t = 300 of 1000")
    for number, (name, betas) in enumerate(EXPLORED.items()):
        timesteps = LENGTHS[-1 - number]
        choose(page, "schedule", name)
        choose(page, "timesteps", str(timesteps))
        schedule = NoiseSchedule(betas(timesteps), dtype=torch.float64)
        for t in (0, round(0.4 * timesteps), timesteps):
            slider.fill(str(t))
            lam = "∞" if t == 0 else f"{schedule.log_snr[t]:.1f}".replace("-", "−")
            signal, sigma = schedule.sqrt_alpha_bar[t], schedule.sigma[t]
            words(page, f"t = {t} of {timesteps}: λ = {lam}, √ᾱ = {signal:.3f}, σ = {sigma:.3f}")
            noisy = ((signal * cat + sigma * noise).clamp(-1, 1) + 1) * 127.5
            assert np.abs(pictures(page)[0] - noisy[0].flatten().numpy()).max() <= 1
            share, height = page.locator(".live-dot").evaluate(
                "dot => [dot.cx.baseVal.value, dot.cy.baseVal.value]"
            )
            assert share == pytest.approx(38 + 272 * t / timesteps, abs=0.1)
            assert height == pytest.approx(8 + 158 * (11 - min(schedule.log_snr[t].item(), 11)) / 32, abs=0.1)


def test_lines_of_the_chart_are_the_log_snr(show):
    page = show("schedule")
    words(page, "t = 300")
    choose(page, "schedule", "cosine")
    choose(page, "timesteps", "25")
    path = page.locator(".live-chosen").get_attribute("d").removeprefix("M").split("L")
    places = torch.tensor([[float(number) for number in place.split()] for place in path])
    expected = NoiseSchedule(EXPLORED["cosine"](25), dtype=torch.float64).log_snr[1:].float()
    torch.testing.assert_close(11 - (places[:, 1] - 8) / 158 * 32, expected, rtol=0, atol=2e-3)
    torch.testing.assert_close(places[:, 0], 38 + 272 * torch.arange(1, 26) / 25, rtol=0, atol=6e-3)
    assert page.locator(".live-other").count() == len(EXPLORED) - 1


def test_slider_keeps_its_share_when_the_length_changes(show):
    page = show("schedule")
    words(page, "t = 300 of 1000")
    choose(page, "timesteps", "50")
    words(page, "t = 15 of 50")
    page.locator("[name=t]").press("End")
    words(page, "t = 50 of 50")
    page.locator("[name=t]").press("ArrowLeft")
    words(page, "t = 49 of 50")
    assert page.locator("[name=t]").get_attribute("aria-valuetext").startswith("t = 49 of 50: λ = ")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("panel", ["mixture", "schedule"])
def test_exact_panels_fit(show, panel, width):
    page = show(panel, viewport={"width": width, "height": 900})
    words(page, "t = ")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("canvas").bounding_box()["width"] > 150
    assert page.locator("img").count() == 0


@pytest.mark.parametrize("panel", ["mixture", "schedule"])
def test_still_picture_of_an_exact_panel_stands_where_no_script_runs(show, panel):
    page = show(panel, java_script_enabled=False)
    assert page.locator("img").is_visible()
    assert page.locator("button, input, select").count() == 0


def test_panels_of_one_page_do_not_disturb_each_other(show):
    """Chapter 8 has two, each with the script."""
    page = show("mixture", "draw", "schedule")
    for panel, start in (("schedule", "t = 300"), ("draw", "0 of 5 calls"), ("mixture", "0 of 5 steps")):
        page.locator(f"#live-{panel}").scroll_into_view_if_needed()
        page.locator(f"#live-{panel} .live-where", has_text=start).wait_for()
    page.locator("#live-mixture").get_by_role("button", name="Walk").press("Enter")
    page.locator("#live-draw").get_by_role("button", name="Draw").press("Enter")
    page.locator("#live-draw .live-where", has_text="t = 0, 5 of 5 calls").wait_for()
    page.locator("#live-mixture .live-where", has_text="t = 0, 5 of 5 steps").wait_for()
