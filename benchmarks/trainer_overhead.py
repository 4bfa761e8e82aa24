"""What does the Trainer cost over a bare loop? The same network, data and optimiser, a few steps each in turn.

    OMP_NUM_THREADS=1 python -m benchmarks.trainer_overhead

The bare loop is the shortest that one would write: Algorithm 1 on a tensor that holds all images, with torch's fused
AdamW and nothing else. The second does what the Trainer does as well, by torch's own means: it clips the gradient and
keeps an average of the weights. The Trainer's steps are whole ones: loading, seeds, the step, the average, metrics and
their line.

One process, one thread. The loops are timed in turn, round after round, in changing order; a round's ratio is that of
its own two times, and the median over the rounds counts. CPU time is what the process itself used, which on a shared
machine wanders less than time by the clock; both are given. The figures go to trainer_overhead.json.
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import TensorDataset

from benchmarks.network_speed.summary import machine
from benchmarks.network_speed.tables import table
from ddpm import GaussianDiffusion, Trainer, Unet
from ddpm.data import digits
from ddpm.training.metrics_logger import MetricsLogger

RESULTS = Path(__file__).with_suffix(".json")
EVERY = 5  # steps between two of the average
DIGITS = {"dim": 16, "dim_mults": (1, 2), "num_res_blocks": 1, "attention_resolutions": ()}  # the preset's
SMALL = {"dim": 32, "dim_mults": (1, 2, 2), "num_res_blocks": 2}
# name -> network, size, batch, steps in a round, rounds
SIZES = {"8×8": (DIGITS, 8, 128, 6, 40), "32×32": (SMALL, 32, 32, 2, 10)}


def images_of(size: int) -> torch.Tensor:
    """The digits, or random pictures of another size."""
    if size == 8:
        return digits().tensors[0]
    return torch.rand(256, 1, size, size, generator=torch.Generator().manual_seed(0))


def model(network: dict, size: int) -> GaussianDiffusion:
    """The same weights for each loop."""
    torch.manual_seed(0)
    unet = Unet(**network, channels=1)
    return GaussianDiffusion(
        unet, image_size=size, objective="pred_v", beta_schedule="cosine", sampling_timesteps=1
    ).train()


def bare(diffusion: GaussianDiffusion, images: torch.Tensor, batch: int, *, whole: bool) -> Iterator[None]:
    """Algorithm 1 by hand; `whole` adds clipping and the average."""
    network, x = diffusion.network, images * 2 - 1
    alpha_bar, T = diffusion.schedule.alpha_bar.float(), diffusion.schedule.timesteps
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.975))
    step = 0
    while True:
        for chosen in torch.randperm(len(x)).split(batch)[: len(x) // batch]:
            x0, t = x[chosen], torch.randint(1, T + 1, (batch,))
            noise = torch.randn_like(x0)
            signal = alpha_bar[t].sqrt().view(-1, 1, 1, 1)
            sigma = (1 - alpha_bar[t]).sqrt().view(-1, 1, 1, 1)
            loss = F.mse_loss(network(signal * x0 + sigma * noise, t), signal * noise - sigma * x0)
            optimizer.zero_grad()
            loss.backward()
            if whole:
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            step += 1
            if whole and step % EVERY == 0:
                average.update_parameters(network)
            yield


def ours(diffusion: GaussianDiffusion, images: torch.Tensor, batch: int, folder: str) -> Iterator[None]:
    """The Trainer's loop, but for checkpoints and samples."""
    options = {"train_batch_size": batch, "train_lr": 1e-3, "ema_update_every": EVERY, "ema_decay": 0.975}
    trainer = Trainer(diffusion, TensorDataset(images), results_folder=folder, num_threads=1, **options)
    logger = MetricsLogger(trainer.config, trainer.accelerator, 0, trainer.images_per_step)
    with trainer.running() as network:
        batches = trainer.batches()
        while True:
            logger.add(*trainer.training_step(network, batches))
            trainer.count_step()
            if trainer.step % trainer.log_every == 0:
                trainer.seconds = logger.write(trainer.step, trainer.images_seen, trainer.seconds)
            yield


def timed(loop: Iterator[None], steps: int) -> tuple[float, float]:
    """Milliseconds of a step: by the process's own clock, and by that on the wall."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(steps):
        next(loop)
    return (time.process_time() - cpu) / steps * 1e3, (time.perf_counter() - wall) / steps * 1e3


def compared(name: str, folder: str, rounds: int | None) -> dict[str, dict[str, float]]:
    """The loops of one size, by name: medians, and the Trainer's ratio to each."""
    network, size, batch, steps, usual = SIZES[name]
    images = images_of(size)
    make: dict[str, Callable[[GaussianDiffusion], Iterator[None]]] = {
        "Trainer": lambda diffusion: ours(diffusion, images, batch, folder),
        "bare": lambda diffusion: bare(diffusion, images, batch, whole=False),
        "bare, clipped, averaged": lambda diffusion: bare(diffusion, images, batch, whole=True),
    }
    loops = {loop: begin(model(network, size)) for loop, begin in make.items()}
    times: dict[str, list[tuple[float, float]]] = {loop: [] for loop in loops}
    order, drawn = list(loops), random.Random(0)
    for loop in loops.values():
        timed(loop, steps)  # warms up
    for _ in range(rounds or usual):
        drawn.shuffle(order)
        for loop in order:
            times[loop].append(timed(loops[loop], steps))
    rows = {}
    for loop, taken in times.items():
        row: dict[str, float] = {"batch": batch, "rounds": len(taken), "steps": steps}
        for place, clock in enumerate(("cpu", "wall")):
            ratios = [one[place] / other[place] for one, other in zip(times["Trainer"], taken, strict=True)]
            median = statistics.median(pair[place] for pair in taken)
            row |= {
                f"{clock}_ms": round(median, 2),
                f"{clock}_images_per_second": round(1e3 * batch / median, 1),
                f"{clock}_trainer_over_this": round(statistics.median(ratios), 4),
            }
        rows[loop] = row
    return rows


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        sizes = {name: compared(name, folder, options.rounds) for name in options.sizes}
    report = {
        "command": "OMP_NUM_THREADS=1 python -m benchmarks.trainer_overhead",
        "machine": machine(1, "cpu"),
        "load_of_others": round(os.getloadavg()[0], 1),
        "sizes": sizes,
    }
    head = ["size", "loop", "batch", "CPU ms", "images/s of CPU time", "the Trainer takes", "by the clock"]
    rows = [
        [
            *(name, loop, str(row["batch"]), f"{row['cpu_ms']:.1f}", f"{row['cpu_images_per_second']:,.0f}"),
            *(f"{row['cpu_trainer_over_this']:.3f}", f"{row['wall_trainer_over_this']:.3f}"),
        ]
        for name, loops in sizes.items()
        for loop, row in loops.items()
    ]
    print(table(head, rows))
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
