"""Bars, and runs as dots next to their mean."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ddpm.book.figures.style import BLUE, MARKERS, PALETTE, VERMILION, Numbers, styled, to_array


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

    Raises:
        ValueError: if a value is not positive on a logarithmic axis.
    """
    heights = np.add.reduceat(to_array(values), np.arange(0, len(values), group))
    if log and not (heights > 0).all():
        raise ValueError(f"a logarithmic axis needs positive values, but the smallest is {heights.min():g}")
    edges = np.append(first - 0.5 + group * np.arange(len(heights)), first - 0.5 + len(values))
    figure, axes = plt.subplots()
    floor = 0.5 * heights.min() if log else 0.0
    # Many bars touch each other.
    outline = {"edgecolor": "white" if len(heights) <= 64 else BLUE, "linewidth": 0.5}
    axes.bar(edges[:-1], heights - floor, np.diff(edges), floor, align="edge", color=BLUE, **outline)
    for t, words in (highlight or {}).items():
        height = heights[(t - first) // group]
        axes.plot(t, height, marker="v", color=VERMILION, linestyle="none")
        axes.annotate(words, (t, height), (6, 6), textcoords="offset points", color=VERMILION)
    axes.set(xlabel=xlabel, ylabel=ylabel, yscale="log" if log else "linear")
    axes.margins(x=0.01, y=0.12)
    axes.grid(visible=False, axis="x")
    return figure


@styled
def grouped_bars(groups: Mapping[str, Numbers], categories: Sequence[str], *, ylabel: str) -> Figure:
    """Bars side by side, one of each name for each category, such as parameters and arithmetic by resolution.

    Args:
        groups: name -> one value for each category.
        categories: what stands below each group of bars.
        ylabel: what the values are.
    """
    figure, axes = plt.subplots()
    width = 0.8 / len(groups)
    for index, (name, values) in enumerate(groups.items()):
        places = np.arange(len(categories)) + (index - (len(groups) - 1) / 2) * width
        hatch = ("", "//", "..", "xx")[index % 4]
        look: dict[str, Any] = {"label": name, "color": PALETTE[index], "edgecolor": "white"}
        axes.bar(places, to_array(values), width, hatch=hatch, **look)
    axes.set_xticks(range(len(categories)), categories)
    axes.set(ylabel=ylabel)
    axes.grid(visible=False, axis="x")
    figure.legend(loc="outside upper center", ncols=len(groups))
    return figure


@styled
def runs_with_bars(runs: Mapping[str, Numbers], *, ylabel: str) -> Figure:
    """A dot for every run of each variant (one value for each seed), and their mean with its standard error.

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
        marker, colour = MARKERS[index % len(MARKERS)], PALETTE[index % len(PALETTE)]
        places = np.full(len(numbers), index - 0.1)
        axes.plot(places, numbers, marker, color=colour, alpha=0.7, linestyle="none")
        error = numbers.std(ddof=1) / math.sqrt(len(numbers))
        axes.errorbar(index + 0.1, numbers.mean(), error, fmt="_", color="black", capsize=5, markersize=14)
    axes.set_xticks(range(len(runs)), list(runs))
    axes.set(ylabel=ylabel, xlim=(-0.6, len(runs) - 0.4))
    axes.grid(visible=False, axis="x")
    return figure
