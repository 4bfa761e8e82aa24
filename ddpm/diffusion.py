"""The diffusion process around a network: noising, the posterior, the three objectives and the training loss.

Images handed to `forward` and returned by `sample` are in [0, 1]. Everything named by the maths works in [-1, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ddpm import samplers
from ddpm.checks import check_choice, check_image_size, check_images, check_levels, check_pair
from ddpm.schedule import NoiseSchedule
from ddpm.weighting import Objective, Weighting

LossType = Literal["l1", "l2"]


def to_model_scale(images: Tensor) -> Tensor:
    """Images from [0, 1] to the [-1, 1] of the maths."""
    return images * 2 - 1


def to_image_scale(x: Tensor) -> Tensor:
    """From the [-1, 1] of the maths to images in [0, 1]; what lies outside is clipped."""
    return ((x + 1) / 2).clamp(0, 1)


@dataclass(frozen=True)
class Prediction:
    """One belief about x_t, in four coordinates that always agree (eq:three-coordinates, eq:score).

    Attributes:
        noise: the ε in x_t = √ᾱ_t x_0 + σ_t ε, shape (B, C, H, W).
        x0: the clean image.
        v: √ᾱ_t ε − σ_t x_0 (Salimans & Ho 2022).
        score: ∇ log q(x_t) = −ε/σ_t.
    """

    noise: Tensor
    x0: Tensor
    v: Tensor
    score: Tensor


class GaussianDiffusion(nn.Module):
    """A network, a schedule and an objective: all of DDPM but the training loop (Ho et al. 2020).

    Attributes:
        network: called as `network(x_t, t, labels)` with t in 1 … T.
        schedule: the `NoiseSchedule`.
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
        beta_schedule: str = "linear",
        loss_weighting: Weighting | None = None,
        ddim_sampling_eta: float = 0.0,
    ) -> None:
        """Join a network to a schedule.

        Args:
            network: any module that meets the network contract: `network(x_t, t, labels=None)` returns a tensor
                shaped like `x_t` of shape (B, C, H, W), for t of shape (B,) with values 1 … T, and has an attribute
                `channels`.
            image_size: height and width in pixels; one number for square images.
            timesteps: T, the number of noise levels.
            sampling_timesteps: default number of network calls of `sample`; None means T. Fewer than T uses DDIM.
            loss_type: "l2" (the paper's) or "l1".
            objective: "pred_noise" (the paper's), "pred_x0" or "pred_v".
            beta_schedule: "linear" (the paper's), "cosine" or "sigmoid".
            loss_weighting: None (the paper's L_simple), `MinSNR()` or `P2()`.
            ddim_sampling_eta: η of DDIM: 0 is deterministic, 1 has the noise of ancestral sampling.

        Raises:
            ValueError: if an option is unknown or out of range.
        """
        super().__init__()
        check_choice("objective", objective, get_args(Objective))
        check_choice("loss_type", loss_type, get_args(LossType))
        self.network = network
        self.schedule = NoiseSchedule.from_name(beta_schedule, timesteps)
        self.beta_schedule = beta_schedule
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
        samplers.check_steps(self.sampling_timesteps, timesteps)
        samplers.check_eta(ddim_sampling_eta)
        self.ddim_sampling_eta = ddim_sampling_eta

    @property
    def config(self) -> dict[str, object]:
        """The arguments, apart from the network and the loss weighting, ready for JSON."""
        return {
            "image_size": list(self.image_size),
            "timesteps": self.schedule.timesteps,
            "sampling_timesteps": self.sampling_timesteps,
            "loss_type": self.loss_type,
            "objective": self.objective,
            "beta_schedule": self.beta_schedule,
            "ddim_sampling_eta": self.ddim_sampling_eta,
        }

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.schedule.beta.device

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return (self.channels, *self.image_size)

    # The forward process

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε: t steps of noise at once (eq:q-sample; Ho et al. 2020, eq. 4).

        Args:
            x_start: x_0 in [-1, 1], shape (B, C, H, W).
            t: noise levels 1 … T, shape (B,).
            noise: ε, standard normal, shaped like `x_start`.

        Returns:
            x_t, shaped like `x_start`, in float32 at least: in half precision the smallest steps would add no noise.

        Raises:
            ValueError: if shapes, types or levels are wrong.
        """
        check_pair("x_start", x_start, "noise", noise)
        t = check_levels(t, x_start, self.schedule.timesteps)
        return self.at("sqrt_alpha_bar", t) * x_start + self.at("sigma", t) * noise

    def q_posterior(self, x_start: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q(x_{t−1} | x_t, x_0): what the picture looked like one step earlier.

        Bayes' rule (eq:posterior-bayes) has the closed forms eq:posterior-mean and eq:posterior-variance.

        Args:
            x_start: x_0 in [-1, 1], shape (B, C, H, W).
            x_t: the noisy image at level t, same shape.
            t: noise levels 1 … T, shape (B,).

        Returns:
            `(mean, variance, log_variance_clipped)`; the mean shaped like `x_t`, the others of shape (B, 1, 1, 1).

        Raises:
            ValueError: if shapes, types or levels are wrong.
        """
        check_pair("x_start", x_start, "x_t", x_t)
        t = check_levels(t, x_t, self.schedule.timesteps)
        mean = self.at("posterior_mean_coef_x0", t) * x_start + self.at("posterior_mean_coef_xt", t) * x_t
        return mean, self.at("posterior_variance", t), self.at("posterior_log_variance_clipped", t)

    # Noise, clean image and v: three coordinates of one thing (eq:three-coordinates)

    def predict_start_from_noise(self, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_0 = (x_t − σ_t ε) / √ᾱ_t, for x_t and ε of shape (B, C, H, W) and t of shape (B,)."""
        check_pair("x_t", x_t, "noise", noise)
        t = check_levels(t, x_t, self.schedule.timesteps)
        return (x_t - self.at("sigma", t) * noise) / self.at("sqrt_alpha_bar", t)

    def predict_noise_from_start(self, x_t: Tensor, t: Tensor, x_start: Tensor) -> Tensor:
        """ε = (x_t − √ᾱ_t x_0) / σ_t, for x_t and x_0 of shape (B, C, H, W) and t of shape (B,)."""
        check_pair("x_t", x_t, "x_start", x_start)
        t = check_levels(t, x_t, self.schedule.timesteps)
        return (x_t - self.at("sqrt_alpha_bar", t) * x_start) / self.at("sigma", t)

    def predict_v(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """v = √ᾱ_t ε − σ_t x_0, for x_0 and ε of shape (B, C, H, W) and t of shape (B,) (eq:v)."""
        check_pair("x_start", x_start, "noise", noise)
        t = check_levels(t, x_start, self.schedule.timesteps)
        return self.at("sqrt_alpha_bar", t) * noise - self.at("sigma", t) * x_start

    def predict_start_from_v(self, x_t: Tensor, t: Tensor, v: Tensor) -> Tensor:
        """x_0 = √ᾱ_t x_t − σ_t v, for x_t and v of shape (B, C, H, W) and t of shape (B,) (eq:three-coordinates)."""
        check_pair("x_t", x_t, "v", v)
        t = check_levels(t, x_t, self.schedule.timesteps)
        return self.at("sqrt_alpha_bar", t) * x_t - self.at("sigma", t) * v

    # The reverse process

    def predict(
        self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, *, clip_x0: bool = False
    ) -> Prediction:
        """Ask the network what it sees in x_t.

        Args:
            x_t: noisy images, shape (B, C, H, W).
            t: their noise levels 1 … T, shape (B,).
            labels: class labels, shape (B,), for a network that takes them.
            clip_x0: clip the clean image to [-1, 1] and re-derive the noise from it, so that all four still agree.

        Returns:
            The prediction as noise, x0, v (eq:three-coordinates) and score (eq:score).

        Raises:
            ValueError: if shapes, types or levels are wrong.
        """
        check_images("x_t", x_t)
        t = check_levels(t, x_t, self.schedule.timesteps)
        output = self.network(x_t, t, labels).to(x_t.dtype)  # autocast may have left it in half precision
        check_pair("x_t", x_t, "the network's output", output)
        if self.objective == "pred_noise":
            x0 = self.predict_start_from_noise(x_t, t, output)
        elif self.objective == "pred_v":
            x0 = self.predict_start_from_v(x_t, t, output)
        else:
            x0 = output
        if clip_x0:
            x0 = x0.clamp(-1, 1)
        noise = self.predict_noise_from_start(x_t, t, x0)
        return Prediction(
            noise=noise, x0=x0, v=self.predict_v(x0, t, noise), score=-noise / self.at("sigma", t)
        )

    def p_mean_variance(
        self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, *, clip_denoised: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """p_θ(x_{t−1} | x_t): the posterior with the network's x_0 in place of the true one (eq:reverse-step).

        Without clipping, the mean in terms of the predicted noise is eq:posterior-mean-noise.

        Args:
            x_t: noisy images, shape (B, C, H, W).
            t: their noise levels 1 … T, shape (B,).
            labels: class labels, shape (B,), for a network that takes them.
            clip_denoised: clip the predicted x_0 to [-1, 1] first.

        Returns:
            `(mean, variance, log_variance_clipped)`; the mean shaped like `x_t`, the others of shape (B, 1, 1, 1).

        Raises:
            ValueError: if shapes, types or levels are wrong.
        """
        return self.q_posterior(self.predict(x_t, t, labels, clip_x0=clip_denoised).x0, x_t, t)

    def p_sample(
        self,
        x_t: Tensor,
        t: Tensor,
        labels: Tensor | None = None,
        *,
        clip_denoised: bool = True,
        generator: samplers.Generators = None,
    ) -> Tensor:
        """Draw x_{t−1} from p_θ(x_{t−1} | x_t); at t = 1 its variance is 0 and the mean is returned (eq:reverse-step).

        Args:
            x_t: noisy images, shape (B, C, H, W).
            t: their noise levels 1 … T, shape (B,).
            labels: class labels, shape (B,), for a network that takes them.
            clip_denoised: clip the predicted x_0 to [-1, 1] first.
            generator: source of the noise.

        Returns:
            x_{t−1}, shaped like `x_t`.

        Raises:
            ValueError: if shapes, types or levels are wrong.
        """
        mean, variance, _ = self.p_mean_variance(x_t, t, labels, clip_denoised=clip_denoised)
        return mean + variance.sqrt() * samplers.randn_like(x_t, generator)

    @torch.no_grad()
    def sample(
        self,
        batch_size: int = 16,
        sampling_timesteps: int | None = None,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        seeds: Sequence[int] | None = None,
        progress: bool = False,
    ) -> Tensor:
        """Images out of noise: ancestral sampling over all T levels, or DDIM over fewer.

        Args:
            batch_size: number of images, at least 1.
            sampling_timesteps: network calls, 1 … T; None takes the value given at construction.
            labels: class labels, shape (batch_size,), for a network that takes them.
            generator: source of all randomness, for a whole batch that can be repeated.
            seeds: one seed per image instead: image i then depends on seeds[i] alone, not on the batch around it.
            progress: show a progress bar.

        Returns:
            Images in [0, 1], shape (batch_size, C, H, W).

        Raises:
            ValueError: if a number is out of range, or both `generator` and `seeds` are given.
        """
        steps = self.sampling_timesteps if sampling_timesteps is None else sampling_timesteps
        samplers.check_steps(steps, self.schedule.timesteps)
        source = samplers.image_generators(batch_size, generator, seeds)
        x = samplers.randn((batch_size, *self.image_shape), source, self.device).to(self.schedule.beta.dtype)
        if steps == self.schedule.timesteps:
            chain = samplers.ancestral(self, x, labels=labels, generator=source)
        else:
            chain = samplers.ddim(self, x, steps, eta=self.ddim_sampling_eta, labels=labels, generator=source)
        training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            for state in tqdm(chain, total=steps, desc="sampling", disable=not progress):
                x = state.x
        finally:
            for module in training:  # one by one: a part that was frozen in evaluation mode stays so
                module.training = True
        return to_image_scale(x)

    # Training

    def loss(
        self,
        x0: Tensor,
        t: Tensor | None = None,
        noise: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """L_simple: how well the network sees through random amounts of noise (eq:l-simple; Ho et al. 2020, eq. 14).

        Args:
            x0: clean images in [-1, 1], shape (B, C, H, W).
            t: noise levels 1 … T, shape (B,); drawn uniformly if not given.
            noise: ε, shaped like `x0`; drawn if not given.
            labels: class labels, shape (B,), for a network that takes them.
            generator: source of `t` and `noise` where they are drawn.

        Returns:
            The mean loss over the batch, a scalar. Each image's error is averaged over its own elements before any
            weight w(t) is applied to it.

        Raises:
            ValueError: if shapes, types or levels are wrong.
        """
        check_images("x0", x0)
        if t is None:
            t = samplers.randint(1, self.schedule.timesteps + 1, len(x0), generator, x0.device)
        if noise is None:
            noise = samplers.randn(tuple(x0.shape), generator, x0.device)
        t = check_levels(t, x0, self.schedule.timesteps)
        x_t = self.q_sample(x0, t, noise)
        output = self.network(x_t, t, labels)
        check_pair("x_t", x_t, "the network's output", output)
        per_image = self.elementwise_loss(output, self.target(x0, t, noise)).flatten(1).mean(1)
        if self.loss_weighting is None:
            return per_image.mean()
        return (self.loss_weighting(self.schedule, t, self.objective) * per_image).mean()

    def target(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """What the network should have said: ε, x_0 or v, shaped like `x0`."""
        if self.objective == "pred_noise":
            return noise
        return x0 if self.objective == "pred_x0" else self.predict_v(x0, t, noise)

    def elementwise_loss(self, output: Tensor, target: Tensor) -> Tensor:
        """|output − target| or its square, shaped like both."""
        distance = F.l1_loss if self.loss_type == "l1" else F.mse_loss
        return distance(output.float(), target, reduction="none")

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The training loss of a batch of images in [0, 1], shape (B, C, H, W); a scalar.

        Raises:
            ValueError: if the images have another shape than the model's, or values outside [0, 1].
        """
        check_images("images", images)
        if tuple(images.shape[1:]) != self.image_shape or len(images) == 0:
            raise ValueError(
                f"images must have shape (B, {', '.join(map(str, self.image_shape))}) with B >= 1,"
                f" but got {tuple(images.shape)}"
            )
        # Asked this way round, so that NaN is refused as well.
        if images.device.type == "cpu" and not (images.min() >= 0 and images.max() <= 1):
            raise ValueError(
                f"images must be in [0, 1], but range from {images.min().item():g} to {images.max().item():g};"
                " `loss` takes images that are already scaled to [-1, 1]"
            )
        return self.loss(to_model_scale(images), labels=labels)

    def at(self, table: str, t: Tensor) -> Tensor:
        """The schedule's `table` at t of shape (B,), as (B, 1, 1, 1), ready to multiply images."""
        return getattr(self.schedule, table)[t].view(-1, 1, 1, 1)
