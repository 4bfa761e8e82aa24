"""The variational bound, term by term: how many bits the model needs to write down a picture (eq:elbo).

The bound on −log p(x_0) is a sum over the chain,

    L_T  +  Σ_{t=2…T} L_{t−1}  +  L_0,

a Kullback–Leibler divergence at the far end, one per step of the way back, and the price of the pixels themselves at
the near end (Ho et al. 2020, eq. 5). Every term is an expectation over the noise in x_t. It is estimated here with one
draw of that noise for each image and each t, which leaves every term, and their sum, unbiased. The sum over t may be
estimated as well, from a few levels per image.
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
from ddpm.reverse import Reverse, VarianceRule, at, posterior_mean, variance_rule
from ddpm.samplers import Denoiser, Variance
from ddpm.schedule import NoiseSchedule

Decoder = Literal["8-bit", "continuous"]


@dataclass(frozen=True)
class Estimate:
    """A mean over images and how far to trust it.

    Attributes:
        mean: the mean over images.
        standard_error: its standard error, shaped like `mean`; NaN for a single image. It is the spread of the images
            over √B. Each image draws its noise, and its levels where they are sampled, by itself, so the spread holds
            all of it, beside the difference between images. (The images must have seeds of their own for that.)
    """

    mean: Tensor
    standard_error: Tensor


@dataclass(frozen=True)
class VariationalBound:
    """Every term of the bound for every image, in nats, summed over the image's pixels and channels (eq:elbo).

    Attributes:
        prior: L_T, shape (B,): what is left of the image in x_T.
        steps: shape (B, T+1), indexed by the paper's t: column t is the cost of the step from x_t to x_{t−1}. That is
            L_{t−1} for t = 2 … T, and L_0, the decoder, for t = 1. Column 0 is 0: at clean data there is no step. Where
            levels were sampled, a term that was drawn stands for those that were not: it is divided by its probability,
            and they are 0, so that every column still has the right mean.
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
    variance: Variance | Tensor | VarianceRule | None = None,
    decoder: Decoder = "8-bit",
    levels: int | None = None,
    labels: Tensor | None = None,
    generator: torch.Generator | None = None,
    seeds: Sequence[int] | None = None,
    batch_size: int = 256,
) -> VariationalBound:
    """Every term of the variational bound, one draw of the noise for each image and each t (eq:elbo).

    That is T network calls per image, or 1 + `levels` of them for an unbiased estimate: L_T and L_0 are always counted,
    and the sum of L_{t−1} over t = 2 … T is estimated from levels that are spread evenly over log σ_t, with a random
    shift for each image. So they crowd where the cost is, near t = 2: drawn evenly over t, a few would nearly always
    miss it, and the standard error with it.

    Each image has a random stream of its own, so that its terms depend neither on `batch_size` nor, with `seeds`, on
    the images around it. A model in training mode is put into evaluation mode for the time being, and autocast is off.

    A model with self-conditioning is asked without a previous estimate: with one, x_{t−1} would depend on more than
    x_t, and this is the bound of a chain that has no such memory.

    Args:
        diffusion: the model, or an exact denoiser; only `.schedule` and `.predict` are used.
        x0: clean images in [-1, 1], shape (B, C, H, W); exact 8-bit levels for the 8-bit decoder.
        clip_x0: clip the predicted x_0 to [-1, 1] first; turn off for data of another range.
        variance: the variance of p_θ(x_{t−1} | x_t): "fixed_small" for β̃_t, "fixed_large" for β_t, "learned" for that
            of a model which predicts it; or a table of your own of shape (T+1,), of which entry 0 is not used; or a
            rule, `variance(x_t, t, prediction)`, that may differ in every pixel. None means "learned" for a model that
            predicts its variance and "fixed_small" for any other. At t = 1, where β̃_1 = 0 would make every picture but
            one impossible, both fixed choices take β̃_2, as the DDPM paper's code does.
        decoder: "8-bit" for the discrete decoder of eq:decoder; "continuous" for the density itself, for data that are
            not pictures.
        levels: how many of the T − 1 levels 2 … T to draw for each image; None takes them all.
        labels: class labels, shape (B,), for a model that takes them.
        generator: source of the randomness; None means torch's global one.
        seeds: one seed per image instead.
        batch_size: images per network call, at least 1.

    Returns:
        The terms, in float64 on the CPU.

    Raises:
        ValueError: if shapes or choices are wrong, a value is not finite, or a pixel is out of reach: not one of the
            256 levels, for the 8-bit decoder, or outside [-1, 1] where predictions are clipped to it.
    """
    check_data(x0, decoder, labels, batch_size, clip_x0=clip_x0)
    check_level_count(levels, diffusion.schedule)
    if variance is None or isinstance(variance, str):
        variance = samplers.choose_variance(diffusion, variance)
    rule, device = variance_rule(diffusion.schedule, variance), diffusion.schedule.beta.device
    source = image_streams(len(x0), generator, seeds)
    x0 = x0.to(device, torch.promote_types(x0.dtype, torch.float32))  # half precision is too coarse
    parts = []
    with evaluating(diffusion, device):
        for first in range(0, len(x0), batch_size):
            chosen = slice(first, first + batch_size)
            chosen_labels = None if labels is None else labels[chosen].to(device)
            reverse = Reverse(diffusion, rule, chosen_labels, clip_x0)
            parts.append(batch_terms(reverse, x0[chosen], decoder, levels, source[chosen]))
    prior, steps = (torch.cat(part) for part in zip(*parts, strict=True))
    return VariationalBound(prior, steps, dimensions=x0[0].numel())


def batch_terms(
    reverse: Reverse, x0: Tensor, decoder: Decoder, levels: int | None, source: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """L_T of shape (B,) and the steps of shape (B, T+1) for a batch, in float64 on the CPU."""
    schedule = reverse.diffusion.schedule
    steps = x0.new_zeros(len(x0), schedule.timesteps + 1)
    visited, weight = denoising_levels(schedule, levels, source)
    visited, weight = visited.to(x0.device), weight.to(x0)
    image = torch.arange(len(x0), device=x0.device)
    for t in visited.T:
        term = denoising_term(reverse, x0, noised(schedule, x0, t, source), t)
        steps[image, t] += weight[t] * per_image(term).to(steps.dtype)  # a level may come up more than once
    x_1 = noised(schedule, x0, samplers.levels(x0, 1), source)
    steps[:, 1] = per_image(decoder_term(reverse, x0, x_1, decoder))
    return per_image(prior_term(schedule, x0)).cpu().double(), steps.cpu().double()


def denoising_levels(
    schedule: NoiseSchedule, count: int | None, source: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """The levels to visit from the noisy end, shape (B, K), and the weight of each level, shape (T+1,).

    All of T … 2 have weight 1. If only K = `count` are drawn, a level is drawn K p_t times on average and has weight
    1/(K p_t), with p_t in proportion to log σ_t² − log σ_{t−1}². That is about the size of its term: half the drop in
    SNR times a squared error of about 1/(1 + SNR), while 1 + SNR(t) = 1/σ_t² (eq:loss-t-x0).
    """
    timesteps = schedule.timesteps
    if count is None:
        return torch.arange(timesteps, 1, -1).expand(len(source), -1), torch.ones(timesteps + 1)
    log_variance = torch.log1p(-schedule.exact_alpha_bar[1:])
    share = (log_variance - log_variance[0]) / (
        log_variance[-1] - log_variance[0]
    )  # of the levels up to t, from t = 1
    weight = torch.ones(timesteps + 1, dtype=torch.float64)
    weight[2:] = 1 / (count * share.diff())
    # A shift for each image, not one for the batch: images must stay independent for their spread to be the error.
    shift = torch.stack([torch.rand((), generator=stream, dtype=torch.float64) for stream in source])
    position = (torch.arange(count - 1, -1, -1) + shift[:, None]) / count
    visited = 1 + torch.searchsorted(share, position, right=True)
    return visited.clamp(max=timesteps), weight  # the clamp is for rounding only


def noised(schedule: NoiseSchedule, x0: Tensor, t: Tensor, source: Sequence[torch.Generator]) -> Tensor:
    """x_t, shaped like `x0`, for t of shape (B,) (eq:q-sample)."""
    noise = samplers.randn_like(x0, source)
    return at(schedule.sqrt_alpha_bar, t, x0) * x0 + at(schedule.sigma, t, x0) * noise


# The three kinds of terms, in nats per pixel


def prior_term(schedule: NoiseSchedule, x0: Tensor) -> Tensor:
    """L_T: KL(q(x_T | x_0) ‖ N(0, I)) of every pixel, shaped like `x0` (eq:prior-term); nothing in it is trained."""
    mean = schedule.sqrt_alpha_bar[-1] * x0
    zero = torch.zeros_like(x0)
    return gaussians.kl_divergence(mean, 2 * schedule.sigma[-1].log() + zero, zero, zero)


def denoising_term(reverse: Reverse, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """L_{t−1}: KL(q(x_{t−1} | x_t, x_0) ‖ p_θ(x_{t−1} | x_t)) of every pixel, for t in 2 … T (eq:loss-t).

    With the variance β̃_t it is a weighted error of the predicted x_0 (eq:loss-t-x0) or noise (eq:loss-t-noise).
    """
    schedule = reverse.diffusion.schedule
    mean, log_variance = reverse.mean_and_log_variance(x_t, t)
    true_mean = posterior_mean(schedule, x0, x_t, t)
    true_log_variance = at(schedule.posterior_log_variance_clipped, t, x_t)
    return gaussians.kl_divergence(true_mean, true_log_variance, mean, log_variance)


def decoder_term(reverse: Reverse, x0: Tensor, x_1: Tensor, decoder: Decoder) -> Tensor:
    """L_0: −log p_θ(x_0 | x_1) of every pixel, a probability of 8-bit levels (eq:decoder) or a density."""
    mean, log_variance = reverse.mean_and_log_variance(x_1, samplers.levels(x_1, 1))
    if decoder == "continuous":
        return -gaussians.log_density(x0, mean, log_variance)
    return -gaussians.discretized_log_likelihood(x0, mean, log_variance)


def per_image(term: Tensor) -> Tensor:
    """Sum over everything but the first axis: (B, C, H, W) → (B,)."""
    return term.flatten(1).sum(1)


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
def evaluating(diffusion: Denoiser, device: torch.device) -> Iterator[None]:
    """Evaluation mode for a model that knows the difference, and full precision: both would add noise to the bound."""
    modules = diffusion.modules() if isinstance(diffusion, nn.Module) else []
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for module in training:  # one by one: a part that was frozen in evaluation mode stays so
            module.training = True


def check_data(
    x0: Tensor, decoder: Decoder, labels: Tensor | None, batch_size: int, *, clip_x0: bool
) -> None:
    """Refuse at once what would fail, or mean nothing, only at the end of T network calls."""
    check_images("x0", x0)
    check_choice("decoder", decoder, get_args(Decoder))
    if len(x0) == 0 or not x0.isfinite().all():
        raise ValueError(
            f"x0 must hold at least one image and only finite values, but got shape {tuple(x0.shape)}"
        )
    if decoder == "8-bit":
        gaussians.check_8bit(x0)
    elif clip_x0 and x0.abs().max() > 1:
        raise ValueError(
            f"x0 ranges from {x0.min().item():g} to {x0.max().item():g}, but predictions are clipped to [-1, 1]; for"
            " data of another range give clip_x0=False"
        )
    if labels is not None and labels.shape != (len(x0),):
        raise ValueError(f"labels must have shape ({len(x0)},), one per image, but got {tuple(labels.shape)}")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number of at least 1, but got {batch_size!r}")


def check_level_count(levels: int | None, schedule: NoiseSchedule) -> None:
    """Refuse a number of levels that is not a whole number in 1 … T − 1."""
    if levels is None:
        return
    most = schedule.timesteps - 1
    if isinstance(levels, bool) or not isinstance(levels, int) or not 1 <= levels <= most:
        raise ValueError(
            f"levels must be a whole number in 1 … {most}, of the T − 1 = {most} levels from 2 to T, or None for all;"
            f" but got {levels!r}"
        )
