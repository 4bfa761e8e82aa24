"""`GaussianDiffusion`: a network, a schedule and an objective, which is all of DDPM but the training loop."""

import os
from collections.abc import Sequence
from typing import Any, get_args

from torch import Tensor, nn

from ddpm import samplers
from ddpm.grids import Spacing
from ddpm.loss import LossType, Network, TrainingLoss
from ddpm.prediction import Objective, Prediction, clipped, x0_from_output
from ddpm.reverse_process import FixedVariance, learned_log_variance
from ddpm.sampler_choice import Sampler
from ddpm.sampling import Sampling
from ddpm.schedule import NoiseSchedule, default_schedule
from ddpm.support.checks import (
    check_call,
    check_choice,
    check_class_names,
    check_image_size,
    check_whole,
    how_to_unwrap,
    plain_number,
)
from ddpm.support.keywords import DIFFUSION, known_keywords
from ddpm.support.scales import to_image_scale as to_image_scale
from ddpm.support.scales import to_model_scale as to_model_scale
from ddpm.support.tensor_checks import check_images, check_labels, check_pair, check_t, check_within
from ddpm.transitions import Transitions
from ddpm.weighting import Weighting, weighting_config


class GaussianDiffusion(Transitions, TrainingLoss, Sampling, nn.Module):
    """A network, a schedule and an objective (Ho et al. 2020).

    Images have shape (B, C, H, W): in [0, 1] where `forward` takes and `sample` returns them, in [-1, 1] everywhere
    else. t holds one timestep per image, 1 … T, and labels one class per image, shape (B,), for a network that takes
    them, else None; with label dropout None stands for no label, and so does `null_label` in the place of a class.
    `x_self_cond` is the previous estimate of x_0, for a network with self-conditioning; None for none. What has another
    shape, dtype or range is a ValueError; images that are no tensor are a TypeError.

    Attributes:
        schedule: the `NoiseSchedule`.
        channels: number of channels, read from the network.
        image_size: (height, width).
        class_names: what the classes are called, in their order; None where that is not known.
    """

    @known_keywords(DIFFUSION)
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
        class_names: Sequence[str] | None = None,
        variance: FixedVariance | None = None,
    ) -> None:
        """Join a network to a schedule.

        Args:
            network: any module that meets the network contract (see `ddpm`).
            image_size: height and width in pixels; one number for square images.
            timesteps: T, the number of noise levels.
            sampling_timesteps: default number of steps of `sample`, but for "ancestral", which takes T; None means T.
            loss_type: "l2" (the paper's) or "l1".
            objective: "pred_noise" (the paper's), "pred_x0", "pred_v" or "pred_flow", ε − x_0. The last one is flow
                matching, with the time that the `beta_schedule` "flow" makes uniform.
            beta_schedule: "linear" (the paper's), "cosine", "sigmoid", "log-snr" or "flow". None means "linear" if
                T > 20 and "cosine" for a shorter chain: rescaled to that few steps (see `linear_betas`), the linear
                variances would reach 1.
            loss_weighting: None (the paper's L_simple), `MinSNR()`, `P2()`, `EDM()` or a function like them; anything
                else is a TypeError; `ddpm.weighting.weighting_from_config` makes one of what a configuration holds.
            ddim_sampling_eta: η of DDIM: 0 is deterministic, 1 has the noise of ancestral sampling.
            sampler: default sampler of `sample`; None is "ancestral" for T steps and "ddim" for fewer.
            spacing: default of `sample`, how fewer than T timesteps are spread (see `timestep_grid`).
            class_names: what the classes are called, one name each, for a network that takes labels.
            variance: default of `sample` for ancestral steps, "fixed_small" or "fixed_large"; None is "learned" for a
                network that predicts it, and "fixed_small" for any other.
        """
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"network must be a torch.nn.Module, such as Unet(64), but got {network!r}")
        check_choice("objective", objective, get_args(Objective))
        check_choice("loss_type", loss_type, get_args(LossType))
        if loss_weighting is not None and (isinstance(loss_weighting, type) or not callable(loss_weighting)):
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
            advice = how_to_unwrap(network, lambda held: hasattr(held, "channels"))
            about = f"; for a {type(network).__name__}, {advice}, and train on several GPUs by `accelerate launch`"
            raise ValueError(
                "the network must say in an attribute `channels` how many image channels it takes"
                f"{about if advice else ''}"
            )
        check_call(network)
        steps = timesteps if sampling_timesteps is None else sampling_timesteps
        self.sampling_timesteps = check_whole("sampling_timesteps", steps, highest=self.schedule.timesteps)
        self.ddim_sampling_eta = samplers.check_eta(ddim_sampling_eta)
        check_choice("spacing", spacing, get_args(Spacing))
        self.sampler: Sampler | None = sampler
        self.spacing: Spacing = spacing
        if variance is not None:
            check_choice("variance", variance, get_args(FixedVariance))
        self.variance: FixedVariance | None = variance
        self.chosen_sampler()
        self.class_names = check_class_names(class_names, getattr(network, "num_classes", None))

    @classmethod
    def from_pretrained(cls, name_or_folder: str | os.PathLike[str], **options: Any) -> "GaussianDiffusion":
        """`ddpm.load_pretrained`, where users of other libraries look for it."""
        # Files are not the method's business: the package finds who reads them, when it is asked.
        import ddpm

        loaded = ddpm.load_pretrained(name_or_folder, **options)
        if cls is GaussianDiffusion or isinstance(loaded, cls):
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
            "sampling_timesteps": plain_number(self.sampling_timesteps),
            "loss_type": self.loss_type,
            "objective": self.objective,
            "beta_schedule": self.beta_schedule,
            "loss_weighting": weighting_config(self.loss_weighting),
            "ddim_sampling_eta": plain_number(self.ddim_sampling_eta),
            "sampler": self.sampler,
            "spacing": self.spacing,
            "class_names": self.class_names,
            "variance": self.variance,
        }

    @property
    def learned_variance(self) -> bool:
        """Whether the network predicts the variance of the step back as well (Nichol & Dhariwal 2021)."""
        return bool(getattr(self.network, "learned_variance", False))

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
        x0 = clipped(x0) if clip_x0 and self.clips_x0 else x0
        return Prediction.from_x0(x_t, x0, signal, sigma, log_variance)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The training loss of a batch of at least one image in [0, 1]; a scalar."""
        check_images("images", images, self.image_shape, self.device)
        if len(images) == 0:
            raise ValueError("images must hold at least one image, but got an empty batch")
        check_within(
            "images", images, 0, 1, "8-bit pixels are divided by 255, and `loss` takes images in [-1, 1]"
        )
        return self.loss(self.to_x0(images), labels=labels)

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
        if not isinstance(output, Tensor):
            raise TypeError(
                f"the network must return a tensor, but returned a {type(output).__name__}; load_diffusers_unet makes a"
                " Unet of a UNet2DModel of diffusers"
            )
        heads = 2 if self.learned_variance else 1
        wanted = (len(x_t), heads * x_t.shape[1], *x_t.shape[2:])
        if tuple(output.shape) != wanted:
            raise ValueError(f"the network must return shape {wanted}, but returned {tuple(output.shape)}")
        if heads == 1:
            return output, None
        output, fraction = output.chunk(2, dim=1)
        return output, learned_log_variance(self.schedule, t, fraction.to(x_t.dtype))
