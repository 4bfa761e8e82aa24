"""Photographs keep their opacity inside a diagram, to the pixel, and nothing else has it."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from ddpm.book.figures.card import PHOTOGRAPH, lay_on_card, with_mark


@pytest.mark.parametrize("tight", [True, False])
def test_the_holes_are_where_the_photographs_are(tight):
    figure, (left, right) = plt.subplots(1, 2, figsize=(4, 2), dpi=100)
    left.plot([0, 1], [0, 1], color="black")
    grey = np.full((5, 5, 3), 119, np.uint8)
    photograph = right.imshow(with_mark(grey), interpolation="nearest")
    right.axis("off")
    lay_on_card(figure, [photograph])
    file = io.BytesIO()
    figure.savefig(file, bbox_inches="tight" if tight else None)
    plt.close(figure)
    pixels = np.asarray(Image.open(file))
    marked = pixels[..., 3] == PHOTOGRAPH
    greys = (abs(pixels[..., :3].astype(int) - 119) <= 1).all(-1)
    rows, columns = np.nonzero(marked)
    assert marked.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1) > 5000  # one rectangle
    assert greys[marked].all()
    # At most the row and the column of pixels through which the edge of the photograph runs.
    others = pixels[(pixels[..., 3] != PHOTOGRAPH) & (pixels[..., 3] > 0)]
    assert (others[:, 3] == 255).mean() > 0.98


def test_with_mark_adds_the_opacity_and_changes_nothing():
    rgb = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    marked = with_mark(rgb)
    assert (marked[..., :3] == rgb).all()
    assert (marked[..., 3] == 254).all()
