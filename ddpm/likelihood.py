"""The variational bound, term by term: how many bits the model needs to write down a picture (eq:elbo).

The bound on −log p(x_0) is a sum over the chain,

    L_T  +  Σ_{t=2…T} L_{t−1}  +  L_0,

a Kullback–Leibler divergence at the far end, one per step of the way back, and the price of the pixels themselves at
the near end (Ho et al. 2020, eq. 5). Every term is an expectation over the noise in x_t. It is estimated here with one
draw of that noise for each image and each t, which leaves every term, and their sum, unbiased. The sum over t may be
estimated as well, from a few timesteps per image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ddpm import gaussians
from ddpm.prediction import Denoiser, evaluating, full_timesteps
from ddpm.reverse_process import ReverseStep, Variance, VarianceRule, checked, variance_rule
from ddpm.schedule import NoiseSchedule
from ddpm.support.checks import check_choice, check_denoiser, check_generator, check_whole
from ddpm.support.randomness import image_streams, randn_like
from ddpm.support.tensor_checks import check_8bit, check_images, check_labels, check_within

Decoder = Literal["8-bit", "continuous"]


@dataclass(frozen=True)
class Estimate:
    """A mean over images and how far to trust it.

    Attributes:
        mean: the mean over images.
        standard_error: the spread of the images over √B, shaped like `mean`; NaN for a single image. Each image draws
            its noise, and its timesteps where they are sampled, by itself, so the spread holds all of it, besides the
            difference between images. (The images must have seeds of their own for that.)
    """

    mean: Tensor
    standard_error: Tensor


@dataclass(frozen=True)
class VariationalBound:
    """Every term of the bound for every image, in nats, summed over its pixels and channels, in float64 (eq:elbo).

    Attributes:
        prior: L_T, shape (B,): how far x_T is from the plain noise in which the model starts.
        steps: shape (B, T+1), indexed by the paper's t: column t is the cost of the step from x_t to x_{t−1}. That is
            L_{t−1} for t = 2 … T, and L_0, the decoder, for t = 1. Column 0 is 0: at clean data there is no step. Where
            timesteps were sampled, a term that was drawn stands for those that were not: it is divided by its
            probability, and they are 0, so that every column still has the right mean.
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
        """Mean over the images of terms of shape (B, …), in bits per dimension (eq:bits-per-dim)."""
        bits = nats / (self.dimensions * math.log(2))
        return Estimate(bits.mean(0), bits.std(0) / math.sqrt(len(bits)))


# The three kinds of terms, in nats per pixel


def prior_term(schedule: NoiseSchedule, x0: Tensor) -> Tensor:
    """L_T: KL(q(x_T | x_0) ‖ N(0, I)) of every pixel, shaped like `x0` (eq:prior-term); nothing in it is trained."""
    mean = schedule.sqrt_alpha_bar[-1] * x0
    zero = torch.zeros_like(x0)
    return gaussians.kl_divergence(mean, 2 * schedule.sigma[-1].log() + zero, zero, zero)


def denoising_term(
    schedule: NoiseSchedule, x0: Tensor, x_t: Tensor, t: Tensor, mean: Tensor, log_variance: Tensor
) -> Tensor:
    """L_{t−1}: KL(q(x_{t−1} | x_t, x_0) ‖ p_θ(x_{t−1} | x_t)) of every pixel, for t in 2 … T (eq:loss-t).

    With the variance β̃_t it is a weighted error of the predicted x_0 (eq:loss-t-x0) or noise (eq:loss-t-noise). `mean`
    and `log_variance` are those of p_θ(x_{t−1} | x_t).
    """
    true_log_variance = schedule.at("posterior_log_variance_clipped", t, x_t)
    return gaussians.kl_divergence(schedule.posterior_mean(x0, x_t, t), true_log_variance, mean, log_variance)


def decoder_term(x0: Tensor, mean: Tensor, log_variance: Tensor, decoder: Decoder = "8-bit") -> Tensor:
    """L_0: −log p_θ(x_0 | x_1) of every pixel, a probability of 8-bit grey levels (eq:decoder) or a density."""
    if decoder == "continuous":
        return -gaussians.log_density(x0, mean, log_variance)
    return -gaussians.bin_log_probability(x0, mean, log_variance)


# The bound


@torch.no_grad()
def vlb_terms(
    diffusion: Denoiser,
    x0: Tensor,
    *,
    clip_x0: bool = True,
    variance: Variance | Tensor | VarianceRule | None = None,
    decoder: Decoder = "8-bit",
    timesteps_per_image: int | None = None,
    labels: Tensor | None = None,
    generator: torch.Generator | None = None,
    seeds: Sequence[int] | None = None,
    batch_size: int = 256,
) -> VariationalBound:
    """Every term of the variational bound, one draw of the noise for each image and each t (eq:elbo).

    That is T network calls per image, or 1 + `timesteps_per_image` of them for an unbiased estimate: L_T and L_0 are
    always counted, and the sum of L_{t−1} over t = 2 … T is estimated from timesteps that are spread evenly over
    log σ_t, with a random shift for each image (eq:sampled-bound). So they crowd where the cost is, near t = 2: drawn
    evenly over t, a few would nearly always miss it, and the standard error with it.

    Each image has a random stream of its own, so that its terms depend neither on `batch_size` nor, with `seeds`, on
    the images around it. The model is asked in evaluation mode and without autocast, and one with self-conditioning
    without a previous estimate: with one, x_{t−1} would depend on more than x_t, which is not this bound.

    The images are in [-1, 1], shape (B, C, H, W), on exact grey levels for the "8-bit" `decoder` (eq:decoder);
    "continuous" is the density itself, for data that are not pictures. `variance` is what `variance_rule` takes: at
    t = 1, where β̃_1 = 0 would make every picture but one impossible, both fixed choices take β̃_2, as the DDPM paper's
    code does. `clip_x0` and `labels` are those of `ddpm.samplers`. The source of the randomness is `generator`, torch's
    global one for None, or else one of the `seeds` for each image.

    Raises:
        ValueError: if shapes or choices are wrong, a value is not finite, or a pixel is out of reach of the decoder, or
            of the clipped predictions.
    """
    check_denoiser(diffusion)
    check_generator(generator, single=True)
    _check_data(x0, decoder, clip_x0=clip_x0)
    labels, batch_size = check_labels(labels, x0), check_whole("batch_size", batch_size)
    if timesteps_per_image is not None:
        most = diffusion.schedule.timesteps - 1
        timesteps_per_image = check_whole("timesteps_per_image", timesteps_per_image, highest=most)
    rule, device = checked(variance_rule(diffusion, variance)), diffusion.schedule.beta.device
    streams = image_streams(len(x0), generator, seeds)
    # Half precision is too coarse.
    x0 = x0.to(device, torch.promote_types(x0.dtype, torch.float32))
    parts = []
    with evaluating(diffusion), torch.autocast(device.type, enabled=False):
        for first in range(0, len(x0), batch_size):
            chosen = slice(first, first + batch_size)
            classes = None if labels is None else labels[chosen].to(device)
            step = ReverseStep(diffusion, rule, classes, clip_x0)
            parts.append(_batch_terms(step, x0[chosen], decoder, timesteps_per_image, streams[chosen]))
    prior, steps = (torch.cat(part) for part in zip(*parts, strict=True))
    return VariationalBound(prior, steps, dimensions=x0[0].numel())


def _batch_terms(
    step: ReverseStep, x0: Tensor, decoder: Decoder, count: int | None, streams: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """L_T of shape (B,) and the steps of shape (B, T+1) for a batch, in float64 on the CPU."""
    schedule = step.diffusion.schedule
    steps = x0.new_zeros(len(x0), schedule.timesteps + 1)
    visited, weight = _visited_timesteps(schedule, count, streams)
    visited, weight = visited.to(x0.device), weight.to(x0)
    image = torch.arange(len(x0), device=x0.device)
    for t in visited.T:
        x_t = schedule.q_sample(x0, t, randn_like(x0, streams))
        mean, log_variance, _ = step.moments(x_t, t)
        term = denoising_term(schedule, x0, x_t, t, mean, log_variance).flatten(1).sum(1)
        # Added, because a timestep may come up more than once.
        steps[image, t] += weight[t] * term.to(steps.dtype)
    first = full_timesteps(1, x0)
    x_1 = schedule.q_sample(x0, first, randn_like(x0, streams))
    mean, log_variance, _ = step.moments(x_1, first)
    steps[:, 1] = decoder_term(x0, mean, log_variance, decoder).flatten(1).sum(1)
    return prior_term(schedule, x0).flatten(1).sum(1).cpu().double(), steps.cpu().double()


def _visited_timesteps(
    schedule: NoiseSchedule, count: int | None, streams: Sequence[torch.Generator]
) -> tuple[Tensor, Tensor]:
    """The timesteps to visit from the noisy end, shape (B, K), and the weight of each, shape (T+1,).

    All of T … 2 have weight 1. If only K = `count` are drawn, a timestep is drawn K p_t times on average and has weight
    1/(K p_t), with p_t in proportion to log σ_t² − log σ_{t−1}². That is about the size of its term: half the drop in
    SNR times a squared error of about 1/(1 + SNR), while 1 + SNR(t) = 1/σ_t² (eq:loss-t-x0).
    """
    timesteps = schedule.timesteps
    if count is None:
        steps = torch.arange(timesteps, 1, -1, device="cpu")
        return steps.expand(len(streams), -1), torch.ones(timesteps + 1, device="cpu")
    log_variance = torch.log1p(-schedule.exact_alpha_bar[1:])
    # The cumulative probability of the timesteps up to t, from t = 1.
    cumulative = (log_variance - log_variance[0]) / (log_variance[-1] - log_variance[0])
    weight = torch.ones(timesteps + 1, dtype=torch.float64, device="cpu")
    weight[2:] = 1 / (count * cumulative.diff())
    # A shift for each image, not one for the batch: images must stay independent for their spread to be the error.
    drawn = [torch.rand((), generator=one, dtype=torch.float64, device="cpu") for one in streams]
    position = (torch.arange(count - 1, -1, -1, device="cpu") + torch.stack(drawn)[:, None]) / count
    # The clamp is for rounding only.
    return (1 + torch.searchsorted(cumulative, position, right=True)).clamp(max=timesteps), weight


def _check_data(x0: Tensor, decoder: Decoder, *, clip_x0: bool) -> None:
    """Refuse at once what would fail, or mean nothing, only at the end of T network calls."""
    check_images("x0", x0)
    check_choice("decoder", decoder, get_args(Decoder))
    if len(x0) == 0 or not x0.isfinite().all():
        raise ValueError(
            f"x0 must hold at least one image and only finite values, but got shape {tuple(x0.shape)}"
        )
    if decoder == "8-bit":
        check_8bit("x0", x0)
    elif clip_x0:
        check_within(
            "x0", x0, -1, 1, "predictions are clipped to it; for data of another range give clip_x0=False"
        )
