"""The reverse process p_θ(x_{t−1} | x_t): one step back, and the ways to choose its variance.

The step is a Gaussian. Its mean is that of the posterior with the predicted x_0 in place of the true one. Its variance
is a rule: two fixed ones (Ho et al. 2020, section 3.2), a table of your own, one that a network has learned (Nichol &
Dhariwal 2021), or the best there is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ddpm.prediction import Denoiser, Prediction, for_gradients, gradients
from ddpm.schedule import NoiseSchedule
from ddpm.support.checks import check_choice
from ddpm.support.randomness import Generators, randn_like
from ddpm.support.tensor_checks import as_table, check_log_variance

FixedVariance = Literal["fixed_small", "fixed_large"]
Variance = Literal[FixedVariance, "learned"]
# log ω_t² of p_θ(x_{t−1} | x_t), of the shape of x_t or with 1 in place of any side, from (x_t, t, prediction). It may
# differ from image to image and from pixel to pixel.
VarianceRule = Callable[[Tensor, Tensor, Prediction], Tensor]


@dataclass(frozen=True)
class ReverseStep:
    """p_θ(x_{t−1} | x_t), a Gaussian (eq:reverse-step; Ho et al. 2020, section 3.2), for a batch with these labels."""

    diffusion: Denoiser
    variance: VarianceRule
    labels: Tensor | None
    clip_x0: bool

    def moments(
        self, x_t: Tensor, t: Tensor, previous: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and log-variance of x_{t−1}, and the predicted x_0, for t of shape (B,); `previous` as in `predict`."""
        prediction = predict(self.diffusion, x_t, t, self.labels, previous, clip_x0=self.clip_x0)
        mean = self.diffusion.schedule.posterior_mean(prediction.x0, x_t, t)
        return mean, self.variance(x_t, t, prediction), prediction.x0


def predict(
    diffusion: Denoiser,
    x_t: Tensor,
    t: Tensor,
    labels: Tensor | None,
    previous: Tensor | None,
    *,
    clip_x0: bool,
) -> Prediction:
    """`diffusion.predict`; a model with self-conditioning is handed the x_0 of the step before (Chen et al. 2023)."""
    told = {"x_self_cond": previous} if getattr(diffusion, "self_condition", False) else {}
    return diffusion.predict(x_t, t, labels, clip_x0=clip_x0, **told)


def draw(mean: Tensor, log_variance: Tensor, t: Tensor, generator: Generators) -> Tensor:
    """A draw from the step back at t of shape (B,): no noise is added at t = 1."""
    noise = torch.where(t.view(-1, 1, 1, 1) > 1, randn_like(mean, generator), 0.0)
    return mean + (0.5 * log_variance).exp() * noise


def variance_rule(diffusion: Denoiser, variance: Variance | Tensor | VarianceRule | None) -> VarianceRule:
    """The rule that a word, a table of ω_t² of shape (T+1,) or a rule itself stands for, checked.

    "fixed_small" is β̃_t and "fixed_large" β_t, both with β̃_2 at t = 1; "learned" is that of a model which predicts it.
    None means "learned" for such a model and "fixed_small" for any other.

    Raises:
        ValueError: if the word is unknown, the model has learned none, or the table is not one of variances.
    """
    schedule, learned = diffusion.schedule, bool(getattr(diffusion, "learned_variance", False))
    if variance is None:
        variance = "learned" if learned else "fixed_small"
    if callable(variance):
        return checked(variance)
    if not isinstance(variance, str | Tensor):
        variance = as_table("variance, where it is neither None, a word nor a function,", variance)
    if isinstance(variance, str):
        check_choice("variance", variance, get_args(FixedVariance) + (("learned",) if learned else ()))
        if variance == "learned":
            return _predicted
    table = _log_variance_table(schedule, variance)
    return lambda x_t, t, _: table[t].view(-1, 1, 1, 1).to(x_t.dtype)


def learned_log_variance(schedule: NoiseSchedule, t: Tensor, fraction: Tensor) -> Tensor:
    """log ω_t² between the two fixed choices (eq:learned-variance): v log β_t + (1 − v) log β̃_t, v = (1 + fraction)/2.

    If the data are N(0, I) or a single image, the best variance is one of the two ends. A network says where between
    them a pixel lies, −1 for β̃_t and 1 for β_t, and may say beyond (Nichol & Dhariwal 2021, eq. 15). At t = 1, where
    β̃_1 = 0, β̃_2 stands for it.
    """
    low = schedule.at("posterior_log_variance_clipped", t, fraction)
    high = schedule.at("beta", t, fraction).log()
    v = (1 + fraction) / 2
    return v * high + (1 - v) * low


def _predicted(x_t: Tensor, t: Tensor, prediction: Prediction) -> Tensor:  # noqa: ARG001
    """The variance that the model predicted with x_0."""
    assert prediction.log_variance is not None
    return prediction.log_variance


def checked(rule: VarianceRule) -> VarianceRule:
    """A rule each of whose answers is looked at, for which an accelerator has to wait."""

    def answer(x_t: Tensor, t: Tensor, prediction: Prediction) -> Tensor:
        log_variance = rule(x_t, t, prediction)
        check_log_variance(log_variance, x_t)
        return log_variance

    return answer


def _log_variance_table(schedule: NoiseSchedule, variance: FixedVariance | Tensor) -> Tensor:
    """log ω_t², shape (T+1,), on the schedule's device."""
    clipped = schedule.posterior_log_variance_clipped
    if isinstance(variance, str):
        return clipped if variance == "fixed_small" else torch.cat([clipped[:2], schedule.beta[2:].log()])
    if variance.shape != clipped.shape or not ((variance[1:] > 0) & variance[1:].isfinite()).all():
        raise ValueError(
            f"a table of variances must have shape ({len(clipped)},), that is T+1, and be positive and finite for"
            f" t = 1 … {len(clipped) - 1}, but got shape {tuple(variance.shape)} and values {variance}"
        )
    return variance.to(clipped).log()


@dataclass(frozen=True)
class OptimalVariance:
    """The rule that costs least if the denoiser is exact: ω_t² = β̃_t + (coefficient of x_0)² · Var(x_0 | x_t).

    The first part is what would be left if x_0 were known, the second what is not known of x_0. That variance needs no
    model of its own: by Tweedie's formula, taken once more, it is σ_t²/√ᾱ_t times the slope of E[x_0 | x_t] in x_t
    (eq:reverse-variance). No Gaussian with independent pixels, whatever its variances, makes an L_{t−1} lower.

    Attributes:
        diffusion: an exact denoiser, differentiable in x_t. It is asked a second time, without clipping and without
            labels, and differentiated once for each of the C·H·W values: this is for small problems.
    """

    diffusion: Denoiser

    def __call__(self, x_t: Tensor, t: Tensor, prediction: Prediction, /) -> Tensor:  # noqa: ARG002
        """log ω_t², shaped like `x_t` (eq:reverse-variance)."""
        schedule = self.diffusion.schedule
        scale = schedule.at("sigma", t, x_t) ** 2 / schedule.at("sqrt_alpha_bar", t, x_t)
        from_x0 = schedule.at("posterior_mean_coef_x0", t, x_t) ** 2 * scale * self._slope(x_t, t)
        return (schedule.at("posterior_variance", t, x_t) + from_x0).log()

    def _slope(self, x_t: Tensor, t: Tensor) -> Tensor:
        """∂E[x_0 | x_t]/∂x_t of every pixel by itself: the diagonal of the Jacobian, shaped like `x_t`."""
        with gradients():
            x_t = for_gradients(x_t).detach().requires_grad_()
            x0 = self.diffusion.predict(x_t, for_gradients(t)).x0.flatten(1)
            columns = [
                torch.autograd.grad(x0[:, pixel].sum(), x_t, retain_graph=True)[0].flatten(1)[:, pixel]
                for pixel in range(x0.shape[1])
            ]
        return torch.stack(columns, dim=1).view_as(x_t)
