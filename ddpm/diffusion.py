"""`GaussianDiffusion`: a network, a schedule and an objective, which is all of DDPM but the training loop."""

import os
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ddpm import editing, samplers
from ddpm.checks import (
    check_choice,
    check_image_size,
    check_images,
    check_pair,
    check_t,
    check_whole,
    check_within,
)
from ddpm.loss import LossType, bound_loss, simple_loss
from ddpm.prediction import Objective, Prediction, evaluating, training_target, x0_from_output
from ddpm.randomness import Generators, image_generators, randint, randn
from ddpm.reverse_process import learned_log_variance
from ddpm.samplers import Sampler
from ddpm.schedule import NoiseSchedule, default_schedule
from ddpm.transitions import Transitions
from ddpm.weighting import Weighting, weighting_config

# Called as the model's own network is: its compiled or distributed form.
Network = Callable[..., Tensor]


def to_model_scale(images: Tensor) -> Tensor:
    """Images from [0, 1] to the [-1, 1] of the maths."""
    return images * 2 - 1


def to_image_scale(x: Tensor) -> Tensor:
    """From the [-1, 1] of the maths to images in [0, 1]; what lies outside is clipped."""
    return ((x + 1) / 2).clamp(0, 1)


class GaussianDiffusion(Transitions, nn.Module):
    """A network, a schedule and an objective (Ho et al. 2020).

    Images are tensors of shape (B, C, H, W): in [0, 1] where `forward` takes and `sample` returns them, in [-1, 1]
    everywhere else. t holds one timestep per image, 1 … T, shape (B,); labels hold one class per image, shape (B,), for
    a network that takes them, else None. `x_self_cond` is the previous estimate of x_0, shaped like `x_t`, for a
    network with self-conditioning; None for none. What has another shape, type or range is a ValueError.

    Attributes:
        network: the network.
        schedule: the `NoiseSchedule`.
        beta_schedule: the schedule's name.
        objective: what the network's output stands for.
        image_size: (height, width) of the images.
        channels: number of channels, read from the network.
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
    ) -> None:
        """Join a network to a schedule.

        Args:
            network: any module that meets the network contract (see `ddpm`).
            image_size: height and width in pixels; one number for square images.
            timesteps: T, the number of noise levels.
            sampling_timesteps: default number of network calls of `sample`; None means T. Fewer than T uses DDIM.
            loss_type: "l2" (the paper's) or "l1".
            objective: "pred_noise" (the paper's), "pred_x0" or "pred_v".
            beta_schedule: "linear" (the paper's), "cosine" or "sigmoid". None means "linear" if T > 20 and "cosine" for
                a shorter chain: rescaled to that few steps (see `linear_betas`), the linear variances would reach 1.
            loss_weighting: None (the paper's L_simple), `MinSNR()` or `P2()`.
            ddim_sampling_eta: η of DDIM: 0 is deterministic, 1 has the noise of ancestral sampling.

        Raises:
            ValueError: if an option is unknown or out of range.
            TypeError: if `loss_weighting` cannot be called; a configuration's goes through `weighting_from_config`.
        """
        super().__init__()
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
                "the network must say how many image channels it takes, in an attribute `channels` >= 1"
            )
        self.sampling_timesteps = timesteps if sampling_timesteps is None else sampling_timesteps
        check_whole("sampling_timesteps", self.sampling_timesteps, highest=timesteps)
        samplers.check_eta(ddim_sampling_eta)
        self.ddim_sampling_eta = ddim_sampling_eta

    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | os.PathLike[str], *, weights: Literal["ema", "model"] = "ema"
    ) -> "GaussianDiffusion":
        """`ddpm.load_pretrained`, where users of other libraries look for it."""
        # Files are not the method's business: the package finds who reads them, when it is asked.
        import ddpm

        return ddpm.load_pretrained(name_or_folder, weights=weights)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """`ddpm.save_pretrained`, where users of other libraries look for it."""
        import ddpm

        ddpm.save_pretrained(self, folder)

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
        }

    @property
    def self_condition(self) -> bool:
        """Whether the network takes its own previous estimate of x_0 (Chen et al. 2023, *Analog Bits*)."""
        return bool(getattr(self.network, "self_condition", False))

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
        """Ask the network what it sees in x_t (eq:three-coordinates, eq:score).

        Args:
            x_t: noisy images.
            t: their timesteps.
            labels: their classes.
            clip_x0: clip the clean image to [-1, 1] and re-derive the noise from it, so that all coordinates still
                agree.
            x_self_cond: the previous estimate of x_0.
            network: called in place of `self.network`, such as its compiled or distributed form.
        """
        check_images("x_t", x_t)
        if x_self_cond is not None:
            check_pair("x_t", x_t, "x_self_cond", x_self_cond)
        t = check_t(t, x_t, self.schedule.timesteps)
        output, log_variance = self._network_output(x_t, t, labels, x_self_cond, network)
        signal, sigma = self.schedule.signal_and_sigma(t, x_t)
        # Autocast may have left the output in half precision.
        x0 = x0_from_output(self.objective, x_t, output.to(x_t.dtype), signal, sigma)
        x0 = x0.clamp(-1, 1) if clip_x0 else x0
        return Prediction.from_x0(x_t, x0, signal, sigma, log_variance)

    def _network_output(
        self,
        x_t: Tensor,
        t: Tensor,
        labels: Tensor | None,
        x_self_cond: Tensor | None,
        network: Network | None,
    ) -> tuple[Tensor, Tensor | None]:
        """The network's output, shaped like `x_t`, and log σ² of the step back, likewise, if it has a head for that."""
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

    @torch.no_grad()
    def sample(
        self,
        batch_size: int = 16,
        sampling_timesteps: int | None = None,
        *,
        sampler: Sampler | None = None,
        eta: float | None = None,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        seeds: Sequence[int] | None = None,
        progress: bool = False,
    ) -> Tensor:
        """Images out of noise: ancestral sampling over all T timesteps, or DDIM over fewer.

        Args:
            batch_size: number of images, at least 1.
            sampling_timesteps: network calls, 1 … T; None takes the value given at construction.
            sampler: "ancestral", which takes T network calls, or "ddim"; None takes the first for T calls and the
                second for fewer.
            eta: η of DDIM; None takes the value given at construction.
            labels: their classes.
            generator: source of all randomness, for a whole batch that can be repeated.
            seeds: one seed per image instead: image i then depends on seeds[i] alone, not on the batch around it.
            progress: show a progress bar.

        Returns:
            Images in [0, 1], shape (batch_size, C, H, W).
        """
        steps = self.sampling_timesteps if sampling_timesteps is None else sampling_timesteps
        eta = self.ddim_sampling_eta if eta is None else eta
        source = image_generators(batch_size, generator, seeds)
        walk = samplers.choose(sampler, steps, self.schedule.timesteps, eta)
        x = randn((batch_size, *self.image_shape), source, self.device).to(self.schedule.beta.dtype)
        with evaluating(self):
            for state in tqdm(
                walk(self, x, labels=labels, generator=source),
                total=steps,
                desc="sampling",
                disable=not progress,
            ):
                x = state.x
        return to_image_scale(x)

    def interpolate(
        self,
        x1: Tensor,
        x2: Tensor,
        t: int | None = None,
        lam: float = 0.5,
        *,
        labels: Tensor | None = None,
        generator: Generators = None,
    ) -> Tensor:
        """`ddpm.editing.interpolate`, in evaluation mode."""
        with evaluating(self):
            return editing.interpolate(self, x1, x2, t, lam, labels=labels, generator=generator)

    def loss(
        self,
        x0: Tensor,
        t: Tensor | None = None,
        noise: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        network: Network | None = None,
        self_condition_mask: Tensor | None = None,
    ) -> Tensor:
        """L_simple: how well the network sees through random amounts of noise (eq:l-simple; Ho et al. 2020, eq. 14).

        A network with self-conditioning gets, for half of the images, its own first prediction of x_0, and nothing for
        the others (Chen et al. 2023, *Analog Bits*). It is not trained through that prediction. A network that predicts
        its variance is trained on L_hybrid (`ddpm.loss.bound_loss`).

        Args:
            x0: clean images in [-1, 1].
            t: their timesteps; drawn uniformly if not given.
            noise: ε, shaped like `x0`; drawn if not given.
            labels: their classes.
            generator: source of `t`, `noise` and the mask, in this order, where they are drawn.
            network: called in place of `self.network`, such as its compiled or distributed form.
            self_condition_mask: which images get the first prediction, bool of shape (B,); a fair coin for each if not
                given. For a network with self-conditioning only.

        Returns:
            The mean loss over the batch, a scalar. The weight w(t) multiplies each image's error; the bound is not
            weighted.
        """
        check_images("x0", x0)
        if t is None:
            t = randint(1, self.schedule.timesteps + 1, len(x0), generator, x0.device)
        if noise is None:
            noise = randn(tuple(x0.shape), generator, x0.device)
        x_t = self.q_sample(x0, t, noise)
        t = t.to(x0.device, torch.long)
        x_self_cond = self._self_condition_input(x_t, t, labels, self_condition_mask, generator, network)
        output, log_variance = self._network_output(x_t, t, labels, x_self_cond, network)
        signal, sigma = self.schedule.signal_and_sigma(t, x_t)
        target = training_target(self.objective, x0, noise, signal, sigma)
        per_image = simple_loss(output, target, self.loss_type)
        if self.loss_weighting is not None:
            per_image = self.loss_weighting(self.schedule, t, self.objective) * per_image
        if log_variance is not None:
            predicted = x0_from_output(self.objective, x_t, output.detach().to(x_t.dtype), signal, sigma)
            per_image = per_image + bound_loss(self.schedule, x0, x_t, t, predicted, log_variance)
        return per_image.mean()

    def _self_condition_input(
        self,
        x_t: Tensor,
        t: Tensor,
        labels: Tensor | None,
        mask: Tensor | None,
        generator: torch.Generator | None,
        network: Network | None,
    ) -> Tensor | None:
        """The network's own prediction of x_0, in [-1, 1] and without gradient; zeros where `mask` is false.

        All images are asked about, though only some need it: picking them out would make an accelerator wait.
        """
        if not self.self_condition:
            if mask is not None:
                raise ValueError(
                    "self_condition_mask is for a network with self-conditioning, and this one has none"
                )
            return None
        mask = randint(0, 2, len(x_t), generator, x_t.device).bool() if mask is None else mask
        if mask.shape != (len(x_t),) or mask.dtype != torch.bool:
            raise ValueError(
                f"self_condition_mask must hold one truth value per image, bool of shape ({len(x_t)},), but got"
                f" {mask.dtype} of shape {tuple(mask.shape)}"
            )
        with torch.no_grad():
            x0 = self.predict(x_t, t, labels, clip_x0=True, network=network).x0
        # Some versions of torch keep the weights that autocast cast here, without gradients, for the pass that follows.
        torch.clear_autocast_cache()
        return torch.where(mask.to(x_t.device).view(-1, 1, 1, 1), x0, 0.0)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The training loss of a batch of at least one image in [0, 1]; a scalar."""
        check_images("images", images, self.image_shape)
        if len(images) == 0:
            raise ValueError("images must hold at least one image, but got an empty batch")
        check_within("images", images, 0, 1, "`loss` takes images that are already scaled to [-1, 1]")
        return self.loss(to_model_scale(images), labels=labels)
