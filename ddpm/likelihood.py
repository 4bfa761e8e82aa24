"""The variational bound, term by term: how many bits the model needs to write down a picture (eq:elbo).

The bound on −log p(x_0) is a sum over the chain,

    L_T  +  Σ_{t=2…T} L_{t−1}  +  L_0,

a Kullback–Leibler divergence at the far end, one per step of the way back, and the price of the pixels themselves at
the near end (Ho et al. 2020, eq. 5). Every term is an expectation over the noise in x_t. It is estimated here with one
draw of that noise for each image and each t, which leaves every term, and their sum, unbiased.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ddpm import gaussians, samplers
from ddpm.checks import check_choice, check_images
from ddpm.samplers import Denoiser, Variance
from ddpm.schedule import NoiseSchedule

Decoder = Literal["8-bit", "continuous"]


@dataclass(frozen=True)
class Estimate:
    """A mean over images and how far to trust it.

    Attributes:
        mean: the mean over images.
        standard_error: its standard error, shaped like `mean`; NaN for a single image. It counts both the noise that
            was drawn and the difference between images.
    """

    mean: Tensor
    standard_error: Tensor


@dataclass(frozen=True)
class VariationalBound:
    """Every term of the bound for every image, in nats, summed over the image's pixels and channels (eq:elbo).

    Attributes:
        prior: L_T, shape (B,): what is left of the image in x_T.
        steps: shape (B, T+1), indexed by the paper's t: column t is the cost of the step from x_t to x_{t−1}. That is
            L_{t−1} for t = 2 … T, and L_0, the decoder, for t = 1. Column 0 is 0: at clean data there is no step.
        dimensions: C·H·W, the number of values in an image.
    """

    prior: Tensor
    steps: Tensor
    dimensions: int

    @property
    def decoder(self) -> Tensor:
        """L_0, shape (B,)."""
        return self.steps[:, 1]

    @property
    def denoising(self) -> Tensor:
        """The sum of L_{t−1} over t = 2 … T, shape (B,)."""
        return self.steps[:, 2:].sum(1)

    @property
    def total(self) -> Tensor:
        """The whole bound on −log p(x_0), shape (B,): L_T + Σ L_{t−1} + L_0 (eq:elbo; eq:variational-bound)."""
        return self.prior + self.steps.sum(1)

    def bits_per_dim(self, nats: Tensor) -> Estimate:
        """Mean over the images of some of the terms, in bits per dimension (eq:bits-per-dim).

        Args:
            nats: one row per image, shape (B,) or (B, …), such as `bound.total` or `bound.steps`.

        Returns:
            Mean and standard error in bits per dimension, without the first axis of `nats`.
        """
        bits = nats / (self.dimensions * math.log(2))
        return Estimate(bits.mean(0), bits.std(0) / math.sqrt(len(bits)))


@torch.no_grad()
def vlb_terms(
    diffusion: Denoiser,
    x0: Tensor,
    *,
    clip_x0: bool = True,
    variance: Variance | Tensor = "fixed_small",
    decoder: Decoder = "8-bit",
    labels: Tensor | None = None,
    generator: torch.Generator | None = None,
    seeds: Sequence[int] | None = None,
    batch_size: int = 256,
) -> VariationalBound:
    """Every term of the variational bound at every t, one draw of the noise for each image and each t.

    That is T network calls per image. Each image has a random stream of its own, so that its terms depend neither on
    `batch_size` nor, with `seeds`, on the images around it. A model in training mode is put into evaluation mode for
    the time being.

    Args:
        diffusion: the model, or an exact denoiser; only `.schedule` and `.predict` are used.
        x0: clean images in [-1, 1], shape (B, C, H, W); exact 8-bit levels for the 8-bit decoder.
        clip_x0: clip the predicted x_0 to [-1, 1] first; turn off for data of another range.
        variance: the variance of p_θ(x_{t−1} | x_t): "fixed_small" for β̃_t, "fixed_large" for β_t, or a table of your
            own of shape (T+1,), of which entry 0 is not used. At t = 1, where β̃_1 = 0 would make every picture but one
            impossible, both fixed choices take β̃_2, as the DDPM paper's code does.
        decoder: "8-bit" for the discrete decoder of eq:decoder; "continuous" for the density itself, for data that are
            not pictures.
        labels: class labels, shape (B,), for a model that takes them.
        generator: source of the randomness; None means torch's global one.
        seeds: one seed per image instead.
        batch_size: images per network call, at least 1.

    Returns:
        The terms, in float64 on the CPU.

    Raises:
        ValueError: if shapes or choices are wrong, a value is not finite, or, for the 8-bit decoder, a pixel is not one
            of the 256 levels.
    """
    check_data(x0, decoder, labels, batch_size)
    log_variance = reverse_log_variance(diffusion.schedule, variance)
    source = image_streams(len(x0), generator, seeds)
    x0 = x0.to(
        log_variance.device, torch.promote_types(x0.dtype, torch.float32)
    )  # half precision is too coarse
    parts = []
    with evaluating(diffusion):
        for first in range(0, len(x0), batch_size):
            chosen = slice(first, first + batch_size)
            chosen_labels = None if labels is None else labels[chosen].to(log_variance.device)
            reverse = Reverse(diffusion, log_variance, chosen_labels, clip_x0)
            parts.append(batch_terms(reverse, x0[chosen], decoder, source[chosen]))
    prior, steps = (torch.cat(part) for part in zip(*parts, strict=True))
    return VariationalBound(prior, steps, dimensions=x0[0].numel())


@dataclass(frozen=True)
class Reverse:
    """p_θ(x_{t−1} | x_t): the posterior with the predicted x_0 in it, and a variance for every t (eq:reverse-step).

    Attributes:
        diffusion: the model.
        log_variance: log σ_t², shape (T+1,).
        labels: class labels of the batch, shape (B,), or None.
        clip_x0: whether to clip the predicted x_0 to [-1, 1].
    """

    diffusion: Denoiser
    log_variance: Tensor
    labels: Tensor | None
    clip_x0: bool

    def mean_and_log_variance(self, x_t: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """Mean, shaped like `x_t`, and log-variance of x_{t−1} given x_t of shape (B, C, H, W)."""
        levels = samplers.levels(x_t, t)
        x0 = self.diffusion.predict(x_t, levels, self.labels, clip_x0=self.clip_x0).x0
        return posterior_mean(self.diffusion.schedule, x0, x_t, t), self.log_variance[t]


def batch_terms(
    reverse: Reverse, x0: Tensor, decoder: Decoder, source: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """L_T of shape (B,) and the steps of shape (B, T+1) for a batch, in float64 on the CPU."""
    schedule = reverse.diffusion.schedule
    steps = x0.new_zeros(len(x0), schedule.timesteps + 1)
    for t in range(schedule.timesteps, 0, -1):
        x_t = schedule.sqrt_alpha_bar[t] * x0 + schedule.sigma[t] * samplers.randn_like(x0, source)
        term = decoder_term(reverse, x0, x_t, decoder) if t == 1 else denoising_term(reverse, x0, x_t, t)
        steps[:, t] = per_image(term)
    return per_image(prior_term(schedule, x0)).cpu().double(), steps.cpu().double()


# The three kinds of terms, in nats per pixel


def prior_term(schedule: NoiseSchedule, x0: Tensor) -> Tensor:
    """L_T: KL(q(x_T | x_0) ‖ N(0, I)) of every pixel, shaped like `x0` (eq:prior-term); nothing in it is trained."""
    mean = schedule.sqrt_alpha_bar[-1] * x0
    zero = torch.zeros_like(x0)
    return gaussians.kl_divergence(mean, 2 * schedule.sigma[-1].log() + zero, zero, zero)


def denoising_term(reverse: Reverse, x0: Tensor, x_t: Tensor, t: int) -> Tensor:
    """L_{t−1}: KL(q(x_{t−1} | x_t, x_0) ‖ p_θ(x_{t−1} | x_t)) of every pixel, for t = 2 … T (eq:loss-t).

    With the variance β̃_t it is a weighted error of the predicted x_0 (eq:loss-t-x0) or noise (eq:loss-t-noise).
    """
    schedule = reverse.diffusion.schedule
    mean, log_variance = reverse.mean_and_log_variance(x_t, t)
    true_mean = posterior_mean(schedule, x0, x_t, t)
    return gaussians.kl_divergence(true_mean, schedule.posterior_log_variance_clipped[t], mean, log_variance)


def decoder_term(reverse: Reverse, x0: Tensor, x_1: Tensor, decoder: Decoder) -> Tensor:
    """L_0: −log p_θ(x_0 | x_1) of every pixel, a probability of 8-bit levels (eq:decoder) or a density."""
    mean, log_variance = reverse.mean_and_log_variance(x_1, 1)
    if decoder == "continuous":
        return -gaussians.log_density(x0, mean, log_variance)
    return -gaussians.discretized_log_likelihood(x0, mean, log_variance)


def posterior_mean(schedule: NoiseSchedule, x0: Tensor, x_t: Tensor, t: int) -> Tensor:
    """μ̃_t(x_t, x_0), shaped like `x_t` (eq:posterior-mean)."""
    return schedule.posterior_mean_coef_x0[t] * x0 + schedule.posterior_mean_coef_xt[t] * x_t


def per_image(term: Tensor) -> Tensor:
    """Sum over everything but the first axis: (B, C, H, W) → (B,)."""
    return term.flatten(1).sum(1)


def reverse_log_variance(schedule: NoiseSchedule, variance: Variance | Tensor) -> Tensor:
    """log σ_t² of p_θ(x_{t−1} | x_t), shape (T+1,), on the schedule's device.

    Args:
        schedule: the noise schedule.
        variance: "fixed_small", "fixed_large", or a table of σ_t² of shape (T+1,), positive for t = 1 … T.

    Returns:
        The table; both fixed choices hold log β̃_2 at t = 1.

    Raises:
        ValueError: if the word is unknown, or the table has another shape or a variance that is not positive.
    """
    clipped = schedule.posterior_log_variance_clipped
    if isinstance(variance, Tensor):
        if variance.shape != clipped.shape or not ((variance[1:] > 0) & variance[1:].isfinite()).all():
            raise ValueError(
                f"a table of variances must have shape ({len(clipped)},), that is T+1, and be positive and finite for"
                f" t = 1 … {len(clipped) - 1}, but got shape {tuple(variance.shape)} and values {variance}"
            )
        return variance.to(clipped).log()
    check_choice("variance", variance, get_args(Variance))
    if variance == "fixed_small":
        return clipped
    return torch.cat([clipped[:2], schedule.beta[2:].log()])


# Small helpers


def image_streams(
    count: int, generator: torch.Generator | None, seeds: Sequence[int] | None
) -> list[torch.Generator]:
    """One generator per image: from `seeds`, or seeded in turn by `generator`."""
    if seeds is None:
        seeds = samplers.randint(0, 2**62, count, generator, torch.device("cpu")).tolist()
        generator = None
    streams = samplers.image_generators(count, generator, seeds)
    assert isinstance(streams, list)  # image_generators returns a list wherever it is given seeds
    return streams


@contextmanager
def evaluating(diffusion: Denoiser) -> Iterator[None]:
    """Evaluation mode for a model that knows the difference: dropout would add noise to the bound."""
    if not isinstance(diffusion, nn.Module):
        yield
        return
    training = [module for module in diffusion.modules() if module.training]
    diffusion.eval()
    try:
        yield
    finally:
        for module in training:  # one by one: a part that was frozen in evaluation mode stays so
            module.training = True


def check_data(x0: Tensor, decoder: Decoder, labels: Tensor | None, batch_size: int) -> None:
    """Refuse at once what would fail, or mean nothing, only at the end of T network calls."""
    check_images("x0", x0)
    check_choice("decoder", decoder, get_args(Decoder))
    if len(x0) == 0 or not x0.isfinite().all():
        raise ValueError(
            f"x0 must hold at least one image and only finite values, but got shape {tuple(x0.shape)}"
        )
    if decoder == "8-bit":
        gaussians.check_8bit(x0)
    if labels is not None and labels.shape != (len(x0),):
        raise ValueError(f"labels must have shape ({len(x0)},), one per image, but got {tuple(labels.shape)}")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number of at least 1, but got {batch_size!r}")
