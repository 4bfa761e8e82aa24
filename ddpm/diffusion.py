"""`GaussianDiffusion`: a network, a schedule and an objective, which is all of DDPM but the training loop."""

import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ddpm import editing, samplers
from ddpm.checks import check_choice, check_image_size, check_whole
from ddpm.grids import Spacing
from ddpm.loss import LossType, Network, TrainingLoss
from ddpm.prediction import Objective, Prediction, clipped, evaluating, x0_from_output
from ddpm.randomness import image_generators, randn
from ddpm.reverse_process import Variance, VarianceRule, learned_log_variance
from ddpm.samplers import Sampler
from ddpm.schedule import NoiseSchedule, default_schedule
from ddpm.tensor_checks import (
    check_finite,
    check_images,
    check_labels,
    check_pair,
    check_t,
    check_tensor,
    check_within,
)
from ddpm.transitions import Transitions
from ddpm.weighting import Weighting, weighting_config


def to_model_scale(images: Tensor) -> Tensor:
    """Images from [0, 1] to the [-1, 1] of the maths."""
    check_tensor("images", images, floating=True)
    return images * 2 - 1


def to_image_scale(x: Tensor) -> Tensor:
    """From the [-1, 1] of the maths to images in [0, 1]; what lies outside is clipped."""
    check_tensor("x", x, floating=True)
    return ((x + 1) / 2).clamp(0, 1)


def _pause() -> float:
    """Seconds between two states of a progress bar: few where a log keeps all of them, and a notebook draws over."""
    draws_over = "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())
    return 0.1 if draws_over else 30.0


class GaussianDiffusion(Transitions, TrainingLoss, nn.Module):
    """A network, a schedule and an objective (Ho et al. 2020).

    Images have shape (B, C, H, W): in [0, 1] where `forward` takes and `sample` returns them, in [-1, 1] everywhere
    else. t holds one timestep per image, 1 … T, and labels one class per image, shape (B,), for a network that takes
    them, else None. `x_self_cond` is the previous estimate of x_0, for a network with self-conditioning; None for none.
    What has another shape, type or range is a ValueError.

    Attributes:
        schedule: the `NoiseSchedule`.
        channels: number of channels, read from the network.
        image_size: (height, width).
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        image_size: int | tuple[int, int],
        timesteps: int = 1000,
        sampling_timesteps: int | None = None,
        loss_type: LossType = "l2",
        objective: Objective = "pred_noise",
        beta_schedule: str | None = None,
        loss_weighting: Weighting | None = None,
        ddim_sampling_eta: float = 0.0,
        sampler: Sampler | None = None,
        spacing: Spacing = "even",
    ) -> None:
        """Join a network to a schedule.

        Args:
            network: any module that meets the network contract (see `ddpm`).
            image_size: height and width in pixels; one number for square images.
            timesteps: T, the number of noise levels.
            sampling_timesteps: default number of steps of `sample`; None means T.
            loss_type: "l2" (the paper's) or "l1".
            objective: "pred_noise" (the paper's), "pred_x0" or "pred_v".
            beta_schedule: "linear" (the paper's), "cosine", "sigmoid" or "log-snr". None means "linear" if T > 20
                and "cosine" for a shorter chain: rescaled to that few steps (see `linear_betas`), the linear variances
                would reach 1.
            loss_weighting: None (the paper's L_simple), `MinSNR()`, `P2()` or a function like them; anything else is a
                TypeError, as a configuration's goes through `weighting_from_config`.
            ddim_sampling_eta: η of DDIM: 0 is deterministic, 1 has the noise of ancestral sampling.
            sampler: default sampler of `sample`; None is "ancestral" for T steps and "ddim" for fewer.
            spacing: default of `sample`, how fewer than T timesteps are spread (see `timestep_grid`).
        """
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"network must be a torch.nn.Module, such as Unet(64), but got {network!r}")
        check_choice("objective", objective, get_args(Objective))
        check_choice("loss_type", loss_type, get_args(LossType))
        if loss_weighting is not None and not callable(loss_weighting):
            raise TypeError(
                "loss_weighting must be None or a weighting such as MinSNR(), but got"
                f" {loss_weighting!r}; weighting_from_config builds one from a configuration"
            )
        self.network = network
        self.beta_schedule = default_schedule(timesteps) if beta_schedule is None else beta_schedule
        self.schedule = NoiseSchedule.from_name(self.beta_schedule, timesteps)
        self.objective: Objective = objective
        self.loss_type: LossType = loss_type
        self.loss_weighting = loss_weighting
        self.image_size = check_image_size(image_size)
        self.channels = int(getattr(network, "channels", 0))
        if self.channels < 1:
            raise ValueError(
                "the network must say in an attribute `channels` how many image channels it takes"
            )
        steps = timesteps if sampling_timesteps is None else sampling_timesteps
        self.sampling_timesteps = check_whole("sampling_timesteps", steps, highest=self.schedule.timesteps)
        self.ddim_sampling_eta = samplers.check_eta(ddim_sampling_eta)
        check_choice("spacing", spacing, get_args(Spacing))
        self.sampler: Sampler | None = sampler
        self.spacing: Spacing = spacing
        self.chosen_sampler()

    @classmethod
    def from_pretrained(cls, name_or_folder: str | os.PathLike[str], **options: Any) -> "GaussianDiffusion":
        """`ddpm.load_pretrained`, where users of other libraries look for it."""
        # Files are not the method's business: the package finds who reads them, when it is asked.
        import ddpm

        loaded = ddpm.load_pretrained(name_or_folder, **options)
        if cls is GaussianDiffusion:
            return loaded
        # A subclass gets one of its own.
        arguments: dict[str, Any] = {**loaded.config, "loss_weighting": loaded.loss_weighting}
        return cls(loaded.network, **arguments).eval()

    def save_pretrained(self, folder: str | os.PathLike[str], **options: Any) -> None:
        """`ddpm.save_pretrained`, where users of other libraries look for it."""
        import ddpm

        ddpm.save_pretrained(self, folder, **options)

    @property
    def config(self) -> dict[str, object]:
        """The arguments apart from the network, ready for JSON; `beta_schedule` is the name that None stood for."""
        return {
            "image_size": list(self.image_size),
            "timesteps": self.schedule.timesteps,
            "sampling_timesteps": self.sampling_timesteps,
            "loss_type": self.loss_type,
            "objective": self.objective,
            "beta_schedule": self.beta_schedule,
            "loss_weighting": weighting_config(self.loss_weighting),
            "ddim_sampling_eta": self.ddim_sampling_eta,
            "sampler": self.sampler,
            "spacing": self.spacing,
        }

    @property
    def learned_variance(self) -> bool:
        """Whether the network predicts the variance of the step back as well (Nichol & Dhariwal 2021)."""
        return bool(getattr(self.network, "learned_variance", False))

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.schedule.beta.device

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return (self.channels, *self.image_size)

    def predict(
        self,
        x_t: Tensor,
        t: Tensor,
        labels: Tensor | None = None,
        *,
        clip_x0: bool = False,
        x_self_cond: Tensor | None = None,
        network: Network | None = None,
    ) -> Prediction:
        """What the network sees in x_t (eq:three-coordinates, eq:score).

        With `clip_x0` the clean image is clipped to [-1, 1] and the noise derived from it again, so that all
        coordinates still agree. `network` is called in place of the model's own, such as its compiled form.
        """
        check_images("x_t", x_t, device=self.device)
        if x_self_cond is not None:
            check_pair("x_t", x_t, "x_self_cond", x_self_cond, self.device)
        t, labels = check_t(t, x_t, self.schedule.timesteps), check_labels(labels, x_t)
        output, log_variance = self._network_output(x_t, t, labels, x_self_cond, network)
        signal, sigma = self.schedule.signal_and_sigma(t, x_t)
        # Autocast may have left the output in half precision.
        x0 = x0_from_output(self.objective, x_t, output.to(x_t.dtype), signal, sigma)
        x0 = clipped(x0) if clip_x0 else x0
        return Prediction.from_x0(x_t, x0, signal, sigma, log_variance)

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
            spacing: "even", "log-snr" or "quadratic", how the timesteps of all but "ancestral" are spread.
            variance: of the step of "ancestral", as in `ddpm.ancestral`; None is the model's own.
            labels: their classes.
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
        x = randn((batch_size, *self.image_shape), source, self.device, dtype).to(dtype)
        states = walk(self, x, labels=check_labels(labels, x), generator=source)
        with evaluating(self):
            silent = not progress or sys.stderr is None
            for state in tqdm(states, total=steps, desc="sampling", disable=silent, mininterval=_pause()):
                x = state.x
        return to_image_scale(check_finite(x))

    def chosen_sampler(
        self, sampling_timesteps: int | None = None, sampler: Sampler | None = None, **given: Any
    ) -> partial[Iterator[samplers.State]]:
        """What `sample` walks by with these options: one of `ddpm.samplers`, to be called with the model and x_T."""
        sampler = self.sampler if sampler is None else sampler
        usual = self.schedule.timesteps if sampler == "ancestral" else self.sampling_timesteps
        steps = usual if sampling_timesteps is None else sampling_timesteps
        own = {"eta": self.ddim_sampling_eta, "spacing": self.spacing}
        return samplers.choose(sampler, steps, self.schedule.timesteps, own, **given)

    def interpolate(
        self, x1: Tensor, x2: Tensor, t: int | None = None, lam: float = 0.5, **options: Any
    ) -> Tensor:
        """Between two pictures: `ddpm.editing.interpolate`, which says what the options are."""
        with evaluating(self):
            return editing.interpolate(self, x1, x2, t, lam, **options)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The training loss of a batch of at least one image in [0, 1]; a scalar."""
        check_images("images", images, self.image_shape, self.device)
        if len(images) == 0:
            raise ValueError("images must hold at least one image, but got an empty batch")
        check_within("images", images, 0, 1, "`loss` takes images that are already scaled to [-1, 1]")
        return self.loss(to_model_scale(images), labels=labels)

    def _network_output(
        self,
        x_t: Tensor,
        t: Tensor,
        labels: Tensor | None,
        x_self_cond: Tensor | None,
        network: Network | None,
    ) -> tuple[Tensor, Tensor | None]:
        """The network's output, shaped like `x_t`, and log ω_t² of the step back, likewise, if it has a head for it."""
        if x_self_cond is not None and not self.self_condition:
            raise ValueError("x_self_cond is for a network with self-conditioning, and this one has none")
        told = {} if x_self_cond is None else {"x_self_cond": x_self_cond}
        output = (self.network if network is None else network)(x_t, t, labels, **told)
        heads = 2 if self.learned_variance else 1
        wanted = (len(x_t), heads * x_t.shape[1], *x_t.shape[2:])
        if tuple(output.shape) != wanted:
            raise ValueError(f"the network must return shape {wanted}, but returned {tuple(output.shape)}")
        if heads == 1:
            return output, None
        output, fraction = output.chunk(2, dim=1)
        return output, learned_log_variance(self.schedule, t, fraction.to(x_t.dtype))
