"""The book's style: colours, dashes, sizes, and a decorator that draws in them.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart, and lines differ in their dashes as well.
Figures stand on a white card, at most 6 inches wide, so that their letters are still readable on a phone. The style
holds inside the decorated functions alone: importing this module changes no setting of matplotlib.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec

import matplotlib.pyplot as plt
import numpy as np
import torch
from cycler import cycler
from matplotlib.figure import Figure
from torch import Tensor

BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, "black")
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
# In inches. A phone shows about 60 CSS pixels for each, so letters of 12 points are 10 pixels tall there.
WIDTH, HEIGHT = 6.0, 3.4
LETTERS = 12  # points

_STYLE: dict[Any, Any] = {
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
_Drawing = ParamSpec("_Drawing")


def styled(draw: Callable[_Drawing, Figure]) -> Callable[_Drawing, Figure]:
    """Draw in the book's style, and leave matplotlib's own settings as they were."""

    @wraps(draw)
    def draw_in_style(*args: _Drawing.args, **kwargs: _Drawing.kwargs) -> Figure:
        with plt.rc_context(_STYLE):
            figure = draw(*args, **kwargs)
            for axes in figure.axes:  # ticks are made when the figure is shown, outside this context
                axes.tick_params(which="both", labelsize=LETTERS - 1)
        return figure

    return draw_in_style


def to_array(values: Numbers) -> np.ndarray:
    """The values as a float64 array, wherever they live."""
    return torch.as_tensor(values).detach().cpu().double().numpy()
