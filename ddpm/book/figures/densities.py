"""Densities and histograms. A grid has shape (N,), and so has each density on it; samples have any shape."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddpm.book.figures.style import (
    DASHES,
    GREEN,
    PURPLE,
    SKY,
    VERMILION,
    WIDTH,
    Numbers,
    styled,
    to_array,
)


def _draw_histogram(axes: Axes, samples: Numbers, x: np.ndarray, bins: int, label: str | None = None) -> None:
    """Samples as a density over the range of the grid; those beyond it still count in the total."""
    values = to_array(samples).ravel()
    counts, edges = np.histogram(values, bins=bins, range=(x.min(), x.max()))
    heights = counts / (len(values) * np.diff(edges))
    axes.stairs(heights, edges, fill=True, color=SKY, alpha=0.6, label=label)


def _hide_scale(axes: Axes) -> None:
    """Leave the densities without a scale of their own."""
    axes.set(yticks=[], ylim=(0, None))
    axes.spines["left"].set_visible(False)
    axes.margins(x=0)


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
    """A histogram of samples over the range of the grid, with named curves over it that can be compared with it."""
    x = to_array(grid)
    figure, axes = plt.subplots()
    _draw_histogram(axes, samples, x, bins, samples_label)
    axes.set_prop_cycle(cycler(color=[VERMILION, "black", GREEN, PURPLE]) + cycler(linestyle=DASHES[:4]))
    for name, density in densities.items():
        axes.plot(x, to_array(density), label=name)
    axes.set(xlabel=xlabel, ylabel="density", ylim=(0, None))
    axes.margins(x=0)
    axes.legend()
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
        samples: moment -> samples; one row for each, from above to below.
        grid: the histograms cover its range.
        densities: moment -> exact density on the grid, for the same moments.
        bins: number of bars.
        xlabel: what is sampled.
        label: text in a row, with {} for the moment.
    """
    x, height = to_array(grid), 0.6 + 0.85 * len(samples)
    figure, rows = plt.subplots(len(samples), sharex=True, squeeze=False, figsize=(WIDTH, height))
    for axes, (moment, drawn) in zip(rows[:, 0], samples.items(), strict=True):
        _draw_histogram(axes, drawn, x, bins)
        axes.plot(x, to_array(densities[moment]), color=VERMILION, linestyle="-", linewidth=1.5)
        axes.text(0.01, 0.9, label.format(moment), transform=axes.transAxes, va="top")
        _hide_scale(axes)
    rows[-1, 0].set_xlabel(xlabel)
    return figure


@styled
def density_panels(
    grid: Numbers, panels: Mapping[str, Mapping[str, Numbers]], *, xlabel: str = "$x$"
) -> Figure:
    """Densities compared, panel by panel: in each, the first one filled and the others as lines over it.

    Args:
        grid: where the densities are evaluated.
        panels: title -> (name -> density on the grid); one panel for each title, from left to right, with the same
            names in each. The panels' heights are not to one scale.
        xlabel: what the grid is.
    """
    x = to_array(grid)
    figure, row = plt.subplots(1, len(panels), squeeze=False, sharex=True, figsize=(WIDTH, 2.9))
    for axes, (title, densities) in zip(row[0], panels.items(), strict=True):
        (filled, first), *others = densities.items()
        axes.fill_between(x, to_array(first), color=SKY, alpha=0.75, linewidth=0, label=filled)
        axes.set_prop_cycle(cycler(color=[VERMILION, "black", GREEN]) + cycler(linestyle=DASHES[1:4]))
        for name, density in others:
            axes.plot(x, to_array(density), label=name)
        axes.set(title=title, xlabel=xlabel)
        _hide_scale(axes)
    handles, names = row[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names))
    return figure
