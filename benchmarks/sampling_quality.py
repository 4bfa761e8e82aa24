"""Quality against network calls: our samplers and diffusers' DPM-Solver on the Fashion-MNIST network that ships.

    OMP_NUM_THREADS=2 python -m benchmarks.sampling_quality --data-root data

Each row draws as many images for each of three sets of seeds and holds them against the 10,000 test images, by the
Fréchet distance on the features of the classifier that ships and on raw pixels. Every sampler starts from the same
noise: image i from that of seed i. Diffusers' `DPMSolverMultistepScheduler` has its defaults (second order, the last
step of the first), its timesteps by each of its two spacings that begin at the last one; it does not clip x̂_0, which
ours does. Beside it stands each sampler's own error: how far, per pixel, its images lie from where it goes with
1,000 calls, under the network and under an exact denoiser, that of 1,000 training images.

The figures go to sampling_quality.json beside the model, row by row; a run that was stopped goes on. At the end stand
the tables, in Markdown.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from statistics import mean, stdev
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from benchmarks.network_speed.summary import machine
from ddpm import EmpiricalOracle, GaussianDiffusion, load_pretrained
from ddpm.data.datasets import load_dataset
from ddpm.diffusion import to_image_scale, to_model_scale
from ddpm.evaluation.features import extractor, features_of
from ddpm.evaluation.metrics import Moments, frechet_distance
from ddpm.evaluation.report import first_images, random_images
from ddpm.io.paths import find_model
from ddpm.prediction import Denoiser, full_timesteps, training_target
from ddpm.samplers import ddim, dpm_solver_pp, heun
from ddpm.support.randomness import image_generators, randn

NAME, BATCH, SAMPLES, SEEDS = "fashion-mnist", 50, 5_000, 3
CALLS = (10, 15, 20, 25)
FINEST, PATHS, REMEMBERED = 1_000, 250, 1_000  # for a sampler's own error: calls, images, training images
Draw = Callable[[Denoiser, Tensor], Tensor]


def ours(sampler: Callable[..., Any], **options: Any) -> Draw:
    """The last state of one of our samplers."""

    def draw(diffusion: Denoiser, x: Tensor) -> Tensor:
        for state in sampler(diffusion, x, **options):
            x = state.x
        return x

    return draw


@torch.no_grad()
def theirs(diffusion: Denoiser, x: Tensor, *, calls: int, spacing: str) -> Tensor:
    """Diffusers' loop; their timestep t is our t + 1, and what it is told is v."""
    scheduler = DPMSolverMultistepScheduler(
        num_train_timesteps=diffusion.schedule.timesteps,
        trained_betas=diffusion.schedule.beta[1:].tolist(),
        prediction_type="v_prediction",
        timestep_spacing=spacing,
    )
    scheduler.set_timesteps(calls)
    for t in scheduler.timesteps:
        at = full_timesteps(int(t) + 1, x)
        prediction = diffusion.predict(x, at)
        v = training_target(
            "pred_v", prediction.x0, prediction.noise, *diffusion.schedule.signal_and_sigma(at, x)
        )
        x = scheduler.step(v, t, x).prev_sample
    return x


def rows() -> dict[str, tuple[int, Draw]]:
    """What is compared, by name, with its network calls."""
    table: dict[str, tuple[int, Draw]] = {}
    for calls in CALLS:
        for spacing in ("karras", "even", "quadratic"):
            table[f"dpm++ {spacing} {calls}"] = (calls, ours(dpm_solver_pp, steps=calls, spacing=spacing))
        for spacing in ("trailing", "linspace"):
            table[f"diffusers {spacing} {calls}"] = (calls, partial(theirs, calls=calls, spacing=spacing))
        table[f"ddim even {calls}"] = (calls, ours(ddim, steps=calls))
    table["unclipped karras 10"] = (10, ours(dpm_solver_pp, steps=10, spacing="karras", clip_x0=False))
    table["heun even 25"] = (25, ours(heun, steps=13))
    table["ddim even 50"] = (50, ours(ddim, steps=50))
    return table


def noise(seeds: range) -> Tensor:
    """x_T of each seed, as `GaussianDiffusion.sample` draws it."""
    return randn((len(seeds), 1, 28, 28), image_generators(len(seeds), seeds=seeds), "cpu")


def distances(
    model: GaussianDiffusion, draw: Draw, seeds: range, reference: dict[str, Moments]
) -> dict[str, Any]:
    """Fréchet distances from images of these seeds, rounded to grey levels, to the reference, by features."""
    started = time.monotonic()
    drawn = {name: Moments() for name in reference}
    for first in range(seeds.start, seeds.stop, BATCH):
        images = to_image_scale(draw(model, noise(range(first, first + BATCH)))).mul(255).round().div(255)
        for name, moments in drawn.items():
            moments.update(features_of(images, extractor(name)))
    result: dict[str, Any] = {name: frechet_distance(drawn[name], reference[name]) for name in reference}
    return result | {"seconds": round(time.monotonic() - started)}


def solver_error(denoiser: Denoiser, draw: Draw, finest: Tensor) -> float:
    """Root mean square distance, per pixel, between where a sampler ends and where it would with many calls."""
    return float((draw(denoiser, noise(range(PATHS))) - finest).square().mean().sqrt())


def solver_errors(
    model: GaussianDiffusion, oracle: Denoiser, found: dict[str, Any], names: list[str]
) -> None:
    """Each sampler's own error, under the network and under the exact denoiser, where it is not there yet."""
    table = rows()
    for key, denoiser in (("network_solver_error", model), ("exact_solver_error", oracle)):
        missing = [name for name in names if key not in found["rows"].setdefault(name, {"sets": {}})]
        finest = (
            ours(dpm_solver_pp, steps=FINEST)(denoiser, noise(range(PATHS))) if missing else torch.empty(0)
        )
        for name in missing:
            found["rows"][name] |= {
                "calls": table[name][0],
                key: solver_error(denoiser, table[name][1], finest),
            }


def tables(found: dict[str, Any]) -> str:
    """What was found, in Markdown: mean ± standard error over the sets, and ours less diffusers', set by set."""
    lines = [
        "| sampler | calls | classifier | pixels | own error, network | own error, exact denoiser |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in found["rows"].items():
        sets = row["sets"].values()
        distances = (spread([one[features] for one in sets]) for features in ("classifier", "pixels"))
        errors = (f"{row[key]:.4f}" for key in ("network_solver_error", "exact_solver_error"))
        lines.append(
            f"| {name.rpartition(' ')[0]} | {row['calls']} | {' | '.join(distances)} | {' | '.join(errors)} |"
        )
    lines += ["", "| calls | ours less diffusers', classifier | pixels |", "|---|---|---|"]
    for calls in CALLS:
        pair = [found["rows"].get(f"{name} {calls}") for name in ("dpm++ karras", "diffusers trailing")]
        if None not in pair:
            a, b = (one["sets"] for one in pair if one)
            less = (spread([a[i][f] - b[i][f] for i in a]) for f in ("classifier", "pixels"))
            lines.append(f"| {calls} | {' | '.join(less)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean ± standard error."""
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{mean(values):.3f} ± {error:.3f}"


def main() -> None:
    """Measure what the file does not hold yet, set by set."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-root", default="data")
    parser.add_argument(
        "--only", default="", help="rows whose names begin with one of these, split by commas"
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help="sets of seeds")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="images of a set, a multiple of 50")
    options = parser.parse_args()
    model = load_pretrained(NAME)
    results = find_model(NAME) / "sampling_quality.json"
    found: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {"rows": {}}
    if found.setdefault("samples", options.samples) != options.samples:
        raise SystemExit(
            f"{results} has sets of {found['samples']} images: delete it, or give --samples that"
        )
    found |= {"reference": "the 10,000 test images", "machine": machine(torch.get_num_threads(), "cpu")}
    test = load_dataset("FashionMNIST", image_size=28, channels=1, root=options.data_root, train=False)
    training = load_dataset("FashionMNIST", image_size=28, channels=1, root=options.data_root)
    images, _ = first_images(test, 10_000)
    reference = {name: Moments([features_of(images, extractor(name))]) for name in ("classifier", "pixels")}
    remembered, _ = random_images(training, REMEMBERED)
    names = [name for name in rows() if name.startswith(tuple(options.only.split(",")))]
    for number in range(options.seeds):
        seeds = range(number * options.samples, (number + 1) * options.samples)
        for name in names:
            sets = found["rows"].setdefault(name, {"sets": {}})["sets"]
            if str(number) not in sets:
                sets[str(number)] = distances(model, rows()[name][1], seeds, reference)
                results.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
                print(name, number, sets[str(number)], flush=True)
    solver_errors(model, EmpiricalOracle(model.schedule, to_model_scale(remembered)), found, names)
    results.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(tables(found))


if __name__ == "__main__":
    main()
