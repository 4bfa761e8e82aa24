"""The equations of chapter 3, schedules and the signal-to-noise ratio, against mpmath, quadrature and composition."""

import math

import mpmath
import numpy as np
import pytest
import torch

from ddpm import cosine_betas, linear_betas, sigmoid_betas
from ddpm.schedule import betas_from_alpha_bar
from tests.equations.ledger import equation, exact
from tests.networks import schedule_64

approx = pytest.approx


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
    schedule = schedule_64()
    with mpmath.workdps(40):
        signal, noise = mpmath.mpf(1), mpmath.mpf(0)
        for t in range(1, 1001):
            beta = mpmath.mpf("0.0001") + mpmath.mpf("0.0199") * (t - 1) / 999
            signal, noise = (1 - beta) * signal, (1 - beta) * noise + beta
            if t in (1, 10, 400, 1000):
                truth = float(mpmath.log(signal / noise))
                assert float(formula(schedule, t)) == approx(truth, rel=1e-9, abs=1e-9)


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
    for betas in (linear_betas(1000), cosine_betas(1000), sigmoid_betas(200)):
        schedule = schedule_64(betas)
        signal, noise = formula(schedule.log_snr[1:])
        assert signal.numpy() == approx(schedule.alpha_bar[1:].numpy(), rel=1e-9)
        assert noise.numpy() == approx(schedule.sigma[1:].square().numpy(), rel=1e-9)


@exact(
    "eq:log-snr-step",
    implementation=lambda beta, noise: math.log(1 + beta / ((1 - beta) * noise)),
    mutants={
        "noise after the step": lambda beta, noise: math.log(
            1 + beta / ((1 - beta) * ((1 - beta) * noise + beta))
        ),
        "shrinking forgotten": lambda beta, noise: math.log(1 + beta / noise),
        "sign": lambda beta, noise: -math.log(1 + beta / ((1 - beta) * noise)),
        "deviation for variance": lambda beta, noise: math.log(1 + beta / ((1 - beta) * math.sqrt(noise))),
    },
)
def test_log_snr_step(formula):
    """The formula takes β_t and σ_{t−1}². Power of signal and noise before and after the step, with 40 digits."""
    with mpmath.workdps(40):
        for beta, noise in (("0.3", "0.2"), ("0.02", "0.9"), ("0.0001", "0.0001")):
            b, n = mpmath.mpf(beta), mpmath.mpf(noise)
            before, after = (1 - n) / n, (1 - b) * (1 - n) / ((1 - b) * n + b)
            assert formula(float(beta), float(noise)) == approx(float(mpmath.log(before / after)), rel=1e-10)


@exact(
    "eq:linear-betas",
    where="ddpm.schedule.linear_betas",
    implementation=linear_betas,
    mutants={
        "not rescaled": lambda T: torch.linspace(1e-4, 0.02, T, dtype=torch.float64),
        "rescaled by T/1000": lambda T: torch.linspace(1e-4, 0.02, T, dtype=torch.float64) * T / 1000,
        "line in the roots": lambda T: (
            1000 / T * torch.linspace(1e-2, 0.02**0.5, T, dtype=torch.float64) ** 2
        ),
        "first step at the second level": lambda T: (
            1000 / T * torch.linspace(1e-4, 0.02, T + 1, dtype=torch.float64)[1:]
        ),
    },
)
def test_linear_betas(formula):
    """Sum 1000 (β_a + β_b)/2 for every T, ends as stated, and equal differences."""
    for timesteps in (25, 200, 1000, 4000):
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
    product = 1.0
    for beta, target in zip(betas[:-1].tolist(), (0.9, 0.5, 0.3), strict=True):
        product *= 1 - beta
        assert product == approx(target, rel=1e-12)
    assert betas[-1].item() == approx(0.999, rel=1e-12)


def table(betas):
    """ᾱ_0 … ᾱ_T of these β as numpy numbers."""
    return schedule_64(betas).alpha_bar.numpy()


def cosine_table(timesteps, *, power=2, offset=0.008, quarter=math.pi / 2):
    time = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64)
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
    """cos² by the double-angle identity, (1 + cos 2φ)/2, with 30 digits."""
    for timesteps in (50, 1000):
        ours = formula(timesteps)
        with mpmath.workdps(30):

            def raised(t, timesteps=timesteps):
                return 1 + mpmath.cos((mpmath.mpf(t) / timesteps + mpmath.mpf("0.008")) / 1.008 * mpmath.pi)

            for t in (1, timesteps // 3, timesteps // 2, timesteps - 1):
                assert ours[t] == approx(float(raised(t) / raised(0)), rel=1e-6)


def sigmoid_table(timesteps, **options):
    return table(sigmoid_betas(timesteps, **options))


def unstretched_sigmoid(timesteps):
    time = torch.linspace(-3, 3, timesteps + 1, dtype=torch.float64)
    return 1 - torch.sigmoid(time).numpy()


@exact(
    "eq:sigmoid-schedule",
    where="ddpm.schedule.sigmoid_betas",
    implementation=sigmoid_table,
    mutants={
        "start and end swapped in size": lambda T: sigmoid_table(T, start=-6.0, end=3.0),
        "temperature of 2": lambda T: sigmoid_table(T, tau=2.0),
        "not stretched to [0, 1]": unstretched_sigmoid,
        "linear in place of logistic": lambda T: np.linspace(1, 0, T + 1),
    },
)
def test_sigmoid_schedule(formula):
    """The logistic curve is half of 1 + tanh(u/2): ᾱ = (1 − tanh(3u/2)/tanh(3/2))/2 for u in [−1, 1]."""
    for timesteps in (50, 1000):
        ours = formula(timesteps)
        for t in (0, 1, timesteps // 4, timesteps // 2, timesteps - 1):
            u = 2 * t / timesteps - 1
            assert ours[t] == approx((1 - math.tanh(1.5 * u) / math.tanh(1.5)) / 2, rel=1e-9)


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
    schedule, rng, side = schedule_64(), np.random.default_rng(0), 1024
    picture = rng.normal(size=(side, side)) + np.linspace(-2, 2, side)
    picture /= math.sqrt((picture**2).mean())
    noise = rng.normal(size=(side, side))

    def blocks(x, b):
        return x.reshape(side // b, b, side // b, b).mean((1, 3))

    for t in (300, 800):
        for b in (2, 8):
            kept = (blocks(picture, b) ** 2).mean()
            powers = (
                schedule.alpha_bar[t].item() * kept,
                schedule.sigma[t].item() ** 2 * (blocks(noise, b) ** 2).mean(),
            )
            bar = math.sqrt(2) * b / side  # relative, of a variance from (side/b)² draws
            assert formula(schedule, t, b, kept) == approx(powers[0] / powers[1], rel=4 * bar)


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
