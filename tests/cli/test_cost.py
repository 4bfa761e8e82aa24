"""What a run costs, against counts by hand."""

import time
from itertools import pairwise

import pytest
import torch
from torch import nn

from ddpm import GaussianDiffusion, Unet
from ddpm.book.layer_costs import layer_costs
from ddpm.cli import cost as costs
from ddpm.cli.cost import count_flops, estimate, saved_bytes
from ddpm.cli.presets import CIFAR10
from ddpm.unet import AttentionBlock

SIDE, CHANNELS, WIDTH = 8, 2, 5
PIXELS = SIDE * SIDE


class Convolutions(nn.Module):
    """One or two 3×3 convolutions; notes the batches and the types that it sees."""

    def __init__(self, *widths):
        super().__init__()
        self.channels = CHANNELS
        self.num_classes = None
        self.layers = nn.Sequential(*[nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairwise(widths)])
        self.seen, self.pause = [], 0.0

    def forward(self, x_t, t, labels=None):  # noqa: ARG002
        assert (labels is None) == (self.num_classes is None)
        time.sleep(self.pause * len(x_t))
        output = self.layers(x_t)
        self.seen.append((len(x_t), output.dtype))
        return output


def make_model(*widths):
    return GaussianDiffusion(Convolutions(*widths), image_size=SIDE, timesteps=30)


def test_flops_of_one_convolution_and_of_two():
    """2·9·C·C' per pixel; backward the same for the weights, and for the input where there is a layer before it."""
    one = 2 * 9 * CHANNELS * CHANNELS * PIXELS
    cost = estimate(make_model(CHANNELS, CHANNELS), batch_size=4)
    assert (cost.forward_flops, cost.training_flops) == (one, 2 * one)
    each = 2 * 9 * CHANNELS * WIDTH * PIXELS
    cost = estimate(make_model(CHANNELS, WIDTH, CHANNELS), batch_size=4)
    assert (cost.forward_flops, cost.training_flops) == (2 * each, 5 * each)


def test_flops_of_attention_are_counted_on_every_device():
    """Queries, keys, values; all pairs of pixels twice; the last projection. (B, N, C) = (2, 64, 16)."""
    block, x = AttentionBlock(16, groups=8), torch.randn(2, 16, SIDE, SIDE)
    projections = 2 * 2 * 64 * (16 * 48 + 16 * 16)
    pairs = 2 * 2 * (2 * 64 * 64 * 16)
    assert count_flops(lambda: block(x)) == projections + pairs


def test_parameters_and_what_each_of_them_takes():
    """Parameter, gradient, two moments of Adam, average: five float32 numbers."""
    cost = estimate(make_model(CHANNELS, CHANNELS), batch_size=3)
    assert cost.parameters == 9 * CHANNELS * CHANNELS
    assert cost.fixed_bytes == 5 * 4 * cost.parameters


@pytest.mark.parametrize("batch_size", [1, 6])
def test_memory_that_each_image_adds(batch_size):
    """The convolution keeps its input; the squared error keeps the output and the noise. Weights do not count."""
    cost = estimate(make_model(CHANNELS, CHANNELS), batch_size=batch_size)
    assert cost.image_bytes == 3 * 4 * CHANNELS * PIXELS


def test_a_tensor_kept_twice_counts_once():
    model = make_model(CHANNELS, CHANNELS)
    x = torch.randn(10, requires_grad=True)
    assert saved_bytes(lambda: (x * x).sum(), model) == 40
    assert saved_bytes(lambda: ((x * x) * (x * x)).sum(), model) == 3 * 40  # x, and two products


def test_time_is_that_of_an_image_and_a_slow_network_is_measured_on_few(monkeypatch):
    monkeypatch.setattr(costs, "LONGEST_STEP", 0.1)
    model = make_model(CHANNELS, CHANNELS)
    model.network.pause = 0.03
    cost = estimate(model, batch_size=64)
    assert 0.03 < cost.seconds_per_image < 0.06
    assert max(count for count, _ in model.network.seen) in (2, 3)
    model.network.pause = 1.0
    monkeypatch.setattr(time, "sleep", lambda _: None)
    model.network.seen.clear()
    monkeypatch.setattr(costs, "LONGEST_STEP", 1000.0)
    estimate(model, batch_size=64)
    assert max(count for count, _ in model.network.seen) == 64


def test_the_model_stays_as_it_was():
    model = GaussianDiffusion(Unet(8, dim_mults=(1, 2), channels=1, num_classes=3), image_size=8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cost = estimate(model, batch_size=2)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    assert cost.training_flops > 2 * cost.forward_flops > 0


def test_precision_is_that_of_the_run():
    model = make_model(CHANNELS, CHANNELS)
    estimate(model, batch_size=2)
    assert {kind for _, kind in model.network.seen} == {torch.float32}
    model.network.seen.clear()
    estimate(model, batch_size=2, precision=torch.bfloat16)
    assert {kind for _, kind in model.network.seen} == {torch.bfloat16}


# The network, part by part


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
