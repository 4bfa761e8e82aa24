"""What the pages need of the package's tables: packed for JavaScript, which unpacks them in _assets/live/tables.js.

Written out here so that no formula of a schedule or a grid stands a second time in the scripts of the pages.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch

from ddpm import NoiseSchedule
from ddpm.book.photographs import cat_photograph
from ddpm.book.widgets import EXPLORED
from ddpm.grids import Spacing, timestep_grid
from ddpm.schedule import cosine_betas

if TYPE_CHECKING:
    from torch import Tensor

# The numbers of steps that a panel may offer.
STEPS = (5, 10, 20, 50, 100, 200)
TIMESTEPS = 1000
# The lengths of a schedule that the panel of chapter 3 offers.
LENGTHS = (25, 50, 100, 200, 500, 1000)
_RING = torch.arange(10) * torch.pi / 5
_TURN = torch.linspace(1.5, 10, 22)
# The distributions in the plane, each (means, variances): bumps of one weight, each the same in every direction.
MIXTURES: dict[str, tuple[Tensor, Tensor]] = {
    "ring": (1.4 * torch.stack([_RING.cos(), _RING.sin()], 1), torch.full((10,), 0.01)),
    "three": (torch.tensor([[-0.6, 0.3], [0.5, -0.2], [0.1, 0.7]]), torch.tensor([0.1, 0.2, 0.15])),
    "nine": (1.2 * torch.cartesian_prod(*[torch.arange(-1.0, 2.0)] * 2), torch.full((9,), 0.015)),
    "spiral": (0.19 * _TURN[:, None] * torch.stack([_TURN.cos(), _TURN.sin()], 1), torch.full((22,), 0.01)),
}


def base64_of(content: bytes) -> str:
    """Bytes as ASCII text."""
    return base64.b64encode(content).decode()


def packed(table: Tensor, kind: str = "<f4") -> str:
    """A table as base64: float32, or "<f8", float64."""
    return base64_of(table.numpy().astype(np.dtype(kind)).tobytes())


def walking_tables(schedule: NoiseSchedule) -> dict[str, Any]:
    """All that a sampler needs: ᾱ_0 … ᾱ_T and the log-SNR in float64, and each grid on offer by spacing and steps."""
    return {
        "timesteps": schedule.timesteps,
        "alphaBar": packed(schedule.exact_alpha_bar, "<f8"),
        "logSnr": packed(schedule.exact_log_snr, "<f8"),
        "grids": {
            spacing: {steps: timestep_grid(schedule, steps, spacing) for steps in STEPS}
            for spacing in get_args(Spacing)
        },
    }


def mixture_schedule() -> NoiseSchedule:
    """The schedule of the points in the plane: that of the exact denoiser in chapter 8."""
    return NoiseSchedule(cosine_betas(TIMESTEPS), dtype=torch.float64)


def mixture_tables() -> dict[str, Any]:
    """For the panel of the points in the plane: its schedule, and its distributions as bumps."""
    presets = {
        name: [
            {"mean": mean, "variance": variance}
            for mean, variance in zip(means.tolist(), variances.tolist(), strict=True)
        ]
        for name, (means, variances) in MIXTURES.items()
    }
    return {"schedule": walking_tables(mixture_schedule()), "presets": presets}


def schedule_tables() -> dict[str, Any]:
    """For the panel of the schedules: log-SNR, √ᾱ and σ of each by length, and the photograph in 8 bits."""
    tables = {
        name: {length: NoiseSchedule(betas(length), dtype=torch.float64) for length in LENGTHS}
        for name, betas in EXPLORED.items()
    }
    cat = (cat_photograph() * 255).round().byte()
    return {
        "schedules": {
            name: {
                length: {
                    "logSnr": packed(table.log_snr),
                    "signal": packed(table.sqrt_alpha_bar),
                    "sigma": packed(table.sigma),
                }
                for length, table in by_length.items()
            }
            for name, by_length in tables.items()
        },
        "photograph": {"size": list(cat.shape[1:]), "pixels": base64_of(cat.numpy().tobytes())},
    }


# The script of each and the name under which it puts its tables.
TABLES = {
    "mixture-tables": ("liveMixtureTables", mixture_tables),
    "schedule-tables": ("liveScheduleTables", schedule_tables),
}


def tables_script(name: str) -> str:
    """The script of a panel's tables; a page opened from a disk may load it, while it may fetch nothing."""
    variable, tables = TABLES[name]
    return f"globalThis.{variable} = {json.dumps(tables())};\n"
