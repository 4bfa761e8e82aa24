"""The U of a U-Net, drawn from its ledger."""

from collections.abc import Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ddpm.book.figures.style import GREEN, LETTERS, SKY, VERMILION, WIDTH, styled
from ddpm.book.layer_costs import LayerCost

_LOOKS = {
    "stage": ("residual block", SKY),
    "stage with attention": ("with attention", VERMILION),
    "downsample": ("halve, double", GREEN),
    "upsample": ("halve, double", GREEN),
    "convolution": ("convolution", "#bbbbbb"),
}
_HALF_WIDTH, _HALF_HEIGHT = 0.44, 0.34  # of a box


@styled
def unet_map(costs: Sequence[LayerCost]) -> Figure:
    """Each part in the order in which it runs, one row for each resolution, with its channels.

    Args:
        costs: the network's ledger, from `ddpm.book.layer_costs.layer_costs`. Embeddings and norms are left out.

    Raises:
        ValueError: if the ledger holds no map of an image.
    """
    parts = [cost for cost in costs if cost.kind in _LOOKS]
    if not parts:
        raise ValueError("unet_map draws the ledger of a U-Net, but got one without any map of an image")
    rows = [(part.height, part.width) for part in parts]
    resolutions = sorted(set(rows), reverse=True)
    figure, axes = plt.subplots(figsize=(WIDTH, 0.9 + 0.72 * len(resolutions)))
    for place, part in enumerate(parts):
        _draw_box(axes, place, -resolutions.index(rows[place]), part)
    for row, resolution in enumerate(resolutions[:-1]):
        _draw_bridge(axes, [place for place, found in enumerate(rows) if found == resolution], -row)
    ticks = [f"{height}×{width}" for height, width in resolutions]
    axes.set_yticks([-row for row in range(len(resolutions))], ticks)
    axes.set(xlim=(-0.7, len(parts) - 0.3), ylim=(0.5 - len(resolutions), 0.5), xticks=[])
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    boxes = {str(box.get_label()): box for box in axes.patches if isinstance(box, Rectangle)}
    figure.legend(boxes.values(), boxes.keys(), loc="outside upper center", ncols=2, handlelength=1.2)
    return figure


def _draw_box(axes: Axes, x: int, y: int, part: LayerCost) -> None:
    """One part, with its channels in it."""
    name, colour = _LOOKS[part.kind]
    corner, size = (x - _HALF_WIDTH, y - _HALF_HEIGHT), (2 * _HALF_WIDTH, 2 * _HALF_HEIGHT)
    axes.add_patch(Rectangle(corner, *size, facecolor=colour, edgecolor="black", label=name))
    axes.text(x, y, f"{part.channels}", rotation=90, ha="center", va="center", size=LETTERS - 3)


def _draw_bridge(axes: Axes, places: Sequence[int], y: int) -> None:
    """What the way down hands to the way up: an arrow over the widest gap of a row."""
    left, right = max(pairwise(places), key=lambda pair: pair[1] - pair[0])
    style = {"arrowstyle": "-|>", "linestyle": "--", "color": "black", "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (right - _HALF_WIDTH, y), (left + _HALF_WIDTH, y), arrowprops=style)
