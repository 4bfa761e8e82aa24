"""The scripts of the models that run on pages hold the weights, and the built page has all that a panel loads."""

import base64
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from export_live_model import FRACTION_BITS, exported, live_model, rounded, snow

from ddpm import GaussianDiffusion, Unet, load_pretrained


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
    alpha_bar = np.frombuffer(base64.b64decode(model["alphaBar"]), "<f8")
    assert alpha_bar.tolist() == diffusion.schedule.exact_alpha_bar.tolist()
    assert model["network"] == load_pretrained(name).network.config


def test_network_that_the_engine_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = GaussianDiffusion(
        Unet(8, dim_mults=(1, 2), channels=1, num_classes=3), image_size=8, timesteps=9
    )
    monkeypatch.setattr("export_live_model.load_pretrained", lambda _: classes)
    with pytest.raises(ValueError, match=r"knows no network with \{'num_classes': 3\}"):
        exported("digits")


def test_snow_is_standard_normal_and_grows_at_its_end() -> None:
    values = snow(7, (20_000,))
    assert abs(values.mean()) < 4 / 20_000**0.5
    assert values.var() == pytest.approx(1, abs=4 * (2 / 20_000) ** 0.5)
    assert torch.equal(snow(7, (99,)), values[:99])
    assert not torch.equal(snow(8, (99,)), values[:99])


def test_panel_of_the_front_page_finds_its_scripts(html: Path, chapters: dict[str, BeautifulSoup]) -> None:
    (panel,) = chapters["intro"].select("figure.live-model")
    folder = html / "_static" / "live"
    for name in str(panel["data-models"]).split():
        assert (folder / f"{name}.js").read_text(encoding="utf-8") == exported(name), "Build the book again."
    for name in ("layers.js", "network.js", "samplers.js", "panel.js", "panel.css"):
        assert (folder / name).stat().st_size, name
    assert (
        len(panel.select("img[alt]")) == len(panel.select("noscript")) == len(panel.select("figcaption")) == 1
    )
    # One page does not load what only another one needs.
    assert not chapters["notation"].select('script[src*="/live/"]')
