"""A small Fashion-MNIST in the files that torchvision looks for."""

from pathlib import Path

import numpy as np


def fashion_mnist(root: Path, *, train: int, test: int) -> np.ndarray:
    """Write so many random images, labelled 0, 1, 2, …; returns those for training, shape (train, 28, 28)."""
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (train + test, 28, 28))
    for prefix, part in (("train", images[:train]), ("t10k", images[train:])):
        for kind, content in (("images-idx3", part), ("labels-idx1", np.arange(len(part)))):
            header = bytes([0, 0, 8, content.ndim]) + b"".join(
                length.to_bytes(4, "big") for length in content.shape
            )
            (folder / f"{prefix}-{kind}-ubyte").write_bytes(header + content.astype(np.uint8).tobytes())
    return images[:train]
