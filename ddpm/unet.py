"""The network: the U-Net of the DDPM paper (Ho et al. 2020, appendix B), at any width and depth.

The layout is the paper's, down to the order of sine and cosine in the time embedding, the ε of the normalisation and
the padding of the down-sampling convolutions, so that weights published for it fit this class.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ddpm.support.buffers import HALVES
from ddpm.support.checks import check_flag, check_whole, check_wholes, plain_number, shown
from ddpm.support.keywords import UNET, known_keywords
from ddpm.support.tensor_checks import check_tensor, may_look_at
from ddpm.unet_blocks import (
    AttentionBlock,
    Downsample,
    GroupNorm,
    ResidualBlock,
    SinusoidalEmbedding,
    Stage,
    TimeEmbedding,
    Upsample,
    device_kind,
    timestep_embedding,
    zero_init,
)

__all__ = [
    "AttentionBlock",
    "Downsample",
    "ResidualBlock",
    "SinusoidalEmbedding",
    "Stage",
    "Unet",
    "Upsample",
]

_FLAGS = {"self_condition", "learned_variance", "learned_sinusoidal_cond", "random_fourier_features"}
_MAY_BE_NONE = {"init_dim", "out_dim", "num_classes", "attention_resolutions"}
# These are looked at once more, with what else they depend on.
_LOWEST = {"init_dim": 0, "resnet_block_groups": 0, "learned_sinusoidal_dim": 0}
_PROBABILITIES = ("dropout", "label_dropout")


class Unet(nn.Module):
    """The U-Net of the DDPM paper (Ho et al. 2020, appendix B; Ronneberger et al. 2015).

    Down through the resolutions, across a middle block with attention, and up again; each stage on the way up also
    receives the map of the same size from the way down. The paper's network for CIFAR-10 is
    `Unet(128, dim_mults=(1, 2, 2, 2), resnet_block_groups=32, attention_resolutions=(2,), dropout=0.1)`.

    Attributes:
        config: the arguments it was built with, ready for JSON: `Unet(**network.config)` is its twin.
        channels, self_condition, learned_variance, num_classes, label_dropout: as it was built.
        null_label: the label that stands for none, `num_classes`, of a network with `label_dropout`; else None.
        downsampling: the factor between the finest and the coarsest resolution; H and W must be divisible by it.
        gradient_checkpointing: keep only the inputs of the layers for the backward pass, which computes the rest anew:
            less memory for one more forward pass (Chen et al. 2016, section 4). The `Trainer` sets it while it trains.
    """

    @known_keywords(UNET)
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
        label_dropout: float = 0.0,
    ) -> None:
        """Build the network.

        Args:
            dim: base width; the time embedding has 4·dim features.
            init_dim: channels after the first convolution; None means `dim`.
            out_dim: channels of the output; None means `channels`, or twice as many with `learned_variance`.
            dim_mults: width at each resolution as a multiple of `dim`, finest first; each is half of the one before.
            channels: channels of the image.
            self_condition: take the previous estimate of x_0 as further channels (Chen et al. 2023, *Analog Bits*).
            resnet_block_groups: groups of every group normalisation; must divide every width.
            learned_variance: give the output a second head of `channels` channels, from which `GaussianDiffusion` takes
                the variance of the step back and which it trains along (Nichol & Dhariwal 2021, section 3.1).
            learned_sinusoidal_cond: embed t by waves whose frequencies are learned (see `FourierEmbedding`).
            random_fourier_features: the same with frequencies that are drawn once and kept.
            learned_sinusoidal_dim: number of sines and cosines of these two, even and at least 2.
            num_classes: number of classes for a network that takes labels; None for one that does not.
            attention_resolutions: at which down-sampling factors to attend: 1 is the image's own resolution, 2 half of
                it, and so on. None means the coarsest only, `()` none but the middle block.
            dropout: probability of dropping a feature inside each residual block.
            num_res_blocks: residual blocks per resolution on the way down; one more on the way up.
            label_dropout: probability with which `GaussianDiffusion.loss` hides an image's label in training, each by
                itself (Ho & Salimans 2022, algorithm 1). Above 0 the network has one class more, for "no label", and
                can be guided (see `ddpm.guidance`).

        Raises:
            ValueError: if an option is out of range; the message says what is allowed.
        """
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        self.config: dict[str, Any] = (config := _plain(arguments))
        dim, channels, num_classes, groups = (
            config[name] for name in ("dim", "channels", "num_classes", "resnet_block_groups")
        )
        widths = [dim * mult for mult in config["dim_mults"]]
        first = dim if config["init_dim"] is None else config["init_dim"]
        factors = [2**depth for depth in range(len(widths))]
        attend = factors[-1:] if attention_resolutions is None else config["attention_resolutions"]
        _check_options(config, [first, *widths], attend, factors)
        self.channels = channels
        self.self_condition = config["self_condition"]
        self.learned_variance = config["learned_variance"]
        self.num_classes = num_classes
        self.label_dropout: float = config["label_dropout"]
        self.null_label: int | None = num_classes if self.label_dropout else None
        self.downsampling = factors[-1]
        self.gradient_checkpointing = False

        time_dim = 4 * dim
        embedding, features = timestep_embedding(
            dim,
            config["learned_sinusoidal_dim"],
            learned=config["learned_sinusoidal_cond"],
            random=config["random_fourier_features"],
        )
        self.time_embedding = TimeEmbedding(embedding, features, time_dim)
        rows = None if num_classes is None else num_classes + (self.null_label is not None)
        self.label_embedding = None if rows is None else nn.Embedding(rows, time_dim)

        stage = partial(Stage, time_dim=time_dim, groups=groups, dropout=config["dropout"])
        self.first = nn.Conv2d(2 * channels if self.self_condition else channels, first, 3, padding=1)
        # Stages and Downsamples in the order in which they run, and the width of every map that the way up asks for.
        self.down, skips = nn.ModuleList(), [first]
        for (dim_in, dim_out), factor in zip(pairwise([first, *widths]), factors, strict=True):
            for block in range(config["num_res_blocks"]):
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
            for _ in range(config["num_res_blocks"] + 1):
                self.up.append(stage(width + skips.pop(), dim_out, attention=factor in attend))
                width = dim_out
            if factor != 1:
                self.up.append(Upsample(dim_out))
        self.last_norm = GroupNorm(groups, width)
        heads = 2 if self.learned_variance else 1
        out_channels = heads * channels if config["out_dim"] is None else config["out_dim"]
        self.last = zero_init(nn.Conv2d(width, out_channels, 3, padding=1))
        # Channels last in memory: a CPU convolves faster for it, by a sixth and more.
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(
        self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, x_self_cond: Tensor | None = None
    ) -> Tensor:
        """Predict noise, x_0 or v, whichever the network is trained for, and with two heads the variance as well.

        That is (B, channels, H, W) → (B, out_dim, H, W); the second head's channels come after those of the first.
        Labels are given if and only if the network was built with `num_classes`; with `label_dropout` they may be left
        out, of all images by None or of some by `null_label`. `x_self_cond`, the previous estimate of x_0, is for one
        built with `self_condition`; None means that there is none yet, and counts as zeros.
        """
        self._check_input(x_t, t, x_self_cond)
        if labels is None and self.null_label is not None:
            labels = torch.full(x_t.shape[:1], self.null_label, device=x_t.device)
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
            h = layer(h) if isinstance(layer, Downsample) else self._run(layer, time, h)
            skips.append(h)
        for layer in self.middle:
            h = self._run(layer, time, h)
        for layer in self.up:
            h = layer(h) if isinstance(layer, Upsample) else self._run(layer, time, h, skips.pop())
        return self.last(F.silu(self.last_norm(h)))

    def _run(self, stage: nn.Module, time: Tensor, h: Tensor, *skip: Tensor) -> Tensor:
        """The output of a stage for a map, and one put beside it; with gradient checkpointing these alone are kept."""

        def call(time: Tensor, h: Tensor, *skip: Tensor) -> Tensor:
            return stage(torch.cat([h, *skip], dim=1) if skip else h, time)

        if self.gradient_checkpointing and torch.is_grad_enabled():
            # Dropout draws the same the second time: the state of the generator is kept as well.
            return checkpoint(call, time, h, *skip, use_reentrant=False)
        return call(time, h, *skip)

    def _stem(self, x_t: Tensor) -> Tensor:
        """The first convolution, in float32 at least, also under autocast and with weights in half precision.

        The noise in x_1 has a standard deviation of 0.01 or less; bfloat16 rounds pixels by up to 0.002, which would
        drown it.
        """
        with torch.autocast(device_kind(x_t), enabled=False):
            weight, bias = self.first.weight, self.first.bias
            if weight.dtype not in HALVES:
                return self.first(x_t.to(weight.dtype))
            full = F.conv2d(x_t.float(), weight.float(), bias if bias is None else bias.float(), padding=1)
            return full.to(weight.dtype)

    def _check_input(self, x_t: Tensor, t: Tensor, x_self_cond: Tensor | None) -> None:
        """Refuse what does not fit the network, or is not one t, or one estimate, per image."""
        check_tensor("x_t", x_t, floating=True)
        check_tensor("t", t)
        fits = x_t.ndim == 4 and x_t.shape[1] == self.channels
        if not fits or any(side % self.downsampling for side in x_t.shape[2:]):
            raise ValueError(
                f"this network takes images of shape (B, {self.channels}, H, W) with H and W divisible by"
                f" {self.downsampling}, but got {tuple(x_t.shape)}"
            )
        if t.shape != x_t.shape[:1]:
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
        given, fits = shown(labels), False
        if isinstance(labels, Tensor) and labels.shape == x_t.shape[:1]:
            fits = labels.dtype in (torch.int32, torch.int64)
            if fits and may_look_at(labels) and len(labels):
                low, high = labels.min().item(), labels.max().item()
                last = self.num_classes - 1 if self.null_label is None else self.null_label
                fits, given = low >= 0 and high <= last, f"values from {low} to {high}"
        if not fits:
            also = "" if self.null_label is None else f", or {self.null_label} for none"
            raise ValueError(
                f"this network needs labels of shape ({len(x_t)},), whole numbers in 0 … {self.num_classes - 1}{also},"
                f" but got {given}"
            )


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `Unet` as Python's own numbers, lists and truth values, which JSON can hold."""
    plain = dict(arguments)
    for name, value in arguments.items():
        if value is None and name in _MAY_BE_NONE:
            continue
        if name in ("dim_mults", "attention_resolutions"):
            plain[name] = check_wholes(name, value, 0)
        elif name in _FLAGS:
            plain[name] = check_flag(name, value)
        elif name not in _PROBABILITIES:
            plain[name] = check_whole(name, value, _LOWEST.get(name, 1))
        elif (number := plain_number(value)) is not None:
            plain[name] = number
        else:
            raise ValueError(f"{name} must lie in [0, 1), but got {shown(value)}")
    return plain


def _check_options(
    config: Mapping[str, Any], widths: Sequence[int], attend: Sequence[int], factors: Sequence[int]
) -> None:
    """Refuse options of `Unet` that are out of range, naming what is allowed."""
    if len(widths) < 2:
        raise ValueError("dim_mults must name at least one resolution, for example (1, 2)")
    groups = config["resnet_block_groups"]
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
    for name in _PROBABILITIES:
        if not 0 <= config[name] < 1:
            raise ValueError(f"{name} must lie in [0, 1), but got {config[name]}")
    if config["label_dropout"] and config["num_classes"] is None:
        raise ValueError(
            f"label_dropout={config['label_dropout']} is for a network with classes: give num_classes as well"
        )
