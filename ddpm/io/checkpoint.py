"""The checkpoints of a run: folders of safetensors and JSON files that appear whole or not at all.

A checkpoint is written under another name, synced to the disk, and renamed; a list of checksums says later whether
every byte is still the one that was written. Importing this does not import torch.
"""

import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm.io.files import (
    json_bytes,
    naming_file,
    read_json,
    read_tensors,
    sha256,
    sync_folder,
    tensor_bytes,
    write_synced,
)

if TYPE_CHECKING:
    from torch import Tensor

    Tensors = Mapping[str, Mapping[str, Tensor]]

CHECKPOINTS = "checkpoints"  # the folder of them within a run's
CHECKSUMS = "checksums.json"
_NAME = re.compile(r"step-\d+$")
_INSTEAD = "move the run's folder to a disk that can be written, and resume it there"


class DamagedCheckpointError(Exception):
    """A checkpoint is not what was written; the message says which file, and how that shows."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds, read and verified.

    Attributes:
        folder: where it lies.
        tensors: name of the file, without its ending -> its tensors.
        documents: name of the file, without its ending -> what its JSON says.
    """

    folder: Path
    tensors: "dict[str, dict[str, Tensor]]"
    documents: dict[str, Any]

    @property
    def step(self) -> int:
        """The update after which it was written."""
        return step_of(self.folder)


# Writing


def write_checkpoint(
    run: Path, step: int, tensors: "Tensors", documents: Mapping[str, Any], *, keep: int
) -> Path:
    """Write a checkpoint after update `step`, delete all but the newest `keep` (at least 1), and return its folder.

    That is `checkpoints/step-00001000` in the folder of the run, with tensors and documents as in `Checkpoint`.

    Raises:
        OSError: if the disk is full or cannot be written; what was there before is still there.
    """
    folder = run / CHECKPOINTS / f"step-{step:08d}"
    unfinished = folder.with_name(f".{folder.name}.part")
    with naming_file(folder, "the checkpoint ", _INSTEAD):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            for remains in folder.parent.glob(".step-*"):  # of a killed process, half-written or half-deleted
                shutil.rmtree(remains, ignore_errors=True)
            unfinished.mkdir()
            _fill(unfinished, tensors, documents)
            _put_in_place(unfinished, folder)
            sync_folder(folder.parent)
        except OSError:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    older = [other for other in list_checkpoints(run) if step_of(other) <= step]
    for old in older[:-keep]:
        _discard(old)
    return folder


def _fill(folder: Path, tensors: "Tensors", documents: Mapping[str, Any]) -> None:
    """Write the files of a checkpoint, their checksums last, all of it to the disk."""
    # One after the other: the bytes of all files together may not fit in memory.
    files = chain(
        ((f"{name}.safetensors", tensor_bytes(content)) for name, content in tensors.items()),
        ((f"{name}.json", json_bytes(content)) for name, content in documents.items()),
    )
    checksums = {}
    for name, content in files:
        write_synced(folder / name, content)
        checksums[name] = sha256(content)
    write_synced(folder / CHECKSUMS, json_bytes(checksums))
    sync_folder(folder)


def _put_in_place(unfinished: Path, folder: Path) -> None:
    """Give a checkpoint its name; one that has it already goes, unless it is the same and whole."""
    if is_good(folder) and (folder / CHECKSUMS).read_bytes() == (unfinished / CHECKSUMS).read_bytes():
        shutil.rmtree(unfinished)
        return
    if folder.exists():
        _discard(folder)
    try:
        unfinished.replace(folder)
    except OSError:
        # A drive over a bucket gives a folder no other name, nor does Windows while a file in it is read.
        folder.mkdir(exist_ok=True)
        # The checksums last: without them it is none.
        for path in sorted(unfinished.iterdir(), key=lambda path: path.name == CHECKSUMS):
            path.replace(folder / path.name)
        unfinished.rmdir()


def _discard(folder: Path) -> None:
    """Delete a checkpoint, under another name: half-deleted it would pass for a damaged one."""
    doomed = folder.with_name(f".{folder.name}.old")
    try:
        folder.replace(doomed)
    except OSError:  # as above
        doomed = folder
    shutil.rmtree(doomed, ignore_errors=True)


# Reading


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read and verify a checkpoint."""
    verify(folder)
    return _read(folder)


def newest_checkpoint(run: Path) -> Checkpoint:
    """The checkpoint in `newest_good_folder`, read."""
    return _read(newest_good_folder(run))


def _read(folder: Path) -> Checkpoint:
    """What a checkpoint that was verified holds."""
    paths = [folder / name for name in read_json(folder / CHECKSUMS)]
    tensors = {path.stem: read_tensors(path) for path in paths if path.suffix == ".safetensors"}
    documents = {path.stem: read_json(path) for path in paths if path.suffix == ".json"}
    return Checkpoint(folder, tensors, documents)


def newest_good_folder(run: Path) -> Path:
    """The folder of a run's newest checkpoint that is whole; a warning names those that are not.

    A run without any checkpoint is a FileNotFoundError, one without a whole one a DamagedCheckpointError.
    """
    candidates = list_checkpoints(run)
    if not candidates:
        raise FileNotFoundError(f"no checkpoint in {run}: there is no run to resume")
    problems = []
    for folder in reversed(candidates):
        try:
            verify(folder)
        except DamagedCheckpointError as problem:
            problems.append(str(problem))
        else:
            for problem in problems:
                warnings.warn(f"{problem}; {folder.name}, the one before it, is used", stacklevel=3)
            return folder
    raise DamagedCheckpointError(
        f"every checkpoint in {run} is damaged: {'; '.join(problems)}; if it was copied, copy it again; or delete"
        f" {run / CHECKPOINTS} to begin again"
    )


def list_checkpoints(run: Path) -> list[Path]:
    """The folders of a run's checkpoints, whole or not, oldest first."""
    folders = (run / CHECKPOINTS).glob("step-*")
    return sorted((path for path in folders if path.is_dir() and _NAME.match(path.name)), key=step_of)


def newest_step(run: Path) -> int:
    """The step of a run's newest checkpoint, whole or not; 0 where there is none."""
    return max(map(step_of, list_checkpoints(run)), default=0)


def step_of(folder: Path) -> int:
    """The update after which a checkpoint was written, from its name."""
    return int(folder.name.removeprefix("step-"))


def own_parts(config: Mapping[str, Any]) -> list[str]:
    """What of the model in a `config.json` only the user's program can build, in words."""
    network, diffusion = config["network"], config["diffusion"]
    own = [f"a network of class {network['class']}"] if "class" in network else []
    own += [f"a model of class {diffusion['class']}"] if "class" in diffusion else []
    return own + (["a schedule of your own"] if diffusion.get("own_schedule") else [])


def verify(folder: Path) -> list[str]:
    """The names of a checkpoint's files, once every checksum holds; DamagedCheckpointError if one does not.

    An OSError if a file is there and cannot be read.
    """
    try:
        checksums = read_json(folder / CHECKSUMS)
        if not checksums:
            raise DamagedCheckpointError(f"{folder} is damaged: {CHECKSUMS} lists no file")
        for name, expected in checksums.items():
            if sha256((folder / name).read_bytes()) != expected:
                raise DamagedCheckpointError(f"{folder} is damaged: the checksum of {name} does not hold")
    # What cannot be read, as it is another user's or its drive has gone, may be whole.
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError, AttributeError) as error:
        raise DamagedCheckpointError(f"{folder} is damaged: {error}") from error
    return list(checksums)


def is_good(folder: Path) -> bool:
    """Whether the folder is a whole checkpoint."""
    try:
        return bool(verify(folder))
    except DamagedCheckpointError:
        return False
