"""One step back, p_θ(x_{t−1} | x_t): a Gaussian around a predicted mean, and the ways to choose its variance.

The mean is that of the posterior with the predicted x_0 in it. The variance is a rule: two fixed ones (Ho et al. 2020,
section 3.2), a table of your own, one that a network has learned (Nichol & Dhariwal 2021), or the best there is.
"""

from dataclasses import dataclass
from typing import Any, Protocol, get_args

import torch
from torch import Tensor

from ddpm.checks import check_choice
from ddpm.samplers import Denoiser, FixedVariance, PredictionLike, Variance
from ddpm.schedule import NoiseSchedule


class VarianceRule(Protocol):
    """A variance that may differ from image to image and from pixel to pixel.

    A network that learns its variance hands it on with its prediction, whose `log_variance` is what the rule "learned"
    returns.
    """

    def __call__(self, x_t: Tensor, t: Tensor, prediction: Any, /) -> Tensor:
        """log σ² of p_θ(x_{t−1} | x_t), shape (B or 1, C or 1, H or 1, W or 1), for t of shape (B,) in 1 … T.

        `prediction` is whatever the model's `predict` returned for x_t.
        """
        ...


@dataclass(frozen=True)
class Reverse:
    """p_θ(x_{t−1} | x_t): the posterior with the predicted x_0 in it, and a variance (eq:reverse-step).

    Attributes:
        diffusion: the model.
        variance: the rule for log σ_t².
        labels: class labels of the batch, shape (B,), or None.
        clip_x0: whether to clip the predicted x_0 to [-1, 1].
    """

    diffusion: Denoiser
    variance: VarianceRule
    labels: Tensor | None
    clip_x0: bool

    def mean_and_log_variance(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean, shaped like `x_t`, and log-variance of x_{t−1} given x_t of shape (B, C, H, W) and t of shape (B,)."""
        prediction = self.diffusion.predict(x_t, t, self.labels, clip_x0=self.clip_x0)
        log_variance = self.variance(x_t, t, prediction)
        check_log_variance(log_variance, x_t)
        return posterior_mean(self.diffusion.schedule, prediction.x0, x_t, t), log_variance


def posterior_mean(schedule: NoiseSchedule, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """μ̃_t(x_t, x_0), shaped like `x_t`, for t of shape (B,) (eq:posterior-mean)."""
    to_x0, to_xt = schedule.posterior_mean_coef_x0, schedule.posterior_mean_coef_xt
    return at(to_x0, t, x_t) * x0 + at(to_xt, t, x_t) * x_t


def at(table: Tensor, t: Tensor, x: Tensor) -> Tensor:
    """A table's entries at t of shape (B,), as (B, 1, 1, 1) in the type of `x`, ready to multiply it."""
    return table[t].view(-1, 1, 1, 1).to(x.dtype)


# Rules for the variance


def variance_rule(schedule: NoiseSchedule, variance: Variance | Tensor | VarianceRule) -> VarianceRule:
    """The rule that `variance` stands for: itself, the prediction's, or a look into `reverse_log_variance`."""
    if callable(variance):
        return variance
    if isinstance(variance, str) and variance == "learned":
        return lambda _x, _t, prediction: prediction.log_variance
    table = reverse_log_variance(schedule, variance)
    return lambda x_t, t, _: at(table, t, x_t)


def learned_log_variance(schedule: NoiseSchedule, t: Tensor, share: Tensor) -> Tensor:
    """log σ² between the two fixed choices: v log β_t + (1 − v) log β̃_t with v = (1 + share)/2.

    If nothing or everything is known of x_0, the best variance is one of the two ends. A network says where between
    them a pixel lies, and may say beyond (Nichol & Dhariwal 2021, eq. 15).

    Args:
        schedule: the noise schedule.
        t: noise levels 1 … T, shape (B,).
        share: what the network's second head says, shape (B, C, H, W): −1 for β̃_t, 1 for β_t.

    Returns:
        log σ², shaped like `share`; at t = 1, where β̃_1 = 0, β̃_2 stands for it.
    """
    low, high = at(schedule.posterior_log_variance_clipped, t, share), at(schedule.beta, t, share).log()
    v = (1 + share) / 2
    return v * high + (1 - v) * low


def reverse_log_variance(schedule: NoiseSchedule, variance: FixedVariance | Tensor) -> Tensor:
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
    check_choice("variance", variance, get_args(FixedVariance))
    if variance == "fixed_small":
        return clipped
    return torch.cat([clipped[:2], schedule.beta[2:].log()])


@dataclass(frozen=True)
class OptimalVariance:
    """The rule that costs least if the denoiser is exact: σ² = β̃_t + (coefficient of x_0)² · Var(x_0 | x_t).

    The first part is what would be left if x_0 were known, the second what is not known of x_0. That variance needs no
    model of its own: by Tweedie's formula, taken once more, it is σ_t²/√ᾱ_t times the slope of E[x_0 | x_t] in x_t
    (eq:optimal-variance). No Gaussian with independent pixels, whatever its variances, makes the bound lower.

    Attributes:
        diffusion: an exact denoiser, differentiable in x_t. It is asked a second time, without clipping and without
            labels, and differentiated once for each of the C·H·W values: this is for small problems.
    """

    diffusion: Denoiser

    def __call__(self, x_t: Tensor, t: Tensor, prediction: PredictionLike, /) -> Tensor:  # noqa: ARG002
        """log σ², shaped like `x_t` (eq:optimal-variance)."""
        schedule = self.diffusion.schedule
        unknown = at(schedule.sigma**2 / schedule.sqrt_alpha_bar, t, x_t) * self.slope(x_t, t)
        from_x0 = at(schedule.posterior_mean_coef_x0, t, x_t) ** 2 * unknown
        return (at(schedule.posterior_variance, t, x_t) + from_x0).log()

    def slope(self, x_t: Tensor, t: Tensor) -> Tensor:
        """∂E[x_0 | x_t]/∂x_t of every pixel by itself: the diagonal of the Jacobian, shaped like `x_t`."""
        with torch.enable_grad():
            x_t = x_t.detach().requires_grad_()
            x0 = self.diffusion.predict(x_t, t).x0.flatten(1)
            columns = [
                torch.autograd.grad(x0[:, pixel].sum(), x_t, retain_graph=True)[0].flatten(1)[:, pixel]
                for pixel in range(x0.shape[1])
            ]
        return torch.stack(columns, dim=1).view_as(x_t)


def check_log_variance(log_variance: Tensor, x_t: Tensor) -> None:
    """Refuse what would broadcast to something else than one variance per pixel, or is not finite."""
    sides = zip(log_variance.shape, x_t.shape, strict=False)
    if log_variance.ndim != x_t.ndim or not all(given in (1, wanted) for given, wanted in sides):
        raise ValueError(
            f"a rule for the variance must return log-variances of shape {tuple(x_t.shape)}, or 1 in place of any side,"
            f" but got {tuple(log_variance.shape)}"
        )
    if not log_variance.isfinite().all():
        raise ValueError(
            "a rule for the variance returned a log-variance that is not finite; the variance must be positive"
        )
