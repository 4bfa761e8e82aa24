"""Guidance: predictions pushed towards a class, as wrappers of a model that are models themselves.

A wrapper meets `ddpm.prediction.Denoiser`, so that every sampler, and the likelihood, take it in place of the model:
`ddim(ClassifierFreeGuidance(diffusion, 2.0), x, 50, labels=labels)`.

The scale w of classifier-free guidance is written in three ways. Here, and in `guidance_scale`, which converts:

| convention      | guided noise                  | where                          | w here    | without guidance |
|-----------------|-------------------------------|--------------------------------|-----------|------------------|
| "imagen"        | w ε(x, y) + (1 − w) ε(x)      | GLIDE, Imagen, this package    | w         | w = 1            |
| "ho-salimans"   | (1 + w) ε(x, y) − w ε(x)      | Ho & Salimans 2022, eq. 6      | 1 + w     | w = 0            |
| "diffusers"     | ε(x) + g (ε(x, y) − ε(x))     | `guidance_scale` of diffusers  | max(g, 1) | g ≤ 1            |

So w = 1 is the conditional model and w = 0 the unconditional one. diffusers takes scales up to 1 for "do not guide". In
which coordinate the two predictions are mixed does not matter, as long as nothing is clipped: for one x_t the noise,
x_0, v and the score are affine functions of each other, and w and 1 − w sum to 1.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ddpm.prediction import Denoiser, Prediction, clipped, x0_from_v
from ddpm.schedule import NoiseSchedule
from ddpm.support.checks import check_choice, check_denoiser, check_number, check_unit, plain_numbers, shown
from ddpm.support.tensor_checks import check_images, check_labels, check_t

Convention = Literal["imagen", "ho-salimans", "diffusers"]
IntervalUnit = Literal["t", "log-snr"]
# A number is the scale of classifier-free guidance; anything else makes a guided model of a model.
Guidance = float | Callable[[Denoiser], Denoiser]


def guidance_scale(value: float, convention: Convention) -> float:
    """The scale of this package for one in another convention; the table of `ddpm.guidance` has all three."""
    check_choice("convention", convention, get_args(Convention))
    value = check_number("a scale of guidance", value)
    if convention == "diffusers":
        return max(value, 1.0)
    return value + 1 if convention == "ho-salimans" else value


def guided(diffusion: Denoiser, guidance: Guidance | None) -> Denoiser:
    """The model as `guidance` has it: the model itself for None, classifier-free guidance for a number."""
    if guidance is None:
        return diffusion
    if isinstance(guidance, Guided):
        raise TypeError(
            "guidance must be a scale, such as 2.0, or make a guided model of a model, such as"
            f" functools.partial(ClassifierFreeGuidance, scale=2.0), but got a {type(guidance).__name__}, which is a"
            " model already: samplers take it in place of the model, ddim(guided, x, 50)"
        )
    if not callable(guidance):
        return ClassifierFreeGuidance(diffusion, guidance)
    model = guidance(diffusion)
    check_denoiser(model)
    return model


class Guided(nn.Module):
    """A model whose predictions are changed on their way out; what samplers ask of a model is asked of that one."""

    def __init__(self, diffusion: Denoiser) -> None:
        check_denoiser(diffusion)
        super().__init__()
        self.diffusion = diffusion

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule."""
        return self.diffusion.schedule

    @property
    def self_condition(self) -> bool:
        """Whether `predict` takes the x_0 of the step before, which is then the changed one."""
        return bool(getattr(self.diffusion, "self_condition", False))

    @property
    def learned_variance(self) -> bool:
        """Whether predictions hold a variance, which is left as it is."""
        return bool(getattr(self.diffusion, "learned_variance", False))

    @property
    def null_label(self) -> int | None:
        """The label that stands for none."""
        return getattr(self.diffusion, "null_label", None)

    @property
    def clips_x0(self) -> bool:
        """Whether x_0 lies in [-1, 1]: codes of a latent model do not."""
        return bool(getattr(self.diffusion, "clips_x0", True))

    def changed(self, x_t: Tensor, x0: Tensor, own: Prediction, *, clip: bool) -> Prediction:
        """The model's own prediction with another x_0, clipped if asked, and the noise that goes with it."""
        x0 = clipped(x0) if clip and self.clips_x0 else x0
        return Prediction.from_x0(x_t, x0, own.signal, own.sigma, own.log_variance)

    def ask(
        self, x_t: Tensor, t: Tensor, labels: Tensor | None, x_self_cond: Tensor | None, *, clip: bool = False
    ) -> Prediction:
        """What the model itself says."""
        told: dict[str, Any] = {} if x_self_cond is None else {"x_self_cond": x_self_cond}
        return self.diffusion.predict(x_t, t, labels, clip_x0=clip, **told)


class ClassifierFreeGuidance(Guided):
    """Classifier-free guidance (Ho & Salimans 2022): away from the prediction without a label, along that with one.

    ε̂ = ε(x_t) + w (ε(x_t, y) − ε(x_t)), and only then is x̂_0 clipped. Both predictions come out of one network call
    for 2B images. With w = 1 there is one for B, with the labels, and with w = 0 one without: the conditional and the
    unconditional model, bit for bit. A variance that the model predicts is that of the conditional prediction.

    Other w do not sample p(x) p(y | x)^w, whatever one reads: noising does not commute with taking powers.

    Attributes:
        scale: w, any finite number; see the table of this module for other conventions.
        interval: the lowest and the highest t that are guided.
        rescale: φ of Lin et al. 2024, section 3.4: how far the standard deviation of each image's guided v is put back
            to that of the conditional one, against pictures that are too bright. 0 leaves it as it is, they take 0.7. v
            is what their model predicts; other programs take whatever theirs predicts.
    """

    def __init__(
        self,
        diffusion: Denoiser,
        scale: float,
        *,
        interval: tuple[float, float] | None = None,
        interval_unit: IntervalUnit = "t",
        rescale: float = 0.0,
    ) -> None:
        """Wrap a model that knows "no label", such as one with a `Unet` of `label_dropout`; for w = 1 any will do.

        Outside the `interval` (low, high), both included, the model is conditional, as with w = 1, and one call for B
        images is enough (Kynkäänniemi et al. 2024); to see whether it is, an accelerator has to wait once a step. It is
        one of timesteps, or of the log-SNR λ_t.

        Raises:
            ValueError: if the model never learned to do without a label, or an option is out of range.
        """
        super().__init__(diffusion)
        self.scale = check_number("guidance", scale)
        self.rescale = check_unit("rescale", rescale, "0 leaves guided predictions as they are")
        self.interval = _timesteps_within(self.schedule, interval, interval_unit)
        if self.scale != 1 and self.null_label is None:
            raise ValueError(
                f"guidance {self.scale:g} needs a model that was also trained without labels, and this one was not:"
                " train it with Unet(num_classes=…, label_dropout=0.1); guidance=1 is the model as it is"
            )

    def predict(
        self,
        x_t: Tensor,
        t: Tensor,
        labels: Tensor | None = None,
        *,
        clip_x0: bool = False,
        x_self_cond: Tensor | None = None,
    ) -> Prediction:
        """The guided prediction (eq:guided, eq:rescaled); labels are needed, but for w = 0 and w = 1."""
        everywhere = self.interval == (1, self.schedule.timesteps)
        if self.scale == 1 or (self.scale == 0 and everywhere):
            return self.ask(x_t, t, labels if self.scale == 1 else None, x_self_cond, clip=clip_x0)
        check_images("x_t", x_t)
        t, labels = check_t(t, x_t, self.schedule.timesteps), check_labels(labels, x_t)
        if labels is None:
            raise ValueError(f"guidance {self.scale:g} leads towards a class: give labels, one per image")
        inside = None if everywhere else (t >= self.interval[0]) & (t <= self.interval[1])
        if inside is not None and not torch.compiler.is_compiling() and not inside.any():
            return self.ask(x_t, t, labels, x_self_cond, clip=clip_x0)
        conditional, free = self._both(x_t, t, labels, x_self_cond)
        x0 = free.x0 + self.scale * (conditional.x0 - free.x0)
        x0 = self._rescaled(x_t, x0, conditional) if self.rescale else x0
        x0 = x0 if inside is None else torch.where(inside.view(-1, 1, 1, 1), x0, conditional.x0)
        return self.changed(x_t, x0, conditional, clip=clip_x0)

    def _both(
        self, x_t: Tensor, t: Tensor, labels: Tensor, x_self_cond: Tensor | None
    ) -> tuple[Prediction, Prediction]:
        """What the model says with the labels and what without them, asked at once."""
        assert self.null_label is not None
        told = None if x_self_cond is None else torch.cat([x_self_cond, x_self_cond])
        every = torch.cat([labels, torch.full_like(labels, self.null_label)])
        both, count = self.ask(torch.cat([x_t, x_t]), torch.cat([t, t]), every, told), len(x_t)
        # The factors may be those of all images at once, of length 1.
        signal, sigma = both.signal[:count], both.sigma[:count]
        variance = None if both.log_variance is None else both.log_variance[:count]
        conditional = Prediction(both.noise[:count], both.x0[:count], signal, sigma, variance)
        return conditional, Prediction(both.noise[count:], both.x0[count:], signal, sigma)

    def _rescaled(self, x_t: Tensor, x0: Tensor, conditional: Prediction) -> Tensor:
        """x_0 with a v whose standard deviation is nearer to that of the conditional one (Lin et al. 2024, alg. 2)."""
        v = Prediction.from_x0(x_t, x0, conditional.signal, conditional.sigma).v
        spread, wanted = (
            one.std((1, 2, 3), correction=0, keepdim=True).clamp(min=torch.finfo(v.dtype).tiny)
            for one in (v, conditional.v)
        )
        factor = self.rescale * wanted / spread + 1 - self.rescale
        return x0_from_v(x_t, factor * v, conditional.signal, conditional.sigma)


def _timesteps_within(schedule: NoiseSchedule, interval: Any, unit: IntervalUnit) -> tuple[int, int]:
    """The lowest and the highest t in an interval of t or λ_t; 1 and T for None."""
    check_choice("interval_unit", unit, get_args(IntervalUnit))
    if interval is None:
        return 1, schedule.timesteps
    ends = [end for end in plain_numbers(interval) if end is not None]
    values = range(schedule.timesteps + 1) if unit == "t" else schedule.exact_log_snr.tolist()
    within = [t for t in range(1, len(values)) if len(ends) == 2 and ends[0] <= values[t] <= ends[1]]
    if not within:
        lowest, highest = sorted((values[1], values[-1]))
        raise ValueError(
            f"interval must be a pair (low, high) with some {unit} of the schedule in it, which has {lowest:.4g} …"
            f" {highest:.4g}, but got {shown(interval)}"
        )
    return within[0], within[-1]
