"""The equations of appendix B: a judge, a reversed divergence, a random draw, a coupling layer and a stopped chain.

The package has no GAN, VAE or flow, and its bound goes down to t = 1: the formulas of the page stand here themselves.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import xlogy
from torch import Tensor

from tests.equations.ledger import exact, quadrature

GRID = np.linspace(-9, 9, 9001)
HUMPS = 0.4 * stats.norm.pdf(GRID, -1.2, 0.6) + 0.6 * stats.norm.pdf(GRID, 1.4, 0.7)  # p


def approx(value: float, tolerance: float = 1e-6):
    """What pytest compares a number with."""
    return pytest.approx(value, abs=tolerance)


# A GAN


@exact(
    "eq:judge-score",
    implementation=lambda p, p_g: math.log(p) - math.log(p_g),
    mutants={
        "the other way round": lambda p, p_g: math.log(p_g) - math.log(p),
        "verdict for score": lambda p, p_g: p / (p + p_g),
        "log of the verdict": lambda p, p_g: math.log(p / (p + p_g)),
        "difference of the densities": lambda p, p_g: p - p_g,
    },
)
def test_judge_score(formula):
    """The score with the largest p log J + p_g log(1 − J), found by search."""
    for p, p_g in ((0.3, 0.1), (0.02, 0.4), (0.25, 0.25)):
        best = minimize_scalar(
            lambda h, p=p, p_g=p_g: p * np.logaddexp(0, -h) + p_g * np.logaddexp(0, h),
            bounds=(-20, 20),
            method="bounded",
            options={"xatol": 1e-9},
        )
        assert formula(p, p_g) == approx(best.x, 1e-5)


@exact(
    "eq:judge-gradients",
    implementation=lambda verdict: (-verdict, -(1 - verdict)),
    mutants={
        "signs": lambda verdict: (verdict, 1 - verdict),
        "exchanged": lambda verdict: (-(1 - verdict), -verdict),
        "by the verdict, not by the score": lambda verdict: (-1 / (1 - verdict), -1 / verdict),
        "both the same": lambda verdict: (-verdict, -verdict),
    },
)
def test_judge_gradients(formula):
    """Finite differences of log(1 − J) and −log J, as functions of the score."""
    for score in (-6.0, -0.5, 0.0, 1.3, 7.0):
        first, second = formula(1 / (1 + math.exp(-score)))
        step = 1e-5
        high, low = score + step, score - step
        by_game = -(np.logaddexp(0, high) - np.logaddexp(0, low)) / (2 * step)
        by_other = (np.logaddexp(0, -high) - np.logaddexp(0, -low)) / (2 * step)
        assert (first, second) == (approx(by_game, 1e-8), approx(by_other, 1e-8))


def divergence(a: np.ndarray, b: np.ndarray) -> float:
    """KL(a ‖ b) on the grid."""
    return np.trapezoid(xlogy(a, a / b), GRID)


def jensen_shannon(a: np.ndarray, b: np.ndarray) -> float:
    """JSD(a, b) on the grid."""
    middle = (a + b) / 2
    return (divergence(a, middle) + divergence(b, middle)) / 2


@quadrature(
    "eq:non-saturating",
    implementation=lambda p, p_g: divergence(p_g, p) - 2 * jensen_shannon(p, p_g),
    mutants={
        "divergence of a likelihood": lambda p, p_g: divergence(p, p_g) - 2 * jensen_shannon(p, p_g),
        "JSD added": lambda p, p_g: divergence(p_g, p) + 2 * jensen_shannon(p, p_g),
        "JSD once": lambda p, p_g: divergence(p_g, p) - jensen_shannon(p, p_g),
        "JSD alone, as in the game": lambda p, p_g: 2 * jensen_shannon(p, p_g),
        "divergence alone": lambda p, p_g: divergence(p_g, p),
    },
)
def test_non_saturating(formula):
    """Derivatives by mean and by width of a Gaussian generator; the best judge stands still on one side only."""
    step = 1e-4
    for mean, std in ((-0.7, 0.9), (0.5, 1.1), (1.0, 0.8)):
        fixed = -np.log(HUMPS / (HUMPS + stats.norm.pdf(GRID, mean, std)))
        for by_mean, by_std in ((step, 0), (0, step)):
            ahead = stats.norm.pdf(GRID, mean + by_mean, std + by_std)
            behind = stats.norm.pdf(GRID, mean - by_mean, std - by_std)
            slope = np.trapezoid((ahead - behind) * fixed, GRID) / (2 * step)
            claimed = (formula(HUMPS, ahead) - formula(HUMPS, behind)) / (2 * step)
            assert claimed == approx(slope, 1e-5)


# A VAE


def over_noise(values: np.ndarray) -> float:
    """Average over a standard normal number on the grid."""
    return np.trapezoid(stats.norm.pdf(GRID) * values, GRID)


@quadrature(
    "eq:pathwise-gradient",
    implementation=lambda slope, m, d: (
        over_noise(slope(m + d * GRID)),
        over_noise(GRID * slope(m + d * GRID)),
    ),
    mutants={
        "noise forgotten": lambda slope, m, d: (over_noise(slope(m + d * GRID)),) * 2,
        "slope at the mean": lambda slope, m, d: (slope(np.array(m)), over_noise(GRID * slope(m + d * GRID))),
        "variance for deviation": lambda slope, m, d: (
            over_noise(slope(m + d**2 * GRID)),
            over_noise(GRID * slope(m + d**2 * GRID)),
        ),
        "deviation once more": lambda slope, m, d: (
            over_noise(slope(m + d * GRID)),
            over_noise(d * GRID * slope(m + d * GRID)),
        ),
    },
)
def test_pathwise_gradient(formula):
    """Derivatives of closed averages: E cos(az) = cos(am) e^(−a²d²/2), and E z³ = m³ + 3md²."""
    a = 2.0
    for m, d in ((0.6, 0.7), (-0.3, 0.4)):
        fade = math.exp(-((a * d) ** 2) / 2)
        by_m, by_d = formula(lambda z: -a * np.sin(a * z), m, d)
        assert by_m == approx(-a * math.sin(a * m) * fade)
        assert by_d == approx(-(a**2) * d * math.cos(a * m) * fade)
        by_m, by_d = formula(lambda z: 3 * z**2, m, d)
        assert by_m == approx(3 * m**2 + 3 * d**2)
        assert by_d == approx(6 * m * d)


def latent_price(m: np.ndarray, d: np.ndarray) -> float:
    """The second term of eq:vae-loss."""
    return 0.5 * (m**2 + d**2 - 1 - np.log(d**2)).sum()


@exact(
    "eq:vae-loss",
    implementation=lambda decoding, m, d: decoding + latent_price(m, d),
    mutants={
        "sign": lambda decoding, m, d: decoding - latent_price(m, d),
        "half forgotten": lambda decoding, m, d: decoding + 2 * latent_price(m, d),
        "one forgotten": lambda decoding, m, d: decoding + latent_price(m, d) + 0.5 * len(m),
        "sign of the logarithm": lambda decoding, m, d: decoding + latent_price(m, d) + np.log(d**2).sum(),
        "deviation for variance": lambda decoding, m, d: decoding + 0.5 * (m**2 + d - 1 - np.log(d)).sum(),
        "first latent only": lambda decoding, m, d: decoding + latent_price(m[:1], d[:1]),
    },
)
def test_vae_loss(formula):
    """A linear Gaussian model with two latents: the bound is the exact price plus the divergence from the posterior."""
    weights, std = np.array([0.8, -0.5]), 0.6
    covariance = np.linalg.inv(np.eye(2) + np.outer(weights, weights) / std**2)
    for x in (0.7, -1.1):
        exact_price = -stats.norm.logpdf(x, 0, math.sqrt(weights @ weights + std**2))
        mean = covariance @ weights * x / std**2
        for m, d in ((np.zeros(2), np.ones(2)), (np.array([0.4, -0.3]), np.array([0.6, 0.8]))):
            spread = (x - weights @ m) ** 2 + (weights**2) @ d**2  # E (x − weights·z)²
            decoding = 0.5 * math.log(2 * math.pi * std**2) + spread / (2 * std**2)
            apart, precision = mean - m, np.linalg.inv(covariance)
            gap = 0.5 * (
                (precision.diagonal() * d**2).sum()
                - 2
                + np.linalg.slogdet(covariance)[1]
                - np.log(d**2).sum()
                + apart @ precision @ apart
            )
            assert formula(decoding, m, d) == approx(exact_price + gap)


# A flow


def scales_and_shifts(half: Tensor) -> tuple[Tensor, Tensor]:
    """Some smooth functions of three numbers, three each."""
    mix = torch.tensor([[0.4, -0.3, 0.2], [0.1, 0.5, -0.6], [-0.2, 0.3, 0.7]], dtype=torch.float64)
    return torch.tanh(half @ mix), torch.sin(half @ mix.T) + half**2


def coupled(x: Tensor) -> Tensor:
    """eq:coupling-layer, forwards."""
    a, b = x.chunk(2)
    s, u = scales_and_shifts(a)
    return torch.cat([a, s.exp() * b + u])


def uncoupled(w: Tensor, *, sign: float = -1.0) -> Tensor:
    """eq:coupling-layer, backwards; the sign is for mutants."""
    a, b = w.chunk(2)
    s, u = scales_and_shifts(a)
    return torch.cat([a, (sign * s).exp() * (b - u)])


def log_volume(x: Tensor) -> Tensor:
    """eq:coupling-layer, the determinant."""
    return scales_and_shifts(x.chunk(2)[0])[0].sum()


@exact(
    "eq:coupling-layer",
    implementation=lambda x: (coupled(x), uncoupled, log_volume(x)),
    mutants={
        "sign of the determinant": lambda x: (coupled(x), uncoupled, -log_volume(x)),
        "volume kept": lambda x: (coupled(x), uncoupled, torch.zeros((), dtype=torch.float64)),
        "shifts in the determinant": lambda x: (
            coupled(x),
            uncoupled,
            log_volume(x) + scales_and_shifts(x[:3])[1].sum(),
        ),
        "inverse with the wrong sign": lambda x: (
            coupled(x),
            lambda w: uncoupled(w, sign=1.0),
            log_volume(x),
        ),
        "scale not exponentiated": lambda x: (
            torch.cat([x[:3], scales_and_shifts(x[:3])[0] * x[3:] + scales_and_shifts(x[:3])[1]]),
            uncoupled,
            log_volume(x),
        ),
    },
)
def test_coupling_layer(formula):
    """The determinant of finite differences, and the way there and back."""
    for number in range(3):
        x = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(number))
        w, inverse, claimed = formula(x)
        assert inverse(w).numpy() == pytest.approx(x.numpy(), abs=1e-9)
        nudges = 1e-5 * torch.eye(6, dtype=torch.float64)
        columns = [(formula(x + e)[0] - formula(x - e)[0]) / 2e-5 for e in nudges]
        expected = torch.linalg.slogdet(torch.stack(columns, 1)).logabsdet
        assert claimed.item() == approx(expected.item(), 1e-7)
        assert torch.equal(w[:3], x[:3])


KAPPA = 0.01


def position(y: np.ndarray) -> np.ndarray:
    """c of eq:level-to-logit for a level with its noise."""
    return KAPPA / 2 + (1 - KAPPA) * (y + 0.5) / 17


@quadrature(
    "eq:level-to-logit",
    implementation=lambda c: math.log((1 - KAPPA) / 17) - np.log(c) - np.log(1 - c),
    mutants={
        "levels forgotten": lambda c: -np.log(c) - np.log(1 - c),
        "shrinking forgotten": lambda c: math.log(1 / 17) - np.log(c) - np.log(1 - c),
        "sign": lambda c: math.log((1 - KAPPA) / 17) + np.log(c) + np.log(1 - c),
        "one end only": lambda c: math.log((1 - KAPPA) / 17) - np.log(c),
    },
)
def test_level_to_logit(formula):
    """The slope integrated from one level to another is the way between their places on the line."""
    for low, high in ((-0.5, 0.5), (3.0, 9.0), (12.0, 16.5)):
        y = np.linspace(low, high, 20_001)
        ends = position(np.array([low, high]))
        way = np.diff(np.log(ends / (1 - ends)))[0]
        assert np.trapezoid(np.exp(formula(position(y))), y) == approx(way)


# A diffusion model


class TinyChain:
    """Three states and five steps, all probabilities by chance, with a guess of x_0 from x_k."""

    def __init__(self, k: int) -> None:
        numbers = np.random.default_rng(k)
        q, p, guess = (numbers.uniform(0.1, 1, (6, 3, 3)) for _ in range(3))
        self.q, self.p, self.guess = (rows / rows.sum(-1, keepdims=True) for rows in (q, p, guess))
        self.start = self.p[0, 0]
        self.k, self.state = k, 1
        self.ahead = {1: self.q[1][self.state]}  # q(x_t | x_0)
        for t in range(2, 6):
            self.ahead[t] = self.ahead[t - 1] @ self.q[t]

    def step(self, t: int) -> float:
        """L_{t−1}."""
        posterior = (self.ahead[t - 1][:, None] * self.q[t] / self.ahead[t]).T
        return (self.ahead[t] * (posterior * np.log(posterior / self.p[t])).sum(1)).sum()

    @property
    def prior(self) -> float:
        """L_T."""
        return (self.ahead[5] * np.log(self.ahead[5] / self.start)).sum()

    def decoding(self, k: int) -> float:
        """E[−log p(x_0 | x_k)]."""
        return -(self.ahead[k] * np.log(self.guess[0][:, self.state])).sum()

    def over_walks(self) -> float:
        """E_q[log q(x_k … x_T | x_0) − log p(x_0, x_k … x_T)], by counting all walks."""
        total = 0.0
        for walk in np.ndindex(*(3,) * (6 - self.k)):  # x_k, …, x_5
            chance = self.ahead[self.k][walk[0]]
            model = self.start[walk[-1]] * self.guess[0][walk[0], self.state]
            for t, (now, later) in enumerate(pairwise(walk), start=self.k + 1):
                chance *= self.q[t][now, later]
                model *= self.p[t][later, now]
            total += chance * math.log(chance / model)
        return total


def bill(chain: TinyChain, *, first: int = 1, prior: float = 1.0, at: int = 0) -> float:
    """eq:stopped-chain; the options are for mutants."""
    steps = sum(chain.step(t) for t in range(chain.k + first, 6))
    return prior * chain.prior + steps + chain.decoding(chain.k + at)


@exact(
    "eq:stopped-chain",
    implementation=bill,
    mutants={
        "L_T left out": lambda chain: bill(chain, prior=0.0),
        "sum starts at k": lambda chain: bill(chain, first=0),
        "sum starts at k + 2": lambda chain: bill(chain, first=2),
        "decoder one step late": lambda chain: bill(chain, at=1),
        "nothing for the decoder": lambda chain: bill(chain) - chain.decoding(chain.k),
    },
)
def test_stopped_chain(formula):
    """E[log q − log p] over all walks of a chain with three states, which knows of no terms."""
    for k in (2, 3, 4):
        chain = TinyChain(k)
        assert formula(chain) == approx(chain.over_walks(), 1e-10)
