"""Where the time of the network goes on a CPU, and how much faster it could be.

    OMP_NUM_THREADS=2 python -m benchmarks.network_profile

For the two networks of network_speed: the time of a training step (forward and backward) and of a network call, the
shares of it by kind of operation as torch's profiler sees them, and the time of the convolutions alone, each called by
itself on random numbers of the same shapes: roughly what would be left if the rest cost nothing. The
same call of diffusers' network says how far ahead of it that would be. The figures go to network_profile.json.
"""

import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks.network_speed.contenders import UNETS
from benchmarks.network_speed.jobs import NETWORKS
from benchmarks.network_speed.summary import machine
from benchmarks.network_speed.tables import table

RESULTS = Path(__file__).with_suffix(".json")
REPEATS = 5
KINDS = {  # part of an operation's name -> what it is called in the table; the first that fits counts
    "convolution": "convolutions",
    "group_norm": "normalisation",
    "silu": "SiLU",
    "attention": "attention, linear layers",
    "mm": "attention, linear layers",
}
Call = Callable[[], object]


def seconds(call: Call) -> float:
    """The median of several calls, after one that warms up."""
    times = []
    for _ in range(1 + REPEATS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def convolutions(network: nn.Module, call: Call) -> list[tuple[nn.Conv2d, tuple[int, ...]]]:
    """Every convolution of a network call with the shape of its input."""
    found: list[tuple[nn.Conv2d, tuple[int, ...]]] = []

    def note(layer: nn.Conv2d, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        found.append((layer, tuple(inputs[0].shape)))

    hooks = [layer.register_forward_hook(note) for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    call()
    for hook in hooks:
        hook.remove()
    return found


def alone(layer: nn.Conv2d, shape: tuple[int, ...], *, backward: bool) -> float:
    """The time of one convolution by itself."""
    x = torch.randn(shape).to(memory_format=torch.channels_last).requires_grad_(backward)

    def convolve() -> Tensor:
        return F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding)

    if not backward:
        with torch.no_grad():
            return seconds(convolve)
    gradient = torch.randn_like(convolve())
    return seconds(lambda: torch.autograd.grad(convolve(), [x, *layer.parameters()], gradient))


def shares(call: Call) -> dict[str, float]:
    """How the time of a call divides into kinds of operations."""
    call()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        call()
    spent: Counter[str] = Counter()
    for event in profiler.key_averages():
        kind = next((kind for part, kind in KINDS.items() if part in event.key), "the rest")
        spent[kind] += event.self_cpu_time_total
    return {kind: round(value / spent.total(), 3) for kind, value in spent.most_common()}


def calls(name: str, implementation: str, task: str, batch: int) -> tuple[nn.Module, Call]:
    """A network, and a training step or a call of it on random images."""
    network = UNETS[implementation](NETWORKS[name])
    x, t = torch.randn(batch, *NETWORKS[name].shape), torch.full((batch,), 500)

    def answer() -> Tensor:
        output = network(x, t)
        return output if isinstance(output, Tensor) else output.sample

    def step() -> None:
        answer().square().mean().backward()
        network.zero_grad()

    def evaluate() -> None:
        with torch.no_grad():
            answer()

    return network.train(task == "train"), step if task == "train" else evaluate


def profiled(name: str, task: str) -> dict[str, Any]:
    """The figures of one network and task."""
    batch = NETWORKS[name].batches[task]
    network, call = calls(name, "ours", task, batch)
    training = task == "train"
    bare = sum(alone(*layer, backward=training) for layer in convolutions(network, call))
    whole, theirs = seconds(call), seconds(calls(name, "diffusers", task, batch)[1])
    return {
        "network": name,
        "task": task,
        "batch": batch,
        "milliseconds": round(1e3 * whole, 1),
        "convolutions_alone": round(1e3 * bare, 1),
        "diffusers": round(1e3 * theirs, 1),
        "ours_could_gain": round(whole / bare, 2),
        "and_be_ahead_by": round(theirs / bare, 2),
        "shares": shares(call),
    }


def main() -> None:
    """Measure, print, write."""
    torch.manual_seed(0)
    rows = [profiled(name, task) for name in NETWORKS for task in ("train", "evaluate")]
    head = [*(key for key in rows[0] if key != "shares"), "shares"]
    print(table(head, [[str(row[key]) for key in head] for row in rows]))
    here = machine(torch.get_num_threads(), "cpu")
    command = f"OMP_NUM_THREADS={here['threads']} python -m benchmarks.network_profile"
    RESULTS.write_text(json.dumps({"command": command, "machine": here, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
