"""How long is `ddpm sample`? 64 images of 28×28 with 20 calls, as a whole process; and what recording the path costs.

    python -m benchmarks.sampling_speed

The command and `import torch` run in turn, round after round. The path is recorded within one process, in turn with
the same samples drawn without: every x_t and x̂_0 is kept. The medians count; the figures go to sampling_speed.json.
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
from ddpm import dpm_solver_pp, load_pretrained
from ddpm.randomness import image_generators, randn

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


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    times: dict[str, list[float]] = {
        name: [] for name in (f"ddpm {COMMAND}", "import torch", "plain", "recorded")
    }
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "ddpm", *COMMAND.split(), "--out", f"{folder}/samples.png"]
        for _ in range(options.rounds):
            times[f"ddpm {COMMAND}"].append(seconds(command))
            times["import torch"].append(seconds(["-c", "import torch"]))
            times["plain"].append(drawing(recorded=False))
            times["recorded"].append(drawing(recorded=True))
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    report = {
        "command": "python -m benchmarks.sampling_speed",
        "machine": machine(os.cpu_count() or 1, "cpu"),
        "threads": torch.get_num_threads(),
        "seconds": {name: {"median": medians[name], "all": taken} for name, taken in times.items()},
        "beyond_import_torch": medians[f"ddpm {COMMAND}"] - medians["import torch"],
        "recorded_over_plain": medians["recorded"] / medians["plain"],
    }
    print(json.dumps(report, indent=2))
    RESULTS.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
