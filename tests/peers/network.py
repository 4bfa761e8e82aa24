"""The network that the comparisons share: no weights, but no symmetry either."""

import torch
from torch import Tensor, nn


class Mixing(nn.Module):
    """Mixes neighbours and channels and depends on t, so that a wrong level, coefficient or axis shows.

    Its output lies in about [-1.5, 1.5] and passes for noise, clean image or v alike; the clean image that follows from
    it leaves [-1, 1] often, so that clipping has work to do. It keeps the type of `x_t`.
    """

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:  # noqa: ARG002
        level = t.to(x_t.dtype).view(-1, 1, 1, 1) / 300
        neighbours = 0.8 * x_t + 0.5 * x_t.roll(1, -1) - 0.3 * x_t.roll(1, -2)
        return torch.sin(neighbours + level) + 0.4 * torch.tanh(x_t.flip(1) - level.cos())
