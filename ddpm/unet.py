"""The network: the U-Net of the DDPM paper (Ho et al. 2020, appendix B), at any width and depth.

The layout is the paper's, down to the order of sine and cosine in the time embedding, the ε of the normalisation and
the padding of the down-sampling convolutions, so that weights published for it fit this class.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUP_NORM_EPS = 1e-6  # the paper's code; torch's default is 1e-5
LONGEST_PERIOD = 10_000.0
FOURIER_LEVELS = 1000  # t/1000 is what the Fourier features see of a level t: the paper's T fills (0, 1]


def zero_init(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """Start a layer at zero, so that the block it ends begins as the identity (and the whole network as zero)."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class SinusoidalEmbedding(nn.Module):
    """Noise level t → a vector of sines and cosines of wavelengths from 2π to 2π · 10,000 (Vaswani et al. 2017).

    Sines come first, and the frequencies include both ends, as in the paper's code.
    """

    frequencies: Tensor

    def __init__(self, dim: int) -> None:
        """Prepare `dim`/2 frequencies; `dim` must be even and at least 4."""
        super().__init__()
        if dim < 4 or dim % 2:
            raise ValueError(f"the time embedding needs an even dimension of at least 4, but got {dim}")
        exponents = torch.arange(dim // 2, dtype=torch.float64) / (dim // 2 - 1)
        self.register_buffer("frequencies", (LONGEST_PERIOD**-exponents).float(), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        """Levels (B,) → embeddings (B, dim) (eq:time-embedding), in float32 whatever the precision around it."""
        angles = t.float()[:, None] * self.frequencies  # (B, dim/2)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class FourierEmbedding(nn.Module):
    """Noise level t → itself and its Fourier features, [t′, sin 2π w t′, cos 2π w t′] with t′ = t/1000.

    The frequencies w are drawn from N(0, 1), and then either learned or kept as they are (random Fourier features,
    Tancik et al. 2020). The scale is fixed, as a network does not know T: the levels of the paper's T = 1000 fill
    (0, 1], in which such waves turn a few times at most. With t itself they would turn several times from one level to
    the next, which puts neighbours nowhere near each other. A shorter chain uses a part of the range, and t′, which is
    among the features, still tells its levels apart.
    """

    frequencies: Tensor

    def __init__(self, dim: int, *, learned: bool) -> None:
        """Draw `dim`/2 frequencies from torch's global source, for an even `dim` of at least 2."""
        super().__init__()
        frequencies = torch.randn(dim // 2)
        if learned:
            self.frequencies = nn.Parameter(frequencies)
        else:  # saved with the weights, which mean nothing at other frequencies
            self.register_buffer("frequencies", frequencies)

    def forward(self, t: Tensor) -> Tensor:
        """Levels of shape (B,) → embeddings of shape (B, dim+1), in float32 whatever the precision around it."""
        t = t.float()[:, None] / FOURIER_LEVELS
        angles = 2 * math.pi * t * self.frequencies  # (B, dim/2)
        return torch.cat([t, angles.sin(), angles.cos()], dim=1)


def level_embedding(dim: int, fourier_dim: int, *, learned: bool, random: bool) -> tuple[nn.Module, int]:
    """The embedding of the noise level, and its number of features: the paper's, or one of the Fourier features."""
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
    """Norm, SiLU, convolution, twice; the time embedding is added in between (a bias per channel)."""

    def __init__(self, dim: int, dim_out: int, *, time_dim: int, groups: int, dropout: float) -> None:
        """Map `dim` channels to `dim_out`, with a 1×1 convolution on the shortcut where they differ."""
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, dim, eps=GROUP_NORM_EPS)
        self.conv1 = nn.Conv2d(dim, dim_out, 3, padding=1)
        self.time = nn.Linear(time_dim, dim_out)
        self.norm2 = nn.GroupNorm(groups, dim_out, eps=GROUP_NORM_EPS)
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
        """Attend over maps of `dim` channels."""
        super().__init__()
        self.norm = nn.GroupNorm(groups, dim, eps=GROUP_NORM_EPS)
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
        """Keep `dim` channels."""
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) → (B, dim, H/2, W/2) (eq:downsample)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the resolution: repeat every pixel, then convolve."""

    def __init__(self, dim: int) -> None:
        """Keep `dim` channels."""
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
        """Map `dim` channels to `dim_out`."""
        super().__init__()
        self.block = ResidualBlock(dim, dim_out, time_dim=time_dim, groups=groups, dropout=dropout)
        self.attention = AttentionBlock(dim_out, groups=groups) if attention else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(B, dim, H, W) → (B, dim_out, H, W)."""
        return self.attention(self.block(x, time))


class Unet(nn.Module):
    """The U-Net of the DDPM paper (Ho et al. 2020, appendix B; Ronneberger et al. 2015).

    Down through the levels, across a middle block with attention, and up again; each stage on the way up also receives
    the map of the same size from the way down. The paper's network for CIFAR-10 is
    `Unet(128, dim_mults=(1, 2, 2, 2), resnet_block_groups=32, attention_resolutions=(2,), dropout=0.1)`.

    Attributes:
        config: the arguments it was built with, ready for JSON: `Unet(**network.config)` is its twin.
        channels: number of image channels.
        self_condition: whether it takes its own previous estimate of x_0 beside x_t.
        learned_variance: whether its output has a second half, which says how uncertain the step back is.
        num_classes: number of classes, or None.
        downsampling: the factor between the finest and the coarsest level; H and W must be divisible by it.
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
            dim_mults: width of each level as a multiple of `dim`, finest first; each level halves the resolution.
            channels: channels of the image.
            self_condition: take the previous estimate of x_0 as further channels beside x_t (self-conditioning; Chen,
                Zhang & Hinton 2023, *Analog Bits*).
            resnet_block_groups: groups of every group normalisation; must divide every width.
            learned_variance: give the output a second head of `channels` channels, from which `GaussianDiffusion` takes
                the variance of the step back and which it trains along (Nichol & Dhariwal 2021, section 3.1).
            learned_sinusoidal_cond: embed the noise level by waves whose frequencies are learned, instead of the
                paper's fixed ones. They see t/1000, whatever T is (see `FourierEmbedding`).
            random_fourier_features: the same with frequencies that are drawn once and saved with the weights, but not
                learned (Tancik et al. 2020).
            learned_sinusoidal_dim: number of sines and cosines of these two, even and at least 2; it means nothing
                without them.
            num_classes: number of classes for a network that takes labels 0 … num_classes−1; None for one that
                does not.
            attention_resolutions: at which down-sampling factors to attend: 1 is the image's own resolution, 2 half of
                it, and so on. None means the coarsest level only, `()` none but the middle block.
            dropout: probability of dropping a feature inside each residual block.
            num_res_blocks: residual blocks per level on the way down; one more on the way up.

        Raises:
            ValueError: if a width is not divisible by the groups, an option is out of range, or both kinds of
                embedding are asked for.
        """
        super().__init__()
        self.config = {
            "dim": dim,
            "init_dim": init_dim,
            "out_dim": out_dim,
            "dim_mults": list(dim_mults),
            "channels": channels,
            "self_condition": self_condition,
            "resnet_block_groups": resnet_block_groups,
            "learned_variance": learned_variance,
            "learned_sinusoidal_cond": learned_sinusoidal_cond,
            "random_fourier_features": random_fourier_features,
            "learned_sinusoidal_dim": learned_sinusoidal_dim,
            "num_classes": num_classes,
            "attention_resolutions": None if attention_resolutions is None else list(attention_resolutions),
            "dropout": dropout,
            "num_res_blocks": num_res_blocks,
        }
        widths = [dim * mult for mult in dim_mults]
        first = dim if init_dim is None else init_dim
        check_widths([first, *widths], resnet_block_groups)
        factors = [2**level for level in range(len(widths))]
        attend = factors[-1:] if attention_resolutions is None else list(attention_resolutions)
        check_options(attend, factors, dropout)
        check_counts(
            channels=channels, out_dim=out_dim, num_classes=num_classes, num_res_blocks=num_res_blocks
        )
        self.channels = channels
        self.self_condition = self_condition
        self.learned_variance = learned_variance
        self.num_classes = num_classes
        self.downsampling = factors[-1]

        time_dim = 4 * dim
        embedding, features = level_embedding(
            dim, learned_sinusoidal_dim, learned=learned_sinusoidal_cond, random=random_fourier_features
        )
        self.time_embedding = nn.Sequential(
            embedding, nn.Linear(features, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim)
        )
        self.label_embedding = None if num_classes is None else nn.Embedding(num_classes, time_dim)

        def stage(dim_in: int, dim_out: int, factor: int) -> Stage:
            attention = factor in attend
            return Stage(
                dim_in,
                dim_out,
                attention=attention,
                time_dim=time_dim,
                groups=resnet_block_groups,
                dropout=dropout,
            )

        self.first = nn.Conv2d(2 * channels if self_condition else channels, first, 3, padding=1)
        self.down = nn.ModuleList()  # stages and Downsamples in the order in which they run
        skips = [first]  # width of every map that the way up will ask for
        for (dim_in, dim_out), factor in zip(pairwise([first, *widths]), factors, strict=True):
            for block in range(num_res_blocks):
                self.down.append(stage(dim_in if block == 0 else dim_out, dim_out, factor))
                skips.append(dim_out)
            if factor != factors[-1]:
                self.down.append(Downsample(dim_out))
                skips.append(dim_out)

        bottom = widths[-1]
        options = {"time_dim": time_dim, "groups": resnet_block_groups, "dropout": dropout}
        self.middle = nn.ModuleList(
            [
                Stage(bottom, bottom, attention=True, **options),
                Stage(bottom, bottom, attention=False, **options),
            ]
        )

        self.up = nn.ModuleList()
        width = bottom
        for dim_out, factor in zip(reversed(widths), reversed(factors), strict=True):
            for _ in range(num_res_blocks + 1):
                self.up.append(stage(width + skips.pop(), dim_out, factor))
                width = dim_out
            if factor != 1:
                self.up.append(Upsample(dim_out))
        self.last_norm = nn.GroupNorm(resnet_block_groups, width, eps=GROUP_NORM_EPS)
        heads = 2 if learned_variance else 1
        self.last = zero_init(
            nn.Conv2d(width, heads * channels if out_dim is None else out_dim, 3, padding=1)
        )
        # Channels last in memory: a CPU convolves faster for it, by a sixth and more.
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(
        self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, x_self_cond: Tensor | None = None
    ) -> Tensor:
        """Predict noise, x_0 or v, whichever the network is trained for, and with two heads the variance as well.

        Args:
            x_t: noisy images in the [-1, 1] scale, shape (B, channels, H, W); H and W divisible by `downsampling`.
            t: noise levels 1 … T, shape (B,).
            labels: classes 0 … num_classes−1, shape (B,), if and only if the network was built with `num_classes`.
            x_self_cond: the previous estimate of x_0, shaped like `x_t`, for a network built with `self_condition`;
                None means that there is none yet, and counts as zeros.

        Returns:
            Tensor of shape (B, out_dim, H, W); the second head's channels come after those of the first.

        Raises:
            ValueError: if the image does not fit the network, there is not one level per image, labels are missing,
                not expected or out of range, or an estimate of x_0 is not expected or has another shape than `x_t`.
        """
        self.check_input(x_t, t)
        self.check_labels(x_t, labels)
        self.check_self_cond(x_t, x_self_cond)
        time = self.time_embedding(t)
        if self.label_embedding is not None:
            time = time + self.label_embedding(labels)
        time = F.silu(time)  # every block begins with it, so it is done once

        if self.self_condition:
            x_t = torch.cat([x_t, torch.zeros_like(x_t) if x_self_cond is None else x_self_cond], dim=1)
        h = self.stem(x_t)
        skips = [h]
        for layer in self.down:
            h = layer(h) if isinstance(layer, Downsample) else layer(h, time)
            skips.append(h)
        for layer in self.middle:
            h = layer(h, time)
        for layer in self.up:
            h = layer(h) if isinstance(layer, Upsample) else layer(torch.cat([h, skips.pop()], dim=1), time)
        return self.last(F.silu(self.last_norm(h)))

    def stem(self, x_t: Tensor) -> Tensor:
        """The first convolution, in the precision of its weights also under autocast.

        The noise in x_1 has a standard deviation of 0.01 or less; bfloat16 rounds pixels by up to 0.002, which would
        drown it.
        """
        kind = "cpu" if x_t.is_meta else x_t.device.type  # autocast does not know the device `meta`
        with torch.autocast(kind, enabled=False):
            return self.first(x_t.to(self.first.weight.dtype))

    def check_input(self, x_t: Tensor, t: Tensor) -> None:
        """Refuse images that do not fit, and anything but one level per image."""
        if (
            x_t.ndim != 4
            or x_t.shape[1] != self.channels
            or any(side % self.downsampling for side in x_t.shape[2:])
        ):
            raise ValueError(
                f"this network takes images of shape (B, {self.channels}, H, W) with H and W divisible by"
                f" {self.downsampling}, but got {tuple(x_t.shape)}"
            )
        if t.shape != (len(x_t),):
            raise ValueError(
                f"t must hold one level per image, shape ({len(x_t)},), but got shape {tuple(t.shape)}"
            )

    def check_labels(self, x_t: Tensor, labels: Tensor | None) -> None:
        """Refuse labels that are missing, not expected or no classes; their range is checked on the CPU only."""
        if self.num_classes is None:
            if labels is not None:
                raise ValueError("this network was built without num_classes and takes no labels")
            return
        needed = (
            f"this network needs labels of shape ({len(x_t)},), whole numbers in 0 … {self.num_classes - 1}"
        )
        if labels is None:
            raise ValueError(f"{needed}, but got none")
        if labels.shape != (len(x_t),) or labels.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"{needed}, but got {labels.dtype} of shape {tuple(labels.shape)}")
        on_cpu = labels.device.type == "cpu" and len(labels) > 0
        if on_cpu and not (labels.min() >= 0 and labels.max() < self.num_classes):
            raise ValueError(f"{needed}, but got values from {labels.min().item()} to {labels.max().item()}")

    def check_self_cond(self, x_t: Tensor, x_self_cond: Tensor | None) -> None:
        """Refuse an estimate of x_0 that is not expected, or of another shape than the image."""
        if x_self_cond is None:
            return
        if not self.self_condition:
            raise ValueError("this network was built without self_condition and takes no x_self_cond")
        if x_self_cond.shape != x_t.shape:
            raise ValueError(
                f"x_self_cond must be shaped like x_t, {tuple(x_t.shape)}, but got {tuple(x_self_cond.shape)}"
            )


def check_widths(widths: Sequence[int], groups: int) -> None:
    """Refuse an empty list of levels, and widths that the groups do not divide."""
    if len(widths) < 2:
        raise ValueError("dim_mults must name at least one level, for example (1, 2)")
    wrong = [width for width in widths if width < 1 or groups < 1 or width % groups]
    if wrong:
        raise ValueError(
            f"every width must be a multiple of resnet_block_groups={groups}, but {wrong} are not"
        )


def check_options(attend: Sequence[int], factors: Sequence[int], dropout: float) -> None:
    """Refuse options of `Unet` that are out of range, naming what is allowed."""
    unknown = [factor for factor in attend if factor not in factors]
    if unknown:
        raise ValueError(
            f"attention_resolutions {unknown} do not exist here; this network has the factors {factors}"
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), but got {dropout}")


def check_counts(**counts: int | None) -> None:
    """Refuse a number of things that is given and below 1."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, but got {value}")
