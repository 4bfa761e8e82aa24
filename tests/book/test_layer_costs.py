"""What each part of the network costs, against counts by hand."""

import pytest
import torch
from torch import nn

from ddpm import Unet
from ddpm.book.layer_costs import layer_costs
from ddpm.cli.cost import count_flops
from ddpm.cli.presets import CIFAR10
from ddpm.unet import AttentionBlock


def on_meta(**options):
    with torch.device("meta"):
        return Unet(**options)


def convolution_by_hand(dim, dim_out, pixels, kernel=3):
    """Parameters and operations, given the number of pixels that come out."""
    return kernel**2 * dim * dim_out + dim_out, 2 * kernel**2 * dim * dim_out * pixels


def linear_by_hand(dim, dim_out, rows=1):
    return dim * dim_out + dim_out, 2 * dim * dim_out * rows


def stage_by_hand(dim, dim_out, pixels, time_dim, *, attention):
    """The parameters and operations of a residual block, and of the attention behind it."""
    parts = [
        (2 * dim, 0),
        convolution_by_hand(dim, dim_out, pixels),
        linear_by_hand(time_dim, dim_out),
        (2 * dim_out, 0),
        convolution_by_hand(dim_out, dim_out, pixels),
    ]
    if dim != dim_out:
        parts.append(convolution_by_hand(dim, dim_out, pixels, kernel=1))
    if attention:
        pairs = 2 * 2 * pixels**2 * dim_out
        parts += [(2 * dim_out, 0), (0, pairs)]
        parts += [linear_by_hand(dim_out, 3 * dim_out, pixels), linear_by_hand(dim_out, dim_out, pixels)]
    return tuple(map(sum, zip(*parts, strict=True)))


def test_the_ledger_of_the_papers_network_against_a_count_by_hand():
    """Ho et al. 2020, appendix B, for CIFAR-10: 35.7 million parameters. Widths and sizes are written out here."""
    p32, p16, p8, p4, time = 32 * 32, 16 * 16, 8 * 8, 4 * 4, 512
    embedding = [linear_by_hand(128, time), linear_by_hand(time, time)]
    down = [
        stage_by_hand(128, 128, p32, time, attention=False),
        stage_by_hand(128, 128, p32, time, attention=False),
        convolution_by_hand(128, 128, p16),
        stage_by_hand(128, 256, p16, time, attention=True),
        stage_by_hand(256, 256, p16, time, attention=True),
        convolution_by_hand(256, 256, p8),
        stage_by_hand(256, 256, p8, time, attention=False),
        stage_by_hand(256, 256, p8, time, attention=False),
        convolution_by_hand(256, 256, p4),
        stage_by_hand(256, 256, p4, time, attention=False),
        stage_by_hand(256, 256, p4, time, attention=False),
    ]
    middle = [
        stage_by_hand(256, 256, p4, time, attention=True),
        stage_by_hand(256, 256, p4, time, attention=False),
    ]
    up = [
        *[stage_by_hand(512, 256, p4, time, attention=False)] * 3,
        convolution_by_hand(256, 256, p8),
        *[stage_by_hand(512, 256, p8, time, attention=False)] * 3,
        convolution_by_hand(256, 256, p16),
        stage_by_hand(512, 256, p16, time, attention=True),
        stage_by_hand(512, 256, p16, time, attention=True),
        stage_by_hand(384, 256, p16, time, attention=True),
        convolution_by_hand(256, 256, p32),
        stage_by_hand(384, 128, p32, time, attention=False),
        stage_by_hand(256, 128, p32, time, attention=False),
        stage_by_hand(256, 128, p32, time, attention=False),
    ]
    expected = [
        tuple(map(sum, zip(*embedding, strict=True))),
        convolution_by_hand(3, 128, p32),
        *down,
        *middle,
        *up,
        (2 * 128, 0),
        convolution_by_hand(128, 3, p32),
    ]
    ledger = layer_costs(on_meta(**CIFAR10.network), 32)
    assert [(cost.parameters, cost.flops) for cost in ledger] == expected
    assert sum(cost.parameters for cost in ledger) == 35_746_307


def test_the_ledger_says_where_and_what_each_part_is():
    network = on_meta(
        dim=8, dim_mults=(1, 2), channels=2, num_res_blocks=1, attention_resolutions=(1,), out_dim=4
    )
    ledger = layer_costs(network, (8, 12))
    assert [(cost.name, cost.kind, cost.height, cost.width, cost.channels) for cost in ledger] == [
        ("time_embedding", "embedding", 1, 1, 32),
        ("first", "convolution", 8, 12, 8),
        ("down.0", "stage with attention", 8, 12, 8),
        ("down.1", "downsample", 4, 6, 8),
        ("down.2", "stage", 4, 6, 16),
        ("middle.0", "stage with attention", 4, 6, 16),
        ("middle.1", "stage", 4, 6, 16),
        ("up.0", "stage", 4, 6, 16),
        ("up.1", "stage", 4, 6, 16),
        ("up.2", "upsample", 8, 12, 16),
        ("up.3", "stage with attention", 8, 12, 8),
        ("up.4", "stage with attention", 8, 12, 8),
        ("last_norm", "norm", 8, 12, 8),
        ("last", "convolution", 8, 12, 4),
    ]
    for cost in ledger:
        part = network.get_submodule(cost.name)
        assert cost.parameters == sum(parameter.numel() for parameter in part.parameters())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_classes": 5},
        {"self_condition": True},
        {"learned_sinusoidal_cond": True},
        {"random_fourier_features": True, "attention_resolutions": (1, 2)},
        {"dim_mults": (1,), "num_res_blocks": 3},
    ],
)
def test_the_parts_together_are_the_whole_network(options):
    """As counted on real numbers, in one go; the network is left alone."""
    network = Unet(**{"dim": 8, "dim_mults": (1, 2), "channels": 1, **options})
    before = {name: value.clone() for name, value in network.state_dict().items()}
    ledger = layer_costs(network, 8)
    assert sum(cost.parameters for cost in ledger) == sum(p.numel() for p in network.parameters())
    level = torch.tensor([3])
    whole = count_flops(
        lambda: network(torch.randn(1, 1, 8, 8), level, None if network.num_classes is None else level)
    )
    assert sum(cost.flops for cost in ledger) == whole
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
    assert network.training


def test_the_ledger_knows_a_network_that_was_changed():
    """Attention taken out by hand: fewer parameters, and no stage that claims to have any."""
    network = Unet(8, dim_mults=(1, 2), channels=1)
    with_it = layer_costs(network, 8)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, AttentionBlock):
                setattr(module, name, nn.Identity())
    without = layer_costs(network.double(), 8)
    assert not any("attention" in cost.kind for cost in without)
    for before, after in zip(with_it, without, strict=True):
        saved = 4 * before.channels**2 + 6 * before.channels if "attention" in before.kind else 0
        assert before.parameters - after.parameters == saved
        assert (before.flops > after.flops) == bool(saved)


def test_an_image_that_does_not_fit_is_refused_and_leaves_no_hook():
    network = Unet(8, dim_mults=(1, 2), channels=1)
    with pytest.raises(ValueError, match=r"with H and W divisible by 2, but got \(1, 1, 7, 7\)"):
        layer_costs(network, 7)
    assert not any(module._forward_hooks for module in network.modules())
