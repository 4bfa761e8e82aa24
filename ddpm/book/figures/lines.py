"""Curves over a common axis."""

import math
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddpm.book.figures.style import (
    BLUE,
    DASHES,
    HEIGHT,
    MARKERS,
    PALETTE,
    SKY,
    WIDTH,
    Numbers,
    styled,
    to_array,
)


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
    """Up to 7 lines, told apart by colour and by dashes.

    Args:
        x: shape (N,).
        ys: name -> values of shape (N,).
        xlabel: what x is.
        ylabel: what the values are.
        logx: logarithmic x axis.
        logy: logarithmic y axis.
        markers: a mark at each point, for few points.
        direct_labels: names at the lines' right ends instead of in a legend.
        ylim: lowest and highest y shown.
    """
    figure, axes = plt.subplots()
    for index, (name, y) in enumerate(ys.items()):
        marker = MARKERS[index % len(MARKERS)] if markers else None
        axes.plot(to_array(x), to_array(y), label=name, marker=marker)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set(xscale="log" if logx else "linear", yscale="log" if logy else "linear")
    if markers and logx:
        axes.set_xticks(to_array(x), [f"{value:g}" for value in to_array(x)])
        axes.minorticks_off()
    if ylim is not None:
        axes.set_ylim(*ylim)
    if direct_labels:
        _label_line_ends(axes)
    elif len(ys) > 1:
        axes.legend()
    return figure


def _label_line_ends(axes: Axes) -> None:
    """Write each line's label at its right end, in its colour, moved apart where two would touch."""
    axes.margins(x=0)
    axes.autoscale_view()
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = [to_axes.transform(np.asarray(line.get_xydata())[-1])[1] for line in axes.lines]
    lowest = 0.0
    for index in np.argsort(ends):
        line, height = axes.lines[index], max(ends[index], lowest)
        style = {"color": line.get_color(), "va": "center"}
        axes.annotate(str(line.get_label()), (1.01, height), xycoords="axes fraction", **style)
        lowest = height + 0.08  # of the height of the axes: a line of text


@styled
def learning_curve(
    steps: Numbers,
    losses: Numbers,
    *,
    smoothed: int = 51,
    xlabel: str = "training step",
    ylabel: str = "loss",
    logy: bool = True,
    floors: Mapping[str, float] | None = None,
) -> Figure:
    """The loss of every step, thin, and its running mean over `smoothed` values, thick, at the middle of its window.

    `floors` are levels by name, such as the lowest loss that is possible, each drawn as a line across.

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
    for index, (name, level) in enumerate((floors or {}).items()):
        axes.axhline(level, color=PALETTE[index + 1], linestyle=("--", ":")[index % 2], label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel, yscale="log" if logy else "linear")
    axes.legend()
    return figure


@styled
def compared_runs(
    x: Numbers,
    groups: Mapping[str, Mapping[str, Numbers]],
    *,
    xlabel: str,
    ylabel: str,
    logx: bool = True,
    logy: bool = True,
) -> Figure:
    """Runs over a common axis: a colour and a mark for each name, dashes for each group.

    Args:
        x: shape (N,).
        groups: group -> (name -> values of shape (N,), or of shape (R, N) for R runs, of which the mean and its
            standard error are drawn); the same names in each group.
        xlabel: what x is.
        ylabel: what the values are.
        logx: logarithmic x axis.
        logy: logarithmic y axis.
    """
    figure, axes = plt.subplots(figsize=(WIDTH, HEIGHT + 0.4))
    places = to_array(x)
    for (group, runs), dashes in zip(groups.items(), DASHES, strict=False):
        for (name, values), colour, marker in zip(runs.items(), PALETTE, MARKERS, strict=False):
            rows = np.atleast_2d(to_array(values))
            error = rows.std(0, ddof=1) / math.sqrt(len(rows)) if len(rows) > 1 else None
            label = name if len(groups) == 1 else f"{name}, {group}"
            look: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": dashes, "capsize": 4}
            axes.errorbar(places, rows.mean(0), error, label=label, **look)
    scales = {"xscale": "log" if logx else "linear", "yscale": "log" if logy else "linear"}
    axes.set(xlabel=xlabel, ylabel=ylabel, **scales)
    axes.set_xticks(places, [f"{value:g}" for value in places])
    axes.minorticks_off()
    figure.legend(loc="outside upper center", ncols=2)
    return figure


@styled
def flow_lines(panels: Mapping[str, tuple[Numbers, Numbers]], *, xlabel: str, ylabel: str) -> Figure:
    """Bundles of curves side by side, each with an axis of its own: places of shape (N,), curves of shape (N, K)."""
    figure, axes = plt.subplots(1, len(panels), figsize=(WIDTH, HEIGHT - 0.6), squeeze=False)
    for side, (name, (places, curves)) in zip(axes[0], panels.items(), strict=True):
        lines = to_array(curves)
        # The two outermost in another colour, to be followed from panel to panel.
        for k, values in enumerate(lines.T):
            outermost = k in (0, lines.shape[1] - 1)
            colour, dashes = (PALETTE[1], "--") if outermost else (BLUE, "-")
            side.plot(to_array(places), values, color=colour, linestyle=dashes, linewidth=1.2)
        side.set(title=name, xlabel=xlabel)
    axes[0, 0].set_ylabel(ylabel)
    return figure


@styled
def dot_rows(rows: Mapping[str, Numbers], *, xlabel: str) -> Figure:
    """Places on a common axis: a row of dots for each name, from above to below."""
    figure, axes = plt.subplots(figsize=(WIDTH, 0.9 + 0.45 * len(rows)))
    for height, (places, colour, marker) in enumerate(zip(rows.values(), PALETTE, MARKERS, strict=False)):
        x = to_array(places)
        axes.plot(x, np.full(len(x), height), marker, color=colour, linestyle="none")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set(xlabel=xlabel, ylim=(len(rows) - 0.5, -0.5))
    return figure


@styled
def extrapolation(
    sizes: Numbers,
    values: Mapping[str, tuple[Numbers, Numbers]],
    lines: Mapping[str, tuple[float, float]],
    *,
    xlabel: str,
    ylabel: str,
) -> Figure:
    """Values with error bars over 1/size, and straight lines through them down to an infinite size.

    Args:
        sizes: shape (N,); each is written below its place.
        values: name -> values and their errors, each of shape (N,).
        lines: name -> height at infinite size, and slope, for the same names.
        xlabel: what the sizes count.
        ylabel: what the values are.
    """
    figure, axes = plt.subplots()
    places = 1 / to_array(sizes)
    for index, (name, (heights, errors)) in enumerate(values.items()):
        look: dict[str, Any] = {"color": PALETTE[index], "linestyle": DASHES[index]}
        height, slope = lines[name]
        ends = np.array([0, 1.05 * places.max()])
        axes.plot(ends, height + slope * ends, linewidth=1.2, **look)
        look |= {"fmt": MARKERS[index], "linestyle": "none", "capsize": 4, "label": name}
        axes.errorbar(places, to_array(heights), to_array(errors), **look)
    axes.set_xticks([0, *places], ["∞", *(f"{size:g}" for size in to_array(sizes))])
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, None), ylim=(0, None))
    axes.legend()
    return figure
