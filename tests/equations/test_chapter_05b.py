"""The equations of chapter 5b, where the chain must end, against quadrature, composition and interpolation."""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from scipy.stats import wasserstein_distance

from ddpm import GaussianDiffusion
from ddpm.likelihood import prior_term
from tests.equations.ledger import exact, quadrature
from tests.networks import schedule_64

approx = pytest.approx


def short_schedule():
    """A chain of 200 steps that stops too early."""
    return schedule_64(torch.linspace(1e-4, 0.02, 200, dtype=torch.float64))


@quadrature(
    "eq:prior-term",
    where="ddpm.likelihood.prior_term",
    implementation=prior_term,
    mutants={
        "half forgotten": lambda schedule, x0: 2 * prior_term(schedule, x0),
        "amplitude for power": lambda schedule, x0: (
            prior_term(schedule, x0) + 0.5 * (schedule.sqrt_alpha_bar[-1] - schedule.alpha_bar[-1]) * x0**2
        ),
        "logarithm forgotten": lambda schedule, x0: 0.5 * schedule.alpha_bar[-1] * (x0**2 - 1),
        "divergence the other way round": lambda schedule, x0: (
            0.5
            * (
                (1 + schedule.alpha_bar[-1] * x0**2) / schedule.sigma[-1] ** 2
                - 1
                + 2 * schedule.sigma[-1].log()
            )
        ),
    },
)
def test_prior_term(formula):
    """∫ q log(q/p) on a grid for each pixel of a picture."""
    schedule = short_schedule()
    x0 = torch.tensor([[-1.0, -0.3], [0.2, 1.0]], dtype=torch.float64)
    grid = np.linspace(-12, 12, 48_001)
    signal, noise = schedule.sqrt_alpha_bar[-1].item(), schedule.sigma[-1].item()
    for pixel, ours in zip(x0.flatten().tolist(), formula(schedule, x0).flatten().tolist(), strict=True):
        q = stats.norm(signal * pixel, noise)
        integrand = q.pdf(grid) * (q.logpdf(grid) - stats.norm.logpdf(grid))
        assert ours == approx(np.trapezoid(integrand, grid), rel=1e-8)


GRID = np.linspace(-6, 6, 1201)


def mixture_density(x):
    return 3 / 8 * stats.norm.pdf(x, -1, 0.25) + 5 / 8 * stats.norm.pdf(x, 1, 0.25)


def perfect_return(alpha_bar, start=stats.norm.pdf, signal=None, noise=None):
    """∫ q(x_0 | x_T) p(x_T) dx_T by Bayes' rule on the grid; the options are for mutants."""
    signal = math.sqrt(alpha_bar) if signal is None else signal
    noise = math.sqrt(1 - alpha_bar) if noise is None else noise
    joint = mixture_density(GRID) * stats.norm.pdf(GRID[:, None], signal * GRID, noise)
    given_end = joint / joint.sum(1, keepdims=True)
    weight = start(GRID)
    return (weight / weight.sum()) @ given_end / (GRID[1] - GRID[0])


@quadrature(
    "eq:perfect-return",
    implementation=perfect_return,
    mutants={
        "started from q(x_T)": lambda alpha_bar: perfect_return(
            alpha_bar,
            start=lambda x: sum(
                w * stats.norm.pdf(x, sign * math.sqrt(alpha_bar), math.sqrt(alpha_bar / 16 + 1 - alpha_bar))
                for w, sign in ((3 / 8, -1), (5 / 8, 1))
            ),
        ),
        "ᾱ for its root": lambda alpha_bar: perfect_return(alpha_bar, signal=alpha_bar),
        "started where x_0 might be": lambda alpha_bar: perfect_return(alpha_bar, start=mixture_density),
    },
)
def test_perfect_return(formula):
    """The true steps back one after the other, each a matrix on the grid, from N(0, 1) at t = T."""
    betas = np.array([0.1, 0.2, 0.25, 0.3])
    alpha_bar = np.concatenate([[1], np.cumprod(1 - betas)])
    levels = [mixture_density(GRID)]  # q(x_t) on the grid
    kernels = []  # q(x_{t−1} | x_t): rows x_t, columns x_{t−1}
    for beta in betas:
        forward = stats.norm.pdf(GRID[:, None], math.sqrt(1 - beta) * GRID, math.sqrt(beta))
        joint = forward * levels[-1]
        kernels.append(joint / joint.sum(1, keepdims=True))
        levels.append(joint.sum(1) * (GRID[1] - GRID[0]))
    density = stats.norm.pdf(GRID) * (GRID[1] - GRID[0])
    for kernel in reversed(kernels):
        density = density @ kernel
    assert formula(alpha_bar[-1]) == approx(density / (GRID[1] - GRID[0]), abs=1e-5)


def end_density(x, alpha_bar):
    """q(x_T) of the mixture below."""
    spread = math.sqrt(alpha_bar / 16 + 1 - alpha_bar)
    return sum(
        w * stats.norm.pdf(x, sign * math.sqrt(alpha_bar), spread) for w, sign in ((3 / 8, -1), (5 / 8, 1))
    )


def kl_on_grid(p, q):
    inside = p > 1e-300
    return (p[inside] * np.log(p[inside] / q[inside])).sum() * (GRID[1] - GRID[0])


def information(alpha_bar):
    """I(x_0; x_T): the mean over x_0 of KL(q(x_T | x_0) ‖ q(x_T)), on the grid."""
    marginal, spacing = end_density(GRID, alpha_bar), GRID[1] - GRID[0]
    return sum(
        density * spacing * kl_on_grid(stats.norm.pdf(GRID, math.sqrt(alpha_bar) * x0, spread), marginal)
        for x0, density in zip(GRID, mixture_density(GRID), strict=True)
        for spread in (math.sqrt(1 - alpha_bar),)
        if density > 1e-12
    )


def mismatch(alpha_bar):
    return kl_on_grid(end_density(GRID, alpha_bar), stats.norm.pdf(GRID))


def mismatch_turned_round(alpha_bar):
    return kl_on_grid(stats.norm.pdf(GRID), end_density(GRID, alpha_bar))


@quadrature(
    "eq:prior-split",
    implementation=lambda alpha_bar: information(alpha_bar) + mismatch(alpha_bar),
    mutants={
        "difference for sum": lambda alpha_bar: information(alpha_bar) - mismatch(alpha_bar),
        "information alone": information,
        "mismatch alone": mismatch,
        "divergence the other way round": lambda alpha_bar: (
            information(alpha_bar) + mismatch_turned_round(alpha_bar)
        ),
    },
)
def test_prior_split(formula):
    """The mean of L_T over data with E x_0² = 1 + 1/16, by the moments alone."""
    for alpha_bar in (0.1, 0.6):
        mean_price = 0.5 * (alpha_bar * 17 / 16 - alpha_bar - math.log(1 - alpha_bar))
        assert formula(alpha_bar) == approx(mean_price, rel=1e-5)


@quadrature(
    "eq:start-bound",
    implementation=mismatch,
    mutants={
        "half the divergence": lambda alpha_bar: mismatch(alpha_bar) / 2,
        "divergence the other way round": mismatch_turned_round,
    },
)
def test_start_bound(formula):
    """It bounds KL(data ‖ samples), nearly reached where the chain has hardly begun; and L_T less the information."""
    for alpha_bar in (0.05, 0.5, 0.999):
        lost = kl_on_grid(mixture_density(GRID), perfect_return(alpha_bar))
        mean_price = 0.5 * (alpha_bar * 17 / 16 - alpha_bar - math.log(1 - alpha_bar))
        assert lost < formula(alpha_bar) < mean_price
        if alpha_bar < 0.9:  # where the grid can resolve q(x_T | x_0)
            assert formula(alpha_bar) == approx(mean_price - information(alpha_bar), rel=1e-3)


def gaussian_miss(left, m, variance):
    return m * (1 - left * variance / (left * variance + 1 - left))


@exact(
    "eq:gaussian-miss",
    implementation=gaussian_miss,
    mutants={
        "√ᾱ for ᾱ": lambda left, m, variance: gaussian_miss(math.sqrt(left), m, variance),
        "gain without its variance": lambda left, m, variance: m * (1 - left * variance),
        "nothing is lost": lambda left, m, variance: m + 0 * left * variance,
        "s for s²": lambda left, m, variance: gaussian_miss(left, m, math.sqrt(variance)),
    },
)
def test_gaussian_miss(formula):
    """The mean carried down the exact affine steps q(x_{t−1} | x_t), one at a time."""
    schedule = short_schedule()
    alpha_bar = schedule.alpha_bar.tolist()
    for m, variance in ((0.7, 0.64), (-0.4, 1.0), (1.0, 0.1)):
        mean = 0.0
        for t in range(200, 0, -1):
            now, before = alpha_bar[t], alpha_bar[t - 1]
            spread_now, spread_before = (a * variance + 1 - a for a in (now, before))
            slope = math.sqrt(now / before) * spread_before / spread_now
            mean = math.sqrt(before) * m + slope * (mean - math.sqrt(now) * m)
        assert float(formula(alpha_bar[-1], m, variance)) == approx(mean, rel=1e-9)


def area_between(p, q, power=1.0):
    grid = np.linspace(-20, 20, 400_001)
    return np.trapezoid(np.abs(p.cdf(grid) - q.cdf(grid)) ** power, grid)


@exact(
    "eq:wasserstein",
    implementation=area_between,
    mutants={
        "area squared": lambda p, q: area_between(p, q, power=2.0),
        "densities for distribution functions": lambda p, q: np.trapezoid(
            np.abs(p.pdf(np.linspace(-20, 20, 400_001)) - q.pdf(np.linspace(-20, 20, 400_001))),
            np.linspace(-20, 20, 400_001),
        ),
        "absolute value forgotten": lambda p, q: p.mean() - q.mean(),
    },
)
def test_wasserstein(formula):
    """A shift costs its length, a stretch |σ_1 − σ_2| √(2/π); and SciPy's distance between many quantiles."""
    assert formula(stats.norm(0, 1), stats.norm(0.3, 1)) == approx(0.3, rel=1e-6)
    assert formula(stats.norm(0, 1), stats.norm(0, 1.5)) == approx(0.5 * math.sqrt(2 / math.pi), rel=1e-6)
    p, q = stats.norm(0, 1), stats.laplace(0.4, 0.6)
    ranks = (np.arange(200_000) + 0.5) / 200_000
    assert formula(p, q) == approx(wasserstein_distance(p.ppf(ranks), q.ppf(ranks)), rel=1e-3)


class Answer(torch.nn.Module):
    """A network that says whatever it was told to."""

    channels = 1

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x_t, t, labels=None):  # noqa: ARG002
        return self.answer.expand_as(x_t)


def x0_error(t, error):
    """How far ddpm's x_0 moves when the network's noise moves by `error`."""
    x_t = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64)
    answers = []
    for noise in (0.2, 0.2 + error):
        network = Answer(torch.tensor(noise, dtype=torch.float64))
        model = GaussianDiffusion(network, image_size=1, objective="pred_noise")
        model.schedule = schedule_64()
        answers.append(model.predict(x_t, torch.tensor([t]), clip_x0=False).x0.item())
    return answers[1] - answers[0]


@exact(
    "eq:noise-error-amplified",
    implementation=x0_error,
    mutants={
        "sign": lambda t, error: -x0_error(t, error),
        "SNR for its root": lambda t, error: -error / schedule_64().snr[t].item(),
        "not amplified (as with v)": lambda t, error: -error * schedule_64().sigma[t].item(),
    },
)
def test_noise_error_amplified(formula):
    """Two noises that explain the same x_t: the pictures that go with them, found by solving with mpmath."""
    for t in (1, 300, 1000):
        with mpmath.workdps(30):
            alpha_bar = mpmath.mpf(1)
            for s in range(1, t + 1):
                alpha_bar *= 1 - (mpmath.mpf("0.0001") + mpmath.mpf("0.0199") * (s - 1) / 999)
            signal, noise = mpmath.sqrt(alpha_bar), mpmath.sqrt(1 - alpha_bar)
            solved = [
                (mpmath.mpf("0.5") - noise * e) / signal for e in (mpmath.mpf("0.2"), mpmath.mpf("0.21"))
            ]
        assert formula(t, 0.01) == approx(float(solved[1] - solved[0]), rel=1e-6)


def zero_terminal(root):
    return (root - root[-1]) * root[0] / (root[0] - root[-1])


@exact(
    "eq:zero-terminal-rescaling",
    implementation=zero_terminal,
    mutants={
        "shifted only": lambda root: root - root[-1],
        "powers for amplitudes": lambda root: zero_terminal(root**2).sqrt(),
        "factor upside down": lambda root: (root - root[-1]) * (root[0] - root[-1]) / root[0],
    },
)
def test_zero_terminal_rescaling(formula):
    """The straight line through (r_1, r_1) and (r_T, 0): an interpolation that knows no algebra."""
    for schedule in (short_schedule(), schedule_64(), schedule_64(torch.full((50,), 0.02))):
        root = schedule.sqrt_alpha_bar[1:]
        line = np.polynomial.Polynomial.fit([root[0].item(), root[-1].item()], [root[0].item(), 0.0], 1)
        assert formula(root).numpy() == approx(line(root.numpy()), abs=1e-10)
