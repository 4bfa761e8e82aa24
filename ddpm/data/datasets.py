"""Pictures to learn from: embedded digits and photographs, torchvision's data sets by name, your own folder.

Every image leaves this module as float32 in [0, 1], of shape (C, H, W), on the 8-bit grid {0, 1/255, …, 1}: resizing
ends in whole grey levels, so the discrete decoder (eq:decoder), which has one bin per level, always applies.
"""

import difflib
import inspect
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import Dataset, TensorDataset

from ddpm.data.folder import FolderDataset, PrepareImage, image_folder

__all__ = ["FolderDataset", "PrepareImage", "digits", "image_folder", "load_dataset", "torchvision_dataset"]

DIGITS_SIZE = 8
# Bases to derive from, and videos: their items are no images, or their constructors take no name of a data set.
NOT_BY_NAME = {"VisionDataset", "DatasetFolder", "ImageFolder", "LSUNClass", "Kinetics", "HMDB51", "UCF101"}


# Embedded pictures


def digits(image_size: int | tuple[int, int] = DIGITS_SIZE, *, channels: int = 1) -> TensorDataset:
    """The 1,797 handwritten digits that come with scikit-learn; nothing is downloaded.

    They have 17 grey levels k/16, k = 0 … 16, which do not lie on the 256 levels of an 8-bit image. Each is moved to
    the nearest one, round(255 k/16)/255, a change of at most 1/510, so that the discrete decoder (eq:decoder) applies
    to them exactly.

    Args:
        image_size: side, or (height, width); at another one than 8 the digits are resized.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).

    Returns:
        A data set of pairs (image, label): float32 of shape (channels, height, width) in [0, 1] and int64 in 0 … 9.
        All images at once are its `.tensors[0]`, of shape (1797, 1, 8, 8), and all labels its `.tensors[1]`.

    Raises:
        ValueError: if the size or the number of channels is not allowed.
    """
    prepare = PrepareImage(image_size, channels)
    grey, labels = load_digits(return_X_y=True)
    pixels = np.round(grey * 255 / 16).astype(np.uint8).reshape(-1, DIGITS_SIZE, DIGITS_SIZE)
    images = torch.stack([prepare(Image.fromarray(image)) for image in pixels])
    return TensorDataset(images, torch.from_numpy(labels).long())


# torchvision, by name


def torchvision_dataset(
    name: str,
    root: str | Path = "data",
    *,
    train: bool = True,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    augment_horizontal_flip: bool = False,
    download: bool = True,
    **options: Any,
) -> Dataset[Any]:
    """A data set of torchvision by a forgiving name, such as "mnist", "fashion-mnist" or "CIFAR10".

    Args:
        name: the class's name; capitals, hyphens, underscores and spaces do not matter.
        root: the folder in which the files are, or will be.
        train: the training part, or the test part. For a class with a `split` these are its default split, if that
            begins with "train", and "test"; where they are called otherwise, pass `split=…`. A class without parts
            gives all it has as its training part.
        image_size: side, or (height, width), to which images are resized and cut; None keeps theirs.
        channels: 1, 3 or 4; None keeps theirs.
        augment_horizontal_flip: mirror each image with probability 1/2 whenever it is read, by torch's global
            generator.
        download: fetch the files if they are not there yet, where torchvision can.
        **options: passed on to the class, such as `split="letters"` for EMNIST.

    Returns:
        The data set as torchvision makes it, pairs (image, label) as a rule, the images as float32 tensors of shape
        (C, H, W) in [0, 1].

    Raises:
        ValueError: if the name is unknown, the part does not exist, or the class needs more options.
        RuntimeError: if torchvision cannot find or fetch the files.
    """
    cls = torchvision_class(name)
    accepted = constructor_parameters(cls)
    prepare = PrepareImage(image_size, channels, augment_horizontal_flip)
    usual = {"root": str(root), "transform": prepare, "download": download}
    usual = {key: value for key, value in usual.items() if key in accepted}
    arguments = usual | part_arguments(cls.__name__, accepted, train, options) | options
    missing = [key for key, p in accepted.items() if p.default is p.empty and key not in arguments]
    if missing:
        raise ValueError(
            f"{cls.__name__} needs {' and '.join(missing)} as well: use torchvision_dataset(…, {missing[0]}=…)"
        )
    try:
        return cls(**arguments)
    except (OSError, RuntimeError) as error:
        raise RuntimeError(
            f"torchvision could not load {cls.__name__} from {str(root)!r}: {error}"
        ) from error


def torchvision_names() -> dict[str, str]:
    """The image data sets of torchvision: name in lower case without punctuation -> name of the class."""
    classes = {name: getattr(torchvision.datasets, name) for name in torchvision.datasets.__all__}
    return {
        plain(name): name
        for name, cls in classes.items()
        if isinstance(cls, type) and name not in NOT_BY_NAME and "transform" in constructor_parameters(cls)
    }


def torchvision_class(name: str) -> type:
    """The class of torchvision.datasets that has this name, spelled more or less alike."""
    names = torchvision_names()
    if plain(name) not in names:
        raise ValueError(f"torchvision has no data set {name!r}{suggestion(name, names)}")
    return getattr(torchvision.datasets, names[plain(name)])


def part_arguments(
    class_name: str, accepted: dict[str, inspect.Parameter], train: bool, options: dict[str, Any]
) -> dict[str, Any]:
    """What the class calls its training or test part: `train=…`, `split=…`, or nothing."""
    if "train" in accepted:
        return {"train": train}
    if "split" in options:
        return {}
    if "split" not in accepted:
        if train:
            return {}
        raise ValueError(f"{class_name} has no test part, so train=False is not allowed")
    default = accepted["split"].default
    if not str(default).startswith("train"):
        raise ValueError(f"the parts of {class_name} are not training and test: say which by split=…")
    return {"split": default if train else "test"}


def constructor_parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The named parameters of a class's constructor, with those of its base class if it passes **kwargs on."""
    parameters = inspect.signature(cls).parameters
    named = {key: p for key, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
    if len(named) == len(parameters) or cls.__base__ is None:
        return named
    return constructor_parameters(cls.__base__) | named


def plain(name: str) -> str:
    """'fashionmnist' for 'Fashion-MNIST'."""
    return "".join(character for character in name.lower() if character.isalnum())


def suggestion(name: str, names: dict[str, str]) -> str:
    """Names close to this one, and all there are."""
    close = [names[key] for key in difflib.get_close_matches(plain(name), names, n=4, cutoff=0.5)]
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    return f"{hint}; known are {', '.join(sorted(names.values(), key=str.lower))}"


# By one word


def load_dataset(
    name_or_path: str | Path,
    *,
    image_size: int | tuple[int, int] | None = None,
    train: bool = True,
    root: str | Path = "data",
    channels: int | None = None,
    augment_horizontal_flip: bool = False,
) -> Dataset[Any]:
    """A data set by one word: "digits", the name of a torchvision data set, or the path of a folder of images.

    Names go first: a folder called mnist is written "./mnist" or `Path("mnist")`.

    Args:
        name_or_path: what to load.
        image_size: side, or (height, width); a folder needs it, None keeps the size of the others.
        train: the training part, or the test part. The digits and a folder have no test part.
        root: the folder for the files of torchvision's data sets.
        channels: 1, 3 or 4; None keeps the data set's own, and means 3 for a folder.
        augment_horizontal_flip: mirror half of the images, chosen anew whenever they are read; refused for the digits,
            which would be digits no more.

    Returns:
        The data set: pairs (image, label), or images alone from a folder, as float32 tensors in [0, 1].

    Raises:
        ValueError: if the name is unknown or an option is not allowed; the message says what is.
        NotADirectoryError: if the path is not a folder.
    """
    name = str(name_or_path)
    is_path = isinstance(name_or_path, Path) or "/" in name or os.sep in name
    if not is_path and plain(name) in torchvision_names():
        return torchvision_dataset(
            name,
            root,
            train=train,
            image_size=image_size,
            channels=channels,
            augment_horizontal_flip=augment_horizontal_flip,
        )
    if not train:
        raise ValueError(f"{name} has no test part: train=False is only for data sets of torchvision")
    if not is_path and plain(name) == "digits":
        if augment_horizontal_flip:
            raise ValueError("augment_horizontal_flip=True is not for the digits: a mirrored digit is none")
        size = DIGITS_SIZE if image_size is None else image_size
        return digits(size, channels=1 if channels is None else channels)
    if not is_path and not Path(name).is_dir():
        names = {"digits": "digits"} | torchvision_names()
        raise ValueError(f"there is no folder {name!r} and no data set of that name{suggestion(name, names)}")
    if image_size is None:
        raise ValueError(f"images in a folder have many sizes: give an image_size, such as 32, for {name}")
    return image_folder(
        name_or_path,
        image_size,
        channels=3 if channels is None else channels,
        augment_horizontal_flip=augment_horizontal_flip,
    )
