"""Points in the plane over the contours of a density."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ddpm.book.figures.style import BLUE, VERMILION, WIDTH, Numbers, styled, to_array

# The contours go round these shares of the mass.
_SHARES = (0.9, 0.5)


@styled
def clouds_over_contours(
    panels: Mapping[str, tuple[Numbers, Numbers]], side: Numbers, *, names: tuple[str, str]
) -> Figure:
    """A cloud of points and a density, panel by panel: the contours go round a half and nine tenths of its mass.

    Args:
        panels: title -> points of shape (N, 2), and the density on the grid, shape (M, M), whose rows are at one
            second coordinate; it need not be normalised. All panels are to one scale.
        side: the M coordinates of the grid, for both axes; it is what each panel shows.
        names: what the legend calls the points and the density.
    """
    places = to_array(side)
    size = WIDTH, 0.9 + WIDTH / len(panels)
    figure, row = plt.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True, figsize=size)
    for axes, (title, (points, density)) in zip(row[0], panels.items(), strict=True):
        heights = to_array(density)
        axes.plot(*to_array(points).T, ".", color=BLUE, markersize=2.5, alpha=0.5, linestyle="none")
        levels = [_level(heights, share) for share in _SHARES]
        axes.contour(places, places, heights, levels, colors=VERMILION, linewidths=1.5)
        axes.set(title=title, xlim=places[[0, -1]], ylim=places[[0, -1]], aspect="equal")
        axes.plot([], [], "o", color=BLUE, linestyle="none", label=names[0])
        axes.plot([], [], color=VERMILION, linestyle="-", label=names[1])
    handles, labels = row[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure


def _level(heights: np.ndarray, share: float) -> float:
    """The height above which this share of the mass lies."""
    falling = np.sort(heights, axis=None)[::-1]
    mass = falling.cumsum()
    return float(falling[np.searchsorted(mass, share * mass[-1])])
