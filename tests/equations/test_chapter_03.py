"""The equations of chapter 3, schedules and the signal-to-noise ratio, against mpmath, quadrature and composition."""

import math
from functools import partial
from itertools import product

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats
from scipy.stats import wasserstein_distance

from ddpm import NoiseSchedule, cosine_betas, linear_betas, sigmoid_betas
from ddpm.likelihood import prior_term
from ddpm.schedule import betas_from_alpha_bar
from tests.equations.ledger import equation, exact, quadrature
from tests.networks import Constant, exact_diffusion_of, pixel, schedule_64

approx = pytest.approx
PAPER = schedule_64("linear", 1000)


SHORT = NoiseSchedule(torch.linspace(1e-4, 0.02, 200), dtype=torch.float64)  # stops too early


def exact_betas():
    """β_1 … β_1000 of the paper, to as many digits as mpmath works with."""
    return [mpmath.mpf("0.0001") + mpmath.mpf("0.0199") * k / 999 for k in range(1000)]


@exact(
    "eq:log-snr",
    where="ddpm.schedule.NoiseSchedule.log_snr",
    implementation=lambda schedule, t: schedule.log_snr[t],
    mutants={
        "amplitudes for powers": lambda schedule, t: schedule.log_snr[t] / 2,
        "noise over signal": lambda schedule, t: -schedule.log_snr[t],
        "noise forgotten": lambda schedule, t: schedule.alpha_bar[t].log(),
        "t off by one": lambda schedule, t: schedule.log_snr[t - 1],
    },
)
def test_log_snr(formula):
    """Power of the signal against power of the noise, the chain composed step by step with 40 digits."""
    with mpmath.workdps(40):
        signal, noise = mpmath.mpf(1), mpmath.mpf(0)
        for t, beta in enumerate(exact_betas(), start=1):
            signal, noise = (1 - beta) * signal, (1 - beta) * noise + beta
            if t in (1, 10, 400, 1000):
                truth = float(mpmath.log(signal / noise))
                assert float(formula(PAPER, t)) == approx(truth, rel=1e-9, abs=1e-9)


@exact(
    "eq:alpha-bar-from-log-snr",
    implementation=lambda lam: (torch.sigmoid(lam), torch.sigmoid(-lam)),
    mutants={
        "sign of λ": lambda lam: (torch.sigmoid(-lam), torch.sigmoid(lam)),
        "amplitude for power": lambda lam: (torch.sigmoid(lam / 2), torch.sigmoid(-lam / 2)),
        "exponential for sigmoid": lambda lam: (torch.exp(lam), 1 - torch.exp(lam)),
    },
)
def test_alpha_bar_from_log_snr(formula):
    """From the tables of three schedules to log SNR and back."""
    for schedule in (PAPER, schedule_64("cosine", 1000), schedule_64("sigmoid", 200)):
        signal, noise = formula(schedule.log_snr[1:])
        assert signal.numpy() == approx(schedule.alpha_bar[1:].numpy(), rel=1e-9)
        assert noise.numpy() == approx(schedule.sigma[1:].square().numpy(), rel=1e-9)


line = partial(torch.linspace, dtype=torch.float64)


@exact(
    "eq:linear-betas",
    where="ddpm.schedule.linear_betas",
    implementation=linear_betas,
    mutants={
        "not rescaled": lambda T: line(1e-4, 0.02, T),
        "rescaled by T/1000": lambda T: line(1e-4, 0.02, T) * T / 1000,
        "line in the roots": lambda T: 1000 / T * line(1e-2, 0.02**0.5, T) ** 2,
        "first step at the second level": lambda T: 1000 / T * line(1e-4, 0.02, T + 1)[1:],
    },
)
def test_linear_betas(formula):
    """Sum 1000 (β_a + β_b)/2 for every T, ends as stated, and equal differences."""
    for timesteps in (21, 25, 50, 200, 1000, 4000):
        betas = formula(timesteps).numpy()
        assert len(betas) == timesteps
        assert betas.sum() == approx(1000 * (1e-4 + 0.02) / 2, rel=1e-10)
        assert betas[0] == approx(0.1 / timesteps, rel=1e-10)
        assert betas[-1] == approx(20 / timesteps, rel=1e-10)
        assert np.diff(betas) == approx(np.full(timesteps - 1, 19.9 / timesteps / (timesteps - 1)), rel=1e-6)


@exact(
    "eq:betas-from-curve",
    where="ddpm.schedule.betas_from_alpha_bar",
    implementation=lambda curve: betas_from_alpha_bar(curve, 0.999),
    mutants={
        "ratio upside down": lambda curve: (1 - curve[:-1] / curve[1:].clamp(min=1e-9)).clamp(-9, 0.999),
        "difference for ratio": lambda curve: (curve[:-1] - curve[1:]).clamp(max=0.999),
        "no cap": lambda curve: 1 - curve[1:] / curve[:-1],
        "one minus forgotten": lambda curve: (curve[1:] / curve[:-1]).clamp(max=0.999),
    },
)
def test_betas_from_curve(formula):
    """The product of 1 − β is the curve again, and a curve that ends at zero ends at β = 0.999."""
    curve = torch.tensor([1.0, 0.9, 0.5, 0.3, 0.0], dtype=torch.float64)
    betas = formula(curve)
    left = 1.0
    for beta, target in zip(betas[:-1].tolist(), (0.9, 0.5, 0.3), strict=True):
        left *= 1 - beta
        assert left == approx(target, rel=1e-12)
    assert betas[-1].item() == approx(0.999, rel=1e-12)


def table(betas):
    """ᾱ_0 … ᾱ_T of these β as numpy numbers."""
    return NoiseSchedule(betas, dtype=torch.float64).alpha_bar.numpy()


def cosine_table(timesteps, *, power=2, offset=0.008, quarter=math.pi / 2):
    time = line(0, 1, timesteps + 1)
    curve = torch.cos((time + offset) / (1 + offset) * quarter).abs() ** power
    return table(betas_from_alpha_bar(curve, 0.999))


@exact(
    "eq:cosine-schedule",
    where="ddpm.schedule.cosine_betas",
    implementation=lambda T: table(cosine_betas(T)),
    mutants={
        "square forgotten": lambda T: cosine_table(T, power=1),
        "offset forgotten": lambda T: cosine_table(T, offset=0.0),
        "π/3 for π/2": lambda T: cosine_table(T, quarter=math.pi / 3),
    },
)
def test_cosine_schedule(formula):
    """cos² by the double-angle identity, (1 + cos 2φ)/2, with 30 digits; the last β is capped at 0.999."""
    for T in (1, 2, 10, 50, 1000, 4000):
        ours = formula(T)
        with mpmath.workdps(30):
            angles = [(mpmath.mpf(t) / T + mpmath.mpf("0.008")) / mpmath.mpf("1.008") for t in range(T)]
            raised = [1 + mpmath.cos(angle * mpmath.pi) for angle in angles]
            for t in (0, T // 3, T // 2, T - 1):
                assert ours[t] == approx(float(raised[t] / raised[0]), rel=1e-9)
        assert ours[T] == approx(0.001 * ours[T - 1], rel=1e-9)


def sigmoid_table(timesteps, **options):
    return table(sigmoid_betas(timesteps, **options))


def unstretched_sigmoid(timesteps):
    time = line(-3, 3, timesteps + 1)
    return 1 - torch.sigmoid(time).numpy()


@exact(
    "eq:sigmoid-schedule",
    where="ddpm.schedule.sigmoid_betas",
    implementation=sigmoid_table,
    mutants={
        "start and end swapped in size": lambda T: sigmoid_table(T, start=-6.0, end=3.0),
        "τ in the wrong place": lambda T: sigmoid_table(T, tau=2.0),
        "not stretched to [0, 1]": unstretched_sigmoid,
        "linear in place of logistic": lambda T: np.linspace(1, 0, T + 1),
    },
)
def test_sigmoid_schedule(formula):
    """The logistic curve is half of 1 + tanh(u/2): ᾱ = (1 − tanh(3u/2)/tanh(3/2))/2 for u in [−1, 1]."""
    for T in (1, 2, 10, 50, 1000, 4000):
        ours = formula(T)
        for t in (0, T // 4, T // 2, T - 1):
            assert ours[t] == approx((1 - math.tanh(3 * t / T - 1.5) / math.tanh(1.5)) / 2, rel=1e-9)
        assert ours[T] == approx(0.001 * ours[T - 1], rel=1e-9)


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
    x0 = torch.tensor([[-1.0, -0.3], [0.2, 1.0]], dtype=torch.float64)
    grid = np.linspace(-12, 12, 48_001)
    signal, noise = SHORT.sqrt_alpha_bar[-1].item(), SHORT.sigma[-1].item()
    for value, ours in zip(x0.flatten().tolist(), formula(SHORT, x0).flatten().tolist(), strict=True):
        q = stats.norm(signal * value, noise)
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
    alpha_bar = SHORT.alpha_bar.tolist()
    for m, variance in ((0.7, 0.64), (-0.4, 1.0), (1.0, 0.1)):
        mean = 0.0
        for t in range(200, 0, -1):
            now, before = alpha_bar[t], alpha_bar[t - 1]
            spread_now, spread_before = (a * variance + 1 - a for a in (now, before))
            slope = math.sqrt(now / before) * spread_before / spread_now
            mean = math.sqrt(before) * m + slope * (mean - math.sqrt(now) * m)
        assert float(formula(alpha_bar[-1], m, variance)) == approx(mean, rel=1e-9)


WIDE = np.linspace(-20, 20, 400_001)


def area_between(p, q, power=1.0):
    return np.trapezoid(np.abs(p.cdf(WIDE) - q.cdf(WIDE)) ** power, WIDE)


@exact(
    "eq:wasserstein",
    implementation=area_between,
    mutants={
        "area squared": lambda p, q: area_between(p, q, power=2.0),
        "densities for distribution functions": lambda p, q: np.trapezoid(
            np.abs(p.pdf(WIDE) - q.pdf(WIDE)), WIDE
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


def x0_error(t, error):
    """How far ddpm's x_0 moves when the network's noise moves by `error`."""
    models = [
        exact_diffusion_of(Constant(noise), "linear", 1000, image_size=1) for noise in (0.2, 0.2 + error)
    ]
    before, after = (model.predict(pixel(0.5), torch.tensor([t])).x0.item() for model in models)
    return after - before


@exact(
    "eq:noise-error-amplified",
    implementation=x0_error,
    mutants={
        "sign": lambda t, error: -x0_error(t, error),
        "SNR for its root": lambda t, error: -error / PAPER.snr[t].item(),
        "not amplified (as with v)": lambda t, error: -error * PAPER.sigma[t].item(),
    },
)
def test_noise_error_amplified(formula):
    """Two noises that explain the same x_t: the pictures that go with them, found by solving with mpmath."""
    for t in (1, 300, 1000):
        with mpmath.workdps(30):
            alpha_bar = mpmath.fprod(1 - beta for beta in exact_betas()[:t])
            signal, noise = mpmath.sqrt(alpha_bar), mpmath.sqrt(1 - alpha_bar)
            before, after = ((mpmath.mpf("0.5") - noise * mpmath.mpf(e)) / signal for e in ("0.2", "0.21"))
        assert formula(t, 0.01) == approx(float(after - before), rel=1e-6)


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
    for schedule in (SHORT, PAPER, NoiseSchedule(torch.full((50,), 0.02), dtype=torch.float64)):
        root = schedule.sqrt_alpha_bar[1:]
        straight = np.polynomial.Polynomial.fit([root[0].item(), root[-1].item()], [root[0].item(), 0.0], 1)
        assert formula(root).numpy() == approx(straight(root.numpy()), abs=1e-10)


@equation(
    "eq:block-average-snr",
    how="Monte Carlo",
    where=None,
    error_bar="4 standard errors of the power of (1024/b)² draws",
    implementation=lambda schedule, t, b, kept: b**2 * kept * schedule.snr[t].item(),
    mutants={
        "b for b²": lambda schedule, t, b, kept: b * kept * schedule.snr[t].item(),
        "power of the average forgotten": lambda schedule, t, b, kept: b**2 * schedule.snr[t].item(),  # noqa: ARG005
        "noise averaged like a constant": lambda schedule, t, b, kept: kept * schedule.snr[t].item(),  # noqa: ARG005
        "b² divides": lambda schedule, t, b, kept: kept / b**2 * schedule.snr[t].item(),
    },
)
def test_block_average_snr(formula):
    """A random picture with a slope, averaged in blocks; 4 standard errors of the noise's measured power."""
    rng, side = np.random.default_rng(0), 1024
    picture = rng.normal(size=(side, side)) + np.linspace(-2, 2, side)
    picture /= math.sqrt((picture**2).mean())
    noise = rng.normal(size=(side, side))

    def blocks(x, b):
        return x.reshape(side // b, b, side // b, b).mean((1, 3))

    for t, b in product((300, 800), (2, 8)):
        kept, left = ((blocks(x, b) ** 2).mean() for x in (picture, noise))
        ratio = PAPER.alpha_bar[t].item() * kept / (PAPER.sigma[t].item() ** 2 * left)
        bar = math.sqrt(2) * b / side  # relative, of a variance from (side/b)² draws
        assert formula(PAPER, t, b, kept) == approx(ratio, rel=4 * bar)


@exact(
    "eq:resolution-shift",
    implementation=lambda lam, b: torch.sigmoid(lam - 2 * math.log(b)).item(),
    mutants={
        "log b for 2 log b": lambda lam, b: torch.sigmoid(lam - math.log(b)).item(),
        "raised": lambda lam, b: torch.sigmoid(lam + 2 * math.log(b)).item(),
        "b² for its logarithm": lambda lam, b: torch.sigmoid(lam - b**2).item(),
    },
)
def test_resolution_shift(formula):
    """Noise of a b × b block by composition of covariances: its mean has the small picture's SNR again."""
    for lam in (-3.0, 0.5, 4.0):
        for b in (2, 4, 16):
            kept = formula(torch.tensor(lam, dtype=torch.float64), b)
            average = np.full(b * b, 1 / b**2)
            noise = average @ (np.eye(b * b) * (1 - kept)) @ average
            assert math.log(kept / noise) == approx(lam, abs=1e-9)
