"""Ways back from noise to a picture: generators that yield every state.

A sampler needs two things of a model: `.schedule` and `.predict` (see `Denoiser`). A trained `GaussianDiffusion` has
them, and so does an exact denoiser. Each sampler starts at x_T, standard normal noise of shape (B, C, H, W), and yields
one `State` per network call, so that a notebook can watch the picture form; the last one holds the finished image in
[-1, 1]. `labels` are classes, shape (B,), for a model that takes them. `clip_x0` clips the predicted x_0 to [-1, 1],
and derives the noise from it; turn it off for data of another range. `generator` is the source of the noise: one for
the batch or one per image.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ddpm.checks import check_choice, check_denoiser, check_generator, check_grid, check_unit, check_whole
from ddpm.prediction import Denoiser, full_timesteps
from ddpm.randomness import Generators, randn_like
from ddpm.reverse_process import ReverseStep, Variance, VarianceRule, draw, predict, variance_rule
from ddpm.tensor_checks import check_images

Sampler = Literal["ancestral", "ddim"]


@dataclass(frozen=True)
class State:
    """Where a sampler stands after one step.

    Attributes:
        t: the timestep of `x`; 0 when the picture is finished.
        x: the image x_t, shape (B, C, H, W).
        x0: the clean image that the model predicted in this step, same shape.
    """

    t: int
    x: Tensor
    x0: Tensor


@torch.no_grad()
def ancestral(
    diffusion: Denoiser,
    x: Tensor,
    *,
    variance: Variance | Tensor | VarianceRule | None = None,
    labels: Tensor | None = None,
    clip_x0: bool = True,
    generator: Generators = None,
    start: int | None = None,
) -> Iterator[State]:
    """Algorithm 2 of Ho et al. 2020: draw x_{T−1}, x_{T−2}, …, x_0 one after the other (eq:reverse-step).

    `x` may be x_t of another timestep, `start`; the states are those of t = start−1 … 0. `variance` is what
    `variance_rule` takes; "fixed_large" is the paper's choice for CIFAR-10.
    """
    _check(diffusion, x, generator)
    timesteps = diffusion.schedule.timesteps
    start = timesteps if start is None else check_whole("start", start, highest=timesteps)
    step, x0 = ReverseStep(diffusion, variance_rule(diffusion, variance), labels, clip_x0), None
    for t in range(start, 0, -1):
        at = full_timesteps(t, x)
        mean, log_variance, x0 = step.moments(x, at, previous=x0)
        x = draw(mean, log_variance, at, generator) if t > 1 else mean
        yield State(t - 1, x, x0)


@torch.no_grad()
def ddim(
    diffusion: Denoiser,
    x: Tensor,
    steps: int | Sequence[int],
    *,
    eta: float = 0.0,
    labels: Tensor | None = None,
    clip_x0: bool = True,
    generator: Generators = None,
) -> Iterator[State]:
    """DDIM: jump down a grid of timesteps, with as much fresh noise as you like (Song et al. 2021, eq. 12).

    `steps` is the number of network calls, 1 … T, for the even grid of `timestep_grid`, or a grid of your own, which
    falls strictly from T to 0. `eta` is η in [0, 1]: 0 makes the whole path a function of x_T, 1 adds the noise of
    ancestral sampling.
    """
    _check(diffusion, x, generator)
    schedule, eta = diffusion.schedule, check_eta(eta)
    grid = _grid(steps, schedule.timesteps)
    alpha_bar, x0 = schedule.exact_alpha_bar.tolist(), None
    for t, s in pairwise(grid):
        prediction = predict(diffusion, x, full_timesteps(t, x), labels, x0, clip_x0=clip_x0)
        x0 = prediction.x0
        omega = eta * math.sqrt((1 - alpha_bar[s]) / (1 - alpha_bar[t]) * (1 - alpha_bar[t] / alpha_bar[s]))
        # At eta = 1 rounding may take the radicand below 0.
        direction = math.sqrt(max(1 - alpha_bar[s] - omega**2, 0.0))
        x = math.sqrt(alpha_bar[s]) * x0 + direction * prediction.noise
        if omega > 0:
            x = x + omega * randn_like(x, generator)
        yield State(s, x, x0)


def choose(sampler: Sampler | None, steps: int, timesteps: int, eta: float) -> Callable[..., Iterator[State]]:
    """The sampler of this name for this many network calls, to be called with the model and x_T.

    None takes "ancestral" for T calls and "ddim" for fewer.
    """
    steps, eta = check_whole("sampling_timesteps", steps, highest=timesteps), check_eta(eta)
    if sampler is not None:
        check_choice("sampler", sampler, get_args(Sampler))
    if sampler == "ancestral" and steps != timesteps:
        raise ValueError(
            f"ancestral sampling takes all T = {timesteps} timesteps, but {steps} steps were asked for;"
            ' use sampler="ddim" (eta=1 has the same noise)'
        )
    if sampler == "ancestral" or (sampler is None and steps == timesteps):
        return ancestral
    return partial(ddim, steps=steps, eta=eta)


def timestep_grid(timesteps: int, steps: int) -> list[int]:
    """`steps` + 1 timesteps, evenly spread, strictly falling from T to 0; ValueError unless `steps` is in 1 … T."""
    timesteps = check_whole("timesteps", timesteps)
    steps = check_whole("sampling_timesteps", steps, highest=timesteps)
    # Integer arithmetic throughout: rounding a floating-point grid is off by one for many step counts.
    return [timesteps * (steps - i) // steps for i in range(steps + 1)]


def _grid(steps: Any, timesteps: int) -> list[int]:
    """The even grid of so many steps, or the grid that was given."""
    given = hasattr(steps, "__len__") and getattr(steps, "ndim", 1) > 0
    return check_grid(steps, timesteps) if given else timestep_grid(timesteps, steps)


def _check(diffusion: Denoiser, x: Tensor, generator: Generators) -> None:
    """Refuse what is no model, no images or no source of noise."""
    check_denoiser(diffusion)
    check_images("x", x)
    check_generator(generator)


def check_eta(eta: float) -> float:
    """η as a number; refused where DDIM has no real coefficients."""
    return check_unit("eta", eta, "0 is deterministic, 1 is ancestral")
