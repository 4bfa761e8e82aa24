"""The equations of chapter 1: the best guess, and what GAN, VAE and flow optimise, against brute force and quadrature.

The package has no GAN, VAE or flow: for these the formula of the page stands here itself.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import xlogy

from ddpm import NoiseSchedule
from ddpm.oracle import EmpiricalOracle
from tests.equations.ledger import exact, quadrature
from tests.networks import pixel

approx = pytest.approx
GRID = np.linspace(-10, 10, 20_001)
COARSE = GRID[::50]  # fine enough for the smooth densities of eq:best-guess
DATA = np.array([-0.9, -0.4, 0.1, 0.8])  # four "pictures" of one pixel


def weighted_mean(alpha_bar, x_t, *, signal=np.sqrt, spread=lambda alpha_bar: 1 - alpha_bar):
    """Average of the pictures, each weighted by how well it explains x_t; the options are for mutants."""
    weights = np.exp(-((x_t - signal(alpha_bar) * DATA) ** 2) / (2 * spread(alpha_bar)))
    return (weights * DATA).sum() / weights.sum()


def oracle_mean(alpha_bar, x_t):
    """The same from the package: one step of noise that leaves this much of the signal."""
    schedule = NoiseSchedule([1 - alpha_bar], dtype=torch.float64)
    oracle = EmpiricalOracle(schedule, torch.from_numpy(DATA).view(-1, 1, 1, 1), dtype=torch.float64)
    return oracle.expected_x0(pixel(x_t), torch.tensor([1])).item()


@quadrature(
    "eq:best-guess",
    where="ddpm.oracle.EmpiricalOracle.expected_x0",
    implementation=oracle_mean,
    mutants={
        "nearest picture": lambda alpha_bar, x_t: DATA[np.abs(x_t - math.sqrt(alpha_bar) * DATA).argmin()],
        "plain average": lambda alpha_bar, x_t: DATA.mean(),  # noqa: ARG005
        "undo the scaling only": lambda alpha_bar, x_t: x_t / math.sqrt(alpha_bar),
        "ᾱ for its root": lambda alpha_bar, x_t: weighted_mean(alpha_bar, x_t, signal=lambda a: a),
        "1 − ᾱ for its root's square": lambda alpha_bar, x_t: weighted_mean(
            alpha_bar, x_t, spread=lambda a: math.sqrt(1 - a)
        ),
    },
)
def test_best_guess(formula):
    """Of all guesses c, the one with the least E[(c − x_0)² | x_t], found by search; and no smooth change helps."""

    def risk(guess):
        """E (guess(x_t) − x_0)² by quadrature over x_t, for each picture."""
        densities = stats.norm.pdf(COARSE[:, None], math.sqrt(alpha_bar) * DATA, math.sqrt(1 - alpha_bar))
        return np.trapezoid(((guess[:, None] - DATA) ** 2 * densities).mean(1), COARSE)

    for alpha_bar in (0.05, 0.5, 0.9):
        for x_t in (-1.0, 0.2, 0.7):
            joint = stats.norm.pdf(x_t, math.sqrt(alpha_bar) * DATA, math.sqrt(1 - alpha_bar))
            least = minimize_scalar(lambda c, joint=joint: (joint * (c - DATA) ** 2).sum())
            assert formula(alpha_bar, x_t) == approx(least.x, abs=1e-6)
        best = np.array([formula(alpha_bar, x_t) for x_t in COARSE])
        for change in (0.01, 0.01 * COARSE / 10, 0.01 * np.cos(3 * COARSE)):
            assert risk(best) < min(risk(best + change), risk(best - change))


def densities():
    """Data with two humps, and a generator that misses one."""
    data = 0.4 * stats.norm.pdf(GRID, -1.5, 0.5) + 0.6 * stats.norm.pdf(GRID, 1.0, 0.7)
    return data, stats.norm.pdf(GRID, 1.0, 1.0)


def gan_value(verdict, p, q):
    """V(D) by quadrature; 0 log 0 is 0."""
    return np.trapezoid(xlogy(p, verdict) + xlogy(q, 1 - verdict), GRID)


@quadrature(
    "eq:gan-optimum",
    implementation=lambda p, q: p / (p + q),
    mutants={
        "the other way round": lambda p, q: q / (p + q),
        "hard decision": lambda p, q: np.where(p > q, 0.999, 0.001),
        "squares": lambda p, q: p**2 / (p**2 + q**2),
        "roots": lambda p, q: np.sqrt(p) / (np.sqrt(p) + np.sqrt(q)),
    },
)
def test_gan_optimum(formula):
    """No verdict near D* has a higher value; and for equal densities the value is −log 4."""
    p, q = densities()
    verdict = formula(p, q)
    for change in (0.01, 0.01 * np.sin(GRID), 0.01 * np.cos(3 * GRID), 0.01 * np.tanh(GRID)):
        for sign in (-1, 1):
            other = np.clip(verdict + sign * change, 1e-12, 1 - 1e-12)
            assert gan_value(verdict, p, q) > gan_value(other, p, q)
    assert gan_value(formula(p, p), p, p) == approx(-math.log(4), abs=1e-6)


WIDTH, NOISE = 0.8, 0.5  # x = WIDTH z + noise of standard deviation NOISE: a VAE whose likelihood is known


def bound(x, mean, std, *, reconstruction=1.0, divergence=1.0):
    """E_q log p(x|z) − KL(q ‖ p) in closed form for q = N(mean, std²); the options are for mutants."""
    expected = -0.5 * (
        math.log(2 * math.pi * NOISE**2) + ((x - WIDTH * mean) ** 2 + (WIDTH * std) ** 2) / NOISE**2
    )
    kl = 0.5 * (std**2 + mean**2 - 1) - math.log(std)
    return reconstruction * expected - divergence * kl


@exact(
    "eq:vae-bound",
    implementation=bound,
    mutants={
        "KL added": lambda x, mean, std: bound(x, mean, std, divergence=-1.0),
        "KL dropped": lambda x, mean, std: bound(x, mean, std, divergence=0.0),
        "KL halved": lambda x, mean, std: bound(x, mean, std, divergence=0.5),
        "reconstruction doubled": lambda x, mean, std: bound(x, mean, std, reconstruction=2.0),
    },
)
def test_vae_bound(formula):
    """Below log N(x; 0, w² + s²) by KL(q ‖ posterior), integrated on a grid; so with equality at the posterior."""
    posterior_variance = 1 / (1 + WIDTH**2 / NOISE**2)
    for x in (-1.3, 0.0, 0.7):
        exact = stats.norm.logpdf(x, 0, math.hypot(WIDTH, NOISE))
        posterior = (posterior_variance * WIDTH * x / NOISE**2, math.sqrt(posterior_variance))
        assert formula(x, *posterior) == approx(exact, abs=1e-10)
        for mean, std in ((0.0, 1.0), (posterior[0] + 0.3, posterior[1]), (posterior[0], 2 * posterior[1])):
            log_q = stats.norm.logpdf(GRID, mean, std)
            gap = np.trapezoid(np.exp(log_q) * (log_q - stats.norm.logpdf(GRID, *posterior)), GRID)
            assert formula(x, mean, std) == approx(exact - gap, abs=1e-8)


def flow_log_density(x, *, slope_sign=1.0, slope=lambda x: 1 + x**2):
    """log density of x where z = f(x) = x + x³/3 is standard normal; the options are for mutants."""
    return stats.norm.logpdf(x + x**3 / 3) + slope_sign * np.log(slope(x))


@quadrature(
    "eq:change-of-variables",
    implementation=flow_log_density,
    mutants={
        "slope dropped": lambda x: flow_log_density(x, slope_sign=0.0),
        "slope of the inverse": lambda x: flow_log_density(x, slope_sign=-1.0),
        "wrong slope": lambda x: flow_log_density(x, slope=lambda x: 1 + x**2 / 3),
    },
)
def test_change_of_variables(formula):
    """Mass up to x is Φ(f(x)): the map moves probability, it does not make any."""
    density = np.exp(formula(GRID))
    for x in (-1.0, 0.0, 0.5, 1.2, 10.0):
        below = np.less_equal(GRID, x + 1e-12)
        mass = np.trapezoid(density[below], GRID[below])
        assert mass == approx(stats.norm.cdf(x + x**3 / 3), abs=1e-6)
