"""What `ddpm evaluate` holds a model against, and how that draws its images."""

import contextlib
from pathlib import Path
from typing import Any

import ddpm
from ddpm import samplers
from ddpm.cli import places
from ddpm.cli.run_config import RunConfig
from ddpm.grids import Spacing


def load_parts(run_config: RunConfig, run: Path) -> tuple[Any, Any, str]:
    """The training images of a run; the images to hold its samples against; and "test", or "training" without those."""
    training = places.load_data(run_config, run, "evaluate")
    with contextlib.suppress(ValueError):  # where there is no test part
        return training, run_config.load_data(train=False), "test"
    return training, training, "training"


def drawn_by(
    diffusion: "ddpm.GaussianDiffusion",
    sampling_timesteps: int | None,
    sampler: samplers.Sampler | None,
    spacing: Spacing | None,
) -> dict[str, Any]:
    """How `GaussianDiffusion.sample` draws images with these options; what the sampler does not take is None.

    Raises:
        ValueError: if it draws none with them.
    """
    timesteps, name = diffusion.schedule.timesteps, sampler or diffusion.sampler
    steps = sampling_timesteps or (timesteps if name == "ancestral" else diffusion.sampling_timesteps)
    name = name or ("ancestral" if steps == timesteps else "ddim")
    samplers.choose(name, steps, timesteps, {}, spacing=spacing)
    return {
        "sampler": name,
        "network_calls": 2 * steps - 1 if name == "heun" else steps,
        "spacing": None if name == "ancestral" else spacing or diffusion.spacing,
        "eta": diffusion.ddim_sampling_eta if name == "ddim" else None,
    }
