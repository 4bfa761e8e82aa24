"""The options of a run that takes a blink, and what lies in its folder."""

import os

TINY = {
    "network.dim": 8,
    "diffusion.timesteps": 20,
    "diffusion.sampling_timesteps": 4,
    "training.num_samples": 4,
    "training.tensorboard": "false",
}
CHANGES = [word for option, value in TINY.items() for word in ("--set", f"{option}={value}")]
SMALL = ["--steps", "4", "--batch-size", "8", *CHANGES]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def everything_in(folder):
    """Every file below a folder and its bytes."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
