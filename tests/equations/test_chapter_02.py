"""The equations of chapter 2, the forward process, against quadrature, exact composition and mpmath."""

import functools
import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from ddpm import GaussianDiffusion, NoiseSchedule, linear_betas
from ddpm.gaussians import log_density
from ddpm.mixture_oracle import GaussianMixtureOracle
from tests.equations.ledger import exact, quadrature
from tests.networks import schedule_64

approx = pytest.approx
LEVELS = (1, 2, 10, 400, 1000)
GRID = torch.linspace(-12, 12, 240_001, dtype=torch.float64)


class NoNetwork(nn.Module):
    """Stands where the network stands: the forward process asks it nothing."""

    channels = 1


def double(*values):
    """The numbers as float64 tensors."""
    return [torch.tensor(value, dtype=torch.float64) for value in values]


def integral(values, grid=GRID):
    return torch.trapezoid(values, grid).item()


@quadrature(
    "eq:gaussian",
    where="ddpm.gaussians.log_density",
    implementation=log_density,
    mutants={
        "half dropped in the exponent": lambda x, mean, log_variance: (
            -0.5 * (math.log(2 * math.pi) + log_variance) - (x - mean) ** 2 * torch.exp(-log_variance)
        ),
        "standard deviation for variance": lambda x, mean, log_variance: log_density(
            x, mean, log_variance / 2
        ),
        "normalisation without π": lambda x, mean, log_variance: (
            log_density(x, mean, log_variance) + 0.5 * math.log(math.pi)
        ),
        "|x − μ| for its square": lambda x, mean, log_variance: (
            -0.5 * (math.log(2 * math.pi) + log_variance + (x - mean).abs() * torch.exp(-log_variance))
        ),
    },
)
def test_gaussian(formula):
    """Mass, mean, variance and fourth moment (3σ⁴) by quadrature."""
    for mean, variance in ((0.0, 1.0), (-0.7, 0.3), (1.5, 2.0)):
        mu, log_variance = double(mean, math.log(variance))
        density = formula(GRID, mu, log_variance).exp()
        centred = GRID - mean
        assert integral(density) == approx(1, abs=1e-8)
        assert integral(density * GRID) == approx(mean, abs=1e-8)
        assert integral(density * centred**2) == approx(variance, rel=1e-8)
        assert integral(density * centred**4) == approx(3 * variance**2, rel=1e-7)


@quadrature(
    "eq:affine-gaussian",
    implementation=lambda mean, variance, eps: mean + math.sqrt(variance) * eps,
    mutants={
        "variance for its root": lambda mean, variance, eps: mean + variance * eps,
        "mean scaled as well": lambda mean, variance, eps: math.sqrt(variance) * (mean + eps),
    },
)
def test_affine_gaussian(formula):
    """E f(μ + σε) over ε ~ N(0, 1) equals the integral of f under N(μ, σ²), for f that see every moment."""
    standard = torch.exp(-(GRID**2) / 2) / math.sqrt(2 * math.pi)
    for mean, variance in ((0.4, 0.25), (-0.7, 1.7)):
        density = torch.from_numpy(stats.norm.pdf(GRID.numpy(), mean, math.sqrt(variance)))
        for function in (torch.cos, torch.sin, torch.sigmoid, lambda x: x**3):
            through_noise = integral(standard * function(formula(mean, variance, GRID)))
            assert through_noise == approx(integral(density * function(GRID)), abs=1e-8)


@exact(
    "eq:forward-step",
    where="ddpm.schedule.NoiseSchedule.beta",
    implementation=lambda schedule, t, x: (schedule.alpha[t].sqrt() * x, schedule.beta[t]),
    mutants={
        "β for √β in the noise": lambda schedule, t, x: (schedule.alpha[t].sqrt() * x, schedule.beta[t] ** 2),
        "picture scaled by 1 − β": lambda schedule, t, x: (schedule.alpha[t] * x, schedule.beta[t]),
        "picture not scaled": lambda schedule, t, x: (x, schedule.beta[t]),
        "t off by one": lambda schedule, t, x: (schedule.alpha[t - 1].sqrt() * x, schedule.beta[t - 1]),
    },
)
def test_forward_step(formula):
    """A picture of variance 1 keeps it, and its share of the variance falls by the factor 1 − β_t each step."""
    schedule, betas = schedule_64(), linear_betas(1000)
    share = 1.0
    for t in range(1, 1001):
        factor, noise = formula(schedule, t, 1.0)
        assert float(factor) ** 2 + float(noise) == approx(1, rel=1e-12)
        share *= float(factor) ** 2
        if t in LEVELS:
            assert share == approx(math.exp(sum(math.log1p(-b) for b in betas[:t].tolist())), rel=1e-10)


@exact(
    "eq:forward-chain",
    implementation=lambda schedule, path: sum(
        log_density(path[t], schedule.alpha[t].sqrt() * path[t - 1], schedule.beta[t].log())
        for t in range(1, len(path))
    ),
    mutants={
        "first step forgotten": lambda schedule, path: sum(
            log_density(path[t], schedule.alpha[t].sqrt() * path[t - 1], schedule.beta[t].log())
            for t in range(2, len(path))
        ),
        "every step from x_0": lambda schedule, path: sum(
            log_density(path[t], schedule.alpha[t].sqrt() * path[0], schedule.beta[t].log())
            for t in range(1, len(path))
        ),
        "β of the step before": lambda schedule, path: sum(
            log_density(path[t], schedule.alpha[t].sqrt() * path[t - 1], schedule.beta[max(t - 1, 1)].log())
            for t in range(1, len(path))
        ),
    },
)
def test_forward_chain(formula):
    """The joint Gaussian of (x_1, …, x_4): its covariance is J Jᵀ, with J the Jacobian of the loop by autograd."""
    betas = torch.tensor([0.1, 0.3, 0.05, 0.4], dtype=torch.float64)
    schedule = NoiseSchedule(betas, dtype=torch.float64)

    def walk(noise):
        x, path = torch.tensor(0.8, dtype=torch.float64), []
        for beta, eps in zip(betas, noise, strict=True):
            x = (1 - beta).sqrt() * x + beta.sqrt() * eps
            path.append(x)
        return torch.stack(path)

    zero = torch.zeros(4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(walk, zero)
    joint = stats.multivariate_normal(walk(zero).numpy(), (jacobian @ jacobian.T).numpy())
    for path in np.random.default_rng(0).normal(size=(5, 4)):
        ours = formula(schedule, torch.tensor([0.8, *path], dtype=torch.float64))
        assert float(ours) == approx(joint.logpdf(path), rel=1e-9)


@quadrature(
    "eq:variance-preserved",
    implementation=lambda schedule, t, variance: schedule.alpha[t] * variance + schedule.beta[t],
    mutants={
        "noise only": lambda schedule, t, variance: variance + schedule.beta[t],
        "β for √β": lambda schedule, t, variance: schedule.alpha[t] * variance + schedule.beta[t] ** 2,
        "1 − β not under a root": lambda schedule, t, variance: (
            schedule.alpha[t] ** 2 * variance + schedule.beta[t]
        ),
    },
)
def test_variance_preserved(formula):
    """Variance of √α x + √β ε for a Laplace pixel x: on a grid over x, by Gauss–Hermite over ε."""
    schedule = schedule_64()
    grid = torch.linspace(-30, 30, 600_001, dtype=torch.float64)
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    for t in (1, 300, 1000):
        signal, noise = math.sqrt(schedule.alpha[t].item()), math.sqrt(schedule.beta[t].item())
        for scale in (0.3, math.sqrt(0.5), 1.2):
            pixel = torch.from_numpy(stats.laplace.pdf(grid.numpy(), scale=scale))
            squares = [integral(pixel * (signal * grid + noise * node) ** 2, grid) for node in nodes]
            truth = np.average(squares, weights=weights)
            assert float(formula(schedule, t, 2 * scale**2)) == approx(truth, rel=1e-6)


@quadrature(
    "eq:sum-of-gaussians",
    implementation=lambda mean_a, variance_a, mean_b, variance_b: (mean_a + mean_b, variance_a + variance_b),
    mutants={
        "standard deviations added": lambda mean_a, variance_a, mean_b, variance_b: (
            mean_a + mean_b,
            (math.sqrt(variance_a) + math.sqrt(variance_b)) ** 2,
        ),
        "precisions added": lambda mean_a, variance_a, mean_b, variance_b: (
            mean_a + mean_b,
            1 / (1 / variance_a + 1 / variance_b),
        ),
        "mean averaged": lambda mean_a, variance_a, mean_b, variance_b: (
            (mean_a + mean_b) / 2,
            variance_a + variance_b,
        ),
    },
)
def test_sum_of_gaussians(formula):
    """The convolution integral of two densities, on a grid, at nine points."""
    for a, b in (((0.0, 1.0), (0.0, 1.0)), ((0.5, 0.2), (-1.0, 1.5))):
        mean, variance = formula(*a, *b)
        for z in np.linspace(-3, 3, 9):
            x = GRID.numpy()
            density = stats.norm.pdf(x, a[0], math.sqrt(a[1])) * stats.norm.pdf(z - x, b[0], math.sqrt(b[1]))
            assert np.trapezoid(density, x) == approx(stats.norm.pdf(z, mean, math.sqrt(variance)), rel=1e-8)


@exact(
    "eq:alpha-bar",
    where="ddpm.schedule.NoiseSchedule.alpha_bar",
    implementation=lambda schedule, t: schedule.alpha_bar[t],
    mutants={
        "product to T": lambda schedule, t: schedule.alpha_bar[schedule.timesteps],  # noqa: ARG005
        "product to t − 1": lambda schedule, t: schedule.alpha_bar[t - 1],
        "product of the β": lambda schedule, t: schedule.beta[1 : t + 1].prod(),
        "1 − sum of the β": lambda schedule, t: 1 - schedule.beta[1 : t + 1].sum(),
    },
)
def test_alpha_bar(formula):
    """The product with 50 digits in mpmath, for β given as exact fractions."""
    schedule = schedule_64()
    with mpmath.workdps(50):
        for t in LEVELS:
            exact = mpmath.mpf(1)
            for s in range(1, t + 1):
                exact *= 1 - (mpmath.mpf("0.0001") + (mpmath.mpf("0.0199") * (s - 1)) / 999)
            assert float(formula(schedule, t)) == approx(float(exact), rel=1e-11)


@functools.cache
def forward_process(timesteps):
    return GaussianDiffusion(NoNetwork(), image_size=1, timesteps=timesteps)


def q_sample(timesteps, t, x0, eps):
    """ddpm's own q_sample, for one pixel."""
    diffusion = forward_process(timesteps)
    pixel = [torch.full((1, 1, 1, 1), value) for value in (x0, eps)]
    return diffusion.q_sample(pixel[0], torch.tensor([t]), pixel[1]).item()


def level(t):
    """ᾱ_t of the paper's schedule as a Python number."""
    return schedule_64().alpha_bar[t].item()


@exact(
    "eq:q-sample",
    where="ddpm.diffusion.GaussianDiffusion.q_sample",
    implementation=q_sample,
    mutants={
        "ᾱ for its root": lambda _, t, x0, eps: level(t) * x0 + math.sqrt(1 - level(t)) * eps,
        "1 − ᾱ for its root": lambda _, t, x0, eps: math.sqrt(level(t)) * x0 + (1 - level(t)) * eps,
        "α for ᾱ": lambda _, t, x0, eps: (
            math.sqrt(1 - linear_betas(1000)[t - 1].item()) * x0
            + math.sqrt(linear_betas(1000)[t - 1].item()) * eps
        ),
        "t off by one": lambda _, t, x0, eps: (
            math.sqrt(level(t - 1)) * x0 + math.sqrt(1 - level(t - 1)) * eps
        ),
    },
)
def test_q_sample(formula):
    """Mean and variance of the chain, composed exactly step by step, at several levels."""
    betas = linear_betas(1000).tolist()
    for x0 in (-1.0, 0.6):
        mean, variance = x0, 0.0
        for t, beta in enumerate(betas, start=1):
            mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
            if t in LEVELS:
                assert formula(1000, t, x0, 0.0) == approx(mean, rel=1e-6)
                assert formula(1000, t, 0.0, 1.0) == approx(math.sqrt(variance), rel=1e-6)


WEIGHTS, MEANS, STDS = (0.35, 0.65), (-0.9, 0.7), (0.12, 0.2)


def mixture_log_density(schedule, t, x, *, mean_factor=None, variance=None):
    """log q(x_t) of the mixture of the chapter, from ddpm's Gaussian and schedule; the options are for mutants."""
    alpha_bar = schedule.alpha_bar[t]
    factor = schedule.sqrt_alpha_bar[t] if mean_factor is None else mean_factor(alpha_bar)
    spread = variance or (lambda alpha_bar, std: alpha_bar * std**2 + 1 - alpha_bar)
    parts = [
        math.log(weight) + log_density(x, factor * mean, spread(alpha_bar, std).log())
        for weight, mean, std in zip(WEIGHTS, MEANS, STDS, strict=True)
    ]
    return torch.logsumexp(torch.stack(parts), 0)


def oracle_log_density(schedule, t, x):
    """The same from the package's weights, means and variances of q(x_t)."""
    means, variances = (torch.tensor(values, dtype=torch.float64) for values in (MEANS, STDS))
    oracle = GaussianMixtureOracle(schedule, means[:, None], variances**2, WEIGHTS)
    weights, means, covariances = oracle.marginal(t)
    return torch.logsumexp(weights.log() + log_density(x, means.flatten(), covariances.flatten().log()), 0)


@quadrature(
    "eq:mixture-marginal",
    where="ddpm.mixture_oracle.GaussianMixtureOracle.marginal",
    implementation=oracle_log_density,
    mutants={
        "ᾱ for its root": lambda schedule, t, x: mixture_log_density(schedule, t, x, mean_factor=lambda a: a),
        "component's own spread forgotten": lambda schedule, t, x: mixture_log_density(
            schedule, t, x, variance=lambda a, std: 1 - a + 0 * std
        ),
        "component's spread not shrunk": lambda schedule, t, x: mixture_log_density(
            schedule, t, x, variance=lambda a, std: std**2 + 1 - a
        ),
    },
)
def test_mixture_marginal(formula):
    """The integral of q(x_t | x_0) q(x_0) over x_0, on a grid."""
    schedule = schedule_64()
    clean = np.linspace(-3, 3, 60_001)
    prior = sum(w * stats.norm.pdf(clean, m, s) for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True))
    for t in (10, 100, 400):
        alpha_bar = schedule.alpha_bar[t].item()
        for x in (-1.1, 0.0, 0.5):
            noise = stats.norm.pdf(x, math.sqrt(alpha_bar) * clean, math.sqrt(1 - alpha_bar))
            ours = formula(schedule, t, torch.tensor(x, dtype=torch.float64)).exp()
            assert float(ours) == approx(np.trapezoid(noise * prior, clean), rel=1e-6)


@quadrature(
    "eq:snr",
    where="ddpm.schedule.NoiseSchedule.snr",
    implementation=lambda schedule, t: schedule.snr[t],
    mutants={
        "ratio of amplitudes": lambda schedule, t: schedule.snr[t].sqrt(),
        "upside down": lambda schedule, t: 1 / schedule.snr[t],
        "α for ᾱ": lambda schedule, t: schedule.alpha[t] / schedule.beta[t],
        "noise not squared": lambda schedule, t: schedule.alpha_bar[t] / schedule.sigma[t],
    },
)
def test_snr(formula):
    """Power of what q_sample keeps of x_0 over the power of what it adds, by Gauss–Hermite quadrature over ε."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    weights = weights / weights.sum()
    for t in LEVELS:
        noisy = np.array([q_sample(1000, t, 1.0, node) for node in nodes])
        signal = (weights * noisy).sum()
        noise_power = (weights * (noisy - signal) ** 2).sum()
        assert float(formula(schedule_64(), t)) == approx(signal**2 / noise_power, rel=1e-4)


@quadrature(
    "eq:picture-snr",
    implementation=lambda schedule, t, picture: np.mean(picture**2) * schedule.snr[t],
    mutants={
        "power forgotten": lambda schedule, t, picture: schedule.snr[t],  # noqa: ARG005
        "root of the power": lambda schedule, t, picture: np.sqrt(np.mean(picture**2)) * schedule.snr[t],
        "power in the noise's place": lambda schedule, t, picture: schedule.snr[t] / np.mean(picture**2),
        "spread about the mean for the power": lambda schedule, t, picture: picture.var() * schedule.snr[t],
    },
)
def test_picture_snr(formula):
    """Squares of what q_sample keeps of each pixel, over those of what it adds, by Gauss–Hermite quadrature over ε."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    weights, picture = weights / weights.sum(), np.array([-0.9, -0.2, 0.1, 0.4])
    for t in LEVELS[:-1]:
        noisy = np.array([[q_sample(1000, t, pixel, node) for node in nodes] for pixel in picture])
        kept = noisy @ weights
        added = ((noisy - kept[:, None]) ** 2) @ weights
        assert float(formula(schedule_64(), t, picture)) == approx((kept**2).sum() / added.sum(), rel=1e-4)


@exact(
    "eq:alpha-bar-bound",
    implementation=lambda betas, t: math.exp(-sum(betas[:t])),
    mutants={
        "exponent halved": lambda betas, t: math.exp(-sum(betas[:t]) / 2),
        "one step too many": lambda betas, t: math.exp(-sum(betas[: t + 1])),
        "sum over all steps": lambda betas, t: math.exp(-sum(betas)),  # noqa: ARG005
        "sum of the roots": lambda betas, t: math.exp(-sum(math.sqrt(beta) for beta in betas[:t])),
    },
)
def test_alpha_bar_bound(formula):
    """Never below ᾱ_t for random schedules, and tight to 1 % in the exponent where the β are small."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        betas = rng.uniform(1e-4, 0.99, size=rng.integers(2, 40))
        t = int(rng.integers(1, len(betas)))
        alpha_bar = NoiseSchedule(betas, dtype=torch.float64).alpha_bar[t].item()
        assert formula(betas.tolist(), t) >= alpha_bar
    small = linear_betas(1000).tolist()
    for t in (2, 20, 100):
        exact = sum(math.log1p(-beta) for beta in small[:t])
        assert math.log(formula(small, t)) == approx(exact, rel=1e-2)
