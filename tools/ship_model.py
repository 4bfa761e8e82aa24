"""Put a run's model among those that ship: averaged weights in float16, a card of measured figures, a grid of samples.

    python tools/ship_model.py RUN NAME --hardware "one core of a shared CPU"

All figures are measured here, on the weights as they ship, or read from the run's metrics.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.utils import make_grid, save_image

from ddpm import GaussianDiffusion, load_pretrained, save_pretrained
from ddpm.cli.drawing import drawn_by
from ddpm.cli.presets import choose_preset
from ddpm.cli.run_config import RunConfig
from ddpm.evaluation.features import extractor
from ddpm.evaluation.report import (
    bits_per_dimension,
    first_images,
    random_batches,
    random_images,
    report_on_samples,
)
from ddpm.io.paths import find_model
from ddpm.training.distributed import draw_images
from ddpm.training.metrics_logger import read_metrics

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
TIMESTEPS = 10  # drawn per test image for the bound
JUDGED = 5000  # samples held against as many test images
BATCH = 250
# What a command need not say: the machine's paths, what follows from the data, and how often to look.
UNSAID = ("root", "results_folder", "channels", "class_names", "save_and_sample_every", "num_samples")


def command_of(run_config: RunConfig) -> str:
    """The command that trains such a model: its data, and every option that is not its preset's."""
    data = run_config.data["name_or_path"]
    preset = choose_preset(data)[1]
    begins = ""
    if run_config.start is not None:
        preset, begins = preset.started_from(run_config.start)[0], f" --from {run_config.start}"
    changed = [
        f"--set {part}.{option}={json.dumps(value, separators=(',', ':'))}"
        for part in ("network", "diffusion", "training")
        for option, value in getattr(run_config, part).items()
        if option not in UNSAID and value != getattr(preset, part).get(option)
    ]
    return " ".join([f"ddpm train {data}{begins}", *changed])


def measured(
    model: GaussianDiffusion, samples: Tensor, train: Dataset[Any], test: Dataset[Any]
) -> dict[str, Any]:
    """The bound on all test images, and the samples beside as many of them."""
    images, labels = first_images(test, len(test))  # pyright: ignore[reportArgumentType]
    labels = labels if getattr(model.network, "num_classes", None) else None
    bound = bits_per_dimension(model, images, labels, timesteps_per_image=TIMESTEPS)
    real, _ = random_images(test, len(samples))
    figures = {
        "test_images": len(images),
        "levels_per_image": TIMESTEPS,
        "bits_per_dimension": round(float(bound.mean), 4),
        "standard_error": round(float(bound.standard_error), 4),
        **drawn_by(model, None),
        "samples": len(samples),
    }
    for features in ("classifier", "pixels"):
        near = (random_batches(part, len(images)) for part in (train, test))
        report = asdict(report_on_samples(samples, real, *near, features=extractor(features)))
        figures[features] = {name: value and round(value, 5) for name, value in report.items()}
    return figures


def card(name: str, run_config: RunConfig, model: GaussianDiffusion, run: Mapping[str, Any]) -> str:
    """The model card, in Markdown."""
    network = ", ".join(
        f"{option}={value}" for option, value in run_config.network.items() if value not in (None, False)
    )
    training = run_config.training
    told = ", given their classes" if run_config.network.get("num_classes") else ""
    rows = {
        "data": f"{run_config.data['name_or_path']}, its {run['training_images']:,} training images,"
        f" {' × '.join(map(str, model.image_shape))}",
        "network": f"`Unet({network})`, {run['parameters']:,} parameters",
        "diffusion": f"T = {model.schedule.timesteps}, {model.beta_schedule} schedule, {model.objective}",
        "training": f"{run['steps']:,} steps of {training['train_batch_size']} images,"
        f" {run['images'] / run['training_images']:.1f} passes over the data",
        "command": f"`{run['command']}`",
        **_described_before(name, run["before"]),
        "time": f"{run['seconds'] / 60:.0f} minutes on {run['hardware']}; torch {run['torch']}",
        f"bound on the {run['test_images']:,} test images{told}": f"{run['bits_per_dimension']:.3f} ±"
        f" {run['standard_error']:.3f} bits per dimension (standard error; {run['levels_per_image']} timesteps each)",
        "samples": f"{run['samples']:,}, each by {run['network_calls']} network calls of {run['sampler']!r}, rounded to"
        " grey levels and held against as many random test images",
        "by features of the classifier": _judged(run["classifier"]),
        "by raw pixels": _judged(run["pixels"]),
        "copies": f"mean distance to the nearest of {run['test_images']:,} training images over that to the nearest of"
        f" as many test images: {run['pixels']['nearest_ratio']:.3f}",
    }
    return "\n".join(
        [
            f"# {name}",
            "",
            "| | |",
            "|---|---|",
            *(f"| {key} | {value} |" for key, value in rows.items()),
            "",
            "![Samples](samples.png)",
            "",
            "The samples are those of seeds 0 to 63, none left out. `model.safetensors` holds the averaged weights in"
            " float16, `config.json` the arguments, `run.json` the figures. Load with"
            f' `ddpm.load_pretrained("{name}")`, which makes float32 of them. Code and weights are under the MIT'
            " licence.",
            "",
        ]
    )


def _training_before(run_config: RunConfig) -> dict[str, Any] | None:
    """What is known of the training of the model whose weights the run began with; None for fresh weights."""
    if run_config.start is None:
        return None
    run = json.loads((find_model(run_config.start) / "run.json").read_text(encoding="utf-8"))
    kept = ("command", "steps", "images", "seconds", "hardware", "before")
    return {"name": run_config.start} | {name: run[name] for name in kept if name in run}


def _described_before(name: str, before: Mapping[str, Any] | None) -> dict[str, str]:
    """Rows for the model whose weights the run began with."""
    if before is None:
        return {}
    if before["name"] != name:
        return {"began with": f"the weights of `{before['name']}`"}
    return {
        "began with": "the weights of the model that had this name before, trained in"
        f" {before['seconds'] / 60:.0f} minutes on {before['hardware']}, {before['steps']:,} steps, by"
        f" `{before['command']}`"
    }


def _judged(report: Mapping[str, Any]) -> str:
    """The figures of one kind of features, in words."""
    return (
        f"Fréchet distance {report['distance']:.3g} ({report['halves']:.3g} between two halves of the test images,"
        f" which are smaller sets and so lie farther apart); kernel distance {report['kernel_distance']:.2g} ±"
        f" {report['kernel_error']:.1g}; precision {report['precision']:.3f}, recall {report['recall']:.3f}"
    )


def main() -> None:
    """Export, measure, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--hardware", required=True, help="where it was trained, in words")
    options = parser.parse_args()
    run_config = RunConfig.load(options.run)
    command, before = command_of(run_config), _training_before(run_config)
    # In a folder of its own until all is measured, as it may take the place of the model it began with.
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_pretrained(load_pretrained(options.run), folder, dtype=torch.float16)
        model = load_pretrained(folder)
        samples = draw_images(model, range(JUDGED), batch_size=BATCH, progress=True)
        save_image(make_grid(samples[:64], nrow=8, padding=1, pad_value=1.0), folder / "samples.png")
        last = read_metrics(options.run)[-1]
        run = {
            "command": command,
            "before": before,
            "steps": last["step"],
            "images": last["images"],
            "training_images": len(run_config.load_data()),
            "seconds": round(last["seconds"]),
            "hardware": options.hardware,
            "torch": torch.__version__,
            "parameters": sum(parameter.numel() for parameter in model.network.parameters()),
            **measured(model, samples, run_config.load_data(), run_config.load_data(train=False)),
        }
        (folder / "run.json").write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(card(options.name, run_config, model, run), encoding="utf-8")
        print(json.dumps(run, indent=2))
        ships = CHECKPOINTS / options.name
        ships.mkdir(exist_ok=True)
        for path in folder.iterdir():
            shutil.copy(path, ships)


if __name__ == "__main__":
    main()
