"""The order in which training sees the images: endless, shuffled, and a function of the position alone.

Nothing here has a state that could be lost. Which images make up a batch, and every random number that a data set draws
while it loads them, follow from the seed and from how many images went before, so a run that is taken up again sees
what it would have seen.
"""

import contextlib
import random
import signal
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ddpm.data.images import PrepareImage


class Purpose(IntEnum):
    """What a seed is for: two purposes never share one."""

    ORDER = 1
    LOADING = 2
    LEVELS = 3
    NOISE = 4
    PROCESS = 5


def mixed_seed(purpose: Purpose, *numbers: int) -> int:
    """One seed from several numbers, far from those of neighbouring numbers and of other purposes."""
    return int(np.random.SeedSequence((purpose, *numbers)).generate_state(1, np.uint64)[0])


@dataclass(frozen=True)
class Batch:
    """Which images to load, and under which seed.

    Attributes:
        indices: their places in the data set.
        seed: for whatever is drawn while they are loaded.
    """

    indices: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class ShuffledBatches(Sampler[Batch]):
    """Batches for one process, without end: every image once before any image comes again.

    Attributes:
        size: images in the data set.
        batch_size: images per batch of one process.
        seed: of the order.
        start: how many images all processes together have had before.
        rank: this process.
        world_size: number of processes; they share out each stretch of `world_size` · `batch_size` images.
    """

    size: int
    batch_size: int
    seed: int
    start: int = 0
    rank: int = 0
    world_size: int = 1

    def __iter__(self) -> Iterator[Batch]:
        """The batches from `start` on."""
        position = self.start + self.rank * self.batch_size
        while True:
            places = range(position, position + self.batch_size)
            yield Batch(tuple(map(self.index, places)), mixed_seed(Purpose.LOADING, self.seed, position))
            position += self.world_size * self.batch_size

    def index(self, position: int) -> int:
        """The image at this position of the endless order."""
        epoch, place = divmod(position, self.size)
        return int(shuffle(self.size, self.seed, epoch)[place])


@lru_cache(maxsize=2)  # a batch may lie across the seam between two epochs
def shuffle(size: int, seed: int, epoch: int) -> np.ndarray:
    """The order of one epoch."""
    return np.random.default_rng(mixed_seed(Purpose.ORDER, seed, epoch)).permutation(size)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Set the global generators of torch, NumPy and Python, and put them back afterwards."""
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002 (transforms use it)
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        random.setstate(kept[2])


class SeededBatches(Dataset[tuple[Tensor, Tensor | None]]):
    """A data set whose items are whole batches: images in [0, 1], and labels if they are wanted."""

    def __init__(
        self, dataset: Dataset[Any], image_shape: tuple[int, int, int], *, num_classes: int | None
    ) -> None:
        """Check the first item, so that a data set of another kind is refused before work starts.

        Args:
            dataset: any map-style data set of images, or of (image, label, …). An image is a float tensor in [0, 1] of
                `image_shape`, a uint8 tensor of that shape, or a Pillow image, which is resized and cut.
            image_shape: (C, H, W).
            num_classes: labels 0 … num_classes − 1 are wanted; None if none are.

        Raises:
            ValueError: if the data set is empty, or its first item is not of that kind.
            TypeError: if it is no map-style data set.
        """
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise TypeError(
                "the data must be a folder or a map-style data set, with a length and numbered items, but got"
                f" {type(dataset).__name__}"
            )
        self.dataset, self.image_shape, self.num_classes = dataset, image_shape, num_classes
        self.prepare = PrepareImage(image_shape[1:], image_shape[0])
        if len(self) == 0:
            raise ValueError("the data set is empty: give one that holds at least one image")
        with seeded(0):
            self.load(0)

    def __len__(self) -> int:
        """Number of images."""
        return len(cast(Sized, self.dataset))

    def __getitem__(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The batch's images, shape (B, C, H, W), and their labels, shape (B,), or None."""
        with seeded(batch.seed):
            items = [self.load(index) for index in batch.indices]
        images = torch.stack([image for image, _ in items])
        if not (images.min() >= 0 and images.max() <= 1):  # this way round, so that NaN is refused as well
            wrong = [i for i, (image, _) in zip(batch.indices, items, strict=True) if not is_unit(image)]
            raise ValueError(
                f"images must be in [0, 1], but the data set's image number {wrong[0]} is not; a transform such as"
                " Normalize has to go, since the trainer scales the images itself"
            )
        return images, None if self.num_classes is None else torch.tensor([label for _, label in items])

    def load(self, index: int) -> tuple[Tensor, int]:
        """One image and its label (0 where labels are not wanted)."""
        item = self.dataset[index]
        parts = list(item) if isinstance(item, tuple | list) else [item]
        return self.to_image(parts[0], index), 0 if self.num_classes is None else self.to_label(parts, index)

    def to_label(self, parts: list[Any], index: int) -> int:
        """The label of an item, which stands behind its image."""
        if len(parts) < 2:
            raise ValueError(
                "the network takes class labels (num_classes), so the data set must give pairs (image, label), but"
                f" item {index} is an image alone"
            )
        label = int(parts[1])
        if not 0 <= label < (self.num_classes or 0):
            raise ValueError(
                f"the network takes the classes 0 … {(self.num_classes or 0) - 1} (num_classes={self.num_classes}),"
                f" but item {index} of the data set has the label {label}"
            )
        return label

    def to_image(self, image: object, index: int) -> Tensor:
        """A float tensor of the model's shape."""
        if isinstance(image, Image.Image):
            return self.prepare(image)
        if not isinstance(image, Tensor) or tuple(image.shape) != self.image_shape:
            given = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise ValueError(
                f"the model takes images of shape {self.image_shape}, but the data set's image number {index} is"
                f" {given}; resize the data, or build the model with its channels and image_size"
            )
        return image.float() / 255 if image.dtype == torch.uint8 else image.float()


def is_unit(image: Tensor) -> bool:
    """Whether all values lie in [0, 1]."""
    return bool(image.min() >= 0 and image.max() <= 1)


def leave_signals_alone(_: int) -> None:
    """Let the training process alone answer Ctrl-C, which reaches the whole group; SIGTERM ends a loader as usual."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def loader(
    batches: SeededBatches, order: ShuffledBatches, *, num_workers: int, pin_memory: bool
) -> DataLoader[tuple[Tensor, Tensor | None]]:
    """Loads the batches of `order`, ahead of time if there are workers."""
    return DataLoader(
        batches,
        worker_init_fn=leave_signals_alone,
        batch_size=None,  # an item is a batch already
        sampler=order,
        num_workers=num_workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # its own, so that it takes nothing from the global one
    )
