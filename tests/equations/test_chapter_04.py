"""Chapter 4, the posterior: every equation against quadrature, complex numbers, autograd or an exact Gaussian."""

import cmath
import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal

from ddpm import GaussianDiffusion, NoiseSchedule
from ddpm.gaussians import condition, log_density, product
from ddpm.reverse_process import OptimalVariance
from tests.equations.ledger import exact, quadrature
from tests.networks import Constant, diffusion_of, pixel, schedule_64

approx, log_pdf = pytest.approx, stats.norm.logpdf
LONG = schedule_64("linear", 1000)
SHORT = schedule_64("linear", 50)  # long strides, in which mistakes show
COSINE = schedule_64("cosine", 40)
LEVELS = [*((LONG, t) for t in (2, 10, 400, 1000)), *((SHORT, t) for t in (2, 25, 50))]
PLACES = list(itertools.product((2, 15, 30, 50), (-1.0, 0.2, 0.9)))
WEIGHTS, MEANS, STD = (0.7, 0.3), (-0.6, 1.4), 0.4  # data of mean 0 and variance exactly 1
GRID = torch.linspace(-12, 12, 240_001, dtype=torch.float64)


class Moments(NamedTuple):
    """Mean and variance."""

    mean: float
    variance: float


def grid_moments(log_weight: Tensor, grid: Tensor = GRID) -> Moments:
    """Moments of the density proportional to exp(log_weight) on an even grid."""
    weight = torch.softmax(log_weight, 0)
    mean = (weight * grid).sum()
    return Moments(mean.item(), (weight * (grid - mean) ** 2).sum().item())


def product_moments(schedule: NoiseSchedule, t: int, x_t: float, x_0: float) -> Moments:
    """Moments of q(x_t|x_{t-1}) q(x_{t-1}|x_0) as a density of x_{t-1}, on a grid that holds both factors."""
    alpha_bar_prev = schedule.alpha_bar[t - 1]
    centres = torch.stack([x_t / schedule.alpha[t].sqrt(), alpha_bar_prev.sqrt() * x_0])
    widest = torch.maximum(schedule.beta[t] / schedule.alpha[t], 1 - alpha_bar_prev).sqrt()
    low, high = centres.min() - 12 * widest, centres.max() + 12 * widest
    grid = low + (high - low) * torch.linspace(0, 1, 200_001, dtype=torch.float64)
    future = -((x_t - schedule.alpha[t].sqrt() * grid) ** 2) / (2 * schedule.beta[t])
    past = -((grid - alpha_bar_prev.sqrt() * x_0) ** 2) / (2 * (1 - alpha_bar_prev))
    return grid_moments(future + past, grid)


def noisy_data(alpha_bar: Tensor) -> MixtureSameFamily:
    """q(x_t) of the two-bump data, exactly."""
    means = alpha_bar.sqrt() * torch.tensor(MEANS, dtype=torch.float64)
    std = (alpha_bar * STD**2 + 1 - alpha_bar).sqrt().expand(2)
    return MixtureSameFamily(Categorical(torch.tensor(WEIGHTS, dtype=torch.float64)), Normal(means, std))


def reverse_moments(schedule: NoiseSchedule, t: int, x_t: float) -> Moments:
    """Moments of q(x_{t-1}|x_t), by Bayes' rule on the grid; uses neither x_0 nor the posterior."""
    future = -((x_t - schedule.alpha[t].sqrt() * GRID) ** 2) / (2 * schedule.beta[t])
    return grid_moments(future + noisy_data(schedule.alpha_bar[t - 1]).log_prob(GRID))


def guess_moments(schedule: NoiseSchedule, t: int, x_t: float) -> Moments:
    """Moments of q(x_0|x_t), by Bayes' rule on the grid."""
    likelihood = -((x_t - schedule.sqrt_alpha_bar[t] * GRID) ** 2) / (2 * schedule.sigma[t] ** 2)
    return grid_moments(likelihood + noisy_data(torch.ones((), dtype=torch.float64)).log_prob(GRID))


def diffusion_that_says(answer: float, objective: str, schedule: NoiseSchedule) -> GaussianDiffusion:
    """A model of one-pixel images whose network always says `answer`."""
    diffusion = diffusion_of(
        Constant(answer), timesteps=schedule.timesteps, image_size=1, objective=objective
    )
    diffusion.schedule = schedule
    return diffusion


def level(t: int) -> Tensor:
    """A batch of one level."""
    return torch.tensor([t])


# Bayes, with and without the answer


def reverse_log_density(
    log_prior: Callable[[Tensor], Tensor], schedule: NoiseSchedule, t: int, x_t: float
) -> Tensor:
    """log q(x_{t-1}|x_t) on the grid, up to its constant, as the chapter computes it."""
    return log_prior(GRID) + log_density(
        torch.tensor(x_t), schedule.alpha[t].sqrt() * GRID, schedule.beta[t].log()
    )


@exact(
    "eq:reverse-bayes",
    implementation=reverse_log_density,
    mutants={
        "no prior": lambda _, schedule, t, x_t: reverse_log_density(torch.zeros_like, schedule, t, x_t),
        "forward step read backwards": lambda log_prior, schedule, t, x_t: (
            log_prior(GRID)
            + log_density(GRID, schedule.alpha[t].sqrt() * torch.tensor(x_t), schedule.beta[t].log())
        ),
        "likelihood without its root": lambda log_prior, schedule, t, x_t: (
            log_prior(GRID) + log_density(torch.tensor(x_t), schedule.alpha[t] * GRID, schedule.beta[t].log())
        ),
    },
)
def test_reverse_bayes(formula):
    """With a Gaussian x_{t-1} the pair (x_{t-1}, x_t) is jointly Gaussian, and conditioning it is exact."""
    mean, variance, value = 0.5, 0.3, torch.tensor([-0.7], dtype=torch.float64)
    for t in (10, 30, 50):
        step = torch.tensor([[1.0], [SHORT.alpha[t].sqrt()]], dtype=torch.float64)
        covariance = variance * step @ step.T + torch.diag(torch.stack([0 * SHORT.beta[t], SHORT.beta[t]]))
        expected = condition(mean * step[:, 0], covariance, torch.tensor([False, True]), value)
        found = grid_moments(formula(lambda x: -((x - mean) ** 2) / (2 * variance), SHORT, t, -0.7))
        assert found == approx((expected[0].item(), expected[1].item()), rel=1e-7)


def posterior_log_density(schedule: NoiseSchedule, t: int, x_prev: Tensor, x_t: float, x_0: float) -> Tensor:
    """log q(x_{t-1}|x_t, x_0) from the package's posterior."""
    diffusion = diffusion_that_says(0.0, "pred_noise", schedule)
    mean, variance, _ = diffusion.q_posterior(pixel(x_0), pixel(x_t), level(t))
    return log_density(x_prev, mean.view(()), variance.log().view(()))


@exact(
    "eq:posterior-bayes",
    where="ddpm.diffusion.GaussianDiffusion.q_posterior",
    implementation=posterior_log_density,
    mutants={
        "not divided by q(x_t|x_0)": lambda schedule, t, x_prev, x_t, x_0: (
            posterior_log_density(schedule, t, x_prev, x_t, x_0)
            + log_density(torch.tensor(x_t), schedule.sqrt_alpha_bar[t] * x_0, 2 * schedule.sigma[t].log())
        ),
        "x_0 forgotten": lambda s, t, x_prev, x_t, x_0: posterior_log_density(s, t, x_prev, x_t, 0 * x_0),
        "level off by one": lambda s, t, x_prev, x_t, x_0: posterior_log_density(s, t - 1, x_prev, x_t, x_0),
    },
)
def test_posterior_bayes(formula):
    """The three densities of the right-hand side, by SciPy, at points across the posterior."""
    x_t, x_0, x_prev = 0.9, -0.6, np.linspace(-2, 2, 41)
    for t in (3, 20, 50):
        now, before = SHORT.alpha_bar[t].item(), SHORT.alpha_bar[t - 1].item()
        future = log_pdf(x_t, math.sqrt(now / before) * x_prev, math.sqrt(1 - now / before))
        past = log_pdf(x_prev, math.sqrt(before) * x_0, math.sqrt(1 - before))
        evidence = log_pdf(x_t, math.sqrt(now) * x_0, math.sqrt(1 - now))
        found = formula(SHORT, t, torch.from_numpy(x_prev), x_t, x_0).numpy()
        assert found == approx(future + past - evidence, abs=1e-8)


# The product of two Gaussians, and what it says about the step back


def in_logs(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return log_density(x, mean, variance.log())


def log_product(x: Tensor, a: Tensor, variance_a: Tensor, b: Tensor, variance_b: Tensor) -> Tensor:
    """log of the right-hand side of eq:gaussian-product, from the package's parts."""
    return in_logs(a, b, variance_a + variance_b) + in_logs(x, *product(a, variance_a, b, variance_b))


@exact(
    "eq:gaussian-product",
    where="ddpm.gaussians.product",
    implementation=log_product,
    mutants={
        "means weighted by their own variance": lambda x, a, va, b, vb: (
            in_logs(a, b, va + vb) + in_logs(x, product(b, va, a, vb)[0], product(a, va, b, vb)[1])
        ),
        "variances averaged": lambda x, a, va, b, vb: (
            in_logs(a, b, va + vb) + in_logs(x, product(a, va, b, vb)[0], (va + vb) / 2)
        ),
        "scale dropped": lambda x, a, va, b, vb: in_logs(x, *product(a, va, b, vb)),
    },
)
def test_gaussian_product(formula):
    """The sum of SciPy's two log-densities, at every point."""
    a, variance_a, b, variance_b = torch.tensor([0.4, 0.2, -1.3, 1.7], dtype=torch.float64)
    x = torch.linspace(-4, 4, 33, dtype=torch.float64)
    expected = log_pdf(x, a, variance_a.sqrt()) + log_pdf(x, b, variance_b.sqrt())
    assert formula(x, a, variance_a, b, variance_b).numpy() == approx(expected, abs=1e-12)


@quadrature(
    "eq:posterior-variance",
    where="ddpm.schedule.NoiseSchedule.posterior_variance",
    implementation=lambda schedule, t: schedule.posterior_variance[t],
    mutants={
        "ratio dropped": lambda schedule, t: schedule.beta[t],
        "ratio upside down": lambda s, t: s.beta[t] * s.sigma[t] ** 2 / s.sigma[t - 1] ** 2,
        "t off by one": lambda schedule, t: schedule.posterior_variance[t - 1],
    },
)
def test_posterior_variance(formula):
    """Second moment of q(x_t|x_{t-1}) q(x_{t-1}|x_0), normalised on a grid; and exactly 0 at t = 1."""
    for schedule, t in LEVELS:
        assert formula(schedule, t) == approx(product_moments(schedule, t, 0.8, -0.3).variance, rel=1e-7)
        assert formula(schedule, 1) == 0


def posterior_mean(schedule: NoiseSchedule, t: int, x_t: float, x_0: float) -> Tensor:
    """μ̃_t from the package's tables."""
    return schedule.posterior_mean_coef_x0[t] * x_0 + schedule.posterior_mean_coef_xt[t] * x_t


@quadrature(
    "eq:posterior-mean",
    where="ddpm.schedule.NoiseSchedule.posterior_mean_coef_x0",
    implementation=posterior_mean,
    mutants={
        "weights swapped": lambda schedule, t, x_t, x_0: posterior_mean(schedule, t, x_0, x_t),
        "ᾱ_t for ᾱ_{t-1}": lambda s, t, x_t, x_0: posterior_mean(s, t, x_t, s.alpha[t].sqrt() * x_0),
        "α without its root": lambda s, t, x_t, x_0: posterior_mean(s, t, s.alpha[t].sqrt() * x_t, x_0),
    },
)
def test_posterior_mean(formula):
    """First moment of q(x_t|x_{t-1}) q(x_{t-1}|x_0), normalised on a grid; and exactly x_0 at t = 1."""
    for schedule, t in LEVELS:
        mean = product_moments(schedule, t, 0.8, -0.3).mean
        assert formula(schedule, t, 0.8, -0.3) == approx(mean, rel=1e-6)
        assert formula(schedule, 1, 0.8, -0.3) == approx(-0.3, rel=1e-12)


def printed_noise_form(schedule: NoiseSchedule, t: int, x_t: Tensor, noise: float) -> Tensor:
    """μ̃_t as eq:posterior-mean-noise prints it."""
    return (x_t - schedule.beta[t] / schedule.sigma[t] * noise) / schedule.alpha[t].sqrt()


def package_noise_form(schedule: NoiseSchedule, t: int, x_t: Tensor, noise: float) -> Tensor:
    """The mean of the reverse step of a network that predicts this noise."""
    diffusion = diffusion_that_says(noise, "pred_noise", schedule)
    return diffusion.p_mean_variance(x_t.view(1, 1, 1, 1), level(t), clip_denoised=False)[0].view(())


@quadrature(
    "eq:posterior-mean-noise",
    where="ddpm.diffusion.GaussianDiffusion.p_mean_variance",
    implementation=package_noise_form,
    mutants={
        "√ᾱ_t for √α_t": lambda s, t, x_t, e: (x_t - s.beta[t] / s.sigma[t] * e) / s.sqrt_alpha_bar[t],
        "√β for β": lambda s, t, x_t, e: (x_t - s.beta[t].sqrt() / s.sigma[t] * e) / s.alpha[t].sqrt(),
        "noise added": lambda schedule, t, x_t, noise: printed_noise_form(schedule, t, x_t, -noise),
    },
)
def test_posterior_mean_noise(formula):
    """Mean of the product on a grid, at the x_t that this x_0 and this noise make; the printed form agrees too."""
    x_0, noise = -0.3, 1.1
    for schedule, t in LEVELS:
        x_t = schedule.sqrt_alpha_bar[t] * x_0 + schedule.sigma[t] * noise
        expected = product_moments(schedule, t, x_t.item(), x_0).mean
        assert printed_noise_form(schedule, t, x_t, noise) == approx(expected, rel=1e-6)
        assert formula(schedule, t, x_t, noise) == approx(expected, rel=1e-6)


@exact(
    "eq:posterior-marginal",
    implementation=lambda schedule, t, x_0: (
        posterior_mean(schedule, t, schedule.sqrt_alpha_bar[t] * x_0, x_0),
        schedule.posterior_variance[t] + (schedule.posterior_mean_coef_xt[t] * schedule.sigma[t]) ** 2,
    ),
    mutants={
        "β_t for β̃_t": lambda schedule, t, x_0: (
            schedule.sqrt_alpha_bar[t - 1] * x_0,
            schedule.beta[t] + (schedule.posterior_mean_coef_xt[t] * schedule.sigma[t]) ** 2,
        ),
        "spread of x_t forgotten": lambda s, t, x_0: (s.sqrt_alpha_bar[t - 1] * x_0, s.posterior_variance[t]),
        "mean left at level t": lambda s, t, x_0: (s.sqrt_alpha_bar[t] * x_0, s.sigma[t - 1] ** 2),
    },
)
def test_posterior_marginal(formula):
    """One step back from q(x_t|x_0) must give the mean and the variance of q(x_{t-1}|x_0), at every level."""
    for schedule in (LONG, SHORT, COSINE):
        for t in range(1, schedule.timesteps + 1):
            alpha_bar_prev = schedule.exact_alpha_bar[t - 1].item()
            mean, variance = formula(schedule, t, 0.7)
            assert mean == approx(0.7 * math.sqrt(alpha_bar_prev), rel=1e-9)
            assert variance == approx(1 - alpha_bar_prev, rel=1e-9, abs=1e-15)


# The true reverse step: mean and variance when x_0 is only guessed


@quadrature(
    "eq:reverse-mean",
    implementation=posterior_mean,
    mutants={
        "x_0 guessed as 0": lambda schedule, t, x_t, x_0: posterior_mean(schedule, t, x_t, 0 * x_0),
        "guess not weighted": lambda schedule, t, x_t, x_0: x_0 + schedule.posterior_mean_coef_xt[t] * x_t,
        "x_0 put in at its most likely value": lambda s, t, x_t, x_0: posterior_mean(
            s, t, x_t, MEANS[0] if x_0 < 0.4 else MEANS[1]
        ),
    },
)
def test_reverse_mean(formula):
    """E[x_{t-1}|x_t] by Bayes' rule without x_0, against the posterior's mean at E[x_0|x_t]."""
    for t, x_t in PLACES:
        guess = guess_moments(SHORT, t, x_t).mean
        assert formula(SHORT, t, x_t, guess) == approx(reverse_moments(SHORT, t, x_t).mean, abs=1e-8)


def package_reverse_variance(schedule: NoiseSchedule, t: int, guess_variance: float) -> float:
    """The package's best variance, for the straight denoiser whose slope stands for that Var[x_0|x_t]."""
    slope = guess_variance * (schedule.sqrt_alpha_bar[t] / schedule.sigma[t] ** 2)
    denoiser = SimpleNamespace(schedule=schedule, predict=lambda x_t, _: SimpleNamespace(x0=slope * x_t))
    x_t = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    return OptimalVariance(denoiser)(x_t, torch.tensor([t]), None).exp().item()


@quadrature(
    "eq:reverse-variance",
    where="ddpm.reverse_process.OptimalVariance.__call__",
    implementation=package_reverse_variance,
    mutants={
        "doubt about x_0 left out": lambda schedule, t, _: schedule.posterior_variance[t],
        "coefficient not squared": lambda s, t, g: s.posterior_variance[t] + s.posterior_mean_coef_x0[t] * g,
        "β_t for β̃_t": lambda s, t, g: s.beta[t] + s.posterior_mean_coef_x0[t] ** 2 * g,
    },
)
def test_reverse_variance(formula):
    """Var[x_{t-1}|x_t] by Bayes' rule without x_0, against the law of total variance."""
    for t, x_t in PLACES:
        unknown = guess_moments(SHORT, t, x_t).variance
        assert formula(SHORT, t, unknown) == approx(reverse_moments(SHORT, t, x_t).variance, rel=1e-7)


def average_reverse_variance(schedule: NoiseSchedule, t: int) -> float:
    """E over x_t of Var[x_{t-1}|x_t], by quadrature on both axes."""
    x_t = torch.linspace(-5, 5, 401, dtype=torch.float64)
    weight = torch.softmax(noisy_data(schedule.alpha_bar[t]).log_prob(x_t), 0)
    grid = torch.linspace(-7, 7, 7_001, dtype=torch.float64)
    future = -((x_t[:, None] - schedule.alpha[t].sqrt() * grid) ** 2) / (2 * schedule.beta[t])
    density = torch.softmax(future + noisy_data(schedule.alpha_bar[t - 1]).log_prob(grid), 1)
    mean = density @ grid
    return (weight * ((density @ grid**2) - mean**2)).sum().item()


@quadrature(
    "eq:reverse-variance-bounds",
    implementation=lambda schedule, t: (schedule.posterior_variance[t], schedule.beta[t]),
    mutants={
        "lower bound β_t": lambda schedule, t: (schedule.beta[t], schedule.beta[t]),
        "upper bound β̃_t": lambda s, t: (s.posterior_variance[t], s.posterior_variance[t]),
        "bounds swapped": lambda schedule, t: (schedule.beta[t], schedule.posterior_variance[t]),
    },
)
def test_reverse_variance_bounds(formula):
    """The averaged true variance of unit-variance data lies inside, and two extreme data sets reach the two ends."""
    for t in (2, 15, 30, 50):
        lower, upper = formula(SHORT, t)
        assert lower < average_reverse_variance(SHORT, t) < upper
        # Gaussian data of unit variance: Var[x_0|x_t] = 1 − ᾱ_t. Known data: no variance is left.
        coef, spread = SHORT.posterior_mean_coef_x0[t] ** 2, 1 - SHORT.alpha_bar[t]
        known = product_moments(SHORT, t, 0.5, 0.0).variance
        assert (lower, upper) == approx((known, known + (coef * spread).item()), rel=1e-7)


def package_step(schedule: NoiseSchedule, t: int, x_t: float, guess: float) -> tuple[float, float]:
    """Mean and variance of p_θ(x_{t-1}|x_t) for a network that says `guess`."""
    diffusion = diffusion_that_says(guess, "pred_x0", schedule)
    mean, variance, _ = diffusion.p_mean_variance(pixel(x_t), level(t), clip_denoised=False)
    return mean.item(), variance.item()


@quadrature(
    "eq:reverse-step",
    where="ddpm.diffusion.GaussianDiffusion.p_mean_variance",
    implementation=package_step,
    mutants={
        "β_t for β̃_t": lambda s, t, x_t, guess: (package_step(s, t, x_t, guess)[0], s.beta[t]),
        "asked one level too low": lambda schedule, t, x_t, guess: package_step(schedule, t - 1, x_t, guess),
        "x_t forgotten": lambda s, t, _, guess: (s.sqrt_alpha_bar[t - 1] * guess, s.posterior_variance[t]),
        "guess and x_t swapped": lambda schedule, t, x_t, guess: package_step(schedule, t, guess, x_t),
    },
)
def test_reverse_step(formula):
    """Given the mean guess, the mean of the true step back; given a certain x_0, its variance as well."""
    for t, x_t in PLACES:
        guess = guess_moments(SHORT, t, x_t).mean
        mean, variance = formula(SHORT, t, x_t, guess)
        assert mean == approx(reverse_moments(SHORT, t, x_t).mean, abs=1e-7)
        assert variance == approx(product_moments(SHORT, t, x_t, guess).variance, rel=1e-7)


# One vector, three coordinates


@exact(
    "eq:three-coordinates",
    where="ddpm.diffusion.GaussianDiffusion.predict_start_from_v",
    implementation=lambda d, x_0, noise, t: (d.q_sample(x_0, t, noise), d.predict_v(x_0, t, noise)),
    mutants={
        "turned the other way": lambda d, x_0, e, t: (d.q_sample(x_0, t, -e), d.predict_v(-x_0, t, e)),
        "mirrored": lambda d, x_0, noise, t: (d.q_sample(x_0, t, noise), -d.predict_v(x_0, t, noise)),
        "ᾱ without its root": lambda d, x_0, e, t: (
            d.q_sample(d.schedule.sqrt_alpha_bar[t] * x_0, t, e),
            d.predict_v(x_0, t, e),
        ),
    },
)
def test_three_coordinates(formula):
    """x_t + iv = e^(−iφ) (x_0 + iε) with cos φ = √ᾱ_t: a rotation, done by complex numbers; and the way back."""
    diffusion = diffusion_that_says(0.0, "pred_v", SHORT)
    x_0, noise = 0.8, -1.3
    for t in (1, 20, 50):
        x_t, v = formula(diffusion, pixel(x_0), pixel(noise), level(t))
        turned = cmath.exp(-1j * math.acos(SHORT.sqrt_alpha_bar[t].item())) * complex(x_0, noise)
        assert (x_t.item(), v.item()) == approx((turned.real, turned.imag), rel=1e-9)
        assert diffusion.predict_start_from_v(x_t, level(t), v).item() == approx(x_0, rel=1e-9)
        assert diffusion.predict_start_from_noise(x_t, level(t), pixel(noise)).item() == approx(x_0, rel=1e-9)
        assert diffusion.predict_noise_from_start(x_t, level(t), pixel(x_0)).item() == approx(noise, rel=1e-9)


@exact(
    "eq:v",
    where="ddpm.diffusion.GaussianDiffusion.predict_v",
    implementation=lambda diffusion, x_0, noise, t: diffusion.predict_v(x_0, t, noise),
    mutants={
        "sign": lambda diffusion, x_0, noise, t: -diffusion.predict_v(x_0, t, noise),
        "plus for minus": lambda diffusion, x_0, noise, t: diffusion.predict_v(-x_0, t, noise),
        "coefficients swapped": lambda diffusion, x_0, noise, t: diffusion.q_sample(-x_0, t, noise),
        "shrunk as by DDIM's direction": lambda d, x_0, e, t: d.schedule.sigma[t] * d.predict_v(x_0, t, e),
    },
)
def test_v(formula):
    """v is the derivative of x_t = cos φ x_0 + sin φ ε with respect to φ, by autograd."""
    diffusion = diffusion_that_says(0.0, "pred_v", SHORT)
    x_0, noise = 0.8, -1.3
    for t in (1, 20, 50):
        angle = torch.acos(SHORT.sqrt_alpha_bar[t]).requires_grad_()
        (slope,) = torch.autograd.grad(torch.cos(angle) * x_0 + torch.sin(angle) * noise, angle)
        assert formula(diffusion, pixel(x_0), pixel(noise), level(t)).item() == approx(slope.item(), rel=1e-9)


def package_errors(diffusion: GaussianDiffusion, x_0: float, wrong: float, t: int) -> tuple[float, float]:
    """The squared errors in ε and in v of whoever takes x_0 for `wrong`, by the package's changes of coordinates."""
    noise = torch.full_like(pixel(x_0), 0.7)
    x_t = diffusion.q_sample(pixel(x_0), level(t), noise)
    wrong_noise = diffusion.predict_noise_from_start(x_t, level(t), pixel(wrong))
    v, wrong_v = (
        diffusion.predict_v(pixel(start), level(t), eps)
        for start, eps in ((x_0, noise), (wrong, wrong_noise))
    )
    return (wrong_noise - noise).square().item(), (wrong_v - v).square().item()


def scaled_errors(
    change: Callable[[float, float], tuple[float, float]],
) -> Callable[[GaussianDiffusion, float, float, int], tuple[float, float]]:
    """The package's squared errors, with something done to both."""
    return lambda diffusion, x_0, wrong, t: change(*package_errors(diffusion, x_0, wrong, t))


@exact(
    "eq:coordinate-errors",
    implementation=package_errors,
    mutants={
        "amplitudes for powers": scaled_errors(lambda noise, v: (math.sqrt(noise), math.sqrt(v))),
        "upside down": scaled_errors(lambda noise, v: (1 / noise, 1 / v)),
        "v like ε": scaled_errors(lambda noise, _: (noise, noise)),
        "ε like v": scaled_errors(lambda _, v: (v, v)),
    },
)
def test_coordinate_errors(formula):
    """x_t is the same for both beliefs, so by hand: the errors are √ᾱ/σ and 1/σ times that of x_0."""
    diffusion = diffusion_that_says(0.0, "pred_noise", SHORT)
    for t in (1, 20, 50):
        alpha_bar = SHORT.exact_alpha_bar[t].item()
        by_hand = 0.25 * alpha_bar / (1 - alpha_bar), 0.25 / (1 - alpha_bar)  # (0.3 − 0.8)² = 0.25
        assert formula(diffusion, 0.8, 0.3, t) == approx(by_hand, rel=1e-9)


def package_score(schedule: NoiseSchedule, t: int, x_t: float, noise: float) -> float:
    """The score that goes with a network's noise."""
    return diffusion_that_says(noise, "pred_noise", schedule).predict(pixel(x_t), level(t)).score.item()


@quadrature(
    "eq:score",
    where="ddpm.diffusion.GaussianDiffusion.predict",
    implementation=package_score,
    mutants={
        "sign": lambda schedule, t, x_t, noise: -package_score(schedule, t, x_t, noise),
        "not divided by σ": lambda s, t, x_t, noise: s.sigma[t] * package_score(s, t, x_t, noise),
        "divided by σ²": lambda s, t, x_t, noise: package_score(s, t, x_t, noise) / s.sigma[t],
    },
)
def test_score(formula):
    """E[ε|x_t] by quadrature over x_0, against the gradient of the exact log q(x_t) by autograd."""
    for t, value in PLACES[:-3]:
        x_t = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(noisy_data(SHORT.alpha_bar[t]).log_prob(x_t), x_t)
        guess = guess_moments(SHORT, t, value).mean
        noise = (value - SHORT.sqrt_alpha_bar[t].item() * guess) / SHORT.sigma[t].item()
        assert formula(SHORT, t, value, noise) == approx(slope.item(), rel=1e-6, abs=1e-7)


def test_the_two_bump_data_have_mean_zero_and_variance_one() -> None:
    """The bounds above hold for data of unit variance; this is such data."""
    data = noisy_data(torch.ones((), dtype=torch.float64))
    assert (data.mean.item(), data.variance.item()) == approx((0, 1), abs=1e-12)
