"""The equations of chapter 12: scores, differential equations, paths, losses in one form, and the density of a flow."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from ddpm import PATHS, GaussianMixtureOracle, flow_betas, flow_bits_per_dim, flow_log_density, reverse_sde
from ddpm.prediction import full_timesteps, x0_from_flow
from ddpm.weighting import noise_level_weight
from tests.equations.ledger import exact, quadrature
from tests.networks import GaussianDenoiser, randn, schedule_64, seeded

approx = pytest.approx
DOUBLE = torch.float64
SCHEDULE = schedule_64("cosine", 1000)


def close(found, wanted, **bounds):
    torch.testing.assert_close(found, wanted, **({"rtol": 1e-6, "atol": 1e-6} | bounds))


# eq:score-matching: data are two points, so that the inner integral is a sum


POINTS, SHARES = np.array([-0.8, 0.5]), np.array([0.3, 0.7])


def gradients(signal, sigma, x):
    """Per point: its share of the density at x, its own score; and the score of all, by the formula of a mixture."""
    densities = SHARES * stats.norm(signal * POINTS, sigma).pdf(x[:, None])
    own = (signal * POINTS - x[:, None]) / sigma**2
    return densities, own, (densities * own).sum(1) / densities.sum(1)


def whole(values, x):
    return np.trapezoid(values.sum(1), x)


@quadrature(
    "eq:score-matching",
    implementation=lambda gap, rest, score, own: gap + rest,  # noqa: ARG005
    mutants={
        "rest taken away": lambda gap, rest, score, own: gap - rest,  # noqa: ARG005
        "rest forgotten": lambda gap, rest, score, own: gap,  # noqa: ARG005
        "power of the score": lambda gap, rest, score, own: gap + score,  # noqa: ARG005
        "power of each gradient": lambda gap, rest, score, own: gap + own,  # noqa: ARG005
    },
)
def test_score_matching(formula):
    """Both sides by quadrature, for a score that is wrong."""
    x = np.linspace(-6, 6, 6001)
    for signal, sigma in ((0.9, 0.4), (0.3, 0.95)):
        densities, own, score = gradients(signal, sigma, x)
        guess = (np.cos(2 * x) - x)[:, None]
        left = whole(densities * (guess - own) ** 2, x)
        gap = whole(densities * (guess - score[:, None]) ** 2, x)
        rest = whole(densities * (own - score[:, None]) ** 2, x)
        powers = (whole(densities * score[:, None] ** 2, x), whole(densities * own**2, x))
        assert formula(gap, rest, *powers) == approx(left, rel=1e-6)


# eq:langevin


@exact(
    "eq:langevin",
    implementation=lambda x, slope, h, xi: x + h / 2 * slope + math.sqrt(h) * xi,
    mutants={
        "whole step": lambda x, slope, h, xi: x + h * slope + math.sqrt(h) * xi,
        "root forgotten": lambda x, slope, h, xi: x + h / 2 * slope + h * xi,
        "downhill": lambda x, slope, h, xi: x - h / 2 * slope + math.sqrt(h) * xi,
        "no noise": lambda x, slope, h, xi: x + h / 2 * slope,  # noqa: ARG005
    },
)
def test_langevin(step):
    """For a Gaussian the step is linear, and its variance at rest that of the density, up to O(h)."""
    for V, h in ((0.3, 1e-3), (2.0, 1e-2)):
        kept = step(1.0, -1 / V, h, 0.0)
        added = step(0.0, 0.0, h, 1.0) ** 2
        assert abs(kept) < 1
        assert added / (1 - kept**2) == approx(V, rel=5e-3)


# eq:forward-sde and eq:fokker-planck


def bar_of(time):
    return math.exp(-(0.2 * time + 3 * time**2))


def beta_of(time):
    return 0.2 + 6 * time


@exact(
    "eq:forward-sde",
    implementation=lambda x, beta: (-0.5 * beta * x, math.sqrt(beta)),
    mutants={
        "half forgotten": lambda x, beta: (-beta * x, math.sqrt(beta)),
        "root forgotten": lambda x, beta: (-0.5 * beta * x, beta),
        "away from 0": lambda x, beta: (0.5 * beta * x, math.sqrt(beta)),
        "no drift": lambda x, beta: (0 * x, math.sqrt(beta)),
    },
)
def test_forward_sde(formula):
    """Mean and variance after many short steps are those of q(x_t | x_0)."""
    mean, variance, steps = 0.8, 0.0, 4000
    for k in range(steps):
        drift, noise = formula(1.0, beta_of(k / steps))
        slope = 1 + drift / steps
        mean, variance = slope * mean, slope**2 * variance + noise**2 / steps
    assert mean == approx(math.sqrt(bar_of(1)) * 0.8, rel=5e-3)
    assert variance == approx(1 - bar_of(1), rel=5e-3)


GRID = torch.linspace(-5, 5, 8001, dtype=DOUBLE)


def d(values):
    return torch.gradient(values, spacing=(GRID,))[0]


def density(time):
    """Of noisy data with two humps."""
    variance = bar_of(time) * 0.05 + 1 - bar_of(time)
    humps = [
        w
        * torch.exp(-((GRID - m * bar_of(time) ** 0.5) ** 2) / (2 * variance))
        / math.sqrt(2 * math.pi * variance)
        for w, m in ((0.4, -0.9), (0.6, 0.7))
    ]
    return sum(humps)


def change(time, short=1e-4):
    return (density(time + short) - density(time - short)) / (2 * short)


@exact(
    "eq:fokker-planck",
    implementation=lambda q, beta: beta / 2 * d(GRID * q) + beta / 2 * d(d(q)),
    mutants={
        "drift outwards": lambda q, beta: -beta / 2 * d(GRID * q) + beta / 2 * d(d(q)),
        "x outside of the derivative": lambda q, beta: beta / 2 * GRID * d(q) + beta / 2 * d(d(q)),
        "whole diffusion": lambda q, beta: beta / 2 * d(GRID * q) + beta * d(d(q)),
        "first derivative only": lambda q, beta: beta / 2 * d(GRID * q) + beta / 2 * d(q),
    },
)
def test_fokker_planck(formula):
    """The change in time of a density that is known, by differences."""
    for time in (0.1, 0.4):
        off = formula(density(time), beta_of(time)) - change(time)
        assert off.abs().max() < 1e-3 * change(time).abs().max()


# eq:reverse-sde


def by_hand(mean_of, noise_of=lambda beta, eta: eta * math.sqrt(beta)):
    """One step written out, with other coefficients."""

    def step(model, x, eta, generator):
        bar, last = model.schedule.exact_alpha_bar.tolist(), model.schedule.timesteps
        beta = math.log(bar[last - 1] / bar[last])
        moved = mean_of(x, model.predict(x, full_timesteps(last, x)).score, beta, eta)
        return moved + noise_of(beta, eta) * torch.randn(x.shape, generator=generator).to(x)

    return step


def package_step(model, x, eta, generator):
    last = model.schedule.timesteps
    chain = reverse_sde(model, x, [last, last - 1, 0], eta=eta, clip_x0=False, generator=generator)
    return next(chain).x


@exact(
    "eq:reverse-sde",
    where="ddpm.flows.reverse_sde",
    implementation=package_step,
    mutants={
        "score once": by_hand(lambda x, s, b, _eta: x + b / 2 * (x + s)),
        "score twice": by_hand(lambda x, s, b, _eta: x + b / 2 * (x + 2 * s)),
        "η for its square": by_hand(lambda x, s, b, eta: x + b / 2 * (x + (1 + eta) * s)),
        "x forgotten": by_hand(lambda x, s, b, eta: x + b / 2 * (1 + eta**2) * s),
        "downhill": by_hand(lambda x, s, b, eta: x + b / 2 * (x - (1 + eta**2) * s)),
        "root of η": by_hand(
            lambda x, s, b, eta: x + b / 2 * (x + (1 + eta**2) * s), lambda b, eta: (eta * b) ** 0.5
        ),
    },
)
def test_reverse_sde(step):
    """One step carries mean and variance of Gaussian data from level to level, up to β², by its responses."""
    for last in (300, 600):
        schedule = schedule_64(schedule_64("linear", 1000).beta[1 : last + 1])
        data = GaussianDenoiser(schedule, 0.4, 0.15)
        (m, v), (n, w) = data.marginal(last), data.marginal(last - 1)
        beta = schedule.beta[last].item()
        for eta in (0.0, 0.5, 1.0, 1.4):
            x = torch.tensor([0.0, 1.0, 0.0], dtype=DOUBLE).view(3, 1, 1, 1)
            noise = torch.randn(x.shape, generator=seeded(1)).double().flatten()
            out = step(data, x, eta, seeded(1)).flatten()
            # Equal places differ by their noise alone.
            std = (out[0] - out[2]) / (noise[0] - noise[2])
            start, slope = out[0] - std * noise[0], out[1] - out[0] - std * (noise[1] - noise[0])
            assert float(start + slope * m) == approx(n, abs=20 * beta**2)
            assert float(slope**2 * v + std**2) == approx(w, abs=20 * beta**2)


# eq:log-snr-flow


@exact(
    "eq:log-snr-flow",
    implementation=lambda signal, sigma, v: -signal * sigma * v / 2,
    mutants={
        "half forgotten": lambda signal, sigma, v: -signal * sigma * v,
        "towards the noise": lambda signal, sigma, v: signal * sigma * v / 2,
        "signal forgotten": lambda signal, sigma, v: -sigma * v / 2,  # noqa: ARG005
        "variance for its root": lambda signal, sigma, v: -signal * sigma**2 * v / 2,
    },
)
def test_log_snr_flow(formula):
    """By differences of the exact curve of a Gaussian, mean + constant × standard deviation."""
    m, V = 0.4, 0.2

    def curve(lam):
        bar = 1 / (1 + math.exp(-lam))
        return math.sqrt(bar) * m + 1.3 * math.sqrt(bar * V + 1 - bar)

    for lam in (-4.0, 0.3, 5.0):
        bar = 1 / (1 + math.exp(-lam))
        signal, sigma = math.sqrt(bar), math.sqrt(1 - bar)
        x_0 = m + signal * V / (bar * V + 1 - bar) * (curve(lam) - signal * m)
        v = signal * (curve(lam) - signal * x_0) / sigma - sigma * x_0
        rise = (curve(lam + 1e-4) - curve(lam - 1e-4)) / 2e-4
        assert formula(signal, sigma, v) == approx(rise, rel=1e-5)


# eq:path and eq:path-velocity


PLACES = [(name, t) for name in PATHS for t in (1, 300, 700, 999)]


@exact(
    "eq:path",
    where="ddpm.flows.Place.scale",
    implementation=lambda place: place.scale,
    mutants={
        "root forgotten": lambda place: place.signal**2 + place.sigma**2,
        "sum": lambda place: place.signal + place.sigma,
        "upside down": lambda place: 1 / torch.hypot(place.signal, place.sigma),
        "picture alone": lambda place: place.signal,
    },
)
def test_path(scale):
    """For a picture and its noise: z over x_t, at every place of every path."""
    x_0, noise = 0.3, -1.2
    for name, t in PLACES:
        place, bar = PATHS[name].at(SCHEDULE, t), SCHEDULE.exact_alpha_bar[t]
        z = place.signal * x_0 + place.sigma * noise
        close(scale(place), z / (bar.sqrt() * x_0 + (1 - bar).sqrt() * noise))


def gaussian_curve(schedule, place, t):
    """z_t on an exact curve of Gaussian data, {mean} + 1.3 standard deviations of x_t."""
    mean, variance = GaussianDenoiser(schedule, 0.4, 0.2).marginal(t)
    return place.scale * (mean + 1.3 * variance**0.5)


def mixed(of_x0, of_noise):
    return lambda place, guess: of_x0(place) * guess.x0 + of_noise(place) * guess.noise


@exact(
    "eq:path-velocity",
    where="ddpm.flows.Place.velocity",
    implementation=lambda place, guess: place.velocity(guess),
    mutants={
        "slopes exchanged": mixed(lambda p: p.sigma_slope, lambda p: p.signal_slope),
        "factors for slopes": mixed(lambda p: p.signal, lambda p: p.sigma),
        "sign of the picture": mixed(lambda p: -p.signal_slope, lambda p: p.sigma_slope),
        "noise alone": mixed(lambda p: 0 * p.signal_slope, lambda p: p.sigma_slope),
    },
)
def test_path_velocity(velocity):
    """By differences of the exact curve of a Gaussian, over neighbouring levels of a fine schedule."""
    schedule = schedule_64("flow", 8000)
    data = GaussianDenoiser(schedule, 0.4, 0.2)
    for name, t in ((name, t) for name in PATHS for t in (1500, 4000, 6500)):
        before, place, after = (PATHS[name].at(schedule, s) for s in (t - 1, t, t + 1))
        rise = gaussian_curve(schedule, after, t + 1) - gaussian_curve(schedule, before, t - 1)
        x = gaussian_curve(schedule, place, t) / place.scale
        found = velocity(place, data.predict(x, full_timesteps(t, x)))
        close(found, rise / (after.time - before.time), rtol=1e-4, atol=1e-4)


# eq:flow-velocity and eq:flow-schedule


@exact(
    "eq:flow-velocity",
    where="ddpm.prediction.x0_from_flow",
    implementation=x0_from_flow,
    mutants={
        "sign": lambda x, f, a, b: (x + b * f) / (a + b),
        "divisor of ε": lambda x, f, a, b: (x - b * f) / a,
        "as if v": lambda x, f, a, b: a * x - b * f,
        "signal for noise": lambda x, f, a, b: (x - a * f) / (a + b),
    },
)
def test_flow_velocity(formula):
    """For a picture and its noise that are known."""
    x_0, noise = randn(2, 9, dtype=DOUBLE)
    for angle in (0.01, 0.7, 1.57):
        a, b = torch.tensor(math.cos(angle)).double(), torch.tensor(math.sin(angle)).double()
        close(formula(a * x_0 + b * noise, noise - x_0, a, b), x_0)


def curve_of(alpha_bar):
    def betas(T):
        curve = torch.tensor([alpha_bar(t / T) for t in range(T + 1)], dtype=DOUBLE)
        return (1 - curve[1:] / curve[:-1]).clamp(max=0.999)

    return betas


@exact(
    "eq:flow-schedule",
    where="ddpm.schedule.flow_betas",
    implementation=flow_betas,
    mutants={
        "squares dropped": curve_of(lambda tau: 1 - tau),
        "square of the picture alone": curve_of(lambda tau: (1 - tau) ** 2),
        "cosine": curve_of(lambda tau: math.cos(tau * math.pi / 2) ** 2),
        "square of τ for its complement": curve_of(lambda tau: 1 - tau**2),
    },
)
def test_flow_schedule(betas):
    """σ/(√ᾱ + σ), from the product of 1 − β, is t/T."""
    bar = np.cumprod(1 - betas(50).numpy())[:-1]
    tau = np.sqrt(1 - bar) / (np.sqrt(bar) + np.sqrt(1 - bar))
    assert tau == approx(np.arange(1, 50) / 50, rel=1e-9)


# eq:edm-denoiser and eq:edm-target


@exact(
    "eq:edm-denoiser",
    implementation=lambda y, F, u, S: S**2 / (u**2 + S**2) * y + u * S / math.sqrt(u**2 + S**2) * F,
    mutants={
        "skip and noise exchanged": lambda y, F, u, S: (
            u**2 / (u**2 + S**2) * y + u * S / math.sqrt(u**2 + S**2) * F
        ),
        "root forgotten": lambda y, F, u, S: S**2 / (u**2 + S**2) * y + u * S / (u**2 + S**2) * F,
        "F alone": lambda y, F, u, S: u * S / math.sqrt(u**2 + S**2) * F,  # noqa: ARG005
        "S forgotten": lambda y, F, u, S: S**2 / (u**2 + S**2) * y + u / math.sqrt(u**2 + S**2) * F,
    },
)
def test_edm_denoiser(formula):
    """The best linear guess of Gaussian data is the first part; what is left has the size of the second."""
    for u, S in ((0.1, 0.5), (2.0, 0.5), (5.0, 1.5)):
        # E[x_0 | y] of N(0, S²), and the standard deviation that is left of x_0.
        gain, left = S**2 / (S**2 + u**2), math.sqrt(S**2 * u**2 / (S**2 + u**2))
        assert formula(0.7, 0.0, u, S) == approx(0.7 * gain)
        assert formula(0.7, 1.0, u, S) - formula(0.7, 0.0, u, S) == approx(left)


@exact(
    "eq:edm-target",
    implementation=lambda x0, noise, u, S: (u * x0 / S - S * noise) / math.sqrt(u**2 + S**2),
    mutants={
        "sign": lambda x0, noise, u, S: (u * x0 / S + S * noise) / math.sqrt(u**2 + S**2),
        "S forgotten": lambda x0, noise, u, S: (u * x0 - S * noise) / math.sqrt(u**2 + S**2),
        "root forgotten": lambda x0, noise, u, S: (u * x0 / S - S * noise) / (u**2 + S**2),
        "v turned round": lambda x0, noise, u, S: (S * noise - u * x0 / S) / math.sqrt(u**2 + S**2),
    },
)
def test_edm_target(formula):
    """(x_0 − c_skip y) / c_out, with the factors of Karras et al. 2022, table 1."""
    for x0, noise, u, S in itertools.product((0.7, -0.2), (-1.5, 0.4), (0.02, 1.0, 30.0), (0.5, 1.0)):
        c_skip, c_out = S**2 / (u**2 + S**2), u * S / math.sqrt(u**2 + S**2)
        assert formula(x0, noise, u, S) == approx((x0 - c_skip * (x0 + u * noise)) / c_out, rel=1e-9)


# eq:noise-level-weight


def weights(change_of):
    return lambda schedule, objective: change_of(noise_level_weight(schedule, objective), schedule)


@quadrature(
    "eq:noise-level-weight",
    where="ddpm.weighting.noise_level_weight",
    implementation=noise_level_weight,
    mutants={
        "half": weights(lambda w, _: w / 2),
        "density forgotten": weights(lambda w, s: w * (s.timesteps * -torch.gradient(s.log_snr[1:])[0])),
        "density upside down": weights(
            lambda w, s: w * (s.timesteps * -torch.gradient(s.log_snr[1:])[0]) ** 2
        ),
        "error of x_0": weights(lambda w, s: w * s.snr[1:]),
    },
)
def test_noise_level_weight(formula):
    """½ ∫ w(λ) error dλ against the mean of the loss over t, for an error curve of ε."""
    for name, objective in itertools.product(("flow", "log-snr"), ("pred_v", "pred_flow")):
        schedule = schedule_64(name, 4000)
        lam, snr = schedule.exact_log_snr[1:], schedule.exact_log_snr[1:].exp()
        error = torch.exp(-((lam - 1) ** 2) / 4)
        of_output = {"pred_v": 1 + 1 / snr, "pred_flow": (1 + snr**-0.5) ** 2}[objective]
        mean = (of_output * error).mean()
        integral = -torch.trapezoid(formula(schedule, objective) * error, lam) / 2
        assert float(integral) == approx(float(mean), rel=1e-3)


# eq:flow-likelihood


PLANE = GaussianMixtureOracle(SCHEDULE, [[-0.4, 0.1], [0.5, -0.2]], [0.05, 0.03], [0.6, 0.4])


def log_density(sign=1.0, stretched=1.0, prior=1.0):
    """The parts of the package's answer, put together otherwise."""

    def formula(x_1, steps):
        found = flow_log_density(PLANE, x_1, steps, spacing="log-snr")
        of_snow = torch.distributions.Normal(0, 1).log_prob(found.snow).flatten(1).sum(1)
        c_1, c_T = (PATHS["flow"].at(SCHEDULE, t).scale.item() for t in (1, 1000))
        scale = 2 * math.log(c_1 / c_T)
        integral = found.log_density - of_snow - scale
        return prior * of_snow + sign * integral + stretched * scale

    return formula


@exact(
    "eq:flow-likelihood",
    where="ddpm.flow_likelihood.flow_log_density",
    implementation=lambda x_1, steps: flow_log_density(PLANE, x_1, steps, spacing="log-snr").log_density,
    mutants={
        "divergence taken away": log_density(sign=-1),
        "divergence forgotten": log_density(sign=0),
        "scale forgotten": log_density(stretched=0),
        "scale upside down": log_density(stretched=-1),
        "snow forgotten": log_density(prior=0),
    },
)
def test_flow_likelihood(formula):
    """The density of noisy humps is known."""
    x_0 = PLANE.sample_data(12, seeded(1))
    first = full_timesteps(1, x_0)
    x_1 = SCHEDULE.q_sample(x_0, first, randn(*x_0.shape, seed=2, dtype=DOUBLE))
    close(formula(x_1, 250), PLANE.log_density(x_1, first), rtol=0, atol=4e-3)


# eq:hutchinson


@exact(
    "eq:hutchinson",
    implementation=lambda r, J: r @ J @ r,
    mutants={
        "without the second sign": lambda r, J: (r @ J).sum(),
        "absolute values": lambda r, J: abs(r) @ J @ abs(r),
        "mean for the sum": lambda r, J: r @ J @ r / len(r),
        "length of Jr": lambda r, J: (J @ r) @ (J @ r),
    },
)
def test_hutchinson(formula):
    """The mean over all signs, one after the other."""
    J = randn(4, 4, seed=3, dtype=DOUBLE).numpy()
    signs = [np.array(r) for r in itertools.product((-1.0, 1.0), repeat=4)]
    assert np.mean([formula(r, J) for r in signs]) == approx(np.trace(J))


# eq:flow-bound


def bound(decoder=1.0, entropy=1.0, density_=1.0):
    """Its parts for Gaussian data of one pixel, weighted, in bits: −log p(x_0 | x_1), log q(x_1 | x_0), −log p(x_1)."""

    def formula(model, x0, generator):
        whole_ = flow_bits_per_dim(model, x0, 300, clip_x0=False, generator=generator).mean.item()
        bar = SCHEDULE.exact_alpha_bar[1].item()
        noise = torch.randn(x0.shape, generator=generator.manual_seed(1)).double()
        x_1 = bar**0.5 * x0 + (1 - bar) ** 0.5 * noise
        mean, variance = model.marginal(1)
        of_noise = torch.distributions.Normal(0, (1 - bar) ** 0.5).log_prob(x_1 - bar**0.5 * x0).mean().item()
        of_flow = torch.distributions.Normal(mean, variance**0.5).log_prob(x_1).mean().item()
        pixels = whole_ * math.log(2) - of_noise + of_flow
        return (decoder * pixels + entropy * of_noise - density_ * of_flow) / math.log(2)

    return formula


@exact(
    "eq:flow-bound",
    where="ddpm.flow_likelihood.flow_bits_per_dim",
    implementation=lambda model, x0, generator: flow_bits_per_dim(
        model, x0, 300, clip_x0=False, generator=generator
    ).mean.item(),
    mutants={
        "pixels forgotten": bound(decoder=0),
        "log q forgotten": bound(entropy=0),
        "log q taken away": bound(entropy=-1),
        "density forgotten": bound(density_=0),
    },
)
def test_flow_bound(formula):
    """Above the bits of the grey levels under the data's own density by the gap, which is known for these Gaussians."""
    model = GaussianDenoiser(SCHEDULE, 0.1, 0.09)
    x0 = (
        (0.1 + 0.3 * randn(3000, 1, 1, 1, seed=4, dtype=DOUBLE)).clamp(-1, 1) * 127.5 + 127.5
    ).round() / 127.5 - 1
    found = formula(model, x0, seeded(1))
    # Decoder and density together: x_0 = mean of the guess + normal noise, cut to grey levels, given x_1.
    bar, spread = SCHEDULE.exact_alpha_bar[1].item(), SCHEDULE.posterior_variance[2].item()
    variance = model.marginal(1)[1]
    gain = model.gain(1)
    total = gain**2 * variance + spread
    upper, lower = x0 + 1 / 255, x0 - 1 / 255
    normal = torch.distributions.Normal(0.1, total**0.5)
    price = -(normal.cdf(upper) - normal.cdf(lower)).log().mean().item() / math.log(2)
    # q(x_1 | x_0) against p(x_1 | x_0): the variance of the latter from the precisions of its two factors.
    posterior = 1 / (1 / variance + gain**2 / (spread + (2 / 255) ** 2 / 12))
    ratio = (1 - bar) / posterior
    gap = 0.5 * (ratio - 1 - math.log(ratio)) / math.log(2)
    assert found == approx(price + gap, abs=0.1)
