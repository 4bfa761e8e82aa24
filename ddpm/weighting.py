"""Which timesteps count for how much in training: weights w(t) on the loss, and how t is drawn."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ddpm.checks import check_generator, check_whole, plain_number
from ddpm.prediction import Objective
from ddpm.schedule import NoiseSchedule

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
        # An error of the output, as a multiple of that of x_0.
        output_error = {"pred_noise": snr, "pred_x0": torch.ones_like(snr), "pred_v": snr + 1}
        return snr.clamp(max=self.gamma) / output_error[objective]


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


_NAMED: dict[str, type[MinSNR | P2]] = {"MinSNR": MinSNR, "P2": P2}


def weighting_config(weighting: Weighting | None) -> dict[str, object] | None:
    """A weighting as its name and its numbers, ready for JSON, such as `{"name": "MinSNR", "gamma": 5.0}`.

    A function of the user's own, which no configuration can hold, is recorded as `{"name": "custom", "repr": …}`.
    """
    if weighting is None:
        return None
    # Not a subclass, which may compute something else from the same numbers.
    if isinstance(weighting, MinSNR | P2) and type(weighting) in _NAMED.values():
        return {"name": type(weighting).__name__, **asdict(weighting)}
    named: Any = weighting if hasattr(weighting, "__qualname__") else type(weighting)
    return {"name": "custom", "repr": f"{named.__module__}.{named.__qualname__}"}


def weighting_from_config(config: Mapping[str, Any] | None) -> Weighting | None:
    """The weighting that `weighting_config` wrote down; numbers that are left out take their defaults."""
    if config is None:
        return None
    numbers = dict(config)
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
    check_generator(generator)
    drawn = torch.rand((), generator=generator, dtype=torch.float64) if shift is None else shift
    shift = plain_number(drawn)
    if shift is None or not 0 <= shift < 1:
        raise ValueError(f"shift must lie in [0, 1), but got {drawn!r}")
    position = (torch.arange(count, dtype=torch.float64) + shift) / count
    # The clamp is for rounding only.
    return 1 + (timesteps * position).long().clamp(max=timesteps - 1)
