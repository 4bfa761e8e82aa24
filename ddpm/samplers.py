"""Ways back from noise to a picture: ancestral sampling and DDIM, as generators that yield every state.

A sampler needs two things of a model: `.schedule` and `.predict(x_t, t, labels, clip_x0=…)`. A trained
`GaussianDiffusion` has them, and so does an exact denoiser. Each sampler yields one `State` per network call, so that a
notebook can watch the picture form; the last one holds the finished image in [-1, 1]. A model whose attribute
`self_condition` is true is also told, in each step, which clean image it predicted in the step before.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import index
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from ddpm.checks import check_choice
from ddpm.schedule import NoiseSchedule

FixedVariance = Literal["fixed_small", "fixed_large"]
Variance = Literal[FixedVariance, "learned"]
Generators = torch.Generator | Sequence[torch.Generator] | None


class PredictionLike(Protocol):
    """What a sampler reads of a prediction."""

    @property
    def x0(self) -> Tensor:
        """The predicted clean image."""
        ...

    @property
    def noise(self) -> Tensor:
        """The predicted noise, consistent with `x0`."""
        ...


class Denoiser(Protocol):
    """What a sampler asks of a model."""

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule."""
        ...

    def predict(
        self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, *, clip_x0: bool = False
    ) -> PredictionLike:
        """The model's belief about x_t, for t of shape (B,)."""
        ...


@dataclass(frozen=True)
class State:
    """Where a sampler stands after one step.

    Attributes:
        t: the noise level of `x`; 0 when the picture is finished.
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
    variance: Variance | None = None,
    labels: Tensor | None = None,
    clip_x0: bool = True,
    generator: Generators = None,
    start: int | None = None,
) -> Iterator[State]:
    """Algorithm 2 of Ho et al. 2020: draw x_{T−1}, x_{T−2}, …, x_0 one after the other (eq:reverse-step).

    The mean is that of the posterior given the predicted (and clipped) x_0; at t = 1 no noise is added.

    Args:
        diffusion: the model, or an exact denoiser.
        x: x_T, standard normal noise of shape (B, C, H, W); or x_t of the level `start`.
        variance: "fixed_small" for β̃_t, "fixed_large" for β_t (the paper's choice for CIFAR-10), "learned" for that
            of a model which predicts it. None means "learned" for such a model and "fixed_small" for any other.
        labels: class labels, shape (B,), for a model that takes them.
        clip_x0: clip the predicted x_0 to [-1, 1] first; turn off for data of another range.
        generator: source of the noise: one for the batch or one per image.
        start: the noise level of `x`, 1 … T; None means T.

    Yields:
        `start` states, at t = start−1 … 0.

    Raises:
        ValueError: if `variance` is unknown, the model has learned none, or `start` is out of range.
    """
    variance = choose_variance(diffusion, variance)
    schedule = diffusion.schedule
    start = schedule.timesteps if start is None else start
    check_steps(start, schedule.timesteps, name="start")
    predict = predictor(diffusion, labels, clip_x0=clip_x0)
    variances = schedule.beta if variance == "fixed_large" else schedule.posterior_variance
    for t in range(start, 0, -1):
        prediction = predict(x, t)
        x = schedule.posterior_mean_coef_x0[t] * prediction.x0 + schedule.posterior_mean_coef_xt[t] * x
        if t > 1:
            deviation = (prediction.log_variance / 2).exp() if variance == "learned" else variances[t].sqrt()
            x = x + deviation * randn_like(x, generator)
        yield State(t - 1, x, prediction.x0)


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
    """DDIM: jump down a grid of levels, with as much fresh noise as you like (Song et al. 2021, eq. 12).

    Args:
        diffusion: the model, or an exact denoiser.
        x: x_T, standard normal noise of shape (B, C, H, W).
        steps: number of network calls, 1 … T, for the even grid of `timestep_grid`; or a grid of your own, which falls
            from T to 0.
        eta: η in [0, 1]; 0 makes the whole path a function of x_T, 1 adds the noise of ancestral sampling.
        labels: class labels, shape (B,), for a model that takes them.
        clip_x0: clip the predicted x_0 to [-1, 1] and re-derive the noise from it; turn off for data of another range.
        generator: source of the noise: one for the batch or one per image.

    Yields:
        One state per step of the grid; the last is at t = 0.

    Raises:
        ValueError: if `steps` or `eta` is out of range, or the grid does not fall from T to 0.
        TypeError: if a level of the grid is not a whole number.
    """
    schedule = diffusion.schedule
    even = isinstance(steps, int | float)
    grid = timestep_grid(schedule.timesteps, steps) if even else [index(t) for t in steps]
    check_grid(grid, schedule.timesteps)
    check_eta(eta)
    predict = predictor(diffusion, labels, clip_x0=clip_x0)
    alpha_bar = schedule.exact_alpha_bar.tolist()
    for t, s in pairwise(grid):
        prediction = predict(x, t)
        sigma = eta * math.sqrt((1 - alpha_bar[s]) / (1 - alpha_bar[t]) * (1 - alpha_bar[t] / alpha_bar[s]))
        # At eta = 1 rounding may take the radicand below 0.
        direction = math.sqrt(max(1 - alpha_bar[s] - sigma**2, 0.0))
        x = math.sqrt(alpha_bar[s]) * prediction.x0 + direction * prediction.noise
        if sigma > 0:
            x = x + sigma * randn_like(x, generator)
        yield State(s, x, prediction.x0)


def choose_variance(diffusion: Denoiser, variance: Variance | None) -> Variance:
    """The variance that was asked for, or the model's own; refused if there is no such thing."""
    learned = bool(getattr(diffusion, "learned_variance", False))
    if variance is None:
        return "learned" if learned else "fixed_small"
    check_choice("variance", variance, get_args(FixedVariance) + (("learned",) if learned else ()))
    return variance


def predictor(diffusion: Denoiser, labels: Tensor | None, *, clip_x0: bool) -> Callable[[Tensor, int], Any]:
    """`diffusion.predict` for the steps of one chain: a function of x_t, shape (B, C, H, W), and t, one whole number.

    A model with self-conditioning is handed the x_0 it predicted in the step before (Chen et al. 2023, *Analog Bits*),
    and None in the first; so each chain needs a predictor of its own. Other models are not told anything.
    """
    self_condition = bool(getattr(diffusion, "self_condition", False))
    before: dict[str, Any] = {"x_self_cond": None} if self_condition else {}

    def predict(x: Tensor, t: int) -> Any:
        prediction = diffusion.predict(x, levels(x, t), labels, clip_x0=clip_x0, **before)
        if self_condition:
            before["x_self_cond"] = prediction.x0
        return prediction

    return predict


# Grids of noise levels


def timestep_grid(timesteps: int, steps: int) -> list[int]:
    """`steps` + 1 levels, evenly spread, from T down to 0.

    Integer arithmetic throughout: rounding a floating-point grid is off by one for many step counts.

    Args:
        timesteps: T.
        steps: number of network calls, 1 … T.

    Returns:
        Strictly falling levels; the first is T and the last is 0.

    Raises:
        ValueError: if `steps` is not in 1 … T.
    """
    check_steps(steps, timesteps)
    return [timesteps * (steps - i) // steps for i in range(steps + 1)]


def check_steps(steps: int, timesteps: int, *, name: str = "sampling_timesteps") -> None:
    """Refuse a number of steps, or a level to start from, that is not a whole number in 1 … T."""
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= timesteps:
        raise ValueError(f"{name} must be a whole number in 1 … {timesteps} (T), but got {steps!r}")


def check_grid(grid: Sequence[int], timesteps: int) -> None:
    """Refuse a grid of levels that does not fall strictly from T to 0."""
    falls = len(grid) > 1 and all(t > s for t, s in pairwise(grid))
    if not falls or grid[0] != timesteps or grid[-1] != 0:
        raise ValueError(f"the levels must fall strictly from {timesteps} (T) to 0, but got {list(grid)}")


def check_eta(eta: float) -> None:
    """Refuse an η outside [0, 1], for which DDIM has no real coefficients."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1]: 0 is deterministic, 1 is ancestral; but got {eta!r}")


def levels(x: Tensor, t: int) -> Tensor:
    """The level t for every image of a batch, shape (B,)."""
    return torch.full((len(x),), t, dtype=torch.long, device=x.device)


# Randomness


def image_generators(
    batch_size: int, generator: torch.Generator | None = None, seeds: Sequence[int] | None = None
) -> Generators:
    """The source of noise for a batch: `generator` as it is, or one CPU generator per image from `seeds`.

    With one generator per image, image i depends on seeds[i] alone: neither on the batch around it nor on the device.

    Args:
        batch_size: number of images, at least 1.
        generator: one source for all, or None for torch's global one.
        seeds: one seed per image.

    Returns:
        `generator`, or a list of `batch_size` generators.

    Raises:
        ValueError: if the batch is empty, both sources are given, or the number of seeds is not `batch_size`.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number of at least 1, but got {batch_size!r}")
    if seeds is None:
        return generator
    if generator is not None:
        raise ValueError("give either `generator` (one for the batch) or `seeds` (one per image), not both")
    if len(seeds) != batch_size:
        raise ValueError(
            f"seeds must hold one number per image: batch_size is {batch_size}, but got {len(seeds)} seeds"
        )
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def randn(shape: tuple[int, ...], generator: Generators, device: torch.device | str) -> Tensor:
    """Standard normal float32 noise of `shape` on `device`, from one generator or from one per image."""
    if isinstance(generator, Sequence):
        if len(generator) != shape[0]:
            raise ValueError(
                f"{shape[0]} images need one generator each (or a single one), but got {len(generator)}"
            )
        return torch.stack(
            [torch.randn(shape[1:], generator=one, device=one.device) for one in generator]
        ).to(device)
    # Drawn where the generator lives, so that one seed means the same noise on every device.
    where = device if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=where).to(device)


def randn_like(x: Tensor, generator: Generators) -> Tensor:
    """Standard normal noise shaped like `x`, in its type and on its device."""
    return randn(tuple(x.shape), generator, x.device).to(x.dtype)


def randint(
    low: int, high: int, count: int, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """`count` whole numbers, uniform in low … high − 1, on `device`."""
    where = device if generator is None else generator.device
    return torch.randint(low, high, (count,), generator=generator, device=where).to(device)
