"""Any picture file to a tensor, and a folder of them as a data set.

Photographs from the world come grey, with a palette, with transparency, with 16 bits, on their side, or broken. Here
they become float32 tensors of shape (C, H, W) in [0, 1], on the 8-bit grid {0, 1/255, …, 1}, or are named and left out.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.functional import pil_to_tensor

from ddpm.checks import check_image_size

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".tiff", ".tif", ".bmp")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # channels -> Pillow's name for them
LEVELS_16_PER_8 = 257  # 65535 / 255
PROBLEMS_NAMED = 10  # in one message; `FolderDataset.unreadable` holds all


@dataclass(frozen=True)
class PrepareImage:
    """A Pillow image in, a tensor out: converted, resized, cut to size.

    Attributes:
        image_size: side, or (height, width), of the result; None keeps the image's own. The image is resized, with
            antialiasing, until it covers that area, and cut to it around its centre.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA); None keeps the image's own. Without a channel for it, transparency
            is laid over white.
        augment_horizontal_flip: mirror each image with probability 1/2, by torch's global generator.
    """

    image_size: int | tuple[int, int] | None = None
    channels: int | None = None
    augment_horizontal_flip: bool = False

    def __post_init__(self) -> None:
        """Check both settings at once, long before the first image comes."""
        if self.channels is not None and self.channels not in MODES:
            raise ValueError(f"channels must be 1 (grey), 3 (RGB) or 4 (RGBA), but got {self.channels!r}")
        if self.image_size is not None:
            check_image_size(self.image_size)

    def __call__(self, image: Image.Image) -> Tensor:
        """float32 of shape (C, H, W) in [0, 1]."""
        image = to_eight_bits(image)
        if self.channels is not None:
            image = convert(image, MODES[self.channels])
        if self.image_size is not None:
            height, width = check_image_size(self.image_size)
            image = ImageOps.fit(image, (width, height), method=Image.Resampling.BICUBIC)
        if self.augment_horizontal_flip and torch.rand(()) < 0.5:
            image = ImageOps.mirror(image)
        return pil_to_tensor(image).float() / 255


def to_eight_bits(image: Image.Image) -> Image.Image:
    """A 16-bit grey image scaled, not clipped, to 8 bits; other images as they are.

    Raises:
        ValueError: if the pixels are floating-point numbers, or whole numbers outside 0 … 65535: what is black and
            what is white in such a file is not known.
    """
    if image.mode[0] not in "IF":
        return image
    pixels = np.asarray(image)
    lowest, highest = pixels.min(), pixels.max()
    if image.mode == "F" or lowest < 0 or highest > 65535:
        raise ValueError(
            f"pixels of mode {image.mode} from {lowest:g} to {highest:g} have no known black and white"
        )
    return Image.fromarray(np.round(pixels / LEVELS_16_PER_8).astype(np.uint8))


def convert(image: Image.Image, mode: str) -> Image.Image:
    """The image in Pillow's mode "L", "RGB" or "RGBA"; in the first two, transparency is laid over white."""
    transparent = "A" in image.getbands() or "transparency" in image.info
    if transparent and mode != "RGBA":
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def read_image(path: Path) -> Image.Image:
    """The file's first picture, decoded to its last byte and turned upright by its EXIF orientation."""
    with Image.open(path) as image:
        image.load()
        return to_eight_bits(ImageOps.exif_transpose(image))


class FolderDataset(Dataset[Tensor]):
    """Images that are read from their files when they are asked for.

    Attributes:
        paths: the files, in order.
        unreadable: files that were left out, with the reason.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        prepare: Callable[[Image.Image], Tensor],
        *,
        unreadable: dict[Path, str] | None = None,
    ) -> None:
        """Keep the paths; nothing is read yet."""
        self.paths = list(paths)
        self.prepare = prepare
        self.unreadable = unreadable or {}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        path = self.paths[index]
        try:
            return self.prepare(read_image(path))
        except Exception as error:  # as in `look_at`; the file's name is what helps
            raise RuntimeError(f"cannot read the image {path}: {reason(error)}") from error


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
        check: decode every file now, in threads, and leave out what cannot be read, with one warning; another warning
            says how many are smaller than `image_size` and have to be enlarged. A truncated JPEG has an intact header
            and shows only when it is decoded to the end, so this costs about as much as reading all images once. False
            skips it; a broken file then raises an error that names it, in its turn.

    Returns:
        A data set of images alone (no labels), float32 of shape (channels, height, width) in [0, 1], in the order of
        their paths. Its `unreadable` says which files were left out and why.

    Raises:
        ValueError: if a setting is not allowed, or the folder holds no image, or none that can be read.
        NotADirectoryError: if the path is not a folder.
    """
    prepare = PrepareImage(image_size, channels, augment_horizontal_flip)
    paths = find_images(Path(path))
    sizes, unreadable = look_at(paths) if check else ({}, {})
    if unreadable:
        message = (
            f"{len(unreadable)} of {len(paths)} images in {path} cannot be read: {list_problems(unreadable)}"
        )
        if len(unreadable) == len(paths):
            raise ValueError(message)
        warnings.warn(f"left out: {message}", stacklevel=2)
    warn_of_small(sizes, check_image_size(image_size), path)
    readable = [file for file in paths if file not in unreadable]
    return FolderDataset(readable, prepare, unreadable=unreadable)


def warn_of_small(sizes: dict[Path, tuple[int, int]], wanted: tuple[int, int], folder: str | Path) -> None:
    """Say which images have to be enlarged: that adds pixels, but nothing to learn from."""
    small = {file: size for file, size in sizes.items() if size[0] < wanted[0] or size[1] < wanted[1]}
    if not small:
        return
    file, (height, width) = next(iter(small.items()))
    warnings.warn(
        f"{len(small)} of {len(sizes)} images in {folder} are smaller than image_size {wanted[0]}×{wanted[1]} and are"
        f" enlarged, which blurs them (the first is {file}, {height}×{width}); leave them out, or choose an image_size"
        f" of at most {min(min(size) for size in sizes.values())}",
        stacklevel=3,
    )


def find_images(folder: Path) -> list[Path]:
    """The image files below a folder, sorted by path."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise NotADirectoryError(f"{folder} {what}; give the path of a folder that holds images")
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    images = [file for file in files if file.suffix.lower() in IMAGE_EXTENSIONS]
    if not images:
        extensions = " ".join(IMAGE_EXTENSIONS)
        raise ValueError(
            f"{folder} holds no image: none of its {len(files)} files ends in one of {extensions}"
        )
    return images


def look_at(paths: Sequence[Path]) -> tuple[dict[Path, tuple[int, int]], dict[Path, str]]:
    """Decode every file: (height, width) of those that can be, the reason of those that cannot; in the order given."""

    def look(path: Path) -> tuple[int, int] | str:
        try:
            image = read_image(path)
        except (
            Exception
        ) as error:  # Pillow's decoders raise many kinds; whichever it is, its words are passed on
            return reason(error)
        return image.height, image.width

    # Threads suffice: Pillow decodes without holding the GIL.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(zip(paths, pool.map(look, paths), strict=True))
    sizes = {path: answer for path, answer in found.items() if isinstance(answer, tuple)}
    return sizes, {path: answer for path, answer in found.items() if isinstance(answer, str)}


def list_problems(problems: dict[Path, str]) -> str:
    """The first of the unreadable files, with reasons, and how many more there are."""
    named = [f"{path} ({text})" for path, text in list(problems.items())[:PROBLEMS_NAMED]]
    more = len(problems) - len(named)
    return "; ".join(named) + (f"; and {more} more" if more else "")


def reason(error: Exception) -> str:
    """The error's words, or its kind where it has none."""
    return str(error) or type(error).__name__
