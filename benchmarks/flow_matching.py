"""Does flow matching draw better digits than v-prediction after the same time? And EDM's loss? In one run.

    OMP_NUM_THREADS=1 python -m benchmarks.flow_matching

For every seed, `ddpm train digits` is run with its preset (v on the cosine schedule), with flow matching's target and
schedule, and with EDM's weights on the preset. Nothing else differs: the same network, as many steps of as many images,
and so the same time but for chance; the time of each process is written down. The order of the three changes from seed
to seed. From each model 1,797 samples are drawn with 50 network calls of DDIM, η = 0 and 1, on timesteps that are even
in t (for flow matching that is even in its own time τ) and even in λ, and held against all 1,797 digits: the Fréchet
distance on raw pixels and the share of samples that `DigitClassifier` is sure of. (Bits per dimension are left out: the
flow schedule's first noise is an eighth of the step between two grey levels, which makes its decoder another one.)

For each pair of losses the last lines give the mean over seeds of the difference of the distances, with its standard
error. The figures go to flow_matching.json. `--train-steps 40 --samples 64` is a quick look whether it runs.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.network_speed.summary import machine
from ddpm import load_pretrained
from ddpm.data import digits
from ddpm.evaluation.features import DigitClassifier
from ddpm.evaluation.metrics import frechet_distance
from ddpm.io.checkpoint import newest_checkpoint
from ddpm.training.distributed import draw_images

RESULTS = Path(__file__).with_suffix(".json")
CALLS, BATCH = 50, 599
LOSSES: dict[str, list[str]] = {
    "v": [],
    "flow matching": ["diffusion.objective=pred_flow", "diffusion.beta_schedule=flow"],
    "EDM": ['diffusion.loss_weighting={"name": "EDM"}'],
}
IMAGES, LABELS = digits().tensors
CLASSIFIER = DigitClassifier(IMAGES, LABELS)


def train(loss: str, seed: int, run: Path, steps: int | None) -> float:
    """Train by the command; the seconds that the whole process took."""
    command = [sys.executable, "-m", "ddpm", "train", "digits", "--seed", str(seed), "--out", str(run)]
    for setting in LOSSES[loss]:
        command += ["--set", setting]
    command += [] if steps is None else ["--train-steps", str(steps)]
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - started


def scored(run: Path, samples: int) -> dict[str, Any]:
    """How good what a run has learned is."""
    model = load_pretrained(run)
    figures: dict[str, Any] = {"steps": newest_checkpoint(run).step}
    for spacing in ("even", "log-snr"):
        for eta in (0.0, 1.0):
            options = {"sampling_timesteps": CALLS, "sampler": "ddim", "eta": eta, "spacing": spacing}
            drawn = draw_images(model, range(samples), batch_size=BATCH, **options)
            figures[f"{spacing}, eta {eta:g}"] = {
                "distance": round(frechet_distance(drawn, IMAGES), 4),
                "recognised": round(CLASSIFIER.fraction_recognised(drawn), 4),
            }
    return figures


def compared(rows: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Distance of each other loss minus that of v, seed by seed: mean and standard error."""
    ways = [key for key in rows[0]["v"] if "eta" in key]
    table: dict[str, dict[str, str]] = {}
    for loss in list(LOSSES)[1:]:
        for way in ways:
            off = [row[loss][way]["distance"] - row["v"][way]["distance"] for row in rows]
            error = statistics.stdev(off) / math.sqrt(len(off)) if len(off) > 1 else math.nan
            table.setdefault(f"{loss} minus v", {})[way] = f"{statistics.mean(off):+.4f} ± {error:.4f}"
    return table


def main() -> None:
    """Train and score for each seed, print a line each, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--train-steps", type=int, help="fewer than the preset: a quick look, not written down"
    )
    parser.add_argument("--samples", type=int, default=len(IMAGES))
    options = parser.parse_args()
    rows = []
    for number, seed in enumerate(options.seeds):
        row: dict[str, Any] = {"seed": seed}
        turn = number % len(LOSSES)
        for loss in [*list(LOSSES)[turn:], *list(LOSSES)[:turn]]:
            with tempfile.TemporaryDirectory() as folder:
                run = Path(folder) / "run"
                seconds = round(train(loss, seed, run, options.train_steps), 1)
                row[loss] = {"seconds": seconds, **scored(run, options.samples)}
        rows.append(row)
        print(json.dumps(row), flush=True)
    differences = compared(rows)
    print(json.dumps(differences, indent=2, ensure_ascii=False))
    if options.train_steps is not None or options.samples != len(IMAGES):
        return
    threads = torch.get_num_threads()
    command = f"OMP_NUM_THREADS={threads} python -m benchmarks.flow_matching"
    written = {
        "command": command,
        "machine": machine(threads, "cpu"),
        "rows": rows,
        "differences": differences,
    }
    RESULTS.write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
