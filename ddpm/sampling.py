"""Images out of noise, from the door of a model: its defaults, its seeds, its progress bar, around `ddpm.samplers`."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ddpm import editing, samplers
from ddpm.grids import Spacing
from ddpm.guidance import Guidance, guided
from ddpm.prediction import evaluating
from ddpm.reverse_process import FixedVariance, Variance, VarianceRule
from ddpm.sampler_choice import Sampler, choose
from ddpm.schedule import NoiseSchedule
from ddpm.support.checks import check_whole
from ddpm.support.randomness import image_generators, randn
from ddpm.support.scales import to_image_scale, to_model_scale
from ddpm.support.tensor_checks import check_finite, check_labels


def _pause() -> float:
    """Seconds between two states of a progress bar: few where a log keeps all of them, and a notebook draws over."""
    draws_over = "ipykernel" in sys.modules
    # There may be no stream, one that is closed, or a log.
    with contextlib.suppress(AttributeError, OSError, ValueError):
        draws_over = draws_over or sys.stderr.isatty()
    return 0.1 if draws_over else 30.0


class Sampling:
    """How a model draws images: what `GaussianDiffusion` adds to, which says what images and labels are."""

    schedule: NoiseSchedule
    sampling_timesteps: int
    ddim_sampling_eta: float
    sampler: Sampler | None
    spacing: Spacing
    variance: FixedVariance | None
    channels: int
    image_size: tuple[int, int]
    predict: Any
    # Whether x_0 lies in [-1, 1], as that of images does.
    clips_x0: bool = True

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.schedule.beta.device

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return (self.channels, *self.image_size)

    @property
    def x_shape(self) -> tuple[int, int, int]:
        """Shape of one x_t: that of an image, where the chain runs on images."""
        return self.image_shape

    def to_x0(self, images: Tensor) -> Tensor:
        """Images in [0, 1], as they are at the door, → what the chain calls x_0."""
        return to_model_scale(images)

    def to_images(self, x: Tensor) -> Tensor:
        """The way back, into [0, 1]."""
        return to_image_scale(x)

    @torch.no_grad()
    def sample(
        self,
        batch_size: int = 16,
        sampling_timesteps: int | None = None,
        *,
        sampler: Sampler | None = None,
        eta: float | None = None,
        spacing: Spacing | None = None,
        variance: Variance | Tensor | VarianceRule | None = None,
        labels: Tensor | None = None,
        guidance: Guidance | None = None,
        generator: torch.Generator | None = None,
        seeds: Sequence[int] | None = None,
        progress: bool = False,
    ) -> Tensor:
        """Images out of noise, in [0, 1], by one of `ddpm.samplers`.

        What is None is as given at construction. An option of another sampler than the one that runs is an error.

        Args:
            batch_size: number of images, at least 1.
            sampling_timesteps: steps, 1 … T, each of one network call, or of two, but for the last, with "heun".
            sampler: "ancestral", which takes T steps, "ddim", "heun" or "dpm++", DPM-Solver++(2M).
            eta: η of DDIM.
            spacing: "even", "log-snr", "karras" or "quadratic", how the timesteps of all but "ancestral" are spread.
            variance: of the step of "ancestral", as in `ddpm.ancestral`; None is the model's own.
            labels: their classes.
            guidance: scale w of classifier-free guidance, ε(x_t) + w (ε(x_t, y) − ε(x_t)), for a model trained with
                label dropout: 1 is none. Or what makes a guided model of this one, such as
                `functools.partial(ClassifierFreeGuidance, scale=2.0, rescale=0.7)`.
            generator: source of all randomness, for a whole batch that can be repeated.
            seeds: one seed per image instead: image i then depends on seeds[i] alone, not on the batch around it.
            progress: show a progress bar; in a log it is drawn twice a minute at most.

        Raises:
            FloatingPointError: if an image is not finite, as the network has diverged or its file is damaged.
        """
        batch_size = check_whole("batch_size", batch_size)
        source = image_generators(batch_size, generator, seeds)
        walk = self.chosen_sampler(sampling_timesteps, sampler, eta=eta, spacing=spacing, variance=variance)
        steps = walk.keywords.get("steps", self.schedule.timesteps)
        dtype = self.schedule.beta.dtype
        x = randn((batch_size, *self.x_shape), source, self.device, dtype).to(dtype)
        model = guided(self, guidance)
        states = walk(model, x, labels=check_labels(labels, x), generator=source, clip_x0=self.clips_x0)
        with evaluating(self), evaluating(model):
            silent = not progress or sys.stderr is None or getattr(sys.stderr, "closed", False)
            for state in tqdm(states, total=steps, desc="sampling", disable=silent, mininterval=_pause()):
                x = state.x
        return self.to_images(check_finite(x))

    def chosen_sampler(
        self, sampling_timesteps: int | None = None, sampler: Sampler | None = None, **given: Any
    ) -> partial[Iterator[samplers.State]]:
        """What `sample` walks by with these options: one of `ddpm.samplers`, to be called with the model and x_T."""
        sampler = self.sampler if sampler is None else sampler
        usual = self.schedule.timesteps if sampler == "ancestral" else self.sampling_timesteps
        steps = usual if sampling_timesteps is None else sampling_timesteps
        own = {"eta": self.ddim_sampling_eta, "spacing": self.spacing, "variance": self.variance}
        return choose(sampler, steps, self.schedule.timesteps, own, **given)

    def interpolate(
        self, x1: Tensor, x2: Tensor, t: int | None = None, lam: float = 0.5, **options: Any
    ) -> Tensor:
        """Between two pictures: `ddpm.editing.interpolate`, which says what the options are."""
        with evaluating(self):
            return editing.interpolate(self, x1, x2, t, lam, **options)
