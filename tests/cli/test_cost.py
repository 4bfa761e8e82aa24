"""What a run costs, against counts by hand."""

import time
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ddpm import GaussianDiffusion, Unet
from ddpm.cli import cost as costs
from ddpm.cli.cost import choose_threads, count_flops, measure_cost, with_threads
from ddpm.cli.run_config import RunConfig
from ddpm.training import distributed
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


def test_measure_cost_counts_flops_of_one_convolution_and_of_two():
    """2·9·C·C' per pixel; backward the same for the weights, and for the input where there is a layer before it."""
    one = 2 * 9 * CHANNELS * CHANNELS * PIXELS
    cost = measure_cost(make_model(CHANNELS, CHANNELS), batch_size=4)
    assert (cost.forward_flops, cost.training_flops) == (one, 2 * one)
    each = 2 * 9 * CHANNELS * WIDTH * PIXELS
    cost = measure_cost(make_model(CHANNELS, WIDTH, CHANNELS), batch_size=4)
    assert (cost.forward_flops, cost.training_flops) == (2 * each, 5 * each)


def test_count_flops_knows_attention_on_every_device():
    """Queries, keys, values; all pairs of pixels twice; the last projection. (B, N, C) = (2, 64, 16)."""
    block, x = AttentionBlock(16, groups=8), torch.randn(2, 16, SIDE, SIDE)
    projections = 2 * 2 * 64 * (16 * 48 + 16 * 16)
    pairs = 2 * 2 * (2 * 64 * 64 * 16)
    assert count_flops(lambda: block(x)) == projections + pairs


def test_measure_cost_counts_parameters_and_what_each_of_them_takes():
    """Parameter, gradient, two moments of Adam, average: five float32 numbers."""
    cost = measure_cost(make_model(CHANNELS, CHANNELS), batch_size=3)
    assert cost.parameters == 9 * CHANNELS * CHANNELS
    assert cost.fixed_bytes == 5 * 4 * cost.parameters


@pytest.mark.parametrize("batch_size", [1, 6])
def test_measure_cost_counts_memory_that_each_image_adds(batch_size):
    """The convolution keeps its input; the squared error keeps the output and the noise. Weights do not count."""
    cost = measure_cost(make_model(CHANNELS, CHANNELS), batch_size=batch_size)
    assert cost.image_bytes == 3 * 4 * CHANNELS * PIXELS


def test_saved_bytes_count_a_tensor_once():
    model = make_model(CHANNELS, CHANNELS)
    x = torch.randn(10, requires_grad=True)
    assert costs._saved_bytes(lambda: (x * x).sum(), model) == 40
    assert costs._saved_bytes(lambda: ((x * x) * (x * x)).sum(), model) == 3 * 40  # x, and two products


def test_measure_cost_times_an_image_and_a_slow_network_on_few(monkeypatch):
    monkeypatch.setattr(costs, "_LONGEST_STEP", 0.1)
    model = make_model(CHANNELS, CHANNELS)
    model.network.pause = 0.03
    cost = measure_cost(model, batch_size=64)
    assert 0.03 < cost.seconds_per_image < 0.06
    assert max(count for count, _ in model.network.seen) in (2, 3)
    model.network.pause = 1.0
    monkeypatch.setattr(time, "sleep", lambda _: None)
    model.network.seen.clear()
    monkeypatch.setattr(costs, "_LONGEST_STEP", 1000.0)
    measure_cost(model, batch_size=64)
    assert max(count for count, _ in model.network.seen) == 64


def test_measure_cost_leaves_the_model_as_it_was():
    model = GaussianDiffusion(Unet(8, dim_mults=(1, 2), channels=1, num_classes=3), image_size=8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cost = measure_cost(model, batch_size=2)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    assert cost.training_flops > 2 * cost.forward_flops > 0


def test_measure_cost_runs_in_the_precision_of_the_run():
    model = make_model(CHANNELS, CHANNELS)
    measure_cost(model, batch_size=2)
    assert {kind for _, kind in model.network.seen} == {torch.float32}
    model.network.seen.clear()
    measure_cost(model, batch_size=2, mixed_precision="bf16")
    assert {kind for _, kind in model.network.seen} == {torch.bfloat16}


# Threads


@pytest.mark.parametrize(
    ("flops", "cores", "threads"),
    [(0, 8, 1), (0.9, 8, 1), (1.9, 8, 1), (2, 8, 2), (5.5, 8, 5), (100, 8, 8), (100, 1, 1)],
)
def test_choose_threads_gives_each_its_share_of_a_step(flops, cores, threads):
    chosen = choose_threads(int(flops * costs.FLOPS_PER_THREAD), cores)
    assert chosen == threads
    assert isinstance(chosen, int)


@pytest.fixture
def two_cores(monkeypatch):
    """Two cores, and work worth both of them at a batch of 4."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(costs, "FLOPS_PER_THREAD", 2 * 2 * 2 * 9 * CHANNELS * CHANNELS * PIXELS)


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize(
    ("batch", "threads", "said"),
    [(3, 1, "1 of 2 cores (small work: more would wait for each other)"), (4, 2, "2 of 2 cores")],
)
def test_with_threads_chooses_by_the_size_of_a_batch(batch, threads, said):
    run_config = RunConfig(training={"train_batch_size": batch})
    model = make_model(CHANNELS, CHANNELS)
    changed, lines = with_threads(run_config, model)
    assert changed.training == {"train_batch_size": batch, "num_threads": threads}
    assert lines == [f"  threads    {said}"]
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("number", [2, None])
def test_with_threads_leaves_the_choice_of_the_user(number):
    run_config = RunConfig(training={"num_threads": number})
    assert with_threads(run_config, make_model(CHANNELS, CHANNELS)) == (run_config, [])


@pytest.mark.usefixtures("two_cores")
def test_with_threads_leaves_the_choice_of_the_environment_and_gpus(monkeypatch):
    run_config, model = RunConfig(), make_model(CHANNELS, CHANNELS)
    monkeypatch.setattr(distributed, "this_process", lambda: SimpleNamespace(device=torch.device("cuda")))
    assert with_threads(run_config, model) == (run_config, [])
    monkeypatch.undo()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert with_threads(run_config, model) == (run_config, [])
