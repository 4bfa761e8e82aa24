"""What `ddpm evaluate` holds a model against, and how it says what it measured."""

import contextlib
from pathlib import Path
from typing import Any

import ddpm
from ddpm.cli import places
from ddpm.cli.run_config import RunConfig


def load_parts(run_config: RunConfig, run: Path) -> tuple[Any, Any, str]:
    """The training images of a run; the images to hold its samples against; and "test", or "training" without those."""
    training = places.load_data(run_config, run, "evaluate")
    with contextlib.suppress(ValueError):  # where there is no test part
        return training, run_config.load_data(train=False), "test"
    return training, training, "training"


def drawn_by(diffusion: "ddpm.GaussianDiffusion", sampling_steps: int | None) -> dict[str, Any]:
    """How `GaussianDiffusion.sample` draws images in so many calls, if nothing else is asked for."""
    calls = sampling_steps or diffusion.sampling_timesteps
    if calls == diffusion.schedule.timesteps:
        return {"sampler": "ancestral", "network_calls": calls, "eta": None}
    return {"sampler": "ddim", "network_calls": calls, "eta": diffusion.ddim_sampling_eta}
