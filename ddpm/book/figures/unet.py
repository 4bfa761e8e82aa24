"""The U of a U-Net, drawn from its ledger."""

from collections.abc import Iterator, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import CARETDOWN
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
_HALF_WIDTH, _HALF_HEIGHT = 0.44, 0.25  # of a box
_LIFT = 0.13  # between the arrows of one row


@styled
def unet_map(costs: Sequence[LayerCost]) -> Figure:
    """Each part in the order in which it runs, one row for each resolution, with its channels and its bridges.

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
    figure, axes = plt.subplots(figsize=(WIDTH, 0.9 + 0.95 * len(resolutions)))
    for place, part in enumerate(parts):
        _draw_box(axes, place, -resolutions.index(rows[place]), part)
    # What was kept last is used first: the wider an arrow, the higher it lies.
    lifts = dict.fromkeys(resolutions, 0.0)
    for left, right in _bridges(parts):
        lifts[rows[left]] += _LIFT
        _draw_bridge(axes, left, right, -resolutions.index(rows[left]), lifts[rows[left]])
    ticks = [f"{height}×{width}" for height, width in resolutions]
    axes.set_yticks([-row for row in range(len(resolutions))], ticks)
    axes.set(xlim=(-0.7, len(parts) - 0.3), ylim=(0.6 - len(resolutions), 0.8), xticks=[])
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


def _bridges(parts: Sequence[LayerCost]) -> Iterator[tuple[int, int]]:
    """Pairs of places: a part of the way down, and the stage of the way up that reads what it has kept."""
    kept: list[int] = []
    for place, part in enumerate(parts):
        if part.name == "first" or part.name.startswith("down."):
            kept.append(place)
        elif part.name.startswith("up.") and part.kind != "upsample":
            yield kept.pop(), place


def _draw_bridge(axes: Axes, left: int, right: int, y: int, lift: float) -> None:
    """What a part of the way down hands to one of the way up: an arrow from the top of a box to that of another."""
    top = y + _HALF_HEIGHT
    heights = [top, top + lift, top + lift, top]
    arrow = {"linestyle": "-", "marker": CARETDOWN, "markevery": [3], "markersize": 4}
    axes.plot([left, left, right, right], heights, color="black", linewidth=0.9, **arrow)
