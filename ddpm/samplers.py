"""Ways back from noise to a picture, and forth: generators that yield every state.

A sampler needs two things of a model: `.schedule` and `.predict` (see `Denoiser`). A trained `GaussianDiffusion` has
them, and so does an exact denoiser. Each sampler starts at x_T, standard normal noise of shape (B, C, H, W), and yields
one `State` per step, so that a notebook can watch the picture form; the last one holds the finished image in [-1, 1].
`labels` are classes, shape (B,), for a model that takes them. `clip_x0` clips the predicted x_0 to [-1, 1], and derives
the noise from it; turn it off for data of another range. `generator` is the source of the noise: one for the batch or
one per image; `heun` and `dpm_solver_pp` add none. Samplers leave dropout on in training mode: call `.eval()`
before, as `sample` does for you.

But for `ancestral`, which takes all timesteps, `steps` is their number S, in 1 … T, on the grid of `timestep_grid` that
`spacing` names, or a grid of your own, which falls strictly from T to 0. One step is one network call; for `heun` it is
two, but for the last. Without noise, all go from t to s by the same formula (`Walk.step`) and differ in its x̂_0:
`ddim` takes that of x_t, `heun` the mean of both ends, `dpm_solver_pp` one that carries on from the step before.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ddpm.grids import Spacing, timestep_grid
from ddpm.prediction import Denoiser, Prediction, full_timesteps
from ddpm.reverse_process import ReverseStep, Variance, VarianceRule, draw, predict, variance_rule
from ddpm.support.checks import check_denoiser, check_generator, check_grid, check_unit, check_whole
from ddpm.support.randomness import Generators, randn_like
from ddpm.support.tensor_checks import check_images


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
    spacing: Spacing = "even",
    eta: float = 0.0,
    labels: Tensor | None = None,
    clip_x0: bool = True,
    generator: Generators = None,
) -> Iterator[State]:
    """DDIM: jump down a grid of timesteps, with as much fresh noise as you like (eq:ddim-step; Song et al. 2021).

    `eta` is η in [0, 1], which sets the noise (eq:ddim-eta): 0 makes the whole path a function of x_T, 1 adds that of
    ancestral sampling. Whatever it is, the marginals given x_0 are those of the forward process (eq:ddim-family).
    """
    eta, path = check_eta(eta), Walk(diffusion, x, steps, spacing, labels, clip_x0, generator)
    alpha_bar = path.alpha_bar
    for t, s in pairwise(path.grid):
        prediction = path.ask(x, t)
        omega = eta * math.sqrt((1 - alpha_bar[s]) / (1 - alpha_bar[t]) * (1 - alpha_bar[t] / alpha_bar[s]))
        # At eta = 1 rounding may take the radicand below 0.
        direction = math.sqrt(max(1 - alpha_bar[s] - omega**2, 0.0))
        x = math.sqrt(alpha_bar[s]) * prediction.x0 + direction * prediction.noise
        if omega > 0:
            x = x + omega * randn_like(x, generator)
        yield State(s, x, prediction.x0)


@torch.no_grad()
def heun(
    diffusion: Denoiser,
    x: Tensor,
    steps: int | Sequence[int],
    *,
    spacing: Spacing = "even",
    labels: Tensor | None = None,
    clip_x0: bool = True,
    generator: Generators = None,
) -> Iterator[State]:
    """Heun's method on the ODE d(x/σ) = x̂_0 d(√ᾱ/σ): a second network call corrects each step (eq:heun).

    As in Karras et al. 2022, algorithm 1, the last step, to σ = 0, has none. They average the noises of both ends and
    this the x̂_0, which is of the second order as well; but the noises would be divided by √ᾱ_T, which is next to 0.
    The `x0` of a state is that average.
    """
    path = Walk(diffusion, x, steps, spacing, labels, clip_x0, generator)
    for t, s in pairwise(path.grid):
        x0 = path.ask(x, t).x0
        if s > 0:
            x0 = (x0 + path.ask(path.step(x, x0, t, s), s).x0) / 2
        x = path.step(x, x0, t, s)
        yield State(s, x, x0)


@torch.no_grad()
def dpm_solver_pp(
    diffusion: Denoiser,
    x: Tensor,
    steps: int | Sequence[int],
    *,
    spacing: Spacing = "even",
    labels: Tensor | None = None,
    clip_x0: bool = True,
    generator: Generators = None,
) -> Iterator[State]:
    """DPM-Solver++(2M): second order at one call a step, from what the step before saw (Lu et al. 2022b, algorithm 2).

    x̂_0 is a straight line in λ = log SNR through the last two predictions, taken at the middle of the step
    (eq:dpm-solver-pp). The first step has no other before it and the last one ends at t = 0, where λ is infinite: both
    are of the first order. The authors' λ is half of this one, which makes no difference to a ratio of steps.
    """
    path = Walk(diffusion, x, steps, spacing, labels, clip_x0, generator)
    log_snr, last = diffusion.schedule.exact_log_snr.tolist(), None
    for t, s in pairwise(path.grid):
        x0 = guess = path.ask(x, t).x0
        if last is not None and s > 0:
            ratio = (log_snr[s] - log_snr[t]) / (log_snr[t] - log_snr[last[0]])
            guess = x0 + ratio / 2 * (x0 - last[1])
        x, last = path.step(x, guess, t, s), (t, x0)
        yield State(s, x, x0)


@torch.no_grad()
def encode(
    diffusion: Denoiser,
    x: Tensor,
    steps: int | Sequence[int],
    *,
    spacing: Spacing = "even",
    labels: Tensor | None = None,
    clip_x0: bool = True,
) -> Iterator[State]:
    """DDIM turned round (eq:ddim-inversion; Song et al. 2021, section 4.3): from an image to the x_T that leads to it.

    Both directions are Euler's method for one ODE, x/√ᾱ against σ/√ᾱ (their eq. 14), so that `ddim` with η = 0 leads
    back, with an error that falls like 1/S. At t = 0, where there is nothing to predict, the noise is that of t = 1.
    """
    path = Walk(diffusion, x, steps, spacing, labels, clip_x0)
    for t, s in pairwise(path.grid[::-1]):
        prediction, now, then = path.ask(x, max(t, 1)), path.alpha_bar[t], path.alpha_bar[s]
        scale = math.sqrt(then / now)
        x = scale * x + (math.sqrt(1 - then) - scale * math.sqrt(1 - now)) * prediction.noise
        yield State(s, x, prediction.x0)


class Walk:
    """What the samplers on a grid share: its timesteps, the model with its arguments, the step from t to s."""

    def __init__(
        self,
        diffusion: Denoiser,
        x: Tensor,
        steps: Any,
        spacing: Spacing,
        labels: Tensor | None,
        clip_x0: bool,
        generator: Generators = None,
    ) -> None:
        _check(diffusion, x, generator)
        schedule, own = diffusion.schedule, hasattr(steps, "__len__") and getattr(steps, "ndim", 1) > 0
        self.grid = check_grid(steps, schedule.timesteps) if own else timestep_grid(schedule, steps, spacing)
        self.alpha_bar: list[float] = schedule.exact_alpha_bar.tolist()
        self._predict = partial(predict, diffusion, labels=labels, clip_x0=clip_x0)
        self._previous: Tensor | None = None

    def ask(self, x: Tensor, t: int) -> Prediction:
        """What the model sees in x_t; it may be told the x_0 that it saw before."""
        prediction = self._predict(x, full_timesteps(t, x), previous=self._previous)
        self._previous = prediction.x0
        return prediction

    def step(self, x: Tensor, x0: Tensor, t: int, s: int) -> Tensor:
        """x_s = √ᾱ_s x̂_0 + σ_s ε̂ with x_t = √ᾱ_t x̂_0 + σ_t ε̂, exact if x̂_0 stays (eq:solver-step)."""
        now, then = self.alpha_bar[t], self.alpha_bar[s]
        kept = math.sqrt((1 - then) / (1 - now))
        return kept * x + (math.sqrt(then) - kept * math.sqrt(now)) * x0


def _check(diffusion: Denoiser, x: Tensor, generator: Generators) -> None:
    """Refuse what is no model, no images or no source of noise."""
    check_denoiser(diffusion)
    check_images("x", x)
    check_generator(generator)


def check_eta(eta: float) -> float:
    """η as a number; refused where DDIM has no real coefficients."""
    return check_unit("eta", eta, "0 is deterministic, 1 is ancestral")
