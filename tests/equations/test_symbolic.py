"""Derivations once more, by computer algebra: SymPy does what the chapters do by hand, on symbols and for all values.

Each formula stands here as the page prints it; each check reaches it from a definition, and then asks `ddpm` for the
same number.
"""

import pytest
import sympy
import torch
from sympy import Expr, Rational, Symbol, exp, log, sqrt, symbols

from ddpm import NoiseSchedule
from ddpm.gaussians import kl_divergence
from tests.equations.ledger import derivation
from tests.networks import diffusion_of, pixel

# ᾱ_{t−1} and β_t are free; everything else at t follows from them.
before, beta = symbols("before beta", positive=True)
alpha = 1 - beta
after = alpha * before
x, x_0, x_t, noise, guess = symbols("x x_0 x_t epsilon hat_epsilon", real=True)

HALF = Rational(1, 2)
SCHEDULE = NoiseSchedule([0.1, 0.3, 0.05, 0.4], dtype=torch.float64)


def vanishes(expression: Expr) -> bool:
    """Whether an expression is zero for all values of its symbols.

    A wrong formula is told at one point, in numbers, because SymPy would look for a proof in vain and at length.
    """
    free = sorted(expression.free_symbols, key=str)
    point = {symbol: Rational(2 * k + 3, 5 * k + 11) for k, symbol in enumerate(free)}
    if abs(expression.subs(point).evalf(40)) > 1e-30:
        return False
    return sympy.simplify(sympy.expand(sympy.expand_log(expression, force=True))) == 0


def number(expression: Expr, t: int, **values: float) -> float:
    """The expression at level t of the schedule."""
    levels = {before: SCHEDULE.alpha_bar[t - 1].item(), beta: SCHEDULE.beta[t].item()}
    return float(expression.subs({**levels, **{Symbol(name, real=True): v for name, v in values.items()}}))


def log_normal(value: Expr, mean: Expr, variance: Expr) -> Expr:
    """The Gaussian's log-density, from its definition."""
    return -((value - mean) ** 2) / (2 * variance) - log(2 * sympy.pi * variance) / 2


# The posterior


def past_and_future() -> Expr:
    """log q(x_t|x_{t−1}) + log q(x_{t−1}|x_0), where x is x_{t−1}."""
    return log_normal(x_t, sqrt(alpha) * x, beta) + log_normal(x, sqrt(before) * x_0, 1 - before)


@derivation(
    "eq:posterior-variance",
    formula=lambda: (1 - before) / (1 - after) * beta,
    mutants={
        "ratio dropped": lambda: beta,
        "ratio upside down": lambda: (1 - after) / (1 - before) * beta,
        "ᾱ without its complement": lambda: before / after * beta,
    },
)
def test_variance_by_completing_the_square(formula):
    """The exponent is quadratic in x_{t-1}; the variance is −1 over its second derivative."""
    curvature = sympy.diff(past_and_future(), x, 2)
    assert vanishes(formula() * curvature + 1)
    assert number(formula(), 3) == pytest.approx(SCHEDULE.posterior_variance[3].item(), rel=1e-12)


def posterior_mean(first: Expr = x_0, second: Expr = x_t) -> Expr:
    """μ̃_t as the page prints it."""
    return (sqrt(before) * beta * first + sqrt(alpha) * (1 - before) * second) / (1 - after)


@derivation(
    "eq:posterior-mean",
    formula=posterior_mean,
    mutants={
        "weights swapped": lambda: posterior_mean(x_t, x_0),
        "ᾱ for its root": lambda: posterior_mean().subs(x_0, sqrt(before) * x_0),
        "√ᾱ_t for √α_t": lambda: posterior_mean().subs(x_t, sqrt(before) * x_t),
        "β_t left out": lambda: posterior_mean().subs(x_0, x_0 / beta),
    },
)
def test_mean_by_completing_the_square(formula):
    """At the mean the slope of the exponent is zero."""
    slope = sympy.diff(past_and_future(), x)
    assert vanishes(slope.subs(x, formula()))
    coefficient = number(sympy.diff(formula(), x_0), 3)
    assert coefficient == pytest.approx(SCHEDULE.posterior_mean_coef_x0[3].item(), rel=1e-12)


@derivation(
    "eq:posterior-mean-noise",
    formula=lambda: (x_t - beta / sqrt(1 - after) * noise) / sqrt(alpha),
    mutants={
        "√ᾱ_t for √α_t": lambda: (x_t - beta / sqrt(1 - after) * noise) / sqrt(after),
        "√β for β": lambda: (x_t - sqrt(beta) / sqrt(1 - after) * noise) / sqrt(alpha),
        "1 − ᾱ without its root": lambda: (x_t - beta / (1 - after) * noise) / sqrt(alpha),
        "noise added": lambda: (x_t + beta / sqrt(1 - after) * noise) / sqrt(alpha),
    },
)
def test_two_forms_of_the_posterior_mean(formula):
    """Both forms agree once x_0 = (x_t − √(1 − ᾱ_t) ε) / √ᾱ_t is put into the first."""
    solved = (x_t - sqrt(1 - after) * noise) / sqrt(after)
    assert vanishes(posterior_mean(solved) - formula())


@derivation(
    "eq:posterior-bayes",
    formula=lambda posterior, evidence: posterior + evidence,
    mutants={
        "not divided by q(x_t|x_0)": lambda posterior, evidence: posterior,  # noqa: ARG005
        "multiplied by q(x_t|x_0)": lambda posterior, evidence: posterior - evidence,
    },
)
def test_the_constant_of_the_posterior(formula):
    """Past times future is posterior times q(x_t|x_0), with the constants: nothing is left over after the square."""
    posterior = log_normal(x, posterior_mean(), (1 - before) / (1 - after) * beta)
    evidence = log_normal(x_t, sqrt(after) * x_0, 1 - after)
    assert vanishes(past_and_future() - formula(posterior, evidence))


# Divergence and bound

mean_q, mean_p = symbols("m_q m_p", real=True)
variance_q, variance_p = symbols("v_q v_p", positive=True)


def kl(one: int = 1, half: Rational = HALF, sign: int = 1) -> Expr:
    """KL(q ‖ p) as the page prints it, with knobs for mistakes."""
    ratio = variance_q / variance_p
    return half * (ratio - one - sign * log(ratio) + (mean_q - mean_p) ** 2 / variance_p)


@derivation(
    "eq:kl-gaussians",
    formula=kl,
    mutants={
        "without the −1": lambda: kl(one=0),
        "without the ½": lambda: kl(half=Rational(1)),
        "sign of the logarithm": lambda: kl(sign=-1),
        "arguments swapped": lambda: kl().subs(
            {mean_q: mean_p, mean_p: mean_q, variance_q: variance_p, variance_p: variance_q},
            simultaneous=True,
        ),
    },
)
def test_divergence_from_moments(formula):
    """E_q[log q − log p], with E[x] and E[x²] from the moment-generating function of q."""
    s = Symbol("s", real=True)
    generating = exp(mean_q * s + variance_q * s**2 / 2)
    moments = [sympy.diff(generating, s, k).subs(s, 0) for k in range(3)]
    ratio = sympy.Poly(sympy.expand(log_normal(x, mean_q, variance_q) - log_normal(x, mean_p, variance_p)), x)
    expected = sum(ratio.coeff_monomial(x**k) * moments[k] for k in range(3))
    assert vanishes(expected - formula())
    values = {mean_q: 0.4, mean_p: -0.3, variance_q: 0.5, variance_p: 0.9}
    logs = [torch.tensor(v, dtype=torch.float64) for v in (0.4, 0.5, -0.3, 0.9)]
    package = kl_divergence(logs[0], logs[1].log(), logs[2], logs[3].log()).item()
    assert float(formula().subs(values)) == pytest.approx(package, rel=1e-12)


class Chain:
    """Every log-density of a chain of T steps as a symbol of its own: nothing is known of them but Bayes' rule."""

    def __init__(self, timesteps: int) -> None:
        self.timesteps = timesteps
        self.prior = Symbol("log_p_T")  # log p(x_T)

    def step(self, t: int) -> Expr:
        """log q(x_t|x_{t−1})."""
        return Symbol(f"log_q_{t}_given_{t - 1}")

    def marginal(self, t: int) -> Expr:
        """log q(x_t|x_0); the first step is one of them."""
        return self.step(1) if t == 1 else Symbol(f"log_q_{t}_given_0")

    def posterior(self, t: int) -> Expr:
        """log q(x_{t−1}|x_t, x_0), by Bayes' rule."""
        return self.step(t) + self.marginal(t - 1) - self.marginal(t)

    def model(self, t: int) -> Expr:
        """log p_θ(x_{t−1}|x_t)."""
        return Symbol(f"log_p_{t - 1}_given_{t}")


def terms(chain: Chain, *, first: int = 2, last: int = 0, shift: int = 0) -> Expr:
    """What L_T + Σ L_{t−1} + L_0 average, with knobs for mistakes."""
    levels = range(first, chain.timesteps + 1 + last)
    far_end = chain.marginal(chain.timesteps) - chain.prior
    return far_end + sum(chain.posterior(t) - chain.model(t - shift) for t in levels) - chain.model(1)


@derivation(
    "eq:elbo",
    formula=terms,
    mutants={
        "sum starts at t = 3": lambda chain: terms(chain, first=3),
        "sum ends at T − 1": lambda chain: terms(chain, last=-1),
        "model one level off": lambda chain: terms(chain, shift=1),
        "L_T left out": lambda chain: terms(chain) - chain.marginal(chain.timesteps) + chain.prior,
        "L_0 left out": lambda chain: terms(chain) + chain.model(1),
        "decoder twice": lambda chain: terms(chain) - chain.model(1),
    },
)
def test_the_bound_telescopes(formula):
    """log q(x_1, …, x_T|x_0) − log p(x_0, …, x_T) term by term, for T from 2 to 8."""
    for timesteps in range(2, 9):
        chain = Chain(timesteps)
        levels = range(1, timesteps + 1)
        ratio = sum(chain.step(t) - chain.model(t) for t in levels) - chain.prior
        assert sympy.expand(ratio - formula(chain)) == 0


def noise_form(sigma: Expr, *, divisor: Expr = alpha, half: Rational = HALF) -> Expr:
    """L_{t−1} − C_t as eq:loss-t-noise prints it, with knobs for mistakes."""
    return half * beta**2 / (sigma * divisor * (1 - after)) * (noise - guess) ** 2


@derivation(
    "eq:loss-t-noise",
    formula=noise_form,
    mutants={
        "ᾱ_t for α_t": lambda sigma: noise_form(sigma, divisor=after),
        "without the ½": lambda sigma: noise_form(sigma, half=Rational(1)),
        "β for β²": lambda sigma: noise_form(sigma) / beta,
        "variance squared": lambda sigma: noise_form(sigma**2),
        "constant, as in L_simple": lambda _: (noise - guess) ** 2,
    },
)
def test_noise_form_of_a_term(formula):
    """Half the squared distance of the two means over σ², each mean with its own x_0, at one and the same x_t."""
    sigma = Symbol("v", positive=True)
    clean = [(x_t - sqrt(1 - after) * seen) / sqrt(after) for seen in (noise, guess)]
    distance = (posterior_mean(clean[0]) - posterior_mean(clean[1])) ** 2
    assert vanishes(distance / (2 * sigma) - formula(sigma))


@derivation(
    "eq:loss-t-x0",
    formula=lambda: (before / (1 - before) - after / (1 - after)) / 2,
    mutants={
        "without the ½": lambda: before / (1 - before) - after / (1 - after),
        "SNR(t) alone": lambda: after / (1 - after) / 2,
        "sign": lambda: (after / (1 - after) - before / (1 - before)) / 2,
    },
)
def test_x0_form_of_a_term(formula):
    """Half the squared distance of the two means over β̃_t, per squared error of x_0."""
    seen = Symbol("hat_x_0", real=True)
    distance = (posterior_mean(x_0) - posterior_mean(seen)) ** 2 / (2 * (1 - before) / (1 - after) * beta)
    assert vanishes(distance - formula() * (x_0 - seen) ** 2)


# Three coordinates


def turned(sign: int = 1) -> tuple[Expr, Expr]:
    """x_t and v from x_0 and ε, with a knob for a mistake."""
    signal, spread = sqrt(after), sqrt(1 - after)
    return signal * x_0 + spread * noise, signal * noise - sign * spread * x_0


def turned_back(x_t: Expr, v: Expr, *, sign: int = 1, signal: Expr | None = None) -> tuple[Expr, Expr]:
    """x_0 and ε from x_t and v, with knobs for mistakes."""
    signal, spread = signal or sqrt(after), sign * sqrt(1 - after)
    return signal * x_t - spread * v, spread * x_t + signal * v


@derivation(
    "eq:three-coordinates",
    formula=turned_back,
    mutants={
        "turned the same way again": lambda x_t, v: turned_back(x_t, v, sign=-1),
        "ᾱ without its root": lambda x_t, v: turned_back(x_t, v, signal=after),
        "x_0 and ε exchanged": lambda x_t, v: turned_back(x_t, v)[::-1],
    },
)
def test_round_trip(formula):
    """From x_0 and ε to x_t and v, and back to the same two, whatever they are; the package comes back as well."""
    clean, drawn = formula(*turned())
    assert vanishes(clean - x_0)
    assert vanishes(drawn - noise)
    diffusion = diffusion_of(timesteps=4)
    diffusion.schedule = SCHEDULE
    package = diffusion.predict_start_from_v(pixel(0.8), torch.tensor([3]), pixel(-1.3)).item()
    there, across = symbols("there across", real=True)
    assert number(formula(there, across)[0], 3, there=0.8, across=-1.3) == pytest.approx(package, rel=1e-12)


@derivation(
    "eq:v",
    formula=lambda: turned()[1],
    mutants={
        "plus for minus": lambda: turned(sign=-1)[1],
        "the other sign": lambda: -turned()[1],
        "shrunk by σ_t": lambda: sqrt(1 - after) * turned()[1],
    },
)
def test_v_is_perpendicular(formula):
    """As long as x_t in every direction: x_t² + v² = x_0² + ε², and v is what x_t turns to at an angle of 90°."""
    angle = Symbol("phi", positive=True)
    assert vanishes(turned()[0] ** 2 + formula() ** 2 - x_0**2 - noise**2)
    slope = sympy.diff(sympy.cos(angle) * x_0 + sympy.sin(angle) * noise, angle)
    at_the_angle = slope.subs({sympy.cos(angle): sqrt(after), sympy.sin(angle): sqrt(1 - after)})
    assert vanishes(at_the_angle - formula())
