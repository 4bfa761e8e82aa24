"""What each part of a U-Net costs: the table that chapter 6 reads."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ddpm.unet import AttentionBlock, Downsample, Stage, Unet, Upsample


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
    parts = _parts_of(network)
    shapes: dict[str, torch.Size] = {}
    hooks = [part.register_forward_hook(_noting_shape(shapes, name)) for name, part in parts.items()]
    try:
        # The counter does not know every fused form of attention.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            _call_without_numbers(network, image_size)
    finally:
        for hook in hooks:
            hook.remove()
    counts, root = counter.get_flop_counts(), type(network).__name__
    ledger = []
    for name, part in parts.items():
        channels, height, width = (*shapes[name][1:], 1, 1)[:3]
        parameters = sum(parameter.numel() for parameter in part.parameters())
        flops = sum(counts.get(f"{root}.{name}", {}).values())
        ledger.append(LayerCost(name, _kind_of(part), height, width, channels, parameters, flops))
    return ledger


def _parts_of(network: Unet) -> dict[str, nn.Module]:
    """The parts of a U-Net by their names, in the order in which they run."""
    parts: dict[str, nn.Module] = {}
    for name, child in network.named_children():
        inside = enumerate(child) if isinstance(child, nn.ModuleList) else ()
        parts |= {f"{name}.{index}": part for index, part in inside} or {name: child}
    return parts


def _kind_of(part: nn.Module) -> str:
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


def _noting_shape(shapes: dict[str, torch.Size], name: str) -> Callable[[nn.Module, object, Tensor], None]:
    """A hook that notes the shape of what a part returns."""

    def note(_: nn.Module, __: object, output: Tensor) -> None:
        shapes[name] = output.shape

    return note


def _call_without_numbers(network: Unet, image_size: int | tuple[int, int]) -> None:
    """Send one image through a network, both of them shapes without numbers."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    tensors = [*network.named_parameters(), *network.named_buffers()]
    empty = {name: torch.empty_like(tensor, dtype=torch.float32, device="meta") for name, tensor in tensors}
    image = torch.empty(1, network.channels, height, width, device="meta")
    t = torch.empty(1, dtype=torch.long, device="meta")
    labels = None if network.num_classes is None else t
    with torch.no_grad():
        functional_call(network, empty, (image, t, labels))
