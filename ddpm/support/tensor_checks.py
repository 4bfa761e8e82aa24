"""The guards of tensors: shapes, types, devices and ranges, checked once at the door: images, timesteps and labels."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ddpm.support.checks import shown

# Of the distance between two 8-bit grey levels.
_GREY_TOLERANCE = 1e-3


def may_look_at(x: Tensor) -> bool:
    """Whether the values of a tensor may decide something: an accelerator would wait, a compiler and vmap give up."""
    return (
        x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and torch._C._functorch.maybe_current_level() is None  # pyright: ignore[reportAttributeAccessIssue]
    )


def check_tensor(name: str, x: Any, *, floating: bool = False) -> None:
    """Refuse what is no tensor, or not one of `floating`-point numbers, with the way to make one."""
    if not isinstance(x, torch.Tensor):
        raise TypeError(
            f"{name} must be a tensor, but got {shown(x)}; torch.as_tensor(…, dtype=torch.float32) makes one of an"
            " array or a list of numbers"
        )
    if floating and not x.is_floating_point():
        raise ValueError(f"{name} must be a floating-point tensor, but got {x.dtype}{_advice(name, x, None)}")


def as_table(name: str, values: Any) -> Tensor:
    """Numbers as a tensor in float64, out of a tensor, an array or lists of them."""
    try:
        if hasattr(values, "astype"):  # torch takes no array that is reversed, or of the other byte order
            values = values.astype("float64", order="C", copy=True)
        return torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} must be numbers, as a tensor, an array or a list, but got {shown(values)}"
        ) from error


def check_images(
    name: str, x: Any, shape: Sequence[int] | None = None, device: torch.device | None = None
) -> None:
    """Refuse anything but floating-point tensors of shape (B, C, H, W), on `device` and with (C, H, W) = `shape`."""
    check_tensor(name, x)
    wrong_shape = shape is not None and tuple(x.shape[1:]) != tuple(shape)
    if x.ndim != 4 or not x.is_floating_point() or wrong_shape:
        wanted = "C, H, W" if shape is None else ", ".join(map(str, shape))
        raise ValueError(
            f"{name} must be a floating-point tensor of shape (B, {wanted}), but got {x.dtype} of shape"
            f" {tuple(x.shape)}{_advice(name, x, shape)}"
        )
    if device is not None and x.device != device:
        raise ValueError(
            f"{name} is on {x.device} and the model on {device}; write {name}.to({str(device)!r}), or move the model"
        )


def _advice(name: str, x: Tensor, shape: Sequence[int] | None) -> str:
    """What to write for the images that people have."""
    if x.ndim == 3:
        return f"; a single image is a batch of one, {name}[None]"
    if shape is not None and x.ndim == 4 and tuple(x.permute(0, 3, 1, 2).shape[1:]) == tuple(shape):
        return f"; channels come first, {name}.permute(0, 3, 1, 2)"
    if not x.is_floating_point() and not x.is_complex():
        return (
            f"; 8-bit pixels are {name}.float() / 255 in [0, 1], and ddpm.to_model_scale of that in [-1, 1]"
        )
    return ""


def check_pair(name_a: str, a: Any, name_b: str, b: Any, device: torch.device | None = None) -> None:
    """Refuse images that are no images, or not on `device`, or two that differ in shape."""
    check_images(name_a, a, device=device)
    check_images(name_b, b, device=device)
    if a.shape != b.shape:
        raise ValueError(
            f"{name_a} and {name_b} must have one shape, but got {tuple(a.shape)} and {tuple(b.shape)}"
        )


def check_within(name: str, x: Any, low: float, high: float, advice: str) -> None:
    """Refuse values outside [low, high], and NaN, where they may be looked at."""
    check_tensor(name, x)
    if not may_look_at(x) or not x.numel():
        return
    smallest, largest = x.min().item(), x.max().item()
    # Asked this way round, so that NaN is refused as well.
    if not (smallest >= low and largest <= high):
        raise ValueError(
            f"{name} must lie in [{low:g}, {high:g}], but ranges from {smallest:g} to {largest:g}; {advice}"
        )


def check_8bit(name: str, x: Any) -> None:
    """Refuse pixels that are not 8-bit grey levels scaled to [-1, 1]; an accelerator has to wait for this."""
    check_within(name, x, -1 - 1e-6, 1 + 1e-6, "8-bit pixels are scaled to [-1, 1]")
    grey = (x + 1) * 127.5
    if x.numel() and (grey - grey.round()).abs().max() > _GREY_TOLERANCE:
        raise ValueError(
            f"{name} must hold exact 8-bit pixels, k / 127.5 - 1 for k = 0 … 255, but some lie between two grey"
            " levels: give the original images, neither resized, augmented nor noised"
        )


def check_finite(images: Tensor) -> Tensor:
    """Drawn images, once it is sure that they are numbers; an accelerator has to wait for this, once a batch."""
    wrong = int((~images.isfinite()).flatten(1).any(1).sum())
    if wrong:
        raise FloatingPointError(
            f"{wrong} of {len(images)} images are not finite (NaN): the model's answers are no numbers, because it"
            " diverged in training, its file is damaged, or float16 overflows. Take an earlier checkpoint, or sample in"
            " float32"
        )
    return images


def _as_tensor(name: str, values: Any, wanted: str) -> Tensor:
    """A tensor as it is, a list or an array as a tensor, and nothing else."""
    if isinstance(values, torch.Tensor):
        return values
    try:
        # Through a list, as torch takes no arrays that are read-only, reversed, or of objects.
        listed = values.tolist() if hasattr(values, "tolist") else values
        if isinstance(listed, Sequence) and not isinstance(listed, str):
            return torch.as_tensor(list(listed))
    except (TypeError, ValueError, RuntimeError):
        pass
    raise TypeError(f"{name} must be {wanted}, but got {shown(values)}")


def _whole_per_image(name: str, values: Any, x: Tensor, wanted: str) -> Tensor:
    """One whole number per image, on the device where they were given."""
    values = _as_tensor(name, values, wanted)
    whole = not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)
    if values.shape != (len(x),) or not whole:
        raise ValueError(
            f"{name} must hold one whole number per image, shape ({len(x)},), but got {values.dtype} of shape"
            f" {tuple(values.shape)}"
        )
    # Other integer types index differently: uint8 as a mask.
    return values.long()


def check_t(t: Any, x: Tensor, timesteps: int, lowest: int = 1) -> Tensor:
    """One timestep in `lowest` … T per image as int64 on the device of x, out of a tensor, a list or an array."""
    t = _whole_per_image("t", t, x, f"a tensor with one timestep per image, torch.full(({len(x)},), 1 … T)")
    if may_look_at(t) and len(t) and not (t.min() >= lowest and t.max() <= timesteps):
        raise ValueError(
            f"t must lie in {lowest} … {timesteps} (0 is the clean image), but got values from"
            f" {t.min().item()} to {t.max().item()}"
        )
    return t.to(x.device)


def check_labels(labels: Any, x: Tensor) -> Tensor | None:
    """One class per image as int64 on the device of x, out of a tensor, a list or an array; None stays None."""
    if labels is None:
        return None
    wanted = f"None, or a tensor with one class per image, such as torch.full(({len(x)},), 3)"
    return _whole_per_image("labels", labels, x, wanted).to(x.device)


def check_mask(name: str, mask: Any, x: Tensor) -> Tensor:
    """One truth value per image on the device of x, out of a tensor, a list or an array."""
    mask = _as_tensor(name, mask, f"a tensor with one truth value per image, bool of shape ({len(x)},)")
    if mask.shape != (len(x),) or mask.dtype != torch.bool:
        raise ValueError(
            f"{name} must hold one truth value per image, bool of shape ({len(x)},), but got {mask.dtype} of shape"
            f" {tuple(mask.shape)}"
        )
    return mask.to(x.device)


def check_known_pixels(name: str, known: Any, x: Tensor) -> Tensor:
    """Which pixels are known, shaped like x and on its device, out of what broadcasts to it, in bool."""
    known = _as_tensor(name, known, f"bool of shape {tuple(x.shape[-2:])} or {tuple(x.shape)}")
    sides = zip(reversed(known.shape), reversed(x.shape), strict=False)
    fits = known.ndim in (2, 3, 4) and all(given in (1, wanted) for given, wanted in sides)
    # Of three dimensions the first may be meant for pictures or for channels.
    unclear = known.ndim == 3 and len(known) != 1
    if known.dtype != torch.bool or not fits or known.shape[-2:] != x.shape[-2:] or unclear:
        advice = "" if known.dtype == torch.bool else f"; of numbers 0 and 1 that is {name} > 0.5"
        if unclear:
            advice += f"; one for each picture is {name}[:, None], one for each channel {name}[None]"
        raise ValueError(
            f"{name} must say of every pixel whether it is known, bool of shape {tuple(x.shape[-2:])} or"
            f" {tuple(x.shape)}, but got {known.dtype} of shape {tuple(known.shape)}{advice}"
        )
    return known.to(x.device).expand(x.shape)


def check_measurement(matrix: Tensor, value: Tensor, dimensions: int) -> None:
    """Refuse a linear measurement y = A x whose A does not take x, or does not give y."""
    rows = len(value) if value.ndim == 1 else "M"
    finite = bool(matrix.isfinite().all()) and bool(value.isfinite().all())
    if tuple(matrix.shape) != (rows, dimensions) or not finite:
        raise ValueError(
            f"a measurement needs a matrix of shape ({rows}, {dimensions}) and a value of shape ({rows},), of finite"
            f" numbers, but got {tuple(matrix.shape)} and {tuple(value.shape)}"
        )


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
