"""The trained models in `checkpoints/`: each loads by its name, and its card and its samples are its own."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ddpm import load_pretrained
from ddpm.training.distributed import draw_images

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"


# With the most bits per dimension that each may need.
FASHION = {"fashion-mnist": 3.3, "fashion-mnist-classes": 3.0}
fashion = pytest.mark.parametrize("name", FASHION)


def test_three_models_ship_each_with_its_card():
    for name in ("digits", *FASHION):
        files = {path.name for path in (CHECKPOINTS / name).iterdir()}
        assert {"config.json", "model.safetensors", "README.md", "run.json"} <= files
        parameters = sum(parameter.numel() for parameter in load_pretrained(name).network.parameters())
        assert f"{parameters:,} parameters" in (CHECKPOINTS / name / "README.md").read_text(encoding="utf-8")
    assert {path.parent.name for path in CHECKPOINTS.glob("*/config.json")} == {"digits", *FASHION}


@fashion
def test_a_fashion_model_is_small(name):
    """At most 2 million parameters, in float16, in at most 8 MB."""
    file = CHECKPOINTS / name / "model.safetensors"
    tensors = load_file(file)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert sum(tensor.numel() for tensor in tensors.values()) <= 2_000_000
    assert file.stat().st_size <= 8 * 10**6


@fashion
def test_a_fashion_card_says_what_was_measured(name):
    card, run = (CHECKPOINTS / name / "README.md").read_text("utf-8"), figures(name, "run")
    bound = re.search(r"([\d.]+) ± ([\d.]+) bits per dimension", card)
    assert float(bound[1]) == pytest.approx(run["bits_per_dimension"], abs=5e-4)
    assert float(bound[2]) == pytest.approx(run["standard_error"], abs=5e-4)
    assert run["bits_per_dimension"] + run["standard_error"] < FASHION[name]
    began = run["before"]["command"] if run["before"]["name"] == name else run["before"]["name"]
    for figure in (f"{run['steps']:,} steps", f"`{run['command']}`", f"`{began}`"):
        assert figure in card
    for features in ("classifier", "pixels"):
        report = run[features]
        assert f"Fréchet distance {report['distance']:.3g} " in card
        assert f"precision {report['precision']:.3f}, recall {report['recall']:.3f}" in card


def test_the_card_of_the_model_with_classes_says_what_guidance_does():
    """And w = 2 gives what was asked for: the class in 95 % of the samples, for at most a fifth of the recall."""
    card = (CHECKPOINTS / "fashion-mnist-classes" / "README.md").read_text("utf-8")
    rows = figures("fashion-mnist-classes", "guidance")["rows"]
    mean = {}
    for w in (1, 2, 4):
        for name in ("agreement", "recall"):
            mean[name, w] = sum(row[name] for row in rows if row["w"] == w) / 3
        assert re.search(
            rf"^\| {w} \|.*\| {mean['recall', w]:.3f} ±.*\| {mean['agreement', w]:.3f} ±", card, re.M
        )
    assert mean["agreement", 2] >= 0.95
    assert mean["recall", 2] >= 0.8 * mean["recall", 1]


@fashion
def test_fashion_samples_are_those_of_the_model(name):
    """Drawn again from the first four seeds, within two grey levels: what another CPU rounds differently."""
    grid = np.asarray(Image.open(CHECKPOINTS / name / "samples.png").convert("L"))
    assert grid.shape == (8 * 29 + 1, 8 * 29 + 1)
    for place, image in enumerate(draw_images(load_pretrained(name), range(4))):
        left = 1 + 29 * place
        shown = grid[1:29, left : left + 28].astype(int)
        assert np.abs(shown - 255 * image[0].numpy()).max() < 2.6


def figures(name: str, kind: str) -> dict[str, Any]:
    """What a tool wrote beside a model."""
    return json.loads((CHECKPOINTS / name / f"{kind}.json").read_text("utf-8"))
