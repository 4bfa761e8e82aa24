"""The likelihood of a picture under the probability flow: exact for the model, but for the steps of the solver.

The flow carries x_1, a picture with the least noise, to x_T and back, one to one. So its density at x_1 is that of the
snow it comes from, corrected for how the flow squeezes or stretches space on the way (Chen et al. 2018; Song et al.
2021, appendix D.2). On a path z_τ of `ddpm.flows` that is

    log p(x_1) = log N(x_T; 0, I) + ∫ div(dz/dτ) dτ + D log(c_1/c_T),        z_τ = c_t x_t,

with the integral from the time of t = 1 to that of T, along the picture's own curve (eq:flow-likelihood).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ddpm import gaussians
from ddpm.flows import Path, Place, named_path
from ddpm.grids import Spacing, timestep_grid
from ddpm.likelihood import Estimate, decoder_term
from ddpm.prediction import Denoiser, evaluating, for_gradients, full_timesteps, gradients
from ddpm.reverse_process import ReverseStep, Variance, VarianceRule, checked, variance_rule
from ddpm.support.checks import check_denoiser, check_generator, check_whole
from ddpm.support.randomness import randint, randn_like
from ddpm.support.tensor_checks import check_8bit, check_images, check_labels

# dz/dτ, and one estimate of its divergence for each probe, shape (K, B), of z at a place and a timestep.
_Flow = Callable[[Tensor, Place, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class FlowDensity:
    """log p(x_1) of every image, in float64.

    Attributes:
        log_density: in nats, shape (B,).
        standard_error: of Hutchinson's estimate, shape (B,): the spread of the probes over √K; NaN for a single one,
            and 0 where the trace is exact. It says nothing of the error of the solver.
        snow: the x_T to which the flow carries x_1, shaped like the images.
        dimensions: C·H·W.
    """

    log_density: Tensor
    standard_error: Tensor
    snow: Tensor
    dimensions: int

    @property
    def nats_per_dim(self) -> Tensor:
        """−log p(x_1) / D, shape (B,): for x_1 in the [-1, 1] scale, a density and no code length."""
        return -self.log_density / self.dimensions


@torch.inference_mode(mode=False)
@torch.no_grad()
def flow_log_density(
    diffusion: Denoiser,
    x_1: Tensor,
    steps: int,
    *,
    path: str | Path = "flow",
    probes: int | None = None,
    spacing: Spacing = "even",
    labels: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> FlowDensity:
    """log p(x_1) under the probability flow of a model, by Heun's method (eq:flow-likelihood).

    The model is asked in evaluation mode, without clipping, which would not be one to one, and without autocast. A step
    costs two network calls, each differentiated `probes` times, or D times for the exact trace.

    Args:
        diffusion: the model; one with self-conditioning is asked without a previous estimate.
        x_1: pictures with the noise of t = 1, of shape (B, C, H, W).
        steps: S in 1 … T − 1, how many steps lead from t = 1 to T.
        path: the coordinates in which the solver steps; the density does not depend on them, its error does. "edm" is
            for schedules whose u = σ_T/√ᾱ_T is no more than some hundred: the last steps of "cosine" are too long.
        probes: K of Hutchinson's estimate of the divergence, Σ vᵀJv/K with v = ±1, drawn anew for each call.
            None is the exact trace, for small problems.
        spacing: how the timesteps are spread, as for samplers.
        labels: classes, shape (B,), for a model that takes them.
        generator: source of the probes.

    Raises:
        ValueError: if shapes or types are wrong, or a number is out of range.
    """
    check_denoiser(diffusion)
    check_generator(generator, single=True)
    check_images("x_1", x_1)
    labels, timesteps = for_gradients(check_labels(labels, x_1)), diffusion.schedule.timesteps
    steps = check_whole("steps", steps, highest=timesteps - 1)
    probes = None if probes is None else check_whole("probes", probes)
    own = named_path(path)
    # Upwards, and from t = 1, as at t = 0 there is nothing to ask.
    grid = [1, *timestep_grid(diffusion.schedule, steps + 1, spacing)[-3::-1]]
    flow = _flow(diffusion, labels, probes, generator, x_1.dtype)
    first, last = (own.at(diffusion.schedule, grid[k], x_1).scale for k in (0, -1))
    with evaluating(diffusion), torch.autocast(x_1.device.type, enabled=False):
        z, gained = _followed(flow, own, diffusion, first * x_1, grid)
    x_t = z / last
    prior = gaussians.log_density(x_t, torch.zeros_like(x_t), torch.zeros_like(x_t)).flatten(1).sum(1)
    dimensions = x_1[0].numel()
    stretched = dimensions * float(torch.log(first / last))
    spread = torch.full_like(prior, 0.0 if probes is None else math.nan)
    if len(gained) > 1:
        spread = gained.std(0) / math.sqrt(len(gained))
    density = (prior + gained.mean(0) + stretched).cpu().double()
    return FlowDensity(density, spread.cpu().double(), x_t.to(x_1.dtype), dimensions)


def _followed(
    flow: _Flow, path: Path, diffusion: Denoiser, z: Tensor, grid: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Where Heun's method carries z, and the integral of the divergence on the way for each probe, shape (K, B)."""
    total, here = z.new_zeros(()), path.at(diffusion.schedule, grid[0], z)
    for t, s in pairwise(grid):
        there = path.at(diffusion.schedule, s, z)
        step = there.time - here.time
        velocity, divergence = flow(z, here, t)
        at_end, divergence_at_end = flow(z + step * velocity, there, s)
        z = z + step * (velocity + at_end) / 2
        total = total.to(z) + step.view(1, 1) * (divergence + divergence_at_end) / 2
        here = there
    return z, total


def _flow(
    diffusion: Denoiser,
    labels: Tensor | None,
    probes: int | None,
    generator: torch.Generator | None,
    kind: torch.dtype,
) -> _Flow:
    """The velocity of a model on a path, with its divergence."""

    def flow(z: Tensor, place: Place, t: int) -> tuple[Tensor, Tensor]:
        with gradients():
            z = z.detach().requires_grad_()
            x = (z / place.scale).to(kind)
            velocity = place.velocity(diffusion.predict(x, full_timesteps(t, z), labels))
            estimates = [
                (v * torch.autograd.grad(velocity, z, v, retain_graph=True)[0]).flatten(1).sum(1)
                for v in _directions(velocity, probes, generator)
            ]
        divergence = torch.stack(estimates).detach()
        return velocity.detach(), divergence if probes else divergence.sum(0, keepdim=True)

    return flow


def _directions(x: Tensor, probes: int | None, generator: torch.Generator | None) -> list[Tensor]:
    """Random signs for each probe, or, for the trace, every unit vector."""
    if probes is None:
        units = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device)
        return [unit.view(x[:1].shape).expand(x.shape) for unit in units]
    signs = [randint(0, 2, x.numel(), generator, x.device) for _ in range(probes)]
    return [(2 * sign - 1).view(x.shape).to(x.dtype) for sign in signs]


@torch.no_grad()
def flow_bits_per_dim(
    diffusion: Denoiser,
    x0: Tensor,
    steps: int,
    *,
    path: str | Path = "flow",
    probes: int | None = None,
    spacing: Spacing = "even",
    variance: Variance | Tensor | VarianceRule | None = None,
    clip_x0: bool = True,
    labels: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Estimate:
    """Bits per dimension of 8-bit pictures by the flow, one draw of x_1 for each (eq:flow-bound).

    The code is that of `ddpm.likelihood.vlb_terms` but for its middle: x_1 is drawn from q(x_1 | x_0), and L_0, the
    price of the pixels given x_1, is the same, with the same `variance` and `clip_x0`. But the price of x_1 itself is
    log q(x_1 | x_0) − log p(x_1) with the density of the flow, where the chain has the bound L_T + Σ L_{t−1}. Both sums
    are upper bounds on −log p(x_0), of two models that share a network: the flow's p(x_1) is not that of the chain.

    Other arguments are those of `flow_log_density`; `generator` gives the noise of x_1 first. The error covers images,
    noise and probes, not the solver.

    Raises:
        ValueError: as there, or if a pixel is no 8-bit grey level in [-1, 1].
    """
    check_denoiser(diffusion)
    check_generator(generator, single=True)
    check_images("x0", x0, device=diffusion.schedule.beta.device)
    check_8bit("x0", x0)
    labels, schedule = check_labels(labels, x0), diffusion.schedule
    noise, first = randn_like(x0, generator), full_timesteps(1, x0)
    x_1 = schedule.q_sample(x0, first, noise)
    with evaluating(diffusion), torch.autocast(x0.device.type, enabled=False):
        step = ReverseStep(diffusion, checked(variance_rule(diffusion, variance)), labels, clip_x0)
        mean, log_variance, _ = step.moments(x_1, first)
    options = {"path": path, "probes": probes, "spacing": spacing, "labels": labels, "generator": generator}
    density = flow_log_density(diffusion, x_1, steps, **options)
    zero = torch.zeros_like(noise)
    # log q(x_1 | x_0) is the log-density of the noise, in units of σ_1.
    of_noise = gaussians.log_density(noise, zero, zero) - schedule.at("sigma", first, x0).log()
    pixels = decoder_term(x0, mean, log_variance) + of_noise
    nats = pixels.flatten(1).sum(1).cpu().double() - density.log_density
    bits = nats / (density.dimensions * math.log(2))
    return Estimate(bits.mean(0), bits.std(0) / math.sqrt(len(bits)))
