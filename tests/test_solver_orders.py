"""`ddpm.samplers` against theory, where the denoiser is exact: what is wrong with a sample is the sampler's doing.

The schedules have 100,000 timesteps, so that the grid of integers is not the limit, and the steps are even in λ: there
the slopes are clean. Evenly in t, where the last steps are the longest in λ, Heun's falls to 1.4.
"""

import math

import pytest
import torch
from scipy.stats import kstest, norm

from ddpm import GaussianMixtureOracle, ancestral, ddim, dpm_solver_pp, encode, heun
from ddpm.reverse_process import OptimalVariance
from tests.networks import GaussianDenoiser, randn, schedule_64, seeded

FINE, STEPS = 100_000, (32, 64, 128, 256)
ORDERS = {"ddim": (ddim, 1), "heun": (heun, 2), "dpm++": (dpm_solver_pp, 2)}
MEAN, VARIANCE = torch.tensor([0.3, -0.2]).double(), torch.tensor([0.25, 0.09]).double()
MIXTURE = ([[-0.6, 0.3], [0.5, -0.2], [0.1, 0.7]], [0.1, 0.2, 0.15])
BAND = 0.1


def last_of(sample, oracle, x, steps, spacing="log-snr"):
    *_, state = sample(oracle, x, steps, spacing=spacing, clip_x0=False)
    return state.x


def slope(error):
    """By least squares of log error against log steps, with its sign turned."""
    logs = [(math.log(steps), math.log(error(steps))) for steps in STEPS]
    x, y = torch.tensor(logs, dtype=torch.float64).T
    return -(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()).item()


def distance(a, b):
    return (a - b).square().mean().sqrt().item()


def gaussian(name):
    """The oracle, x_T, and the x_0 to which the ODE takes it: z-scores stay what they are."""
    oracle = GaussianMixtureOracle(schedule_64(name, FINE), [MEAN.tolist()], [VARIANCE.tolist()])
    x_T, alpha_bar = randn(64, 1, 1, 2, dtype=torch.float64), oracle.schedule.exact_alpha_bar[-1]
    z = (x_T - alpha_bar.sqrt() * MEAN) / (alpha_bar * VARIANCE + 1 - alpha_bar).sqrt()
    return oracle, x_T, MEAN + VARIANCE.sqrt() * z


def mixture(name):
    """The oracle, x_T, and the solution with very many steps, on which two solvers agree."""
    oracle = GaussianMixtureOracle(schedule_64(name, FINE), *MIXTURE)
    x_T = randn(16, 1, 1, 2, dtype=torch.float64)
    x_0, other = (last_of(sample, oracle, x_T, 3000, "quadratic") for sample in (dpm_solver_pp, heun))
    assert distance(x_0, other) < 2e-6
    return oracle, x_T, x_0


@pytest.fixture(
    scope="module", params=[(data, name) for data in (gaussian, mixture) for name in ("linear", "cosine")]
)
def problem(request):
    data, name = request.param
    return data(name)


@pytest.mark.parametrize("way", ORDERS)
def test_the_error_falls_with_the_order(way, problem):
    sample, order = ORDERS[way]
    oracle, x_T, x_0 = problem
    found = slope(lambda steps: distance(last_of(sample, oracle, x_T, steps), x_0))
    assert abs(found - order) < BAND, found


def test_the_way_up_and_down_again_is_of_the_first_order(problem):
    oracle, _, x_0 = problem
    found = slope(
        lambda steps: distance(last_of(ddim, oracle, last_of(encode, oracle, x_0, steps), steps), x_0)
    )
    assert abs(found - 1) < BAND, found


def test_the_way_up_leads_to_where_the_ode_began(problem):
    oracle, x_T, x_0 = problem
    found = slope(lambda steps: distance(last_of(encode, oracle, x_0, steps), x_T))
    assert abs(found - 1) < BAND, found


def test_the_second_order_beats_the_first_at_equal_calls(problem):
    """From 32 network calls on; Heun's method makes two a step."""
    oracle, x_T, x_0 = problem
    for calls in (32, 64, 128):
        errors = {
            way: distance(last_of(sample, oracle, x_T, calls // 2 if way == "heun" else calls), x_0)
            for way, (sample, _) in ORDERS.items()
        }
        assert errors["dpm++"] < errors["heun"] < errors["ddim"], errors


# Ancestral sampling: the distribution at every timestep

DRAWS = 20_000
# Where the true step back is a Gaussian, and its variance the one that is named (Ho et al. 2020, section 3.2).
EXACT = {
    "one image": (0.3, 0.0, lambda _: "fixed_small"),
    "noise": (0.0, 1.0, lambda _: "fixed_large"),
    "Gaussian": (0.3, 0.25, OptimalVariance),
}


@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid", "log-snr"])
@pytest.mark.parametrize("data", EXACT)
def test_ancestral_marginals_are_those_of_the_noised_data(data, name):
    """Kolmogorov-Smirnov at each of 30 timesteps; the last step adds no noise, and so ends in E[x_0 | x_1]."""
    mean, variance, rule = EXACT[data]
    exact = GaussianDenoiser(schedule_64(name, 30), mean, variance)
    source, (m, v) = seeded(3), exact.marginal(30)
    x = m + v**0.5 * torch.randn(DRAWS, 1, 1, 1, generator=source).double()
    levels = []
    for state in ancestral(exact, x, variance=rule(exact), clip_x0=False, generator=source):
        m, v = exact.marginal(max(state.t, 1))
        m, v = (m, v) if state.t else (mean, exact.gain(1) ** 2 * v)
        levels.append(state.t)
        if v == 0:
            torch.testing.assert_close(state.x, torch.full_like(x, m))
        else:
            assert kstest(state.x.flatten().numpy(), norm(m, v**0.5).cdf).pvalue > 1e-3, state.t
    assert levels == list(range(29, -1, -1))
