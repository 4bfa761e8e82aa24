"""What a run will cost, before it starts: parameters, arithmetic, memory and time."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ddpm.diffusion import GaussianDiffusion

BYTES = 4  # of a float32 number
COPIES = 5  # of every parameter: itself, its gradient, two moments of Adam, the average
TIMED_STEPS = 3
LONGEST_STEP = 2.0  # seconds that one of them may take


@dataclass(frozen=True)
class Cost:
    """What a run costs.

    Attributes:
        parameters: of the network.
        forward_flops: floating-point operations of one network call on one image; a multiplication and an addition
            count as two.
        training_flops: the same for one image in training, forward and backward.
        fixed_bytes: memory for the parameters, their gradients, the optimiser and the average.
        image_bytes: memory that each image of a batch adds, for what the backward pass needs.
        seconds_per_image: of training, measured here, not compiled.
    """

    parameters: int
    forward_flops: int
    training_flops: int
    fixed_bytes: int
    image_bytes: int
    seconds_per_image: float


def estimate(diffusion: GaussianDiffusion, *, batch_size: int, precision: torch.dtype | None = None) -> Cost:
    """Count and measure on random images.

    Args:
        diffusion: the model, on the device where it will be trained; its weights stay as they are.
        batch_size: images per network call of the run, at least 1. Where so many would take seconds, as on a CPU,
            fewer are measured.
        precision: the type in which the network runs, such as torch.bfloat16; None for its own.

    Returns:
        The cost.
    """
    network, device = diffusion.network, diffusion.device

    def loss_of(count: int) -> Tensor:
        images = torch.rand(count, *diffusion.image_shape, device=device)
        classes = getattr(network, "num_classes", None)
        labels = None if classes is None else torch.zeros(count, dtype=torch.long, device=device)
        with torch.autocast(device.type, dtype=precision, enabled=precision is not None):
            return diffusion(images, labels)

    def step(count: int) -> None:
        loss_of(count).backward()
        diffusion.zero_grad(set_to_none=True)

    parameters = sum(parameter.numel() for parameter in network.parameters())
    one = seconds(lambda: step(1), device)
    count = max(1, min(batch_size, int(LONGEST_STEP / one)))
    return Cost(
        parameters=parameters,
        forward_flops=count_flops(lambda: loss_of(1)),
        training_flops=count_flops(lambda: step(1)),
        fixed_bytes=COPIES * BYTES * parameters,
        image_bytes=saved_bytes(lambda: loss_of(count), diffusion) // count,
        seconds_per_image=seconds(lambda: step(count), device) / count,
    )


def count_flops(call: Callable[[], object]) -> int:
    """Floating-point operations of a call, those of attention as its products of matrices."""
    # The counter does not know every fused form of attention, that of the CPU for instance.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def saved_bytes(call: Callable[[], Tensor], diffusion: GaussianDiffusion) -> int:
    """Memory of what a forward pass keeps for the backward pass, beside the parameters."""
    own = {parameter.untyped_storage().data_ptr() for parameter in diffusion.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = call()  # held until the sum is made, so that no memory is used twice
    total = sum(kept.values())
    del loss
    return total


def seconds(step: Callable[[], None], device: torch.device) -> float:
    """The shortest of a few steps, after one that warms up."""
    times = []
    for _ in range(1 + TIMED_STEPS):
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[1:])
