"""Prepared images on disk: later epochs, and later starts, read pixels instead of decoding files.

A cache is a folder with two files for each size and number of channels: the pixels, as bytes, image after image,
and an index in JSON, which says of what file each came, and names the file of the pixels. The index is written last, so
that it never speaks of other pixels than its own. A file whose size or time of change is another is decoded anew.
"""

import contextlib
import errno
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from ddpm.data.files import find_images
from ddpm.data.images import PrepareImage, read_sized
from ddpm.data.looking import Look, look_at
from ddpm.io.files import json_bytes, naming_file, read_json, sha256, write_whole
from ddpm.support.checks import check_image_size

_FORMAT = 1  # to be raised when other pixels come of the same file
_INSTEAD = "choose another folder for the cache, or do without it"


class PreparedImages:
    """The pixels of a cache, by their place in it; what it holds of the file is read when it is first asked for."""

    def __init__(self, file: Path, count: int, shape: tuple[int, int, int]) -> None:
        self.file, self.count, self.shape = file, count, shape
        self._pixels: np.memmap | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the pixels, which a process that loads images maps for itself."""
        return self.__dict__ | {"_pixels": None}

    def __getitem__(self, rows: Sequence[int]) -> Tensor:
        """uint8 of shape (B, C, H, W), in memory of its own."""
        if self._pixels is None:
            self._pixels = np.memmap(self.file, np.uint8, "r", shape=(self.count, *self.shape))
        return torch.from_numpy(np.asarray(self._pixels[list(rows)]))


@dataclass(frozen=True)
class _Saved:
    """What a cache has: of every file its stamp and what it turned out to be, in the order of the pixels."""

    stamps: dict[Path, list[int]]
    looks: dict[Path, Look]
    pixels: PreparedImages | None


def prepare_all(
    paths: Sequence[Path], root: Path, prepare: PrepareImage, cache: Path
) -> tuple[dict[Path, Look], PreparedImages]:
    """What every file is, as `look_at` says it, and the pixels of all, in the order of the paths.

    Those that the cache has are taken from it; the others, if there are any, are decoded, and the cache is written
    again. Several processes that ask for the same one wait for the first.

    Raises:
        OSError: if the cache cannot be written; the one before stays.
    """
    shape = _shape(prepare)
    index = _index(cache, prepare)
    with naming_file(cache, "the cache of images ", _INSTEAD):
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / ".lock"):
            stamps, saved = {path: _stamp(path) for path in paths}, _read(index, root, shape)
            if _is_stale(saved, stamps, prepare, root):
                _write(index, root, stamps, prepare, saved)
                saved = _read(index, root, shape)
    if saved.pixels is None:
        raise OSError(
            errno.EIO, f"the cache of images {cache} cannot be read as it was written; do without it"
        )
    return saved.looks, saved.pixels


def is_fresh(root: Path, prepare: PrepareImage, cache: Path) -> bool:
    """Whether a cache has all images below a folder as they are now, so that `prepare_all` would write nothing."""
    saved = _read(_index(cache, prepare), root, _shape(prepare))
    return not _is_stale(saved, {path: _stamp(path) for path in find_images(root).images}, prepare, root)


def _index(cache: Path, prepare: PrepareImage) -> Path:
    """The file that says what the cache has of this size."""
    return cache / f"{'x'.join(map(str, _shape(prepare)))}.json"


def _is_stale(saved: _Saved, stamps: dict[Path, list[int]], prepare: PrepareImage, root: Path) -> bool:
    """Whether files came, went or changed; those that could not be read are tried again."""
    if saved.pixels is None or list(saved.stamps.items()) != list(stamps.items()):
        return True
    failed = [path for path, look in saved.looks.items() if look.problem]
    return any(not look.problem for _, look, _ in _decoded(failed, prepare, root))


def _decoded(
    paths: Sequence[Path], prepare: PrepareImage, root: Path
) -> Iterator[tuple[Path, Look, Tensor | None]]:
    """Every file, what it is, and its pixels."""

    def read(path: Path) -> tuple[Tensor, tuple[int, int]]:
        image, size = read_sized(path, prepare.image_size)
        return prepare.pixels(image), size

    return look_at(paths, read, f"preparing the images in {root}")


def _write(
    index: Path, root: Path, stamps: dict[Path, list[int]], prepare: PrepareImage, saved: _Saved
) -> None:
    """A new file of pixels, of old ones and decoded ones, then the index that names it; then the old file goes."""
    names = json_bytes([[str(path), *stamp] for path, stamp in stamps.items()])
    pixels = index.with_name(f"{index.stem}-{sha256(names)[:12]}-{os.getpid()}.u8")
    unfinished = pixels.with_name(f".{pixels.name}.part")
    for remains in index.parent.glob(f".{index.stem}-*.part"):  # of a killed process: this one has the lock
        remains.unlink(missing_ok=True)
    looks = {}
    try:
        with unfinished.open("wb") as file:
            for path, look, content in _all_pixels(stamps, prepare, root, saved):
                looks[path] = look
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(pixels)
    finally:
        unfinished.unlink(missing_ok=True)
    lines = [
        [path.relative_to(root).as_posix(), stamps[path], look.size, look.problem, look.said]
        for path, look in looks.items()
    ]
    write_whole(index, json_bytes({"format": _FORMAT, "pixels": pixels.name, "images": lines}))
    for other in index.parent.glob(f"{index.stem}-*.u8"):
        if other != pixels:
            with contextlib.suppress(OSError):  # Windows keeps what another process has open
                other.unlink()


def _all_pixels(
    stamps: dict[Path, list[int]], prepare: PrepareImage, root: Path, saved: _Saved
) -> Iterator[tuple[Path, Look, bytes]]:
    """Every file, what it is, and its pixels as bytes: black where it cannot be read."""
    places = {path: place for place, path in enumerate(saved.stamps) if saved.pixels is not None}
    kept = {
        path
        for path, stamp in stamps.items()
        if path in places and saved.stamps[path] == stamp and not saved.looks[path].problem
    }
    fresh = _decoded([path for path in stamps if path not in kept], prepare, root)
    black = bytes(math.prod(_shape(prepare)))
    with contextlib.closing(fresh):  # pyright: ignore[reportArgumentType]
        for path in stamps:
            if path in kept and saved.pixels is not None:
                look, pixels = saved.looks[path], saved.pixels[[places[path]]]
            else:
                _, look, pixels = next(fresh)
            yield path, look, black if pixels is None else pixels.numpy().tobytes()


def _shape(prepare: PrepareImage) -> tuple[int, int, int]:
    """(C, H, W) of the images; to be kept they have to be of one shape."""
    if prepare.image_size is None or prepare.channels is None:
        raise ValueError(f"a cache of images needs their size and channels, but got {prepare}")
    return (prepare.channels, *check_image_size(prepare.image_size))


def _stamp(path: Path) -> list[int]:
    """What shows that a file has changed: its size and the time of the change; zeros where there is none."""
    try:
        status = path.stat()
    except OSError:
        return [0, 0]
    return [status.st_size, status.st_mtime_ns]


def _read(index: Path, root: Path, shape: tuple[int, int, int]) -> _Saved:
    """What the cache has; nothing, with a warning, if it is damaged."""
    nothing = _Saved({}, {}, None)
    if not index.is_file():
        return nothing
    try:
        content = read_json(index)
        if content["format"] != _FORMAT:
            return nothing
        stamps = {root / name: list(stamp) for name, stamp, *_ in content["images"]}
        looks = {
            root / name: Look(None if size is None else tuple(size), problem, tuple(said))
            for name, _, size, problem, said in content["images"]
        }
        file = index.parent / Path(content["pixels"]).name
        expected = len(stamps) * math.prod(shape)
        if file.stat().st_size != expected:
            raise ValueError(f"{file.name} has {file.stat().st_size} bytes where {expected} are due")
    except (OSError, ValueError, TypeError, KeyError) as error:
        warnings.warn(f"the cache of images {index} is damaged ({error}): it is made again", stacklevel=2)
        return nothing
    return _Saved(stamps, looks, PreparedImages(file, len(stamps), shape))
