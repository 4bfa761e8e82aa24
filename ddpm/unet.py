"""The network: the U-Net of the DDPM paper (Ho et al. 2020, appendix B), at any width and depth.

The layout is the paper's, down to the order of sine and cosine in the time embedding, the ε of the normalisation and
the padding of the down-sampling convolutions, so that weights published for it fit this class.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm.checks import check_whole

# As in the paper's code; torch's default is 1e-5.
GROUP_NORM_EPS = 1e-6
LONGEST_PERIOD = 10_000.0
# t/1000 is what the Fourier features see of t: the paper's T fills (0, 1].
FOURIER_TIMESTEPS = 1000


def _zero_init(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """Start a layer at zero, so that the block it ends begins as the identity (and the whole network as zero)."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class SinusoidalEmbedding(nn.Module):
    """Timestep t → a vector of sines and cosines of wavelengths from 2π to 2π · 10,000 (Vaswani et al. 2017).

    Sines come first, and the frequencies include both ends, as in the paper's code.
    """

    frequencies: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 4 or dim % 2:
            raise ValueError(f"the time embedding needs an even dimension of at least 4, but got {dim}")
        exponents = torch.arange(dim // 2, dtype=torch.float64) / (dim // 2 - 1)
        self.register_buffer("frequencies", (LONGEST_PERIOD**-exponents).float(), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """Timesteps (B,) → embeddings (B, dim) (eq:time-embedding), in float32 whatever the precision around it."""
        angles = t.float()[:, None] * self.frequencies  # (B, dim/2)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class FourierEmbedding(nn.Module):
    """Timestep t → itself and its Fourier features, [t′, sin 2π w t′, cos 2π w t′] with t′ = t/1000.

    The frequencies w are drawn from N(0, 1), and then either learned or kept as they are (random Fourier features,
    Tancik et al. 2020). The scale is fixed, as a network does not know T: t of the paper's T = 1000 fills (0, 1], in
    which such waves turn a few times at most. With t itself they would turn several times from one timestep to the
    next, which puts neighbours nowhere near each other. A shorter chain uses a part of the range, and t′, which is
    among the features, still tells its timesteps apart.
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
        angles = 2 * math.pi * t * self.frequencies  # (B, dim/2)
        return torch.cat([t, angles.sin(), angles.cos()], dim=1)


def _timestep_embedding(dim: int, fourier_dim: int, *, learned: bool, random: bool) -> tuple[nn.Module, int]:
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


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice; the time embedding is added in between (a bias per channel).

    The shortcut is a 1×1 convolution where `dim` and `dim_out` differ.
    """

    def __init__(self, dim: int, dim_out: int, *, time_dim: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, dim, eps=GROUP_NORM_EPS)
        self.conv1 = nn.Conv2d(dim, dim_out, 3, padding=1)
        self.time = nn.Linear(time_dim, dim_out)
        self.norm2 = nn.GroupNorm(groups, dim_out, eps=GROUP_NORM_EPS)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = _zero_init(nn.Conv2d(dim_out, dim_out, 3, padding=1))
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
        self.norm = nn.GroupNorm(groups, dim, eps=GROUP_NORM_EPS)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = _zero_init(nn.Linear(dim, dim))

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


class Unet(nn.Module):
    """The U-Net of the DDPM paper (Ho et al. 2020, appendix B; Ronneberger et al. 2015).

    Down through the resolutions, across a middle block with attention, and up again; each stage on the way up also
    receives the map of the same size from the way down. The paper's network for CIFAR-10 is
    `Unet(128, dim_mults=(1, 2, 2, 2), resnet_block_groups=32, attention_resolutions=(2,), dropout=0.1)`.

    Attributes:
        config: the arguments it was built with, ready for JSON: `Unet(**network.config)` is its twin.
        channels: number of image channels.
        self_condition: whether it takes its own previous estimate of x_0 besides x_t.
        learned_variance: whether its output has a second half, which says how uncertain the step back is.
        num_classes: number of classes, or None.
        downsampling: the factor between the finest and the coarsest resolution; H and W must be divisible by it.
    """

    def __init__(
        self,
        dim: int,
        init_dim: int | None = None,
        out_dim: int | None = None,
        dim_mults: Sequence[int] = (1, 2, 4, 8),
        channels: int = 3,
        self_condition: bool = False,
        resnet_block_groups: int = 8,
        learned_variance: bool = False,
        learned_sinusoidal_cond: bool = False,
        random_fourier_features: bool = False,
        learned_sinusoidal_dim: int = 16,
        num_classes: int | None = None,
        attention_resolutions: Sequence[int] | None = None,
        dropout: float = 0.0,
        num_res_blocks: int = 2,
    ) -> None:
        """Build the network.

        Args:
            dim: base width; the time embedding has 4·dim features.
            init_dim: channels after the first convolution; None means `dim`.
            out_dim: channels of the output; None means `channels`, or twice as many with `learned_variance`.
            dim_mults: width at each resolution as a multiple of `dim`, finest first; each is half of the one before.
            channels: channels of the image.
            self_condition: take the previous estimate of x_0 as further channels besides x_t (self-conditioning; Chen,
                Zhang & Hinton 2023, *Analog Bits*).
            resnet_block_groups: groups of every group normalisation; must divide every width.
            learned_variance: give the output a second head of `channels` channels, from which `GaussianDiffusion` takes
                the variance of the step back and which it trains along (Nichol & Dhariwal 2021, section 3.1).
            learned_sinusoidal_cond: embed t by waves whose frequencies are learned, instead of the paper's fixed ones.
                They see t/1000, whatever T is (see `FourierEmbedding`).
            random_fourier_features: the same with frequencies that are drawn once and saved with the weights, but not
                learned (Tancik et al. 2020).
            learned_sinusoidal_dim: number of sines and cosines of these two, even and at least 2; it means nothing
                without them.
            num_classes: number of classes for a network that takes labels 0 … num_classes−1; None for one that
                does not.
            attention_resolutions: at which down-sampling factors to attend: 1 is the image's own resolution, 2 half of
                it, and so on. None means the coarsest only, `()` none but the middle block.
            dropout: probability of dropping a feature inside each residual block.
            num_res_blocks: residual blocks per resolution on the way down; one more on the way up.

        Raises:
            ValueError: if a width is not divisible by the groups, an option is out of range, or both kinds of
                embedding are asked for.
        """
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.config: dict[str, Any] = {
            name: list(value) if isinstance(value, tuple) else value for name, value in arguments.items()
        }
        widths = [dim * mult for mult in dim_mults]
        first = dim if init_dim is None else init_dim
        factors = [2**depth for depth in range(len(widths))]
        attend = factors[-1:] if attention_resolutions is None else list(attention_resolutions)
        _check_options(self.config, [first, *widths], attend, factors)
        self.channels = channels
        self.self_condition = self_condition
        self.learned_variance = learned_variance
        self.num_classes = num_classes
        self.downsampling = factors[-1]

        time_dim = 4 * dim
        embedding, features = _timestep_embedding(
            dim, learned_sinusoidal_dim, learned=learned_sinusoidal_cond, random=random_fourier_features
        )
        self.time_embedding = nn.Sequential(
            embedding, nn.Linear(features, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim)
        )
        self.label_embedding = None if num_classes is None else nn.Embedding(num_classes, time_dim)

        stage = partial(Stage, time_dim=time_dim, groups=resnet_block_groups, dropout=dropout)
        self.first = nn.Conv2d(2 * channels if self_condition else channels, first, 3, padding=1)
        # Stages and Downsamples in the order in which they run, and the width of every map that the way up asks for.
        self.down, skips = nn.ModuleList(), [first]
        for (dim_in, dim_out), factor in zip(pairwise([first, *widths]), factors, strict=True):
            for block in range(num_res_blocks):
                self.down.append(
                    stage(dim_in if block == 0 else dim_out, dim_out, attention=factor in attend)
                )
                skips.append(dim_out)
            if factor != factors[-1]:
                self.down.append(Downsample(dim_out))
                skips.append(dim_out)

        width = widths[-1]
        self.middle = nn.ModuleList([stage(width, width, attention=attention) for attention in (True, False)])
        self.up = nn.ModuleList()
        for dim_out, factor in zip(reversed(widths), reversed(factors), strict=True):
            for _ in range(num_res_blocks + 1):
                self.up.append(stage(width + skips.pop(), dim_out, attention=factor in attend))
                width = dim_out
            if factor != 1:
                self.up.append(Upsample(dim_out))
        self.last_norm = nn.GroupNorm(resnet_block_groups, width, eps=GROUP_NORM_EPS)
        heads = 2 if learned_variance else 1
        out_channels = heads * channels if out_dim is None else out_dim
        self.last = _zero_init(nn.Conv2d(width, out_channels, 3, padding=1))
        # Channels last in memory: a CPU convolves faster for it, by a sixth and more.
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(
        self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, x_self_cond: Tensor | None = None
    ) -> Tensor:
        """Predict noise, x_0 or v, whichever the network is trained for, and with two heads the variance as well.

        Args:
            x_t: noisy images in the [-1, 1] scale, shape (B, channels, H, W); H and W divisible by `downsampling`.
            t: timesteps 1 … T, shape (B,).
            labels: classes 0 … num_classes−1, shape (B,), if and only if the network was built with `num_classes`.
            x_self_cond: the previous estimate of x_0, shaped like `x_t`, for a network built with `self_condition`;
                None means that there is none yet, and counts as zeros.

        Returns:
            Tensor of shape (B, out_dim, H, W); the second head's channels come after those of the first.

        Raises:
            ValueError: if the image does not fit the network, there is not one t per image, labels are missing,
                not expected or out of range, or an estimate of x_0 is not expected or has another shape than `x_t`.
        """
        self._check_input(x_t, t, x_self_cond)
        self._check_labels(x_t, labels)
        time = self.time_embedding(t)
        if self.label_embedding is not None:
            time = time + self.label_embedding(labels)
        # Every block begins with it, so it is done once.
        time = F.silu(time)

        if self.self_condition:
            x_t = torch.cat([x_t, torch.zeros_like(x_t) if x_self_cond is None else x_self_cond], dim=1)
        h = self._stem(x_t)
        skips = [h]
        for layer in self.down:
            h = layer(h) if isinstance(layer, Downsample) else layer(h, time)
            skips.append(h)
        for layer in self.middle:
            h = layer(h, time)
        for layer in self.up:
            h = layer(h) if isinstance(layer, Upsample) else layer(torch.cat([h, skips.pop()], dim=1), time)
        return self.last(F.silu(self.last_norm(h)))

    def _stem(self, x_t: Tensor) -> Tensor:
        """The first convolution, in the precision of its weights also under autocast.

        The noise in x_1 has a standard deviation of 0.01 or less; bfloat16 rounds pixels by up to 0.002, which would
        drown it.
        """
        # Autocast does not know the device `meta`.
        kind = "cpu" if x_t.is_meta else x_t.device.type
        with torch.autocast(kind, enabled=False):
            return self.first(x_t.to(self.first.weight.dtype))

    def _check_input(self, x_t: Tensor, t: Tensor, x_self_cond: Tensor | None) -> None:
        """Refuse what does not fit the network, or is not one t, or one estimate, per image."""
        fits = x_t.ndim == 4 and x_t.shape[1] == self.channels
        if not fits or any(side % self.downsampling for side in x_t.shape[2:]):
            raise ValueError(
                f"this network takes images of shape (B, {self.channels}, H, W) with H and W divisible by"
                f" {self.downsampling}, but got {tuple(x_t.shape)}"
            )
        if t.shape != (len(x_t),):
            raise ValueError(
                f"t must hold one timestep per image, shape ({len(x_t)},), but got {tuple(t.shape)}"
            )
        if x_self_cond is not None and not self.self_condition:
            raise ValueError("this network was built without self_condition and takes no x_self_cond")
        if x_self_cond is not None and x_self_cond.shape != x_t.shape:
            raise ValueError(
                f"x_self_cond must be shaped like x_t, {tuple(x_t.shape)}, but got {tuple(x_self_cond.shape)}"
            )

    def _check_labels(self, x_t: Tensor, labels: Tensor | None) -> None:
        """Refuse labels that are missing, not expected or no classes; their range is checked on the CPU only."""
        if self.num_classes is None:
            if labels is not None:
                raise ValueError("this network was built without num_classes and takes no labels")
            return
        given = "none" if labels is None else f"{labels.dtype} of shape {tuple(labels.shape)}"
        fits = (
            labels is not None and labels.shape == (len(x_t),) and labels.dtype in (torch.int32, torch.int64)
        )
        if labels is not None and fits and labels.device.type == "cpu" and len(labels):
            low, high = labels.min().item(), labels.max().item()
            fits, given = low >= 0 and high < self.num_classes, f"values from {low} to {high}"
        if not fits:
            raise ValueError(
                f"this network needs labels of shape ({len(x_t)},), whole numbers in 0 … {self.num_classes - 1}, but"
                f" got {given}"
            )


def _check_options(
    config: Mapping[str, Any], widths: Sequence[int], attend: Sequence[int], factors: Sequence[int]
) -> None:
    """Refuse options of `Unet` that are out of range, naming what is allowed."""
    if len(widths) < 2:
        raise ValueError("dim_mults must name at least one resolution, for example (1, 2)")
    groups, dropout = config["resnet_block_groups"], config["dropout"]
    wrong = [width for width in widths if width < 1 or groups < 1 or width % groups]
    if wrong:
        raise ValueError(
            f"every width must be a multiple of resnet_block_groups={groups}, but {wrong} are not"
        )
    unknown = [factor for factor in attend if factor not in factors]
    if unknown:
        raise ValueError(
            f"attention_resolutions {unknown} do not exist here; this network has the factors {factors}"
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), but got {dropout}")
    for name in ("channels", "out_dim", "num_classes", "num_res_blocks"):
        if config[name] is not None:
            check_whole(name, config[name])
