"""Which timesteps a sampler visits on its way from T to 0, if it takes fewer steps than T."""

import math
from bisect import bisect_left
from collections.abc import Callable
from typing import Literal, get_args

from ddpm.schedule import NoiseSchedule
from ddpm.support.checks import check_choice, check_whole

# The λ from which steps are even: below it a picture has less than 1 % of its amplitude, and there is nothing to see.
# The cosine schedule goes down to −20, and a third of the steps would go there.
LOWEST_LOG_SNR = -10.0
Spacing = Literal["even", "log-snr", "karras", "quadratic"]
# ρ of Karras et al. 2022: the larger, the more of the steps are near the picture.
_RHO = 7
_EVEN_IN: dict[str, Callable[[float], float]] = {
    "log-snr": lambda log_snr: log_snr,
    # (σ_t/√ᾱ_t)^(1/ρ), downwards; the minimum is for an exponential that would overflow.
    "karras": lambda log_snr: -math.exp(min(-log_snr / (2 * _RHO), 700.0)),
}


def timestep_grid(schedule: NoiseSchedule | int, steps: int, spacing: Spacing = "even") -> list[int]:
    """`steps` + 1 timesteps, strictly falling from T to 0.

    "even" is even in t; "quadratic" even in √t, so that most of them are low (Song et al. 2021, appendix D.2);
    "log-snr" even in λ_t (Lu et al. 2022a), where that of t = 1 stands for the infinite one of t = 0, and −10 for what
    is lower; "karras" even in (σ_t/√ᾱ_t)^(1/7) between the same ends, so that the steps in λ grow towards the picture
    (Karras et al. 2022, eq. 5). Where two would fall on one timestep, the later ones are moved down, or up where no
    room is left.

    Args:
        schedule: the `NoiseSchedule`; for a grid that needs no more of it, T itself will do.
        steps: S in 1 … T.
        spacing: how the timesteps are spread.

    Raises:
        ValueError: if `steps` is out of range, or the spacing unknown or without the schedule that it needs.
    """
    own = isinstance(schedule, NoiseSchedule)
    timesteps = schedule.timesteps if own else check_whole("timesteps", schedule)
    steps = check_whole("sampling_timesteps", steps, highest=timesteps)
    check_choice("spacing", spacing, get_args(Spacing))
    # Integer arithmetic where it can be had: rounding a floating-point grid is off by one for many step counts.
    if spacing == "even":
        return [timesteps * left // steps for left in range(steps, -1, -1)]
    if spacing == "quadratic":
        return _distinct([timesteps * left**2 // steps**2 for left in range(steps, -1, -1)])
    if not own:
        raise ValueError(
            f'spacing "{spacing}" needs the schedule, timestep_grid(schedule, …), but got only T'
        )
    return _distinct(_even_in(_EVEN_IN[spacing], schedule, steps))


def _even_in(curve: Callable[[float], float], schedule: NoiseSchedule, steps: int) -> list[int]:
    """T, the timesteps nearest to `steps` − 1 values evenly between a rising curve's ends over λ, and 0."""
    log_snr = schedule.exact_log_snr.tolist()[:0:-1]
    timesteps, rising = schedule.timesteps, [curve(value) for value in log_snr]

    def nearest(wanted: float) -> int:
        place = bisect_left(rising, wanted, 1, timesteps - 1)
        return timesteps - min(place - 1, place, key=lambda place: abs(rising[place] - wanted))

    lowest = curve(max(log_snr[0], LOWEST_LOG_SNR))
    part = (rising[-1] - lowest) / steps
    return [timesteps, *(nearest(lowest + part * i) for i in range(1, steps)), 0]


def _distinct(grid: list[int]) -> list[int]:
    """A grid that falls strictly, out of one that falls from T to 0 and may pause."""
    steps, distinct = len(grid) - 1, grid[:1]
    for i, t in enumerate(grid[1:], start=1):
        # One for each of the steps that are still to come.
        distinct.append(max(steps - i, min(t, distinct[-1] - 1)))
    return distinct
