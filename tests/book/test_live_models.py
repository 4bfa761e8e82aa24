"""The scripts of the models that run on pages hold the weights, and the built page has all that a panel loads."""

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from book_numbers import ROOT
from bs4 import BeautifulSoup
from draw_live_still import DRAWN, STILLS
from export_live_model import FRACTION_BITS, exported, live_model, rounded, snow
from live_tables import LENGTHS, MIXTURES, STEPS, TABLES, tables_script
from PIL import Image

from ddpm import GaussianDiffusion, NoiseSchedule, Unet, load_pretrained
from ddpm.book.photographs import cat_photograph
from ddpm.book.widgets import EXPLORED
from ddpm.grids import Spacing, timestep_grid
from ddpm.schedule import cosine_betas


def test_weights_are_rounded_to_the_nearest() -> None:
    values = torch.tensor([0.0, 1.0, -1.0, 1 + 2**-4, 1 + 3 * 2**-4, -1.99, 2.0**-24, 3e-5])
    assert torch.equal(rounded(values, 10), values.half().float())
    assert rounded(values, 3).tolist()[:6] == [0.0, 1.0, -1.0, 1.0, 1.25, -2.0]


@pytest.mark.parametrize("name", list(FRACTION_BITS))
def test_script_holds_the_model(name: str) -> None:
    script, diffusion = exported(name), live_model(name)
    start = f'(globalThis.liveModels ??= {{}})["{name}"] = '
    assert script.startswith(start)
    model = json.loads(script.removeprefix(start).removesuffix(";\n"))
    high, low = np.frombuffer(zlib.decompress(base64.b64decode(model["weights"])), "u1").reshape(2, -1)
    weights = torch.from_numpy(np.stack([low, high], 1).copy().view("<f2").ravel()).float()
    expected = diffusion.network.state_dict()
    assert model["tensors"] == [[key, list(value.shape)] for key, value in expected.items()]
    assert torch.equal(weights, torch.cat([value.flatten() for value in expected.values()]))
    check_schedule(model["schedule"], diffusion.schedule)
    assert model["network"] == load_pretrained(name).network.config


def check_schedule(written: dict[str, Any], schedule: NoiseSchedule) -> None:
    """What a sampler of the pages reads: the package's tables and grids, to the last digit."""
    for name, table in (("alphaBar", schedule.exact_alpha_bar), ("logSnr", schedule.exact_log_snr)):
        assert np.frombuffer(base64.b64decode(written[name]), "<f8").tolist() == table.tolist()
    assert written["timesteps"] == schedule.timesteps
    assert set(written["grids"]) == set(get_args(Spacing))
    for spacing, grids in written["grids"].items():
        for steps, grid in grids.items():
            assert grid == timestep_grid(schedule, int(steps), spacing)


def tables_of(name: str) -> dict[str, Any]:
    """What the script of a panel's tables holds."""
    start = f"globalThis.{TABLES[name][0]} = "
    script = tables_script(name)
    assert script.startswith(start)
    return json.loads(script.removeprefix(start).removesuffix(";\n"))


def test_mixtures_are_written_with_the_schedule_of_chapter_8() -> None:
    tables = tables_of("mixture-tables")
    check_schedule(tables["schedule"], NoiseSchedule(cosine_betas(1000), dtype=torch.float64))
    for name, (means, variances) in MIXTURES.items():
        bumps = tables["presets"][name]
        assert [bump["mean"] for bump in bumps] == means.tolist()
        assert [bump["variance"] for bump in bumps] == variances.tolist()
    chapter = (ROOT / "chapters" / "08-sampling.ipynb").read_text(encoding="utf-8")
    assert (
        f'\\"means\\": {[[round(x, 6) for x in mean] for mean in MIXTURES["three"][0].tolist()]}' in chapter
    )
    assert "cosine_betas(T), dtype=torch.float64" in chapter


def test_schedules_and_the_cat_are_written_as_they_are() -> None:
    tables = tables_of("schedule-tables")
    assert list(tables["schedules"]) == list(EXPLORED)
    for name, by_length in tables["schedules"].items():
        assert list(map(int, by_length)) == list(LENGTHS)
        for length, written in by_length.items():
            schedule = NoiseSchedule(EXPLORED[name](int(length)), dtype=torch.float64)
            expected = {
                "logSnr": schedule.log_snr,
                "signal": schedule.sqrt_alpha_bar,
                "sigma": schedule.sigma,
            }
            for key, table in expected.items():
                assert np.frombuffer(base64.b64decode(written[key]), "<f4").tolist() == table.float().tolist()
    cat = np.frombuffer(base64.b64decode(tables["photograph"]["pixels"]), "u1")
    assert cat.tolist() == (cat_photograph() * 255).round().byte().flatten().tolist()


@pytest.mark.parametrize("name", list(DRAWN))
def test_still_picture_is_what_the_tool_draws(name: str) -> None:
    drawn = np.asarray(DRAWN[name]().convert("RGB"), dtype=float)
    stored = np.asarray(Image.open(STILLS / f"{name}.png").convert("RGB"), dtype=float)
    assert stored.shape == drawn.shape
    # Letters may be a little different elsewhere.
    assert np.abs(stored - drawn).mean() < 3


def test_network_that_the_engine_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = GaussianDiffusion(
        Unet(8, dim_mults=(1, 2), channels=1, num_classes=3), image_size=8, timesteps=9
    )
    monkeypatch.setattr("export_live_model.load_pretrained", lambda _: classes)
    with pytest.raises(ValueError, match=r"knows no network with \{'label_dropout': 0.0\}"):
        exported("digits")


def test_snow_is_standard_normal_and_grows_at_its_end() -> None:
    values = snow(7, (20_000,))
    assert abs(values.mean()) < 4 / 20_000**0.5
    assert values.var() == pytest.approx(1, abs=4 * (2 / 20_000) ** 0.5)
    assert torch.equal(snow(7, (99,)), values[:99])
    assert not torch.equal(snow(8, (99,)), values[:99])


def test_panels_stand_on_their_pages_and_find_their_scripts(
    html: Path, chapters: dict[str, BeautifulSoup]
) -> None:
    folder, found = html / "_static" / "live", {}
    for page, soup in chapters.items():
        panels = soup.select("figure.live-model")
        found |= {(page, str(panel["id"]).removeprefix("live-")): panel for panel in panels}
        # One page does not load what only another one needs.
        assert bool(panels) == bool(soup.select('script[src*="/live/"]'))
    assert set(found) == {
        ("intro", "draw"),
        ("03-schedules-and-snr", "schedule"),
        ("07-training", "sampling"),
        ("08-sampling", "mixture"),
        ("08-sampling", "sampling"),
        ("10-conditioning", "guidance"),
    }
    for panel in found.values():
        assert [len(panel.select(kind)) for kind in ("img[alt]", "noscript", "figcaption")] == [1, 1, 1]
        assert int(str(panel.get("data-steps", STEPS[0]))) in STEPS
        for name in str(panel.get("data-models", "")).split():
            assert name in FRACTION_BITS
    written = {name: exported(name) for name in FRACTION_BITS} | {
        name: tables_script(name) for name in TABLES
    }
    for name, script in written.items():
        assert (folder / f"{name}.js").read_text(encoding="utf-8") == script, "Build the book again."
    panel_script = (folder / "panel.js").read_text(encoding="utf-8")
    kinds = re.findall(r"^    (\w+): (\[.*-panel\"\])", panel_script, re.MULTILINE)
    assert {str(panel["data-panel"]) for panel in found.values()} == {kind for kind, _ in kinds}
    for name in {name for _, names in kinds for name in json.loads(names)}:
        assert (folder / f"{name}.js").stat().st_size, name
