"""Photographs, as float32 in [0, 1]: two that come with scikit-image and scikit-learn, and 64 of Fashion-MNIST.

Of the two a square of 300 pixels is resized to `size`, a whole number of at least 1: the shape is (3, size, size).
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.data import chelsea
from sklearn.datasets import load_sample_image
from torch import Tensor

from ddpm.data.images import PrepareImage

# left, upper, right, lower edge of a square in the photograph, in pixels
CAT_FACE = (85, 0, 385, 300)
FLOWER_HEAD = (158, 71, 458, 371)


def cat_photograph(size: int = 64) -> Tensor:
    """Chelsea the cat, from scikit-image: her face."""
    return PrepareImage(size, 3)(Image.fromarray(chelsea()).crop(CAT_FACE))


def flower_photograph(size: int = 64) -> Tensor:
    """The dahlia from scikit-learn: its head."""
    return PrepareImage(size, 3)(Image.fromarray(load_sample_image("flower.jpg")).crop(FLOWER_HEAD))


def fashion_test_images() -> Tensor:
    """The first 64 test images of Fashion-MNIST; shape (64, 1, 28, 28)."""
    with Image.open(Path(__file__).with_name("fashion-mnist-test.png")) as picture:
        rows = torch.from_numpy(np.asarray(picture) / np.float32(255)).view(8, 28, 8, 28)
    return rows.transpose(1, 2).reshape(64, 1, 28, 28)
