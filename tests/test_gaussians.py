"""`ddpm.gaussians` where the equations' own tests do not look: far tails, both precisions, gradients, any dimension."""

import functools
import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats

from ddpm import to_model_scale
from ddpm.gaussians import (
    LOWEST_LOG_PROBABILITY,
    condition,
    discretized_log_likelihood,
    kl_divergence,
    log_density,
    product,
)
from tests.networks import randn

approx = pytest.approx
GREY = torch.arange(256, dtype=torch.float64) / 127.5 - 1
SOME = [*range(4), *range(9, 250, 10), *range(250, 256)]


def double(*values):
    return [torch.tensor(value, dtype=torch.float64) for value in values]


def test_elementwise_functions_broadcast():
    x, mean, log_variance = torch.zeros(2, 3, 4, 4), torch.zeros(3, 1, 1), torch.zeros(2, 1, 1, 1)
    assert log_density(x, mean, log_variance).shape == x.shape
    assert kl_divergence(x, log_variance, mean, torch.tensor(0.0)).shape == x.shape
    assert product(x, torch.tensor(1.0), mean, torch.ones(2, 1, 1, 1))[0].shape == x.shape
    assert discretized_log_likelihood(x + 1, mean, log_variance).shape == x.shape


# Conditioning


@pytest.mark.parametrize("observed", [[True, False], [False, True, False, True], [True] * 6 + [False]])
def test_condition_agrees_with_the_precision_matrix(observed):
    """With Λ = Σ⁻¹ the conditional of a given b is N(μ_a − Λ_aa⁻¹ Λ_ab (b − μ_b), Λ_aa⁻¹)."""
    dimensions, observed = len(observed), torch.tensor(observed)
    root = randn(dimensions, dimensions + 2, dtype=GREY.dtype)
    mean = randn(dimensions, seed=1, dtype=GREY.dtype)
    value = randn(int(observed.sum()), seed=2, dtype=GREY.dtype)
    precision = (root @ root.T).inverse()
    inner = precision[~observed][:, ~observed].inverse()
    expected = mean[~observed] - inner @ precision[~observed][:, observed] @ (value - mean[observed])
    torch.testing.assert_close(condition(mean, root @ root.T, observed, value), (expected, inner))


# The likelihood of 8-bit pixels


@functools.cache
def exact_bin(k, mean, log_variance):
    """log P(grey level k) with 60 digits, from the definition: bins of half-width 1/255, open at both ends."""
    with mpmath.workdps(60):
        centre, half = 2 * mpmath.mpf(k) / 255 - 1, mpmath.mpf(1) / 255
        std = mpmath.exp(mpmath.mpf(log_variance) / 2)

        # Φ of either side by erfc, exact in its own tail.
        def outside(edge, sign):
            return mpmath.erfc(sign * (edge - mean) / std / mpmath.sqrt(2)) / 2

        low, high = centre - half, centre + half
        if k == 0:
            return float(mpmath.log(outside(high, -1)))
        if k == 255:
            return float(mpmath.log(outside(low, 1)))
        inside = outside(high, -1) - outside(low, -1) if high < mean else outside(low, 1) - outside(high, 1)
        return float(mpmath.log(inside))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("log_variance", [-9.8, -7.0, -4.0, 0.0, 2.0])
@pytest.mark.parametrize("mean", [-1.2, -1.0, -0.5, 0.0, 0.1, 1.0, 1.2])
def test_grey_levels_agree_with_sixty_digits(mean, log_variance, dtype):
    """In the middle, in both tails and at both edges; exp(−9.8/2) is the DDPM paper's smallest standard deviation.

    In float32 the argument of Φ, z = (x − mean ± 1/255)/std, carries rounding of about 2⁻²⁴ · 4/std, and log Φ moves by
    at most (1 + |z|) times that; the bin's width, an eighth of it at most, is the difference of two such values.
    """
    exact = np.array([exact_bin(k, mean, log_variance) for k in SOME])
    grey = GREY[SOME]
    logs = discretized_log_likelihood(
        grey.to(dtype), *(number.to(dtype) for number in double(mean, log_variance))
    )
    expected = np.maximum(exact, LOWEST_LOG_PROBABILITY)
    assert logs.dtype == dtype
    if dtype == torch.float64:
        np.testing.assert_allclose(logs.numpy(), expected, rtol=1e-9, atol=1e-9)
    else:
        std = math.exp(log_variance / 2)
        z = np.minimum((np.abs(grey.numpy() - mean) + 1 / 255) / std, 8)
        # How much smaller a bin is than the Φ whose difference it is.
        smaller = np.maximum(1, std * 255)
        assert (np.abs(logs.numpy() - expected) <= 2.0**-24 * 4 * ((1 + z) / min(std, 1) + smaller)).all()


def test_far_tails_end_at_the_floor_and_never_below():
    """A pixel 60 standard deviations away costs log(1e-12), not −∞ and not the 46 nats of log(1e-20)."""
    logs = discretized_log_likelihood(GREY, *double(0.0, math.log((1 / 60) ** 2)))
    assert logs[[0, -1]].tolist() == approx([math.log(1e-12)] * 2, rel=1e-12)
    assert (logs >= math.log(1e-12) * (1 + 1e-12)).all()
    # 6.5 standard deviations up: Φ is 1 − 4e-11, where a plain difference in float32 is 0. The tail still counts.
    tail = discretized_log_likelihood(
        *(torch.tensor([value]) for value in (1.0, -0.3, 2 * math.log(0.2)))
    ).item()
    assert tail == approx(stats.norm.logsf(1 - 1 / 255, -0.3, 0.2), rel=1e-4)
    assert tail > math.log(1e-12)


@pytest.mark.parametrize("log_variance", [-20.0, -9.8, -4.0, 2.0])
def test_gradients_are_finite_everywhere(log_variance):
    mean = torch.linspace(-1.5, 1.5, 256, requires_grad=True)
    logs = torch.full((256, 1), log_variance, requires_grad=True)
    discretized_log_likelihood(GREY.float()[:, None], mean, logs).sum().backward()
    assert mean.grad.isfinite().all()
    assert logs.grad.isfinite().all()


def test_gradient_pulls_the_mean_to_the_pixel():
    mean, log_variance = (value.requires_grad_() for value in double(0.1, -3.0))
    discretized_log_likelihood(GREY[200], mean, log_variance).backward()
    step = 1e-6
    up, down = (exact_bin(200, 0.1 + sign * step, -3.0) for sign in (1, -1))
    assert mean.grad.item() == approx((up - down) / (2 * step), rel=1e-6)


def test_8_bit_images_survive_the_way_through_float32():
    """What `ToTensor` and the scale of the maths make of bytes is accepted."""
    pixels = to_model_scale(torch.arange(256, dtype=torch.uint8).float() / 255)
    assert discretized_log_likelihood(pixels, pixels, torch.tensor(-4.0)).isfinite().all()
    assert discretized_log_likelihood(pixels[:0], pixels[:0], torch.tensor(-4.0)).shape == (0,)
