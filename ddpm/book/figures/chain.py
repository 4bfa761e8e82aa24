"""The chain of noisy pictures x_T … x_0, with the arrows of q and of p_θ."""

from collections.abc import Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ddpm.book.figures.card import lay_on_card, with_mark
from ddpm.book.figures.sheet import check_images, to_bytes
from ddpm.book.figures.style import BLUE, DASHES, GREEN, LETTERS, VERMILION, WIDTH, styled

_NAMES = ("$x_T$", "$x_t$", "$x_{t-1}$", "$x_0$")
_CENTRES = (0.5, 2.05, 4.0, 5.5)
_SIDE = 1.0


@styled
def chain(
    pictures: Tensor,
    *,
    value_range: tuple[float, float],
    terms: Sequence[str] = (),
    posterior: bool = False,
) -> Figure:
    """x_T, x_t, x_{t−1} and x_0 from left to right; q runs to the left, against p_θ.

    Args:
        pictures: the four, shape (4, C, H, W), C = 1 (grey) or 3 (RGB).
        value_range: the values shown as black and as white.
        terms: three words to be written under x_T, under the step from x_t to x_{t−1}, and under x_0.
        posterior: whether to draw q(x_{t−1} | x_t, x_0), which looks at both sides.

    Raises:
        ValueError: if there are not four pictures, or not three terms.
    """
    check_images(pictures)
    if len(pictures) != len(_NAMES) or len(terms) not in (0, 3):
        raise ValueError(
            f"a chain shows 4 pictures and 3 terms or none, but got {len(pictures)} and {len(terms)}"
        )
    top, bottom = (2.3 if posterior else 1.5), (-0.75 if terms else -0.45)
    figure, axes = plt.subplots(figsize=(WIDTH, WIDTH * (top - bottom) / 6.1))
    photographs = []
    for picture, centre, name in zip(to_bytes(pictures, value_range), _CENTRES, _NAMES, strict=True):
        box = (centre - _SIDE / 2, centre + _SIDE / 2, 0.0, _SIDE)
        photographs.append(axes.imshow(with_mark(picture), extent=box, interpolation="nearest", zorder=2))
        axes.text(centre, _SIDE + 0.08, name, ha="center", va="bottom", size=LETTERS + 1)
    for left, right in pairwise(_CENTRES):
        middle = (left + right) / 2
        if (left, right) == _CENTRES[1:3]:
            _arrow(axes, (left, right), 0.68, BLUE, "-")
            _arrow(axes, (right, left), 0.32, VERMILION, DASHES[1])
        else:
            axes.text(middle, _SIDE / 2, "…", ha="center", va="center", size=LETTERS + 6)
    middle = sum(_CENTRES[1:3]) / 2
    axes.text(middle, _SIDE + 0.08, "$p_\\theta(x_{t-1}\\mid x_t)$", color=BLUE, ha="center", va="bottom")
    axes.plot([middle, middle], [0.72, _SIDE + 0.05], color=BLUE, linewidth=0.8, linestyle="-")
    axes.text(middle, -0.08, "$q(x_t\\mid x_{t-1})$", color=VERMILION, ha="center", va="top")
    axes.plot([middle, middle], [0.28, -0.05], color=VERMILION, linewidth=0.8, linestyle="-")
    for place, word in zip((_CENTRES[0], middle, _CENTRES[3]), terms, strict=False):
        axes.text(place, -0.42 if place == middle else -0.1, word, ha="center", va="top", size=LETTERS + 1)
    if posterior:
        _draw_posterior(axes)
    axes.set(xlim=(-0.05, 6.05), ylim=(bottom, top), aspect="equal")
    axes.axis("off")
    lay_on_card(figure, photographs)
    return figure


def _arrow(axes: Axes, ends: tuple[float, float], height: float, colour: str, dashes: object) -> None:
    """An arrow between two pictures, from the edge of the one to the edge of the other."""
    inward = (_SIDE / 2 + 0.06) * (1 if ends[0] < ends[1] else -1)
    style = {
        "arrowstyle": "-|>",
        "color": colour,
        "linewidth": 2,
        "linestyle": dashes,
        "shrinkA": 0,
        "shrinkB": 0,
    }
    axes.annotate("", (ends[1] - inward, height), (ends[0] + inward, height), arrowprops=style)


def _draw_posterior(axes: Axes) -> None:
    """Two arcs over the pictures that meet at x_{t−1}: from x_t and from x_0."""
    to = (_CENTRES[2], _SIDE + 0.42)
    for start, bend in ((_CENTRES[1], -0.35), (_CENTRES[3], 0.35)):
        style = {
            "arrowstyle": "-|>",
            "color": GREEN,
            "linewidth": 2,
            "linestyle": DASHES[2],
            "connectionstyle": f"arc3,rad={bend}",
        }
        axes.annotate("", to, (start, _SIDE + 0.42), arrowprops=style)
    axes.text(_CENTRES[2], _SIDE + 0.95, "$q(x_{t-1}\\mid x_t,x_0)$", color=GREEN, ha="center", va="bottom")
