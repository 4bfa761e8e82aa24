"""Tables of numbers as colours."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure

from ddpm.book.figures.style import BLUE, SKY, VERMILION, WIDTH, Numbers, styled, to_array


@styled
def signed_map(values: Numbers, *, xlabel: str, ylabel: str, limit: float = 1.0) -> Figure:
    """Numbers of either sign as colours, such as the time embedding of every noise level (eq:time-embedding).

    Args:
        values: shape (N, M); the first axis goes to the right, the second downwards.
        xlabel: what the first axis counts, from 0.
        ylabel: what the second axis counts, from 0.
        limit: the size at which the colours are strongest.
    """
    figure, axes = plt.subplots()
    colours = LinearSegmentedColormap.from_list("signed", [BLUE, "white", VERMILION])
    scale = {"cmap": colours, "vmin": -limit, "vmax": limit}
    picture = axes.imshow(to_array(values).T, **scale, aspect="auto", interpolation="nearest")
    figure.colorbar(picture, ax=axes, pad=0.02)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(visible=False)
    return figure


@styled
def heat_maps(maps: Mapping[str, Numbers], *, label: str, orders: int = 9) -> Figure:
    """Maps of sizes, side by side on one logarithmic scale, such as the gradients of one pixel.

    Args:
        maps: title -> sizes of shape (H, W), at least 0. Zero is white.
        label: what the sizes are.
        orders: how many powers of ten below the largest size of all maps have colours of their own; what is smaller,
            but not zero, has the palest.

    Raises:
        ValueError: if a size is negative, or all are zero.
    """
    arrays = {title: to_array(values) for title, values in maps.items()}
    highest = max(array.max() for array in arrays.values())
    if highest <= 0 or min(array.min() for array in arrays.values()) < 0:
        raise ValueError("heat_maps shows sizes: none below zero, and not all of them zero")
    norm = LogNorm(highest * 10.0**-orders, highest, clip=True)
    shades = LinearSegmentedColormap.from_list("sizes", ["#dcebf7", SKY, BLUE, "#10103a"])
    figure, row = plt.subplots(1, len(arrays), squeeze=False, figsize=(WIDTH, 0.9 + 4.6 / len(arrays)))
    for axes, (title, array) in zip(row[0], arrays.items(), strict=True):
        axes.imshow(np.ma.masked_equal(array, 0), norm=norm, cmap=shades, interpolation="nearest")
        axes.set(title=title, xticks=[], yticks=[])
        axes.grid(visible=False)
        # Where white ends, and the page begins.
        axes.spines[:].set(visible=True, color="#999999", linewidth=0.6)
    scale = ScalarMappable(norm=norm, cmap=shades)
    bar = figure.colorbar(scale, ax=row, location="bottom", label=label, aspect=40, pad=0.03)
    bar.ax.minorticks_off()
    return figure
