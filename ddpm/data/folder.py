"""A folder of pictures as a data set: what cannot be read is named and left out."""

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ddpm.checks import check_image_size
from ddpm.data.images import PrepareImage, read_image

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".tiff", ".tif", ".bmp")
_NAMED = 10  # files in one message; `FolderDataset.unreadable` holds all


class FolderDataset(Dataset[Tensor]):
    """Images that are read from their files when they are asked for.

    Attributes:
        paths: the files, in order.
        unreadable: files that were left out, with the reason.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        prepare: Callable[[Image.Image], Tensor],
        *,
        unreadable: dict[Path, str] | None = None,
    ) -> None:
        self.paths, self.prepare, self.unreadable = list(paths), prepare, unreadable or {}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        path = self.paths[index]
        try:
            return self.prepare(read_image(path))
        except Exception as error:  # as in `_look_at`; the file's name is what helps
            raise RuntimeError(f"cannot read the image {path}: {_reason(error)}") from error


def image_folder(
    path: str | Path,
    image_size: int | tuple[int, int],
    *,
    channels: int = 3,
    augment_horizontal_flip: bool = False,
    check: bool = True,
) -> FolderDataset:
    """All images below a folder, at any depth: .jpg .jpeg .png .webp .tiff .tif .bmp, in capitals or not.

    EXIF orientation is respected, 16-bit greys are scaled to 8 bits; of a file with several pictures the first is
    taken. Size, channels and mirroring are those of `PrepareImage`. The images, without labels, are in the order of
    their paths.

    `check` decodes every file now, in threads, and leaves out what cannot be read, with one warning; another warning
    says how many are smaller than `image_size` and have to be enlarged. A truncated JPEG has an intact header and shows
    only when it is decoded to the end, so this costs about as much as reading all images once. Without it, a broken
    file raises an error that names it, in its turn.

    Raises:
        ValueError: if an argument is not allowed, or the folder holds no image, or none that can be read.
        NotADirectoryError: if the path is not a folder.
    """
    prepare = PrepareImage(image_size, channels, augment_horizontal_flip)
    paths = _find_images(Path(path))
    sizes, unreadable = _look_at(paths) if check else ({}, {})
    if unreadable:
        message = f"{len(unreadable)} of {len(paths)} images in {path} cannot be read: {_listed(unreadable)}"
        if len(unreadable) == len(paths):
            raise ValueError(message)
        warnings.warn(f"left out: {message}", stacklevel=2)
    _warn_of_small(sizes, check_image_size(image_size), path)
    return FolderDataset([file for file in paths if file not in unreadable], prepare, unreadable=unreadable)


def _find_images(folder: Path) -> list[Path]:
    """The image files below a folder, sorted by path."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise NotADirectoryError(f"{folder} {what}; give the path of a folder that holds images")
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    images = [file for file in files if file.suffix.lower() in IMAGE_EXTENSIONS]
    if not images:
        extensions = " ".join(IMAGE_EXTENSIONS)
        raise ValueError(
            f"{folder} holds no image: none of its {len(files)} files ends in one of {extensions}"
        )
    return images


def _look_at(paths: Sequence[Path]) -> tuple[dict[Path, tuple[int, int]], dict[Path, str]]:
    """Decode every file: (height, width) of those that can be, the reason of those that cannot; in the order given."""

    def look(path: Path) -> tuple[int, int] | str:
        try:
            image = read_image(path)
        # Pillow's decoders raise many kinds; whichever it is, its words are passed on.
        except Exception as error:
            return _reason(error)
        return image.height, image.width

    # Threads suffice: Pillow decodes without holding the GIL.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(zip(paths, pool.map(look, paths), strict=True))
    sizes = {path: answer for path, answer in found.items() if isinstance(answer, tuple)}
    return sizes, {path: answer for path, answer in found.items() if isinstance(answer, str)}


def _listed(problems: dict[Path, str]) -> str:
    """The first of the unreadable files, with reasons, and how many more there are."""
    named = [f"{path} ({reason})" for path, reason in list(problems.items())[:_NAMED]]
    more = len(problems) - len(named)
    return "; ".join(named) + (f"; and {more} more" if more else "")


def _reason(error: Exception) -> str:
    """The error's words, or its kind where it has none."""
    return str(error) or type(error).__name__


def _warn_of_small(sizes: dict[Path, tuple[int, int]], wanted: tuple[int, int], folder: str | Path) -> None:
    """Say which images have to be enlarged: that adds pixels, but nothing to learn from."""
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
