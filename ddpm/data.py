"""Pictures to learn from: embedded digits and photographs, torchvision's data sets by name, your own folder.

Every image leaves this module as float32 in [0, 1], of shape (C, H, W), on the 8-bit grid {0, 1/255, …, 1}: resizing
ends in whole grey levels, so the discrete decoder (eq:decoder), which has one bin per level, always applies.
"""

import difflib
import inspect
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image, ImageOps
from skimage.data import chelsea
from sklearn.datasets import load_digits, load_sample_image
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset
from torchvision.transforms.functional import pil_to_tensor

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".tiff", ".tif", ".bmp")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # channels -> Pillow's name for them
DIGITS_SIZE = 8
CAT_FACE = (85, 0, 385, 300)  # left, upper, right, lower corner of the square, in pixels of the photograph
FLOWER_HEAD = (158, 71, 458, 371)
NAMES_IN_A_MESSAGE = 10


# Embedded pictures


def digits(image_size: int | tuple[int, int] = DIGITS_SIZE, *, channels: int = 1) -> TensorDataset:
    """The 1,797 handwritten digits that come with scikit-learn; nothing is downloaded.

    They have 17 grey levels k/16, k = 0 … 16, which do not lie on the 256 levels of an 8-bit image. Each is moved to
    the nearest one, round(255 k/16)/255, a change of at most 1/510, so that the discrete decoder (eq:decoder) applies
    to them exactly.

    Args:
        image_size: side, or (height, width); other than 8 the digits are enlarged.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).

    Returns:
        A data set of pairs (image, label): float32 of shape (channels, height, width) in [0, 1] and int64 in 0 … 9.
        All images at once are its `.tensors[0]`, shape (1797, 1, 8, 8), all labels its `.tensors[1]`.

    Raises:
        ValueError: if the size or the number of channels is not allowed.
    """
    prepare = PrepareImage(image_size, channels)
    source = load_digits()
    pixels = np.round(source.images * 255 / 16).astype(np.uint8)
    images = torch.stack([prepare(Image.fromarray(image)) for image in pixels])
    return TensorDataset(images, torch.from_numpy(source.target).long())


def cat_photograph(size: int = 64) -> Tensor:
    """Chelsea the cat, from scikit-image: her face, cut square and resized.

    Args:
        size: side in pixels, at least 1; the source has 300.

    Returns:
        float32 of shape (3, size, size) in [0, 1].

    Raises:
        ValueError: if the size is not a whole number of at least 1.
    """
    return PrepareImage(size, 3)(Image.fromarray(chelsea()).crop(CAT_FACE))


def flower_photograph(size: int = 64) -> Tensor:
    """The dahlia, from scikit-learn: its head, cut square and resized.

    Args:
        size: side in pixels, at least 1; the source has 300.

    Returns:
        float32 of shape (3, size, size) in [0, 1].

    Raises:
        ValueError: if the size is not a whole number of at least 1.
    """
    return PrepareImage(size, 3)(Image.fromarray(load_sample_image("flower.jpg")).crop(FLOWER_HEAD))


# Any picture to a tensor


@dataclass(frozen=True)
class PrepareImage:
    """A Pillow image in, a tensor out: converted, resized, cut to size.

    Attributes:
        image_size: side, or (height, width), of the result; None keeps the image's own. The image is resized, with
            antialiasing, until it covers that area, and cut to it around its centre.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA); None keeps the image's own. Where there is no alpha channel to keep,
            transparent pixels are laid over white.
    """

    image_size: int | tuple[int, int] | None = None
    channels: int | None = None

    def __post_init__(self) -> None:
        """Check both settings at once, long before the first image comes."""
        if self.channels is not None and self.channels not in MODES:
            raise ValueError(f"channels must be 1 (grey), 3 (RGB) or 4 (RGBA), but got {self.channels!r}")
        if self.image_size is not None:
            object.__setattr__(self, "image_size", height_and_width(self.image_size))

    def __call__(self, image: Image.Image) -> Tensor:
        """float32 of shape (C, H, W) in [0, 1]."""
        image = to_eight_bits(image)
        if self.channels is not None:
            image = convert(image, MODES[self.channels])
        if isinstance(self.image_size, tuple):
            height, width = self.image_size
            image = ImageOps.fit(image, (width, height), method=Image.Resampling.BICUBIC)
        return pil_to_tensor(image).float() / 255


def to_eight_bits(image: Image.Image) -> Image.Image:
    """A 16-bit grey image scaled, not clipped, to 8 bits; other images as they are.

    Raises:
        ValueError: if the pixels are floating-point numbers, or whole numbers outside 0 … 65535: what is black and
            what is white in such a file is not known.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    pixels = np.asarray(image)
    if image.mode == "F" or pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(
            f"pixels of mode {image.mode!r} from {pixels.min():g} to {pixels.max():g} have no known scale"
        )
    return Image.fromarray(np.round(pixels / 257).astype(np.uint8))  # 65535 = 257 · 255


def convert(image: Image.Image, mode: str) -> Image.Image:
    """The image in Pillow's mode "L", "RGB" or "RGBA"; without an A in it, transparent pixels are laid over white."""
    transparent = "A" in image.getbands() or "transparency" in image.info
    if transparent and mode != "RGBA":
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def height_and_width(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) from one number or a pair, each a whole number of at least 1."""
    size = image_size if isinstance(image_size, Sequence) else (image_size, image_size)
    if len(size) != 2 or any(
        isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in size
    ):
        raise ValueError(
            f"image_size must be one whole number >= 1 or a pair of them, but got {image_size!r}"
        )
    return size[0], size[1]


# torchvision, by name


def torchvision_names() -> dict[str, str]:
    """The labelled image data sets of torchvision: name in lower case without punctuation -> name of the class."""
    generic = {"VisionDataset", "DatasetFolder", "ImageFolder"}
    names = [name for name in torchvision.datasets.__all__ if name not in generic]
    classes = {name: getattr(torchvision.datasets, name) for name in names}
    return {
        plain(name): name
        for name, cls in classes.items()
        if isinstance(cls, type) and {"root", "transform"} <= set(constructor_parameters(cls)) | {"root"}
    }


def torchvision_dataset(
    name: str,
    root: str | Path = "data",
    *,
    train: bool = True,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    download: bool = True,
    **options: Any,
) -> Dataset[Any]:
    """A data set of torchvision by name: "mnist", "fashion-mnist", "CIFAR10", …

    Args:
        name: the class's name; capitals, hyphens, underscores and spaces do not matter.
        root: folder in which the files are, or go.
        train: the training part, or the test part. Where the class has a `split` instead, these are its default,
            if that begins with "train", and "test". A class without parts gives all it has as its training part.
        image_size: side, or (height, width), to which images are resized and cut; None keeps theirs.
        channels: 1, 3 or 4; None keeps theirs.
        download: fetch the files if they are not there yet (where torchvision can).
        **options: passed on to the class, such as `split="letters"` for EMNIST.

    Returns:
        The data set, its images as float32 tensors of shape (C, H, W) in [0, 1].

    Raises:
        ValueError: if the name is unknown, the part does not exist, or the class needs more options.
        RuntimeError: if torchvision cannot find or fetch the files.
    """
    cls = torchvision_class(name)
    accepted = constructor_parameters(cls)
    arguments: dict[str, Any] = {
        "root": str(root),
        "transform": PrepareImage(image_size, channels),
        "download": download,
    }
    arguments = {key: value for key, value in arguments.items() if key in accepted} | options
    arguments = part_arguments(cls, accepted, train, options) | arguments
    missing = [key for key, p in accepted.items() if p.default is p.empty and key not in arguments]
    if missing:
        raise ValueError(f"{cls.__name__} also needs {', '.join(missing)}: pass them by keyword")
    try:
        return cls(**arguments)
    except (OSError, RuntimeError) as error:
        raise RuntimeError(f"torchvision could not load {cls.__name__} in {str(root)!r}: {error}") from error


def torchvision_class(name: str) -> type:
    """The class of torchvision.datasets with this name, spelled more or less alike."""
    names = torchvision_names()
    if plain(name) not in names:
        close = difflib.get_close_matches(plain(name), names, n=4, cutoff=0.5)
        hint = f"; did you mean {' or '.join(names[key] for key in close)}?" if close else ""
        raise ValueError(
            f"torchvision has no data set {name!r}{hint} It has: {', '.join(sorted(names.values()))}"
        )
    return getattr(torchvision.datasets, names[plain(name)])


def part_arguments(
    cls: type, accepted: dict[str, inspect.Parameter], train: bool, options: dict[str, Any]
) -> dict[str, Any]:
    """What the class calls its training or test part: `train=…`, `split=…`, or nothing."""
    if "train" in accepted:
        return {"train": train}
    if "split" in options:
        return {}
    if "split" in accepted:
        default = accepted["split"].default
        if not train:
            return {"split": "test"}
        return {"split": default} if str(default).startswith("train") else {}
    if not train:
        raise ValueError(
            f"{cls.__name__} is not divided into a training and a test part: train=False is not allowed"
        )
    return {}


def constructor_parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The named parameters of a class's constructor, with those of its base classes if it passes **kwargs on."""
    parameters = dict(inspect.signature(cls).parameters)
    passes_on = [key for key, p in parameters.items() if p.kind is p.VAR_KEYWORD]
    if not passes_on or cls.__base__ is None:
        return parameters
    del parameters[passes_on[0]]
    return constructor_parameters(cls.__base__) | parameters


def plain(name: str) -> str:
    """'fashionmnist' for 'Fashion-MNIST'."""
    return "".join(character for character in name.lower() if character.isalnum())


# A folder of pictures


class FolderDataset(Dataset[Tensor]):
    """Images read from files when they are asked for.

    Attributes:
        paths: the files, in order.
        unreadable: files that were found but could not be read, with the reason.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        prepare: Callable[[Image.Image], Tensor],
        *,
        augment_horizontal_flip: bool = False,
    ) -> None:
        """Keep the paths; nothing is read yet."""
        self.paths = list(paths)
        self.prepare = prepare
        self.augment_horizontal_flip = augment_horizontal_flip
        self.unreadable: dict[Path, str] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        path = self.paths[index]
        try:
            image = self.prepare(read_image(path))
        except Exception as error:
            raise RuntimeError(f"cannot read the image {path}: {reason(error)}") from error
        if self.augment_horizontal_flip and torch.rand(()) < 0.5:
            return image.flip(-1)
        return image


def image_folder(
    path: str | Path,
    image_size: int | tuple[int, int],
    *,
    channels: int = 3,
    augment_horizontal_flip: bool = False,
    check: bool = True,
) -> FolderDataset:
    """All images below a folder, at any depth: .jpg .jpeg .png .webp .tiff .tif .bmp, in capitals or not.

    EXIF orientation is respected, 16-bit greys are scaled to 8 bits, transparency is laid over white unless
    `channels` is 4; of a file with several pictures the first is taken.

    Args:
        path: the folder.
        image_size: side, or (height, width). Images are resized, with antialiasing, until they cover it, and cut to
            it around their centre.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        augment_horizontal_flip: mirror each image with probability 1/2 whenever it is read, by torch's global
            generator.
        check: decode every file now, in threads, and leave out what cannot be read, with one warning. A truncated
            JPEG has an intact header and only shows when it is decoded, so this costs about one epoch of reading;
            False skips it, and a broken file then raises an error that names it when its turn comes.

    Returns:
        A data set of images alone (no labels), float32 of shape (channels, height, width) in [0, 1], in the order of
        their paths. Its `unreadable` says which files were left out and why.

    Raises:
        ValueError: if a setting is not allowed, or the folder holds no image, or none that can be read.
        NotADirectoryError: if the path is not a folder.
    """
    prepare = PrepareImage(image_size, channels)
    paths = find_images(Path(path))
    problems = find_unreadable(paths) if check else {}
    if len(problems) == len(paths):
        raise ValueError(f"none of the {len(paths)} images in {path} can be read: {list_problems(problems)}")
    if problems:
        warnings.warn(
            f"{len(problems)} of {len(paths)} images in {path} cannot be read and are left out: {list_problems(problems)}",
            stacklevel=2,
        )
    readable = [file for file in paths if file not in problems]
    dataset = FolderDataset(readable, prepare, augment_horizontal_flip=augment_horizontal_flip)
    dataset.unreadable = problems
    return dataset


def find_images(folder: Path) -> list[Path]:
    """The image files below a folder, sorted by path."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise NotADirectoryError(f"{folder} {what}; give the path of a folder that holds images")
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    paths = [file for file in files if file.suffix.lower() in IMAGE_EXTENSIONS]
    if not paths:
        raise ValueError(
            f"{folder} holds no image: among its {len(files)} files none ends in {' '.join(IMAGE_EXTENSIONS)}"
        )
    return paths


def read_image(path: Path) -> Image.Image:
    """The file's first picture, decoded to its last byte, upright by its EXIF orientation, 8 bits per channel."""
    with Image.open(path) as image:
        image.load()
        return ImageOps.exif_transpose(to_eight_bits(image))


def find_unreadable(paths: Sequence[Path]) -> dict[Path, str]:
    """The files that cannot be decoded, with the reason, in the order given."""

    def problem(path: Path) -> str:
        try:
            read_image(path)
        except Exception as error:  # Pillow's decoders raise many kinds; whichever it is, the reader sees it
            return reason(error)
        return ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding releases the GIL
        problems = list(pool.map(problem, paths))
    return {path: text for path, text in zip(paths, problems, strict=True) if text}


def list_problems(problems: dict[Path, str]) -> str:
    """The first of the unreadable files, with reasons, and how many more there are."""
    named = [f"{path} ({text})" for path, text in list(problems.items())[:NAMES_IN_A_MESSAGE]]
    more = len(problems) - len(named)
    return "; ".join(named) + (f"; and {more} more" if more else "")


def reason(error: Exception) -> str:
    """The error's words, or its kind where it has none."""
    return str(error) or type(error).__name__


# By one word


def load_dataset(
    name_or_path: str | Path,
    *,
    image_size: int | tuple[int, int] | None = None,
    train: bool = True,
    root: str | Path = "data",
    channels: int | None = None,
) -> Dataset[Any]:
    """A data set by one word: "digits", the name of a torchvision data set, or the path of a folder of images.

    Names go first: a folder called mnist is written "./mnist" or `Path("mnist")`.

    Args:
        name_or_path: what to load.
        image_size: side, or (height, width); needed for a folder, None keeps the size of the others.
        train: the training part, or the test part. The digits and a folder have no test part.
        root: folder of the files of torchvision's data sets.
        channels: 1, 3 or 4; None keeps the data set's own, and means 3 for a folder.

    Returns:
        The data set: pairs (image, label), or images alone from a folder, as float32 tensors in [0, 1].

    Raises:
        ValueError: if the name is unknown or an option is not allowed; the message says what is.
        NotADirectoryError: if the path is not a folder.
    """
    is_name = isinstance(name_or_path, str) and not {"/", os.sep} & set(name_or_path)
    if is_name and plain(name_or_path) in torchvision_names():
        return torchvision_dataset(name_or_path, root, train=train, image_size=image_size, channels=channels)
    if not train:
        raise ValueError(f"{name_or_path} has no test part: train=False is only for torchvision's data sets")
    if name_or_path == "digits":
        return digits(
            DIGITS_SIZE if image_size is None else image_size, channels=1 if channels is None else channels
        )
    if is_name and not Path(name_or_path).is_dir():
        raise ValueError(unknown_name(name_or_path))
    if image_size is None:
        raise ValueError(
            f"a folder of images needs an image_size, such as image_size=32 (folder: {name_or_path})"
        )
    return image_folder(name_or_path, image_size, channels=3 if channels is None else channels)


def unknown_name(name: str) -> str:
    """What to say about a word that is neither a data set nor a folder."""
    names = {"digits": "digits"} | torchvision_names()
    close = [names[key] for key in difflib.get_close_matches(plain(name), names, n=4, cutoff=0.5)]
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    return (
        f"no data set or folder {name!r}{hint}; allowed are 'digits', the path of a folder that exists, or a name out of"
        f" torchvision: {', '.join(sorted(names.values()))}"
    )
