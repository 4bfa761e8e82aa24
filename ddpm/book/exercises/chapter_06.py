"""Chapter 6: the U-Net."""

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
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1), nn.Linear(1, 1))  # the last one is not called
    last = {"1.weight", "1.bias"}
    for weight, expected in ((0.0, last), (1.0, last | {"0.weight", "0.bias"})):
        nn.init.constant_(network[1].weight, weight)
        network.zero_grad()
        with torch.enable_grad():
            network[1](network[0](torch.ones(1, 2))).sum().backward()
        reply = ask(network)
        names = {str(name) for name in reply.value}
        reply.must(names == expected, f"gives {sorted(names)}, but should give {sorted(expected)}")


@exercise("unet-attention-price", "attention_share(side)")
def _(ask: Ask) -> None:
    # These bring the command line and the counter of operations along, which no other check needs.
    from ddpm.book.layer_costs import layer_costs
    from ddpm.cli.presets import CIFAR10

    with torch.device("meta"):
        plain = Unet(channels=3, **CIFAR10.network | {"attention_resolutions": []})
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
        ask(x.clone(), width).equals(expected)


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
