"""Chapter 5, the bound: every equation against quadrature, exact sums, SymPy's algebra or torch's distributions."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.distributions import kl_divergence as torch_kl

from ddpm import NoiseSchedule, linear_betas
from ddpm.gaussians import discretized_log_likelihood, kl_divergence, log_density
from ddpm.likelihood import VariationalBound, denoising_term, vlb_terms
from ddpm.reverse_process import ReverseStep, variance_rule
from tests.equations.ledger import equation, exact, quadrature
from tests.networks import diffusion_of, schedule_64, seeded

approx = pytest.approx
ERROR_BARS = 4.5  # how many standard errors a Monte Carlo mean may be off


class Gaussian(NamedTuple):
    """Mean and variance of a number."""

    mean: float
    variance: float

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, in float64."""
        return torch.tensor(self.mean).double(), torch.tensor(self.variance).double().log()


PAIRS = [
    (Gaussian(0.4, 0.5), Gaussian(-0.3, 0.9)),
    (Gaussian(-1.0, 1.7), Gaussian(0.2, 0.3)),
    (Gaussian(0.5, 0.4), Gaussian(0.5, 1.6)),
]
AXIS = torch.linspace(-20, 20, 80_001, dtype=torch.float64)


def on_grid(q: Gaussian, p: Gaussian, integrand: Callable[[Tensor, Tensor], Tensor]) -> float:
    """∫ q(x) integrand(log q, log p) dx."""
    log_q, log_p = log_normal(AXIS, *q), log_normal(AXIS, *p)
    return torch.trapezoid(log_q.exp() * integrand(log_q, log_p), AXIS).item()


def log_normal(x: Tensor, mean: Tensor | float, variance: Tensor | float) -> Tensor:
    """The Gaussian's log-density, from its definition."""
    variance = torch.as_tensor(variance, dtype=torch.float64)
    return -((x - mean) ** 2) / (2 * variance) - 0.5 * (2 * math.pi * variance).log()


# A model is a code


def entropy(q: Gaussian) -> float:
    return 0.5 * math.log(2 * math.pi * math.e * q.variance)


def kl(q: Gaussian, p: Gaussian) -> float:
    return kl_divergence(*q.tensors, *p.tensors).item()


@quadrature(
    "eq:cross-entropy",
    implementation=lambda q, p: entropy(q) + kl(q, p),
    mutants={
        "divergence the other way round": lambda q, p: entropy(q) + kl(p, q),
        "entropy of the belief": lambda q, p: entropy(p) + kl(q, p),
        "divergence subtracted": lambda q, p: entropy(q) - kl(q, p),
    },
)
def test_cross_entropy(formula):
    """The mean of −log p under q, integrated."""
    for q, p in PAIRS:
        assert formula(q, p) == approx(on_grid(q, p, lambda _, log_p: -log_p), rel=1e-7)


def draws(q: Gaussian) -> Tensor:
    noise = torch.randn(200_000, generator=seeded(0), dtype=torch.float64)
    return q.mean + math.sqrt(q.variance) * noise


def log_ratio(x: Tensor, q: Gaussian, p: Gaussian) -> Tensor:
    return log_density(x, *q.tensors) - log_density(x, *p.tensors)


@equation(
    "eq:kl-definition",
    how="Monte Carlo",
    error_bar="4.5 standard errors of 200,000 draws",
    where=None,
    implementation=lambda q, p: log_ratio(draws(q), q, p),
    mutants={
        "average over the belief": lambda q, p: log_ratio(draws(p), q, p),
        "ratio upside down": lambda q, p: log_ratio(draws(q), p, q),
        "no logarithm": lambda q, p: log_ratio(draws(q), q, p).exp(),
    },
)
def test_kl_definition(formula):
    """The mean of log q/p over draws from q, against torch's closed form."""
    for q, p in PAIRS:
        values = formula(q, p)
        exact = torch_kl(Normal(q.mean, q.variance**0.5), Normal(p.mean, p.variance**0.5)).item()
        error = values.std().item() / math.sqrt(len(values))
        assert abs(values.mean().item() - exact) < ERROR_BARS * error
        assert exact > 2 * ERROR_BARS * error  # the check would notice a zero


def kl_by_hand(q: Gaussian, p: Gaussian, *, one: float = 1, log: float = 1, distance: float = 1) -> float:
    ratio = q.variance / p.variance
    return 0.5 * (ratio - one - log * math.log(ratio) + distance * (q.mean - p.mean) ** 2 / p.variance)


@quadrature(
    "eq:kl-gaussians",
    where="ddpm.gaussians.kl_divergence",
    implementation=kl,
    mutants={
        "arguments swapped": lambda q, p: kl_by_hand(p, q),
        "without the −1": lambda q, p: kl_by_hand(q, p, one=0),
        "sign of the logarithm": lambda q, p: kl_by_hand(q, p, log=-1),
        "logarithm of the deviations": lambda q, p: kl_by_hand(q, p, log=0.5),
        "without the ½": lambda q, p: 2 * kl_by_hand(q, p),
        "distance over the other variance": lambda q, p: kl_by_hand(q, p, distance=p.variance / q.variance),
    },
)
def test_kl_gaussians(formula):
    """∫ q log(q/p) on a grid."""
    for q, p in PAIRS:
        assert formula(q, p) == approx(on_grid(q, p, lambda log_q, log_p: log_q - log_p), rel=1e-7)


# The bound, on a chain of three steps whose every integral fits on a grid


@dataclass
class CurvedModel:
    """A denoiser that is no straight line and not the best: the bound's own identities must not need either."""

    schedule: NoiseSchedule

    def predict(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, *, clip_x0: bool = False):
        del labels, clip_x0
        return SimpleNamespace(x0=self.guess(x_t, t.view(-1, 1, 1, 1)))

    def guess(self, x_t: Tensor, t: Tensor | int) -> Tensor:
        return torch.tanh(1.2 * x_t) + 0.1 * t


BETA = (0.1, 0.3, 0.6)
MODEL = CurvedModel(NoiseSchedule(BETA, dtype=torch.float64))
CLEAN = 0.4


class Walks(NamedTuple):
    """log q(x_1, x_2, x_3 | x_0) and log p(x_0, x_1, x_2, x_3) on a grid, and the volume of one cell."""

    log_q: Tensor
    log_p: Tensor
    cell: float

    def mean_under_q(self, values: Tensor) -> float:
        return (self.log_q.exp() * values).sum().item() * self.cell

    def mean_under_p(self, values: Tensor) -> float:
        """The walks of the model that end in x_0."""
        return ((self.log_p - self.log_evidence).exp() * values).sum().item() * self.cell

    @property
    def log_evidence(self) -> float:
        return (self.log_p.logsumexp((0, 1, 2)) + math.log(self.cell)).item()

    @property
    def bound(self) -> float:
        return self.mean_under_q(self.log_q - self.log_p)

    @property
    def gap(self) -> float:
        """KL(q(x_{1:3} | x_0) ‖ p(x_{1:3} | x_0))."""
        return self.mean_under_q(self.log_q - (self.log_p - self.log_evidence))


def walks() -> Walks:
    axis = torch.linspace(-7, 7, 141, dtype=torch.float64)
    x_1, x_2, x_3 = torch.meshgrid(axis, axis, axis, indexing="ij")
    kept = [1 - beta for beta in BETA]
    left = [1, kept[0], kept[0] * kept[1]]  # ᾱ_0, ᾱ_1, ᾱ_2

    def back(x_t: Tensor, t: int) -> tuple[Tensor, float]:
        """Mean and variance of the posterior with the guess in it, from Bayes' rule in precisions."""
        precision = kept[t - 1] / BETA[t - 1] + 1 / (1 - left[t - 1])
        pull = math.sqrt(kept[t - 1]) / BETA[t - 1] * x_t
        past = math.sqrt(left[t - 1]) / (1 - left[t - 1]) * MODEL.guess(x_t, t)
        return (pull + past) / precision, 1 / precision

    log_q = log_normal(x_1, math.sqrt(kept[0]) * CLEAN, BETA[0])
    log_q = log_q + log_normal(x_2, math.sqrt(kept[1]) * x_1, BETA[1])
    log_q = log_q + log_normal(x_3, math.sqrt(kept[2]) * x_2, BETA[2])
    # At t = 1 the mean of the model is its guess, and the variance that of t = 2.
    log_p = log_normal(x_3, 0.0, 1.0) + log_normal(x_2, *back(x_3, 3)) + log_normal(x_1, *back(x_2, 2))
    log_p = log_p + log_normal(torch.tensor(CLEAN), MODEL.guess(x_1, 1), back(x_2, 2)[1])
    return Walks(log_q, log_p, (axis[1] - axis[0]).item() ** 3)


WALKS = walks()


def measured_bound(*, variance: str = "fixed_small") -> VariationalBound:
    """The package's terms for 50 pictures of 1,000 equal pixels: 50,000 draws."""
    x0 = torch.full((50, 1000, 1, 1), CLEAN, dtype=torch.float64)
    generator = seeded(0)
    return vlb_terms(MODEL, x0, clip_x0=False, decoder="continuous", variance=variance, generator=generator)


def per_pixel(nats: Tensor) -> tuple[float, float]:
    """Mean over the pixels and its standard error."""
    return nats.mean().item() / 1000, nats.std().item() / math.sqrt(len(nats)) / 1000


@quadrature(
    "eq:variational-bound",
    error_bar="4.5 standard errors of 50,000 draws",
    where="ddpm.likelihood.VariationalBound.total",
    implementation=lambda: per_pixel(measured_bound().total),
    mutants={
        "q left out of the ratio": lambda: (WALKS.mean_under_q(-WALKS.log_p), 0.0),
        "the logarithm of the mean": lambda: (-WALKS.log_evidence, 0.0),
        "sign": lambda: (-WALKS.bound, 0.0),
        "averaged over the model's walks": lambda: (WALKS.mean_under_p(WALKS.log_q - WALKS.log_p), 0.0),
    },
)
def test_variational_bound(formula):
    """E_q[log q − log p] over three variables on a grid, which must lie above −log p(x_0) on the same grid."""
    assert WALKS.mean_under_q(torch.ones_like(WALKS.log_q)) == approx(1, rel=1e-9)
    mean, error = formula()
    assert error < 0.01
    assert abs(mean - WALKS.bound) <= ERROR_BARS * error
    assert mean > -WALKS.log_evidence + 0.1


@quadrature(
    "eq:elbo-gap",
    error_bar="4.5 standard errors of 50,000 draws",
    implementation=lambda: per_pixel(measured_bound().total + 1000 * WALKS.log_evidence),
    mutants={
        "no gap": lambda: (0.0, 0.0),
        "arguments swapped": lambda: (
            WALKS.mean_under_p(WALKS.log_p - WALKS.log_evidence - WALKS.log_q),
            0.0,
        ),
        "joint for conditional": lambda: (WALKS.bound, 0.0),
    },
)
def test_elbo_gap(formula):
    """Bound minus −log p(x_0) is the divergence between the two posteriors of the walk."""
    mean, error = formula()
    assert abs(mean - WALKS.gap) <= ERROR_BARS * error


@quadrature(
    "eq:elbo",
    error_bar="4.5 standard errors of 50,000 draws",
    where="ddpm.likelihood.VariationalBound.total",
    implementation=lambda bound: bound.total,
    mutants={
        "L_T left out": lambda bound: bound.steps.sum(1),
        "L_0 left out": lambda bound: bound.prior + bound.denoising,
        "sum starts at t = 3": lambda bound: bound.prior + bound.decoder + bound.steps[:, 3:].sum(1),
        "sum ends at T − 1": lambda bound: bound.prior + bound.steps[:, :-1].sum(1),
        "L_0 twice": lambda bound: bound.total + bound.decoder,
    },
)
def test_elbo(formula):
    """The three kinds of terms add up to E_q[log q − log p], which knows of no terms."""
    mean, error = per_pixel(formula(measured_bound()))
    assert error < 0.01
    assert abs(mean - WALKS.bound) < ERROR_BARS * error


CHAIN = schedule_64("linear", 40)


# The discrete decoder

LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1


def bin_probability(mean: float, std: float, half_width: float, *, open_ends: bool = True) -> Tensor:
    normal = Normal(torch.tensor(mean).double(), std)
    upper, lower = normal.cdf(LEVELS + half_width), normal.cdf(LEVELS - half_width)
    if open_ends:
        upper[-1], lower[0] = 1, 0
    return upper - lower


def bin_by_quadrature(level: int, mean: float, std: float) -> float:
    """The density summed over a bin on 20,000 points; the outer bins reach 12 standard deviations out."""
    low, high = LEVELS[level].item() - 1 / 255, LEVELS[level].item() + 1 / 255
    low = min(low, mean - 12 * std) if level == 0 else low
    high = max(high, mean + 12 * std) if level == 255 else high
    x = torch.linspace(low, high, 20_001, dtype=torch.float64)
    return torch.trapezoid(log_normal(x, mean, std**2).exp(), x).item()


@quadrature(
    "eq:decoder",
    where="ddpm.gaussians.discretized_log_likelihood",
    implementation=lambda mean, std: discretized_log_likelihood(
        LEVELS, torch.tensor(mean).double(), torch.tensor(std).double().log() * 2
    ).exp(),
    mutants={
        "bins half as wide": lambda mean, std: bin_probability(mean, std, 0.5 / 255),
        "bins twice as wide": lambda mean, std: bin_probability(mean, std, 2 / 255),
        "closed ends": lambda mean, std: bin_probability(mean, std, 1 / 255, open_ends=False),
        "density times width": lambda mean, std: log_normal(LEVELS, mean, std**2).exp() * 2 / 255,
        "variance for deviation": lambda mean, std: bin_probability(mean, std**2, 1 / 255),
    },
)
def test_decoder(formula):
    """Bins integrated one by one, and all 256 together."""
    for mean, std in [(-0.98, 0.02), (0.1, 0.005), (0.97, 0.3), (0.0, 0.08)]:
        probability = formula(mean, std)
        for level in (0, 1, 3, 127, 140, 141, 250, 255):
            exact = bin_by_quadrature(level, mean, std)
            if exact > 1e-9:  # below 1e-12 the package counts no further
                assert probability[level].item() == approx(exact, rel=1e-5)
        assert probability.sum().item() == approx(1, abs=1e-6)


def mean_code_length(level: int, mean: float, std: float, *, width: float = 1, sign: float = -1) -> float:
    """−E_u log p(level + u) for u uniform over a bin of this width, with knobs for mistakes; one level is 1 wide."""
    x = level + width * torch.linspace(-0.5, 0.5, 20_001, dtype=torch.float64)
    return sign * log_normal(x, mean, std**2).mean().item()


@quadrature(
    "eq:dequantisation",
    implementation=mean_code_length,
    mutants={
        "without the noise": lambda level, mean, std: mean_code_length(level, mean, std, width=0),
        "noise two levels wide": lambda level, mean, std: mean_code_length(level, mean, std, width=2),
        "sign": lambda level, mean, std: mean_code_length(level, mean, std, sign=1),
    },
)
def test_dequantisation(formula):
    """It exceeds −log P of the level by the divergence of the noise from the density within the level."""
    for level, mean, std in [(140, 140.3, 0.6), (100, 97.0, 2.0), (30, 30.0, 0.4)]:
        normal = Normal(torch.tensor(mean).double(), std)
        probability = normal.cdf(torch.tensor(level + 0.5)) - normal.cdf(torch.tensor(level - 0.5))
        x = torch.linspace(level - 0.5, level + 0.5, 20_001, dtype=torch.float64)
        inside = (normal.log_prob(x) - probability.log()).exp()  # a density of the level's own
        excess = -torch.trapezoid(inside.log(), x)
        assert excess > 1e-4
        assert formula(level, mean, std) == pytest.approx((excess - probability.log()).item(), rel=1e-4)


# One term: from divergence to squared error

TRUE_X0 = torch.tensor([0.3, -0.8, 0.9, 0.1], dtype=torch.float64).view(1, 4, 1, 1)
EPSILON = torch.tensor([1.1, -0.4, 0.3, -1.7], dtype=torch.float64).view(1, 4, 1, 1)
GUESSED_EPSILON = torch.tensor([0.9, -0.7, 0.8, -1.2], dtype=torch.float64).view(1, 4, 1, 1)


TERMS = list(product((2, 3, 11, 25, 40), ("fixed_small", "fixed_large")))


class Fixed(NamedTuple):
    """A model whose guess is given."""

    schedule: NoiseSchedule
    x0: Tensor

    def predict(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, *, clip_x0: bool = False):
        del x_t, t, labels, clip_x0
        return self


def noisy(t: int, noise: Tensor) -> Tensor:
    return CHAIN.alpha_bar[t].sqrt() * TRUE_X0 + (1 - CHAIN.alpha_bar[t]).sqrt() * noise


def guessed_x0(t: int) -> Tensor:
    alpha_bar = CHAIN.alpha_bar[t]
    return (noisy(t, EPSILON) - (1 - alpha_bar).sqrt() * GUESSED_EPSILON) / alpha_bar.sqrt()


def package_term(t: int, variance: str) -> float:
    """L_{t−1} by `denoising_term`, for one draw of the noise."""
    model, x_t, at = Fixed(CHAIN, guessed_x0(t)), noisy(t, EPSILON), torch.tensor([t])
    step = ReverseStep(model, variance_rule(model, variance), None, clip_x0=False)
    mean, log_variance, _ = step.moments(x_t, at)
    return denoising_term(CHAIN, TRUE_X0, x_t, at, mean, log_variance).sum().item()


def posterior(x0: Tensor, x_t: Tensor, t: int) -> Normal:
    """q(x_{t−1} | x_t, x_0) by multiplying the future and the past, in precisions."""
    precision = CHAIN.alpha[t] / CHAIN.beta[t] + 1 / (1 - CHAIN.alpha_bar[t - 1])
    pull = CHAIN.alpha[t].sqrt() / CHAIN.beta[t] * x_t
    past = CHAIN.alpha_bar[t - 1].sqrt() / (1 - CHAIN.alpha_bar[t - 1]) * x0
    return Normal((pull + past) / precision, precision.rsqrt())


def exact_term(t: int, variance: str) -> float:
    """The divergence by torch, between Gaussians found by Bayes' rule."""
    x_t = noisy(t, EPSILON)
    truth, guess = posterior(TRUE_X0, x_t, t), posterior(guessed_x0(t), x_t, t)
    std = guess.scale if variance == "fixed_small" else CHAIN.beta[t].sqrt()
    return torch_kl(truth, Normal(guess.loc, std)).sum().item()


def weighted_distance(
    t: int, variance: str, *, power: float = 1, factor: float = 0.5, constant: float = 1
) -> float:
    """The right-hand side of eq:loss-t, with knobs for mistakes."""
    x_t = noisy(t, EPSILON)
    truth, guess = posterior(TRUE_X0, x_t, t), posterior(guessed_x0(t), x_t, t)
    small = truth.variance.mean().item()
    sigma2 = small if variance == "fixed_small" else CHAIN.beta[t].item()
    offset = 0.5 * 4 * (small / sigma2 - 1 - math.log(small / sigma2))
    return factor * ((truth.loc - guess.loc) ** 2).sum().item() / sigma2**power + constant * offset


@exact(
    "eq:loss-t",
    where="ddpm.likelihood.denoising_term",
    implementation=package_term,
    mutants={
        "without the ½": lambda t, variance: weighted_distance(t, variance, factor=1),
        "ω for ω²": lambda t, variance: weighted_distance(t, variance, power=0.5),
        "without C_t": lambda t, variance: weighted_distance(t, variance, constant=0),
        "t off by one": lambda t, variance: weighted_distance(max(t - 1, 2), variance),
    },
)
def test_loss_t(formula):
    """The divergence of the two Gaussians that Bayes' rule gives; the formula on the page must agree as well."""
    for t, variance in TERMS:
        exact = exact_term(t, variance)
        assert formula(t, variance) == approx(exact, rel=1e-9)
        assert weighted_distance(t, variance) == approx(exact, rel=1e-9)


def squared(error: Tensor) -> float:
    return (error**2).sum().item()


def drop(t: int) -> float:
    """SNR(t−1) − SNR(t)."""
    alpha_bar = CHAIN.alpha_bar
    return (alpha_bar[t - 1] / (1 - alpha_bar[t - 1]) - alpha_bar[t] / (1 - alpha_bar[t])).item()


@exact(
    "eq:loss-t-x0",
    where="ddpm.likelihood.denoising_term",
    implementation=lambda t: package_term(t, "fixed_small") / squared(TRUE_X0 - guessed_x0(t)),
    mutants={
        "without the ½": drop,
        "levels t and t+1": lambda t: 0.5 * drop(t + 1) if t < 40 else 0.0,
        "SNR(t) alone": lambda t: 0.5 * CHAIN.snr[t].item(),
        "sign": lambda t: -0.5 * drop(t),
    },
)
def test_loss_t_x0(formula):
    """The exact divergence per squared error of x_0."""
    for t in (2, 3, 11, 25, 40):
        error = squared(TRUE_X0 - guessed_x0(t))
        assert formula(t) == approx(exact_term(t, "fixed_small") / error, rel=1e-7)


def noise_weight(t: int, variance: str, *, alpha: bool = True, at: int = 0) -> float:
    """The factor of the squared noise error in eq:loss-t-noise, with knobs for mistakes."""
    sigma2 = (CHAIN.posterior_variance if variance == "fixed_small" else CHAIN.beta)[t - at]
    divisor = CHAIN.alpha[t] if alpha else CHAIN.alpha_bar[t]
    return (CHAIN.beta[t] ** 2 / (2 * sigma2 * divisor * (1 - CHAIN.alpha_bar[t]))).item()


def package_noise_weight(t: int, variance: str) -> float:
    """L_{t−1} − C_t over the squared noise error, from the package's term."""
    offset = weighted_distance(t, variance, factor=0)
    return (package_term(t, variance) - offset) / squared(EPSILON - GUESSED_EPSILON)


@exact(
    "eq:loss-t-noise",
    where="ddpm.likelihood.denoising_term",
    implementation=package_noise_weight,
    mutants={
        "ᾱ_t for α_t": lambda t, variance: noise_weight(t, variance, alpha=False),
        "variance off by one": lambda t, variance: noise_weight(t, variance, at=1 if t > 2 else 0),
        "without the ½": lambda t, variance: 2 * noise_weight(t, variance),
        "constant, as in L_simple": lambda *_: 1.0,
    },
)
def test_loss_t_noise(formula):
    """The exact divergence, less its constant, per squared noise error; the formula on the page must agree as well."""
    for t, variance in TERMS:
        offset = weighted_distance(t, variance, factor=0)
        exact = (exact_term(t, variance) - offset) / squared(EPSILON - GUESSED_EPSILON)
        assert formula(t, variance) == approx(exact, rel=1e-8)
        assert noise_weight(t, variance) == approx(exact, rel=1e-8)


def score_error(t: int, *, sigma: bool = True, sign: float = -1) -> float:
    """The squared distance of −ε̂/σ_t from the gradient of log q(x_t | x_0), taken by autograd."""
    x_t = noisy(t, EPSILON).requires_grad_()
    alpha_bar = CHAIN.alpha_bar[t]
    density = Normal(alpha_bar.sqrt() * TRUE_X0, (1 - alpha_bar).sqrt()).log_prob(x_t).sum()
    guess = sign * GUESSED_EPSILON / ((1 - alpha_bar).sqrt() if sigma else 1)
    return squared(torch.autograd.grad(density, x_t)[0] - guess)


def weighted_score_error(t: int, variance: str, *, alpha: bool = True, noise: bool = False, **knobs) -> float:
    """The right-hand side of eq:loss-t-score without the mean, with knobs for mistakes."""
    weight = noise_weight(t, variance, alpha=alpha) * (1 if noise else 1 - CHAIN.alpha_bar[t].item())
    return weight * score_error(t, **knobs)


@exact(
    "eq:loss-t-score",
    implementation=weighted_score_error,
    mutants={
        "ᾱ_t for α_t": lambda t, variance: weighted_score_error(t, variance, alpha=False),
        "weight of the noise error": lambda t, variance: weighted_score_error(t, variance, noise=True),
        "noise for the score": lambda t, variance: weighted_score_error(t, variance, sigma=False),
        "sign of the score": lambda t, variance: weighted_score_error(t, variance, sign=1),
    },
)
def test_loss_t_score(formula):
    """The exact divergence, less its constant."""
    for t in (2, 3, 11, 25, 40):
        for variance in ("fixed_small", "fixed_large"):
            exact = exact_term(t, variance) - weighted_distance(t, variance, factor=0)
            assert formula(t, variance) == approx(exact, rel=1e-8)


def continuous_bound(mean_square: Callable[[Tensor], Tensor], low: float, high: float) -> float:
    """½ ∫ E‖x_0 − x̂_0‖² du over the SNR u, on a logarithmic axis."""
    axis = torch.linspace(math.log(low), math.log(high), 20_001, dtype=torch.float64)
    return 0.5 * torch.trapezoid(mean_square(axis.exp()) * axis.exp(), axis).item()


@exact(
    "eq:continuous-bound",
    implementation=continuous_bound,
    mutants={
        "without the ½": lambda error, low, high: 2 * continuous_bound(error, low, high),
        "over log SNR": lambda error, low, high: continuous_bound(lambda u: error(u) / u, low, high),
        "ends swapped": lambda error, low, high: -continuous_bound(error, low, high),
    },
)
def test_continuous_bound(formula):
    """The sum of eq:loss-t-x0 over 100,000 steps between the same ends, whatever the steps in between.

    For Gaussian data of variance s², E‖x_0 − x̂_0‖² at the SNR u is s²/(1 + u s²).
    """
    low, high, s2 = 1e-3, 1e4, 0.25
    place = torch.linspace(1, 0, 100_001, dtype=torch.float64)
    for bend in (1.0, 2.0):
        snr = low * (high / low) ** (place**bend)
        steps = 0.5 * (snr[:-1] - snr[1:]) * s2 / (1 + snr[1:] * s2)
        assert formula(lambda u: s2 / (1 + u * s2), low, high) == approx(steps.sum().item(), rel=1e-3)


def simple_by_hand(
    x0: Tensor, t: Tensor, noise: Tensor, *, target: str = "noise", shift: int = 0, scaled: bool = True
) -> float:
    """Mean over pixels and images of ‖ε − ε_θ‖², one image at a time, for `Pointwise`; with knobs for mistakes."""
    schedule, total = NoiseSchedule(linear_betas(50)), 0.0
    for image, level, epsilon in zip(x0, t.tolist(), noise, strict=True):
        alpha_bar = schedule.exact_alpha_bar[level].item()
        signal, sigma = (math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)) if scaled else (1, 1)
        x_t = signal * image + sigma * epsilon
        output = torch.sin(0.7 * x_t) + 0.01 * math.log(level - shift + 1e-9)
        total += ((output - (epsilon if target == "noise" else image)) ** 2).mean().item()
    return total / len(x0)


@exact(
    "eq:l-simple",
    where="ddpm.diffusion.GaussianDiffusion.loss",
    implementation=lambda x0, t, noise: diffusion_of(image_size=2).loss(x0, t, noise).item(),
    mutants={
        "clean image as the target": lambda x0, t, noise: simple_by_hand(x0, t, noise, target="x0"),
        "network asked one level below": lambda x0, t, noise: simple_by_hand(x0, t, noise, shift=1),
        "noise not scaled": lambda x0, t, noise: simple_by_hand(x0, t, noise, scaled=False),
    },
)
def test_l_simple(formula):
    """Image by image in Python numbers; the levels 1 and T are among them."""
    generator = seeded(0)
    x0, noise = torch.randn(2, 4, 1, 2, 2, generator=generator)
    t = torch.tensor([1, 7, 33, 50])
    assert formula(x0, t, noise) == approx(simple_by_hand(x0, t, noise), rel=1e-5)


def terms_worth(nats: float, dimensions: int) -> VariationalBound:
    """A bound of so many nats for each of two pictures."""
    steps = torch.tensor([[0.0, 0.75 * nats], [0.0, 0.75 * nats]], dtype=torch.float64)
    return VariationalBound(torch.full((2,), 0.25 * nats, dtype=torch.float64), steps, dimensions)


@exact(
    "eq:bits-per-dim",
    where="ddpm.likelihood.VariationalBound.bits_per_dim",
    implementation=lambda bound: bound.bits_per_dim(bound.total).mean.item(),
    mutants={
        "nats": lambda bound: bound.total.mean().item() / bound.dimensions,
        "per picture": lambda bound: bound.total.mean().item() / math.log(2),
        "times ln 2": lambda bound: bound.total.mean().item() / bound.dimensions * math.log(2),
    },
)
def test_bits_per_dim(formula):
    """256 equally likely levels cost 8 bits per dimension, whatever the size of the picture."""
    for dimensions in (1, 64, 3072):
        assert formula(terms_worth(dimensions * math.log(256), dimensions)) == approx(8, rel=1e-12)
