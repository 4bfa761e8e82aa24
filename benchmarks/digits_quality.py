"""How good are the digits after the same time? `ddpm train digits` next to denoising-diffusion-pytorch, in one run.

    OMP_NUM_THREADS=2 python -m benchmarks.digits_quality

For every seed, ours is trained by its command with its preset, and then theirs by its own Trainer for as much wall time
as our whole process took, from the same digits as PNG files. From each, 1,797 samples are drawn with 100 network calls
and its own default of η (theirs 0, that of our preset 1), and from ours with η = 0 as well. They are held against all
1,797 digits: the Fréchet distance on raw pixels and the share of samples that `DigitClassifier` is sure of. The
figures go to digits_quality.json.

Theirs has its documented defaults (v-prediction, sigmoid schedule, average of the weights) apart from what a user would
change for pictures of 8×8: two levels, as narrow a network as ours, no mirroring, and the better of two learning rates
tried, 1e-3 and 3e-3, with batches of 32 (their README's) and 128.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torchvision.utils import save_image

from benchmarks.network_speed.summary import machine
from ddpm import load_pretrained
from ddpm.data import digits
from ddpm.evaluation.features import DigitClassifier
from ddpm.evaluation.metrics import frechet_distance
from ddpm.io.checkpoint import newest_checkpoint
from ddpm.training.distributed import draw_images

RESULTS = Path(__file__).with_suffix(".json")
CALLS, BATCH = 100, 599  # 1,797 samples in three batches
PEER_DIM, PEER_BATCH, PEER_LR = 16, 32, 1e-3


def train_ours(seed: int, run: Path) -> dict[str, Any]:
    """Train by the command; the wall time is that of the whole process."""
    command = [sys.executable, "-m", "ddpm", "train", "digits", "--seed", str(seed), "--out", str(run)]
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    model = load_pretrained(run)
    return {
        "seconds": seconds,
        "parameters": sum(parameter.numel() for parameter in model.network.parameters()),
        "steps": newest_checkpoint(run).step,
        "samples": {
            eta: draw_images(
                model, range(len(IMAGES)), batch_size=BATCH, sampling_timesteps=CALLS, sampler="ddim", eta=eta
            )
            for eta in (0.0, 1.0)
        },
    }


def train_theirs(seed: int, run: Path, seconds: float, lr: float) -> dict[str, Any]:
    """Train with their Trainer until the time is up."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet

    folder = run / "digits"
    folder.mkdir(parents=True)
    for number, image in enumerate(IMAGES):
        save_image(image, folder / f"{number}.png")

    class TimeUp(Exception):  # noqa: N818 (the end, not an error)
        """Raised when the time is up: their loop knows no other end."""

    started = time.monotonic()
    torch.manual_seed(seed)
    network = Unet(PEER_DIM, dim_mults=(1, 2), channels=1)
    diffusion = GaussianDiffusion(network, image_size=8, sampling_timesteps=CALLS)
    trainer = Trainer(
        diffusion,
        str(folder),
        train_batch_size=PEER_BATCH,
        train_lr=lr,
        train_num_steps=10**9,
        save_and_sample_every=10**9,
        augment_horizontal_flip=False,
        calculate_fid=False,
        results_folder=str(run / "results"),
    )
    update = trainer.ema.update

    def update_while_there_is_time() -> None:
        update()
        if time.monotonic() - started > seconds:
            raise TimeUp

    trainer.ema.update = update_while_there_is_time
    with contextlib.suppress(TimeUp):
        trainer.train()
    taken = time.monotonic() - started
    model = trainer.ema.ema_model.eval()
    with torch.inference_mode():
        samples = torch.cat([model.sample(batch_size=BATCH) for _ in range(3)]).clone().clamp(0, 1)
    return {
        "seconds": taken,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "steps": trainer.step,
        "lr": lr,
        "samples": {model.ddim_sampling_eta: samples},
    }


def scored(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures with the samples scored."""
    samples = figures.pop("samples")
    for eta, images in samples.items():
        figures[f"eta {eta:g}"] = {
            "distance": round(frechet_distance(images, IMAGES), 4),
            "recognised": round(CLASSIFIER.fraction_recognised(images), 4),
        }
    return figures | {"seconds": round(figures["seconds"], 1)}


def main() -> None:
    """Train and score for each seed, print a line each, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--peer-lr", type=float, default=PEER_LR)
    parser.add_argument("--peer-only", type=float, help="seconds: try theirs alone, and write nothing")
    options = parser.parse_args()
    rows = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            ours = {} if options.peer_only else scored(train_ours(seed, Path(folder) / "ours"))
            seconds = options.peer_only or ours["seconds"]
            theirs = scored(train_theirs(seed, Path(folder) / "theirs", seconds, options.peer_lr))
        rows.append({"seed": seed, "ours": ours, "theirs": theirs})
        print(json.dumps(rows[-1]), flush=True)
    if options.peer_only:
        return
    threads = torch.get_num_threads()
    command = f"OMP_NUM_THREADS={threads} python -m benchmarks.digits_quality"
    RESULTS.write_text(
        json.dumps({"command": command, "machine": machine(threads, "cpu"), "rows": rows}, indent=2) + "\n"
    )


IMAGES, LABELS = digits().tensors
CLASSIFIER = DigitClassifier(IMAGES, LABELS)

if __name__ == "__main__":
    main()
