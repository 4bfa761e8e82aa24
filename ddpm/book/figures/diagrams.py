"""Pictures of the theory: Gaussians in the plane, the coordinates of x_t, a schedule."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ddpm.book.figures.card import lay_on_card, with_mark
from ddpm.book.figures.sheet import check_images, to_bytes
from ddpm.book.figures.style import (
    BLUE,
    DASHES,
    LETTERS,
    PALETTE,
    SKY,
    VERMILION,
    WIDTH,
    Numbers,
    styled,
    to_array,
)

_GREY = "#999999"


@styled
def ellipses(
    gaussians: Mapping[str, tuple[Tensor, Tensor]],
    *,
    points: Numbers | None = None,
    xlabel: str,
    ylabel: str,
) -> Figure:
    """Gaussians in the plane as ellipses at one and two standard deviations, over a cloud of points if there is one.

    Args:
        gaussians: name -> mean of shape (2,) and covariance of shape (2, 2), positive definite.
        points: shape (N, 2).
        xlabel: what the first coordinate is.
        ylabel: what the second coordinate is, to the same scale.
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
    """
    figure, axes = plt.subplots(figsize=(4.6, 4.6 * 1.45 / 1.95))
    arc = np.linspace(0, np.pi / 2, 200)
    axes.plot(np.cos(arc), np.sin(arc), color=_GREY, linewidth=1, linestyle="-")
    for t, angle in angles.items():
        axes.plot(np.cos(angle), np.sin(angle), "o", color="black", markersize=4)
        if t != shown:
            axes.text(1.04 * np.cos(angle), 1.04 * np.sin(angle), f"{t}", va="bottom", size=LETTERS - 2)
    _draw_arrows(axes, angles[shown], shown)
    _draw_angle(axes, angles[shown])
    axes.set(xlim=(-0.8, 1.15), ylim=(-0.2, 1.25), aspect="equal")
    axes.axis("off")
    return figure


def _draw_arrows(axes: Axes, angle: float, t: int) -> None:
    """x_0, ε, x_t and v as arrows from the origin."""
    cos, sin = np.cos(angle), np.sin(angle)
    arrows = {
        "$x_0$": (1.0, 0.0, "black", (6, -16)),
        "$\\varepsilon$": (0.0, 1.0, "black", (-16, 0)),
        f"$x_{{{t}}}$": (cos, sin, BLUE, (5, 4)),
        "$v$": (-sin, cos, VERMILION, (-14, 2)),
    }
    for name, (x, y, colour, offset) in arrows.items():
        style = {"arrowstyle": "-|>", "color": colour, "linewidth": 2, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (x, y), (0, 0), arrowprops=style)
        axes.annotate(name, (x, y), offset, textcoords="offset points", color=colour, size=LETTERS + 1)


def _draw_angle(axes: Axes, angle: float) -> None:
    """φ_t, and its cosine and sine on the axes."""
    cos, sin, middle, small = np.cos(angle), np.sin(angle), angle / 2, np.linspace(0, angle, 50)
    line: dict[str, Any] = {"color": BLUE, "linewidth": 1}
    axes.plot(0.28 * np.cos(small), 0.28 * np.sin(small), linestyle="-", **line)
    place = (0.36 * np.cos(middle), 0.36 * np.sin(middle))
    axes.text(*place, "$\\varphi$", color=BLUE, ha="center", va="center")
    axes.plot([cos, cos], [0, sin], linestyle=DASHES[2], **line)
    axes.plot([0, cos], [sin, sin], linestyle=DASHES[2], **line)
    axes.text(cos, -0.03, "$\\sqrt{\\bar\\alpha_t}$", color=BLUE, ha="center", va="top")
    axes.text(-0.03, sin, "$\\sigma_t$", color=BLUE, ha="right", va="bottom")


@styled
def schedule_view(
    log_snrs: Mapping[str, Numbers], chosen: str, t: int, picture: Tensor, *, value_range: tuple[float, float]
) -> Figure:
    """One schedule among others on the log-SNR picture, and what one of its noise levels looks like (eq:log-snr).

    Args:
        log_snrs: name -> log SNR at t = 1 … T, shape (T,); T may differ from schedule to schedule.
        chosen: the name of the one that is drawn in colour.
        t: the timestep marked on it, 0 … T.
        picture: x_t, shape (C, H, W), C = 1 (grey) or 3 (RGB).
        value_range: the values shown as black and as white.

    Raises:
        ValueError: if `chosen` is not among the names, t is out of range, or the picture has a wrong shape.
    """
    check_images(picture[None])
    if chosen not in log_snrs or not 0 <= t <= len(log_snrs[chosen]):
        raise ValueError(
            f"the marked point must be a timestep of one of {', '.join(log_snrs)}, but got {chosen!r}, t = {t}"
        )
    figure, (axes, frame) = plt.subplots(1, 2, figsize=(WIDTH, 2.9), width_ratios=(1.35, 1))
    last = len(log_snrs[chosen])
    for name, values in log_snrs.items():
        line = to_array(values)
        style = {"color": BLUE, "zorder": 3} if name == chosen else {"color": _GREY, "linewidth": 1.2}
        axes.plot(np.arange(1, len(line) + 1) / len(line), line, linestyle="-", **style)
    if t > 0:
        axes.plot(t / last, to_array(log_snrs[chosen])[t - 1], "o", color=VERMILION, markersize=8, zorder=4)
    axes.axvline(t / last, color=VERMILION, linewidth=1, linestyle=DASHES[2])
    axes.set(xlabel="$t/T$", ylabel=r"$\log\,\mathrm{SNR}$", ylim=(-16, 11), xlim=(0, 1))
    photograph = frame.imshow(with_mark(to_bytes(picture[None], value_range)[0]), interpolation="nearest")
    frame.set_title(f"$t = {t}$ of ${last}$")
    frame.axis("off")
    lay_on_card(figure, [photograph])
    return figure
