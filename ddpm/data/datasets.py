"""Pictures to learn from, by name: the digits of scikit-learn, torchvision's data sets, or your own folder.

Every image is float32 in [0, 1], of shape (C, H, W), on the 8-bit grid {0, 1/255, …, 1}: resizing ends in whole grey
levels, so the discrete decoder (eq:decoder), which has one bin for each, always applies.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset

from ddpm.data import names
from ddpm.data.folder import image_folder
from ddpm.data.images import PrepareImage
from ddpm.data.names import DIGITS, TORCHVISION, known_name
from ddpm.io.paths import expanded

_DIGITS_SIZE = 8


def digits(image_size: int | tuple[int, int] = _DIGITS_SIZE, *, channels: int = 1) -> TensorDataset:
    """The 1,797 handwritten digits that come with scikit-learn; nothing is downloaded.

    They have 17 grey levels k/16, k = 0 … 16, which do not lie on the 256 levels of an 8-bit image. Each is moved to
    the nearest one, round(255 k/16)/255, a change of at most 1/510, so that the discrete decoder (eq:decoder) applies
    to them exactly.

    At another size than 8 they are resized; size and channels are those of `PrepareImage`. Labels are int64 in 0 … 9.
    All images at once are the data set's `.tensors[0]`, of shape (1797, 1, 8, 8), and all labels its `.tensors[1]`.
    """
    prepare = PrepareImage(image_size, channels)
    from sklearn.datasets import load_digits

    grey, labels = load_digits(return_X_y=True)
    pixels = np.round(grey * 255 / 16).astype(np.uint8).reshape(-1, _DIGITS_SIZE, _DIGITS_SIZE)
    images = torch.stack([prepare(Image.fromarray(image)) for image in pixels])
    return TensorDataset(images, torch.from_numpy(labels).long())


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
    """A data set of torchvision, pairs (image, label) as a rule, by a forgiving name such as "fashion-mnist".

    Capitals, hyphens, underscores and spaces do not matter in the class's name. Size, channels and mirroring are those
    of `PrepareImage`; None keeps the size and the channels that the images have. `root` is the folder of the files;
    with `download` torchvision fetches those that are not there yet, where it can. The `options` are passed on to the
    class, such as `split="letters"` for EMNIST.

    `train` asks for the training part, or else the test part. For a class with a `split` these are its default split,
    if that begins with "train", and "test"; where they are called otherwise, pass `split=…`. A class without parts
    gives all it has as its training part.

    Raises:
        ValueError: if the name is unknown, the part does not exist, or the class needs more options.
        RuntimeError: if torchvision cannot find or fetch the files, or a package that it reads them by is missing.
    """
    found = known_name(name)
    if found not in TORCHVISION:
        raise ValueError(f"torchvision has no data set {name!r}{names.suggestion(name, TORCHVISION)}")
    arguments = {"transform": PrepareImage(image_size, channels, augment_horizontal_flip)}
    arguments |= {} if found in names.NO_ROOT else {"root": str(expanded(root))}
    arguments |= {} if found in names.NO_DOWNLOAD else {"download": download}
    arguments |= _part_arguments(found, train, options) | options
    needs = names.NEEDS.get(found)
    if needs and needs not in arguments:
        raise ValueError(f"{found} needs {needs} as well: use torchvision_dataset(…, {needs}=…)")
    from torchvision import datasets

    try:
        return getattr(datasets, found)(**arguments)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise RuntimeError(
            f"torchvision reads {found} by the package {package}, which is not installed: pip install {package}"
        ) from error
    except (OSError, RuntimeError) as error:
        raise RuntimeError(f"torchvision could not load {found} from {str(root)!r}: {error}") from error


def _part_arguments(name: str, train: bool, options: dict[str, Any]) -> dict[str, Any]:
    """What torchvision's class calls its training or test part: `train=…`, `split=…`, or nothing."""
    argument, _, training_split = TORCHVISION[name].partition("=")
    if argument == "train":
        return {"train": train}
    if "split" in options or (train and not argument):
        return {}
    if not argument:
        raise ValueError(f"{name} has no test part, so train=False is not allowed")
    if not training_split:
        raise ValueError(f"the parts of {name} are not training and test: say which by split=…")
    return {"split": training_split if train else "test"}


def load_dataset(
    name_or_path: str | Path,
    *,
    image_size: int | tuple[int, int] | None = None,
    train: bool = True,
    root: str | Path = "data",
    channels: int | None = None,
    augment_horizontal_flip: bool = False,
    cache: str | Path | None = None,
    classes: Literal["folders"] | None = None,
) -> Dataset[Any]:
    """A data set by one word: "digits", the name of a torchvision data set, or the path of a folder of images.

    Names go first (`ddpm.io.paths`): a folder called mnist is written "./mnist" or `Path("mnist")`. The data are pairs
    (image, label), or images alone from a folder. Size, channels and mirroring are those of `PrepareImage`; a folder
    needs a size, and gets 3 channels for None. Digits are not mirrored, which would be digits no more, and neither they
    nor a folder have a test part. `root` is the folder for the files of torchvision's data sets, and `cache`, for a
    folder of images alone, that of its prepared images, as in `image_folder`. There `classes="folders"` gives pairs
    whose labels are the sub-folders.

    Raises:
        ValueError: if the name is unknown or an option is not allowed; the message says what is.
        NotADirectoryError: if the path is not a folder.
    """
    names.check_name_or_folder(name_or_path)
    name = known_name(name_or_path)
    if name and cache is not None:
        raise ValueError(f"cache={str(cache)!r} is for a folder of images, and not for {name}: leave it out")
    if name and classes is not None:
        raise ValueError(f"classes={classes!r} is for a folder of images; {name} has labels of its own")
    prepare = {"image_size": image_size, "augment_horizontal_flip": augment_horizontal_flip}
    if name in TORCHVISION:
        return torchvision_dataset(name, root, train=train, channels=channels, **prepare)
    if not train:
        raise ValueError(f"{name_or_path} has no test part: train=False is only for data sets of torchvision")
    if name == DIGITS:
        if augment_horizontal_flip:
            raise ValueError("augment_horizontal_flip=True is not for the digits: a mirrored digit is none")
        size = _DIGITS_SIZE if image_size is None else image_size
        return digits(size, channels=1 if channels is None else channels)
    if image_size is None:
        raise ValueError(
            f"images in a folder have many sizes: give an image_size, such as 32, for {name_or_path}"
        )
    kept = {"cache": cache, "classes": classes}
    return image_folder(name_or_path, channels=3 if channels is None else channels, **kept, **prepare)
