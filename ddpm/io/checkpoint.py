"""Models and runs on disk: tensors as safetensors, everything else as JSON, never pickle.

A checkpoint is a folder that appears whole or not at all. It is written under another name, synced to the disk, and
renamed; a list of checksums says later whether every byte is still the one that was written.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load, save
from torch import Tensor

from ddpm.diffusion import GaussianDiffusion
from ddpm.unet import Unet
from ddpm.weighting import weighting_from_config

Tensors = Mapping[str, Tensor]
Weights = Literal["ema", "model"]

MODEL = "model.safetensors"
AVERAGED = "ema.safetensors"
CONFIG = "config.json"
CHECKSUMS = "checksums.json"
CHECKPOINTS = "checkpoints"  # the folder of them within a run's
NAME = re.compile(r"step-\d+$")
# Where the models that ship with the project lie: beside the package in a checkout, inside it once it is installed.
SHIPPED = [Path(__file__).parents[1] / "pretrained", Path(__file__).parents[2] / "checkpoints"]


class DamagedCheckpointError(Exception):
    """A checkpoint is not what was written; the message says which file, and how that shows."""


# Models


def save_pretrained(
    diffusion: GaussianDiffusion, folder: str | os.PathLike[str], *, dtype: torch.dtype | None = None
) -> None:
    """Write a model that `load_pretrained` reads back.

    Each file is written under another name, synced and then renamed, so that a folder never holds half a file.

    Args:
        diffusion: the model; its network must be a `Unet`.
        folder: where to write `model.safetensors` and `config.json`; made if it does not exist.
        dtype: the type in which floating-point weights are written, such as torch.float16 for a file of half the size;
            None for their own. `load_pretrained` makes float32 of any.

    Raises:
        TypeError: if the network is not a `Unet`, whose arguments the configuration file records.
        ValueError: if `dtype` is not one of floating-point numbers, or a weight is too large for it.
    """
    if not isinstance(diffusion.network, Unet):
        raise TypeError(f"only a Unet can be saved, but the network is a {type(diffusion.network).__name__}")
    weights = to_bytes(in_type(diffusion.network.state_dict(), dtype))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = {MODEL: weights, CONFIG: to_json(model_config(diffusion))}
    for name, content in files.items():
        write_synced(folder / f".{name}.part", content)
        (folder / f".{name}.part").replace(folder / name)


def load_pretrained(name_or_folder: str | os.PathLike[str], *, weights: Weights = "ema") -> GaussianDiffusion:
    """A trained model, ready to sample, in evaluation mode on the CPU.

    Args:
        name_or_folder: the name of a model that ships with the project, such as "digits"; a folder written by
            `save_pretrained`; a checkpoint; or the folder of a run, of which the newest good checkpoint is taken.
        weights: of a checkpoint, which holds both: "ema", the averaged weights, or "model", the weights themselves.

    Returns:
        The model.

    Raises:
        FileNotFoundError: if there is no such model; the message names those that ship.
        DamagedCheckpointError: if it is a checkpoint whose checksums do not hold.
        ValueError: if it was trained with a network other than `Unet`, or a loss weighting of its own.
    """
    folder = find_model(name_or_folder)
    if (folder / CHECKSUMS).is_file():
        verify(folder)
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    averaged = weights == "ema" and (folder / AVERAGED).is_file()
    diffusion = build_diffusion(config)
    diffusion.network.load_state_dict(load((folder / (AVERAGED if averaged else MODEL)).read_bytes()))
    return diffusion.eval()


def build_diffusion(config: Mapping[str, Any]) -> GaussianDiffusion:
    """A fresh model from what `model_config` gave."""
    if "class" in config["network"]:
        raise ValueError(
            f"the model was trained with a network of class {config['network']['class']}, which only your own program"
            " can build: build it there and use Trainer.load"
        )
    weighting = weighting_from_config(config["diffusion"].get("loss_weighting"))
    arguments = {**config["diffusion"], "loss_weighting": weighting}
    return GaussianDiffusion(Unet(**config["network"]), **arguments)


def model_config(diffusion: GaussianDiffusion) -> dict[str, Any]:
    """The arguments of a model and of its network, ready for JSON."""
    network = diffusion.network
    described = network.config if isinstance(network, Unet) else {"class": type(network).__qualname__}
    return {"network": described, "diffusion": diffusion.config}


def find_model(name_or_folder: str | os.PathLike[str]) -> Path:
    """The folder of a model, by path or by the name of one that ships; of a run, its newest good checkpoint."""
    for folder in [Path(name_or_folder), *(root / name_or_folder for root in SHIPPED)]:
        if (folder / CONFIG).is_file() and (folder / MODEL).is_file():
            return folder
    if list_checkpoints(Path(name_or_folder)):
        return newest_checkpoint(Path(name_or_folder)).folder
    shipped = sorted({path.parent.name for root in SHIPPED for path in root.glob(f"*/{CONFIG}")})
    raise FileNotFoundError(
        f"no model at {os.fspath(name_or_folder)!r}: give a folder that holds {CONFIG} and {MODEL}, the folder of a"
        f" run, or one of the models that ship: {', '.join(shipped) or 'none'}"
    )


# Checkpoints


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds, read and verified.

    Attributes:
        folder: where it lies.
        tensors: name of the file, without its ending -> its tensors.
        documents: name of the file, without its ending -> what its JSON says.
    """

    folder: Path
    tensors: dict[str, dict[str, Tensor]]
    documents: dict[str, Any]

    @property
    def step(self) -> int:
        """The update after which it was written."""
        return step_of(self.folder)


def write_checkpoint(
    run: Path, step: int, tensors: Mapping[str, Tensors], documents: Mapping[str, Any], *, keep: int
) -> Path:
    """Write a checkpoint, and delete all but the newest `keep`.

    Args:
        run: the folder of the run; the checkpoint becomes `checkpoints/step-00001000` in it.
        step: the update after which it is written.
        tensors: name of a file -> its tensors.
        documents: name of a file -> what goes into it as JSON.
        keep: how many checkpoints stay, at least 1.

    Returns:
        The checkpoint's folder.

    Raises:
        OSError: if the disk is full or does not let itself be written; what was there before is still there.
    """
    folder = run / CHECKPOINTS / f"step-{step:08d}"
    unfinished = folder.with_name(f".{folder.name}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_remains(folder.parent)
        unfinished.mkdir()
        fill(unfinished, tensors, documents)
        put_in_place(unfinished, folder)
        sync_folder(folder.parent)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise write_error(folder, error) from error
    older = [other for other in list_checkpoints(run) if step_of(other) <= step]
    for old in older[:-keep]:
        discard(old)
    return folder


def put_in_place(unfinished: Path, folder: Path) -> None:
    """Give a checkpoint its name; what has it already goes, unless it is the same and whole."""
    if is_good(folder) and (folder / CHECKSUMS).read_bytes() == (unfinished / CHECKSUMS).read_bytes():
        shutil.rmtree(unfinished)
        return
    if folder.exists():
        discard(folder)
    unfinished.replace(folder)


def fill(folder: Path, tensors: Mapping[str, Tensors], documents: Mapping[str, Any]) -> None:
    """Write the files of a checkpoint, their checksums last, all of it to the disk."""
    checksums = {}
    for name, content in tensors.items():
        checksums[f"{name}.safetensors"] = write_synced(folder / f"{name}.safetensors", to_bytes(content))
    for name, content in documents.items():
        checksums[f"{name}.json"] = write_synced(folder / f"{name}.json", to_json(content))
    write_synced(folder / CHECKSUMS, to_json(checksums))
    sync_folder(folder)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises:
        DamagedCheckpointError: if a file is missing, or is not the one that was written.
    """
    names = verify(folder)
    paths = [folder / name for name in names]
    tensors = {path.stem: load(path.read_bytes()) for path in paths if path.suffix == ".safetensors"}
    documents = {path.stem: json.loads(path.read_text("utf-8")) for path in paths if path.suffix == ".json"}
    return Checkpoint(folder, tensors, documents)


def newest_checkpoint(run: Path) -> Checkpoint:
    """The newest checkpoint of a run that is whole; a warning names those that are not.

    Raises:
        FileNotFoundError: if the run has none.
        DamagedCheckpointError: if it has some, but none that is whole.
    """
    candidates = list_checkpoints(run)
    if not candidates:
        raise FileNotFoundError(f"no checkpoint in {run}: there is no run to take up")
    problems = []
    for folder in reversed(candidates):
        try:
            checkpoint = read_checkpoint(folder)
        except DamagedCheckpointError as problem:
            problems.append(str(problem))
            continue
        for problem in problems:
            warnings.warn(f"{problem}; {folder.name}, the one before it, is used", stacklevel=2)
        return checkpoint
    raise DamagedCheckpointError(f"every checkpoint in {run} is damaged: {'; '.join(problems)}")


def list_checkpoints(run: Path) -> list[Path]:
    """The folders of a run's checkpoints, whole or not, oldest first."""
    return sorted(
        (
            folder
            for folder in (run / CHECKPOINTS).glob("step-*")
            if folder.is_dir() and NAME.match(folder.name)
        ),
        key=step_of,
    )


def step_of(folder: Path) -> int:
    """The update after which a checkpoint was written, from its name."""
    return int(folder.name.removeprefix("step-"))


def verify(folder: Path) -> list[str]:
    """The names of a checkpoint's files, once every checksum holds.

    Raises:
        DamagedCheckpointError: if one does not.
    """
    try:
        checksums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        for name, checksum in checksums.items():
            if checksum_of((folder / name).read_bytes()) != checksum:
                raise DamagedCheckpointError(f"{folder} is damaged: the checksum of {name} does not hold")
    except (OSError, ValueError, AttributeError) as error:
        raise DamagedCheckpointError(f"{folder} is damaged: {error}") from error
    return list(checksums)


def is_good(folder: Path) -> bool:
    """Whether the folder is a whole checkpoint."""
    try:
        return bool(verify(folder))
    except DamagedCheckpointError:
        return False


def discard(folder: Path) -> None:
    """Delete a checkpoint, under another name: half-deleted it would pass for a damaged one."""
    doomed = folder.with_name(f".{folder.name}.old")
    folder.replace(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_remains(folder: Path) -> None:
    """Delete what a killed process left half-written or half-deleted."""
    for remains in folder.glob(".step-*"):
        shutil.rmtree(remains, ignore_errors=True)


# Files


def to_bytes(tensors: Tensors) -> bytes:
    """Tensors in the format of safetensors, which has no strides: any memory layout becomes the plain one."""
    # Each gets memory of its own, since the format refuses tensors that share some, as tied weights do.
    return save(
        {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
    )


def in_type(tensors: Tensors, dtype: torch.dtype | None) -> Tensors:
    """The tensors with those of floating-point numbers in another type; None leaves all as they are."""
    if dtype is None:
        return tensors
    if not dtype.is_floating_point:
        raise ValueError(f"weights need a floating-point type such as torch.float16, but got {dtype}")
    converted = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    }
    lost = [name for name, tensor in converted.items() if not tensor.isfinite().all()]
    if lost:
        raise ValueError(
            f"some weights are too large for {dtype}: {', '.join(lost[:3])}; keep their own type"
        )
    return converted


def to_json(content: object) -> bytes:
    """JSON for people and programs."""
    return (json.dumps(content, indent=2) + "\n").encode()


def write_synced(path: Path, content: bytes) -> str:
    """Write a file through to the disk; returns its checksum."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return checksum_of(content)


def checksum_of(content: bytes) -> str:
    """SHA-256, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def sync_folder(folder: Path) -> None:
    """Write a folder's own entries through to the disk, where the system can."""
    with contextlib.suppress(OSError):  # Windows opens no folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_error(folder: Path, error: OSError) -> OSError:
    """What went wrong while a checkpoint was written, and what to do."""
    hints = {
        errno.ENOSPC: "the disk is full: make room, or point results_folder elsewhere",
        errno.EDQUOT: "your quota on that disk is used up: make room, or point results_folder elsewhere",
        errno.EROFS: "that disk is read-only: point results_folder elsewhere",
        errno.EACCES: "you may not write there: point results_folder elsewhere",
    }
    hint = hints.get(error.errno or 0, "point results_folder to a disk that can be written")
    return OSError(
        error.errno or errno.EIO, f"the checkpoint {folder} could not be written ({error}); {hint}"
    )
