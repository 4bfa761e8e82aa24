"""What the contenders are held against: the rates of a product and a convolution, and the count of operations."""

import statistics
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.network_speed.clock import times
from benchmarks.network_speed.contenders import UNETS
from benchmarks.network_speed.jobs import NETWORKS, PEERS, Figures, Job

MATCHED = 0.05  # how far the FLOPs of another architecture may lie from ours
MATRIX = {"cpu": 2048, "cuda": 8192}  # side of the matrices that are multiplied
IMAGES, CHANNELS, PIXELS = 8, 256, 32  # what goes through the convolution, as often as it takes


def measure_yardsticks(job: Job) -> Iterator[Figures]:
    """The rates of a product of two square matrices, and of a 1×1 convolution of as many operations.

    On a CPU the product is the BLAS library's, and the convolution oneDNN's, as those of the networks are. On AMD
    processors with AVX-512 it reaches about twice the rate, if its images, as here, do not have to come from memory.
    """
    side = MATRIX[job.device]
    dtype = torch.bfloat16 if job.precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=job.device, dtype=dtype) for _ in range(2))
    images = torch.randn(IMAGES, CHANNELS, PIXELS, PIXELS, device=job.device, dtype=dtype)
    images = images.contiguous(memory_format=torch.channels_last)
    repeats = side**3 // (IMAGES * CHANNELS * CHANNELS * PIXELS * PIXELS)
    weight = torch.randn(CHANNELS, CHANNELS, 1, 1, device=job.device, dtype=dtype)

    def convolutions() -> None:
        for _ in range(repeats):
            F.conv2d(images, weight)

    calls = {"matmul": lambda: a @ b, "convolution": convolutions}
    while True:
        rates = {}
        for name, call in calls.items():
            call()
            rates[f"{name}_gflops"] = 2 * side**3 / statistics.median(times(call, job)) / 1e9
        yield rates


def count(job: Job) -> Iterator[Figures]:
    """Parameters of each network, and its FLOPs for one image.

    Raises:
        ValueError: if the architecture of diffusers is not ours, or the FLOPs of the other are too far from ours.
    """
    from ddpm.cli.cost import count_flops

    spec = NETWORKS[job.network]
    x_t, t = torch.randn(1, *spec.shape), torch.tensor([500])
    figures: Figures = {}
    for name, build in UNETS.items():
        network = build(spec).eval()

        def call(network: nn.Module = network) -> Tensor:
            output = network(x_t, t)
            return output if isinstance(output, Tensor) else output.sample

        with torch.no_grad():
            forward = count_flops(call)
        figures[name] = {
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "flops": {"evaluate": forward, "train": count_flops(lambda call=call: call().sum().backward())},
        }
    check_matched(job.network, figures)
    yield figures


def check_matched(network: str, figures: Figures) -> None:
    """Refuse to compare what is not alike."""
    ours = figures["ours"]
    if figures["diffusers"] != ours:
        raise ValueError(
            f"{network}: diffusers' is not our architecture: {figures['diffusers']}, ours {ours}"
        )
    for task, flops in figures[PEERS[1]]["flops"].items():
        if abs(flops / ours["flops"][task] - 1) > MATCHED:
            raise ValueError(
                f"{network}: {PEERS[1]} has {flops:,} FLOPs ({task}) and ours {ours['flops'][task]:,}, more than"
                f" {MATCHED:.0%} apart; choose another `dim` for it in NETWORKS"
            )
