"""`ddpm.samplers` where every distribution is known: Gaussian data, the exact denoiser, affine samplers."""

import math
import weakref
from itertools import pairwise

import pytest
import torch

from ddpm import NoiseSchedule, State, ancestral, ddim, dpm_solver_pp, encode, heun, timestep_grid
from tests.networks import (
    BETAS,
    Constant,
    GaussianDenoiser,
    SelfConditioned,
    diffusion_of,
    labels_told,
    last_of,
    randn,
    schedule_64,
    seeded,
)

approx = pytest.approx


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


# The solvers, in the words of their papers, for one number x


def half_log_snr(schedule):
    """α_t, σ_t and their λ_t = log(α_t/σ_t)."""
    signal = [a**0.5 for a in schedule.exact_alpha_bar.tolist()]
    sigma = [(1 - a) ** 0.5 for a in schedule.exact_alpha_bar.tolist()]
    return signal, sigma, [math.log(a / s) if s else math.inf for a, s in zip(signal, sigma, strict=True)]


def expected_x0(exact, x, t):
    return exact.mean + exact.gain(t) * (x - exact.marginal(t)[0])


def dpm_solver_pp_2m(exact, x, grid):
    """Lu et al. 2022b, algorithm 2; at λ = ∞ its first-order update is the prediction itself."""
    signal, sigma, lam = half_log_snr(exact.schedule)
    seen = []
    for i, (t, s) in enumerate(pairwise(grid)):
        seen.append(expected_x0(exact, x, t))
        if s == 0:
            return seen[-1]
        h, D = lam[s] - lam[t], seen[-1]
        if i > 0:
            r = (lam[t] - lam[grid[i - 1]]) / h
            D = (1 + 1 / (2 * r)) * seen[-1] - 1 / (2 * r) * seen[-2]
        x = sigma[s] / sigma[t] * x - signal[s] * math.expm1(-h) * D
    raise AssertionError


def heun_on_the_flow(exact, x, grid):
    """Heun's two lines for d(x/σ)/du = x̂_0 with u = α/σ, and at u = ∞ the x̂_0 that the first of them leads to."""
    signal, sigma, _ = half_log_snr(exact.schedule)
    for t, s in pairwise(grid):
        slope = expected_x0(exact, x, t)
        if s == 0:
            return slope
        y, h = x / sigma[t], signal[s] / sigma[s] - signal[t] / sigma[t]
        there = expected_x0(exact, sigma[s] * (y + h * slope), s)
        x = sigma[s] * (y + h / 2 * (slope + there))
    raise AssertionError


def euler_upwards(exact, x, grid):
    """Euler's method for d(x/α)/d(σ/α) = ε̂ (Song et al. 2021, eq. 14), where the lowest ε̂ is that of t = 1."""
    signal, sigma, _ = half_log_snr(exact.schedule)
    for t, s in pairwise(grid):
        asked = max(t, 1)
        noise = (x - signal[asked] * expected_x0(exact, x, asked)) / sigma[asked]
        x = signal[s] * (x / signal[t] + (sigma[s] / signal[s] - sigma[t] / signal[t]) * noise)
    return x


PAPERS = {
    "heun": (heun, heun_on_the_flow, 1),
    "dpm++": (dpm_solver_pp, dpm_solver_pp_2m, 1),
    "encode": (encode, euler_upwards, -1),
}


@pytest.mark.parametrize("spacing", ["even", "log-snr", "karras", "quadratic"])
@pytest.mark.parametrize("name", BETAS)
@pytest.mark.parametrize("way", PAPERS)
@pytest.mark.parametrize("steps", [1, 2, 7, 60])
def test_the_solvers_are_those_of_their_papers(way, name, steps, spacing):
    sample, reference, direction = PAPERS[way]
    exact, x = GaussianDenoiser(schedule_64(name, 60), 0.3, 0.25), randn(5, 1, 1, 1).double()
    grid = timestep_grid(exact.schedule, steps, spacing)[::direction]
    states = list(sample(exact, x, steps, spacing=spacing, clip_x0=False))
    assert [state.t for state in states] == grid[1:]
    expected = [reference(exact, number, grid) for number in x.flatten().tolist()]
    assert states[-1].x.flatten().tolist() == approx(expected, rel=1e-9)


def test_without_a_second_order_all_are_ddim():
    """One image: every prediction is the same, so that nothing is left to correct, and one step is exact."""
    exact = GaussianDenoiser(schedule_64("cosine", 60), 0.3, 0.0)
    x = randn(3, 1, 2, 2).double()
    states = [list(sample(exact, x, 7)) for sample in (ddim, heun, dpm_solver_pp)]
    for other in states[1:]:
        for one, same in zip(states[0], other, strict=True):
            torch.testing.assert_close(one.x, same.x, rtol=0, atol=1e-12)
    torch.testing.assert_close(states[0][-1].x, torch.full_like(x, 0.3), rtol=0, atol=1e-12)


# What a sampler does on its way

ALL = list(range(30, -1, -1))
CHAINS = {
    "ancestral": (ancestral, ALL),
    "ancestral from 12": (lambda d, x, **how: ancestral(d, x, start=12, **how), ALL[18:]),
    "ddim": (lambda d, x, **how: ddim(d, x, 4, eta=0.5, **how), [30, 22, 15, 7, 0]),
    "ddim on a grid": (lambda d, x, **how: ddim(d, x, (30, 12, 1, 0), **how), [30, 12, 1, 0]),
    "ddim on a tensor": (lambda d, x, **how: ddim(d, x, torch.tensor([30, 5, 0]), **how), [30, 5, 0]),
    "ddim, quadratic": (lambda d, x, **how: ddim(d, x, 3, spacing="quadratic", **how), [30, 13, 3, 0]),
    "heun": (lambda d, x, **how: heun(d, x, 4, **how), [30, 22, 15, 7, 0]),
    "dpm++": (lambda d, x, **how: dpm_solver_pp(d, x, 4, **how), [30, 22, 15, 7, 0]),
}
EACH = ["ancestral", "ddim", "heun", "dpm++"]
BOTH_WAYS = {name: CHAINS[name][0] for name in EACH} | {"encode": lambda d, x, **how: encode(d, x, 20, **how)}


def small():
    return diffusion_of(timesteps=30)


@pytest.mark.parametrize("name", CHAINS)
def test_every_state_is_yielded_on_the_way_down(name):
    sample, grid = CHAINS[name]
    diffusion, x_T = small(), randn(2, 1, 4, 4)
    states = list(sample(diffusion, x_T))
    assert all(isinstance(state, State) for state in states)
    assert [state.t for state in states] == grid[1:]
    twice = [t for t in grid[1:-1] for _ in range(2)]
    assert diffusion.network.calls == ([grid[0], *twice] if name == "heun" else grid[:-1])
    assert all(state.x.shape == state.x0.shape == x_T.shape for state in states)
    assert all(state.x.dtype == torch.float32 for state in states)
    torch.testing.assert_close(states[-1].x, states[-1].x0)


def test_the_way_up_begins_at_the_picture():
    diffusion = small()
    states = list(encode(diffusion, randn(2, 1, 4, 4).clamp(-1, 1), 4))
    assert [state.t for state in states] == [7, 15, 22, 30]
    assert diffusion.network.calls == [1, 7, 15, 22]


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_clipping_is_done_unless_turned_off(name):
    """A network that shouts: with clipping the predicted images stay in [-1, 1], and so does a last state at t = 0."""
    diffusion = diffusion_of(Constant(3.0), timesteps=30, objective="pred_x0")
    clipped, free = (
        list(BOTH_WAYS[name](diffusion, randn(2, 1, 4, 4), **how)) for how in ({}, {"clip_x0": False})
    )
    assert all((state.x0 == 1).all() for state in clipped)
    assert all((state.x0 == 3).all() for state in free)
    if clipped[-1].t == 0:
        torch.testing.assert_close(clipped[-1].x, torch.ones(2, 1, 4, 4))


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_the_labels_reach_every_call(monkeypatch, name):
    diffusion, given = small(), torch.tensor([0, 1])
    told = labels_told(monkeypatch, diffusion)
    list(BOTH_WAYS[name](diffusion, randn(2, 1, 4, 4), labels=given))
    assert len(told) == len(diffusion.network.calls) > 3
    assert all(labels is given for labels in told)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("name", ["ancestral", "ddim", "dpm++"])
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


@pytest.mark.parametrize("clip", [False, True])
def test_heun_is_told_what_each_of_its_two_calls_predicted(clip):
    diffusion = diffusion_of(SelfConditioned(), timesteps=30)
    *_, last = heun(diffusion, randn(2, 1, 4, 4), 3, clip_x0=clip)
    first, *told = diffusion.network.estimates
    assert first is None
    assert len(told) == 4
    assert len({id(hint) for hint in told}) == 4
    torch.testing.assert_close(last.x, last.x0)


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_memory_is_flat_over_the_steps(name):
    """A state that nobody keeps is gone two steps later at the latest, and so is its prediction: nothing holds them."""
    seen = []
    for state in BOTH_WAYS[name](small(), randn(2, 1, 4, 4)):
        seen += [weakref.ref(state.x), weakref.ref(state.x0)]
        assert not [ref for ref in seen[:-4] if ref() is not None]


@pytest.mark.parametrize("name", EACH)
def test_no_gradients_inside_and_none_lost_outside(name):
    """The generator pauses between states: whoever looks at them must keep the gradients they had."""
    diffusion = small()
    for state in CHAINS[name][0](diffusion, randn(1, 1, 4, 4).requires_grad_()):
        assert torch.is_grad_enabled()
        assert not state.x.requires_grad
    assert not any(grad for _, grad in diffusion.network.modes)
