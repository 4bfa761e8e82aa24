"""The guards: each says what was given and what is allowed. Public entry points call them; the maths below does not.

Importing this does not import torch: the command line needs the guards of numbers and words before it needs that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# Of the distance between two 8-bit grey levels.
_GREY_TOLERANCE = 1e-3


def check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Refuse an unknown word, naming the known ones."""
    if value not in allowed:
        raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(map(repr, allowed))}")


def check_whole(name: str, value: Any, lowest: int = 1, highest: int | None = None) -> None:
    """Refuse anything but a whole number (and no bool) in the range."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < lowest or (highest is not None and value > highest):
        allowed = f"of at least {lowest}" if highest is None else f"in {lowest} … {highest}"
        raise ValueError(f"{name} must be a whole number {allowed}, but got {value!r}")


def check_unit(name: str, value: float, meaning: str) -> None:
    """Refuse a number outside [0, 1]; `meaning` says what the ends stand for."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1]: {meaning}; but got {value!r}")


def check_image_size(image_size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) from one number or a pair, each at least 1."""
    size = tuple(image_size) if isinstance(image_size, Sequence) else (image_size, image_size)
    if len(size) != 2 or any(type(side) is not int or side < 1 for side in size):
        raise ValueError(
            f"image_size must be one whole number >= 1 or a pair of them, but got {image_size!r}"
        )
    return size


def check_images(name: str, x: Tensor, shape: Sequence[int] | None = None) -> None:
    """Refuse anything but floating-point tensors of shape (B, C, H, W), with (C, H, W) = `shape` if given."""
    wrong_shape = shape is not None and tuple(x.shape[1:]) != tuple(shape)
    if x.ndim != 4 or not x.is_floating_point() or wrong_shape:
        wanted = "C, H, W" if shape is None else ", ".join(map(str, shape))
        raise ValueError(
            f"{name} must be a floating-point tensor of shape (B, {wanted}), but got {x.dtype} of shape"
            f" {tuple(x.shape)}"
        )


def check_pair(name_a: str, a: Tensor, name_b: str, b: Tensor) -> None:
    """Refuse images that are no images, or two that differ in shape."""
    check_images(name_a, a)
    check_images(name_b, b)
    if a.shape != b.shape:
        raise ValueError(
            f"{name_a} and {name_b} must have one shape, but got {tuple(a.shape)} and {tuple(b.shape)}"
        )


def check_within(name: str, x: Tensor, low: float, high: float, advice: str) -> None:
    """Refuse values outside [low, high], and NaN; on the CPU only, as an accelerator would have to wait."""
    if x.device.type != "cpu" or not x.numel():
        return
    smallest, largest = x.min().item(), x.max().item()
    # Asked this way round, so that NaN is refused as well.
    if not (smallest >= low and largest <= high):
        raise ValueError(
            f"{name} must lie in [{low:g}, {high:g}], but ranges from {smallest:g} to {largest:g}; {advice}"
        )


def check_8bit(name: str, x: Tensor) -> None:
    """Refuse pixels that are not 8-bit grey levels scaled to [-1, 1]."""
    check_within(name, x, -1 - 1e-6, 1 + 1e-6, "8-bit pixels are scaled to [-1, 1]")
    grey = (x + 1) * 127.5
    if x.numel() and (grey - grey.round()).abs().max() > _GREY_TOLERANCE:
        raise ValueError(
            f"{name} must hold exact 8-bit pixels, k / 127.5 - 1 for k = 0 … 255, but some lie between two grey"
            " levels: give the original images, neither resized, augmented nor noised"
        )


def check_t(t: Tensor, x: Tensor, timesteps: int, lowest: int = 1) -> Tensor:
    """Refuse anything but one timestep in `lowest` … T per image; returns them as int64 on the device of x.

    The range is checked on the CPU only: on an accelerator the look itself would make every step wait.
    """
    import torch

    if not isinstance(t, torch.Tensor):
        raise TypeError(
            f"t must be a tensor with one timestep per image, torch.full(({len(x)},), 1 … T), but got {t!r}"
        )
    if t.shape != (len(x),) or t.is_floating_point() or t.is_complex() or t.dtype == torch.bool:
        raise ValueError(
            f"t must hold one whole number per image, shape ({len(x)},), but got {t.dtype} of shape {tuple(t.shape)}"
        )
    if t.device.type == "cpu" and len(t) and not (t.min() >= lowest and t.max() <= timesteps):
        raise ValueError(
            f"t must lie in {lowest} … {timesteps} (0 is the clean image), but got values from"
            f" {t.min().item()} to {t.max().item()}"
        )
    # Other integer types index differently: uint8 as a mask.
    return t.to(x.device, torch.long)


def check_mask(name: str, mask: Tensor, x: Tensor) -> None:
    """Refuse anything but one truth value per image."""
    if mask.shape != (len(x),) or str(mask.dtype) != "torch.bool":
        raise ValueError(
            f"{name} must hold one truth value per image, bool of shape ({len(x)},), but got {mask.dtype} of shape"
            f" {tuple(mask.shape)}"
        )


def check_grid(grid: Sequence[int], timesteps: int) -> None:
    """Refuse timesteps that do not fall strictly from T to 0."""
    falls = len(grid) > 1 and all(t > s for t, s in pairwise(grid))
    if not falls or grid[0] != timesteps or grid[-1] != 0:
        raise ValueError(f"the timesteps must fall strictly from {timesteps} (T) to 0, but got {list(grid)}")


def check_log_variance(log_variance: Tensor, x_t: Tensor) -> None:
    """Refuse what would broadcast to something else than one variance per pixel, or is not finite."""
    sides = zip(log_variance.shape, x_t.shape, strict=False)
    if log_variance.ndim != x_t.ndim or not all(given in (1, wanted) for given, wanted in sides):
        raise ValueError(
            f"a rule for the variance must return log-variances of shape {tuple(x_t.shape)}, or 1 in place of any side,"
            f" but got {tuple(log_variance.shape)}"
        )
    if not log_variance.isfinite().all():
        raise ValueError(
            "a rule for the variance returned a log-variance that is not finite; the variance must be positive"
        )


def check_mixture(mean: Tensor, covariance: Tensor, weights: Tensor) -> None:
    """Refuse means that are no finite (K, D), and covariances or weights that do not fit them."""
    if mean.ndim != 2 or mean.numel() == 0 or not mean.isfinite().all():
        raise ValueError(f"means must be finite numbers of shape (K, D), but got shape {tuple(mean.shape)}")
    count, dimensions = mean.shape
    full, diagonal, single = (count, dimensions, dimensions), (count, dimensions), (count,)
    if tuple(covariance.shape) not in (full, diagonal, single) or not covariance.isfinite().all():
        raise ValueError(
            f"means of shape {tuple(mean.shape)} need finite covariances of shape {full} (full), {diagonal} (diagonal)"
            f" or {single} (one variance each), but got {tuple(covariance.shape)}"
        )
    if covariance.ndim == 3:
        asymmetry = (covariance - covariance.mT).abs().amax((1, 2))
        if (asymmetry > 1e-6 * covariance.abs().amax((1, 2))).any():
            raise ValueError(
                f"every covariance must be symmetric, but entries differ by up to {asymmetry.max().item():.3g}"
            )
    if (
        weights.shape != single
        or not (weights >= 0).all()
        or not math.isclose(weights.sum(), 1, abs_tol=1e-6)
    ):
        raise ValueError(
            f"weights must be {count} numbers, one per mean, not negative and of sum 1, but got {weights.tolist()} of"
            f" sum {weights.sum().item():g}"
        )
