"""Images in grids and strips. Images are tensors of shape (N, C, H, W), C = 1 (grey) or 3 (RGB).

`value_range` holds the values shown as black and as white. At `scale` 1 a figure is as wide as the page, unless its
images would become very large. Wrong shapes and numbers of words are refused with a ValueError.
"""

import math
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ddpm.book.figures.sheet import LINE, lay_out
from ddpm.book.figures.style import styled


@styled
def image_grid(
    images: Tensor,
    *,
    columns: int | None = None,
    titles: Sequence[object] | None = None,
    scale: float = 1.0,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> Figure:
    """Images in rows, each under its title if there are any.

    Without `columns` there is one row of up to 8 images, and about a square of more.
    """
    count = len(images)
    columns = columns or (count if count <= 8 else math.ceil(math.sqrt(count)))
    cells = [divmod(index, columns) for index in range(count)]
    heading = 0.0 if titles is None else LINE
    sheet = lay_out(images, cells, scale=scale, value_range=value_range, heading=heading)
    if titles is not None:
        sheet.write_above(range(count), titles)
    return sheet.figure


@styled
def image_strip(
    images: Tensor | Sequence[Tensor],
    labels: Sequence[object],
    *,
    row_labels: Sequence[str] | None = None,
    scale: float = 1.0,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> Figure:
    """One or several rows of images under a common heading, such as x_t at growing t for a cat and a flower.

    `images` is one row, or several: of shape (R, N, C, H, W), or R tensors. There is one label for each column, and
    one row label, if any, written on its side to the left of each row.
    """
    rows = list(images) if isinstance(images, Sequence) or images.ndim == 5 else [images]
    columns = len(labels)
    if any(len(row) != columns for row in rows):
        raise ValueError(
            f"{columns} labels need rows of {columns} images, but got rows of {[len(row) for row in rows]}"
        )
    if row_labels is not None and len(row_labels) != len(rows):
        raise ValueError(f"{len(rows)} rows need as many row_labels, but got {len(row_labels)}")
    cells = [divmod(index, columns) for index in range(columns * len(rows))]
    margin = 0.0 if row_labels is None else LINE
    sheet = lay_out(torch.cat(rows), cells, scale=scale, value_range=value_range, top=LINE, left=margin)
    sheet.write_above(range(columns), labels)
    if row_labels is not None:
        sheet.write_beside(range(0, len(cells), columns), row_labels)
    return sheet.figure


@styled
def compare_grids(
    left: Tensor,
    right: Tensor,
    titles: tuple[str, str] = ("samples", "data"),
    *,
    columns: int | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> Figure:
    """Two grids of images side by side under a title each, such as samples and real digits.

    Without `columns`, the number of images in a row of each, the left grid is about a square.
    """
    columns = columns or math.ceil(math.sqrt(len(left)))
    cells: list[tuple[float, float]] = [divmod(index, columns) for index in range(len(left))]
    cells += [(index // columns, index % columns + columns + 0.5) for index in range(len(right))]
    sheet = lay_out(torch.cat([left, right]), cells, value_range=value_range, top=LINE)
    sheet.write_above([0, len(left)], titles, across=columns)
    return sheet.figure
