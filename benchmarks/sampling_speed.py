"""How long is `ddpm sample`? 64 images of 28×28, 20 calls, as a whole process; what a path and what guidance cost.

    python -m benchmarks.sampling_speed

The command and `import torch` run in turn, round after round. The path is recorded within one process, in turn with
the same samples drawn without: every x_t and x̂_0 is kept. So is guidance, with w = 2, on the model with classes beside
the same samples without, and beside twice as many, which are a call of the same size. The medians count; the figures go
to sampling_speed.json.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.network_speed.summary import machine
from benchmarks.startup import seconds
from ddpm import ClassifierFreeGuidance, dpm_solver_pp, load_pretrained
from ddpm.support.randomness import image_generators, randn
from ddpm.training.memory import keep_freed_memory

RESULTS = Path(__file__).with_suffix(".json")
IMAGES, CALLS = 64, 20
COMMAND = f"sample fashion-mnist -n {IMAGES} --sampler dpm++ --sampling-steps {CALLS}"


def drawing(*, recorded: bool) -> float:
    """Seconds for the images, with or without their path."""
    model = load_pretrained("fashion-mnist")
    x = randn((IMAGES, *model.image_shape), image_generators(IMAGES, seeds=range(IMAGES)), "cpu")
    path = []
    started = time.perf_counter()
    for state in dpm_solver_pp(model, x, CALLS):
        if recorded:
            path.append((state.x, state.x0))
    return time.perf_counter() - started


def guided(scale: float, images: int = IMAGES) -> float:
    """Seconds for images of a model with classes, guided or, with a scale of 1, not."""
    model = load_pretrained("fashion-mnist-classes")
    x = randn((images, *model.image_shape), image_generators(images, seeds=range(images)), "cpu")
    started = time.perf_counter()
    for _ in dpm_solver_pp(ClassifierFreeGuidance(model, scale), x, CALLS, labels=torch.arange(images) % 10):
        pass
    return time.perf_counter() - started


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    keep_freed_memory()  # as the command does
    names = (f"ddpm {COMMAND}", "import torch", "plain", "recorded", "guided", "unguided", "twice as many")
    times: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "ddpm", *COMMAND.split(), "--out", f"{folder}/samples.png"]
        for _ in range(options.rounds):
            times[f"ddpm {COMMAND}"].append(seconds(command))
            times["import torch"].append(seconds(["-c", "import torch"]))
            times["plain"].append(drawing(recorded=False))
            times["recorded"].append(drawing(recorded=True))
            times["guided"].append(guided(2.0))
            times["unguided"].append(guided(1.0))
            times["twice as many"].append(guided(1.0, 2 * IMAGES))
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    report = {
        "command": "python -m benchmarks.sampling_speed",
        "machine": machine(os.cpu_count() or 1, "cpu"),
        "threads": torch.get_num_threads(),
        "seconds": {name: {"median": medians[name], "all": taken} for name, taken in times.items()},
        "beyond_import_torch": medians[f"ddpm {COMMAND}"] - medians["import torch"],
        "recorded_over_plain": medians["recorded"] / medians["plain"],
        "guided_over_two_unguided": medians["guided"] / (2 * medians["unguided"]),
        "guided_over_twice_as_many": medians["guided"] / medians["twice as many"],
    }
    print(json.dumps(report, indent=2))
    RESULTS.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
