"""Files that appear whole or not at all, and the bytes that go into them. Importing this does not import torch."""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


# What is wrong and can be mended, by what the system answers.
_CAUSES = {
    errno.ENOSPC: "the disk is full: make room, or ",
    errno.EDQUOT: "your quota on that disk is used up: make room, or ",
    errno.EROFS: "that disk is read-only: ",
    errno.EACCES: "you may not write there: ",
    errno.ENOTCONN: "the drive has gone: mount it again, or ",
    errno.ESTALE: "the drive was mounted anew: do it again, or ",
}


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that its name never stands for half of one, not even after a power cut.

    It is written under another name, synced to the disk and renamed. After an error the old file is still there.
    """
    write_all({path: content})


def write_all(contents: Mapping[Path, bytes]) -> None:
    """Write files in the same way, and give them their names once all are there."""
    with contextlib.ExitStack() as stack:
        for path, content in contents.items():
            unfinished = stack.enter_context(unfinished_file(path))
            with naming_file(path):
                write_synced(unfinished, content)
    for folder in {path.parent for path in contents}:
        sync_folder(folder)


@contextlib.contextmanager
def unfinished_file(path: Path) -> Iterator[Path]:
    """The name under which a file is to be written: it gets its own after that, or goes if there is an error."""
    unfinished = path.with_name(f".{path.name}.part")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def naming_file(path: Path, what: str = "", instead: str = "choose another place") -> Iterator[None]:
    """Meanwhile a file is written, or all of a folder: an error says `what` it is, its path, and what to do."""
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else error
        hint = _CAUSES.get(error.errno or 0, "") + instead
        raise OSError(error.errno or errno.EIO, f"{what}{path} cannot be written ({why}); {hint}") from error


def write_synced(path: Path, content: bytes) -> None:
    """Write a file through to the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Write a folder's own entries, which are the names in it, through to the disk where the system can."""
    with contextlib.suppress(OSError):  # Windows opens no folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sha256(content: bytes) -> str:
    """The checksum of some bytes, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def json_bytes(content: object) -> bytes:
    """JSON for people and programs."""
    return (json.dumps(content, indent=2) + "\n").encode()


def read_json(path: Path) -> Any:
    """What a JSON file says, with or without the mark that Windows' editors put before it."""
    return json.loads(path.read_text(encoding="utf-8-sig"))


def tensor_bytes(tensors: "Mapping[str, Tensor]") -> bytes:
    """Tensors in the format of safetensors, which has no strides: any memory layout becomes the plain one."""
    import torch
    from safetensors.torch import save

    # Each gets memory of its own, since the format refuses tensors that share some, as tied weights do.
    plain = torch.contiguous_format
    return save({name: tensor.detach().cpu().clone(memory_format=plain) for name, tensor in tensors.items()})


def read_tensors(path: Path) -> "dict[str, Tensor]":
    """The tensors of a safetensors file, on the CPU, in memory of their own."""
    from safetensors.torch import load

    return load(path.read_bytes())
