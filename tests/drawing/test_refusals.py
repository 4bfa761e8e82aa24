"""What cannot be drawn is refused, with words that say why."""

import pytest
import torch

from ddpm.book.figures import (
    bar_chart,
    heat_maps,
    image_grid,
    image_strip,
    learning_curve,
    runs_with_bars,
    schedule_view,
    unet_map,
)
from ddpm.book.widgets import frame_scrubber, schedule_explorer

THREE, PICTURE, ABC = torch.zeros(3, 1, 8, 8), torch.zeros(1, 8, 8), ["a", "b", "c"]
NO_IMAGES, SHAPE = ((8, 8), (2, 2, 8, 8), (0, 1, 8, 8)), "images must have shape (N, C, H, W) with C = 1 or 3"
LABELS = {"xlabel": "t", "ylabel": "bits"}
CURVE, SCALE = {"one": range(50)}, {"value_range": (-1, 1)}


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        *((lambda shape=shape: image_grid(torch.zeros(shape)), SHAPE) for shape in NO_IMAGES),
        (lambda: image_grid(THREE, titles=ABC[:2]), "3 images need as many titles, but got 2"),
        (lambda: image_strip(THREE, ABC[:2]), "2 labels need rows of 2 images, but got rows of [3]"),
        (lambda: image_strip(THREE, ABC, row_labels=["x", "y"]), "1 rows need as many row_labels, but got 2"),
        (lambda: learning_curve(range(200), range(200), smoothed=0), "smoothed must lie in 1 … 200"),
        (lambda: learning_curve(range(200), range(200), smoothed=201), "smoothed must lie in 1 … 200"),
        (lambda: bar_chart([1.0, 0.0], log=True, **LABELS), "needs positive values, but the smallest is 0"),
        (lambda: heat_maps({"a": [[0.0, 0.0]]}, label="size"), "none below zero, and not all of them zero"),
        (lambda: heat_maps({"a": [[1.0, -1e-9]]}, label="size"), "none below zero, and not all of them zero"),
        (lambda: runs_with_bars({"b": [1.0]}, ylabel="loss"), "needs at least two runs, but 'b' has 1"),
        (lambda: schedule_view(CURVE, "two", 1, PICTURE, **SCALE), "a timestep of one of one, but got 'two'"),
        (lambda: schedule_view(CURVE, "one", 51, PICTURE, **SCALE), "but got 'one', t = 51"),
        (lambda: schedule_view(CURVE, "one", -1, PICTURE, **SCALE), "but got 'one', t = -1"),
        (lambda: schedule_view(CURVE, "one", 1, PICTURE[0], **SCALE), "images must have shape"),
        (lambda: unet_map([]), "without any map of an image"),
        (lambda: frame_scrubber(THREE[:1], ["a"], alt="words"), "N >= 2"),
        (lambda: frame_scrubber(THREE[:, 0], ABC, alt="words"), "frames must have shape"),
        (lambda: frame_scrubber(torch.zeros(3, 2, 8, 8), ABC, alt="words"), "C = 1 or 3"),
        (lambda: frame_scrubber(THREE, ABC[:2], alt="words"), "3 frames need as many labels"),
        (lambda: frame_scrubber(THREE, [0, 1, 2], alt="words"), "each a string"),
        (lambda: frame_scrubber(THREE, ABC, alt=" "), "alt is empty"),
        (lambda: schedule_explorer(PICTURE[0]), "picture must have shape (C, H, W)"),
        (lambda: schedule_explorer(torch.zeros(2, 8, 8)), "picture must have shape (C, H, W)"),
        (lambda: schedule_explorer(PICTURE - 1.5), "picture must lie in [-1, 1]"),
        (lambda: schedule_explorer(PICTURE + 1.5), "picture must lie in [-1, 1]"),
        (lambda: schedule_explorer(PICTURE * float("nan")), "picture must lie in [-1, 1]"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, message):
    with pytest.raises(ValueError) as refused:  # noqa: PT011 (the words are compared below, brackets and all)
        draw()
    assert message in str(refused.value)
