"""Where the tests know the answer: a data set that is one Gaussian, and the best possible denoiser for it.

For x_0 ~ N(mean, variance) in every pixel, x_t is Gaussian as well, and E[x_0 | x_t] is a straight line in x_t. Every
sampler is then an affine map of its noise, so that the distribution of its output can be computed without sampling.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ddpm import NoiseSchedule, Prediction, cosine_betas, linear_betas, sigmoid_betas

BETAS = {"linear": linear_betas, "cosine": cosine_betas, "sigmoid": sigmoid_betas}


def schedule_64(name: str, timesteps: int) -> NoiseSchedule:
    """A schedule whose tables are not rounded to float32."""
    return NoiseSchedule(BETAS[name](timesteps), dtype=torch.float64)


@dataclass(frozen=True)
class GaussianDenoiser:
    """The exact denoiser of pixels that are independently N(mean, variance); meets `ddpm.samplers.Denoiser`."""

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

    def remaining_variance(self, t: int) -> float:
        """Var(x_0 | x_t)."""
        alpha_bar = self.schedule.exact_alpha_bar[t].item()
        return self.variance * (1 - alpha_bar) / self.marginal(t)[1]

    def predict(
        self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, *, clip_x0: bool = False
    ) -> Prediction:
        """The four coordinates of E[x_0 | x_t], for one t in the whole batch."""
        assert labels is None
        (level,) = t.unique().tolist()
        alpha_bar = self.schedule.exact_alpha_bar[level].item()
        x0 = self.mean + self.gain(level) * (x_t - self.marginal(level)[0])
        x0 = x0.clamp(-1, 1) if clip_x0 else x0
        noise = (x_t - alpha_bar**0.5 * x0) / (1 - alpha_bar) ** 0.5
        v = alpha_bar**0.5 * noise - (1 - alpha_bar) ** 0.5 * x0
        return Prediction(noise=noise, x0=x0, v=v, score=-noise / (1 - alpha_bar) ** 0.5)


class Pointwise(nn.Module):
    """A network without weights that mixes no pixels and no images, so that equal inputs give bit-equal outputs."""

    def __init__(self, channels: int = 1, scale: float = 0.7) -> None:
        super().__init__()
        self.channels = channels
        self.scale = scale
        self.calls: list[int] = []

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        self.calls.append(int(t[0]))
        output = torch.sin(self.scale * x_t) + 0.01 * t.to(x_t.dtype)[:, None, None, None].log()
        return output if labels is None else output + labels[:, None, None, None]


class Constant(nn.Module):
    """A network that answers the same whatever it is asked."""

    def __init__(self, answer: Tensor | float, channels: int = 1) -> None:
        super().__init__()
        self.channels = channels
        self.answer = answer

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return torch.zeros_like(x_t) + self.answer
