"""Chapter 6: the U-Net."""

from typing import Any

import torch
from torch import nn

from ddpm.book.exercises.answers import Ask, exercise
from ddpm.unet import Unet
from ddpm.unet_blocks import ResidualBlock, SinusoidalEmbedding


@exercise("unet-count", "block_parameters(C, C2, M)")
def _(ask: Ask) -> None:
    for dim, dim_out, width in ((128, 256, 512), (64, 32, 16), (32, 32, 64)):
        block = ResidualBlock(dim, dim_out, time_dim=width, groups=8, dropout=0.0)
        ask(dim, dim_out, width).equals(sum(weight.numel() for weight in block.parameters()))


@exercise("unet-waking", "awake(network)")
def _(ask: Ask) -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    everything = ["0.bias", "0.weight", "1.bias", "1.weight"]
    # The last of these gives gradients whose sum is zero, some of which are zero themselves.
    for weight, sign, expected in (
        ([0.0, 0.0, 0.0], 1, everything[2:]),
        ([1.0, 1.0, 1.0], -1, everything),
        ([1.0, -1.0, 0.0], 1, everything),
    ):
        network[1].weight.data = torch.tensor([weight])
        network.zero_grad()
        with torch.enable_grad():
            (sign * network(torch.ones(1, 2))).sum().backward()
        reply = ask(network)
        names = sorted(map(str, reply.listed()))
        reply.must(names == expected, f"gives {names}, but should give {expected}")


@exercise("unet-attention-price", "attention_share(side)")
def _(ask: Ask) -> None:
    # These bring the command line and the counter of operations along, which no other check needs.
    from ddpm.book.layer_costs import layer_costs
    from ddpm.cli.presets import CIFAR10

    with torch.device("meta"):
        options: dict[str, Any] = {**CIFAR10.network, "attention_resolutions": []}
        plain = Unet(channels=3, **options)
    for side in (32, 64):
        costs = layer_costs(plain, side)
        stages = [cost for cost in costs if cost.kind == "stage" and cost.height == side]
        # Of n places with C features: four products with a matrix for each place, and two of all places with all.
        n = side * side
        attention = sum(8 * n * stage.channels**2 + 4 * n**2 * stage.channels for stage in stages)
        ask(side).equals(attention / (attention + sum(cost.flops for cost in costs)), rtol=1e-3)


@exercise("unet-bridges", "blank(x, width)")
def _(ask: Ask) -> None:
    for channels, width in ((4, 1), (6, 4)):
        x = torch.randn(2, channels, 3, 3)
        expected = x.clone()
        for channel in range(channels - width, channels):
            expected[:, channel] = 0
        ask(x, width).equals(expected)


@exercise("unet-count-from-zero", "told_one_less(W, frequencies)")
def _(ask: Ask) -> None:
    for dim in (4, 16):
        frequencies = SinusoidalEmbedding(dim).frequencies.double()
        weight, t = torch.randn(3, dim), torch.arange(1.0, 6.0)[:, None]
        told, used = (torch.cat([(s * frequencies).sin(), (s * frequencies).cos()], 1) for s in (t, t - 1))
        reply = ask(weight, frequencies)
        off = (told @ reply.numbers(3, dim).T - used @ weight.T).abs()
        reply.must(
            off.max() < 1e-5, f"told t = 1 … 5, is off by {off.max():.3g} from what W answers at t − 1"
        )
