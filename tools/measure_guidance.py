"""Measure what classifier-free guidance does to a Fashion-MNIST model with classes, and put the tables on its card.

    OMP_NUM_THREADS=1 python tools/measure_guidance.py fashion-mnist-classes --data-root data

For each scale w and each of three sets of seeds as many images are drawn as SAMPLES says, equally many of each class,
as the model samples by default. They are rounded to grey levels and compared by the features of the classifier that
ships: with all test images by the Fréchet distance, with as many random ones by precision and recall. The agreement is
the part of the images in which that classifier finds the class that was asked for. The figures go to guidance.json
beside the model, set by set; a run that was stopped goes on.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ddpm import GaussianDiffusion, load_pretrained
from ddpm.cli.drawing import drawn_by
from ddpm.data.datasets import load_dataset
from ddpm.evaluation.features import extractor, fashion_classes, features_of
from ddpm.evaluation.metrics import Moments, frechet_distance, precision_recall
from ddpm.evaluation.report import first_images, random_images
from ddpm.io.paths import find_model
from ddpm.training.distributed import draw_images

SCALES, SEEDS, SAMPLES = (0.0, 1.0, 2.0, 4.0), 3, 2_000
BEGIN, END = "<!-- guidance -->", "<!-- end of guidance -->"
Row = dict[str, Any]


def measured(model: GaussianDiffusion, w: float, seed: int, test: Dataset[Any], everything: Moments) -> Row:
    """The figures of one set of images; without labels, for w = 0, there is nothing to agree with."""
    seeds, labels = range(seed * SAMPLES, (seed + 1) * SAMPLES), torch.arange(SAMPLES) % 10
    drawn = draw_images(model, seeds, labels=labels.tolist(), guidance=w, batch_size=200)
    images, _ = random_images(test, SAMPLES)
    drawn = drawn.mul(255).round().div(255)
    ours, theirs = (features_of(x, extractor("classifier")) for x in (drawn, images))
    precision, recall = precision_recall(ours, theirs)
    distance = frechet_distance(Moments([ours]), everything)
    agrees = _agreement(drawn, labels) if w else {"agreement": None, "agreement_by_class": None}
    return {"w": w, "seed": seed, "frechet": distance, "precision": precision, "recall": recall, **agrees}


def _agreement(drawn: Tensor, labels: Tensor) -> Row:
    right = (fashion_classes(drawn) == labels).double()
    by_class = [float(right[labels == label].mean()) for label in range(10)]
    return {"agreement": float(right.mean()), "agreement_by_class": by_class}


def spread(values: Iterable[float | None], digits: int) -> str:
    """Mean ± standard error over the sets of seeds."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    error = stdev(known) / len(known) ** 0.5 if len(known) > 1 else float("nan")
    return f"{mean(known):.{digits}f} ± {error:.{digits}f}"


def tables(found: dict[str, Any], names: list[str]) -> str:
    """The two tables of the card, in Markdown."""
    settings, rows = found["settings"], found["rows"]
    lines = [
        BEGIN,
        "",
        f"Classifier-free guidance, {settings['samples']:,} samples for each w and each of {settings['seeds']} sets of"
        f" seeds, {settings['network_calls']} steps of {settings['sampler']!r}, by features of the classifier: Fréchet"
        f" distance to the 10,000 test images, precision and recall with {settings['samples']:,} of them, and how often"
        " the classifier finds the class that was asked for (mean ± standard error over the sets). w = 1 is without"
        " guidance, w = 0 without labels.",
        "",
        "| w | Fréchet distance | precision | recall | agreement |",
        "|---|---|---|---|---|",
    ]
    for w in sorted({row["w"] for row in rows}):
        figures = [("frechet", 2), ("precision", 3), ("recall", 3), ("agreement", 3)]
        cells = (spread((row[name] for row in rows if row["w"] == w), digits) for name, digits in figures)
        lines.append(f"| {w:g} | {' | '.join(cells)} |")
    guided = sorted({row["w"] for row in rows} - {0})
    head = "".join(f" w = {w:g} |" for w in guided)
    lines += ["", f"| agreement by class |{head}", "|---|" + "---|" * len(guided)]
    for label, name in enumerate(names):
        by_class = ([row["agreement_by_class"][label] for row in rows if row["w"] == w] for w in guided)
        lines.append(f"| {name} |" + "".join(f" {spread(values, 3)} |" for values in by_class))
    return "\n".join([*lines, "", END])


def write_card(card: Path, text: str) -> None:
    """Put the tables on the card, in place of those that are there."""
    before, _, rest = card.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    card.write_text(f"{before.rstrip()}\n\n{text}\n{after.lstrip()}", encoding="utf-8")


def main() -> None:
    """Measure what the file does not hold yet, then write the card."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("--data-root", default="data")
    options = parser.parse_args()
    model, folder = load_pretrained(options.name), find_model(options.name)
    results = folder / "guidance.json"
    found: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {"rows": []}
    settings = {"samples": SAMPLES, "seeds": SEEDS, "features": "classifier", "reference": "test images"}
    found["settings"] = settings | drawn_by(model, None) | {"torch": torch.__version__}
    test = load_dataset("FashionMNIST", image_size=28, channels=1, root=options.data_root, train=False)
    everything = Moments([features_of(first_images(test, 10_000)[0], extractor("classifier"))])
    done = {(row["w"], row["seed"]) for row in found["rows"]}
    for seed in range(SEEDS):
        for w in SCALES:
            if (w, seed) not in done:
                found["rows"].append(measured(model, w, seed, test, everything))
                results.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
                print(found["rows"][-1], flush=True)
    write_card(folder / "README.md", tables(found, model.class_names or [str(label) for label in range(10)]))


if __name__ == "__main__":
    main()
