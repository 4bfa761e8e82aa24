"""The diffusion process around a network: noising, the posterior, the three objectives and the training loss.

Images handed to `forward` and returned by `sample` are in [0, 1]. Everything named by the maths works in [-1, 1].
"""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ddpm import gaussians, samplers
from ddpm.checks import check_choice, check_heads, check_image_size, check_images, check_levels, check_pair
from ddpm.reverse import learned_log_variance
from ddpm.schedule import NoiseSchedule, check_timesteps
from ddpm.weighting import Objective, Weighting, weighting_config

LossType = Literal["l1", "l2"]
Sampler = Literal["ancestral", "ddim"]
# The smallest T for which the linear schedule, rescaled by 1000/T, keeps every β below 1.
SHORTEST_LINEAR = 21
VLB_WEIGHT = 0.001  # λ of L_hybrid = L_simple + λ L_vlb (Nichol & Dhariwal 2021)


def default_schedule(timesteps: int) -> str:
    """The schedule of a chain of T levels for which none is named: the paper's where it can be had at that length."""
    check_timesteps(timesteps)
    return "linear" if timesteps >= SHORTEST_LINEAR else "cosine"


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
        log_variance: log σ² of p_θ(x_{t−1} | x_t), same shape, where a network predicts it; else None.
    """

    noise: Tensor
    x0: Tensor
    v: Tensor
    score: Tensor
    log_variance: Tensor | None = None


class GaussianDiffusion(nn.Module):
    """A network, a schedule and an objective: all of DDPM but the training loop (Ho et al. 2020).

    Attributes:
        network: called as `network(x_t, t, labels)` with t in 1 … T; one with self-conditioning also gets
            `x_self_cond`, its previous estimate of x_0.
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
            network: any module that meets the network contract: `network(x_t, t, labels=None)` returns a tensor
                shaped like `x_t` of shape (B, C, H, W), for t of shape (B,) with values 1 … T, and has an attribute
                `channels`. If its attribute `self_condition` is true, it also takes `x_self_cond`: the previous
                estimate of x_0, shaped like `x_t`, or None for none. If its attribute `learned_variance` is true, it
                returns (B, 2C, H, W), and the second half says where between β̃_t and β_t the variance of the step back
                lies (`ddpm.reverse.learned_log_variance`).
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
        samplers.check_steps(self.sampling_timesteps, timesteps)
        samplers.check_eta(ddim_sampling_eta)
        self.ddim_sampling_eta = ddim_sampling_eta

    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | os.PathLike[str], *, weights: Literal["ema", "model"] = "ema"
    ) -> "GaussianDiffusion":
        """A trained model, in evaluation mode on the CPU: `ddpm.load_pretrained`, where users look for it.

        Args:
            name_or_folder: the name of a model that ships with the project, a folder written by `save_pretrained`, a
                checkpoint, or the folder of a run.
            weights: of a checkpoint: "ema", the averaged weights, or "model", the weights themselves.

        Returns:
            The model.

        Raises:
            FileNotFoundError: if there is no such model.
            DamagedCheckpointError: if it is a checkpoint whose checksums do not hold.
        """
        # Files are not the method's business: only when asked for.
        from ddpm.io.pretrained import load_pretrained

        return load_pretrained(name_or_folder, weights=weights)

    @property
    def config(self) -> dict[str, object]:
        """The arguments apart from the network, ready for JSON.

        `beta_schedule` is the name that None stood for. `loss_weighting` is what `weighting_config` makes of it; a
        function of your own leaves only its name there, `{"name": "custom", "repr": …}`.
        """
        try:
            weighting = weighting_config(self.loss_weighting)
        except TypeError:
            own: Any = self.loss_weighting
            name = getattr(own, "__qualname__", type(own).__qualname__)
            weighting = {"name": "custom", "repr": f"{own.__module__}.{name}"}
        return {
            "image_size": list(self.image_size),
            "timesteps": self.schedule.timesteps,
            "sampling_timesteps": self.sampling_timesteps,
            "loss_type": self.loss_type,
            "objective": self.objective,
            "beta_schedule": self.beta_schedule,
            "loss_weighting": weighting,
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
        self,
        x_t: Tensor,
        t: Tensor,
        labels: Tensor | None = None,
        *,
        clip_x0: bool = False,
        x_self_cond: Tensor | None = None,
        network: Callable[..., Tensor] | None = None,
    ) -> Prediction:
        """Ask the network what it sees in x_t.

        Args:
            x_t: noisy images, shape (B, C, H, W).
            t: their noise levels 1 … T, shape (B,).
            labels: class labels, shape (B,), for a network that takes them.
            clip_x0: clip the clean image to [-1, 1] and re-derive the noise from it, so that all four still agree.
            x_self_cond: the previous estimate of x_0, shaped like `x_t`, for a network with self-conditioning; None
                for none.
            network: called in place of `self.network`, such as its compiled or distributed form.

        Returns:
            The prediction as noise, x0, v (eq:three-coordinates) and score (eq:score), with the variance of the step
            back if the network predicts it.

        Raises:
            ValueError: if shapes, types or levels are wrong, or `x_self_cond` is given to a network without
                self-conditioning.
        """
        check_images("x_t", x_t)
        t = check_levels(t, x_t, self.schedule.timesteps)
        output, log_variance = self.ask(x_t, t, labels, x_self_cond, network)
        x0 = self.start_from_output(x_t, t, output)
        if clip_x0:
            x0 = x0.clamp(-1, 1)
        noise = self.predict_noise_from_start(x_t, t, x0)
        return Prediction(
            noise=noise,
            x0=x0,
            v=self.predict_v(x0, t, noise),
            score=-noise / self.at("sigma", t),
            log_variance=log_variance,
        )

    def start_from_output(self, x_t: Tensor, t: Tensor, output: Tensor) -> Tensor:
        """The x_0 that the network's output stands for; both shaped like `x_t`, in its type."""
        output = output.to(x_t.dtype)  # autocast may have left it in half precision
        if self.objective == "pred_noise":
            return self.predict_start_from_noise(x_t, t, output)
        return self.predict_start_from_v(x_t, t, output) if self.objective == "pred_v" else output

    def ask(
        self,
        x_t: Tensor,
        t: Tensor,
        labels: Tensor | None,
        x_self_cond: Tensor | None,
        network: Callable[..., Tensor] | None,
    ) -> tuple[Tensor, Tensor | None]:
        """The network's output, shaped like `x_t`, and log σ² of the step back, likewise, if it has a head for that.

        Only a network with self-conditioning hears of `x_self_cond`.
        """
        network = self.network if network is None else network
        if x_self_cond is None:
            output = network(x_t, t, labels)
        else:
            self.check_self_condition("x_self_cond")
            check_pair("x_t", x_t, "x_self_cond", x_self_cond)
            output = network(x_t, t, labels, x_self_cond=x_self_cond)
        if not self.learned_variance:
            check_pair("x_t", x_t, "the network's output", output)
            return output, None
        check_heads(output, x_t)
        output, share = output.chunk(2, dim=1)
        return output, learned_log_variance(self.schedule, t, share.to(x_t.dtype))

    def check_self_condition(self, name: str) -> None:
        """Refuse the argument `name`, which means something only to a network with self-conditioning."""
        if not self.self_condition:
            raise ValueError(
                f"{name} is for a network with self-conditioning, whose attribute `self_condition` is true, such as"
                " Unet(…, self_condition=True); this one has none"
            )

    def p_mean_variance(
        self,
        x_t: Tensor,
        t: Tensor,
        labels: Tensor | None = None,
        *,
        clip_denoised: bool = True,
        x_self_cond: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """p_θ(x_{t−1} | x_t): the posterior with the network's x_0 in place of the true one (eq:reverse-step).

        Without clipping, the mean in terms of the predicted noise is eq:posterior-mean-noise.

        Args:
            x_t: noisy images, shape (B, C, H, W).
            t: their noise levels 1 … T, shape (B,).
            labels: class labels, shape (B,), for a network that takes them.
            clip_denoised: clip the predicted x_0 to [-1, 1] first.
            x_self_cond: the previous estimate of x_0, as for `predict`.

        Returns:
            `(mean, variance, log_variance_clipped)`; the mean shaped like `x_t`, and so are the others if the network
            predicts the variance, else of shape (B, 1, 1, 1).

        Raises:
            ValueError: if shapes, types or levels are wrong.
        """
        prediction = self.predict(x_t, t, labels, clip_x0=clip_denoised, x_self_cond=x_self_cond)
        mean, variance, log_variance = self.q_posterior(prediction.x0, x_t, t)
        if prediction.log_variance is None:
            return mean, variance, log_variance
        return mean, prediction.log_variance.exp(), prediction.log_variance

    def p_sample(
        self,
        x_t: Tensor,
        t: Tensor,
        labels: Tensor | None = None,
        *,
        clip_denoised: bool = True,
        x_self_cond: Tensor | None = None,
        generator: samplers.Generators = None,
    ) -> Tensor:
        """Draw x_{t−1} from p_θ(x_{t−1} | x_t); at t = 1 no noise is added (eq:reverse-step).

        Args:
            x_t: noisy images, shape (B, C, H, W).
            t: their noise levels 1 … T, shape (B,).
            labels: class labels, shape (B,), for a network that takes them.
            clip_denoised: clip the predicted x_0 to [-1, 1] first.
            x_self_cond: the previous estimate of x_0, as for `predict`.
            generator: source of the noise.

        Returns:
            x_{t−1}, shaped like `x_t`.

        Raises:
            ValueError: if shapes, types or levels are wrong.
        """
        mean, variance, _ = self.p_mean_variance(
            x_t, t, labels, clip_denoised=clip_denoised, x_self_cond=x_self_cond
        )
        noise = samplers.randn_like(x_t, generator)
        return mean + variance.sqrt() * torch.where(t.to(noise.device).view(-1, 1, 1, 1) > 1, noise, 0.0)

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
        """Images out of noise: ancestral sampling over all T levels, or DDIM over fewer.

        Args:
            batch_size: number of images, at least 1.
            sampling_timesteps: network calls, 1 … T; None takes the value given at construction.
            sampler: "ancestral", which takes T network calls, or "ddim"; None takes the first for T calls and the
                second for fewer.
            eta: η of DDIM; None takes the value given at construction.
            labels: class labels, shape (batch_size,), for a network that takes them.
            generator: source of all randomness, for a whole batch that can be repeated.
            seeds: one seed per image instead: image i then depends on seeds[i] alone, not on the batch around it.
            progress: show a progress bar.

        Returns:
            Images in [0, 1], shape (batch_size, C, H, W).

        Raises:
            ValueError: if a number is out of range, ancestral sampling is asked for fewer than T calls, or both
                `generator` and `seeds` are given.
        """
        steps = self.sampling_timesteps if sampling_timesteps is None else sampling_timesteps
        sampler = self.choose_sampler(sampler, steps)
        eta = self.ddim_sampling_eta if eta is None else eta
        samplers.check_eta(eta)
        source = samplers.image_generators(batch_size, generator, seeds)
        x = samplers.randn((batch_size, *self.image_shape), source, self.device).to(self.schedule.beta.dtype)
        if sampler == "ancestral":
            chain = samplers.ancestral(self, x, labels=labels, generator=source)
        else:
            chain = samplers.ddim(self, x, steps, eta=eta, labels=labels, generator=source)
        return to_image_scale(self.run(tqdm(chain, total=steps, desc="sampling", disable=not progress)).x)

    def choose_sampler(self, sampler: Sampler | None, steps: int) -> Sampler:
        """The sampler for this many network calls, refused where the two do not fit."""
        samplers.check_steps(steps, self.schedule.timesteps)
        if sampler is None:
            return "ancestral" if steps == self.schedule.timesteps else "ddim"
        check_choice("sampler", sampler, get_args(Sampler))
        if sampler == "ancestral" and steps != self.schedule.timesteps:
            raise ValueError(
                f"ancestral sampling takes all T = {self.schedule.timesteps} levels, but {steps} steps were asked for;"
                ' use sampler="ddim" (eta=1 has the same noise)'
            )
        return sampler

    @torch.no_grad()
    def interpolate(
        self,
        x1: Tensor,
        x2: Tensor,
        t: int | None = None,
        lam: float = 0.5,
        *,
        labels: Tensor | None = None,
        generator: samplers.Generators = None,
    ) -> Tensor:
        """Between two pictures: noise both, mix them there, and find the way back (Ho et al. 2020, appendix D).

        x_t = (1 − λ) x_t¹ + λ x_t², both with the same noise, and from there ancestral sampling over t, t−1, …, 1. A
        low t stays close to the mix of the two pictures; at t = T hardly anything is left of them.

        Args:
            x1: images in [-1, 1], shape (B, C, H, W).
            x2: images in [-1, 1] of the same shape.
            t: the level of the mix, 1 … T; None means T.
            lam: λ in [0, 1]: 0 is all `x1`, 1 all `x2`.
            labels: class labels, shape (B,), for a network that takes them.
            generator: source of all noise, that of x_t first: one for the batch or one per image.

        Returns:
            Images in [-1, 1], shaped like `x1`.

        Raises:
            ValueError: if shapes or types are wrong, or `t` or `lam` is out of range.
        """
        check_pair("x1", x1, "x2", x2)
        t = self.schedule.timesteps if t is None else t
        samplers.check_steps(t, self.schedule.timesteps, name="t")
        if not 0 <= lam <= 1:
            raise ValueError(f"lam must lie in [0, 1]: 0 is all x1, 1 is all x2; but got {lam!r}")
        noise = samplers.randn_like(x1, generator)
        level = samplers.levels(x1, t)
        x_t = (1 - lam) * self.q_sample(x1, level, noise) + lam * self.q_sample(x2, level, noise)
        return self.run(samplers.ancestral(self, x_t, labels=labels, generator=generator, start=t)).x

    def run(self, chain: Iterable[samplers.State]) -> samplers.State:
        """The last state of a sampler, which is followed to its end in evaluation mode."""
        training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            return deque(chain, maxlen=1).pop()
        finally:
            for module in training:  # one by one: a part that was frozen in evaluation mode stays so
                module.training = True

    # Training

    def loss(
        self,
        x0: Tensor,
        t: Tensor | None = None,
        noise: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        network: Callable[..., Tensor] | None = None,
        self_condition_mask: Tensor | None = None,
    ) -> Tensor:
        """L_simple: how well the network sees through random amounts of noise (eq:l-simple; Ho et al. 2020, eq. 14).

        A network with self-conditioning gets, for half of the images, its own first guess of x_0, and nothing for the
        others (Chen et al. 2023, *Analog Bits*). It is not trained through that guess.

        A network that predicts its variance is trained on L_hybrid, L_simple and a little of the bound, from which
        the variance alone learns (Nichol & Dhariwal 2021, eq. 16).

        Args:
            x0: clean images in [-1, 1], shape (B, C, H, W).
            t: noise levels 1 … T, shape (B,); drawn uniformly if not given.
            noise: ε, shaped like `x0`; drawn if not given.
            labels: class labels, shape (B,), for a network that takes them.
            generator: source of `t`, `noise` and the coins of self-conditioning, in this order, where they are drawn.
            network: called in place of `self.network`, such as its compiled or distributed form.
            self_condition_mask: which images get the first guess, bool of shape (B,); a fair coin for each if not
                given. For a network with self-conditioning only.

        Returns:
            The mean loss over the batch, a scalar. Each image's error is averaged over its own elements before any
            weight w(t) is applied to it; the bound is not weighted.

        Raises:
            ValueError: if shapes, types or levels are wrong, or `self_condition_mask` is given for a network without
                self-conditioning.
        """
        check_images("x0", x0)
        if t is None:
            t = samplers.randint(1, self.schedule.timesteps + 1, len(x0), generator, x0.device)
        if noise is None:
            noise = samplers.randn(tuple(x0.shape), generator, x0.device)
        t = check_levels(t, x0, self.schedule.timesteps)
        x_t = self.q_sample(x0, t, noise)
        x_self_cond = None
        if self.self_condition:
            if self_condition_mask is None:
                self_condition_mask = samplers.randint(0, 2, len(x0), generator, x0.device).bool()
            x_self_cond = self.first_guess(x_t, t, labels, self_condition_mask, network)
        elif self_condition_mask is not None:
            self.check_self_condition("self_condition_mask")
        output, log_variance = self.ask(x_t, t, labels, x_self_cond, network)
        per_image = self.elementwise_loss(output, self.target(x0, t, noise)).flatten(1).mean(1)
        if self.loss_weighting is not None:
            per_image = self.loss_weighting(self.schedule, t, self.objective) * per_image
        if log_variance is not None:
            mean_only = self.start_from_output(x_t, t, output.detach())
            per_image = per_image + self.vlb_loss(x0, x_t, t, mean_only, log_variance)
        return per_image.mean()

    def vlb_loss(self, x0: Tensor, x_t: Tensor, t: Tensor, guess: Tensor, log_variance: Tensor) -> Tensor:
        """λ L_vlb, shape (B,), for a drawn t: a share of what the step back costs in the bound (eq:loss-t, eq:decoder).

        The whole bound is T times the mean of its terms, and λ = 0.001, in bits per dimension: the numbers of
        Nichol & Dhariwal 2021.

        Args:
            x0: clean images in [-1, 1], shape (B, C, H, W).
            x_t: the same at level t.
            t: noise levels 1 … T, shape (B,).
            guess: the x_0 that the network predicts, without gradient: the bound is to teach it nothing.
            log_variance: log σ² of p_θ(x_{t−1} | x_t), shaped like `x0`.
        """
        true_mean, _, true_log_variance = self.q_posterior(x0, x_t, t)
        mean, _, _ = self.q_posterior(guess, x_t, t)
        divergence = gaussians.kl_divergence(true_mean, true_log_variance, mean, log_variance)
        decoder = -gaussians.bin_log_probability(x0, mean, log_variance)
        term = torch.where(t.view(-1, 1, 1, 1) > 1, divergence, decoder)
        return VLB_WEIGHT * self.schedule.timesteps * term.flatten(1).mean(1) / math.log(2)

    def first_guess(
        self,
        x_t: Tensor,
        t: Tensor,
        labels: Tensor | None,
        mask: Tensor,
        network: Callable[..., Tensor] | None,
    ) -> Tensor:
        """What the network says of x_0 without help, in [-1, 1] and without gradient; zeros where `mask` is false.

        All images are asked about, though only some need it: picking them out would make an accelerator wait.
        """
        if mask.shape != (len(x_t),) or mask.dtype != torch.bool:
            raise ValueError(
                f"self_condition_mask must hold one truth value per image, bool of shape ({len(x_t)},), but got"
                f" {mask.dtype} of shape {tuple(mask.shape)}"
            )
        with torch.no_grad():
            guess = self.predict(x_t, t, labels, clip_x0=True, network=network).x0
        # Some versions of torch keep the weights that autocast cast here, without gradients, for the pass that follows.
        torch.clear_autocast_cache()
        return torch.where(mask.to(x_t.device).view(-1, 1, 1, 1), guess, 0.0)

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
