"""The parts of the U-Net: embeddings of the timestep, residual and attention blocks, changes of resolution."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm.support.buffers import KeepsPrecision
from ddpm.support.checks import check_whole

# As in the paper's code; torch's default is 1e-5.
GROUP_NORM_EPS = 1e-6
LONGEST_PERIOD = 10_000.0
# t/1000 is what the Fourier features see of t: the paper's T fills (0, 1].
FOURIER_TIMESTEPS = 1000


def device_kind(x: Tensor) -> str:
    """The kind of a tensor's device for autocast, which does not know the device `meta`."""
    return "cpu" if x.is_meta else x.device.type


def zero_init(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """Start a layer at zero, so that the block it ends begins as its shortcut (and the whole network as zero)."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class SinusoidalEmbedding(KeepsPrecision):
    """Timestep t → a vector of sines and cosines of wavelengths from 2π to 2π · 10,000 (Vaswani et al. 2017).

    Sines come first, and the frequencies include both ends, as in the paper's code.
    """

    frequencies: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        dim = check_whole("dim", dim, 0)
        if dim < 4 or dim % 2:
            raise ValueError(f"the time embedding needs an even dimension of at least 4, but got {dim}")
        exponents = torch.arange(dim // 2, dtype=torch.float64) / (dim // 2 - 1)
        self.register_buffer("frequencies", (LONGEST_PERIOD**-exponents).float(), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """Timesteps (B,) → embeddings (B, dim) (eq:time-embedding), in float32 whatever the precision around it."""
        angles = t.float()[:, None] * self.frequencies  # (B, dim/2)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class FourierEmbedding(KeepsPrecision):
    """Timestep t → itself and its Fourier features, [t′, sin 2π w t′, cos 2π w t′] with t′ = t/1000.

    The frequencies w are drawn from N(0, 1), and then either learned or kept as they are (random Fourier features,
    Tancik et al. 2020). The scale is fixed, as a network does not know T: t of the paper's T = 1000 fills (0, 1], in
    which such waves turn a few times at most; with t itself, neighbours would be nowhere near each other.
    """

    frequencies: Tensor

    def __init__(self, dim: int, *, learned: bool) -> None:
        """Draw `dim`/2 frequencies from torch's global source, for an even `dim` of at least 2."""
        super().__init__()
        frequencies = torch.randn(dim // 2)
        if learned:
            self.frequencies = nn.Parameter(frequencies)
        else:
            # Saved with the weights, which mean nothing at other frequencies.
            self.register_buffer("frequencies", frequencies)

    def forward(self, t: Tensor) -> Tensor:
        """Timesteps (B,) → embeddings (B, dim+1), in float32 whatever the precision around it."""
        t = t.float()[:, None] / FOURIER_TIMESTEPS
        # In float32 also where the frequencies are weights in half precision.
        angles = 2 * math.pi * t * self.frequencies  # (B, dim/2)
        return torch.cat([t, angles.sin(), angles.cos()], dim=1)


def timestep_embedding(dim: int, fourier_dim: int, *, learned: bool, random: bool) -> tuple[nn.Module, int]:
    """The embedding of t, and its number of features: the paper's, or one of the Fourier features."""
    if fourier_dim < 2 or fourier_dim % 2:
        raise ValueError(f"learned_sinusoidal_dim must be even and at least 2, but got {fourier_dim}")
    if learned and random:
        raise ValueError(
            "learned_sinusoidal_cond and random_fourier_features are two embeddings of t, with frequencies that are"
            " learned and that are not; choose one"
        )
    if learned or random:
        return FourierEmbedding(fourier_dim, learned=learned), fourier_dim + 1
    return SinusoidalEmbedding(dim), dim


class TimeEmbedding(nn.Sequential):
    """The embedding of t, and the two linear layers after it in whatever type their weights have."""

    def __init__(self, embedding: nn.Module, features: int, width: int) -> None:
        super().__init__(embedding, nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (as the base class has it)
        """Timesteps (B,) → (B, width)."""
        embedding, first, activation, second = self
        return second(activation(first(embedding(input).to(first.weight.dtype))))


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu & He 2018) with the paper's ε, computed in the type of its weights.

    Under autocast that is float32, as it is by itself on GPUs; on a CPU torch's in bfloat16 is slow (benchmarks/). What
    it returns is then in half precision: half the memory for the backward pass of what comes after.
    """

    def __init__(self, groups: int, dim: int) -> None:
        super().__init__(groups, dim, eps=GROUP_NORM_EPS)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (as the base class has it)
        """(B, dim, H, W) → the same shape (eq:group-norm)."""
        kind = device_kind(input)
        if not torch.is_autocast_enabled(kind):
            return super().forward(input)
        return super().forward(input.to(self.weight.dtype)).to(torch.get_autocast_dtype(kind))


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice; the time embedding is added in between (a bias per channel).

    The shortcut is a 1×1 convolution where `dim` and `dim_out` differ.
    """

    def __init__(self, dim: int, dim_out: int, *, time_dim: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, dim)
        self.conv1 = nn.Conv2d(dim, dim_out, 3, padding=1)
        self.time = nn.Linear(time_dim, dim_out)
        self.norm2 = GroupNorm(groups, dim_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero_init(nn.Conv2d(dim_out, dim_out, 3, padding=1))
        self.shortcut = nn.Conv2d(dim, dim_out, 1) if dim != dim_out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(B, dim, H, W) and an activated embedding (B, time_dim) → (B, dim_out, H, W) (eq:residual-block)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time(time)[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.shortcut(x) + h


class AttentionBlock(nn.Module):
    """Self-attention over all pixels of a feature map, with one head, added to its input."""

    def __init__(self, dim: int, *, groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = zero_init(nn.Linear(dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) → the same shape (eq:attention)."""
        h = self.norm(x).flatten(2).transpose(1, 2)  # (B, H·W, dim)
        q, k, v = self.qkv(h).chunk(3, dim=-1)
        h = self.out(F.scaled_dot_product_attention(q, k, v))
        return x + h.transpose(1, 2).view_as(x)


class Downsample(nn.Module):
    """Half the resolution, by a convolution of stride 2 padded below and to the right only, as in the paper's code."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) → (B, dim, H/2, W/2) (eq:downsample)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the resolution: repeat every pixel, then convolve."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) → (B, dim, 2H, 2W) (eq:upsample)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Stage(nn.Module):
    """A residual block, followed by attention where the resolution asks for it."""

    def __init__(
        self, dim: int, dim_out: int, *, attention: bool, time_dim: int, groups: int, dropout: float
    ) -> None:
        super().__init__()
        self.block = ResidualBlock(dim, dim_out, time_dim=time_dim, groups=groups, dropout=dropout)
        self.attention = AttentionBlock(dim_out, groups=groups) if attention else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(B, dim, H, W) → (B, dim_out, H, W)."""
        return self.attention(self.block(x, time))
