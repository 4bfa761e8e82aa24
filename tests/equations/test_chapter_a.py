"""Appendix A, Gaussian identities: every equation on a grid in the plane, in three dimensions, or by Bayes' rule.

Most of them the package does not need: for these the formula of the page stands here itself.
"""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from ddpm.gaussians import condition
from ddpm.mixture_oracle import GaussianMixtureOracle
from tests.equations.ledger import exact, quadrature
from tests.networks import pixel, randn, schedule_64

AXIS = torch.linspace(-9, 9, 451, dtype=torch.float64)
STEP = (AXIS[1] - AXIS[0]).item()
PLANE = torch.cartesian_prod(AXIS, AXIS)
MEAN = torch.tensor([0.6, -0.4], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.9, -0.5], [-0.5, 0.6]], dtype=torch.float64)
OTHER_MEAN = torch.tensor([-0.5, 0.3], dtype=torch.float64)
OTHER_COVARIANCE = torch.tensor([[0.4, 0.2], [0.2, 1.1]], dtype=torch.float64)


Q, P = (MEAN, COVARIANCE), (OTHER_MEAN, OTHER_COVARIANCE)


def vector(*values: float) -> Tensor:
    """A vector in double precision."""
    return torch.tensor(values, dtype=torch.float64)


def scipy_log_density(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """log N(x; mean, covariance) by SciPy, at the rows of x."""
    return torch.as_tensor(
        scipy.stats.multivariate_normal(mean.numpy(), covariance.numpy()).logpdf(x.numpy())
    )


def on_the_plane(values: Tensor, mean: Tensor = MEAN, covariance: Tensor = COVARIANCE) -> Tensor:
    """Average of values, one row per point of the grid, under a Gaussian in the plane."""
    weight = scipy_log_density(PLANE, mean, covariance).exp() * STEP**2
    return torch.tensordot(weight, values, dims=1)


def approx(expected: Tensor, tolerance: float = 1e-8):
    """What pytest compares a tensor with."""
    return pytest.approx(expected.numpy(), abs=tolerance)


def log_density(x, mean, covariance, *, power=1.0, root=0.5, constant=2 * math.pi):
    """The logarithm of eq:multivariate-gaussian; the options are for mutants."""
    apart = x - mean
    square = (apart * torch.linalg.solve(torch.linalg.matrix_power(covariance, int(power)), apart.T).T).sum(1)
    return -0.5 * len(mean) * math.log(constant) - root * covariance.logdet() - 0.5 * square


@quadrature(
    "eq:multivariate-gaussian",
    implementation=log_density,
    mutants={
        "determinant without its root": lambda x, m, c: log_density(x, m, c, root=1.0),
        "determinant forgotten": lambda x, m, c: log_density(x, m, c, root=0.0),
        "π for 2π": lambda x, m, c: log_density(x, m, c, constant=math.pi),
        "covariance for its inverse": lambda x, m, c: log_density(x, m, c, power=-1),
        "inverse squared": lambda x, m, c: log_density(x, m, c, power=2),
    },
)
def test_multivariate_gaussian(formula):
    """Mass, mean and covariance on the grid, and SciPy's density in three dimensions."""
    density = formula(PLANE, MEAN, COVARIANCE).exp() * STEP**2
    assert density.sum().item() == pytest.approx(1, abs=1e-9)
    assert (density @ PLANE).numpy() == approx(MEAN)
    assert ((PLANE - MEAN).T @ (density[:, None] * (PLANE - MEAN))).numpy() == approx(COVARIANCE)
    root = randn(3, 3, dtype=torch.float64)
    mean, covariance = vector(1.0, 0.0, -2.0), root @ root.T + 0.2 * torch.eye(3)
    x = randn(20, 3, seed=1, dtype=torch.float64)
    assert formula(x, mean, covariance).numpy() == approx(scipy_log_density(x, mean, covariance))


@quadrature(
    "eq:affine-multivariate",
    implementation=lambda m, c, a, b: (a @ m + b, a @ c @ a.T),
    mutants={
        "shift forgotten": lambda m, c, a, b: (a @ m, a @ c @ a.T),  # noqa: ARG005
        "map transposed": lambda m, c, a, b: (a.T @ m + b, a.T @ c @ a),
        "covariance mapped once": lambda m, c, a, b: (a @ m + b, (a @ c + c @ a.T) / 2),
        "shift in the covariance": lambda m, c, a, b: (a @ m + b, a @ c @ a.T + b * torch.eye(2)),
    },
)
def test_affine_multivariate(formula):
    """E cos(u·(Ax + b)) and E sin, over the plane, against those of the Gaussian claimed for Ax + b."""
    a, b = torch.tensor([[1.0, 0.7], [-0.4, 0.8]], dtype=torch.float64), vector(0.3, 0.3)
    mean, covariance = formula(MEAN, COVARIANCE, a, b)
    assert torch.linalg.eigvalsh(covariance).min() > 0.02
    mapped = PLANE @ a.T + b
    for direction in (vector(1.0, 0.0), vector(0.0, 1.0), vector(0.7, -1.2)):
        for wave in (torch.cos, torch.sin):
            expected = on_the_plane(wave(mapped @ direction))
            found = on_the_plane(wave(PLANE @ direction), mean, (covariance + covariance.T) / 2)
            assert found.item() == pytest.approx(expected.item(), abs=1e-6)


@quadrature(
    "eq:marginal-gaussian",
    implementation=lambda m, c: (m[0], c[0, 0]),
    mutants={
        "conditional for marginal": lambda m, c: (m[0], c[0, 0] - c[0, 1] ** 2 / c[1, 1]),
        "inverse of the precision's block": lambda m, c: (m[0], 1 / c.inverse()[0, 0]),
        "the other block": lambda m, c: (m[1], c[1, 1]),
    },
)
def test_marginal_gaussian(formula):
    """The joint density integrated over the second coordinate."""
    joint = scipy_log_density(PLANE, MEAN, COVARIANCE).exp().view(len(AXIS), -1)
    mean, variance = formula(MEAN, COVARIANCE)
    expected = scipy.stats.norm.pdf(AXIS.numpy(), mean.item(), math.sqrt(variance.item()))
    assert (joint.sum(1) * STEP).numpy() == pytest.approx(expected, abs=1e-9)


def conditional(mean, covariance, observed, value):
    """Mean and variance of the other coordinate in the plane."""
    found = condition(mean, covariance, observed, value)
    return found[0].squeeze(), found[1].squeeze()


@quadrature(
    "eq:conditional-gaussian",
    where="ddpm.gaussians.condition",
    implementation=conditional,
    mutants={
        "sign of the shift": lambda m, c, o, v: conditional(m, c, o, 2 * m[o] - v),
        "observed mean forgotten": lambda m, c, o, v: conditional(m, c, o, v + m[o]),
        "variance of the marginal": lambda m, c, o, v: (conditional(m, c, o, v)[0], c[~o][:, ~o].squeeze()),
        "variance added": lambda m, c, o, v: (
            conditional(m, c, o, v)[0],
            2 * c[~o][:, ~o].squeeze() - conditional(m, c, o, v)[1],
        ),
        "regression the wrong way round": lambda m, c, o, v: (
            m[~o].squeeze() + (c[0, 1] / c[~o][:, ~o]).squeeze() * (v - m[o]).squeeze(),
            conditional(m, c, o, v)[1],
        ),
    },
)
def test_conditional_gaussian(formula):
    """Slices through the joint density on the grid, normalised, in both directions."""
    joint = scipy_log_density(PLANE, MEAN, COVARIANCE).view(len(AXIS), -1)
    for place in (180, 225, 260):
        for observed, slice_ in ((0, joint[place]), (1, joint[:, place])):
            weight = torch.softmax(slice_, 0)
            mean = weight @ AXIS
            known = torch.tensor([observed == 0, observed == 1])
            found = formula(MEAN, COVARIANCE, known, AXIS[place].view(1))
            assert found[0].item() == pytest.approx(mean.item(), abs=1e-8)
            assert found[1].item() == pytest.approx((weight @ (AXIS - mean) ** 2).item(), abs=1e-8)


def gaussian_product(a, cov_a, b, cov_b):
    """(log of the scale, m, V) of eq:gaussian-product-multivariate."""
    precision_a, precision_b = cov_a.inverse(), cov_b.inverse()
    v = (precision_a + precision_b).inverse()
    return scipy_log_density(a, b, cov_a + cov_b), v @ (precision_a @ a + precision_b @ b), v


@exact(
    "eq:gaussian-product-multivariate",
    implementation=gaussian_product,
    mutants={
        "scale dropped": lambda *g: (vector(0.0), *gaussian_product(*g)[1:]),
        "means weighted by covariance": lambda a, ca, b, cb: (
            gaussian_product(a, ca, b, cb)[0],
            (ca + cb).inverse() @ (ca @ a + cb @ b),
            gaussian_product(a, ca, b, cb)[2],
        ),
        "covariances averaged": lambda a, ca, b, cb: (*gaussian_product(a, ca, b, cb)[:2], (ca + cb) / 2),
        "only the variances, no covariances": lambda a, ca, b, cb: gaussian_product(
            a, ca.diag().diag(), b, cb.diag().diag()
        ),
    },
)
def test_gaussian_product_multivariate(formula):
    """The sum of SciPy's two log-densities, at points all over the plane."""
    x = PLANE[::997] / 3
    scale, mean, covariance = formula(*Q, *P)
    found = scale + scipy_log_density(x, mean, covariance)
    assert found.numpy() == approx(scipy_log_density(x, *Q) + scipy_log_density(x, *P))


@quadrature(
    "eq:gaussian-entropy",
    implementation=lambda c: 0.5 * (len(c) * math.log(2 * math.pi * math.e) + c.logdet()),
    mutants={
        "e forgotten": lambda c: 0.5 * (len(c) * math.log(2 * math.pi) + c.logdet()),
        "determinant without its half": lambda c: 0.5 * len(c) * math.log(2 * math.pi * math.e) + c.logdet(),
        "one dimension only": lambda c: 0.5 * (math.log(2 * math.pi * math.e) + c.logdet()),
        "trace for determinant": lambda c: 0.5 * (len(c) * math.log(2 * math.pi * math.e) + c.trace().log()),
    },
)
def test_gaussian_entropy(formula):
    """The average of −log q on the grid."""
    for covariance in (COVARIANCE, OTHER_COVARIANCE):
        expected = on_the_plane(-scipy_log_density(PLANE, MEAN, covariance), MEAN, covariance)
        assert formula(covariance).item() == pytest.approx(expected.item(), abs=1e-8)


def kl(mean_q, cov_q, mean_p, cov_p):
    """Right-hand side of eq:kl-multivariate."""
    ratio, apart = torch.linalg.solve(cov_p, cov_q), mean_q - mean_p
    return 0.5 * (ratio.trace() - len(apart) - ratio.logdet() + apart @ torch.linalg.solve(cov_p, apart))


@quadrature(
    "eq:kl-multivariate",
    implementation=kl,
    mutants={
        "arguments swapped": lambda mq, cq, mp, cp: kl(mp, cp, mq, cq),
        "distance measured with q": lambda mq, cq, mp, cp: kl(mp, cq, mq, cq) + kl(mp, cq, mp, cp),
        "sign of the determinants": lambda mq, cq, mp, cp: kl(mq, cq, mp, cp) + cq.logdet() - cp.logdet(),
        "dimension forgotten": lambda mq, cq, mp, cp: kl(mq, cq, mp, cp) + 0.5 * len(mq),
        "half forgotten": lambda *g: 2 * kl(*g),
    },
)
def test_kl_multivariate(formula):
    """E_q[log q − log p] on the grid."""
    log_ratio = scipy_log_density(PLANE, *Q) - scipy_log_density(PLANE, *P)
    found = formula(*Q, *P)
    assert found.item() == pytest.approx(on_the_plane(log_ratio).item(), abs=1e-8)


def outer(rows):
    """x xᵀ of every row."""
    return rows[:, :, None] * rows[:, None]


def mixture_moments(weights, means, covariances):
    """Mean and covariance of a mixture by eq:total-variance."""
    mean = weights @ means
    return mean, torch.einsum("k,kij->ij", weights, covariances + outer(means - mean))


@quadrature(
    "eq:total-variance",
    implementation=mixture_moments,
    mutants={
        "nothing between": lambda w, m, c: (w @ m, torch.einsum("k,kij->ij", w, c)),
        "nothing within": lambda w, m, c: mixture_moments(w, m, 0 * c),
        "weights forgotten": lambda w, m, c: mixture_moments(torch.full_like(w, 1 / 3), m, c),
        "second moment for covariance": lambda w, m, c: (w @ m, torch.einsum("k,kij->ij", w, c + outer(m))),
    },
)
def test_total_variance(formula):
    """Mean and covariance of a mixture of three, from its density on the grid."""
    weights = vector(0.5, 0.3, 0.2)
    means = torch.stack([MEAN, OTHER_MEAN, vector(1.5, 1.0)])
    covariances = torch.stack([COVARIANCE, OTHER_COVARIANCE, 0.3 * torch.eye(2, dtype=torch.float64)])
    parts = [scipy_log_density(PLANE, m, c).exp() for m, c in zip(means, covariances, strict=True)]
    density = weights @ torch.stack(parts) * STEP**2
    mean = density @ PLANE
    covariance = (PLANE - mean).T @ (density[:, None] * (PLANE - mean))
    found = formula(weights, means, covariances)
    assert found[0].numpy() == approx(mean)
    assert found[1].numpy() == approx(covariance)


def wavy(x: Tensor) -> Tensor:
    """A smooth function on the plane."""
    return x[:, 0] * x[:, 1] + torch.sin(2 * x[:, 0])


def wavy_slope(x: Tensor) -> Tensor:
    """Its gradient, one row per point, by hand."""
    return torch.stack([x[:, 1] + 2 * torch.cos(2 * x[:, 0]), x[:, 0]], dim=1)


@quadrature(
    "eq:stein",
    implementation=lambda c, slope: c @ slope,
    mutants={
        "covariance forgotten": lambda c, slope: slope,  # noqa: ARG005
        "precision for covariance": lambda c, slope: c.inverse() @ slope,
        "sign": lambda c, slope: -c @ slope,
        "variances only": lambda c, slope: c.diag() * slope,
    },
)
def test_stein(formula):
    """E[(x − μ) g(x)] on the grid, for a function with a gradient known by hand."""
    expected = on_the_plane((PLANE - MEAN) * wavy(PLANE)[:, None])
    assert formula(COVARIANCE, on_the_plane(wavy_slope(PLANE))).numpy() == approx(expected)


SCHEDULE = schedule_64("linear", 50)
CLEAN_WEIGHTS, CLEAN_MEANS, CLEAN_VARIANCES = (0.7, 0.3), (-0.6, 1.4), (0.16, 0.09)
ORACLE = GaussianMixtureOracle(
    SCHEDULE, [[mean] for mean in CLEAN_MEANS], CLEAN_VARIANCES, CLEAN_WEIGHTS, dtype=torch.float64
)


def oracle_guess(t, x_t, *, sign=1):
    """E[x_0|x_t] of the package's oracle; Cov[x_0|x_t] from the slope of its score, with a knob for a mistake."""
    x, level, alpha_bar = pixel(x_t), torch.tensor([t]), SCHEDULE.alpha_bar[t].item()
    curvature = torch.autograd.functional.jacobian(lambda y: ORACLE.score(y, level).sum(), x).item()
    s = (1 - alpha_bar) / alpha_bar
    return ORACLE.expected_x0(x, level).item(), s + sign * s * curvature * alpha_bar * s


def by_score(t, x_t, *, noise=1.0):
    """Both lines of eq:tweedie from the oracle's score at y = x_t/√ᾱ_t; the option is for mutants."""
    alpha_bar = SCHEDULE.alpha_bar[t].item()
    slope = ORACLE.score(pixel(x_t), torch.tensor([t])).item() * math.sqrt(alpha_bar)  # d/dy = √ᾱ d/dx_t
    return x_t / math.sqrt(alpha_bar) + noise * (1 / alpha_bar - 1) * slope, oracle_guess(t, x_t)[1]


@quadrature(
    "eq:tweedie",
    where="ddpm.mixture_oracle.GaussianMixtureOracle.expected_x0",
    implementation=oracle_guess,
    mutants={
        "sign of the slope": lambda t, x_t: by_score(t, x_t, noise=-1.0),
        "no slope": lambda t, x_t: by_score(t, x_t, noise=0.0),
        "half of the slope": lambda t, x_t: by_score(t, x_t, noise=0.5),
        "curvature with the wrong sign": lambda t, x_t: oracle_guess(t, x_t, sign=-1),
        "variance of the noise": lambda t, x_t: oracle_guess(t, x_t, sign=0),
    },
)
def test_tweedie(formula):
    """Mean and variance of q(x_0|x_t), by Bayes' rule on a fine line; the score formula gives the same mean."""
    line = np.linspace(-6, 6, 120_001)
    prior = sum(
        w * scipy.stats.norm.pdf(line, m, math.sqrt(v))
        for w, m, v in zip(CLEAN_WEIGHTS, CLEAN_MEANS, CLEAN_VARIANCES, strict=True)
    )
    for t in (3, 10, 25):
        alpha_bar = SCHEDULE.alpha_bar[t].item()
        for x_t in (-0.9, 0.4, 1.3):
            weight = prior * scipy.stats.norm.pdf(x_t, math.sqrt(alpha_bar) * line, math.sqrt(1 - alpha_bar))
            mean = (weight @ line) / weight.sum()
            variance = (weight @ (line - mean) ** 2) / weight.sum()
            assert formula(t, x_t) == pytest.approx((mean, variance), abs=1e-7)
            assert by_score(t, x_t)[0] == pytest.approx(mean, abs=1e-7)
