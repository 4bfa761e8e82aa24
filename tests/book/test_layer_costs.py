"""What each part of the network costs, against counts by hand."""

from dataclasses import astuple

import numpy as np
import pytest
import torch
from torch import nn

from ddpm import Unet
from ddpm.book.layer_costs import layer_costs
from ddpm.cli.cost import count_flops
from ddpm.unet import AttentionBlock


def convolution_by_hand(dim, dim_out, pixels, kernel=3):
    """Parameters and operations, given the number of pixels that come out."""
    return np.array([kernel**2 * dim * dim_out + dim_out, 2 * kernel**2 * dim * dim_out * pixels])


def stage_by_hand(dim, dim_out, pixels, *, attention=False):
    """The parameters and operations of a residual block, and of the attention behind it."""
    norms, time = np.array([2 * dim + 2 * dim_out, 0]), convolution_by_hand(32, dim_out, 1, kernel=1)
    convolutions = convolution_by_hand(dim, dim_out, pixels) + convolution_by_hand(dim_out, dim_out, pixels)
    counts = norms + time + convolutions
    if dim != dim_out:
        counts += convolution_by_hand(dim, dim_out, pixels, kernel=1)
    if attention:
        counts += [2 * dim_out, 2 * 2 * pixels**2 * dim_out]
        counts += convolution_by_hand(dim_out, 3 * dim_out, pixels, kernel=1)
        counts += convolution_by_hand(dim_out, dim_out, pixels, kernel=1)
    return counts


def test_layer_costs_says_where_each_part_is_and_what_it_costs_by_hand():
    options = {"dim_mults": (1, 2), "channels": 2, "num_res_blocks": 1, "attention_resolutions": (1,)}
    ledger = layer_costs(Unet(8, out_dim=4, **options), (8, 12))
    fine, coarse = 8 * 12, 4 * 6
    embedding = convolution_by_hand(8, 32, 1, kernel=1) + convolution_by_hand(32, 32, 1, kernel=1)
    expected = [
        ("time_embedding", "embedding", 1, 1, 32, *embedding),
        ("first", "convolution", 8, 12, 8, *convolution_by_hand(2, 8, fine)),
        ("down.0", "stage with attention", 8, 12, 8, *stage_by_hand(8, 8, fine, attention=True)),
        ("down.1", "downsample", 4, 6, 8, *convolution_by_hand(8, 8, coarse)),
        ("down.2", "stage", 4, 6, 16, *stage_by_hand(8, 16, coarse)),
        ("middle.0", "stage with attention", 4, 6, 16, *stage_by_hand(16, 16, coarse, attention=True)),
        ("middle.1", "stage", 4, 6, 16, *stage_by_hand(16, 16, coarse)),
        ("up.0", "stage", 4, 6, 16, *stage_by_hand(32, 16, coarse)),
        ("up.1", "stage", 4, 6, 16, *stage_by_hand(24, 16, coarse)),
        ("up.2", "upsample", 8, 12, 16, *convolution_by_hand(16, 16, fine)),
        ("up.3", "stage with attention", 8, 12, 8, *stage_by_hand(24, 8, fine, attention=True)),
        ("up.4", "stage with attention", 8, 12, 8, *stage_by_hand(16, 8, fine, attention=True)),
        ("last_norm", "norm", 8, 12, 8, 16, 0),
        ("last", "convolution", 8, 12, 4, *convolution_by_hand(8, 4, fine)),
    ]
    assert [astuple(cost) for cost in ledger] == expected


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
def test_layer_costs_add_up_to_the_whole_network(options):
    """As counted on real numbers, in one go; the network is left alone."""
    network = Unet(**{"dim": 8, "dim_mults": (1, 2), "channels": 1, **options})
    if len(options.get("dim_mults", "12")) > 1:  # refused, without a trace
        with pytest.raises(ValueError, match=r"with H and W divisible by 2, but got \(1, 1, 7, 7\)"):
            layer_costs(network, 7)
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


def test_layer_costs_knows_a_network_that_was_changed():
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
