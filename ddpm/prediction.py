"""One belief about x_t, in five coordinates: noise, clean image, v, flow and score; and what holds for whoever has it.

With `signal` = √ᾱ_t and `sigma` = √(1 − ᾱ_t), both (B, 1, 1, 1), each is a change of coordinates of the others
(eq:three-coordinates).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from ddpm.schedule import NoiseSchedule

# What a network's output stands for.
Objective = Literal["pred_noise", "pred_x0", "pred_v", "pred_flow"]


def x0_from_noise(x_t: Tensor, noise: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
    """x_0 = (x_t − σ_t ε) / √ᾱ_t."""
    return (x_t - sigma * noise) / signal


def noise_from_x0(x_t: Tensor, x0: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
    """ε = (x_t − √ᾱ_t x_0) / σ_t."""
    return (x_t - signal * x0) / sigma


def v_from_x0_and_noise(x0: Tensor, noise: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
    """v = √ᾱ_t ε − σ_t x_0 (eq:v; Salimans & Ho 2022)."""
    return signal * noise - sigma * x0


def x0_from_v(x_t: Tensor, v: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
    """x_0 = √ᾱ_t x_t − σ_t v."""
    return signal * x_t - sigma * v


def x0_from_flow(x_t: Tensor, flow: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
    """x_0 = (x_t − σ_t (ε − x_0)) / (√ᾱ_t + σ_t) (eq:flow-velocity)."""
    return (x_t - sigma * flow) / (signal + sigma)


def x0_from_score(x_t: Tensor, score: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
    """x_0 = (x_t + σ_t² ∇ log q(x_t)) / √ᾱ_t, Tweedie's formula."""
    return x0_from_noise(x_t, -sigma * score, signal, sigma)


def x0_from_output(
    objective: Objective, x_t: Tensor, output: Tensor, signal: Tensor, sigma: Tensor
) -> Tensor:
    """The x_0 that a network's output stands for."""
    if objective == "pred_noise":
        return x0_from_noise(x_t, output, signal, sigma)
    if objective == "pred_flow":
        return x0_from_flow(x_t, output, signal, sigma)
    return x0_from_v(x_t, output, signal, sigma) if objective == "pred_v" else output


def training_target(objective: Objective, x0: Tensor, noise: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
    """What the network should have said: ε, x_0, v or ε − x_0."""
    if objective == "pred_noise":
        return noise
    if objective == "pred_flow":
        return noise - x0
    return v_from_x0_and_noise(x0, noise, signal, sigma) if objective == "pred_v" else x0


def output_error(objective: Objective, snr: Tensor) -> Tensor:
    """The squared error of an output, as a multiple of that of x_0."""
    if objective == "pred_flow":
        return (1 + snr.sqrt()) ** 2
    return {"pred_noise": snr, "pred_x0": torch.ones_like(snr), "pred_v": snr + 1}[objective]


def clipped(x0: Tensor) -> Tensor:
    """A clean image clipped to [-1, 1]; what is not finite becomes NaN, of which clipping would make black or white."""
    return torch.where(x0.isfinite(), x0.clamp(-1, 1), torch.nan)


@dataclass(frozen=True)
class Prediction:
    """One belief about x_t, in coordinates that always agree (eq:three-coordinates, eq:score).

    Attributes:
        noise: the ε in x_t = √ᾱ_t x_0 + σ_t ε, shape (B, C, H, W).
        x0: the clean image.
        signal: √ᾱ_t, shape (B or 1, 1, 1, 1).
        sigma: σ_t, likewise.
        log_variance: log ω_t² of p_θ(x_{t−1} | x_t), shaped like `x0`, where a network predicts it; else None.
    """

    noise: Tensor
    x0: Tensor
    signal: Tensor
    sigma: Tensor
    log_variance: Tensor | None = None

    @classmethod
    def from_x0(
        cls, x_t: Tensor, x0: Tensor, signal: Tensor, sigma: Tensor, log_variance: Tensor | None = None
    ) -> "Prediction":
        """The belief that x_t was made from x_0."""
        return cls(noise_from_x0(x_t, x0, signal, sigma), x0, signal, sigma, log_variance)

    @property
    def v(self) -> Tensor:
        """√ᾱ_t ε − σ_t x_0 (eq:v)."""
        return v_from_x0_and_noise(self.x0, self.noise, self.signal, self.sigma)

    @property
    def flow(self) -> Tensor:
        """ε − x_0, from the picture straight to the noise (eq:flow-velocity)."""
        return self.noise - self.x0

    @property
    def score(self) -> Tensor:
        """∇ log q(x_t) = −ε/σ_t (eq:score)."""
        return -self.noise / self.sigma


class Denoiser(Protocol):
    """What samplers and likelihoods ask of a model: a trained one, or an exact one.

    If its attribute `self_condition` is true, `predict` also takes `x_self_cond`, the x_0 predicted in the step before;
    if its attribute `learned_variance` is true, its predictions hold a `log_variance`.
    """

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule."""
        ...

    def predict(
        self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, *, clip_x0: bool = False
    ) -> Prediction:
        """The belief about x_t of shape (B, C, H, W), for t of shape (B,); with x_0 clipped to [-1, 1] if asked."""
        ...


@contextmanager
def modes_kept(model: object) -> Iterator[None]:
    """Afterwards each part of a model is in training or evaluation mode as it was: one that was frozen stays so."""
    before = {part: part.training for part in model.modules()} if isinstance(model, nn.Module) else {}
    try:
        yield
    finally:
        for part, training in before.items():
            part.training = training


# Of each part of a model that is being evaluated: by how many at the moment, and whether it was training before.
_EVALUATED: dict[nn.Module, tuple[int, bool]] = {}
_LOCK = Lock()


@contextmanager
def evaluating(denoiser: object) -> Iterator[None]:
    """Evaluation mode for a model that knows the difference, until the last of several threads has done with it."""
    parts = list(denoiser.modules()) if isinstance(denoiser, nn.Module) else []
    with _LOCK:
        for part in parts:
            users, training = _EVALUATED.get(part, (0, part.training))
            _EVALUATED[part] = users + 1, training
    try:
        if isinstance(denoiser, nn.Module):
            denoiser.eval()
        yield
    finally:
        with _LOCK:
            for part in parts:
                users, training = _EVALUATED.pop(part)
                if users > 1:
                    _EVALUATED[part] = users - 1, training
                else:
                    part.training = training


@contextmanager
def gradients() -> Iterator[None]:
    """Gradients, where the caller has switched them off, be it by inference mode."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        yield


def for_gradients(x: Any) -> Any:
    """A copy of a tensor of inference mode, which `gradients` refuses; anything else as it is."""
    return x.clone() if isinstance(x, Tensor) and x.is_inference() else x


def full_timesteps(t: int, x: Tensor) -> Tensor:
    """The timestep t for every image of a batch, shape (B,)."""
    return torch.full((len(x),), t, dtype=torch.long, device=x.device)
