"""Clouds of points: which lie within the balls of another cloud, and nearer to which of two sets."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from ddpm.book.figures.style import BLUE, GREEN, LETTERS, SKY, VERMILION, WIDTH, Numbers, styled, to_array


@styled
def neighbour_balls(
    panels: Mapping[str, tuple[Numbers, Numbers, Numbers]], *, names: tuple[str, str] = ("inside", "outside")
) -> Figure:
    """Balls in the plane, and points that are inside one of them (dots) or outside all (crosses).

    Args:
        panels: title -> centres of shape (N, 2), their radii of shape (N,), and points of shape (M, 2); one panel for
            each title, from left to right, all to one scale.
        names: what the legend calls points inside and outside.
    """
    balls = [(to_array(centres), to_array(radii)) for centres, radii, _ in panels.values()]
    edges = np.concatenate([centres + sign * radii[:, None] for centres, radii in balls for sign in (-1, 1)])
    across, upwards = np.ptp(edges, 0)
    size = WIDTH, 0.8 + WIDTH / len(panels) * upwards / across
    figure, row = plt.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True, figsize=size)
    for axes, (title, parts) in zip(row[0], panels.items(), strict=True):
        centres, radii, points = map(to_array, parts)
        for centre, radius in zip(centres, radii, strict=True):
            axes.add_patch(
                Circle((centre[0], centre[1]), radius, facecolor=SKY, alpha=0.25, edgecolor="none")
            )
        axes.plot(*centres.T, ".", color=BLUE, markersize=4, linestyle="none")
        inside = (np.linalg.norm(points[:, None] - centres, axis=2) <= radii).any(1)
        axes.plot(*points[inside].T, "o", color=GREEN, markersize=5, linestyle="none", label=names[0])
        axes.plot(*points[~inside].T, "X", color=VERMILION, markersize=7, linestyle="none", label=names[1])
        axes.set(title=title, xticks=[], yticks=[])
        axes.set_aspect("equal", adjustable="box")
        axes.grid(visible=False)
    handles, labels = row[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure


@styled
def nearer_to(panels: Mapping[str, tuple[Numbers, Numbers]], *, xlabel: str, ylabel: str) -> Figure:
    """One distance against another for each point, with the line on which they are equal, panel by panel.

    Args:
        panels: title -> two distances, each of shape (N,), drawn across and upwards; all panels to one scale.
        xlabel: what the first distance is.
        ylabel: what the second distance is.
    """
    figure, row = plt.subplots(
        1, len(panels), squeeze=False, sharex=True, sharey=True, figsize=(WIDTH, 0.5 + WIDTH / len(panels))
    )
    most = 1.05 * max(to_array(values).max() for pair in panels.values() for values in pair)
    for axes, (title, (across, upwards)) in zip(row[0], panels.items(), strict=True):
        axes.axline((0, 0), slope=1, color="black", linewidth=1, linestyle="-")
        axes.plot(
            to_array(across), to_array(upwards), ".", color=BLUE, markersize=4, alpha=0.5, linestyle="none"
        )
        axes.set(title=title, xlim=(-0.03 * most, most), ylim=(-0.03 * most, most), aspect="equal")
    figure.supxlabel(xlabel, fontsize=LETTERS)
    row[0, 0].set_ylabel(ylabel)
    return figure
