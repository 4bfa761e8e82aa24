"""Which timesteps count for how much in training: weights w(t) on the loss, and how t is drawn.

What a loss asks for depends on three choices, the weights, the coordinate whose error it counts, and how often each
noise level is drawn. `noise_level_weight` makes one of them, in which losses can be compared.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ddpm.prediction import Objective, output_error
from ddpm.schedule import NoiseSchedule
from ddpm.support.checks import check_generator, check_number, check_whole, plain_number

# Weights w(t) for the loss of each image, shape (B,), from (schedule, t, objective).
Weighting = Callable[[NoiseSchedule, Tensor, Objective], Tensor]


@dataclass(frozen=True)
class MinSNR:
    """Min-SNR weighting: the loss on x_0 weighted by min(SNR, γ), whatever the network predicts (Hang et al. 2023)."""

    gamma: float = 5.0

    def __post_init__(self) -> None:
        gamma = plain_number(self.gamma)
        if gamma is None or not gamma > 0:
            raise ValueError(f"MinSNR needs gamma > 0, but got {self.gamma!r}")
        object.__setattr__(self, "gamma", gamma)

    def __call__(self, schedule: NoiseSchedule, t: Tensor, objective: Objective) -> Tensor:
        """Weights of shape (B,) for t of shape (B,)."""
        snr = schedule.snr[t]
        return snr.clamp(max=self.gamma) / output_error(objective, snr)


@dataclass(frozen=True)
class P2:
    """P2 weighting (k + SNR)^−γ: less weight on the almost clean timesteps (Choi et al. 2022), none for γ = 0."""

    gamma: float = 1.0
    k: float = 1.0

    def __post_init__(self) -> None:
        gamma, k = plain_number(self.gamma), plain_number(self.k)
        if gamma is None or k is None or not (gamma >= 0 and k >= 0):
            raise ValueError(f"P2 needs gamma >= 0 and k >= 0, but got gamma={self.gamma!r}, k={self.k!r}")
        object.__setattr__(self, "gamma", gamma)
        object.__setattr__(self, "k", k)

    def __call__(self, schedule: NoiseSchedule, t: Tensor, objective: Objective) -> Tensor:  # noqa: ARG002
        """Weights of shape (B,) for t of shape (B,); the same for every objective."""
        return (self.k + schedule.snr[t]) ** -self.gamma


@dataclass(frozen=True)
class EDM:
    """The loss of EDM (Karras et al. 2022, section 5), for any schedule and whatever the network predicts.

    They draw log(σ_t/√ᾱ_t) from N(`mean`, `std`²), and their preconditioned network has the squared error
    SNR + 1/`sigma_data`² times that of x_0. Here t is drawn as ever, and the ratio of the two densities of λ_t makes up
    for it: the expected loss is theirs, but for noise levels that the schedule does not reach. Their preconditioning
    needs no option: for data of standard deviation 1 it *is* "pred_v", with the sign turned round.
    """

    sigma_data: float = 0.5
    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        for name, above in (("sigma_data", 0), ("mean", -math.inf), ("std", 0)):
            object.__setattr__(self, name, check_number(name, getattr(self, name), above=above))

    def __call__(self, schedule: NoiseSchedule, t: Tensor, objective: Objective) -> Tensor:
        """Weights of shape (B,) for t of shape (B,)."""
        snr, off = schedule.snr[t], (schedule.log_snr[t] / 2 + self.mean) / self.std
        density = torch.exp(-(off**2) / 2) / (2 * self.std * math.sqrt(2 * math.pi))
        wanted = density * (snr + 1 / self.sigma_data**2)
        return wanted / (noise_level_density(schedule)[t] * output_error(objective, snr))


def weights(
    weighting: Weighting | None, schedule: NoiseSchedule, t: Tensor, objective: Objective
) -> Tensor | float:
    """w(t) of each image, shape (B,), or 1 for None.

    Raises:
        ValueError: if a weighting of one's own returns another shape, which would mix the images with each other.
    """
    if weighting is None:
        return 1.0
    weight = weighting(schedule, t, objective)
    shape = tuple(getattr(weight, "shape", ()))
    if shape not in (tuple(t.shape), ()):
        raise ValueError(
            f"loss_weighting must return one weight per image, shape {tuple(t.shape)}, but returned {shape}; flatten it"
        )
    return weight


def noise_level_density(schedule: NoiseSchedule) -> Tensor:
    """p(λ_t) = 1 / (T |dλ/dt|) for t drawn uniformly, shape (T+1,) (eq:noise-level-weight); NaN at t = 0.

    The slope is taken between both neighbours, and at t = 1 and T from the one there is.
    """
    if schedule.timesteps < 2:
        raise ValueError("the density of noise levels needs T of at least 2, but the schedule has T = 1")
    gap = -schedule.log_snr[1:].diff()
    slope = (torch.cat([gap[:1], gap]) + torch.cat([gap, gap[-1:]])) / 2
    return torch.cat([slope.new_full((1,), math.nan), 1 / (schedule.timesteps * slope)])


def noise_level_weight(
    schedule: NoiseSchedule, objective: Objective, weighting: Weighting | None = None
) -> Tensor:
    """w(λ_t) for t = 1 … T, shape (T,), with which the loss is ½ ∫ w(λ) E‖ε − ε̂‖² dλ (eq:noise-level-weight).

    Losses with the same w, up to a factor, ask for the same network; 1 is the variational bound (Kingma & Gao 2023).
    """
    t = torch.arange(1, schedule.timesteps + 1, device=schedule.snr.device)
    snr = schedule.snr[1:]
    weight = weights(weighting, schedule, t, objective)
    return 2 * noise_level_density(schedule)[1:] * weight * output_error(objective, snr) / snr


_NAMED: dict[str, type[MinSNR | P2 | EDM]] = {"MinSNR": MinSNR, "P2": P2, "EDM": EDM}


def weighting_config(weighting: Weighting | None) -> dict[str, object] | None:
    """A weighting as its name and its numbers, ready for JSON, such as `{"name": "MinSNR", "gamma": 5.0}`.

    A function of the user's own, which no configuration can hold, is recorded as `{"name": "custom", "repr": …}`.
    """
    if weighting is None:
        return None
    # Not a subclass, which may compute something else from the same numbers.
    if isinstance(weighting, MinSNR | P2 | EDM) and type(weighting) in _NAMED.values():
        return {"name": type(weighting).__name__, **asdict(weighting)}
    named: Any = weighting if hasattr(weighting, "__qualname__") else type(weighting)
    return {"name": "custom", "repr": f"{named.__module__}.{named.__qualname__}"}


def weighting_from_config(config: Mapping[str, Any] | None) -> Weighting | None:
    """The weighting that `weighting_config` wrote down; numbers that are left out take their defaults."""
    if config is None:
        return None
    numbers = dict(config) if isinstance(config, Mapping) else {}
    name = numbers.pop("name", None)
    if name == "custom":
        raise ValueError(
            f"this loss weighting was a function of the user's own, {config.get('repr')}, which a configuration cannot"
            " bring back; build it and give it to GaussianDiffusion as `loss_weighting`"
        )
    if not isinstance(name, str) or name not in _NAMED:
        raise ValueError(f"unknown loss weighting {config!r}; its name must be one of {', '.join(_NAMED)}")
    known = [field.name for field in fields(_NAMED[name])]
    if not set(numbers) <= set(known):
        raise ValueError(f"{name} takes {' and '.join(known)}, but got {sorted(numbers)}")
    return _NAMED[name](**numbers)


def stratified_timesteps(
    count: int, timesteps: int, *, shift: float | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Timesteps for a batch, spread evenly over 1 … T with one common random shift (eq:low-discrepancy).

    Each timestep has probability 1/T for each image of a shuffled batch, as with independent draws, but every batch
    covers the whole range, so its loss wanders less (Kingma et al. 2021, appendix I). They come in rising order, shape
    (count,), int64. `shift` is the common shift u in [0, 1), drawn from `generator` if not given.
    """
    count, timesteps = check_whole("count", count), check_whole("timesteps", timesteps)
    check_generator(generator, single=True)
    # On the CPU, or where the generator lives, whatever torch's default is.
    where = "cpu" if generator is None else generator.device
    drawn = torch.rand((), generator=generator, dtype=torch.float64, device=where) if shift is None else shift
    shift = plain_number(drawn)
    if shift is None or not 0 <= shift < 1:
        raise ValueError(f"shift must lie in [0, 1), but got {drawn!r}")
    position = (torch.arange(count, dtype=torch.float64, device="cpu") + shift) / count
    # The clamp is for rounding only.
    return 1 + (timesteps * position).long().clamp(max=timesteps - 1)
