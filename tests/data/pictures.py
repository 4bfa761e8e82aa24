"""Picture files for the tests."""

import numpy as np
import torch
from PIL import Image

from ddpm import data

RANDOM = np.random.default_rng(0)


def write_images(folder, names, size=(12, 10)):
    """Small colour pictures under these names; the folders in them are made."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RANDOM.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)


def read_one(folder, image_size, **options):
    """The only image of a folder."""
    dataset = data.image_folder(folder, image_size, **options)
    assert len(dataset) == 1
    return dataset[0]


def assert_eight_bit(images):
    assert images.dtype == torch.float32
    assert torch.equal((images * 255).round() / 255, images)
    assert images.min() >= 0
    assert images.max() <= 1
