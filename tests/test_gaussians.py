"""`ddpm.gaussians` against numerical integration, SciPy, 60-digit arithmetic and linear algebra done another way."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from ddpm.gaussians import (
    LOWEST_LOG_PROBABILITY,
    condition,
    discretized_log_likelihood,
    kl_divergence,
    log_density,
    product,
)

approx = pytest.approx
LEVELS = torch.arange(256, dtype=torch.float64) / 127.5 - 1
means = st.floats(-3, 3)
log_variances = st.floats(-6, 4)


def double(*values):
    return [torch.tensor(value, dtype=torch.float64) for value in values]


# Density, divergence, product


@given(x=st.floats(-20, 20), mean=means, log_variance=log_variances)
def test_log_density_is_scipys(x, mean, log_variance):
    expected = stats.norm.logpdf(x, mean, math.exp(log_variance / 2))
    assert log_density(*double(x, mean, log_variance)).item() == approx(expected, rel=1e-12, abs=1e-12)


@given(mean_p=means, log_p=log_variances, mean_q=means, log_q=log_variances)
def test_kl_is_the_integral(mean_p, log_p, mean_q, log_q):
    p = stats.norm(mean_p, math.exp(log_p / 2))
    q = stats.norm(mean_q, math.exp(log_q / 2))
    width = 12 * p.std()
    integral, _ = integrate.quad(
        lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)),
        mean_p - width,
        mean_p + width,
        epsabs=1e-12,
        epsrel=1e-11,
        limit=200,
    )
    divergence = kl_divergence(*double(mean_p, log_p, mean_q, log_q)).item()
    assert divergence == approx(integral, rel=1e-8, abs=1e-10)
    assert divergence >= -1e-12


def test_kl_is_zero_only_for_equals_and_not_symmetric():
    zero, one, two = double(0.0, 1.0, 2.0)
    assert kl_divergence(one, two, one, two) == 0
    assert kl_divergence(zero, zero, zero, two) != kl_divergence(zero, two, zero, zero)


@given(mean_a=means, log_a=log_variances, mean_b=means, log_b=log_variances)
def test_product_is_the_normalised_product(mean_a, log_a, mean_b, log_b):
    """Mean and variance of N(x; a) · N(x; b) on a grid that spans the narrower factor, wherever the product peaks."""
    variance_a, variance_b = math.exp(log_a), math.exp(log_b)
    narrow = math.sqrt(min(variance_a, variance_b))
    grid = np.linspace(min(mean_a, mean_b) - 12 * narrow, max(mean_a, mean_b) + 12 * narrow, 40_001)
    logs = -((grid - mean_a) ** 2) / (2 * variance_a) - (grid - mean_b) ** 2 / (2 * variance_b)
    weight = np.exp(logs - logs.max())
    weight /= weight.sum()
    mean = (weight * grid).sum()
    variance = (weight * (grid - mean) ** 2).sum()
    got_mean, got_variance = product(*double(mean_a, variance_a, mean_b, variance_b))
    assert got_mean.item() == approx(mean, rel=1e-7, abs=1e-8)
    assert got_variance.item() == approx(variance, rel=1e-6)


def test_elementwise_functions_broadcast():
    x, mean, log_variance = torch.zeros(2, 3, 4, 4), torch.zeros(3, 1, 1), torch.zeros(2, 1, 1, 1)
    assert log_density(x, mean, log_variance).shape == x.shape
    assert kl_divergence(x, log_variance, mean, torch.tensor(0.0)).shape == x.shape
    assert product(x, torch.tensor(1.0), mean, torch.ones(2, 1, 1, 1))[0].shape == x.shape
    assert discretized_log_likelihood(x + 1, mean, log_variance).shape == x.shape


# Conditioning


@given(seed=st.integers(0, 10_000), dimensions=st.integers(2, 7))
def test_condition_agrees_with_the_precision_matrix(seed, dimensions):
    """With Λ = Σ⁻¹ the conditional of a given b is N(μ_a − Λ_aa⁻¹ Λ_ab (b − μ_b), Λ_aa⁻¹)."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(dimensions, dimensions + 2))
    covariance = root @ root.T
    mean = rng.normal(size=dimensions)
    known = int(rng.integers(1, dimensions))
    observed = np.zeros(dimensions, dtype=bool)
    observed[rng.choice(dimensions, known, replace=False)] = True
    value = rng.normal(size=known)

    precision = np.linalg.inv(covariance)
    inner = np.linalg.inv(precision[np.ix_(~observed, ~observed)])
    expected = mean[~observed] - inner @ precision[np.ix_(~observed, observed)] @ (value - mean[observed])

    got_mean, got_covariance = condition(
        *(torch.from_numpy(part) for part in (mean, covariance, observed, value))
    )
    np.testing.assert_allclose(got_mean.numpy(), expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(got_covariance.numpy(), inner, rtol=1e-6, atol=1e-8)


def test_condition_is_a_slice_of_the_joint_density():
    """In two dimensions: the slice of the joint density at b, normalised by quadrature."""
    mean, covariance, b = np.array([0.3, -1.0]), np.array([[2.0, -0.9], [-0.9, 0.7]]), 0.4
    joint = stats.multivariate_normal(mean, covariance)
    moments = [integrate.quad(lambda a, n=n: a**n * joint.pdf([a, b]), -20, 20)[0] for n in range(3)]
    expected_mean = moments[1] / moments[0]
    got_mean, got_covariance = condition(
        torch.from_numpy(mean),
        torch.from_numpy(covariance),
        torch.tensor([False, True]),
        torch.tensor([b], dtype=torch.float64),
    )
    assert got_mean.item() == approx(expected_mean, rel=1e-7)
    assert got_covariance.item() == approx(moments[2] / moments[0] - expected_mean**2, rel=1e-7)


@pytest.mark.parametrize(
    ("covariance", "observed", "value", "message"),
    [
        (torch.eye(2), [True, False, False], [0.0], r"covariance of shape \(3, 3\).*but got \(2, 2\)"),
        (torch.eye(3), [True, False], [0.0], r"boolean mask of shape \(3,\).*of shape \(2,\)"),
        (torch.eye(3), [1, 0, 0], [0.0], r"boolean mask of shape \(3,\).*torch.int64"),
        (torch.eye(3), [False] * 3, [], "got 0 observed"),
        (torch.eye(3), [True] * 3, [0.0] * 3, "got 3 observed"),
        (torch.eye(3), [True, False, False], [0.0, 1.0], r"got 1 observed and values of shape \(2,\)"),
    ],
)
def test_condition_refuses_what_does_not_fit(covariance, observed, value, message):
    with pytest.raises(ValueError, match=message):
        condition(torch.zeros(3), covariance, torch.tensor(observed), torch.tensor(value))


# The likelihood of 8-bit pixels


def exact_bin(k, mean, log_variance):
    """log P(level k) with 60 digits, from the definition: bins of half-width 1/255, open at both ends."""
    with mpmath.workdps(60):
        centre = 2 * mpmath.mpf(k) / 255 - 1
        std = mpmath.exp(mpmath.mpf(log_variance) / 2)

        def below(edge):  # Φ, by erfc of the positive side, exact in both tails
            return mpmath.erfc(-(edge - mean) / std / mpmath.sqrt(2)) / 2

        def above(edge):
            return mpmath.erfc((edge - mean) / std / mpmath.sqrt(2)) / 2

        low, high = centre - mpmath.mpf(1) / 255, centre + mpmath.mpf(1) / 255
        if k == 0:
            return float(mpmath.log(below(high)))
        if k == 255:
            return float(mpmath.log(above(low)))
        return float(mpmath.log(below(high) - below(low) if high < mean else above(low) - above(high)))


@given(mean=st.floats(-1.5, 1.5), log_variance=st.floats(-12, 4))
def test_256_levels_share_probability_one(mean, log_variance):
    logs = discretized_log_likelihood(LEVELS, *double(mean, log_variance))
    assert logs.exp().sum().item() == approx(1, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("log_variance", [-9.8, -7.0, -4.0, 0.0, 2.0])
@pytest.mark.parametrize("mean", [-1.2, -1.0, -0.5, 0.0, 0.1, 1.0, 1.2])
def test_each_level_agrees_with_sixty_digits(mean, log_variance, dtype):
    """In the middle, in both tails and at both edges; exp(−9.8/2) is the DDPM paper's smallest standard deviation.

    In float32 the argument of Φ, z = (x − mean ± 1/255)/std, carries rounding of about 2⁻²⁴ · 4/std, and log Φ moves by
    at most (1 + |z|) times that; the bin's width, an eighth of it at most, is the difference of two such values.
    """
    exact = np.array([exact_bin(k, mean, log_variance) for k in range(256)])
    logs = discretized_log_likelihood(
        LEVELS.to(dtype), torch.tensor(mean, dtype=dtype), torch.tensor(log_variance, dtype=dtype)
    )
    expected = np.maximum(exact, LOWEST_LOG_PROBABILITY)
    assert logs.dtype == dtype
    if dtype == torch.float64:
        np.testing.assert_allclose(logs.numpy(), expected, rtol=1e-9, atol=1e-9)
    else:
        std = math.exp(log_variance / 2)
        z = np.minimum((np.abs(LEVELS.numpy() - mean) + 1 / 255) / std, 8)
        difference_of = np.maximum(
            1, std * 255
        )  # how much smaller a bin is than the Φ whose difference it is
        bound = 2.0**-24 * 4 * ((1 + z) / min(std, 1) + difference_of)
        assert (np.abs(logs.numpy() - expected) <= bound).all()


def test_far_tails_end_at_the_floor_and_never_below():
    """A pixel 60 standard deviations away costs log(1e-12), not −∞ and not the 46 nats of log(1e-20)."""
    logs = discretized_log_likelihood(LEVELS, *double(0.0, math.log((1 / 60) ** 2)))
    assert logs[0].item() == approx(math.log(1e-12), rel=1e-12)
    assert logs[-1].item() == approx(math.log(1e-12), rel=1e-12)
    assert (logs >= math.log(1e-12) * (1 + 1e-12)).all()
    # 6.5 standard deviations up: Φ is 1 − 4e-11, where a plain difference in float32 is 0. The tail still counts.
    tail = discretized_log_likelihood(
        torch.tensor([1.0]), torch.tensor([-0.3]), torch.tensor([2 * math.log(0.2)])
    )
    expected = stats.norm.logsf(1 - 1 / 255, -0.3, 0.2)
    assert tail.item() == approx(expected, rel=1e-4)
    assert tail.item() > math.log(1e-12)


@given(level=st.integers(0, 255), mean=st.floats(-1, 1), log_variance=st.floats(-12, 2))
def test_mirrored_images_cost_the_same(level, mean, log_variance):
    forward = discretized_log_likelihood(LEVELS[level], *double(mean, log_variance))
    mirrored = discretized_log_likelihood(-LEVELS[level], *double(-mean, log_variance))
    assert forward.item() == approx(mirrored.item(), rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("log_variance", [-20.0, -9.8, -4.0, 2.0])
def test_gradients_are_finite_everywhere(log_variance):
    mean = torch.linspace(-1.5, 1.5, 256, requires_grad=True)
    logs = torch.full((256, 1), log_variance, requires_grad=True)
    discretized_log_likelihood(LEVELS.float()[:, None], mean, logs).sum().backward()
    assert mean.grad is not None
    assert logs.grad is not None
    assert mean.grad.isfinite().all()
    assert logs.grad.isfinite().all()


def test_gradient_pulls_the_mean_to_the_pixel():
    mean, log_variance = (value.requires_grad_() for value in double(0.1, -3.0))
    discretized_log_likelihood(LEVELS[200], mean, log_variance).backward()
    step = 1e-6
    up, down = (exact_bin(200, 0.1 + sign * step, -3.0) for sign in (1, -1))
    assert mean.grad.item() == approx((up - down) / (2 * step), rel=1e-6)
    assert mean.grad > 0


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        ([0.0, 1.1], r"scaled to \[-1, 1\], but these range from 0 to 1.1"),
        ([0.0, 255.0], r"range from 0 to 255"),
        ([-1.01], r"range from -1.01"),
        ([0.0], "some lie between two levels"),
        ([LEVELS[3].item() + 1e-4], "some lie between two levels"),
        ([math.nan], r"scaled to \[-1, 1\]"),
        ([LEVELS[3].item(), math.nan], r"scaled to \[-1, 1\]"),
    ],
)
def test_pixels_that_are_not_8_bit_are_refused(pixels, message):
    """0 lies between levels 127 and 128; images in [0, 1] are caught by it unless they are black and white."""
    with pytest.raises(ValueError, match=message):
        discretized_log_likelihood(torch.tensor(pixels), torch.zeros(1), torch.zeros(1))


def test_8_bit_images_survive_the_way_through_float32():
    """What `ToTensor` and the scale of the maths make of bytes is accepted, all 256 of them."""
    from ddpm import to_model_scale

    pixels = to_model_scale(torch.arange(256, dtype=torch.uint8).float() / 255)
    assert discretized_log_likelihood(pixels, pixels, torch.tensor(-4.0)).isfinite().all()
    assert discretized_log_likelihood(pixels[:0], pixels[:0], torch.tensor(-4.0)).shape == (0,)
