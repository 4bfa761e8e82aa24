"""Curves over a common axis."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddpm.book.figures.style import BLUE, DASHES, MARKERS, PALETTE, SKY, Numbers, styled, to_array


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
