"""Images: what is on the canvas, read back from the drawn pixels, is what was handed in."""

import itertools

import numpy as np
import pytest
import torch

from ddpm.book import figures
from ddpm.book.figures.sheet import LINE, lay_out


def draw(figure):
    """The figure's pixels, shape (H, W, 3), uint8."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def texts(figure):
    """What is written on the figure, and where, in screen pixels counted from below."""
    figure.canvas.draw()
    return {text.get_text(): text.get_window_extent() for text in figure.axes[0].texts}


def shown(canvas, corner, size, shape):
    """The colours at the centres of an image's pixels: `size` screen pixels from `corner` on, `shape` image pixels."""
    (x, y), (height, width), (rows, columns) = corner, size, shape
    row_centres = y + ((np.arange(rows) + 0.5) * height / rows).astype(int)
    column_centres = x + ((np.arange(columns) + 0.5) * width / columns).astype(int)
    return canvas[row_centres[:, None], column_centres]


@pytest.mark.parametrize("count", [1, 3, 8, 9, 17, 40])
def test_image_grid_shows_every_pixel_in_reading_order_and_blurs_none(count):
    images = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1)).round()
    canvas = draw(figures.image_grid(images))
    assert set(np.unique(canvas)) == {0, 255}
    columns = count if count <= 8 else int(np.ceil(np.sqrt(count)))
    sheet = lay_out(images, [divmod(index, columns) for index in range(count)])
    for image, corner in zip(images, sheet.corners, strict=True):
        pixels = shown(canvas, corner, (sheet.height, sheet.width), (8, 8))
        assert np.array_equal(pixels, 255 * image[0, :, :, None].expand(8, 8, 3))
    assert sheet.width == sheet.height
    order = [(y, x) for x, y in sheet.corners]
    assert order == sorted(order)
    assert len({x for x, _ in sheet.corners}) == columns


def test_image_grid_averages_large_images():
    canvas = draw(figures.image_grid(torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(1, 1, 1000, 1000)))
    assert canvas.shape[0] < 300
    assert np.abs(canvas[5:-5, 5:-5].astype(float) - 127.5).max() < 4


def test_value_range_says_what_is_black_and_what_is_white():
    image = torch.tensor([[-1.0, 0.0], [1.0, 7.0]]).view(1, 1, 2, 2)
    canvas = draw(figures.image_grid(image, value_range=(-1, 1)))
    assert shown(canvas, (0, 0), canvas.shape[:2], (2, 2))[..., 0].tolist() == [[0, 128], [255, 255]]


def test_colour_images_keep_their_colours_to_one_of_64_steps():
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    canvas = draw(figures.image_grid(image))
    pixels = shown(canvas, (0, 0), canvas.shape[:2], (16, 16))
    assert np.abs(pixels / 255 - image[0].permute(1, 2, 0).numpy()).max() <= 0.5 / 63 + 1 / 255
    assert len(np.unique(canvas)) <= 64


@pytest.mark.parametrize("titles", [["0", "1", "2"], ["a long title of an image", "short", "x"]])
def test_titles_stand_above_their_images_and_do_not_touch(titles):
    figure = figures.image_grid(torch.zeros(3, 1, 8, 8), titles=titles)
    placed = texts(figure)
    assert list(placed) == titles
    height, width = draw(figure).shape[:2]
    for left, right in itertools.pairwise(placed.values()):
        assert left.x1 < right.x0
    for box in placed.values():
        assert 0 <= box.x0 <= box.x1 <= width
        assert height - LINE * figure.dpi - 1 < box.y0 <= box.y1 <= height  # above where the images begin


def test_image_strip_puts_rows_below_each_other_with_labels():
    greys = torch.linspace(0, 1, 6).view(2, 3, 1, 1, 1).expand(2, 3, 1, 8, 8)
    headings = ["t = 0", "t = 1", "t = 2"]
    figure = figures.image_strip(greys, headings, row_labels=["cat", "flower"])
    canvas, placed = draw(figure), texts(figure)
    assert placed["cat"].y0 > placed["flower"].y1
    assert figure.axes[0].texts[3].get_rotation() == 90
    for row, label in enumerate(("cat", "flower")):
        for column, heading in enumerate(headings):
            x = (placed[heading].x0 + placed[heading].x1) / 2
            y = canvas.shape[0] - (placed[label].y0 + placed[label].y1) / 2
            assert abs(int(canvas[int(y), int(x), 0]) - 255 * (3 * row + column) / 5) <= 1
    as_list = figures.image_strip(list(greys), headings, row_labels=["cat", "flower"])
    assert np.array_equal(draw(as_list), canvas)
    assert list(texts(figures.image_strip(greys[0], range(3)))) == ["0", "1", "2"]  # one row needs no label


def test_compare_grids_puts_one_left_and_one_right_under_their_titles():
    images = torch.zeros(9, 1, 8, 8), torch.full((7, 1, 8, 8), 0.5)
    figure = figures.compare_grids(*images, ("black", "grey"), columns=3)
    titles, below_titles = texts(figure), draw(figure)[int(LINE * figure.dpi) + 5 :, :, 0]
    black, grey = (np.flatnonzero((below_titles == value).any(0)) for value in (0, 128))
    assert black.max() < grey.min() - 10  # screen pixels
    assert len(np.unique(below_titles)) == 3
    for title, columns in ((titles["black"], black), (titles["grey"], grey)):
        assert (title.x0 + title.x1) / 2 == pytest.approx((columns.min() + columns.max()) / 2, abs=2)
