"""The trained models in `checkpoints/`: each loads by its name, and its card and its samples are its own."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ddpm import load_pretrained
from ddpm.training.distributed import draw_images

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"


FASHION = CHECKPOINTS / "fashion-mnist"


def test_two_models_ship_each_with_its_card():
    for name in ("digits", "fashion-mnist"):
        files = {path.name for path in (CHECKPOINTS / name).iterdir()}
        assert {"config.json", "model.safetensors", "README.md", "run.json"} <= files
        parameters = sum(parameter.numel() for parameter in load_pretrained(name).network.parameters())
        assert f"{parameters:,} parameters" in (CHECKPOINTS / name / "README.md").read_text(encoding="utf-8")
    assert {path.parent.name for path in CHECKPOINTS.glob("*/config.json")} == {"digits", "fashion-mnist"}


def test_the_fashion_model_is_small():
    """At most 2 million parameters, in float16, in at most 8 MB."""
    file = FASHION / "model.safetensors"
    tensors = load_file(file)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert sum(tensor.numel() for tensor in tensors.values()) <= 2_000_000
    assert file.stat().st_size <= 8 * 10**6


def test_the_fashion_card_says_what_was_measured():
    card, run = (
        (FASHION / "README.md").read_text("utf-8"),
        json.loads((FASHION / "run.json").read_text("utf-8")),
    )
    bound = re.search(r"([\d.]+) ± ([\d.]+) bits per dimension", card)
    assert float(bound[1]) == pytest.approx(run["bits_per_dimension"], abs=5e-4)
    assert float(bound[2]) == pytest.approx(run["standard_error"], abs=5e-4)
    assert run["bits_per_dimension"] + run["standard_error"] < 3.3
    for figure in (f"{run['steps']:,} steps", f"`{run['command']}`", f"`{run['before']['command']}`"):
        assert figure in card
    for features in ("classifier", "pixels"):
        report = run[features]
        assert f"Fréchet distance {report['distance']:.3g} " in card
        assert f"precision {report['precision']:.3f}, recall {report['recall']:.3f}" in card


def test_the_fashion_samples_are_those_of_the_model():
    """Drawn again from the first four seeds, within two grey levels: what another CPU rounds differently."""
    grid = np.asarray(Image.open(FASHION / "samples.png").convert("L"))
    assert grid.shape == (8 * 29 + 1, 8 * 29 + 1)
    for place, image in enumerate(draw_images(load_pretrained("fashion-mnist"), range(4))):
        left = 1 + 29 * place
        shown = grid[1:29, left : left + 28].astype(int)
        assert np.abs(shown - 255 * image[0].numpy()).max() < 2.6
