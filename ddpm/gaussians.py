"""What the derivations need to know about Gaussians: density, KL divergence, product, conditioning, 8-bit likelihood.

Everything here is elementwise on diagonal Gaussians, except `condition` and `measured`, which take a full covariance.
Arguments broadcast, a log-variance is the natural logarithm of a variance, and results are in nats.
"""

import math

import torch
from torch import Tensor

from ddpm.support.tensor_checks import check_8bit

# The 256 grey levels of an 8-bit image, scaled to [-1, 1], lie 2/255 apart.
BIN_HALF_WIDTH = 1 / 255
# The floor of one pixel's likelihood, as in the DDPM paper's code.
LOWEST_LOG_PROBABILITY = math.log(1e-12)


def log_density(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log N(x; mean, variance) (eq:gaussian)."""
    return -0.5 * (math.log(2 * math.pi) + log_variance + (x - mean) ** 2 * torch.exp(-log_variance))


def kl_divergence(mean_p: Tensor, log_variance_p: Tensor, mean_q: Tensor, log_variance_q: Tensor) -> Tensor:
    """KL(p ‖ q) of every element; their sum is the divergence of the vectors (eq:kl-gaussians)."""
    log_ratio = log_variance_p - log_variance_q
    return 0.5 * (torch.exp(log_ratio) - 1 - log_ratio + (mean_p - mean_q) ** 2 * torch.exp(-log_variance_q))


def product(mean_a: Tensor, variance_a: Tensor, mean_b: Tensor, variance_b: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the Gaussian proportional to N(x; a) · N(x; b) (eq:gaussian-product).

    Precisions (1/variance) add; the mean is the average of the two means weighted by precision.
    """
    total = variance_a + variance_b
    return (mean_a * variance_b + mean_b * variance_a) / total, variance_a * variance_b / total


def condition(mean: Tensor, covariance: Tensor, observed: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The Gaussian of the other coordinates once some of them are known.

    For a joint N(mean, covariance), of shapes (D,) and (D, D), split into a (unknown) and b (known), the conditional of
    a has mean μ_a + Σ_ab Σ_bb⁻¹ (b − μ_b) and covariance Σ_aa − Σ_ab Σ_bb⁻¹ Σ_ba (eq:conditional-gaussian), in the
    order in which a stood. The mask `observed`, shape (D,), is True for b, whose values are `value`.

    Raises:
        ValueError: if the shapes disagree, or nothing or everything is observed.
    """
    dimensions = len(mean)
    mask_fits = observed.shape == (dimensions,) and observed.dtype == torch.bool
    if covariance.shape != (dimensions, dimensions) or not mask_fits:
        raise ValueError(
            f"mean of shape ({dimensions},) needs a covariance of shape ({dimensions}, {dimensions}) and a boolean mask"
            f" of shape ({dimensions},), but got {tuple(covariance.shape)}, and {observed.dtype} of shape"
            f" {tuple(observed.shape)}"
        )
    known = int(observed.sum())
    if not 0 < known < dimensions or value.shape != (known,):
        raise ValueError(
            f"some but not all of the {dimensions} coordinates must be observed, with one value each;"
            f" got {known} observed and values of shape {tuple(value.shape)}"
        )
    unknown = ~observed
    cross = covariance[unknown][:, observed]
    gain = torch.linalg.solve(covariance[observed][:, observed], cross.mT).mT
    return mean[unknown] + gain @ (value - mean[observed]), covariance[unknown][:, unknown] - gain @ cross.mT


def measured(
    mean: Tensor, covariance: Tensor, matrix: Tensor, value: Tensor, variance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """N(x; mean, covariance) once y = A x + noise is known: mean, covariance (eq:linear-posterior) and log p(y).

    The noise has this variance. The pair (x, y) is Gaussian, so that this is `condition`, with Cov(x, y) = Σ Aᵀ and
    Var(y) = A Σ Aᵀ + variance · I.
    Means have shape (…, D), covariances (…, D, D); A, the `matrix`, is (M, D) and y, the `value`, (M,).
    """
    cross = covariance @ matrix.mT
    spread = matrix @ cross + variance * torch.eye(len(matrix)).to(cross)
    gain = torch.linalg.solve(spread, cross.mT).mT
    off = (value - mean @ matrix.mT)[..., None]
    evidence = -0.5 * (off.mT @ torch.linalg.solve(spread, off)).flatten(-2).squeeze(-1)
    evidence = evidence - 0.5 * (torch.logdet(spread) + len(matrix) * math.log(2 * math.pi))
    left = covariance - gain @ cross.mT
    return mean + (gain @ off).squeeze(-1), (left + left.mT) / 2, evidence


def normal_cdf(z: Tensor) -> Tensor:
    """Φ(z), the standard normal distribution function, to full relative precision where it is small.

    `torch.special.ndtr` is computed as (1 + erf(z/√2))/2: in float32 it is 4 % off at z = −5 and 0 at −6.
    """
    return 0.5 * torch.special.erfc(-math.sqrt(0.5) * z)


def discretized_log_likelihood(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log-probability of 8-bit pixels under a Gaussian cut into 256 bins (Ho et al. 2020, eq. 13; eq:decoder).

    Of the levels −1, −1 + 2/255, …, 1, each x owns the interval [x − 1/255, x + 1/255]; the darkest bin reaches down to
    −∞ and the brightest up to +∞, so that the 256 probabilities sum to one. None counts as less than 1e-12.

    Raises:
        ValueError: if a pixel lies outside [-1, 1] or between two levels.
    """
    check_8bit("x", x)
    return bin_log_probability(x, mean, log_variance)


def bin_log_probability(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """`discretized_log_likelihood` without a look at the pixels, for which an accelerator would have to wait."""
    # Φ(b) − Φ(a) loses all digits where both are close to 1: such pixels, and their Gaussian, are mirrored to the left
    # tail, where Φ is small.
    mirror = x - mean > BIN_HALF_WIDTH
    x, mean = torch.where(mirror, -x, x), torch.where(mirror, -mean, mean)
    inverse_std = torch.exp(-0.5 * log_variance)
    upper = (x - mean + BIN_HALF_WIDTH) * inverse_std
    lower = (x - mean - BIN_HALF_WIDTH) * inverse_std
    probability = normal_cdf(upper) - normal_cdf(lower)
    probability = torch.where(x < -1 + BIN_HALF_WIDTH, normal_cdf(upper), probability)
    probability = torch.where(x > 1 - BIN_HALF_WIDTH, normal_cdf(-lower), probability)
    return probability.clamp(min=math.exp(LOWEST_LOG_PROBABILITY)).log()
