"""`ddpm.grids`: exactly S steps, strictly from T to 0, where the spacing wants them."""

import math
from fractions import Fraction
from itertools import pairwise
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddpm import NoiseSchedule, timestep_grid
from ddpm.grids import Spacing
from tests.networks import BETAS, schedule_64

SPACINGS = get_args(Spacing)


def check_falls(grid, timesteps, steps):
    assert all(type(t) is int for t in grid)
    assert (len(grid), grid[0], grid[-1]) == (steps + 1, timesteps, 0)
    assert all(t > s for t, s in pairwise(grid))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", BETAS)
def test_every_number_of_steps_is_exact(name, spacing):
    for timesteps in (21, 22, 50, 97, 256):
        schedule = schedule_64(name, timesteps)
        for steps in range(1, timesteps + 1):
            check_falls(timestep_grid(schedule, steps, spacing), timesteps, steps)
        assert timestep_grid(schedule, timesteps, spacing) == list(range(timesteps, -1, -1))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("timesteps", [1, 2, 3])
def test_the_shortest_chains(timesteps, spacing):
    schedule = schedule_64("cosine", timesteps)
    for steps in range(1, timesteps + 1):
        check_falls(timestep_grid(schedule, steps, spacing), timesteps, steps)


@given(st.data(), st.lists(st.floats(1e-300, 1 - 1e-9), min_size=1, max_size=60), st.sampled_from(SPACINGS))
def test_any_schedule_has_every_grid(data, betas, spacing):
    """Also one whose λ_t hardly moves, or falls at one timestep alone."""
    steps = data.draw(st.integers(1, len(betas)))
    check_falls(timestep_grid(NoiseSchedule(betas), steps, spacing), len(betas), steps)


def test_even_is_the_exact_floor():
    """⌊T (S − i)/S⌋ by rational arithmetic, for all S of 1 … T."""
    for T in (1, 2, 7, 100, 260):
        for steps in range(1, T + 1):
            expected = [math.floor(Fraction(T * (steps - i), steps)) for i in range(steps + 1)]
            assert timestep_grid(T, steps) == expected


def test_quadratic_is_the_exact_floor_where_that_falls():
    """⌊T ((S − i)/S)²⌋; where it pauses, the timesteps are those that are left."""
    for T, steps in ((1000, 10), (1000, 31), (97, 9), (10_000, 100)):
        wanted = [math.floor(T * Fraction(steps - i, steps) ** 2) for i in range(steps + 1)]
        assert timestep_grid(T, steps, "quadratic") == wanted
    assert timestep_grid(5, 4, "quadratic") == [5, 3, 2, 1, 0]  # and not 5, 2, 1, 0, 0


@pytest.mark.parametrize("name", BETAS)
@pytest.mark.parametrize(
    ("spacing", "steps"), [*(("log-snr", S) for S in (2, 5, 10, 15)), ("karras", 2), ("karras", 5)]
)
def test_timesteps_are_nearest_to_even_values(name, steps, spacing):
    """By looking at every timestep; at these numbers of steps none has to move."""
    alpha_bar = torch.cumprod(1 - BETAS[name](1000), 0)
    log_snr = (alpha_bar / (1 - alpha_bar)).log()
    lowest = max(log_snr[-1].item(), -10)  # of the cosine schedule −20
    axis, ends = log_snr, torch.tensor([lowest, log_snr[0].item()], dtype=torch.float64)
    if spacing == "karras":
        axis, ends = ((-x).exp().sqrt() ** (1 / 7) for x in (axis, ends))
    wanted = torch.linspace(*ends.tolist(), steps + 1, dtype=torch.float64)[1:-1]
    nearest = (axis - wanted[:, None]).abs().argmin(1) + 1
    assert timestep_grid(schedule_64(name, 1000), steps, spacing) == [1000, *nearest.tolist(), 0]


def test_timesteps_that_meet_move_down_or_where_no_room_is_left_up():
    """λ falls at t = 5 alone, so that all values between are nearest to t = 4 or t = 5."""
    schedule = NoiseSchedule([1e-6, 1e-12, 1e-12, 1e-12, 0.5, 1e-12, 1e-12, 1e-12])
    grids = {steps: timestep_grid(schedule, steps, "log-snr")[1:-1] for steps in (2, 3, 4, 7)}
    assert grids == {2: [4], 3: [5, 4], 4: [5, 4, 3], 7: [6, 5, 4, 3, 2, 1]}
