"""A folder of pictures as a data set: what is left out is counted and named."""

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ddpm.data import files
from ddpm.data.cache import PreparedImages, prepare_all
from ddpm.data.images import SEVERAL, PrepareImage, read_sized
from ddpm.data.looking import Look, look_at, quietly, reason
from ddpm.data.names import described, known_name
from ddpm.io.paths import expanded
from ddpm.support.checks import check_choice, check_image_size

_NAMED = 10  # files in one message; `FolderDataset.unreadable` holds all


class FolderDataset(Dataset[Any]):
    """Images that are read from their files when they are asked for, or from a cache of prepared ones.

    Attributes:
        paths: the files, in order.
        classes: the names of the sub-folders, where these are classes; an item is then (image, label). Else None.
        unreadable: pictures that were left out as they cannot be read, with the reason.
        left_out: what else was left out, with the reason: hidden files, other endings, links that lead nowhere.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        prepare: Callable[[Image.Image], Tensor],
        *,
        unreadable: dict[Path, str] | None = None,
        left_out: dict[Path, str] | None = None,
        noisy: frozenset[Path] | None = None,
        prepared: tuple[PreparedImages | Tensor, Sequence[int]] | None = None,
        classes: Mapping[Path, str] | None = None,
    ) -> None:
        self.paths, self.prepare = list(paths), prepare
        self.unreadable, self.left_out = unreadable or {}, left_out or {}
        # Files that Pillow warns of, which has been said, and files that it is silent about; None are all others.
        self._noisy, self._silent = set(noisy or ()), None if noisy is not None else set[Path]()
        self._prepared = prepared  # and the row of each image in it
        self.classes = None if classes is None else sorted(set(classes.values()))
        numbers = {name: number for number, name in enumerate(self.classes or ())}
        self._labels = [] if classes is None else [numbers[classes[path]] for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The items of a batch, as torch's loaders ask for them."""
        images = self._images(indices)
        if self.classes is None:
            return images
        return [(image, self._labels[index]) for image, index in zip(images, indices, strict=True)]

    def as_if_cached(self) -> "FolderDataset":
        """The data set as a cache would give it, but black: to be timed, without a cache being written."""
        cached = copy.copy(self)
        cached._prepared = torch.zeros(1, *self._images([0])[0].shape, dtype=torch.uint8), [0] * len(self)
        return cached

    def _images(self, indices: Sequence[int]) -> list[Tensor]:
        if self._prepared is None or not isinstance(self.prepare, PrepareImage):
            return [self._read(self.paths[index]) for index in indices]
        images, rows = self._prepared
        return [self.prepare.finished(pixels) for pixels in images[[rows[index] for index in indices]]]

    def _read(self, path: Path) -> Tensor:
        """One image from its file; what Pillow says of it is said once, with the file's name."""
        silent = path not in self._noisy if self._silent is None else path in self._silent
        try:
            if silent:
                return self._prepared_from(path)
            image, said = quietly(self._prepared_from, path)
        except Exception as error:  # as in `look_at`; the file's name is what helps
            raise RuntimeError(f"cannot read the image {path}: {reason(error)}") from error
        if path not in self._noisy and (others := _others(said)):
            warnings.warn(f"{path}: {'; '.join(others)}", stacklevel=2)
        if self._silent is not None:
            (self._noisy if said else self._silent).add(path)
        return image

    def _prepared_from(self, path: Path) -> Tensor:
        size = self.prepare.image_size if isinstance(self.prepare, PrepareImage) else None
        return self.prepare(read_sized(path, size)[0])


def image_folder(
    path: str | Path,
    image_size: int | tuple[int, int],
    *,
    channels: int = 3,
    augment_horizontal_flip: bool = False,
    check: bool = True,
    cache: str | Path | None = None,
    classes: Literal["folders"] | None = None,
) -> FolderDataset:
    """All images below a folder, at any depth, behind links too: every ending that Pillow can read, in capitals or not.

    EXIF orientation is respected, 16-bit greys are scaled to 8 bits; of a file with several pictures the first is
    taken. Size, channels and mirroring are those of `PrepareImage`; a large JPEG is decoded at a reduced scale, as
    `ddpm.data.images.read_image` says. The images are in the order of their paths, without labels, or with `classes`
    "folders" as pairs (image, label): label i is the i-th of the folder's sub-folders, whose names are `.classes`.

    What is hidden (.thumbnails, ._x.png), lies in the folder of a training run or has another ending is left out; one
    warning counts and names it, and `FolderDataset.left_out` has all.

    `check` decodes every file now, in threads, and leaves out what cannot be read, with one warning; other warnings say
    how many are smaller than `image_size` and have to be enlarged, and what Pillow said of which file. A truncated JPEG
    has an intact header and shows only when it is decoded to the end, so this costs about as much as reading all images
    once. Without it, a broken file raises an error that names it, in its turn.

    `cache` is a folder, such as "prepared" in that of a run, for the images as they are after resizing: made now, it is
    what epochs and later starts read. Only files that are new or have changed are decoded again, and the images are the
    same, bit for bit. It takes C·H·W bytes an image, and one folder may serve several sizes.

    Raises:
        ValueError: if an argument is not allowed, or the folder holds no image, or none that can be read.
        NotADirectoryError: if the path is not a folder.
        OSError: if the folder cannot be read, or the cache not be written.
    """
    prepare, folder = PrepareImage(image_size, channels, augment_horizontal_flip), expanded(path)
    found = _found(folder, path)
    if classes is not None:
        check_choice("classes", classes, ["folders"])
        files.class_folders(folder, found.images)
    looks, prepared = {}, None
    if cache is not None:
        looks, prepared = prepare_all(found.images, folder, prepare, expanded(cache))
    elif check:
        looks = _looks(found.images, folder, prepare)
    unreadable = {file: look.problem for file, look in looks.items() if look.problem}
    if unreadable:
        message = (
            f"{len(unreadable)} of {len(found.images)} images in {path} cannot be read: {_listed(unreadable)}"
        )
        if len(unreadable) == len(found.images):
            raise ValueError(message)
        warnings.warn(f"left out: {message}", stacklevel=2)
    if left_out := files.described(found, folder):
        warnings.warn(f"left out of {path}: {left_out}", stacklevel=2)
    said = {file: look.said for file, look in looks.items() if look.said and not look.problem}
    _warn_of_what_was_said(said, path, folder)
    _warn_of_small(looks, check_image_size(image_size), path)
    rows = [row for row, file in enumerate(found.images) if file not in unreadable]
    return FolderDataset(
        [found.images[row] for row in rows],
        prepare,
        unreadable=unreadable,
        left_out=found.left_out,
        noisy=frozenset(said) if looks else None,
        prepared=None if prepared is None else (prepared, rows),
        classes=classes and {file: file.relative_to(folder).parts[0] for file in found.images},
    )


def _found(folder: Path, word: str | Path) -> files.Found:
    """The files below a folder, among them at least one image."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        meant = f"; for {described(word)}: ddpm.data.load_dataset({word!r})" if known_name(word) else ""
        raise NotADirectoryError(f"{folder} {what}; give the path of a folder that holds images{meant}")
    found = files.find_images(folder)
    if not found.images:
        left_out = files.described(found, folder)
        count = sum(why != files.EMPTY for why in found.left_out.values())
        raise ValueError(
            f"{folder} holds no image: none of its {count} files ends in one of"
            f" {' '.join(files.picture_endings())}{left_out and f' (left out: {left_out})'}"
        )
    return found


def _looks(paths: Sequence[Path], folder: Path, prepare: PrepareImage) -> dict[Path, Look]:
    """What every file is, once decoded."""

    def read(path: Path) -> tuple[Any, tuple[int, int]]:
        return None, read_sized(path, prepare.image_size)[1]

    return {path: look for path, look, _ in look_at(paths, read, f"looking at the images in {folder}")}


def _warn_of_what_was_said(said: Mapping[Path, Sequence[str]], path: str | Path, folder: Path) -> None:
    """Say which files hold more than is taken of them, and what Pillow says of which."""
    if several := [file for file, words in said.items() if SEVERAL in words]:
        what = f"of {len(several)} images in {path} the first of several pictures is taken"
        warnings.warn(f"{what}: {files.some(several, folder)}", stacklevel=3)
    if noisy := {file: "; ".join(others) for file, words in said.items() if (others := _others(words))}:
        warnings.warn(f"of {len(noisy)} images in {path} Pillow says: {_listed(noisy)}", stacklevel=3)


def _others(said: Iterable[str]) -> list[str]:
    """What is said of one file, but for what is said of all such files together."""
    return [words for words in said if words != SEVERAL]


def _listed(problems: Mapping[Path, str]) -> str:
    """The first of the files, with what there is to say of them, and how many more there are."""
    named = [f"{path} ({words})" for path, words in list(problems.items())[:_NAMED]]
    more = len(problems) - len(named)
    return "; ".join(named) + (f"; and {more} more" if more else "")


def _warn_of_small(looks: Mapping[Path, Look], wanted: tuple[int, int], folder: str | Path) -> None:
    """Say which images have to be enlarged: that adds pixels, but nothing to learn from."""
    sizes = {file: look.size for file, look in looks.items() if look.size is not None}
    small = {file: size for file, size in sizes.items() if size[0] < wanted[0] or size[1] < wanted[1]}
    if not small:
        return
    file, (height, width) = next(iter(small.items()))
    warnings.warn(
        f"{len(small)} of {len(sizes)} images in {folder} are smaller than image_size {wanted[0]}×{wanted[1]} and are"
        f" enlarged, which blurs them (the first is {file}, {height}×{width}); leave them out, or choose an image_size"
        f" of at most {min(min(size) for size in sizes.values())}",
        stacklevel=3,
    )
