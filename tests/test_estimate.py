"""What a run costs, against counts by hand."""

import time
from itertools import pairwise

import pytest
import torch
from torch import nn

from ddpm import GaussianDiffusion, Unet
from ddpm import estimate as costs
from ddpm.estimate import count_flops, estimate, saved_bytes
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
