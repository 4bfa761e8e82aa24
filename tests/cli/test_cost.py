"""What a run costs, against counts by hand."""

import contextlib
import time
from itertools import accumulate, pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ddpm import GaussianDiffusion, Unet
from ddpm.cli import cost as costs
from ddpm.cli.cost import choose_threads, count_flops, measure_cost, with_threads
from ddpm.cli.run_config import RunConfig
from ddpm.training import distributed
from ddpm.unet import AttentionBlock, Stage

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


@pytest.mark.parametrize(
    ("inner", "weights", "backward", "kept"),
    [((), CHANNELS**2, 1, 3 * CHANNELS), ((WIDTH,), 2 * CHANNELS * WIDTH, 1.5, 3 * CHANNELS + WIDTH)],
)
@pytest.mark.parametrize("batch_size", [1, 6])
def test_measure_cost_against_counts_by_hand(inner, weights, backward, kept, batch_size):
    """Of one convolution and of two.

    2·9·C·C' operations per pixel; backward the same for the weights, and for the input where there is a layer before
    it. Of each parameter: itself, its gradient, two moments of Adam, its average. A convolution keeps its input, the
    squared error the output and the noise; weights do not count.
    """
    cost = measure_cost(make_model(CHANNELS, *inner, CHANNELS), batch_size=batch_size)
    assert cost.forward_flops == 2 * 9 * weights * PIXELS
    assert cost.training_flops == (1 + backward) * cost.forward_flops
    assert cost.parameters == 9 * weights
    assert cost.fixed_bytes == 5 * 4 * cost.parameters
    assert cost.image_bytes == 4 * kept * PIXELS


def test_count_flops_knows_attention_on_every_device():
    """Queries, keys, values; all pairs of pixels twice; the last projection. (B, N, C) = (2, 64, 16)."""
    block, x = AttentionBlock(16, groups=8), torch.randn(2, 16, SIDE, SIDE)
    projections = 2 * 2 * 64 * (16 * 48 + 16 * 16)
    pairs = 2 * 2 * (2 * 64 * 64 * 16)
    assert count_flops(lambda: block(x)) == projections + pairs


def test_saved_bytes_count_a_tensor_once():
    model = make_model(CHANNELS, CHANNELS)
    x = torch.randn(10, requires_grad=True)
    assert costs._saved_bytes(lambda: (x * x).sum(), model) == 40
    assert costs._saved_bytes(lambda: ((x * x) * (x * x)).sum(), model) == 3 * 40  # x, and two products


@pytest.mark.parametrize(("longest", "pause", "counts"), [(0.1, 0.03, (2, 3)), (1000.0, 0.001, (64,))])
def test_measure_cost_times_an_image_and_a_slow_network_on_few(monkeypatch, longest, pause, counts):
    monkeypatch.setattr(costs, "_LONGEST_STEP", longest)
    model = make_model(CHANNELS, CHANNELS)
    model.network.pause = pause
    assert pause < measure_cost(model, batch_size=64).seconds_per_image < 2 * pause
    assert max(count for count, _ in model.network.seen) in counts


def test_loading_is_timed_on_files_from_the_whole_of_a_sorted_folder():
    asked = []

    class Pictures(list):
        def __getitem__(self, batch):
            asked.extend(batch.indices)

    costs.loading_seconds(Pictures(range(1000)), 8)
    _, *timed = asked
    assert len(set(timed)) == len(timed) == 16
    assert min(timed) < 250 < 750 < max(timed)


def test_measure_cost_does_not_time_a_single_image_twice():
    calls = []
    for batch_size in (1, 2):
        model = make_model(CHANNELS, CHANNELS)
        cost = measure_cost(model, batch_size=batch_size)
        assert cost.seconds_per_image > 0
        calls.append(len(model.network.seen))
    assert calls[1] - calls[0] == 1 + costs._TIMED_STEPS


def test_measure_cost_leaves_the_model_as_it_was():
    model = GaussianDiffusion(Unet(8, dim_mults=(1, 2), channels=1, num_classes=3), image_size=8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cost = measure_cost(model, batch_size=2)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    assert cost.training_flops > 2 * cost.forward_flops > 0


@pytest.mark.parametrize(
    ("precision", "kind"), [("no", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_measure_cost_runs_in_the_precision_of_the_run(precision, kind):
    model = make_model(CHANNELS, CHANNELS)
    measure_cost(model, batch_size=2, mixed_precision=precision)
    assert {found for _, found in model.network.seen} == {kind}


@pytest.mark.parametrize("batch_size", [1, 6])
def test_copies_of_the_weights_in_half_precision_are_there_once(batch_size):
    """A batch of one shows as few bytes for an image as a batch of six: the copies are no image's."""
    widths = (CHANNELS, WIDTH, CHANNELS)
    full, half = (
        measure_cost(make_model(*widths), batch_size=batch_size, mixed_precision=precision)
        for precision in ("no", "bf16")
    )
    assert half.fixed_bytes - full.fixed_bytes == 2 * full.parameters
    # The inputs of both convolutions have two bytes for four.
    assert full.image_bytes - half.image_bytes <= 2 * (CHANNELS + WIDTH) * PIXELS
    assert half.image_bytes < full.image_bytes


@pytest.mark.parametrize("batch_size", [1, 8, 32])
def test_the_peak_of_a_step_lies_within_the_gradients_below_the_sum(batch_size):
    """Of eq:run-memory, by what the profiler sees come and go: gradients arrive as activations leave."""
    network = Unet(16, dim_mults=(1, 2), channels=1, num_res_blocks=1, attention_resolutions=())
    model = GaussianDiffusion(network, image_size=8)
    cost = measure_cost(model, batch_size=1, averages=0)
    optimizer = torch.optim.AdamW(network.parameters(), foreach=False)
    images = torch.rand(batch_size, 1, 8, 8)
    for step in range(2):
        optimizer.zero_grad()
        with torch.profiler.profile(profile_memory=True) if step else contextlib.nullcontext() as profiler:
            model(images).backward()
            optimizer.step()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = 3 * 4 * cost.parameters  # the weights, and two moments of Adam
    peak = held + max(accumulate(nbytes for _, nbytes in changes))
    total = cost.fixed_bytes + batch_size * cost.image_bytes
    assert total - 4 * cost.parameters <= peak <= total


def test_gradient_checkpointing_lies_between_what_is_kept_and_all_of_it():
    """And is what is kept, and the largest of what the stages keep when each runs by itself."""
    model = GaussianDiffusion(Unet(8, dim_mults=(1, 2, 2), channels=1), image_size=8)
    plain = measure_cost(model, batch_size=3)
    cheap = measure_cost(model, batch_size=3, gradient_checkpointing=True)
    with distributed.checkpointing(model.network, wanted=True):
        kept = costs._saved_bytes(lambda: costs._loss(model, 3), model) // 3
    assert kept < cheap.image_bytes < plain.image_bytes
    largest = 0

    def measure(stage, inputs):
        nonlocal largest
        with torch.enable_grad():
            x, time = (one.detach().clone().requires_grad_() for one in inputs)
            alone = costs._saved_bytes(lambda: stage.forward(x, time).sum(), model)
        largest = max(largest, alone - time.nbytes)

    hooks = [m.register_forward_pre_hook(measure) for m in model.network.modules() if isinstance(m, Stage)]
    with torch.no_grad():
        costs._loss(model, 3)
    for hook in hooks:
        hook.remove()
    assert cheap.image_bytes - kept == pytest.approx(largest / 3, rel=0.1)
    assert cheap.training_flops > plain.training_flops
    assert cheap.fixed_bytes == plain.fixed_bytes
    assert measure_cost(model, batch_size=1, averages=3).fixed_bytes == 7 * 4 * plain.parameters


# Threads


@pytest.mark.parametrize(
    ("flops", "cores", "threads"),
    [(0, 8, 1), (0.9, 8, 1), (1.9, 8, 1), (2, 8, 2), (5.5, 8, 5), (100, 8, 8), (100, 1, 1)],
)
def test_choose_threads_gives_each_its_share_of_a_step(flops, cores, threads):
    chosen = choose_threads(int(flops * costs.FLOPS_PER_THREAD), cores)
    assert chosen == threads
    assert isinstance(chosen, int)


SMALL_WORK = "1 of 2 cores (small work: more would wait for each other)"


@pytest.mark.parametrize(
    ("training", "device", "environment", "threads", "said"),
    [
        ({"train_batch_size": 3}, "cpu", None, 1, [f"  threads    {SMALL_WORK}"]),
        ({"train_batch_size": 4}, "cpu", None, 2, ["  threads    2 of 2 cores"]),
        ({"num_threads": 2}, "cpu", None, 2, []),
        ({"num_threads": None}, "cpu", None, None, []),
        ({}, "cuda", None, None, []),
        ({}, "cpu", "2", None, []),
    ],
)
def test_with_threads_chooses_by_the_work_where_nobody_else_has(
    monkeypatch, training, device, environment, threads, said
):
    """Two cores, and work worth both of them at a batch of 4."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if environment is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(costs, "FLOPS_PER_THREAD", 2 * 2 * 2 * 9 * CHANNELS * CHANNELS * PIXELS)
    monkeypatch.setattr(distributed, "this_process", lambda: SimpleNamespace(device=torch.device(device)))
    run_config, model = RunConfig(training=training), make_model(CHANNELS, CHANNELS)
    changed, lines = with_threads(run_config, model)
    assert changed.training.get("num_threads") == threads
    assert lines == said
    assert said or changed == run_config
    assert all(parameter.grad is None for parameter in model.parameters())
