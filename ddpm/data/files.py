"""The picture files below a folder: all of them, and what is left out, each with the reason.

Links are followed, to files and to folders, the latter once each. What a system or an editor hides is left out, and so
is the folder of a training run, whose samples are pictures too.
"""

import contextlib
import heapq
import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ddpm.data.images import add_formats
from ddpm.io.checkpoint import CHECKPOINTS
from ddpm.io.paths import RUN

HIDDEN = "hidden"
OF_A_RUN = "in the folder of a training run"
ENDING = "with another ending than pictures have"
AGAIN = "a folder that is read already"
NOWHERE = "a link that leads nowhere"
SPECIAL = "no regular file"
EMPTY = "empty"

# Pillow knows these by their first bytes and cannot decode them, WMF outside of Windows.
_ONLY_KNOWN = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}
# Endings under which JPEGs are written, and which Pillow reads without listing them.
_MORE_ENDINGS = {".mpo", ".jif", ".jfi", ".pjp", ".pjpeg"}
_COMMON = (".jpg", ".jpeg", ".png", ".webp", ".tiff", ".tif", ".bmp", ".gif")
# Without a dot, but nobody's data all the same: of macOS's archives, Windows, Synology, QNAP, NetApp and Linux.
_SYSTEM = {"__macosx", "$recycle.bin", "recycler", "system volume information", "lost+found"}
_SYSTEM |= {"@eadir", "#recycle", "#snapshot", "~snapshot", "@recycle", "@__thumb", "@recently-snapshot"}
# What a run puts into its folder that may hold pictures.
_PARTS_OF_A_RUN = {"samples", CHECKPOINTS, "tensorboard", "prepared"}
_METRICS = "metrics.jsonl"
# Sub-folders of these names are the parts that data were divided into, and no classes.
_PARTS_OF_DATA = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
_NAMED = 3  # files of one kind in a message
_NAMED_ENDINGS = 10  # of what the web gives there are as many as files, such as .jpg?w=640


@dataclass
class Found:
    """What lies below a folder.

    Attributes:
        images: the picture files, by their endings, sorted by path.
        left_out: other files and folders, with the reason; of those hidden or of a run, the pictures alone.
    """

    images: list[Path] = field(default_factory=list)
    left_out: dict[Path, str] = field(default_factory=dict)


def picture_endings() -> tuple[str, ...]:
    """The endings of files that Pillow can read here, in lower case, the most common first."""
    Image.init()
    add_formats()
    known = Image.registered_extensions().items()
    read = {ending for ending, name in known if name in Image.OPEN and name not in _ONLY_KNOWN}
    if Image.registered_extensions().get(".jpg") in Image.OPEN:
        read |= _MORE_ENDINGS
    return (*_COMMON, *sorted(read - set(_COMMON)))


def find_images(folder: Path) -> Found:
    """All picture files below a folder, at any depth.

    Raises:
        OSError: if the folder itself cannot be read.
    """
    search = _Search(folder, frozenset(picture_endings()))
    search.run()
    found = search.found
    return Found(sorted(found.images), dict(sorted(found.left_out.items())))


def class_folders(folder: Path, images: Sequence[Path] | None = None) -> list[str]:
    """The sub-folders that hold pictures, at any depth, in order; `images` are all of them, if they are known.

    Raises:
        ValueError: if there is none, a picture lies beside them, or they are parts of the data, or one around all.
    """
    images = find_images(folder).images if images is None else images
    outside = [path.name for path in images if path.parent == folder]
    if outside or not images:
        what = f"{len(outside)} lie in {folder} itself, such as {outside[0]}" if outside else "there are none"
        raise ValueError(
            f"where sub-folders are classes, every image of {folder} has to lie in one, but {what}: move them, or do"
            " without classes"
        )
    names = sorted({path.relative_to(folder).parts[0] for path in images})
    # One class alone is one, but not a folder around all of them.
    around = len(names) == 1 and not any(path.parent == folder / names[0] for path in images)
    if around or {name.lower() for name in names} <= _PARTS_OF_DATA:
        what = "the only one" if len(names) == 1 else "the parts of a data set"
        below = max(names, key=lambda name: name.lower().startswith("train"))
        raise ValueError(
            f"the sub-folders of {folder} are to be classes, but {' and '.join(names)} would be {what}: give the folder"
            f" whose sub-folders are the classes, such as {folder / below}, or do without classes"
        )
    return names


@dataclass
class _Search:
    """One walk through a folder."""

    root: Path
    endings: frozenset[str]
    found: Found = field(default_factory=Found)
    links: list[Path] = field(default_factory=list)  # to folders, a heap: the folders proper go first
    seen: set[tuple[int, int]] = field(default_factory=set)

    def run(self) -> None:
        todo = [(self.root, "")]
        while todo or self.links:
            folder, reason = todo.pop() if todo else (heapq.heappop(self.links), "")
            try:
                todo += self.read(folder, reason)
            except OSError as error:
                if folder == self.root:
                    raise
                self.found.left_out[folder] = f"cannot be opened ({error.strerror or error})"

    def read(self, folder: Path, reason: str) -> list[tuple[Path, str]]:
        """Take what lies in one folder; returns the folders in it. A `reason` leaves out all of them."""
        with os.scandir(folder) as listing:
            entries = list(listing)
        names = {entry.name for entry in entries}
        is_run = not reason and _is_run(folder, names)
        if not reason:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in self.seen:
                self.found.left_out[folder] = AGAIN
                return []
            self.seen.add((status.st_dev, status.st_ino))
            if folder != self.root:
                reason = self.reason_for_all(folder, names, is_run=is_run)
        folders = []
        for entry in entries:
            path, why = folder / entry.name, reason or _why_left_out(entry, in_a_run=is_run)
            kind = _kind(entry)
            if kind == "folder":
                folders.append((path, why))
            elif kind == "link to a folder":
                if not why:
                    heapq.heappush(self.links, path)
            else:
                self.take(path, why, kind)
        return folders

    def reason_for_all(self, folder: Path, names: set[str], *, is_run: bool) -> str:
        """The reason to leave out all that lies in a folder, or none; a folder with nothing to be seen is named."""
        if all(name.startswith(".") for name in names):
            self.found.left_out[folder] = EMPTY
        return OF_A_RUN if is_run else ""

    def take(self, path: Path, why: str, kind: str) -> None:
        """Take or leave out one file."""
        is_picture = path.suffix.lower() in self.endings
        if why:
            if is_picture:
                self.found.left_out[path] = why
        elif kind != "file":
            self.found.left_out[path] = kind
        elif is_picture:
            self.found.images.append(path)
        else:
            self.found.left_out[path] = ENDING


def _kind(entry: os.DirEntry[str]) -> str:
    """What an entry is, or where it leads."""
    try:
        if entry.is_dir():
            return "link to a folder" if entry.is_symlink() else "folder"
        if entry.is_file():
            return "file"
    except OSError:  # a link to itself
        return NOWHERE
    return NOWHERE if entry.is_symlink() else SPECIAL


def _why_left_out(entry: os.DirEntry[str], *, in_a_run: bool) -> str:
    """The reason to leave out an entry for its name, or none."""
    hides = getattr(stat, "FILE_ATTRIBUTE_HIDDEN", 0)
    attributes = 0
    if os.name == "nt":
        with contextlib.suppress(OSError):
            attributes = getattr(entry.stat(follow_symlinks=False), "st_file_attributes", 0)
    if entry.name.startswith(".") or entry.name.lower() in _SYSTEM or attributes & hides:
        return HIDDEN
    return OF_A_RUN if in_a_run and entry.name in _PARTS_OF_A_RUN else ""


def _is_run(folder: Path, names: set[str]) -> bool:
    """Whether a folder with these entries is that of a training run, of `ddpm train` or of a `Trainer`."""
    if "samples" not in names:
        return False
    return bool({RUN, _METRICS} & names) or any((folder / CHECKPOINTS).glob("step-*"))


def described(found: Found, folder: Path) -> str:
    """What was left out, counted and named by its kind; empty if that is nothing."""
    by_reason: dict[str, list[Path]] = {}
    for path, reason in found.left_out.items():
        by_reason.setdefault(reason, []).append(path)
    others = by_reason.pop(ENDING, [])
    said = [f"{len(paths)} {reason}: {some(paths, folder)}" for reason, paths in by_reason.items()]
    if others:
        said.append(f"{len(others)} {ENDING}: {_by_ending(others, folder)}{_advice(others)}")
    return "; ".join(said)


def some(paths: list[Path], folder: Path) -> str:
    """The first few files, and how many more there are."""
    named = [str(path.relative_to(folder)) for path in paths[:_NAMED]]
    more = len(paths) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def _by_ending(paths: list[Path], folder: Path) -> str:
    """How many files there are of each ending, with the first of each."""
    counts = Counter(path.suffix.lower() for path in paths)
    first = {path.suffix.lower(): path.relative_to(folder) for path in reversed(paths)}
    common = counts.most_common(_NAMED_ENDINGS)
    said = [f"{count} {ending or 'without an ending'} ({first[ending]})" for ending, count in common]
    others = len(counts) - len(common)
    return ", ".join(said) + (f" and {others} other endings" if others else "")


def _advice(paths: list[Path]) -> str:
    """What to install for photographs of phones."""
    if not {".heic", ".heif", ".hif"} & {path.suffix.lower() for path in paths}:
        return ""
    return "; those of phones (.heic) are read once pillow-heif is installed: pip install pillow-heif"
