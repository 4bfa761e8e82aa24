"""The equations of chapter 11, editing: against integrals, exact posteriors and steps of noise one after the other."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.transform import Rotation, Slerp

from ddpm import ReconstructionGuidance, editing
from ddpm.gaussians import condition, measured
from ddpm.prediction import full_timesteps
from tests.equations.ledger import equation, exact, quadrature
from tests.networks import (
    Constant,
    GaussianDenoiser,
    diffusion_of,
    exact_diffusion_of,
    randn,
    schedule_64,
    seeded,
)

approx = pytest.approx
DOUBLE = torch.float64


# eq:shell and eq:chord


def mean_length(D):
    return math.sqrt(2) * math.exp(math.lgamma((D + 1) / 2) - math.lgamma(D / 2))


@quadrature(
    "eq:shell",
    implementation=mean_length,
    mutants={
        "root of 2 dropped": lambda D: mean_length(D) / math.sqrt(2),
        "ratio upside down": lambda D: 2 / mean_length(D),
        "one dimension more": lambda D: mean_length(D + 1),
        "root of D": math.sqrt,
    },
)
def test_shell(formula):
    """The integral of √(x_1² + …) for the sum of squares, whose density is that of χ²."""
    for D in (1, 3, 10, 200):
        by_integral = stats.chi2(D).expect(np.sqrt, lb=0, ub=D + 60 * math.sqrt(2 * D))
        assert formula(D) == approx(by_integral, rel=1e-6)


@exact(
    "eq:chord",
    implementation=lambda c, D: ((1 - c) ** 2 + c**2) * D,
    mutants={
        "shares, not squared": lambda c, D: ((1 - c) + c) * D,
        "square of the sum": lambda c, D: ((1 - c) + c) ** 2 * D,
        "one piece alone": lambda c, D: (1 - c) ** 2 * D,
        "length for its square": lambda c, D: math.sqrt(((1 - c) ** 2 + c**2) * D),
    },
)
def test_chord(formula):
    """All pairs of corners of a cube, whose coordinates ±1 have the mean 0 and the variance 1 of snow."""
    for D in (1, 2, 5):
        corners = np.stack(np.meshgrid(*[[-1.0, 1.0]] * D), -1).reshape(-1, D)
        for c in (0.1, 0.5, 0.8):
            mixed = (1 - c) * corners[:, None] + c * corners
            assert formula(c, D) == approx((mixed**2).sum(-1).mean())


# eq:slerp


def arc_of(weights):
    """Weights of a and b from (ϑ, c)."""

    def arc(a, b, c):
        cosine = (a * b).flatten(1).sum(1) / (a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1))
        of_a, of_b = weights(cosine.acos().view(-1, 1, 1, 1), c)
        return of_a * a + of_b * b

    return arc


@exact(
    "eq:slerp",
    where="ddpm.editing.slerp",
    implementation=editing.slerp,
    mutants={
        "ends exchanged": lambda a, b, c: editing.slerp(b, a, c),
        "straight line": torch.lerp,
        "not divided by the sine": arc_of(lambda angle, c: (((1 - c) * angle).sin(), (c * angle).sin())),
        "right angle assumed": arc_of(lambda _, c: (math.cos(c * math.pi / 2), math.sin(c * math.pi / 2))),
    },
)
def test_slerp(arc):
    """Unit quaternions: SciPy turns one rotation into another; and the length of longer vectors."""
    for seed in range(5):
        # By its place: scipy has called this argument by two names.
        ends = Rotation.random(2, np.random.default_rng(seed))
        a, b = torch.tensor(ends.as_quat())
        b = b if (a * b).sum() > 0 else -b  # of the two for one rotation, that of the shorter way
        for c in (0.2, 0.5, 0.9):
            wanted = torch.tensor(Slerp([0, 1], ends)(c).as_quat())
            found = arc(3 * a.view(1, 1, 2, 2), 3 * b.view(1, 1, 2, 2), c).flatten() / 3
            assert abs((found * wanted).sum()).item() == approx(1, abs=1e-9)
            assert found.norm().item() == approx(1, abs=1e-9)


# eq:shared-noise

X1, X2 = randn(3, 1, 4, 4, dtype=DOUBLE), randn(3, 1, 4, 4, seed=1, dtype=DOUBLE)
NO_V = exact_diffusion_of(Constant(0.0), "cosine", 5, objective="pred_v")


def way_back_from(mix):
    """`interpolate` at t = 1, where E[x_0 | x_1] is √ᾱ_1 x_1 for a network that says v = 0."""

    def interpolate(c):
        kept, noise = NO_V.schedule.exact_alpha_bar[1].item(), randn(3, 1, 4, 4, seed=5).double()
        return (math.sqrt(kept) * mix(c, math.sqrt(kept), math.sqrt(1 - kept), noise)).clamp(-1, 1)

    return interpolate


@exact(
    "eq:shared-noise",
    where="ddpm.editing.interpolate",
    implementation=lambda c: editing.interpolate(NO_V, X1, X2, 1, c, generator=seeded(5)),
    mutants={
        "noise of two": way_back_from(
            lambda c, k, s, z: k * ((1 - c) * X1 + c * X2) + math.hypot(1 - c, c) * s * z
        ),
        "shares exchanged": way_back_from(lambda c, k, s, z: k * (c * X1 + (1 - c) * X2) + s * z),
        "signal for its root": way_back_from(lambda c, k, s, z: k**2 * ((1 - c) * X1 + c * X2) + s * z),
        "no noise": way_back_from(lambda c, k, _s, _z: k * ((1 - c) * X1 + c * X2)),
    },
)
def test_shared_noise(interpolate):
    """Each picture noised by itself, with the numbers of one source, and mixed then."""
    at, noise = torch.ones(3, dtype=torch.long), randn(3, 1, 4, 4, seed=5).double()
    x1, x2 = (NO_V.schedule.q_sample(x, at, noise) for x in (X1, X2))
    for c in (0.0, 0.3, 0.5, 1.0):
        mixed = (1 - c) * x1 + c * x2
        wanted = (NO_V.schedule.exact_alpha_bar[1].sqrt() * mixed).clamp(-1, 1)
        torch.testing.assert_close(interpolate(c), wanted, rtol=0, atol=1e-7)


# eq:kept-share


def kept(rho_of, variance_of):
    def moments(x, m, V, u):
        rho = rho_of(V, u)
        return m + rho * (x - m), variance_of(V, rho)

    return moments


def share(V, u):
    return V / (V + u**2)


@quadrature(
    "eq:kept-share",
    implementation=kept(share, lambda V, rho: V * (1 - rho**2)),
    mutants={
        "u for u²": kept(lambda V, u: V / (V + u), lambda V, rho: V * (1 - rho**2)),
        "what is lost": kept(lambda V, u: 1 - share(V, u), lambda V, rho: V * (1 - rho**2)),
        "noise of the input forgotten": kept(share, lambda V, rho: V * (1 - rho)),
        "variance of the data": kept(share, lambda V, _: V),
        "root of the share": kept(lambda V, u: math.sqrt(share(V, u)), lambda V, rho: V * (1 - rho**2)),
    },
)
def test_kept_share(formula):
    """Bayes' rule on a grid for each noisy y, averaged over y on another."""
    x_0, z = np.linspace(-8, 8, 1601), np.linspace(-6, 6, 301)
    for x, m, V, u in ((1.2, 0.2, 0.5, 0.7), (-0.9, 0.1, 1.1, 0.3), (0.4, -0.2, 0.2, 1.5)):
        y = x + u * z
        weight = stats.norm.pdf(x_0, m, math.sqrt(V)) * stats.norm.pdf(y[:, None], x_0, u)
        posterior = weight / weight.sum(1, keepdims=True)
        out = stats.norm.pdf(z) @ posterior / stats.norm.pdf(z).sum()
        mean = out @ x_0
        assert formula(x, m, V, u) == approx((mean, out @ (x_0 - mean) ** 2), rel=1e-4)


# eq:replacement


def seen_by_the_network(timesteps=12):
    """Mean and standard deviation of known pixels, all 0.6, in x_t for t = T − 1 … 1, by the package."""
    diffusion, seen = diffusion_of(timesteps=timesteps, beta_schedule="cosine"), {}
    diffusion.network.register_forward_pre_hook(lambda _, given: seen.update({int(given[1][0]): given[0]}))
    x, everything = torch.full((20, 1, 32, 32), 0.6), torch.ones(32, 32, dtype=torch.bool)
    out = editing.inpaint(diffusion, x, everything, generator=seeded(0))
    seen[0] = out
    return {t: (seen[t].mean().item(), seen[t].std().item()) for t in range(timesteps)}


def put_back_as(moments, timesteps=12):
    """The same by another rule, a function of t and of √ᾱ and σ."""
    schedule = schedule_64("cosine", timesteps)
    signal, sigma = schedule.exact_alpha_bar.sqrt().tolist(), (1 - schedule.exact_alpha_bar).sqrt().tolist()
    return lambda: {t: moments(t, signal, sigma) for t in range(timesteps)}


@equation(
    "eq:replacement",
    how="Monte Carlo",
    where="ddpm.editing.inpaint",
    error_bar="5 standard errors of 20,480 draws",
    implementation=seen_by_the_network,
    mutants={
        "noise of t": put_back_as(lambda t, k, s: (0.6 * k[t + 1], s[t + 1])),
        "no noise": put_back_as(lambda t, k, _: (0.6 * k[t], 0.0)),
        "clean pixels under noise": put_back_as(lambda t, _, s: (0.6, s[t])),
        "variance for standard deviation": put_back_as(lambda t, k, s: (0.6 * k[t], s[t] ** 2)),
    },
)
def test_replacement(moments):
    """t steps of noise, one after the other, on the known pixels."""
    found, schedule = moments(), schedule_64("cosine", 12)
    mean, variance = 0.6, 0.0
    for t in range(12):
        beta = schedule.beta[t].item()
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        error = 5 * math.sqrt(variance / 20_480) + 1e-6
        assert found[t][0] == approx(mean, abs=error)
        assert found[t][1] == approx(math.sqrt(variance), abs=error / math.sqrt(2))


# eq:linear-posterior

ROOT = randn(4, 4, seed=2, dtype=DOUBLE)
MU, SIGMA = randn(4, seed=3, dtype=DOUBLE), ROOT @ ROOT.T + 0.1 * torch.eye(4, dtype=DOUBLE)
A, Y, NU = randn(2, 4, seed=4, dtype=DOUBLE), torch.tensor([0.4, -1.1], dtype=DOUBLE), 0.3


def posterior_with(gain_of, left=lambda gain: SIGMA - gain @ A @ SIGMA):
    def posterior():
        gain = gain_of()
        return MU + gain @ (Y - A @ MU), left(gain)

    return posterior


def gain_of(noise, prior=SIGMA):
    return prior @ A.T @ (A @ SIGMA @ A.T + noise * torch.eye(2, dtype=DOUBLE)).inverse()


@exact(
    "eq:linear-posterior",
    where="ddpm.gaussians.measured",
    implementation=lambda: measured(MU, SIGMA, A, Y, NU)[:2],
    mutants={
        "standard deviation of the noise": posterior_with(lambda: gain_of(math.sqrt(NU))),
        "noise forgotten": posterior_with(lambda: gain_of(0.0)),
        "prior forgotten in the gain": posterior_with(lambda: gain_of(NU, torch.eye(4, dtype=DOUBLE))),
        "covariance as before": posterior_with(lambda: gain_of(NU), lambda _: SIGMA),
        "covariance added": posterior_with(lambda: gain_of(NU), lambda gain: SIGMA + gain @ A @ SIGMA),
    },
)
def test_linear_posterior(posterior):
    """The maximum of the quadratic log p(x_0) + log p(y | x_0), and its curvature, by autograd."""
    mean, covariance = posterior()

    def log_joint(x):
        prior = torch.distributions.MultivariateNormal(MU, SIGMA).log_prob(x)
        return prior - (Y - A @ x).square().sum() / (2 * NU)

    slope = torch.autograd.functional.jacobian(log_joint, mean)
    curvature = torch.autograd.functional.hessian(log_joint, mean)
    torch.testing.assert_close(slope, torch.zeros(4, dtype=DOUBLE), rtol=0, atol=1e-8)
    torch.testing.assert_close(-curvature @ covariance, torch.eye(4, dtype=DOUBLE), rtol=0, atol=1e-8)


# eq:measured-guess and eq:guess-covariance: two humps on a line

LINE = torch.linspace(-3, 3, 6001, dtype=DOUBLE)
HUMPS = 0.6 * torch.exp(-((LINE + 0.7) ** 2) / 0.08) + 0.4 * torch.exp(-((LINE - 0.5) ** 2) / 0.18)
PLACES = ((0.9, 0.2), (0.6, -0.5), (0.28, 1.1))


def given(x, signal, sigma):
    return HUMPS * torch.exp(-((x - signal * LINE) ** 2) / (2 * sigma**2))


def told_with(factor):
    """The guess with y, from that without and the slope of log p(y | x_t)."""

    def told(place, signal, sigma, look):
        x = torch.tensor(place, dtype=DOUBLE, requires_grad=True)
        weight = given(x, signal, sigma)
        log_p = ((weight * look).sum() / weight.sum()).log()
        slope = torch.autograd.grad(log_p, x, retain_graph=True)[0]
        return ((weight * LINE).sum() / weight.sum() + factor(signal, sigma) * slope).item()

    return told


@quadrature(
    "eq:measured-guess",
    implementation=told_with(lambda signal, sigma: sigma**2 / signal),
    mutants={
        "σ for σ²": told_with(lambda signal, sigma: sigma / signal),
        "sign": told_with(lambda signal, sigma: -(sigma**2) / signal),
        "root forgotten": told_with(lambda signal, sigma: sigma**2 / signal**2),
        "not divided by the signal": told_with(lambda _, sigma: sigma**2),
    },
)
def test_measured_guess(told):
    """The mean of x_0 given both, for a measurement of the third power."""
    look = torch.exp(-((0.2 - LINE**3) ** 2) / (2 * 0.04))
    for signal, place in PLACES:
        weight = given(place, signal, math.sqrt(1 - signal**2)) * look
        mean = ((weight * LINE).sum() / weight.sum()).item()
        assert told(place, signal, math.sqrt(1 - signal**2), look) == approx(mean, rel=1e-6)


def doubt_with(factor):
    def doubt(place, signal, sigma):
        x = torch.tensor(place, dtype=DOUBLE, requires_grad=True)
        weight = given(x, signal, sigma)
        guess = (weight * LINE).sum() / weight.sum()
        return (factor(signal, sigma) * torch.autograd.grad(guess, x)[0]).item()

    return doubt


@quadrature(
    "eq:guess-covariance",
    implementation=doubt_with(lambda signal, sigma: sigma**2 / signal),
    mutants={
        "σ for σ²": doubt_with(lambda signal, sigma: sigma / signal),
        "root forgotten": doubt_with(lambda signal, sigma: sigma**2 / signal**2),
        "not divided by the signal": doubt_with(lambda _, sigma: sigma**2),
        "slope in the scaled state": doubt_with(lambda signal, sigma: sigma**2 * signal),
    },
)
def test_guess_covariance(doubt):
    """The variance of x_0 given x_t, by Bayes' rule on the grid."""
    for signal, place in PLACES:
        sigma = math.sqrt(1 - signal**2)
        weight = given(place, signal, sigma)
        mean = (weight * LINE).sum() / weight.sum()
        variance = ((weight * (LINE - mean) ** 2).sum() / weight.sum()).item()
        assert doubt(place, signal, sigma) == approx(variance, rel=1e-6)


# eq:reconstruction-guidance

ANYTHING = GaussianDenoiser(schedule_64("cosine", 60), 0.0, 1e9)  # data of which nothing is known beforehand
ROWS = torch.linalg.qr(randn(4, 2, seed=6, dtype=DOUBLE))[0].T  # two orthonormal ones


def measure(x):
    return x.flatten(1) @ ROWS.T


def by_package(x_t, t, w):
    guide = ReconstructionGuidance(ANYTHING, measure, Y.expand(len(x_t), 2), variance=NU, scale=w)
    return guide.predict(x_t, full_timesteps(t, x_t)).x0


def by_factor(factor):
    """With another factor, a function of √ᾱ and σ."""

    def guess(x_t, t, w):
        x = x_t.clone().requires_grad_()
        own = ANYTHING.predict(x, full_timesteps(t, x))
        g = torch.autograd.grad((Y - measure(own.x0)).square().sum() / 2, x)[0]
        return (own.x0 - w * factor(own.signal, own.sigma) * g).detach()

    return guess


@exact(
    "eq:reconstruction-guidance",
    where="ddpm.gradient_guidance.ReconstructionGuidance.predict",
    implementation=by_package,
    mutants={
        "sign": by_factor(lambda k, s: -k * s**2 / (s**2 + k**2 * NU)),
        "signal for its root": by_factor(lambda k, s: k**2 * s**2 / (s**2 + k**2 * NU)),
        "noise of the measurement not scaled": by_factor(lambda k, s: k * s**2 / (s**2 + NU)),
        "noise of the measurement forgotten": by_factor(lambda k, _: k),
        "twice the gradient": by_factor(lambda k, s: 2 * k * s**2 / (s**2 + k**2 * NU)),
    },
)
def test_reconstruction_guidance(guess):
    """Two looks at x_0, at x_t/√ᾱ through noise and at y, one after the other; and a straight line in w."""
    x_t = randn(5, 1, 2, 2, seed=7, dtype=DOUBLE)
    for t in (5, 30, 50):
        a = ANYTHING.schedule.exact_alpha_bar[t].item()
        joint_of_both = (1 - a) / a * torch.eye(4, dtype=DOUBLE)
        wanted = measured(x_t.flatten(1) / math.sqrt(a), joint_of_both, ROWS, Y, NU)[0]
        once, twice = (guess(x_t, t, w).flatten(1) for w in (1.0, 2.0))
        torch.testing.assert_close(once, wanted, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(twice - once, once - x_t.flatten(1) / math.sqrt(a), rtol=1e-5, atol=1e-5)


def test_the_conditional_of_a_known_pixel_is_a_measurement_without_noise():
    """eq:linear-posterior in the limit is eq:conditional-gaussian."""
    known = torch.tensor([True, False, True, False])
    mean, covariance = condition(MU, SIGMA, known, Y)
    by_measuring = measured(MU, SIGMA, torch.eye(4, dtype=DOUBLE)[known], Y, 1e-9)
    torch.testing.assert_close(by_measuring[0][~known], mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(by_measuring[1][~known][:, ~known], covariance, rtol=0, atol=1e-6)
