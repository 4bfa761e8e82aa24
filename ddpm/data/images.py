"""Any picture file to a tensor.

Photographs from the world come grey, with a palette, with transparency, with 16 bits, on their side, or broken. Here
they become float32 tensors of shape (C, H, W) in [0, 1], on the 8-bit grid {0, 1/255, …, 1}, or an error says why not.
"""

import contextlib
import functools
import importlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ddpm.data.metadata import without_metadata
from ddpm.support.checks import check_image_size

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # channels -> Pillow's name for them
_GREYS_16_PER_8 = 257  # 65535 / 255
# A JPEG is decoded at 1/8, 1/4 or 1/2 of its size if that is still this many times the size that is wanted, and if what
# its sides are rounded by moves no pixel of the result by more than this much of a pixel.
_REDUCING_GAP = 4.0
_MISFIT = 0.025
_ORIENTATION = 274  # the EXIF tag, and how the stored picture is turned upright
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = {5, 6, 7, 8}
# Said of a file of which only the first picture is taken; of these formats the others are views or layers of that one.
SEVERAL = "the first of its several pictures is taken"
_ONE_PICTURE = {"MPO", "PSD"}
# Packages that teach Pillow further formats, and the function that makes them do so.
_PLUGINS = {"pillow_heif": "register_heif_opener"}


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
        if self.channels is not None and self.channels not in _MODES:
            raise ValueError(f"channels must be 1 (grey), 3 (RGB) or 4 (RGBA), but got {self.channels!r}")
        if self.image_size is not None:
            check_image_size(self.image_size)

    def __call__(self, image: Image.Image) -> Tensor:
        """float32 of shape (C, H, W) in [0, 1]."""
        return self.finished(self.pixels(image))

    def pixels(self, image: Image.Image) -> Tensor:
        """uint8 of shape (C, H, W): all that is the same each time, so all but the mirror."""
        image = _to_eight_bits(image)
        if self.channels is not None:
            image = _convert(image, _MODES[self.channels])
        if self.image_size is not None:
            height, width = check_image_size(self.image_size)
            image = ImageOps.fit(image, (width, height), method=Image.Resampling.BICUBIC)
        # By NumPy rather than torchvision, whose import takes longer than that of torch.
        pixels = torch.from_numpy(np.array(image))
        return pixels.view(image.height, image.width, -1).permute(2, 0, 1)

    def finished(self, pixels: Tensor) -> Tensor:
        """Pixels as `pixels` gives them, mirrored or not, as float32 in [0, 1]."""
        if self.augment_horizontal_flip and torch.rand(()) < 0.5:
            pixels = pixels.flip(-1)
        return pixels.float() / 255


def read_image(path: Path, image_size: int | tuple[int, int] | None = None) -> Image.Image:
    """The file's first picture, decoded to its last byte and turned upright by its EXIF orientation.

    With the `image_size` of a `PrepareImage` that it is meant for, a JPEG of at least eight times that is decoded at
    a half, a quarter or an eighth of its size, which takes a fraction of the time. What `PrepareImage` makes of it is
    then within 6 grey levels of 255 of what it makes of the whole, and within 0.7 on average.

    Broken metadata are passed over, with a warning where the orientation is lost by that.
    """
    return read_sized(path, image_size)[0]


def read_sized(
    path: Path, image_size: int | tuple[int, int] | None = None
) -> tuple[Image.Image, tuple[int, int]]:
    """The same, and (height, width) of the whole upright picture."""
    add_formats()
    try:
        # By the name of a file Pillow maps some TIFFs into memory as if they lay upright.
        with path.open("rb") as file:
            return _decoded(file, image_size)
    # Pillow's decoders raise many kinds.
    except Exception:
        stripped = without_metadata(path.read_bytes()) if path.is_file() else None
        if stripped is None:
            raise
        try:
            return _decoded(io.BytesIO(stripped), image_size)
        except Exception as error:  # then it was not for them
            error.__suppress_context__ = True
            raise


@functools.cache
def add_formats() -> None:
    """Have Pillow read what packages that are installed can teach it: the photographs of phones, .heic."""
    for package, function in _PLUGINS.items():
        with contextlib.suppress(ImportError):
            getattr(importlib.import_module(package), function)()


def _decoded(file: BinaryIO, image_size: int | tuple[int, int] | None) -> tuple[Image.Image, tuple[int, int]]:
    """The picture, and (height, width) of the whole."""
    with _opened(file) as image:
        # That of a TIFF is known, and its size final, once Pillow has decoded it and turned it upright.
        reduced = None
        if image.format in ("JPEG", "MPO"):
            whole, orientation = image.size, _orientation(image)
            if image_size is not None:
                reduced = _reduce(
                    image, check_image_size(image_size), on_its_side=orientation in _ON_ITS_SIDE
                )
            image.load()
        else:
            image.load()
            whole, orientation = image.size, _orientation(image)
        upright = image if reduced is None else image.crop((0, 0, *reduced))
        if orientation in _TURNS:
            # By hand, as ImageOps.exif_transpose also writes the EXIF data anew, and fails where another tag is broken.
            upright = upright.transpose(_TURNS[orientation])
        width, height = reversed(whole) if orientation in _ON_ITS_SIDE else whole
        if upright is image and image.format == "GIF":
            # Where asking for a second picture drops the pixels of the first.
            upright = image.copy()
        if _holds_several(image):
            warnings.warn(SEVERAL, stacklevel=2)
        return _to_eight_bits(upright), (height, width)


def _opened(file: BinaryIO) -> Image.Image:
    """A file whose beginning could be read; without Pillow's words about the stream, which is nothing to a reader."""
    try:
        return Image.open(file)
    except UnidentifiedImageError as error:
        raise UnidentifiedImageError(
            "no picture that Pillow knows, or damaged where it says what it is"
        ) from error


def _holds_several(image: Image.Image) -> bool:
    """Whether there are further pictures in the file: pages of a TIFF, the frames of an animation."""
    with contextlib.suppress(Exception):  # what comes after the first may be broken
        return image.format not in _ONE_PICTURE and getattr(image, "is_animated", False)
    return False


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1, upright, with a warning if it cannot be read."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception as error:
        warnings.warn(f"EXIF data that cannot be read ({error}): taken as it is stored", stacklevel=2)
        return 1


def _reduce(image: Image.Image, wanted: tuple[int, int], *, on_its_side: bool) -> tuple[int, int] | None:
    """Have a JPEG decoded at a fraction of its size that still covers `wanted` (height, width) amply.

    Returned is the (width, height) to be used of it: a side that is no multiple comes out rounded up. None if the whole
    is decoded.
    """
    height, width = reversed(wanted) if on_its_side else wanted
    scale = max(width / image.width, height / image.height)
    for divisor in (8, 4, 2):
        reduced = round(image.width / divisor), round(image.height / divisor)
        misfit = max(abs(image.width - divisor * reduced[0]), abs(image.height - divisor * reduced[1]))
        if divisor * scale * _REDUCING_GAP <= 1 and misfit * scale <= _MISFIT:
            image.draft(None, (image.width // divisor, image.height // divisor))
            return reduced
    return None


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """A 16-bit grey image scaled, not clipped, to 8 bits; other images as they are."""
    if image.mode[0] not in "IF":
        return image
    pixels = np.asarray(image)
    lowest, highest = pixels.min(), pixels.max()
    if image.mode == "F" or lowest < 0 or highest > 65535:
        raise ValueError(
            f"pixels of mode {image.mode} from {lowest:g} to {highest:g} have no known black and white"
        )
    # Eight bits in sixteen, or a camera's twelve.
    if 0 < highest <= 4095:
        warnings.warn(f"16-bit pixels of at most {highest} are almost black: taken as they are", stacklevel=2)
    return Image.fromarray(np.round(pixels / _GREYS_16_PER_8).astype(np.uint8))


def _convert(image: Image.Image, mode: str) -> Image.Image:
    """The image in Pillow's mode "L", "RGB" or "RGBA"; in the first two, transparency is laid over white."""
    transparent = "A" in image.getbands() or "transparency" in image.info
    if transparent and mode != "RGBA":
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
