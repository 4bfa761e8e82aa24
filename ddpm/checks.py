"""Checks of what callers hand in: each names what was given and what is allowed."""

from collections.abc import Sequence

import torch
from torch import Tensor


def check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Refuse an unknown word, naming the known ones."""
    if value not in allowed:
        raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(map(repr, allowed))}")


def is_whole(t: Tensor) -> bool:
    """Whether the type of `t` is one of the integers."""
    return not (t.is_floating_point() or t.is_complex() or t.dtype == torch.bool)


def check_image_size(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) from one number or a pair, each at least 1."""
    size = tuple(image_size) if isinstance(image_size, Sequence) else (image_size, image_size)
    if len(size) != 2 or any(
        isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in size
    ):
        raise ValueError(
            f"image_size must be one whole number >= 1 or a pair of them, but got {image_size!r}"
        )
    return size


def check_images(name: str, x: Tensor) -> None:
    """Refuse anything but floating-point tensors of shape (B, C, H, W)."""
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(
            f"{name} must be a floating-point tensor of shape (B, C, H, W), but got {x.dtype} of shape {tuple(x.shape)}"
        )


def check_pair(name_a: str, a: Tensor, name_b: str, b: Tensor) -> None:
    """Refuse images that are no images, or two that differ in shape."""
    check_images(name_a, a)
    check_images(name_b, b)
    if a.shape != b.shape:
        raise ValueError(
            f"{name_a} and {name_b} must have one shape, but got {tuple(a.shape)} and {tuple(b.shape)}"
        )


def check_heads(output: Tensor, x_t: Tensor) -> None:
    """Refuse the output of a network with a second head for the variance that is not (B, 2C, H, W)."""
    wanted = (len(x_t), 2 * x_t.shape[1], *x_t.shape[2:])
    if tuple(output.shape) != wanted:
        raise ValueError(
            f"a network that predicts its variance must return shape {wanted}, the prediction and as many channels for"
            f" the variance, but got {tuple(output.shape)}"
        )


def check_levels(t: Tensor, x: Tensor, timesteps: int, lowest: int = 1) -> Tensor:
    """Refuse levels that are not integers of shape (B,) in `lowest` … T; returns them as int64 on the device of x.

    The range is checked on the CPU only: on an accelerator the look itself would make every step wait.
    """
    if not isinstance(t, Tensor):
        raise TypeError(
            f"t must be a tensor with one level per image, torch.full(({len(x)},), 1 … T), but got {t!r}"
        )
    if t.shape != (len(x),) or not is_whole(t):
        raise ValueError(
            f"t must hold one whole number per image, shape ({len(x)},), but got {t.dtype} of shape {tuple(t.shape)}"
        )
    if t.device.type == "cpu" and len(t) and not (t.min() >= lowest and t.max() <= timesteps):
        raise ValueError(
            f"t must lie in {lowest} … {timesteps} (0 is the clean image), but got values from"
            f" {t.min().item()} to {t.max().item()}"
        )
    return t.to(x.device, torch.long)  # other integer types index differently: uint8 as a mask
