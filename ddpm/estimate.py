"""What a run will cost, before it starts: parameters, arithmetic, memory and time."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ddpm.diffusion import GaussianDiffusion
from ddpm.unet import AttentionBlock, Downsample, Stage, Unet, Upsample

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


# The network, part by part


@dataclass(frozen=True)
class LayerCost:
    """One part of a U-Net: what it is, what comes out of it, and what it costs for one image.

    Attributes:
        name: where it is in the network, such as "down.3": `network.get_submodule(name)` is it.
        kind: "embedding", "convolution", "stage", "stage with attention", "downsample", "upsample" or "norm".
        height: rows of the map that comes out; 1 for an embedding.
        width: columns of that map; 1 for an embedding.
        channels: channels of that map, or features of the embedding.
        parameters: numbers that are learned.
        flops: floating-point operations of all products of matrices and convolutions; a multiplication and an addition
            are two. Everything else is small and left out.
    """

    name: str
    kind: str
    height: int
    width: int
    channels: int
    parameters: int
    flops: int


def layer_costs(network: Unet, image_size: int | tuple[int, int]) -> list[LayerCost]:
    """The ledger of a U-Net: its parts in the order in which they run, each with what it costs for one image.

    Convolutions cost what eq:conv-flops says, and attention what eq:attention-flops says.

    Nothing is computed: an image without numbers goes through the network, on torch's meta device. The network stays
    as it is, on whatever device; it may be on that one itself, where even the largest takes no memory.

    Args:
        network: the U-Net.
        image_size: height and width of the image, or one number for both.

    Returns:
        One entry for each part. Together they are the whole network: all its parameters, all its operations.

    Raises:
        ValueError: if the network cannot halve such an image as often as it would.
    """
    parts = parts_of(network)
    shapes: dict[str, torch.Size] = {}
    hooks = [part.register_forward_hook(noting_shape(shapes, name)) for name, part in parts.items()]
    try:
        # The counter does not know every fused form of attention.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            call_without_numbers(
                network, (image_size, image_size) if isinstance(image_size, int) else image_size
            )
    finally:
        for hook in hooks:
            hook.remove()
    counts, root = counter.get_flop_counts(), type(network).__name__
    ledger = []
    for name, part in parts.items():
        channels, height, width = (*shapes[name][1:], 1, 1)[:3]
        parameters = sum(parameter.numel() for parameter in part.parameters())
        flops = sum(counts.get(f"{root}.{name}", {}).values())
        ledger.append(LayerCost(name, kind_of(part), height, width, channels, parameters, flops))
    return ledger


def parts_of(network: Unet) -> dict[str, nn.Module]:
    """The parts of a U-Net by their names, in the order in which they run."""
    parts: dict[str, nn.Module] = {}
    for name, child in network.named_children():
        inside = enumerate(child) if isinstance(child, nn.ModuleList) else ()
        parts |= {f"{name}.{index}": part for index, part in inside} or {name: child}
    return parts


def kind_of(part: nn.Module) -> str:
    """What a part of a U-Net is, in words."""
    if isinstance(part, Stage) and isinstance(part.attention, AttentionBlock):
        return "stage with attention"
    kinds = {
        Stage: "stage",
        Downsample: "downsample",
        Upsample: "upsample",
        nn.Conv2d: "convolution",
        nn.GroupNorm: "norm",
    }
    return next((name for kind, name in kinds.items() if isinstance(part, kind)), "embedding")


def noting_shape(shapes: dict[str, torch.Size], name: str) -> Callable[[nn.Module, object, Tensor], None]:
    """A hook that notes the shape of what a part returns."""

    def note(_: nn.Module, __: object, output: Tensor) -> None:
        shapes[name] = output.shape

    return note


def call_without_numbers(network: Unet, image_size: tuple[int, int]) -> None:
    """Send one image through a network, both of them shapes without numbers."""
    tensors = [*network.named_parameters(), *network.named_buffers()]
    empty = {name: torch.empty_like(tensor, dtype=torch.float32, device="meta") for name, tensor in tensors}
    image = torch.empty(1, network.channels, *image_size, device="meta")
    level = torch.empty(1, dtype=torch.long, device="meta")
    labels = None if network.num_classes is None else level
    with torch.no_grad():
        functional_call(network, empty, (image, level, labels))
