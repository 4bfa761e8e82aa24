"""Pictures changed through their noise."""

import torch
from torch import Tensor

from ddpm.checks import check_pair, check_unit, check_whole
from ddpm.prediction import Denoiser, full_timesteps
from ddpm.randomness import Generators, randn_like
from ddpm.samplers import ancestral


@torch.no_grad()
def interpolate(
    diffusion: Denoiser,
    x1: Tensor,
    x2: Tensor,
    t: int | None = None,
    lam: float = 0.5,
    *,
    labels: Tensor | None = None,
    generator: Generators = None,
) -> Tensor:
    """Between two pictures: noise both, mix them there, and find the way back (Ho et al. 2020, appendix D).

    x_t = (1 − λ) x_t¹ + λ x_t², both with the same noise, and from there ancestral sampling over t, t−1, …, 1. A
    low t stays close to the mix of the two pictures; at t = T hardly anything is left of them.

    Args:
        diffusion: the model, or an exact denoiser.
        x1: images in [-1, 1], shape (B, C, H, W).
        x2: images in [-1, 1] of the same shape.
        t: the timestep of the mix, 1 … T; None means T.
        lam: λ in [0, 1]: 0 is all `x1`, 1 all `x2`.
        labels: class labels, shape (B,), for a network that takes them.
        generator: source of all noise, that of x_t first: one for the batch or one per image.

    Returns:
        Images in [-1, 1], shaped like `x1`.

    Raises:
        ValueError: if shapes or types are wrong, or `t` or `lam` is out of range.
    """
    schedule = diffusion.schedule
    check_pair("x1", x1, "x2", x2)
    t = schedule.timesteps if t is None else t
    check_whole("t", t, highest=schedule.timesteps)
    check_unit("lam", lam, "0 is all x1, 1 is all x2")
    noise, at = randn_like(x1, generator), full_timesteps(t, x1)
    mixed = (1 - lam) * schedule.q_sample(x1, at, noise) + lam * schedule.q_sample(x2, at, noise)
    for state in ancestral(diffusion, mixed, labels=labels, generator=generator, start=t):
        mixed = state.x
    return mixed
