"""Where the tests know the answer: networks without weights, and the best possible denoiser of one Gaussian.

For x_0 ~ N(mean, variance) in every pixel, x_t is Gaussian as well, and E[x_0 | x_t] is a straight line in x_t. Every
sampler is then an affine map of its noise, so that the distribution of its output can be computed without sampling.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ddpm import GaussianDiffusion, NoiseSchedule, Prediction, State
from ddpm.schedule import BETA_SCHEDULES as BETAS

# A U-Net that is quick, and every option that changes what it computes.
SMALL_UNET = {"dim": 8, "dim_mults": (1, 2), "channels": 1, "resnet_block_groups": 4, "num_res_blocks": 1}
UNET_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "classes": {"num_classes": 3},
    "label dropout": {"num_classes": 3, "label_dropout": 0.5},
    "self-conditioned": {"self_condition": True},
    "learned variance": {"learned_variance": True},
    "learned sinusoidal": {"learned_sinusoidal_cond": True},
    "random Fourier": {"random_fourier_features": True},
    "attention everywhere": {"attention_resolutions": (1, 2)},
    "dropout": {"dropout": 0.1},
    "first as wide as the second": {"init_dim": 16},
    "all": {"num_classes": 3, "self_condition": True, "learned_variance": True, "dropout": 0.1},
}


def schedule_64(betas: str | Tensor = "linear", timesteps: int = 1000) -> NoiseSchedule:
    """A schedule, by its name or from β_1 … β_T, whose tables are not rounded to float32."""
    return NoiseSchedule(BETAS[betas](timesteps) if isinstance(betas, str) else betas, dtype=torch.float64)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal numbers of their own source."""
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


def drawn(network: nn.Module, std: float, seed: int = 0) -> nn.Module:
    """The network in evaluation mode with every weight drawn, as a fresh one answers zero."""
    generator = seeded(seed)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=std, generator=generator)
    return network.eval()


def last_of(chain: Iterable[State]) -> Tensor:
    """The picture in which a walk ends."""
    *_, state = chain
    return state.x


def pixel(value: float) -> Tensor:
    """A batch of one image of one pixel, in double precision."""
    return torch.full((1, 1, 1, 1), value, dtype=torch.float64)


@dataclass(frozen=True)
class GaussianDenoiser:
    """The exact denoiser of pixels that are independently N(mean, variance); meets `ddpm.prediction.Denoiser`."""

    schedule: NoiseSchedule
    mean: float
    variance: float

    def marginal(self, t: int) -> tuple[float, float]:
        """Mean and variance of x_t."""
        alpha_bar = self.schedule.exact_alpha_bar[t].item()
        return alpha_bar**0.5 * self.mean, alpha_bar * self.variance + 1 - alpha_bar

    def gain(self, t: int) -> float:
        """d E[x_0 | x_t] / d x_t = Cov(x_0, x_t) / Var(x_t)."""
        return self.schedule.exact_alpha_bar[t].item() ** 0.5 * self.variance / self.marginal(t)[1]

    def predict(
        self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, *, clip_x0: bool = False
    ) -> Prediction:
        """E[x_0 | x_t], for one t in the whole batch."""
        assert labels is None
        (step,) = t.unique().tolist()
        alpha_bar = self.schedule.exact_alpha_bar[step].item()
        x0 = self.mean + self.gain(step) * (x_t - self.marginal(step)[0])
        x0 = x0.clamp(-1, 1) if clip_x0 else x0
        signal, sigma = (x_t.new_full((1, 1, 1, 1), a**0.5) for a in (alpha_bar, 1 - alpha_bar))
        return Prediction((x_t - signal * x0) / sigma, x0, signal, sigma)


class Pointwise(nn.Module):
    """A network without weights that mixes no pixels and no images, so that equal inputs give bit-equal outputs.

    It writes down every first t, and whether it was training and with gradients.
    """

    def __init__(self, channels: int = 1, scale: float = 0.7) -> None:
        super().__init__()
        self.channels = channels
        self.scale = scale
        self.calls: list[int] = []
        self.modes: list[tuple[bool, bool]] = []

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        self.calls.append(int(t[0]))
        self.modes.append((self.training, torch.is_grad_enabled()))
        output = torch.sin(self.scale * x_t) + 0.01 * t.to(x_t.dtype)[:, None, None, None].log()
        return output if labels is None else output + labels[:, None, None, None]


class SelfConditioned(Pointwise):
    """The same with self-conditioning and one weight; it writes down the estimates that it is given."""

    self_condition = True

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.8))
        self.estimates: list[Tensor | None] = []

    def forward(
        self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, x_self_cond: Tensor | None = None
    ) -> Tensor:
        self.estimates.append(x_self_cond)
        output = super().forward(self.weight / self.scale * x_t, t, labels)
        return output if x_self_cond is None else output + 0.3 * self.weight * x_self_cond


class Classed(Pointwise):
    """The same with three classes and one for no label; it writes down the labels that it is given."""

    num_classes, null_label, label_dropout = 3, 3, 0.25

    def __init__(self, *, learned_variance: bool = False, self_condition: bool = False) -> None:
        super().__init__()
        self.learned_variance, self.self_condition = learned_variance, self_condition
        self.labels: list[list[int]] = []
        self.estimates: list[Tensor | None] = []

    def forward(
        self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, x_self_cond: Tensor | None = None
    ) -> Tensor:
        labels = torch.full_like(t, self.null_label) if labels is None else labels
        self.labels.append(labels.tolist())
        self.estimates.append(x_self_cond)
        output = torch.cos((1 + labels[:, None, None, None]) * super().forward(x_t, t))
        output = output if x_self_cond is None else output + 0.3 * x_self_cond
        return torch.cat([output, torch.sin(output)], dim=1) if self.learned_variance else output


class Constant(nn.Module):
    """A network that answers the same whatever it is asked."""

    def __init__(self, answer: Tensor | float, channels: int = 1) -> None:
        super().__init__()
        self.channels = channels
        self.answer = answer

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return torch.zeros_like(x_t) + self.answer


def diffusion_of(
    network: nn.Module | None = None, *, timesteps: int = 50, image_size: Any = 4, **options: Any
) -> GaussianDiffusion:
    """A small diffusion, if nothing else is said around `Pointwise`."""
    return GaussianDiffusion(network or Pointwise(), image_size=image_size, timesteps=timesteps, **options)


def labels_told(monkeypatch: pytest.MonkeyPatch, diffusion: GaussianDiffusion) -> list[Tensor | None]:
    """The labels of every call of `diffusion.predict` from now on."""
    predict, told = diffusion.predict, []

    def noted(x_t: Tensor, t: Tensor, labels: Tensor | None = None, **options: Any) -> Prediction:
        told.append(labels)
        return predict(x_t, t, labels, **options)

    monkeypatch.setattr(diffusion, "predict", noted)
    return told


def exact_diffusion_of(
    network: nn.Module | None, name: str, timesteps: int, **options: Any
) -> GaussianDiffusion:
    """The same with tables that are not rounded to float32."""
    diffusion = diffusion_of(network, timesteps=timesteps, beta_schedule=name, **options)
    diffusion.schedule = schedule_64(name, timesteps)
    return diffusion
