"""Photographs inside a diagram: a white card with holes, so that they keep the opacity that tells them from ink."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.path import Path
from matplotlib.transforms import Bbox, IdentityTransform

# One step below full. Nobody sees that, but it tells photographs and samples from white cards and black letters, which
# the pages' dark twins of the figures turn round (_ext/dark_figures.py).
PHOTOGRAPH = 254


def with_mark(pixels: np.ndarray) -> np.ndarray:
    """RGB bytes of shape (…, 3) as RGBA with the opacity of a photograph."""
    return np.concatenate([pixels, np.full_like(pixels[..., :1], PHOTOGRAPH)], axis=-1)


def lay_on_card(figure: Figure, photographs: Sequence[AxesImage]) -> None:
    """Put a white card with a hole for each photograph behind a figure, in place of its own background."""
    figure.set_facecolor("none")
    for axes in figure.axes:
        axes.set_facecolor("none")
    figure.add_artist(_Card(photographs))


class _Card(Artist):
    """White everywhere in the figure but behind some images."""

    def __init__(self, photographs: Sequence[AxesImage]) -> None:
        super().__init__()
        self.photographs = photographs
        self.set_zorder(-1)
        self.set_in_layout(False)

    def draw(self, renderer: Any) -> None:
        """Fill the figure and leave out where the images are at this moment."""
        figure = self.get_figure()
        assert figure is not None
        # An inch larger than the figure, for a tight box that keeps what stands out of it.
        outside = _corners(Bbox.unit().transformed(figure.transSubfigure).padded(figure.dpi))
        holes = [_corners(image.get_window_extent(renderer))[::-1] for image in self.photographs]
        pen = renderer.new_gc()
        pen.set_linewidth(0)
        pen.set_antialiased(False)  # no grey seam between card and photograph
        card = Path.make_compound_path(*(Path(corners, closed=True) for corners in (outside, *holes)))
        renderer.draw_path(pen, card, IdentityTransform(), (1.0, 1.0, 1.0, 1.0))
        pen.restore()


def _corners(box: Any) -> np.ndarray:
    """The corners of a rectangle, anticlockwise and closed, on whole pixels."""
    x0, y0, x1, y1 = np.round(box.extents)
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)])
