"""From single images to batches: any map-style data set, checked, each batch under a seed of its own."""

import contextlib
import random
import signal
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from ddpm.data import items
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

    It is made of a map-style data set of images, or of (image, label, …). An image is a tensor or array of
    `image_shape`, (C, H, W), of floats in [0, 1] or of uint8, or a Pillow image, which is resized and cropped. A label
    is a whole number of any kind. Other data are refused at once, by their first item.

    Items are fetched by the batch where the data set can (`__getitems__`), and a `TensorDataset` by its tensors.
    """

    def __init__(
        self, dataset: Dataset[Any], image_shape: tuple[int, int, int], *, num_classes: int | None
    ) -> None:
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise TypeError(
                "the data must be a folder or a map-style data set, with a length and numbered items, but got"
                f" {type(dataset).__name__}{_about_loaders(dataset)}"
            )
        if isinstance(dataset, Mapping) and dataset and 0 not in dataset:
            names = list(map(repr, dataset))
            raise TypeError(
                f"the data must be one data set, with numbered items, but got a {type(dataset).__name__} of"
                f" {', '.join(names)}; give one of them, data[{names[0]}]"
            )
        self.dataset, self.image_shape, self.num_classes = dataset, image_shape, num_classes
        self._prepare = PrepareImage(image_shape[1:], image_shape[0])
        if len(self) == 0:
            raise ValueError("the data set is empty: give one that holds at least one image")
        self[Batch((0,), 0)]

    def __len__(self) -> int:
        """Number of images."""
        return len(cast(Sized, self.dataset))

    def __getitem__(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The batch's images, shape (B, C, H, W), and their labels, shape (B,), or None."""
        images, labels = self._from_tensors(batch) or self._from_items(batch)
        if not _is_unit(images):
            pairs = zip(batch.indices, images, strict=True)
            index, image = next((i, image) for i, image in pairs if not _is_unit(image))
            raise ValueError(
                f"images must be in [0, 1], but the data set's image number {index} {_about_values(image)}"
            )
        return images, labels

    def check_batch_size(self, batch_size: int, processes: int) -> None:
        """Refuse batches that together are larger than the data."""
        if batch_size * processes > len(self):
            raise ValueError(
                f"train_batch_size={batch_size} on {processes} process(es) takes more images at a time than the"
                f" {len(self)} there are; lower it to {max(1, len(self) // processes)}, or add images"
            )

    def _from_tensors(self, batch: Batch) -> tuple[Tensor, Tensor | None] | None:
        """The batch out of a `TensorDataset` that has what is wanted, at once; None for anything else.

        Whatever is amiss there is worded by `_from_items`.
        """
        if type(self.dataset) is not TensorDataset or any(
            t.device.type != "cpu" for t in self.dataset.tensors
        ):
            return None
        images, *others = self.dataset.tensors
        if tuple(images.shape[1:]) != self.image_shape or not items.is_image_type(images.dtype):
            return None
        where = torch.tensor(batch.indices, device="cpu")
        scaled = items.scaled(images[where])
        if self.num_classes is None:
            return scaled, None
        if not others or others[0].ndim != 1 or others[0].dtype != torch.int64:
            return None
        labels = others[0][where]
        return (scaled, labels) if labels.min() >= 0 and labels.max() < self.num_classes else None

    def _item(self, index: int) -> Any:
        """An item; of an error within the data set it is said at which."""
        try:
            return self.dataset[index]
        except Exception as error:
            error.add_note(f"That was item {index} of the data set.")
            raise

    def _from_items(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The batch out of single items."""
        fetch = getattr(self.dataset, "__getitems__", None)
        with seeded(batch.seed):
            if fetch is None:
                given = [self._item(index) for index in batch.indices]
            else:
                given = list(fetch(list(batch.indices)))
            if len(given) != len(batch.indices):
                raise ValueError(
                    f"asked for {len(batch.indices)} items, the data set's __getitems__ gave {len(given)}"
                )
            pairs = [items.unpacked(item, place) for item, place in zip(given, batch.indices, strict=True)]
            images = [
                items.to_image(image, place, self.image_shape, self._prepare)
                for (image, _), place in zip(pairs, batch.indices, strict=True)
            ]
        # Where a loader can hand them on, whatever torch's default is.
        images = torch.stack(images).cpu()
        if self.num_classes is None:
            return images, None
        labels = [
            items.to_label(others, place, self.num_classes)
            for (_, others), place in zip(pairs, batch.indices, strict=True)
        ]
        return images, torch.tensor(labels, device="cpu")


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


def _about_loaders(data: object) -> str:
    """What to give in place of what makes batches already, or of a stream."""
    if isinstance(data, DataLoader):
        return "; give its `.dataset`, of which the trainer makes batches itself"
    return "; of one that fits into memory give list(…)" if isinstance(data, Iterable) else ""


def _about_values(image: Tensor) -> str:
    """What is wrong with an image that is not in [0, 1], and what to do."""
    if not image.isfinite().all():
        return "has pixels that are no finite numbers (NaN); mend it, or leave it out"
    if image.max() > 2 and image.min() >= 0:
        return f"reaches {image.max():g}; divide by the largest value there can be, such as 255"
    return "is not; a transform such as Normalize has to go, since the trainer scales the images itself"


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
