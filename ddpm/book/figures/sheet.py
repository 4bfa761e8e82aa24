"""A sheet of images: a white canvas on which each pixel of theirs is a square of whole screen pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import interpolate

from ddpm.book.figures.card import with_mark
from ddpm.book.figures.style import DPI, LETTERS, WIDTH

LINE = 0.27  # inches: a line of text and its distance from what it labels
_LARGEST_IMAGE = 1.5  # inches
_COLOUR_STEPS = 64  # per channel in colour sheets: not seen, and snow takes a quarter fewer bytes


@dataclass
class Sheet:
    """Images on a white canvas that fills a figure; its axes count screen pixels from the upper left corner.

    Attributes:
        figure: the figure.
        axes: its only axes.
        corners: x and y of each image's upper left corner.
        width: an image's width in screen pixels.
        height: an image's height in screen pixels.
        gap: pixels between two images.
    """

    figure: Figure
    axes: Axes
    corners: list[tuple[int, int]]
    width: int
    height: int
    gap: int

    def write_above(self, indices: Sequence[int], texts: Sequence[object], across: int = 1) -> None:
        """Write one text above each of these images, centred over `across` columns."""
        words = [str(text) for text in texts]
        if len(words) != len(indices):
            raise ValueError(f"{len(indices)} images need as many titles, but got {len(words)}")
        width = across * (self.width + self.gap) - self.gap
        size = self._letter_size(words, width)
        for index, text in zip(indices, words, strict=True):
            x, y = self.corners[index]
            place = (x + width / 2, y - 0.05 * self.figure.dpi)
            self.axes.text(*place, text, size=size, ha="center", va="bottom")

    def write_beside(self, indices: Sequence[int], texts: Sequence[str]) -> None:
        """Write one text on its side to the left of each of these images."""
        size = self._letter_size(texts, self.height)
        for index, text in zip(indices, texts, strict=True):
            x, y = self.corners[index]
            place = (x - 0.06 * self.figure.dpi, y + self.height / 2)
            self.axes.text(*place, text, size=size, ha="right", va="center", rotation=90)

    def _letter_size(self, texts: Sequence[str], width: float) -> float:
        """The usual size in points, or a smaller one at which the longest text is no longer than `width` pixels."""
        widest = max(len(text.replace("$", "").replace("\\", "")) for text in texts)
        return min(LETTERS, 72 * width / self.figure.dpi / (0.58 * max(widest, 1)))


def lay_out(
    images: Tensor,
    cells: Sequence[tuple[float, float]],
    *,
    scale: float = 1.0,
    value_range: tuple[float, float] = (0.0, 1.0),
    left: float = 0.0,
    top: float = 0.0,
    heading: float = 0.0,
) -> Sheet:
    """Put images on a canvas, so that none is blurred.

    Args:
        images: shape (N, C, H, W), C = 1 (grey) or 3 (RGB).
        cells: N pairs (row, column); fractions shift.
        scale: size relative to a full page, or to the largest image that is sensible.
        value_range: the values shown as black and as white.
        left: margin in inches.
        top: margin in inches.
        heading: room above each row in inches.

    Raises:
        ValueError: if the images have a wrong shape.
    """
    check_images(images)
    columns = max(column for _, column in cells) + 1
    side = scale * min(_LARGEST_IMAGE, (WIDTH - left) / columns)
    pixels = _magnify(to_bytes(images, value_range), side * DPI)
    height, width = pixels.shape[1:3]
    gap = min(6, max(1, width // 8))
    # So that the sheet has the intended width in inches.
    dpi = (columns * (width + gap) - gap) / (columns * side)
    margin_x, margin_y, row_heading = (round(inches * dpi) for inches in (left, top, heading))
    corners = [
        (
            margin_x + round(column * (width + gap)),
            margin_y + row_heading + round(row * (height + gap + row_heading)),
        )
        for row, column in cells
    ]
    shape = (max(y for _, y in corners) + height, max(x for x, _ in corners) + width, 4)
    canvas = np.full(shape, 255, np.uint8)
    for (x, y), image in zip(corners, pixels, strict=True):
        canvas[y : y + height, x : x + width] = with_mark(image)
    size = (shape[1] / dpi, shape[0] / dpi)
    figure = plt.figure(figsize=size, dpi=dpi, layout="none", facecolor="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(canvas, interpolation="nearest", aspect="auto")
    axes.axis("off")
    return Sheet(figure, axes, corners, width, height, gap)


def to_bytes(images: Tensor, value_range: tuple[float, float]) -> np.ndarray:
    """The images as uint8 of shape (N, H, W, 3); values outside the range become black or white."""
    low, high = value_range
    scaled = ((images.detach().cpu().float() - low) / (high - low)).clamp(0, 1)
    if images.shape[1] == 3:
        scaled = (scaled * (_COLOUR_STEPS - 1)).round() / (_COLOUR_STEPS - 1)
    return (scaled * 255).round().byte().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


def _magnify(pixels: np.ndarray, width: float) -> np.ndarray:
    """Images of shape (N, H, W, 3) as near to `width` as a whole magnification comes; much larger ones are reduced."""
    factor = round(width / pixels.shape[2])
    if factor >= 1:
        return pixels.repeat(factor, axis=1).repeat(factor, axis=2)
    size = (round(width * pixels.shape[1] / pixels.shape[2]), round(width))
    planes = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float()
    reduced = interpolate(planes, size, mode="bilinear", antialias=True)
    return reduced.round().byte().permute(0, 2, 3, 1).numpy()


def check_images(images: Tensor) -> None:
    """Refuse anything but at least one image, grey or RGB."""
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.numel() == 0:
        raise ValueError(
            f"images must have shape (N, C, H, W) with C = 1 or 3, but got {tuple(images.shape)}"
        )
