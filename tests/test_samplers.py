"""`ddpm.samplers` where every distribution is known: Gaussian data, the exact denoiser, affine samplers."""

import math
from fractions import Fraction
from itertools import pairwise

import pytest
import torch

from ddpm import NoiseSchedule, State, ancestral, ddim, timestep_grid
from tests.networks import (
    BETAS,
    Constant,
    GaussianDenoiser,
    SelfConditioned,
    diffusion_of,
    randn,
    schedule_64,
    seeded,
)

approx = pytest.approx


def last_of(chain):
    *_, state = chain
    return state.x


# The distribution of a sampler's output, exactly


def output_moments(sample, draws):
    """Mean and variance of an affine sampler's output, from its responses to x_T and to each draw of noise.

    They are what 100 outputs are solved for, which also proves that nothing else went in. The responses to independent
    standard normal sources add up in square.
    """
    source, generator, x_T = seeded(1), seeded(1), randn(100, 1, 1, 1)
    noise = [x_T, *(torch.randn(x_T.shape, generator=source) for _ in range(draws))]
    out = last_of(sample(x_T.double(), generator=generator)).flatten()
    assert torch.equal(generator.get_state(), source.get_state()), "it drew more or less often than it should"
    sources = torch.stack([torch.ones(100), *(x.flatten() for x in noise)], dim=1).double()
    response = torch.linalg.lstsq(sources, out).solution
    torch.testing.assert_close(sources @ response, out, rtol=0, atol=1e-9)
    return response[0].item(), response[1:].square().sum().item()


def propagate(exact, steps):
    """The same moments for steps of (t, factor of x̂_0, factor of x_t, added variance), in Python's numbers."""
    mean, variance = 0.0, 1.0
    for t, of_x0, of_xt, added in steps:
        slope = of_x0 * exact.gain(t) + of_xt
        mean = slope * mean + of_x0 * (exact.mean - exact.gain(t) * exact.marginal(t)[0])
        variance = slope**2 * variance + added
    return mean, variance


def ancestral_steps(schedule, variance):
    """Ho et al. 2020, eq. 7 and Algorithm 2."""
    alpha_bar = schedule.exact_alpha_bar.tolist()
    for t in range(schedule.timesteps, 0, -1):
        now, before = alpha_bar[t], alpha_bar[t - 1]
        beta = 1 - now / before
        added = {"fixed_small": (1 - before) / (1 - now) * beta, "fixed_large": beta}[variance]
        of_xt = math.sqrt(1 - beta) * (1 - before) / (1 - now)
        yield t, math.sqrt(before) * beta / (1 - now), of_xt, added if t > 1 else 0.0


def ddim_steps(schedule, grid, eta):
    """Song et al. 2021, eq. 12 and 16."""
    alpha_bar = schedule.exact_alpha_bar.tolist()
    for t, s in pairwise(grid):
        now, then = alpha_bar[t], alpha_bar[s]
        sigma = eta * math.sqrt((1 - then) / (1 - now)) * math.sqrt(1 - now / then)
        direction = math.sqrt(max(1 - then - sigma**2, 0)) / math.sqrt(1 - now)
        yield t, math.sqrt(then) - direction * math.sqrt(now), direction, sigma**2


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("name", BETAS)
@pytest.mark.parametrize(("mean", "data_variance"), [(0.3, 0.25), (-0.6, 1.5)])
def test_ancestral_has_the_moments_of_its_recursion(name, mean, data_variance, variance):
    exact = GaussianDenoiser(schedule_64(name, 60), mean, data_variance)
    got = output_moments(lambda x, **how: ancestral(exact, x, variance=variance, clip_x0=False, **how), 59)
    assert got == approx(propagate(exact, ancestral_steps(exact.schedule, variance)), rel=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", BETAS)
@pytest.mark.parametrize("steps", [1, 7, 60, [60, 59, 20, 3, 0]])
def test_ddim_has_the_moments_of_its_recursion(name, steps, eta):
    exact = GaussianDenoiser(schedule_64(name, 60), 0.3, 0.25)
    grid = [60 * (steps - i) // steps for i in range(steps + 1)] if isinstance(steps, int) else steps
    draws = len(grid) - 2 if eta else 0
    got = output_moments(lambda x, **how: ddim(exact, x, steps, eta=eta, clip_x0=False, **how), draws)
    assert got == approx(propagate(exact, ddim_steps(exact.schedule, grid, eta)), rel=1e-9)


def test_ddim_survives_the_rounding_of_a_chain_that_leaves_no_signal():
    """At η = 1 no noise of x_t is kept; the square of its factor comes out just below 0."""
    exact = GaussianDenoiser(NoiseSchedule([0.3] + 6 * [0.999], dtype=torch.float64), 0.3, 0.25)
    assert last_of(ddim(exact, randn(2, 1, 4, 4), [7, 1, 0], eta=1.0)).isfinite().all()


# What a sampler does on its way

ALL = list(range(30, -1, -1))
CHAINS = {
    "ancestral": (ancestral, ALL),
    "ancestral from 12": (lambda d, x, **how: ancestral(d, x, start=12, **how), ALL[18:]),
    "ddim": (lambda d, x, **how: ddim(d, x, 4, eta=0.5, **how), [30, 22, 15, 7, 0]),
    "ddim on a grid": (lambda d, x, **how: ddim(d, x, (30, 12, 1, 0), **how), [30, 12, 1, 0]),
    "ddim on a tensor": (lambda d, x, **how: ddim(d, x, torch.tensor([30, 5, 0]), **how), [30, 5, 0]),
}


def small():
    return diffusion_of(timesteps=30)


@pytest.mark.parametrize("name", CHAINS)
def test_every_state_is_yielded_on_the_way_down(name):
    sample, grid = CHAINS[name]
    diffusion, x_T = small(), randn(2, 1, 4, 4)
    states = list(sample(diffusion, x_T))
    assert all(isinstance(state, State) for state in states)
    assert [state.t for state in states] == grid[1:]
    assert diffusion.network.calls == grid[:-1]
    assert all(state.x.shape == state.x0.shape == x_T.shape for state in states)
    assert all(state.x.dtype == torch.float32 for state in states)
    torch.testing.assert_close(states[-1].x, states[-1].x0)


@pytest.mark.parametrize("name", ["ancestral", "ddim"])
def test_clipping_is_done_unless_turned_off(name):
    """A network that shouts: with clipping the predicted images stay in [-1, 1], and so does the last state."""
    sample, _ = CHAINS[name]
    diffusion = diffusion_of(Constant(3.0), timesteps=30, objective="pred_x0")
    clipped, free = (list(sample(diffusion, randn(2, 1, 4, 4), **how)) for how in ({}, {"clip_x0": False}))
    assert all((state.x0 == 1).all() for state in clipped)
    assert all((state.x0 == 3).all() for state in free)
    torch.testing.assert_close(clipped[-1].x, torch.ones(2, 1, 4, 4))


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("name", ["ancestral", "ddim"])
def test_each_step_is_told_what_the_step_before_predicted(name, clip):
    """None first, then the x_0 of the state before; and a second chain knows nothing of the first."""
    sample, grid = CHAINS[name]
    diffusion = diffusion_of(SelfConditioned(), timesteps=30)
    for _ in range(2):
        diffusion.network.estimates.clear()
        states = list(sample(diffusion, randn(2, 1, 4, 4), clip_x0=clip))
        first, *told = diffusion.network.estimates
        assert first is None
        assert len(told) == len(grid) - 2
        assert all(torch.equal(state.x0, hint) for state, hint in zip(states[:-1], told, strict=True))


@pytest.mark.parametrize("name", ["ancestral", "ddim"])
def test_no_gradients_inside_and_none_lost_outside(name):
    """The generator pauses between states: whoever looks at them must keep the gradients they had."""
    diffusion = small()
    for state in CHAINS[name][0](diffusion, randn(1, 1, 4, 4).requires_grad_()):
        assert torch.is_grad_enabled()
        assert not state.x.requires_grad
    assert not any(grad for _, grad in diffusion.network.modes)


def test_timestep_grid_is_the_exact_floor_for_every_number_of_steps():
    """⌊T (S − i)/S⌋ by rational arithmetic, for all S of 1 … T: from T, strictly down, to 0."""
    for T in (1, 2, 7, 100, 260):
        for steps in range(1, T + 1):
            expected = [math.floor(Fraction(T * (steps - i), steps)) for i in range(steps + 1)]
            assert timestep_grid(T, steps) == expected
            assert (expected[0], expected[-1], sorted(set(expected), reverse=True)) == (T, 0, expected)
