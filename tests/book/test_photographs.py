"""The photographs of the chapters are squares of the pictures that they come from, resized with antialiasing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import chelsea
from sklearn.datasets import load_sample_image

from ddpm.book import photographs
from tests.data.pictures import assert_eight_bit


@pytest.mark.parametrize(
    ("photograph", "source", "left", "upper"),
    [
        (photographs.cat_photograph, chelsea(), 85, 0),
        (photographs.flower_photograph, load_sample_image("flower.jpg"), 158, 71),
    ],
)
def test_photographs(photograph, source, left, upper):
    square = source[upper : upper + 300, left : left + 300] / 255
    full, little = photograph(300), photograph(30)
    assert np.allclose(full.permute(1, 2, 0), square, atol=1e-6)
    assert little.shape == (3, 30, 30)
    assert_eight_bit(little)
    # Antialiasing averages: a pixel of the small picture is near the mean of its 10 × 10 block, not one of its pixels.
    blocks = square.reshape(30, 10, 30, 10, 3)
    from_mean = np.abs(little.permute(1, 2, 0).numpy() - blocks.mean((1, 3))).mean()
    from_one = np.abs(little.permute(1, 2, 0).numpy() - blocks[:, 5, :, 5]).mean()
    assert from_mean < 0.01 < from_one


@pytest.mark.parametrize("size", [0, 2.5, (64,)])
def test_photographs_refuse_a_size_that_is_none(size):
    with pytest.raises(ValueError, match="whole number >= 1"):
        photographs.cat_photograph(size)


def test_fashion_test_images_are_one_by_one_as_on_the_sheet():
    images = photographs.fashion_test_images()
    sheet = np.asarray(Image.open(Path(photographs.__file__).with_name("fashion-mnist-test.png")))
    assert (images.shape, images.dtype) == ((64, 1, 28, 28), torch.float32)
    assert_eight_bit(images)
    for number in (0, 9, 63):
        row, column = divmod(number, 8)
        cut = sheet[28 * row : 28 * row + 28, 28 * column : 28 * column + 28]
        assert np.array_equal((images[number, 0] * 255).round().numpy(), cut)
