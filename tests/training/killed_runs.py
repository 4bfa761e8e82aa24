"""A run killed at random moments and taken up by the same command, by hand: how many end bit for bit the same?

    python -m tests.training.killed_runs --moments 20

Each time a new run is begun by `ddpm train digits --resume`, killed (SIGKILL) at a moment drawn uniformly between the
start of the process, imports included, and the time that an undisturbed one takes to its end, and then given to the
same command once more. Its last checkpoint is held against that of the run that nobody disturbed.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ddpm.io.checkpoint import list_checkpoints, step_of
from tests.runs import saved_files

ROOT = Path(__file__).parents[2]
OPTIONS = {
    "network.dim": 8,
    "network.dropout": 0.2,
    "diffusion.timesteps": 20,
    "diffusion.sampling_timesteps": 4,
    "training.num_samples": 4,
    "training.tensorboard": "false",
    "training.save_and_sample_every": 20,
    "training.log_every": 5,
    "training.save_every_minutes": 0.01,
}


def begin(folder: Path, steps: int) -> subprocess.Popen[bytes]:
    """The command that begins a run, or goes on with it."""
    words = ["train", "digits", "--resume", "--out", str(folder), "--steps", str(steps), "--batch-size", "16"]
    words += [word for option, value in OPTIONS.items() for word in ("--set", f"{option}={value}")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    nowhere = subprocess.DEVNULL
    return subprocess.Popen(
        [sys.executable, "-m", "ddpm", *words], env=environment, stdout=nowhere, stderr=nowhere
    )


def undisturbed(folder: Path, steps: int) -> tuple[float, dict[str, bytes]]:
    """How long a run takes, its process's start included, and how it ends."""
    started = time.monotonic()
    assert begin(folder, steps).wait() == 0
    return time.monotonic() - started, saved_files(folder)


def killed_once(folder: Path, steps: int, moment: float) -> int | None:
    """Kill a new run after so many seconds, and let the same command finish it; the step it had saved by then.

    None means that there was no checkpoint yet, -1 that it had come to its end before.
    """
    process = begin(folder, steps)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    there = list_checkpoints(folder)
    saved = step_of(there[-1]) if there else None
    assert begin(folder, steps).wait() == 0
    return -1 if process.returncode == 0 else saved


def main() -> None:
    """Kill, resume, compare, count."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    drawn, same = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as scratch:
        taken, expected = undisturbed(Path(scratch) / "whole", options.steps)
        print(f"undisturbed: {taken:.1f} s", flush=True)
        for number in range(options.moments):
            moment = drawn.uniform(0, taken)
            folder = Path(scratch) / str(number)
            saved = killed_once(folder, options.steps, moment)
            equal = saved_files(folder) == expected
            same += equal
            at = {None: "no checkpoint", -1: "its end"}.get(saved, f"step {saved} saved")
            print(
                f"killed after {moment:5.1f} s ({at}): {'the same' if equal else 'ANOTHER END'}", flush=True
            )
    print(f"{same} of {options.moments} bit for bit the same")
    sys.exit(same != options.moments)


if __name__ == "__main__":
    main()
