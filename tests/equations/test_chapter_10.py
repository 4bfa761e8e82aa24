"""The equations of chapter 10: answers with and without a label, what guidance does, and how words get in."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import solve_ivp
from torch import nn

from ddpm import ClassifierFreeGuidance, ClassifierGuidance, GaussianDiffusion, GaussianMixtureOracle
from ddpm.prediction import full_timesteps
from tests.equations.ledger import exact, quadrature
from tests.networks import Classed, randn, schedule_64

approx = pytest.approx
DOUBLE = torch.float64
SCHEDULE = schedule_64("cosine", 60)
# Four components in two dimensions, of three classes.
ORACLE = GaussianMixtureOracle(
    SCHEDULE,
    0.8 * randn(4, 2, seed=1, dtype=DOUBLE),
    [0.05, 0.1, 0.2, 0.07],
    [0.1, 0.4, 0.3, 0.2],
    classes=[0, 1, 1, 2],
)
X, LABELS = randn(9, 1, 1, 2, seed=3, dtype=DOUBLE), torch.arange(9) % 3
TIMES = (2, 20, 45)


def at(t):
    return full_timesteps(t, X)


def gradient(function):
    """∇ of a log-density at X, by autograd."""
    x = X.clone().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


def free(t):
    """The exact noise of all data, −σ ∇ log q(x_t)."""
    return -SCHEDULE.sigma[t] * gradient(lambda x: ORACLE.log_density(x, at(t)))


def own(t, labels=LABELS):
    """The exact noise of the classes."""
    return -SCHEDULE.sigma[t] * gradient(lambda x: ORACLE.log_density(x, at(t), labels))


def close(found, wanted, **bounds):
    torch.testing.assert_close(found, wanted, **({"rtol": 1e-7, "atol": 1e-8} | bounds))


# eq:average-over-classes and eq:away-from-classes


def of_all(weight=lambda p: p):
    """Σ_y p(y | x_t) E[ε | x_t, y] with other weights in place of p(y | x_t)."""

    def average(t):
        weights = weight(ORACLE.class_log_probabilities(X, at(t)).exp())
        answers = [ORACLE.predict(X, at(t), torch.full((9,), y)).noise for y in range(3)]
        return sum(weights[:, y].view(-1, 1, 1, 1) * answers[y] for y in range(3))

    return average


@exact(
    "eq:average-over-classes",
    implementation=of_all(),
    mutants={
        "prior for posterior": of_all(lambda p: torch.tensor([[0.1, 0.7, 0.2]]).to(p).expand_as(p)),
        "all classes alike": of_all(lambda p: torch.full_like(p, 1 / 3)),
        "classes exchanged": of_all(lambda p: p.flip(1)),
        "weights forgotten": of_all(torch.ones_like),
    },
)
def test_average_over_classes(average):
    """The gradient of log q(x_t), by autograd, which knows of no classes."""
    for t in TIMES:
        close(average(t), free(t))


def away(weight=lambda p: p, turned=1):
    def pushed(t):
        weights = weight(ORACLE.class_log_probabilities(X, at(t)).exp())
        answers = [ORACLE.predict(X, at(t), torch.full((9,), y)).noise for y in range(3)]
        mine = ORACLE.predict(X, at(t), LABELS).noise
        return turned * sum(weights[:, y].view(-1, 1, 1, 1) * (mine - answers[y]) for y in range(3))

    return pushed


@exact(
    "eq:away-from-classes",
    implementation=away(),
    mutants={
        "all classes alike": away(lambda p: torch.full_like(p, 1 / 3)),
        "towards the others": away(turned=-1),
        "weights forgotten": away(torch.ones_like),
    },
)
def test_away_from_classes(pushed):
    """The difference of the two gradients, with a label and without."""
    for t in TIMES:
        close(pushed(t), own(t) - free(t))


# eq:dropped-labels


def expected_loss(told, untold, share):
    return (1 - share) * told + share * untold


@exact(
    "eq:dropped-labels",
    implementation=expected_loss,
    mutants={
        "shares exchanged": lambda told, untold, r: r * told + (1 - r) * untold,
        "labels never hidden": lambda told, _untold, _r: told,
        "half and half": lambda told, untold, _r: (told + untold) / 2,
    },
)
def test_dropped_labels(formula):
    """The loss of the package, over all ways to hide the labels of three pictures, each by itself."""
    diffusion = GaussianDiffusion(Classed(), image_size=4, timesteps=60, objective="pred_noise")
    x0, noise, t = randn(3, 1, 4, 4).clamp(-1, 1), randn(3, 1, 4, 4, seed=1), torch.tensor([3, 30, 60])

    def loss(mask):
        labels = torch.tensor([2, 0, 1])
        return float(diffusion.loss(x0, t, noise, labels=labels, label_mask=torch.tensor(mask)))

    for share in (0.1, 0.7):
        ways = list(product([True, False], repeat=3))
        total = sum(math.prod(1 - share if kept else share for kept in way) * loss(way) for way in ways)
        assert formula(loss([True] * 3), loss([False] * 3), share) == approx(total, rel=1e-5)


# eq:guided, eq:rescaled, eq:bayes-score and eq:classifier-guided


def two_answers(mix):
    def noise(t, w):
        with_label, without = (ORACLE.predict(X, at(t), labels).noise for labels in (LABELS, None))
        return mix(with_label, without, w)

    return noise


@exact(
    "eq:guided",
    where="ddpm.guidance.ClassifierFreeGuidance.predict",
    implementation=lambda t, w: ClassifierFreeGuidance(ORACLE, w).predict(X, at(t), LABELS).noise,
    mutants={
        "answers exchanged": two_answers(lambda c, u, w: c + w * (u - c)),
        "scale of Ho and Salimans": two_answers(lambda c, u, w: c + w * (c - u)),
        "difference turned round": two_answers(lambda c, u, w: u - w * (c - u)),
        "answer for difference": two_answers(lambda c, u, w: u + w * c),
    },
)
def test_guided(noise):
    """The gradient of log q(x_t)^{1−w} q(x_t | y)^w."""
    for t in TIMES:
        for w in (-0.5, 2.0, 4.0):
            close(noise(t, w), (1 - w) * free(t) + w * own(t))


def rescaled(mix):
    def v(t, w, share):
        guided = ClassifierFreeGuidance(ORACLE, w).predict(X, at(t), LABELS).v
        conditional = ORACLE.predict(X, at(t), LABELS).v
        spread, wanted = (one.std((1, 2, 3), correction=0, keepdim=True) for one in (guided, conditional))
        return mix(guided, conditional, wanted / spread, share)

    return v


@exact(
    "eq:rescaled",
    where="ddpm.guidance.ClassifierFreeGuidance.predict",
    implementation=lambda t, w, share: (
        ClassifierFreeGuidance(ORACLE, w, rescale=share).predict(X, at(t), LABELS).v
    ),
    mutants={
        "ratio upside down": rescaled(lambda v, _c, ratio, rho: (rho / ratio + 1 - rho) * v),
        "shares exchanged": rescaled(lambda v, _c, ratio, rho: ((1 - rho) * ratio + rho) * v),
        "the conditional answer scaled": rescaled(lambda _v, c, ratio, rho: (rho * ratio + 1 - rho) * c),
        "rest forgotten": rescaled(lambda v, _c, ratio, rho: rho * ratio * v),
    },
)
def test_rescaled(v):
    """Along the guided v; of the standard deviations, a part ρ of the way from the guided to the conditional one."""
    for t in TIMES:
        guided = ClassifierFreeGuidance(ORACLE, 3.0).predict(X, at(t), LABELS).v.flatten(1)
        wanted = ORACLE.predict(X, at(t), LABELS).v.flatten(1).std(1, correction=0)
        for share in (0.0, 0.3, 1.0):
            found = v(t, 3.0, share).flatten(1)
            there = guided.std(1, correction=0)
            close(found.std(1, correction=0), there + share * (wanted - there))
            close(nn.functional.cosine_similarity(found, guided), torch.ones(9, dtype=DOUBLE))


def bayes(t, likelihood=lambda log_p: log_p, sign=1, prior=1):
    chosen = gradient(
        lambda x: likelihood(ORACLE.class_log_probabilities(x, at(t)).gather(1, LABELS[:, None]))
    )
    return prior * ORACLE.score(X, at(t)) + sign * chosen


@exact(
    "eq:bayes-score",
    implementation=bayes,
    mutants={
        "sign": lambda t: bayes(t, sign=-1),
        "probability for its logarithm": lambda t: bayes(t, likelihood=torch.exp),
        "prior forgotten": lambda t: bayes(t, prior=0),
    },
)
def test_bayes_score(score):
    """The gradient of the density of one class."""
    for t in TIMES:
        close(score(t), gradient(lambda x, t=t: ORACLE.log_density(x, at(t), LABELS)))


def by_classifier(part):
    def noise(t, s):
        log_p = gradient(lambda x: ORACLE.class_log_probabilities(x, at(t)).gather(1, LABELS[:, None]))
        return ORACLE.predict(X, at(t)).noise + part(s, SCHEDULE.sigma[t]) * log_p

    return noise


@exact(
    "eq:classifier-guided",
    where="ddpm.gradient_guidance.ClassifierGuidance.predict",
    implementation=lambda t, s: (
        ClassifierGuidance(ORACLE, ORACLE.class_log_probabilities, s).predict(X, at(t), LABELS).noise
    ),
    mutants={
        "sign": by_classifier(lambda s, sigma: s * sigma),
        "σ forgotten": by_classifier(lambda s, _sigma: -s),
        "σ squared": by_classifier(lambda s, sigma: -s * sigma**2),
        "scale forgotten": by_classifier(lambda _s, sigma: -sigma),
    },
)
def test_classifier_guided(noise):
    """Two answers and their difference, with w = s."""
    for t in TIMES:
        for s in (-0.5, 1.0, 3.0):
            close(noise(t, s), (1 - s) * free(t) + s * own(t))


# eq:tilted and eq:tilt-noised, on a line

LINE = np.linspace(-4, 4, 4001)
ALL = 0.5 * stats.norm.pdf(LINE, -0.6, 0.3) + 0.5 * stats.norm.pdf(LINE, 0.4, 0.4)
CLASS = stats.norm.pdf(LINE, 0.4, 0.4)
CHANCE = 0.5 * CLASS / ALL


def normalised(density):
    return density / np.trapezoid(density, LINE)


@quadrature(
    "eq:tilted",
    implementation=lambda w: normalised(ALL * CHANCE**w),
    mutants={
        "power of the data": lambda w: normalised(ALL**w * CHANCE),
        "power forgotten": lambda _w: normalised(ALL * CHANCE),
        "one power too few": lambda w: normalised(ALL * CHANCE ** (w - 1)),
        "power of the class alone": lambda w: normalised(CLASS**w),
    },
)
def test_tilted(density):
    """The other form, and draws of the class that are kept with the probability p^{w−1}, weighed exactly."""
    for w in (1.0, 2.0, 3.5):
        assert density(w) == approx(normalised(CLASS**w * ALL ** (1 - w)), rel=1e-6, abs=1e-12)
        assert density(w) == approx(normalised(CLASS * CHANCE ** (w - 1)), rel=1e-6, abs=1e-12)


def noisy(x_t, alpha_bar):
    return stats.norm.pdf(x_t, math.sqrt(alpha_bar) * LINE, math.sqrt(1 - alpha_bar))


def factor(x_t, alpha_bar, w, of=lambda posterior, w: np.trapezoid(posterior * CHANCE**w, LINE)):
    """q(x_t) times what stands for E[p(y | x_0)^w | x_t]."""
    joint = ALL * noisy(x_t, alpha_bar)
    marginal = np.trapezoid(joint, LINE)
    return marginal * of(joint / marginal, w)


@quadrature(
    "eq:tilt-noised",
    implementation=factor,
    mutants={
        "power of the mean": lambda *a: factor(*a, of=lambda p, w: np.trapezoid(p * CHANCE, LINE) ** w),
        "power forgotten": lambda *a: factor(*a, of=lambda p, _w: np.trapezoid(p * CHANCE, LINE)),
        "prior for posterior": lambda *a: factor(*a, of=lambda _p, w: np.trapezoid(ALL * CHANCE**w, LINE)),
    },
)
def test_tilt_noised(formula):
    """The tilted density with noise on it, x_t by x_t, up to one factor for all of them."""
    for alpha_bar in (0.1, 0.5, 0.9):
        for w in (2.0, 4.0):
            tilted = normalised(ALL * CHANCE**w)
            ratios = [
                np.trapezoid(tilted * noisy(x_t, alpha_bar), LINE) / formula(x_t, alpha_bar, w)
                for x_t in (-1.5, -0.3, 0.4, 1.2)
            ]
            assert ratios == approx(ratios[:1] * 4, rel=1e-6)


# eq:tilted-gaussian, eq:guided-slope, eq:guided-gaussian and eq:guided-ancestral

PAIRS = [(0.25, 1.0, 2.0), (0.25, 1.0, 4.0), (1.0, 2.0, 1.5), (0.3, 0.4, 0.4)]


def tilted_variance(a, b, w):
    return 1 / (w / a + (1 - w) / b)


@quadrature(
    "eq:tilted-gaussian",
    implementation=tilted_variance,
    mutants={
        "geometric mean": lambda a, b, w: a**w * b ** (1 - w),
        "arithmetic mean": lambda a, b, w: w * a + (1 - w) * b,
        "weights exchanged": lambda a, b, w: tilted_variance(b, a, w),
    },
)
def test_tilted_gaussian(formula):
    """The variance of the product of powers."""
    x = np.linspace(-20, 20, 40_001)
    for a, b, w in PAIRS:
        log_density = w * stats.norm.logpdf(x, 0, a**0.5) + (1 - w) * stats.norm.logpdf(x, 0, b**0.5)
        density = np.exp(log_density - log_density.max())
        assert formula(a, b, w) == approx(
            np.trapezoid(density * x**2, x) / np.trapezoid(density, x), rel=1e-6
        )


def guided_slope(u, a, b, w):
    """dz/du divided by z."""
    return u * (w / (a + u**2) + (1 - w) / (b + u**2))


@exact(
    "eq:guided-slope",
    implementation=guided_slope,
    mutants={
        "noise on the tilted density": lambda u, a, b, w: u / (tilted_variance(a, b, w) + u**2),
        "weights exchanged": lambda u, a, b, w: guided_slope(u, b, a, w),
        "u for u²": lambda u, a, b, w: u * (w / (a + u) + (1 - w) / (b + u)),
        "u forgotten": lambda u, a, b, w: guided_slope(u, a, b, w) / u,
    },
)
def test_guided_slope(formula):
    """The noise of two exact models of one Gaussian each, mixed."""
    for a, b, w in PAIRS:
        for t in TIMES:
            signal, sigma = SCHEDULE.exact_alpha_bar[t].sqrt().item(), SCHEDULE.sigma[t].item()
            mine, every = (
                GaussianMixtureOracle(SCHEDULE, [[0.0, 0.0]], [variance]).predict(X, at(t)).noise
                for variance in (a, b)
            )
            slope = (every + w * (mine - every)) / (X / signal)
            close(torch.full_like(X, formula(sigma / signal, a, b, w)), slope)


def end_of_flow(a, b, w):
    """Where the point one standard deviation from the mean ends, squared."""
    fine = {"rtol": 1e-9, "atol": 1e-9}
    flow = solve_ivp(lambda u, z: z * guided_slope(u, a, b, w), (300, 0), [300.0], **fine)
    return flow.y[0, -1] ** 2


@exact(
    "eq:guided-gaussian",
    implementation=lambda a, b, w: a**w * b ** (1 - w),
    mutants={
        "harmonic mean": tilted_variance,
        "arithmetic mean": lambda a, b, w: w * a + (1 - w) * b,
        "weights exchanged": lambda a, b, w: a ** (1 - w) * b**w,
        "root": lambda a, b, w: math.sqrt(a**w * b ** (1 - w)),
    },
)
def test_guided_gaussian(formula):
    """The end of the curve, by SciPy."""
    for case in PAIRS:
        assert formula(*case) == approx(end_of_flow(*case), rel=1e-3)


def ancestral_variance(a, b, w):
    return (a * b - a ** (2 * w) * b ** (2 - 2 * w)) / ((2 * w - 1) * (b - a))


@quadrature(
    "eq:guided-ancestral",
    implementation=ancestral_variance,
    mutants={
        "variance of the flow": lambda a, b, w: a**w * b ** (1 - w),
        "powers not doubled": lambda a, b, w: (a * b - a**w * b ** (2 - w)) / ((2 * w - 1) * (b - a)),
        "w for 2w − 1": lambda a, b, w: ancestral_variance(a, b, w) * (2 * w - 1) / w,
    },
)
def test_guided_ancestral(formula):
    """The equation of the variance solved numerically, down from much noise."""
    for a, b, w in PAIRS:

        def rate(h, variance, a=a, b=b, w=w):
            return 2 * variance * (w / (a + h) + (1 - w) / (b + h)) - 1

        flow = solve_ivp(rate, (1e4, 0), [1e4], method="LSODA", rtol=1e-9, atol=1e-9)
        assert formula(a, b, w) == approx(flow.y[0, -1], rel=2e-3)


# eq:cross-attention and eq:clip-loss


def attention(X, C, Q, K, U, divide=lambda d: d**0.5, over=1):
    scores = (X @ Q) @ (C @ K).T / divide(Q.shape[1])
    return scores.softmax(over) @ C @ U


@exact(
    "eq:cross-attention",
    implementation=attention,
    mutants={
        "softmax over the pixels": lambda *a: attention(*a, over=0),
        "not divided": lambda *a: attention(*a, divide=lambda _d: 1),
        "divided by d": lambda *a: attention(*a, divide=lambda d: d),
    },
)
def test_cross_attention(formula):
    """PyTorch's own, and a word that all pixels look for."""
    features, words = randn(10, 6, dtype=DOUBLE), randn(4, 5, seed=1, dtype=DOUBLE)
    queries, keys, values = (randn(rows, 8, seed=rows, dtype=DOUBLE) for rows in (6, 5, 5))
    matrices = queries, keys, values
    theirs = nn.functional.scaled_dot_product_attention(features @ queries, words @ keys, words @ values)
    close(formula(features, words, *matrices), theirs)
    close(formula(features, words[:1], *matrices), (words[:1] @ values).expand(10, -1))


def clip_loss(a, b, tau, rows=0.5, columns=0.5):
    table = a @ b.T / tau
    right = table.diagonal()
    return float(rows * (table.logsumexp(1) - right).mean() + columns * (table.logsumexp(0) - right).mean())


@exact(
    "eq:clip-loss",
    implementation=clip_loss,
    mutants={
        "captions alone": lambda *a: clip_loss(*a, rows=1, columns=0),
        "half forgotten": lambda *a: clip_loss(*a, rows=1, columns=1),
        "multiplied by τ": lambda a, b, tau: clip_loss(a, b, 1 / tau),
    },
)
def test_clip_loss(formula):
    """Two games of finding the partner among n, each −log of the probability of the right one."""
    a, b = nn.functional.normalize(randn(2, 5, 3, dtype=DOUBLE), dim=2)
    for tau in (0.2, 2.0):
        found = [
            -math.log(math.exp(float(x[i] @ y[i]) / tau) / sum(math.exp(float(x[i] @ z) / tau) for z in y))
            for x, y in ((a, b), (b, a))
            for i in range(5)
        ]
        assert formula(a, b, tau) == approx(sum(found) / 10, rel=1e-9)
