"""Pictures changed through their noise."""

import torch
from torch import Tensor

from ddpm.checks import check_denoiser, check_generator, check_unit, check_whole
from ddpm.prediction import Denoiser, full_timesteps
from ddpm.randomness import Generators, randn_like
from ddpm.samplers import ancestral
from ddpm.tensor_checks import check_finite, check_pair


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

    x_t = (1 − λ) x_t¹ + λ x_t², both with the same noise, and from there ancestral sampling over t, t−1, …, 1. A low t
    stays close to the mix of the two pictures; at t = T, which None stands for, hardly anything is left of them.
    Pictures are in [-1, 1], of one shape (B, C, H, W); λ, `lam`, is 0 for all `x1` and 1 for all `x2`. `labels` and
    `generator`, which gives the noise of x_t first, are those of `ddpm.samplers`.

    Raises:
        ValueError: if shapes or types are wrong, or `t` or `lam` is out of range.
        FloatingPointError: if an image is not finite, as the model has diverged.
    """
    check_denoiser(diffusion)
    check_generator(generator)
    schedule = diffusion.schedule
    check_pair("x1", x1, "x2", x2, schedule.beta.device)
    t = schedule.timesteps if t is None else check_whole("t", t, highest=schedule.timesteps)
    lam = check_unit("lam", lam, "0 is all x1, 1 is all x2")
    noise, at = randn_like(x1, generator), full_timesteps(t, x1)
    mixed = (1 - lam) * schedule.q_sample(x1, at, noise) + lam * schedule.q_sample(x2, at, noise)
    for state in ancestral(diffusion, mixed, labels=labels, generator=generator, start=t):
        mixed = state.x
    return check_finite(mixed)
