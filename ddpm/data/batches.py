"""From single images to batches: any map-style data set, checked, each batch under a seed of its own."""

import contextlib
import random
import signal
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ddpm.data.folder import image_folder
from ddpm.data.images import PrepareImage
from ddpm.diffusion import GaussianDiffusion


@dataclass(frozen=True)
class Batch:
    """Which images of a data set to load, and the seed of whatever is drawn while they are loaded."""

    indices: tuple[int, ...]
    seed: int


class SeededBatches(Dataset[tuple[Tensor, Tensor | None]]):
    """A data set whose items are whole batches: images in [0, 1], and labels 0 … `num_classes` − 1, or None.

    It is made of a map-style data set of images, or of (image, label, …). An image is a float tensor in [0, 1] of
    `image_shape`, (C, H, W), a uint8 tensor of that shape, or a Pillow image, which is resized and cropped. Other data
    are refused at once, by their first item.
    """

    def __init__(
        self, dataset: Dataset[Any], image_shape: tuple[int, int, int], *, num_classes: int | None
    ) -> None:
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise TypeError(
                "the data must be a folder or a map-style data set, with a length and numbered items, but got"
                f" {type(dataset).__name__}"
            )
        self.dataset, self.image_shape, self.num_classes = dataset, image_shape, num_classes
        self._prepare = PrepareImage(image_shape[1:], image_shape[0])
        if len(self) == 0:
            raise ValueError("the data set is empty: give one that holds at least one image")
        with seeded(0):
            self._load(0)

    def __len__(self) -> int:
        """Number of images."""
        return len(cast(Sized, self.dataset))

    def __getitem__(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The batch's images, shape (B, C, H, W), and their labels, shape (B,), or None."""
        with seeded(batch.seed):
            items = [self._load(index) for index in batch.indices]
        images = torch.stack([image for image, _ in items])
        if not _is_unit(images):
            wrong = [i for i, (image, _) in zip(batch.indices, items, strict=True) if not _is_unit(image)]
            raise ValueError(
                f"images must be in [0, 1], but the data set's image number {wrong[0]} is not; a transform such as"
                " Normalize has to go, since the trainer scales the images itself"
            )
        return images, None if self.num_classes is None else torch.tensor([label for _, label in items])

    def check_batch_size(self, batch_size: int, processes: int) -> None:
        """Refuse batches that together are larger than the data."""
        if batch_size * processes > len(self):
            raise ValueError(
                f"train_batch_size={batch_size} on {processes} process(es) takes more images at a time than the"
                f" {len(self)} there are; lower it to {max(1, len(self) // processes)}, or add images"
            )

    def _load(self, index: int) -> tuple[Tensor, int]:
        """One image and its label (0 where labels are not wanted)."""
        item = self.dataset[index]
        image, *others = item if isinstance(item, tuple | list) else (item,)
        return self._to_image(image, index), self._to_label(others, index)

    def _to_label(self, others: list[Any], index: int) -> int:
        """The label, which comes after the image."""
        if self.num_classes is None:
            return 0
        if not others:
            raise ValueError(
                "the network takes class labels (num_classes), so the data set must give pairs (image, label), but"
                f" item {index} is an image alone"
            )
        label = int(others[0])
        if not 0 <= label < self.num_classes:
            raise ValueError(
                f"the network takes the classes 0 … {self.num_classes - 1} (num_classes={self.num_classes}), but item"
                f" {index} of the data set has the label {label}"
            )
        return label

    def _to_image(self, image: object, index: int) -> Tensor:
        """A float tensor of the model's shape."""
        if isinstance(image, Image.Image):
            return self._prepare(image)
        if not isinstance(image, Tensor) or tuple(image.shape) != self.image_shape:
            given = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise ValueError(
                f"the model takes images of shape {self.image_shape}, but the data set's image number {index} is"
                f" {given}; resize the data, or build the model with its channels and image_size"
            )
        return image.float() / 255 if image.dtype == torch.uint8 else image.float()


def open_batches(
    data: str | Path | Dataset[Any], diffusion: GaussianDiffusion, *, flip: bool
) -> SeededBatches:
    """The data as the model takes them, from the path of a folder or a data set; `flip` is for a folder alone."""
    if isinstance(data, str | Path):
        data = image_folder(
            data, diffusion.image_size, channels=diffusion.channels, augment_horizontal_flip=flip
        )
    classes = getattr(diffusion.network, "num_classes", None)
    return SeededBatches(data, diffusion.image_shape, num_classes=classes)


def _is_unit(images: Tensor) -> bool:
    """Whether all values lie in [0, 1]; NaN does not."""
    return bool(images.min() >= 0 and images.max() <= 1)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Set the global generators of torch, NumPy and Python, and put them back afterwards."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002 (transforms use it)
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        random.setstate(before[2])


def loader(
    batches: SeededBatches, order: Sampler[Batch], *, num_workers: int, pin_memory: bool
) -> DataLoader[tuple[Tensor, Tensor | None]]:
    """Loads the batches of `order`, ahead of time if there are workers."""
    return DataLoader(
        batches,
        worker_init_fn=_leave_signals_alone,
        batch_size=None,  # an item is a batch already
        sampler=order,
        num_workers=num_workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # its own, so that it takes nothing from the global one
    )


def _leave_signals_alone(_: int) -> None:
    """Let the training process alone answer Ctrl-C, which reaches the whole group; SIGTERM ends a worker as usual."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
