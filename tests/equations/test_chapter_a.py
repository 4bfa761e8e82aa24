"""Appendix A, Gaussian identities: every equation on a grid in the plane, in three dimensions, or by Bayes' rule.

Most of them the package does not need: for these the formula of the page stands here itself.
"""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from ddpm import NoiseSchedule, linear_betas
from ddpm.gaussians import condition
from ddpm.mixture_oracle import GaussianMixtureOracle
from tests.equations.ledger import exact, quadrature

AXIS = torch.linspace(-9, 9, 451, dtype=torch.float64)
STEP = (AXIS[1] - AXIS[0]).item()
PLANE = torch.cartesian_prod(AXIS, AXIS)
MEAN = torch.tensor([0.6, -0.4], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.9, -0.5], [-0.5, 0.6]], dtype=torch.float64)
OTHER_MEAN = torch.tensor([-0.5, 0.3], dtype=torch.float64)
OTHER_COVARIANCE = torch.tensor([[0.4, 0.2], [0.2, 1.1]], dtype=torch.float64)


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
    root = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, covariance = vector(1.0, 0.0, -2.0), root @ root.T + 0.2 * torch.eye(3)
    x = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
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
    scale, mean, covariance = formula(MEAN, COVARIANCE, OTHER_MEAN, OTHER_COVARIANCE)
    found = scale + scipy_log_density(x, mean, covariance)
    expected = scipy_log_density(x, MEAN, COVARIANCE) + scipy_log_density(x, OTHER_MEAN, OTHER_COVARIANCE)
    assert found.numpy() == approx(expected)


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
    log_ratio = scipy_log_density(PLANE, MEAN, COVARIANCE) - scipy_log_density(
        PLANE, OTHER_MEAN, OTHER_COVARIANCE
    )
    found = formula(MEAN, COVARIANCE, OTHER_MEAN, OTHER_COVARIANCE)
    assert found.item() == pytest.approx(on_the_plane(log_ratio).item(), abs=1e-8)


@quadrature(
    "eq:change-of-variables-bits",
    implementation=lambda bits, factor, dimensions: bits + dimensions * math.log2(abs(factor)),
    mutants={
        "bits taken away": lambda bits, factor, dimensions: bits - dimensions * math.log2(abs(factor)),
        "as if the scale did not matter": lambda bits, factor, dimensions: bits,  # noqa: ARG005
        "nats for bits": lambda bits, factor, dimensions: bits + dimensions * math.log(abs(factor)),
        "one dimension only": lambda bits, factor, dimensions: bits + math.log2(abs(factor)),  # noqa: ARG005
    },
)
def test_change_of_variables_bits(formula):
    """The mass of a stretched, turned-round or shrunken Gaussian on the grid that was stretched with it."""
    bits = -scipy_log_density(PLANE, MEAN, COVARIANCE) / math.log(2)
    for factor in (127.5, -3.0, 0.2):
        mass = (2.0 ** -formula(bits, factor, 2)).sum() * (abs(factor) * STEP) ** 2
        assert mass.item() == pytest.approx(1, abs=1e-9)


def gaussian_like(density: Tensor) -> tuple[Tensor, Tensor]:
    """The entropy of the Gaussian with the moments of a density on the grid, and its log-density there."""
    weight = density * STEP**2
    mean = weight @ PLANE
    covariance = (PLANE - mean).T @ (weight[:, None] * (PLANE - mean))
    entropy = 0.5 * (2 * math.log(2 * math.pi * math.e) + covariance.logdet())
    return entropy, scipy_log_density(PLANE, mean, covariance)


def kl_on_the_plane(q: Tensor, log_p: Tensor) -> Tensor:
    """KL(q ‖ p) of densities on the grid."""
    return (torch.xlogy(q, q) - q * log_p).sum() * STEP**2


@quadrature(
    "eq:maximum-entropy",
    implementation=lambda q, most, log_widest: most - kl_on_the_plane(q, log_widest),
    mutants={
        "the least for the most": lambda q, most, log_widest: most + kl_on_the_plane(q, log_widest),
        "every density with these moments the same": lambda q, most, log_widest: most,  # noqa: ARG005
        "divergence the other way round": lambda q, most, log_widest: (
            most - kl_on_the_plane(log_widest.exp(), q.clamp(min=1e-300).log())
        ),
        "variances only": lambda q, most, log_widest: (
            gaussian_like(
                q.view(len(AXIS), -1).sum(1)[:, None].mul(q.view(len(AXIS), -1).sum(0)).flatten() * STEP**2
            )[0]
            - kl_on_the_plane(q, log_widest)
            + 0 * most
        ),
    },
)
def test_maximum_entropy(formula):
    """−∫ q log q of a tilted Laplace density, whose entropy is also known: log(2e)² + log|det|, and of two humps."""
    turn = torch.tensor([[0.5, 0.3], [0.0, 0.6]], dtype=torch.float64)
    laplace = torch.exp(-2 * (PLANE @ turn.inverse().T).abs().sum(1)) / turn.det()
    humps = 0.5 * (
        scipy_log_density(PLANE, MEAN, COVARIANCE).exp()
        + scipy_log_density(PLANE, OTHER_MEAN + 1, OTHER_COVARIANCE / 4).exp()
    )
    for q in (laplace / (laplace.sum() * STEP**2), humps):
        direct = torch.special.entr(q).sum() * STEP**2
        assert formula(q, *gaussian_like(q)).item() == pytest.approx(direct.item(), abs=1e-7)


def joint_tables() -> tuple[Tensor, Tensor]:
    """Two probability tables of a pair with 4 × 5 values, by chance."""
    q, p = torch.rand(2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return q**3 / (q**3).sum(), p / p.sum()


def divergence(q: Tensor, p: Tensor) -> Tensor:
    """KL(q ‖ p) over the last dimension."""
    return (q * (q / p).log()).sum(-1)


def rows(table: Tensor) -> Tensor:
    """The conditional distributions of the second variable."""
    return table / table.sum(1, keepdim=True)


@exact(
    "eq:kl-chain-rule",
    implementation=lambda q, p: divergence(q.sum(1), p.sum(1)) + q.sum(1) @ divergence(rows(q), rows(p)),
    mutants={
        "first stage only": lambda q, p: divergence(q.sum(1), p.sum(1)),
        "second stage only": lambda q, p: q.sum(1) @ divergence(rows(q), rows(p)),
        "second stage averaged under p": lambda q, p: (
            divergence(q.sum(1), p.sum(1)) + p.sum(1) @ divergence(rows(q), rows(p))
        ),
        "second stage the other way round": lambda q, p: (
            divergence(q.sum(1), p.sum(1)) + q.sum(1) @ divergence(rows(p), rows(q))
        ),
        "second stage at the mean only": lambda q, p: (
            divergence(q.sum(1), p.sum(1)) + divergence(rows(q), rows(p))[2]
        ),
    },
)
def test_kl_chain_rule(formula):
    """The divergence of the two tables as one distribution each."""
    q, p = joint_tables()
    assert formula(q, p).item() == pytest.approx(scipy.stats.entropy(q.flatten(), p.flatten()), rel=1e-12)


def behind(x: Tensor, channel: Tensor) -> tuple[Tensor, Tensor]:
    """What comes out of a channel, and the distribution of what went in, one row for each of them."""
    joint = (x[:, None] * channel).T
    return joint.sum(1), rows(joint)


def left_open(q: Tensor, p: Tensor, channel: Tensor) -> tuple[Tensor, Tensor]:
    """The divergence behind the channel, and that of what is left open for each of its outputs."""
    (q_y, q_back), (p_y, p_back) = behind(q, channel), behind(p, channel)
    return divergence(q_y, p_y), divergence(q_back, p_back)


@exact(
    "eq:data-processing",
    implementation=lambda q, p, k: left_open(q, p, k)[0] + behind(q, k)[0] @ left_open(q, p, k)[1],
    mutants={
        "nothing left open": lambda q, p, k: left_open(q, p, k)[0],
        "what is left open taken away": lambda q, p, k: (
            left_open(q, p, k)[0] - behind(q, k)[0] @ left_open(q, p, k)[1]
        ),
        "averaged under p": lambda q, p, k: left_open(q, p, k)[0] + behind(p, k)[0] @ left_open(q, p, k)[1],
        "the other way round": lambda q, p, k: (
            left_open(q, p, k)[0] + behind(q, k)[0] @ left_open(p, q, k)[1]
        ),
    },
)
def test_data_processing(formula):
    """The divergence before a channel with 4 inputs and 5 outputs; behind it there is less."""
    first, second = joint_tables()
    q, p, channel = first.sum(1), second.sum(1), rows(second**2)
    before = scipy.stats.entropy(q, p)
    assert formula(q, p, channel).item() == pytest.approx(before, rel=1e-12)
    assert scipy.stats.entropy(q @ channel, p @ channel) < before


def mixture_moments(weights, means, covariances):
    """Mean and covariance of a mixture by eq:total-variance."""
    mean = weights @ means
    between = torch.einsum("k,ki,kj->ij", weights, means - mean, means - mean)
    return mean, torch.einsum("k,kij->ij", weights, covariances) + between


@quadrature(
    "eq:total-variance",
    implementation=mixture_moments,
    mutants={
        "nothing between": lambda w, m, c: (w @ m, torch.einsum("k,kij->ij", w, c)),
        "nothing within": lambda w, m, c: mixture_moments(w, m, 0 * c),
        "weights forgotten": lambda w, m, c: mixture_moments(torch.full_like(w, 1 / 3), m, c),
        "second moment for covariance": lambda w, m, c: (
            w @ m,
            torch.einsum("k,kij->ij", w, c) + torch.einsum("k,ki,kj->ij", w, m, m),
        ),
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


SCHEDULE = NoiseSchedule(linear_betas(50), dtype=torch.float64)
CLEAN_WEIGHTS, CLEAN_MEANS, CLEAN_VARIANCES = (0.7, 0.3), (-0.6, 1.4), (0.16, 0.09)
ORACLE = GaussianMixtureOracle(
    SCHEDULE, [[mean] for mean in CLEAN_MEANS], CLEAN_VARIANCES, CLEAN_WEIGHTS, dtype=torch.float64
)


def oracle_guess(t: int, x_t: float) -> tuple[float, float]:
    """E[x_0|x_t] of the package's oracle; Cov[x_0|x_t] from the slope of its score."""
    x, level = torch.full((1, 1, 1, 1), x_t, dtype=torch.float64), torch.tensor([t])
    curvature = torch.autograd.functional.jacobian(lambda y: ORACLE.score(y, level).sum(), x).item()
    s = (1 - SCHEDULE.alpha_bar[t].item()) / SCHEDULE.alpha_bar[t].item()
    mean = ORACLE.expected_x0(x, level).item()
    return mean, s + s * curvature * SCHEDULE.alpha_bar[t].item() * s


def by_score(t, x_t, *, noise=1.0, spread=1.0):
    """Both lines of eq:tweedie from the oracle's score at y = x_t/√ᾱ_t; the options are for mutants."""
    x, level = torch.full((1, 1, 1, 1), x_t, dtype=torch.float64), torch.tensor([t])
    alpha_bar = SCHEDULE.alpha_bar[t].item()
    s = (1 - alpha_bar) / alpha_bar
    slope = ORACLE.score(x, level).item() * math.sqrt(alpha_bar)  # d/dy = √ᾱ d/dx_t
    return x_t / math.sqrt(alpha_bar) + noise * s * slope, spread * oracle_guess(t, x_t)[1]


@quadrature(
    "eq:tweedie",
    where="ddpm.mixture_oracle.GaussianMixtureOracle.expected_x0",
    implementation=oracle_guess,
    mutants={
        "sign of the slope": lambda t, x_t: by_score(t, x_t, noise=-1.0),
        "no slope": lambda t, x_t: by_score(t, x_t, noise=0.0),
        "half of the slope": lambda t, x_t: by_score(t, x_t, noise=0.5),
        "curvature with the wrong sign": lambda t, x_t: (
            oracle_guess(t, x_t)[0],
            2 * (1 / SCHEDULE.alpha_bar[t].item() - 1) - oracle_guess(t, x_t)[1],
        ),
        "variance of the noise": lambda t, x_t: (
            oracle_guess(t, x_t)[0],
            1 / SCHEDULE.alpha_bar[t].item() - 1,
        ),
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
