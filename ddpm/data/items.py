"""One item of a data set: an image, or (image, label, …), of any kind that can be meant; the rest is refused."""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddpm.data.images import PrepareImage

_WANTED = (
    "an image is a tensor or array of shape (C, H, W), of floats in [0, 1] or of uint8, or a Pillow image of any size,"
    " and with its label a pair (image, label)"
)


def unpacked(item: Any, index: int) -> tuple[Any, Sequence[Any]]:
    """The image of an item, and what comes after it."""
    if isinstance(item, Mapping):
        names = ", ".join(map(repr, item))
        image = next(
            (name for name in ("image", "img", "pixel_values") if name in item), next(iter(item), "image")
        )
        label = next((name for name in item if "label" in str(name)), "label")
        raise ValueError(
            f"item {index} of the data set is a {type(item).__name__} with {names}, but {_WANTED}; pick"
            f" them out by a data set of your own, whose __getitem__ returns item[{image!r}], or"
            f" (item[{image!r}], item[{label!r}])"
        )
    if isinstance(item, tuple | list):
        if not item:
            raise ValueError(f"item {index} of the data set is empty, but {_WANTED}")
        return item[0], item[1:]
    return item, ()


def to_image(image: object, index: int, shape: tuple[int, int, int], prepare: PrepareImage) -> Tensor:
    """A float tensor of the model's shape."""
    if isinstance(image, Image.Image):
        try:
            return prepare(image)
        except ValueError as error:
            raise ValueError(f"the data set's image number {index} cannot be taken: {error}") from error
    if isinstance(image, np.ndarray):
        image = _tensor(image, index)
    if not isinstance(image, Tensor):
        raise ValueError(
            f"the data set's image number {index} is {_in_words(image)}, but {_WANTED}{_about_files(image)}"
        )
    if not is_image_type(image.dtype):
        raise ValueError(
            f"the data set's image number {index} is of type {image.dtype}, but {_WANTED}: divide by the largest value"
        )
    if tuple(image.shape) != shape:
        raise ValueError(
            f"the model takes images of shape {shape}, but the data set's image number {index} is"
            f" {tuple(image.shape)}; {_about_shape(tuple(image.shape), shape)}"
        )
    return scaled(image)


def to_label(others: Sequence[Any], index: int, num_classes: int) -> int:
    """The label, which comes after the image: a whole number of any kind, 0 … `num_classes` − 1."""
    if not others:
        raise ValueError(
            "the network takes class labels (num_classes), so the data set must give pairs (image, label), but"
            f" item {index} is an image alone; where the sub-folders of a folder are the classes:"
            ' image_folder(…, classes="folders"), or --classes folders in the command'
        )
    try:
        # NumPy's truth values and arrays of one number have to be asked for it.
        label = operator.index(others[0].item() if hasattr(others[0], "item") else others[0])
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"the network takes the classes 0 … {num_classes - 1} (num_classes={num_classes}), so a label is one whole"
            f" number, but item {index} of the data set has the label {_in_words(others[0])}; {_about_label(others[0])}"
        ) from error
    if not 0 <= label < num_classes:
        raise ValueError(
            f"the network takes the classes 0 … {num_classes - 1} (num_classes={num_classes}), but item"
            f" {index} of the data set has the label {label}"
        )
    return label


def is_image_type(dtype: torch.dtype) -> bool:
    """Whether numbers of this type can be an image's: floats in [0, 1], truth values, or bytes."""
    return dtype.is_floating_point or dtype in (torch.uint8, torch.bool)


def scaled(images: Tensor) -> Tensor:
    """Bytes to [0, 1], as float32; what is there already stays."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.detach().float()


def _tensor(array: np.ndarray, index: int) -> Tensor:
    """An array's numbers as a tensor, in memory of its own: an array may be read-only, or run backwards."""
    try:
        return torch.from_numpy(array.copy(order="C").astype(array.dtype.newbyteorder("="), copy=False))
    except TypeError as error:
        raise ValueError(
            f"the data set's image number {index} is an array of {array.dtype}, but {_WANTED}"
        ) from error


def _in_words(value: object) -> str:
    """What was given: small things themselves, others by their kind."""
    if isinstance(value, Tensor | np.ndarray) and value.ndim:
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    shown = " ".join(repr(value).split())
    return f"{shown if len(shown) <= 40 else shown[:40] + '…'} ({type(value).__name__})"


def _about_files(image: object) -> str:
    """What to do with the name of a file."""
    if not isinstance(image, str | bytes) and not hasattr(image, "__fspath__"):
        return ""
    return (
        "; open a file by PIL.Image.open, or give the Trainer the folder of the files in place of a data set"
    )


def _about_shape(given: tuple[int, ...], wanted: tuple[int, int, int]) -> str:
    """What to do about images of another shape."""
    channels, *sides = wanted
    if len(given) == 4 and given[1:] == wanted:
        return "it holds many: give them alone, or with their labels torch.utils.data.TensorDataset(images, labels)"
    if given == (*sides, channels):
        return (
            "its channels come last: turn it by image.permute(2, 0, 1), of an array image.transpose(2, 0, 1)"
        )
    if channels == 1 and given == tuple(sides):
        return "it has no axis for its channel: add one by image[None]"
    return "resize the data, or build the model with its channels and image_size"


def _about_label(label: object) -> str:
    """What to do about a label that is none."""
    if isinstance(label, Tensor | np.ndarray) and label.ndim:
        return "of a one-hot vector give its place, int(label.argmax())"
    if isinstance(label, str):
        return "number the classes, such as by sorted(set(labels)).index(label)"
    if isinstance(label, float | np.floating) or (
        isinstance(label, Tensor | np.ndarray) and "float" in str(label.dtype)
    ):
        return "if it is the number of a class, give int(label)"
    return "number the classes from 0, or build the network without num_classes"
