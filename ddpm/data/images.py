"""Any picture file to a tensor.

Photographs from the world come grey, with a palette, with transparency, with 16 bits, on their side, or broken. Here
they become float32 tensors of shape (C, H, W) in [0, 1], on the 8-bit grid {0, 1/255, …, 1}, or an error says why not.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ddpm.checks import check_image_size

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # channels -> Pillow's name for them
_GREYS_16_PER_8 = 257  # 65535 / 255


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
        image = _to_eight_bits(image)
        if self.channels is not None:
            image = _convert(image, _MODES[self.channels])
        if self.image_size is not None:
            height, width = check_image_size(self.image_size)
            image = ImageOps.fit(image, (width, height), method=Image.Resampling.BICUBIC)
        if self.augment_horizontal_flip and torch.rand(()) < 0.5:
            image = ImageOps.mirror(image)
        # By NumPy rather than torchvision, whose import takes longer than that of torch.
        pixels = torch.from_numpy(np.array(image))
        return pixels.view(image.height, image.width, -1).permute(2, 0, 1).float() / 255


def read_image(path: Path) -> Image.Image:
    """The file's first picture, decoded to its last byte and turned upright by its EXIF orientation."""
    with Image.open(path) as image:
        image.load()
        return _to_eight_bits(ImageOps.exif_transpose(image))


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
    return Image.fromarray(np.round(pixels / _GREYS_16_PER_8).astype(np.uint8))


def _convert(image: Image.Image, mode: str) -> Image.Image:
    """The image in Pillow's mode "L", "RGB" or "RGBA"; in the first two, transparency is laid over white."""
    transparent = "A" in image.getbands() or "transparency" in image.info
    if transparent and mode != "RGBA":
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
