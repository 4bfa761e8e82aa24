"""The equations of chapter 8, sampling: against Bayes, quadrature, kept marginals, and exact curves."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import solve_ivp

from ddpm import NoiseSchedule, ddim, dpm_solver_pp, encode, heun, timestep_grid
from ddpm.gaussians import product
from ddpm.reverse_process import learned_log_variance
from ddpm.samplers import Walk
from ddpm.schedule import log_snr_betas
from tests.equations.ledger import equation, exact, quadrature
from tests.networks import GaussianDenoiser, last_of, randn, schedule_64, seeded

approx = pytest.approx


# eq:learned-variance


@exact(
    "eq:learned-variance",
    where="ddpm.reverse_process.learned_log_variance",
    implementation=learned_log_variance,
    mutants={
        "ends exchanged": lambda schedule, t, rho: learned_log_variance(schedule, t, -rho),
        "variances mixed, not logarithms": lambda schedule, t, rho: (
            (1 + rho) / 2 * schedule.at("beta", t, rho)
            + (1 - rho) / 2 * schedule.at("posterior_variance", t, rho)
        ).log(),
        "weights not halved": lambda schedule, t, rho: 2 * learned_log_variance(schedule, t, rho),
        "scale from 0 to 1": lambda schedule, t, rho: learned_log_variance(schedule, t, 2 * rho - 1),
    },
)
def test_learned_variance(formula):
    """Ratios of variances: at −1 and 1 the ends, and equal steps of ρ multiply by equal factors."""
    schedule = schedule_64("cosine", 100)
    t = torch.tensor([2, 30, 99])
    rho = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]).double().view(1, 5, 1, 1).expand(3, -1, 1, 1)
    variance = formula(schedule, t, rho).exp().view(3, 5)
    alpha_bar = torch.cumprod(schedule.alpha, 0)
    small = (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]) * (1 - alpha_bar[t] / alpha_bar[t - 1])
    assert variance[:, 0].tolist() == approx(small.tolist(), rel=1e-9)
    assert variance[:, -1].tolist() == approx((1 - alpha_bar[t] / alpha_bar[t - 1]).tolist(), rel=1e-9)
    factors = variance[:, 1:] / variance[:, :-1]
    assert factors.flatten().tolist() == approx(factors[:, :1].expand(-1, 4).flatten().tolist(), rel=1e-9)


# eq:respaced-betas


def respaced(schedule, tau):
    alpha_bar = schedule.exact_alpha_bar
    return [float(1 - alpha_bar[now] / alpha_bar[before]) for before, now in pairwise(tau)]


@exact(
    "eq:respaced-betas",
    implementation=respaced,
    mutants={
        "the β of the timesteps visited": lambda schedule, tau: schedule.beta[tau[1:]].tolist(),
        "the sum of the β passed over": lambda schedule, tau: [
            float(schedule.beta[before + 1 : now + 1].sum()) for before, now in pairwise(tau)
        ],
        "root of the ratio": lambda schedule, tau: [
            1 - math.sqrt(1 - beta) for beta in respaced(schedule, tau)
        ],
        "ᾱ of the later timestep alone": lambda schedule, tau: [
            1 - float(schedule.exact_alpha_bar[now]) for now in tau[1:]
        ],
    },
)
def test_respaced_betas(formula):
    """Short steps composed one after the other have the moments of the long chain at the timesteps they meet."""
    for name in ("linear", "cosine"):
        schedule = schedule_64(name, 200)
        tau = [0, 1, 5, 40, 41, 120, 200]
        betas, signal, variance = formula(schedule, tau), 1.0, 0.0
        long_signal, long_variance, met = 1.0, 0.0, {}
        for t in range(1, 201):
            beta = schedule.beta[t].item()
            long_signal *= math.sqrt(1 - beta)
            long_variance = (1 - beta) * long_variance + beta
            met[t] = (long_signal, long_variance)
        for beta, now in zip(betas, tau[1:], strict=True):
            assert beta < 1
            signal, variance = math.sqrt(1 - beta) * signal, (1 - beta) * variance + beta
            assert (signal, variance) == approx(met[now], rel=1e-9)


# eq:ddim-family, eq:ddim-step and eq:ddim-eta: one step of ddpm's from T to s, as factors

CASES = [(name, s, eta) for name in ("linear", "cosine") for s in (1, 20, 59) for eta in (0.0, 0.4, 1.0)]


def step_factors(name, s, eta):
    """The factors of x_T, x̂_0 and z in x_s, solved from steps of `ddim` on data of one picture."""
    schedule, x_T = schedule_64(name, 60), randn(40, 1, 1, 1).double()
    z = torch.randn(x_T.shape, generator=seeded(1)).double()
    rows, out = [], []
    for picture in (0.6, -0.2):
        exact_model = GaussianDenoiser(schedule, picture, 0.0)
        state = next(ddim(exact_model, x_T, [60, s, 0], eta=eta, clip_x0=False, generator=seeded(1)))
        rows.append(torch.stack([x_T, torch.full_like(x_T, picture), z], -1).flatten(0, -2))
        out.append(state.x.flatten())
    solution = torch.linalg.lstsq(torch.cat(rows), torch.cat(out)).solution
    torch.testing.assert_close(torch.cat(rows) @ solution, torch.cat(out), rtol=0, atol=1e-9)
    return solution.tolist()


def by_hand(name, s, eta, *, kept=None, signal=None, omega=None):
    """The same by the formula, with a part replaced: functions of (ᾱ_T, ᾱ_s, ω)."""
    now, then = (schedule_64(name, 60).exact_alpha_bar[k].item() for k in (60, s))
    w = eta * math.sqrt((1 - then) / (1 - now) * (1 - now / then))
    k = math.sqrt(1 - then - w**2) if kept is None else kept(now, then, w)
    of_x0 = math.sqrt(then) if signal is None else signal(now, then, w)
    of_z = w if omega is None else omega(now, then, w)
    return [k / math.sqrt(1 - now), of_x0 - k * math.sqrt(now / (1 - now)), of_z]


@exact(
    "eq:ddim-family",
    where="ddpm.samplers.ddim",
    implementation=step_factors,
    mutants={
        "ω not taken off": lambda *case: by_hand(*case, kept=lambda _now, then, _w: math.sqrt(1 - then)),
        "ω squared beside z": lambda *case: by_hand(*case, omega=lambda _now, _then, w: w**2),
        "signal of t": lambda *case: by_hand(*case, signal=lambda now, _then, _w: math.sqrt(now)),
        "root forgotten": lambda *case: by_hand(*case, kept=lambda _now, then, w: 1 - then - w**2),
    },
)
def test_ddim_family(factors):
    """x_T = √ᾱ_T x_0 + σ_T ε goes to an x_s with the mean and the variance of q(x_s | x_0), whatever ω is."""
    for name, s, eta in CASES:
        now, then = (schedule_64(name, 60).exact_alpha_bar[k].item() for k in (60, s))
        of_xt, of_x0, of_z = factors(name, s, eta)
        assert of_xt * math.sqrt(now) + of_x0 == approx(math.sqrt(then), abs=1e-9)
        assert of_xt**2 * (1 - now) + of_z**2 == approx(1 - then, abs=1e-9)


@exact(
    "eq:ddim-step",
    where="ddpm.samplers.ddim",
    implementation=step_factors,
    mutants={
        "guess and noise exchanged": lambda *case: by_hand(
            *case,
            kept=lambda _now, then, _w: math.sqrt(then),
            signal=lambda _now, then, w: math.sqrt(1 - then - w**2),
        ),
        "signal of t": lambda *case: by_hand(*case, signal=lambda now, _then, _w: math.sqrt(now)),
        "ω not taken off": lambda *case: by_hand(*case, kept=lambda _now, then, _w: math.sqrt(1 - then)),
        "no fresh noise": lambda *case: by_hand(*case, omega=lambda *_: 0.0),
    },
)
def test_ddim_step(factors):
    """Solve x_T for the ε̂ that goes with any x̂_0; beside x̂_0 stand ε̂ and z, with squares that sum to σ_s²."""
    for name, s, eta in CASES:
        now, then = (schedule_64(name, 60).exact_alpha_bar[k].item() for k in (60, s))
        of_xt, of_x0, of_z = factors(name, s, eta)
        explains = np.array([[math.sqrt(now), math.sqrt(1 - now)], [1.0, 0.0]])  # (x̂_0, ε̂) → (x_T, x̂_0)
        of_guess, of_noise = np.array([of_xt, of_x0]) @ explains
        assert of_guess == approx(math.sqrt(then), abs=1e-9)
        assert of_noise**2 + of_z**2 == approx(1 - then, abs=1e-9)
        assert of_noise > 0
        assert (abs(of_z) > 1e-9) == (eta > 0)


@exact(
    "eq:ddim-eta",
    where="ddpm.samplers.ddim",
    implementation=lambda *case: abs(step_factors(*case)[2]),
    mutants={
        "σ_t and σ_s exchanged": lambda *case: by_hand(
            *case, omega=lambda now, then, w: w * (1 - now) / (1 - then)
        )[2],
        "ᾱ_t for the ratio": lambda *case: by_hand(
            *case, omega=lambda now, then, w: w * math.sqrt((1 - now) / (1 - now / then))
        )[2],
        "root forgotten": lambda *case: by_hand(*case, omega=lambda _now, _then, w: w**2)[2],
        "forward step": lambda name, s, eta: by_hand(
            name, s, eta, omega=lambda now, then, _w: eta * math.sqrt(1 - now / then)
        )[2],
    },
)
def test_ddim_eta(omega):
    """η times the standard deviation of the posterior: the past times the future, by `product`."""
    for name, s, eta in CASES:
        now, then = schedule_64(name, 60).exact_alpha_bar[[60, s]]
        alpha = now / then
        zero = torch.zeros((), dtype=torch.float64)
        _, variance = product(zero, 1 - then, zero, (1 - alpha) / alpha)
        assert omega(name, s, eta) == approx(eta * variance.sqrt().item(), abs=1e-9)


# eq:ddim-term


def ddim_term(now, then, w, apart):
    """The divergence of two steps of the family whose x_0 are `apart`."""
    factor = math.sqrt(then) - math.sqrt(1 - then - w**2) * math.sqrt(now / (1 - now))
    return factor**2 / (2 * w**2) * apart**2


@quadrature(
    "eq:ddim-term",
    implementation=ddim_term,
    mutants={
        "half forgotten": lambda *a: 2 * ddim_term(*a),
        "factor not squared": lambda now, then, w, apart: (
            math.sqrt(ddim_term(now, then, w, apart) * 2) / (2 * w) * apart
        ),
        "only the first part of the factor": lambda _now, then, w, apart: then / (2 * w**2) * apart**2,
        "parts added": lambda now, then, w, apart: (
            (math.sqrt(then) + math.sqrt(1 - then - w**2) * math.sqrt(now / (1 - now))) ** 2
            / (2 * w**2)
            * apart**2
        ),
    },
)
def test_ddim_term(formula):
    """∫ p log(p/q) on a grid."""
    x = np.linspace(-6, 6, 60_001)
    for now, then, w in ((0.5, 0.7, 0.2), (0.1, 0.3, 0.5), (0.02, 0.9, 0.1)):
        x_t, kept = 0.3, math.sqrt(1 - then - w**2) / math.sqrt(1 - now)
        means = [math.sqrt(then) * x_0 + kept * (x_t - math.sqrt(now) * x_0) for x_0 in (0.6, 0.5)]
        p, q = (stats.norm(mean, w) for mean in means)
        by_grid = np.trapezoid(p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), x)
        assert formula(now, then, w, 0.1) == approx(by_grid, rel=1e-6)


# eq:scaled-state, eq:ode, eq:gaussian-flow, eq:ode-x0 and eq:solver-step

GRID = np.linspace(-4, 4, 2001)
BUMPS = 0.3 * stats.norm.pdf(GRID, -0.7, 0.2) + 0.7 * stats.norm.pdf(GRID, 0.5, 0.3)


def scaled_state(x_t, alpha_bar):
    return x_t / math.sqrt(alpha_bar), math.sqrt((1 - alpha_bar) / alpha_bar)


@exact(
    "eq:scaled-state",
    implementation=scaled_state,
    mutants={
        "ᾱ for its root": lambda x, a: (x / a, math.sqrt((1 - a) / a)),
        "σ for σ/√ᾱ": lambda x, a: (x / math.sqrt(a), math.sqrt(1 - a)),
        "variance for standard deviation": lambda x, a: (x / math.sqrt(a), (1 - a) / a),
    },
)
def test_scaled_state(formula):
    """x_t built as signal + noise has the picture at full strength, and u is what multiplies the noise."""
    for alpha_bar in (0.001, 0.3, 0.95):
        for picture, noise in ((0.4, 0.0), (0.4, 1.3), (-0.7, -2.0)):
            y, u = formula(math.sqrt(alpha_bar) * picture + math.sqrt(1 - alpha_bar) * noise, alpha_bar)
            assert y == approx(picture + u * noise, rel=1e-9)
            assert u == approx(math.exp(-math.log(alpha_bar / (1 - alpha_bar)) / 2), rel=1e-9)


def expected_x0(y, u):
    distance = (y - GRID) ** 2 / (2 * u**2)
    weight = BUMPS * np.exp(distance.min() - distance)  # far away no weight may vanish
    return (weight * GRID).sum() / weight.sum()


@quadrature(
    "eq:ode",
    implementation=lambda y, u: (y - expected_x0(y, u)) / u,
    mutants={
        "sign": lambda y, u: -(y - expected_x0(y, u)) / u,
        "twice the noise": lambda y, u: 2 * (y - expected_x0(y, u)) / u,
        "x̂_0 for ε̂": lambda y, u: expected_x0(y, u),
        "not divided by u": lambda y, u: y - expected_x0(y, u),
    },
)
def test_ode(slope):
    """In one dimension a flow that carries the distribution carries each quantile to that quantile."""

    def below(y, u):
        return (BUMPS * stats.norm.cdf(y, GRID, u)).sum() / BUMPS.sum()

    for y in (-9.0, -1.0, 4.0):
        flow = solve_ivp(lambda u, y: [slope(y[0], u)], (6.0, 0.1), [y], "LSODA", rtol=1e-8, atol=1e-8)
        assert below(flow.y[0, -1], 0.1) == approx(below(y, 6.0), abs=1e-4)


@exact(
    "eq:gaussian-flow",
    implementation=lambda y, u, m, V: (y - m) / math.sqrt(V + u**2),
    mutants={
        "u for u²": lambda y, u, m, V: (y - m) / math.sqrt(V + u),
        "root forgotten": lambda y, u, m, V: (y - m) / (V + u**2),
        "mean forgotten": lambda y, u, m, V: y / math.sqrt(V + u**2) + 0 * m,
        "variance forgotten": lambda y, u, m, V: (y - m) / u + 0 * V,
    },
)
def test_gaussian_flow(constant):
    """The equation solved numerically, with the posterior mean of a product of two Gaussians."""
    m, V = 0.4, 0.3

    def slope(u, y):
        guess, _ = product(torch.tensor(m), torch.tensor(V), torch.tensor(y[0]), torch.tensor(u**2))
        return [(y[0] - guess.item()) / u]

    for y in (-5.0, 2.0, 7.0):
        flow = solve_ivp(slope, (8.0, 0.02), [y], rtol=1e-6, atol=1e-6, t_eval=[8.0, 2.0, 0.3, 0.02])
        along = [constant(float(one), float(u), m, V) for one, u in zip(flow.y[0], flow.t, strict=True)]
        assert along == approx(along[:1] * 4, rel=1e-3)


def by_integral(x_t, sigma_t, sigma_s, w, x_0):
    return sigma_s / sigma_t * x_t + sigma_s * np.trapezoid(x_0, w)


@exact(
    "eq:ode-x0",
    implementation=by_integral,
    mutants={
        "σ_s forgotten before the integral": lambda x_t, sigma_t, sigma_s, w, x_0: (
            sigma_s / sigma_t * x_t + np.trapezoid(x_0, w)
        ),
        "ratio upside down": lambda x_t, sigma_t, sigma_s, w, x_0: (
            sigma_t / sigma_s * x_t + sigma_s * np.trapezoid(x_0, w)
        ),
        "integral over λ": lambda x_t, sigma_t, sigma_s, w, x_0: by_integral(
            x_t, sigma_t, sigma_s, 2 * np.log(w), x_0
        ),
    },
)
def test_ode_x0(formula):
    """Along an exact curve of Gaussian data, whose ends are known."""
    m, V, z = 0.4, 0.25, 1.3
    for now, then in ((0.01, 0.6), (0.2, 0.99)):
        w = np.linspace(math.sqrt(now / (1 - now)), math.sqrt(then / (1 - then)), 40_001)
        y = m + z * np.sqrt(V + 1 / w**2)
        guess = m + V / (V + 1 / w**2) * (y - m)
        x_t, x_s = math.sqrt(now) * y[0], math.sqrt(then) * y[-1]
        reached = formula(x_t, math.sqrt(1 - now), math.sqrt(1 - then), w, guess)
        assert reached == approx(x_s, rel=1e-6)


def package_step(schedule, x_t, x_0, t, s):
    """What all of ddpm's samplers without noise share."""
    model = GaussianDenoiser(schedule, x_0, 0.0)
    x = torch.full((1, 1, 1, 1), x_t, dtype=torch.float64)
    path = Walk(model, x, [schedule.timesteps, 0], "even", None, clip_x0=False)
    return path.step(x, torch.full_like(x, x_0), t, s).item()


def step_of(rule):
    """A step by a rule in σ_t, σ_s, w_t, w_s."""

    def step(schedule, x_t, x_0, t, s):
        now, then = (schedule.exact_alpha_bar[k].item() for k in (t, s))
        sigmas = math.sqrt(1 - now), math.sqrt(1 - then)
        return rule(x_t, x_0, *sigmas, math.sqrt(now) / sigmas[0], math.sqrt(then) / sigmas[1])

    return step


@exact(
    "eq:solver-step",
    where="ddpm.samplers.Walk.step",
    implementation=package_step,
    mutants={
        "ratio upside down": step_of(lambda x, x_0, st, ss, wt, ws: st / ss * x + ss * (ws - wt) * x_0),
        "w turned round": step_of(lambda x, x_0, st, ss, wt, ws: ss / st * x + ss * (wt - ws) * x_0),
        "σ_t before the guess": step_of(lambda x, x_0, st, ss, wt, ws: ss / st * x + st * (ws - wt) * x_0),
    },
)
def test_solver_step(step):
    """One picture: the same picture and the same noise, mixed for s."""
    for name in ("linear", "cosine"):
        schedule = schedule_64(name, 60)
        signal, sigma = (
            schedule.exact_alpha_bar.sqrt().tolist(),
            (1 - schedule.exact_alpha_bar).sqrt().tolist(),
        )
        for t, s in ((60, 20), (20, 19), (40, 1)):
            x_t, x_s = (signal[k] * 0.6 - sigma[k] * 0.8 for k in (t, s))
            assert step(schedule, x_t, 0.6, t, s) == approx(x_s, rel=1e-9)


# eq:heun and eq:dpm-solver-pp: second order on a grid that is even nowhere

FINE = 20_000


def uneven_grid(schedule, steps):
    """Even in λ, but every other step is three times as long as its neighbours."""
    grid = timestep_grid(schedule, 2 * steps, "log-snr")
    return [t for i, t in enumerate(grid[:-1]) if i % 4 in (0, 1)] + [0]


def missed(solver, steps):
    """The distance to the exact end of the curve, for Gaussian data."""
    model = GaussianDenoiser(schedule_64("cosine", FINE), 0.3, 0.25)
    x, (mean, variance) = randn(16, 1, 1, 1).double(), model.marginal(FINE)
    end = 0.3 + 0.5 * (x - mean) / variance**0.5
    return (solver(model, x, uneven_grid(model.schedule, steps)) - end).square().mean().sqrt().item()


def solver_of(guess):
    """Steps whose x̄_0 is `guess(ask, x, grid, i, seen)`."""

    def solve(model, x, grid):
        schedule, seen = model.schedule, []
        path = Walk(model, x, grid, "even", None, clip_x0=False)
        for i, (t, s) in enumerate(pairwise(grid)):
            seen.append(path.ask(x, t).x0)
            x_0 = seen[-1] if s == 0 else guess(path, x, grid, i, seen, schedule.exact_log_snr)
            x = path.step(x, x_0, t, s)
        return x

    return solve


def far_end(path, x, grid, i, seen):
    t, s = grid[i : i + 2]
    return path.ask(path.step(x, seen[-1], t, s), s).x0


@exact(
    "eq:heun",
    where="ddpm.samplers.heun",
    implementation=lambda model, x, grid: last_of(heun(model, x, grid, clip_x0=False)),
    mutants={
        "no second call": solver_of(lambda _p, _x, _g, _i, seen, _l: seen[-1]),
        "the far end alone": solver_of(lambda p, x, g, i, seen, _l: far_end(p, x, g, i, seen)),
        "asked at the near end": solver_of(
            lambda p, x, g, i, seen, _l: (seen[-1] + p.ask(p.step(x, seen[-1], *g[i : i + 2]), g[i]).x0) / 2
        ),
        "sum for average": solver_of(lambda p, x, g, i, seen, _l: seen[-1] + far_end(p, x, g, i, seen)),
    },
)
def test_heun(solver):
    """Twice the steps, a quarter of the distance to the exact end."""
    assert 3.4 < missed(solver, 64) / missed(solver, 128) < 4.6


def dpm_guess(ratio):
    """x̂_0 + ratio(λ_s − λ_t, λ_t − λ_r) · (x̂_0 − the one before); the first step has none before it."""

    def guess(_path, _x, grid, i, seen, log_snr):
        if i == 0:
            return seen[-1]
        r, t, s = grid[i - 1 : i + 2]
        return seen[-1] + ratio(log_snr[s] - log_snr[t], log_snr[t] - log_snr[r]) * (seen[-1] - seen[-2])

    return solver_of(guess)


class OnALine(GaussianDenoiser):
    """A denoiser whose guess is 0.3 + 0.05 λ_t whatever it sees, and that keeps the last x that it was shown."""

    def __init__(self, schedule):
        super().__init__(schedule, 0.0, 0.0)

    def predict(self, x_t, t, labels=None, *, clip_x0=False):
        object.__setattr__(self, "last", x_t)
        guess = 0.3 + 0.05 * self.schedule.exact_log_snr[int(t[0])].item()
        return GaussianDenoiser(self.schedule, guess, 0.0).predict(x_t, t, labels, clip_x0=clip_x0)


@exact(
    "eq:dpm-solver-pp",
    where="ddpm.samplers.dpm_solver_pp",
    implementation=lambda model, x, grid: last_of(dpm_solver_pp(model, x, grid, clip_x0=False)),
    mutants={
        "ratio upside down": dpm_guess(lambda ahead, behind: behind / ahead / 2),
        "end of the step for its middle": dpm_guess(lambda ahead, behind: ahead / behind),
        "sign": dpm_guess(lambda ahead, behind: -ahead / behind / 2),
        "steps taken as equal": dpm_guess(lambda *_: 0.5),
    },
)
def test_dpm_solver_pp(solver):
    """A guess that is a straight line in λ is met in mid-step; twice the steps, a quarter of the error."""
    schedule = schedule_64("cosine", 60)
    signal, sigma = schedule.exact_alpha_bar.sqrt().numpy(), (1 - schedule.exact_alpha_bar).sqrt().numpy()
    log_snr, grid = schedule.exact_log_snr.numpy(), [60, 50, 49, 20, 5, 0]
    line = np.polynomial.Polynomial.fit(log_snr[[60, 1]], log_snr[[60, 1]] * 0.05 + 0.3, 1)
    x = sigma[50] * (signal[50] / sigma[50] - signal[60] / sigma[60]) * line(log_snr[60])
    for t, s in pairwise(grid[1:-1]):
        middle = line((log_snr[t] + log_snr[s]) / 2)
        x = sigma[s] * (x / sigma[t] + (signal[s] / sigma[s] - signal[t] / sigma[t]) * middle)
    model = OnALine(schedule)
    assert solver(model, torch.zeros(1, 1, 1, 1).double(), grid).item() == approx(line(log_snr[5]), rel=1e-9)
    assert model.last.item() == approx(x, rel=1e-9)
    assert 3.4 < missed(solver, 64) / missed(solver, 128) < 4.6


# eq:log-snr-schedule


def log_snr_curve(timesteps):
    return NoiseSchedule(log_snr_betas(timesteps), dtype=torch.float64).alpha_bar[1:]


def logistic(shape):
    """1/(1 + e^{−λ}) with another λ_t, a function of (t − 1, T)."""
    return lambda T: torch.sigmoid(shape(torch.arange(T, dtype=torch.float64), T))


@exact(
    "eq:log-snr-schedule",
    where="ddpm.schedule.log_snr_betas",
    implementation=log_snr_curve,
    mutants={
        "counted from t = 0": logistic(lambda k, T: 10 - 17 * (k + 1) / T),
        "ends exchanged": logistic(lambda k, T: -7 + 17 * k / (T - 1)),
        "half of λ": logistic(lambda k, T: (10 - 17 * k / (T - 1)) / 2),
        "sign": logistic(lambda k, T: -(10 - 17 * k / (T - 1))),
    },
)
def test_log_snr_schedule(curve):
    """Signal-to-noise ratios: e^10 at the start, e^−7 at the end, and one constant factor from each to the next."""
    for timesteps in (25, 1000):
        alpha_bar = curve(timesteps)
        snr = alpha_bar / (1 - alpha_bar)
        assert snr[[0, -1]].tolist() == approx([math.exp(10), math.exp(-7)], rel=1e-6)
        factors = snr[1:] / snr[:-1]
        assert factors.tolist() == approx([math.exp(-17 / (timesteps - 1))] * (timesteps - 1), rel=1e-6)


# eq:energy-distance


def energy(a, b, *, between=2, power=1, of_a=1):
    within = [torch.cdist(c, c).pow(power).sum() / (len(c) * (len(c) - 1)) for c in (a, b)]
    return float(between * torch.cdist(a, b).pow(power).mean() - of_a * within[0] - within[1])


@quadrature(
    "eq:energy-distance",
    implementation=energy,
    mutants={
        "factor 2 dropped": lambda a, b: energy(a, b, between=1),
        "distances squared": lambda a, b: energy(a, b, power=2),
        "one set's own pairs left out": lambda a, b: energy(a, b, of_a=0),
    },
)
def test_energy_distance(formula):
    """On a line it is twice ∫(F − G)²; the points are quantiles."""
    ranks, x = (np.arange(2000) + 0.5) / 2000, np.linspace(-12, 12, 20_001)
    for p, q in ((stats.norm(0, 1), stats.norm(0.7, 1.5)), (stats.laplace(0, 1), stats.norm(-1, 0.3))):
        a, b = (torch.tensor(one.ppf(ranks))[:, None] for one in (p, q))
        assert formula(a, b) == approx(2 * np.trapezoid((p.cdf(x) - q.cdf(x)) ** 2, x), rel=0.01)


# eq:ddim-inversion


def climbing(scale_of, noise_of):
    """The way up with another formula in (ᾱ_t, ᾱ_s)."""

    def climb(model, x, grid):
        path, a = Walk(model, x, grid, "even", None, clip_x0=False), model.schedule.exact_alpha_bar.tolist()
        for t, s in pairwise(grid[::-1]):
            noise = path.ask(x, max(t, 1)).noise
            x = scale_of(a[t], a[s]) * x + noise_of(a[t], a[s]) * noise
        return x

    return climb


def up(t, s):
    return math.sqrt(s / t)


def fresh(t, s):
    return math.sqrt(1 - s) - up(t, s) * math.sqrt(1 - t)


@equation(
    "eq:ddim-inversion",
    how="exact",
    where="ddpm.samplers.encode",
    implementation=lambda model, x, grid: last_of(encode(model, x, grid, clip_x0=False)),
    mutants={
        "ratio upside down": climbing(lambda t, s: up(s, t), fresh),
        "noise of t not taken off": climbing(up, lambda _t, s: math.sqrt(1 - s)),
        "sign": climbing(up, lambda t, s: -fresh(t, s)),
        "root forgotten": climbing(lambda t, s: s / t, fresh),
    },
)
def test_ddim_inversion(climb):
    """Twice the steps, half the distance to the x_T from which the exact curve comes."""
    model = GaussianDenoiser(schedule_64("cosine", FINE), 0.3, 0.25)
    x, (mean, variance) = 0.3 + 0.5 * randn(16, 1, 1, 1).double(), model.marginal(FINE)
    start = mean + variance**0.5 * (x - 0.3) / 0.5
    errors = [
        (climb(model, x, timestep_grid(model.schedule, n, "log-snr")) - start).square().mean().sqrt().item()
        for n in (64, 128)
    ]
    assert 1.8 < errors[0] / errors[1] < 2.2
