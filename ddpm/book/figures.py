"""The book's pictures, in one style: tensors in, a matplotlib figure out.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart, and lines differ in their dashes as well.
Figures stand on a white card, at most 6 inches wide, so that their letters are still readable on a phone. The style
holds inside these functions alone: importing this module changes no setting of matplotlib.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import pairwise
from typing import Any, ParamSpec

import matplotlib.pyplot as plt
import numpy as np
import torch
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from torch.nn.functional import interpolate

from ddpm.book.layer_costs import LayerCost

BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, "black")
PALE = "#b3d9f0"  # for the many, where a few stand out
DASHES = (
    "-",
    (0, (5, 1.5)),
    (0, (1, 1)),
    (0, (5, 1.5, 1, 1.5)),
    (0, (9, 2)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (2, 2)),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

DPI = 128
WIDTH = 6.0  # inches; a phone shows about 60 CSS pixels for each, so letters of 12 points are 10 pixels tall there
HEIGHT = 3.4
LETTERS = 12  # points
LARGEST_IMAGE = 1.5  # inches
LINE = 0.27  # inches: a line of text and its distance from what it labels
COLOUR_LEVELS = 64  # per channel in colour sheets: not seen, and snow takes a quarter fewer bytes

STYLE: dict[Any, Any] = {
    "figure.dpi": DPI,
    "figure.facecolor": "white",
    "figure.figsize": (WIDTH, HEIGHT),
    "figure.constrained_layout.use": True,
    "font.size": LETTERS,
    "axes.titlesize": LETTERS,
    "axes.labelsize": LETTERS,
    "legend.fontsize": LETTERS - 1,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 2.0,
    "axes.prop_cycle": cycler(color=PALETTE) + cycler(linestyle=DASHES),
}

Numbers = Tensor | np.ndarray | Sequence[float]
Drawing = ParamSpec("Drawing")


def styled(draw: Callable[Drawing, Figure]) -> Callable[Drawing, Figure]:
    """Draw in the book's style, and leave matplotlib's own settings as they were."""

    @wraps(draw)
    def draw_in_style(*args: Drawing.args, **kwargs: Drawing.kwargs) -> Figure:
        with plt.rc_context(STYLE):
            figure = draw(*args, **kwargs)
            for axes in figure.axes:  # ticks are made when the figure is shown, outside this context
                axes.tick_params(which="both", labelsize=LETTERS - 1)
        return figure

    return draw_in_style


def to_array(values: Numbers) -> np.ndarray:
    """The values as a float64 array, wherever they live."""
    return torch.as_tensor(values).detach().cpu().double().numpy()


# Images


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

    Args:
        images: shape (N, C, H, W), C = 1 (grey) or 3 (RGB).
        columns: images in a row; None makes one row of up to 8, and about a square of more.
        titles: one for each image.
        scale: size; at 1 the grid is as wide as the page, unless its images would become very large.
        value_range: the values shown as black and as white.

    Returns:
        The figure.

    Raises:
        ValueError: if the shape or the number of titles is wrong.
    """
    count = len(images)
    columns = columns or (count if count <= 8 else math.ceil(math.sqrt(count)))
    cells = [divmod(index, columns) for index in range(count)]
    sheet = lay_out(
        images, cells, scale=scale, value_range=value_range, heading=0.0 if titles is None else LINE
    )
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

    Args:
        images: one row of shape (N, C, H, W), or several: shape (R, N, C, H, W), or R tensors.
        labels: N headings, one for each column.
        row_labels: R words, written on their side to the left of each row.
        scale: size; at 1 the strip is as wide as the page, unless its images would become very large.
        value_range: the values shown as black and as white.

    Returns:
        The figure.

    Raises:
        ValueError: if a shape or the number of labels is wrong.
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
    """Two grids of images side by side, such as samples beside real digits.

    Args:
        left: shape (N, C, H, W), C = 1 (grey) or 3 (RGB).
        right: shape (M, C, H, W).
        titles: what stands above the one and the other.
        columns: images in a row of each grid; None makes about a square of the left one.
        value_range: the values shown as black and as white.

    Returns:
        The figure.

    Raises:
        ValueError: if a shape is wrong.
    """
    columns = columns or math.ceil(math.sqrt(len(left)))
    cells: list[tuple[float, float]] = [divmod(index, columns) for index in range(len(left))]
    cells += [(index // columns, index % columns + columns + 0.5) for index in range(len(right))]
    sheet = lay_out(torch.cat([left, right]), cells, value_range=value_range, top=LINE)
    sheet.write_above([0, len(left)], titles, across=columns)
    return sheet.figure


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
        size = self.letter_size(words, width)
        for index, text in zip(indices, words, strict=True):
            x, y = self.corners[index]
            self.axes.text(
                x + width / 2, y - 0.05 * self.figure.dpi, text, size=size, ha="center", va="bottom"
            )

    def write_beside(self, indices: Sequence[int], texts: Sequence[str]) -> None:
        """Write one text on its side to the left of each of these images."""
        size = self.letter_size(texts, self.height)
        for index, text in zip(indices, texts, strict=True):
            x, y = self.corners[index]
            place = (x - 0.06 * self.figure.dpi, y + self.height / 2)
            self.axes.text(*place, text, size=size, ha="right", va="center", rotation=90)

    def letter_size(self, texts: Sequence[str], width: float) -> float:
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
    """Put images on a canvas, each pixel of theirs as a square of whole screen pixels, so that none is blurred.

    Args:
        images: shape (N, C, H, W).
        cells: N pairs (row, column); fractions shift.
        scale: size relative to a full page, or to the largest image that is sensible.
        value_range: the values shown as black and as white.
        left: margin in inches.
        top: margin in inches.
        heading: room above each row in inches.

    Returns:
        The sheet.

    Raises:
        ValueError: if the images have a wrong shape.
    """
    check_images(images)
    columns = max(column for _, column in cells) + 1
    side = scale * min(LARGEST_IMAGE, (WIDTH - left) / columns)
    pixels = magnify(to_bytes(images, value_range), side * DPI)
    height, width = pixels.shape[1:3]
    gap = min(6, max(1, width // 8))
    dpi = (columns * (width + gap) - gap) / (
        columns * side
    )  # so that the sheet has the intended width in inches
    margin_x, margin_y, row_heading = round(left * dpi), round(top * dpi), round(heading * dpi)
    corners = [
        (
            margin_x + round(column * (width + gap)),
            margin_y + row_heading + round(row * (height + gap + row_heading)),
        )
        for row, column in cells
    ]
    canvas = np.full(
        (max(y for _, y in corners) + height, max(x for x, _ in corners) + width, 3), 255, np.uint8
    )
    for (x, y), image in zip(corners, pixels, strict=True):
        canvas[y : y + height, x : x + width] = image
    figure = plt.figure(figsize=(canvas.shape[1] / dpi, canvas.shape[0] / dpi), dpi=dpi, layout="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(canvas, interpolation="nearest", aspect="auto")
    axes.axis("off")
    return Sheet(figure, axes, corners, width, height, gap)


def to_bytes(images: Tensor, value_range: tuple[float, float]) -> np.ndarray:
    """The images as uint8 of shape (N, H, W, 3); values outside the range become black or white."""
    low, high = value_range
    scaled = ((images.detach().cpu().float() - low) / (high - low)).clamp(0, 1)
    if images.shape[1] == 3:
        scaled = (scaled * (COLOUR_LEVELS - 1)).round() / (COLOUR_LEVELS - 1)
    return (scaled * 255).round().byte().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


def magnify(pixels: np.ndarray, width: float) -> np.ndarray:
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


# Lines


@styled
def curves(
    x: Numbers,
    ys: Mapping[str, Numbers],
    *,
    xlabel: str,
    ylabel: str,
    logx: bool = False,
    logy: bool = False,
    markers: bool = False,
    direct_labels: bool = False,
    ylim: tuple[float, float] | None = None,
) -> Figure:
    """Lines over a common axis, told apart by colour and by dashes.

    Args:
        x: shape (N,).
        ys: name -> values of shape (N,); up to 7 lines.
        xlabel: what x is.
        ylabel: what the values are.
        logx: logarithmic x axis.
        logy: logarithmic y axis.
        markers: a mark at each point, for few points.
        direct_labels: names at the lines' right ends instead of in a legend.
        ylim: lowest and highest y shown.

    Returns:
        The figure.
    """
    figure, axes = plt.subplots()
    for index, (name, y) in enumerate(ys.items()):
        axes.plot(
            to_array(x), to_array(y), label=name, marker=MARKERS[index % len(MARKERS)] if markers else None
        )
    axes.set(
        xlabel=xlabel, ylabel=ylabel, xscale="log" if logx else "linear", yscale="log" if logy else "linear"
    )
    if markers and logx:
        axes.set_xticks(to_array(x), [f"{value:g}" for value in to_array(x)])
        axes.minorticks_off()
    if ylim is not None:
        axes.set_ylim(*ylim)
    if direct_labels:
        label_line_ends(axes)
    elif len(ys) > 1:
        axes.legend()
    return figure


def label_line_ends(axes: Axes) -> None:
    """Write each line's label at its right end, in its colour, moved apart where two would touch."""
    axes.margins(x=0)
    axes.autoscale_view()
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = [to_axes.transform(np.asarray(line.get_xydata())[-1])[1] for line in axes.lines]
    lowest = 0.0
    for index in np.argsort(ends):
        line, place = axes.lines[index], max(ends[index], lowest)
        axes.annotate(
            str(line.get_label()),
            (1.01, place),
            xycoords="axes fraction",
            color=line.get_color(),
            va="center",
        )
        lowest = place + 0.08  # of the height of the axes: a line of text


@styled
def learning_curve(
    steps: Numbers,
    losses: Numbers,
    *,
    smoothed: int = 51,
    xlabel: str = "training step",
    ylabel: str = "loss",
    logy: bool = True,
) -> Figure:
    """The loss of every step, thin, and its running mean, thick.

    Args:
        steps: shape (N,).
        losses: shape (N,).
        smoothed: number of values in the running mean; the mean stands at the middle of its window.
        xlabel: what the steps are.
        ylabel: which loss it is.
        logy: logarithmic y axis.

    Returns:
        The figure.

    Raises:
        ValueError: if the window is longer than the curve.
    """
    x, y = to_array(steps), to_array(losses)
    if not 1 <= smoothed <= len(y):
        raise ValueError(f"smoothed must lie in 1 … {len(y)}, the number of losses, but got {smoothed}")
    figure, axes = plt.subplots()
    mean = np.convolve(y, np.full(smoothed, 1 / smoothed), mode="valid")
    start = (smoothed - 1) // 2
    axes.plot(x, y, color=SKY, linewidth=0.6, alpha=0.7, linestyle="-", label="each step")
    axes.plot(x[start : start + len(mean)], mean, color=BLUE, linestyle="-", label=f"mean of {smoothed}")
    axes.set(xlabel=xlabel, ylabel=ylabel, yscale="log" if logy else "linear")
    axes.legend()
    return figure


@styled
def trajectories(
    times: Numbers, paths: Numbers, *, xlabel: str = "$t$", ylabel: str = "$x_t$", highlight: int = 3
) -> Figure:
    """Many one-dimensional paths of a chain: thin lines, the first few of them thick and in colours of their own.

    Args:
        times: shape (N,).
        paths: shape (P, N).
        xlabel: what the times are.
        ylabel: what moves.
        highlight: how many paths stand out.

    Returns:
        The figure.
    """
    x, y = to_array(times), to_array(paths)
    figure, axes = plt.subplots()
    axes.plot(x, y[highlight:].T, color=PALE, linewidth=0.5, linestyle="-")
    axes.set_prop_cycle(color=[VERMILION, BLUE, GREEN, PURPLE, ORANGE, "black"])
    axes.plot(x, y[:highlight].T, linewidth=1.3, linestyle="-")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.margins(x=0)
    return figure


# Densities and bars


@styled
def density_ridge(
    grid: Numbers,
    densities: Mapping[object, Numbers],
    *,
    xlabel: str = "$x$",
    label: str = "t = {}",
    reference: Numbers | None = None,
    reference_label: str = "standard normal",
) -> Figure:
    """How a density melts: one ridge for each moment, from above to below, all to one scale, so areas are equal.

    Args:
        grid: where the densities are evaluated, shape (N,).
        densities: moment -> density on the grid, shape (N,).
        xlabel: what the grid is.
        label: text beside a ridge, with {} for the moment.
        reference: a density drawn dashed over the last ridge, shape (N,).
        reference_label: its name.

    Returns:
        The figure.
    """
    x = to_array(grid)
    heights = {moment: to_array(density) for moment, density in densities.items()}
    row = (
        max(height.max() for height in heights.values()) / 1.8
    )  # the highest peak may reach into the row above
    figure, axes = plt.subplots(figsize=(WIDTH, 1.0 + 0.48 * len(heights)))
    floors = [-index * row for index in range(len(heights))]
    for index, (floor, height) in enumerate(zip(floors, heights.values(), strict=True)):
        axes.fill_between(x, floor, floor + height, color=SKY, alpha=0.75, linewidth=0, zorder=2 + index)
        axes.plot(x, floor + height, color=BLUE, linestyle="-", linewidth=1.5, zorder=2 + index)
    if reference is not None:
        last = floors[-1] + to_array(reference)
        axes.plot(x, last, color=VERMILION, linestyle=DASHES[1], zorder=3 + len(heights))
        axes.text(
            x[-1],
            floors[-1] + 0.3 * row,
            reference_label,
            color=VERMILION,
            ha="right",
            zorder=4 + len(heights),
        )
    axes.set_yticks(floors, [label.format(moment) for moment in heights])
    axes.set(xlabel=xlabel)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="x")
    axes.margins(x=0)
    return figure


@styled
def density_evolution(
    times: Numbers,
    grid: Numbers,
    densities: Numbers,
    *,
    paths: Numbers | None = None,
    xlabel: str = "$t$",
    ylabel: str = "$x_t$",
) -> Figure:
    """A density over time as shades of blue, with sample paths over it if there are any.

    Args:
        times: shape (N,).
        grid: shape (G,).
        densities: density at each time on the grid, shape (N, G). Shades follow its square root, so tails show.
        paths: shape (P, N).
        xlabel: what the times are.
        ylabel: what the grid is.

    Returns:
        The figure.
    """
    figure, axes = plt.subplots()
    axes.pcolormesh(
        to_array(times),
        to_array(grid),
        to_array(densities).T,
        cmap="Blues",
        norm=PowerNorm(0.5),
        shading="nearest",
    )
    if paths is not None:
        axes.plot(to_array(times), to_array(paths).T, color=VERMILION, linewidth=0.8, linestyle="-")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(visible=False)
    return figure


@styled
def histogram_with_density(
    samples: Numbers,
    grid: Numbers,
    densities: Mapping[str, Numbers],
    *,
    bins: int = 80,
    xlabel: str = "$x$",
    samples_label: str = "samples",
) -> Figure:
    """A histogram of samples with curves over it; both are densities, so they can be compared.

    Args:
        samples: any shape.
        grid: where the densities are evaluated, shape (N,); the histogram covers its range, and samples beyond
            still count in the total.
        densities: name -> density on the grid, shape (N,).
        bins: number of bars.
        xlabel: what is sampled.
        samples_label: what the histogram is called.

    Returns:
        The figure.
    """
    values, x = to_array(samples).ravel(), to_array(grid)
    counts, edges = np.histogram(values, bins=bins, range=(x.min(), x.max()))
    figure, axes = plt.subplots()
    axes.stairs(
        counts / (len(values) * np.diff(edges)), edges, fill=True, color=SKY, alpha=0.6, label=samples_label
    )
    axes.set_prop_cycle(cycler(color=[VERMILION, "black", GREEN, PURPLE]) + cycler(linestyle=DASHES[:4]))
    for name, density in densities.items():
        axes.plot(x, to_array(density), label=name)
    axes.set(xlabel=xlabel, ylabel="density", ylim=(0, None))
    axes.margins(x=0)
    axes.legend()
    return figure


@styled
def bar_chart(
    values: Numbers,
    *,
    xlabel: str,
    ylabel: str,
    log: bool = False,
    first: int = 1,
    group: int = 1,
    highlight: Mapping[int, str] | None = None,
) -> Figure:
    """One bar for each t, such as the terms of the bound in bits per dimension.

    Args:
        values: shape (N,); the value of t = first, first + 1, ….
        xlabel: what is counted.
        ylabel: what the values are.
        log: logarithmic y axis; all values must then be positive.
        first: the t of the first value.
        group: how many neighbours are added up in one bar.
        highlight: t -> words, written over that t's bar with a mark.

    Returns:
        The figure.

    Raises:
        ValueError: if a value is not positive on a logarithmic axis.
    """
    heights = np.add.reduceat(to_array(values), np.arange(0, len(values), group))
    if log and not (heights > 0).all():
        raise ValueError(f"a logarithmic axis needs positive values, but the smallest is {heights.min():g}")
    edges = np.append(first - 0.5 + group * np.arange(len(heights)), first - 0.5 + len(values))
    figure, axes = plt.subplots()
    floor = 0.5 * heights.min() if log else 0.0
    outline = "white" if len(heights) <= 64 else BLUE  # many bars touch each other
    axes.bar(
        edges[:-1],
        heights - floor,
        np.diff(edges),
        floor,
        align="edge",
        color=BLUE,
        edgecolor=outline,
        linewidth=0.5,
    )
    for t, words in (highlight or {}).items():
        height = heights[(t - first) // group]
        axes.plot(t, height, marker="v", color=VERMILION, linestyle="none")
        axes.annotate(words, (t, height), (6, 6), textcoords="offset points", color=VERMILION)
    axes.set(xlabel=xlabel, ylabel=ylabel, yscale="log" if log else "linear")
    axes.margins(x=0.01, y=0.12)
    axes.grid(visible=False, axis="x")
    return figure


@styled
def histogram_rows(
    samples: Mapping[object, Numbers],
    grid: Numbers,
    densities: Mapping[object, Numbers],
    *,
    bins: int = 60,
    xlabel: str = "$x$",
    label: str = "t = {}",
) -> Figure:
    """Simulation against theory at several moments: in each row a histogram and the exact density over it.

    Args:
        samples: moment -> samples of any shape; one row for each, from above to below.
        grid: where the densities are evaluated, shape (N,); the histograms cover its range.
        densities: moment -> exact density on the grid, shape (N,), for the same moments.
        bins: number of bars.
        xlabel: what is sampled.
        label: text in a row, with {} for the moment.

    Returns:
        The figure.
    """
    x = to_array(grid)
    figure, rows = plt.subplots(
        len(samples), sharex=True, squeeze=False, figsize=(WIDTH, 0.6 + 0.85 * len(samples))
    )
    for axes, (moment, drawn) in zip(rows[:, 0], samples.items(), strict=True):
        values = to_array(drawn).ravel()
        counts, edges = np.histogram(values, bins=bins, range=(x.min(), x.max()))
        axes.stairs(counts / (len(values) * np.diff(edges)), edges, fill=True, color=SKY, alpha=0.6)
        axes.plot(x, to_array(densities[moment]), color=VERMILION, linestyle="-", linewidth=1.5)
        axes.text(0.01, 0.9, label.format(moment), transform=axes.transAxes, va="top")
        axes.set(yticks=[], ylim=(0, None))
        axes.spines["left"].set_visible(False)
        axes.margins(x=0)
    rows[-1, 0].set_xlabel(xlabel)
    return figure


@styled
def density_panels(
    grid: Numbers, panels: Mapping[str, Mapping[str, Numbers]], *, xlabel: str = "$x$"
) -> Figure:
    """Densities compared, panel by panel: in each, the first one filled and the others as lines over it.

    Args:
        grid: where the densities are evaluated, shape (N,).
        panels: title -> (name -> density on the grid, shape (N,)); one panel for each title, from left to right, with
            the same names in each. The panels' heights are not to one scale.
        xlabel: what the grid is.

    Returns:
        The figure.
    """
    x = to_array(grid)
    figure, row = plt.subplots(1, len(panels), squeeze=False, sharex=True, figsize=(WIDTH, 2.9))
    for axes, (title, densities) in zip(row[0], panels.items(), strict=True):
        (filled, first), *others = densities.items()
        axes.fill_between(x, to_array(first), color=SKY, alpha=0.75, linewidth=0, label=filled)
        axes.set_prop_cycle(cycler(color=[VERMILION, "black", GREEN]) + cycler(linestyle=DASHES[1:4]))
        for name, density in others:
            axes.plot(x, to_array(density), label=name)
        axes.set(title=title, xlabel=xlabel, yticks=[], ylim=(0, None))
        axes.spines["left"].set_visible(False)
        axes.margins(x=0)
    handles, names = row[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names))
    return figure


@styled
def ellipses(
    gaussians: Mapping[str, tuple[Tensor, Tensor]], *, points: Numbers | None = None, xlabel: str, ylabel: str
) -> Figure:
    """Gaussians in the plane as ellipses at one and two standard deviations, over a cloud of points if there is one.

    Args:
        gaussians: name -> mean of shape (2,) and covariance of shape (2, 2), positive definite.
        points: shape (N, 2).
        xlabel: what the first coordinate is.
        ylabel: what the second coordinate is.

    Returns:
        The figure, with one scale for both coordinates.
    """
    figure, axes = plt.subplots(figsize=(4.6, 4.6))
    if points is not None:
        axes.plot(*to_array(points).T, ".", color=SKY, markersize=2, alpha=0.5, linestyle="none")
    angle = np.linspace(0, 2 * np.pi, 361)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    for index, (name, (mean, covariance)) in enumerate(gaussians.items()):
        centre, root = to_array(mean)[:, None], np.linalg.cholesky(to_array(covariance))
        line: dict[str, Any] = {"color": PALETTE[1 + index], "linestyle": DASHES[index]}
        axes.plot(*(centre + root @ circle), label=name, **line)
        axes.plot(*(centre + 2 * root @ circle), linewidth=1.2, **line)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_aspect("equal", adjustable="datalim")  # so that the axes keep their place under the legend
    figure.legend(loc="outside upper center", ncols=len(gaussians))
    return figure


@styled
def three_coordinates(angles: Mapping[int, float], shown: int) -> Figure:
    """The plane of x_0 and ε: where x_t stands at several t, and v at one of them (eq:three-coordinates).

    Args:
        angles: t -> φ_t in radians, between 0 (clean) and π/2 (snow).
        shown: the t, among them, at which x_t and v are drawn as arrows.

    Returns:
        The figure.
    """
    figure, axes = plt.subplots(figsize=(4.6, 4.6 * 1.45 / 1.95))
    arc = np.linspace(0, np.pi / 2, 200)
    axes.plot(np.cos(arc), np.sin(arc), color="#999999", linewidth=1, linestyle="-")
    for t, angle in angles.items():
        axes.plot(np.cos(angle), np.sin(angle), "o", color="black", markersize=4)
        if t != shown:
            axes.text(1.04 * np.cos(angle), 1.04 * np.sin(angle), f"{t}", va="bottom", size=LETTERS - 2)
    cos, sin = np.cos(angles[shown]), np.sin(angles[shown])
    arrows = {
        "$x_0$": (1.0, 0.0, "black", (6, -16)),
        "$\\varepsilon$": (0.0, 1.0, "black", (-16, 0)),
        f"$x_{{{shown}}}$": (cos, sin, BLUE, (5, 4)),
        "$v$": (-sin, cos, VERMILION, (-14, 2)),
    }
    for name, (x, y, colour, offset) in arrows.items():
        style = {"arrowstyle": "-|>", "color": colour, "linewidth": 2, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (x, y), (0, 0), arrowprops=style)
        axes.annotate(name, (x, y), offset, textcoords="offset points", color=colour, size=LETTERS + 1)
    small = np.linspace(0, angles[shown], 50)
    axes.plot(0.28 * np.cos(small), 0.28 * np.sin(small), color=BLUE, linewidth=1, linestyle="-")
    middle = angles[shown] / 2
    axes.text(
        0.36 * np.cos(middle), 0.36 * np.sin(middle), "$\\varphi$", color=BLUE, ha="center", va="center"
    )
    axes.plot([cos, cos], [0, sin], color=BLUE, linewidth=1, linestyle=DASHES[2])
    axes.plot([0, cos], [sin, sin], color=BLUE, linewidth=1, linestyle=DASHES[2])
    axes.text(cos, -0.03, "$\\sqrt{\\bar\\alpha_t}$", color=BLUE, ha="center", va="top")
    axes.text(-0.03, sin, "$\\sigma_t$", color=BLUE, ha="right", va="bottom")
    axes.set(xlim=(-0.8, 1.15), ylim=(-0.2, 1.25), aspect="equal")
    axes.axis("off")
    return figure


@styled
def schedule_view(
    log_snrs: Mapping[str, Numbers], chosen: str, t: int, picture: Tensor, *, value_range: tuple[float, float]
) -> Figure:
    """One schedule among others on the log-SNR picture, and what one of its levels looks like (eq:log-snr).

    Args:
        log_snrs: name -> log SNR at t = 1 … T, shape (T,); T may differ from schedule to schedule.
        chosen: the name of the one that is drawn in colour.
        t: the level marked on it, 0 … T.
        picture: x_t, shape (C, H, W), C = 1 (grey) or 3 (RGB).
        value_range: the values shown as black and as white.

    Returns:
        The figure.

    Raises:
        ValueError: if `chosen` is no name, t is out of range, or the picture has a wrong shape.
    """
    check_images(picture[None])
    if chosen not in log_snrs or not 0 <= t <= len(log_snrs[chosen]):
        raise ValueError(
            f"the marked point must be a level of one of {', '.join(log_snrs)}, but got {chosen!r}, t = {t}"
        )
    figure, (axes, frame) = plt.subplots(1, 2, figsize=(WIDTH, 2.9), width_ratios=(1.35, 1))
    last = len(log_snrs[chosen])
    for name, values in log_snrs.items():
        line = to_array(values)
        style = {"color": BLUE, "zorder": 3} if name == chosen else {"color": "#999999", "linewidth": 1.2}
        axes.plot(np.arange(1, len(line) + 1) / len(line), line, linestyle="-", **style)
    if t > 0:
        axes.plot(t / last, to_array(log_snrs[chosen])[t - 1], "o", color=VERMILION, markersize=8, zorder=4)
    axes.axvline(t / last, color=VERMILION, linewidth=1, linestyle=DASHES[2])
    axes.set(xlabel="$t/T$", ylabel=r"$\log\,\mathrm{SNR}$", ylim=(-16, 11), xlim=(0, 1))
    frame.imshow(to_bytes(picture[None], value_range)[0], interpolation="nearest")
    frame.set_title(f"$t = {t}$ of ${last}$")
    frame.axis("off")
    return figure


# The network


@styled
def signed_map(values: Numbers, *, xlabel: str, ylabel: str, limit: float = 1.0) -> Figure:
    """Numbers of either sign as colours, such as the time embedding of every level (eq:time-embedding).

    Args:
        values: shape (N, M); the first axis goes to the right, the second downwards.
        xlabel: what the first axis counts, from 0.
        ylabel: what the second axis counts, from 0.
        limit: the size at which the colours are strongest.

    Returns:
        The figure.
    """
    colours = LinearSegmentedColormap.from_list("signed", [BLUE, "white", VERMILION])
    figure, axes = plt.subplots()
    picture = axes.imshow(
        to_array(values).T, cmap=colours, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest"
    )
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

    Returns:
        The figure.

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
        axes.spines[:].set(
            visible=True, color="#999999", linewidth=0.6
        )  # where white ends, and the page begins
    scale = ScalarMappable(norm=norm, cmap=shades)
    bar = figure.colorbar(scale, ax=row, location="bottom", label=label, aspect=40, pad=0.03)
    bar.ax.minorticks_off()
    return figure


@styled
def grouped_bars(groups: Mapping[str, Numbers], categories: Sequence[str], *, ylabel: str) -> Figure:
    """Bars side by side, one group of them for each category, such as parameters and arithmetic by resolution.

    Args:
        groups: name -> one value for each category.
        categories: what stands below each group of bars.
        ylabel: what the values are.

    Returns:
        The figure.
    """
    figure, axes = plt.subplots()
    width = 0.8 / len(groups)
    for index, (name, values) in enumerate(groups.items()):
        places = np.arange(len(categories)) + (index - (len(groups) - 1) / 2) * width
        axes.bar(
            places,
            to_array(values),
            width,
            label=name,
            color=PALETTE[index],
            hatch=("", "//", "..", "xx")[index % 4],
            edgecolor="white",
        )
    axes.set_xticks(range(len(categories)), categories)
    axes.set(ylabel=ylabel)
    axes.grid(visible=False, axis="x")
    figure.legend(loc="outside upper center", ncols=len(groups))
    return figure


@styled
def runs_with_bars(runs: Mapping[str, Numbers], *, ylabel: str) -> Figure:
    """A dot for every run of each variant, and beside the dots their mean with its standard error.

    Args:
        runs: variant -> values of shape (N,), N at least 2, one for each seed.
        ylabel: what the values are.

    Returns:
        The figure.

    Raises:
        ValueError: if a variant has fewer than two runs, whose spread says nothing.
    """
    figure, axes = plt.subplots()
    for index, (name, values) in enumerate(runs.items()):
        numbers = to_array(values)
        if len(numbers) < 2:
            raise ValueError(
                f"a standard error needs at least two runs, but {name!r} has {len(numbers)}; add seeds"
            )
        axes.plot(
            np.full(len(numbers), index - 0.1),
            numbers,
            MARKERS[index % len(MARKERS)],
            color=PALETTE[index % len(PALETTE)],
            alpha=0.7,
            linestyle="none",
        )
        error = numbers.std(ddof=1) / math.sqrt(len(numbers))
        axes.errorbar(index + 0.1, numbers.mean(), error, fmt="_", color="black", capsize=5, markersize=14)
    axes.set_xticks(range(len(runs)), list(runs))
    axes.set(ylabel=ylabel, xlim=(-0.6, len(runs) - 0.4))
    axes.grid(visible=False, axis="x")
    return figure


@styled
def unet_map(costs: Sequence[LayerCost]) -> Figure:
    """The U of a U-Net: each part in the order in which it runs, one row for each resolution, with its channels.

    Args:
        costs: the network's ledger, from `ddpm.book.layer_costs.layer_costs`. Embeddings and norms are left out.

    Returns:
        The figure.

    Raises:
        ValueError: if the ledger holds no map of an image.
    """
    parts = [cost for cost in costs if cost.kind not in ("embedding", "norm")]
    if not parts:
        raise ValueError("unet_map draws the ledger of a U-Net, but got one without any map of an image")
    sizes = sorted({(part.height, part.width) for part in parts}, reverse=True)
    looks = {
        "stage": ("residual block", SKY),
        "stage with attention": ("with attention", VERMILION),
        "downsample": ("halve, double", GREEN),
        "upsample": ("halve, double", GREEN),
        "convolution": ("convolution", "#bbbbbb"),
    }
    figure, axes = plt.subplots(figsize=(WIDTH, 0.9 + 0.72 * len(sizes)))
    for place, part in enumerate(parts):
        row, (name, colour) = -sizes.index((part.height, part.width)), looks[part.kind]
        box = Rectangle(
            (place - 0.44, row - 0.34), 0.88, 0.68, facecolor=colour, edgecolor="black", label=name
        )
        axes.add_patch(box)
        axes.text(place, row, f"{part.channels}", rotation=90, ha="center", va="center", size=LETTERS - 3)
    for row, size in enumerate(sizes[:-1]):  # what the way down hands to the way up
        places = [place for place, part in enumerate(parts) if (part.height, part.width) == size]
        left, right = max(pairwise(places), key=lambda pair: pair[1] - pair[0])
        style = {"arrowstyle": "-|>", "linestyle": "--", "color": "black", "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (right - 0.44, -row), (left + 0.44, -row), arrowprops=style)
    axes.set_yticks([-row for row in range(len(sizes))], [f"{height}×{width}" for height, width in sizes])
    axes.set(xlim=(-0.7, len(parts) - 0.3), ylim=(0.5 - len(sizes), 0.5), xticks=[])
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    boxes = {str(box.get_label()): box for box in axes.patches if isinstance(box, Rectangle)}
    figure.legend(boxes.values(), boxes.keys(), loc="outside upper center", ncols=2, handlelength=1.2)
    return figure
