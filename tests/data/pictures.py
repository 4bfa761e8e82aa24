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


def write_mnist(root, *, train=6, test=3):
    """The files of a small MNIST, Fashion-MNIST and EMNIST letters, labelled 0, 1, 2, …; returns the images by part.

    The IDX format: zero, zero, 8 (unsigned bytes), number of axes, their lengths, the bytes.
    """
    images = {part: RANDOM.integers(0, 256, (n, 28, 28)) for part, n in (("train", train), ("test", test))}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        for kind, content in (("images-idx3", images[part]), ("labels-idx1", np.arange(len(images[part])))):
            lengths = b"".join(length.to_bytes(4, "big") for length in content.shape)
            for name in (
                f"MNIST/raw/{prefix}",
                f"FashionMNIST/raw/{prefix}",
                f"EMNIST/raw/emnist-letters-{part}",
            ):
                path = root / f"{name}-{kind}-ubyte"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(
                    bytes([0, 0, 8, content.ndim]) + lengths + content.astype(np.uint8).tobytes()
                )
    return images


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
