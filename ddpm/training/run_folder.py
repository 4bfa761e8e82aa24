"""The folder of a run: had by one program at a time, never written over, and what to do when a run breaks off."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from ddpm.io import checkpoint as checkpoints
from ddpm.training.config import TrainingConfig

# What torch says when a process that loads images is gone; an error *in* one is passed on as it is.
WORKER_DIED = re.compile(r"DataLoader worker \(pid")


@contextlib.contextmanager
def locked(folder: Path, step: int, *, continued: bool) -> Iterator[None]:
    """Have the folder to oneself, and make sure beforehand that it can be written; it is made if it does not exist.

    The trainer stands at `step`; the run is `continued` if it wrote or loaded the checkpoints that are there.
    """
    lock = FileLock(folder / ".lock")
    try:
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise FileExistsError(
            f"another program is training in {folder}; wait for it, or choose another results_folder"
        ) from error
    except OSError as error:
        raise type(error)(
            error.errno, f"results_folder {folder} cannot be written ({error.strerror}); choose another"
        ) from error
    try:
        _refuse_used(folder, step, continued=continued)
        yield
    finally:
        lock.release()


def _refuse_used(folder: Path, step: int, *, continued: bool) -> None:
    """Refuse a folder whose run has come further: its checkpoints would be lost, or resumed in place of this run's."""
    there = checkpoints.list_checkpoints(folder)
    later = [path for path in there if checkpoints.step_of(path) > step]
    if any(map(checkpoints.is_good, later)) or (there and not continued):
        raise FileExistsError(
            f"{folder} already holds a run, up to step {checkpoints.step_of(there[-1])}, and this trainer stands at"
            f" step {step}. {how_to_resume(folder)} Or choose another folder, or delete the later checkpoints."
        )


def find_checkpoint(folder: Path, step: int | None) -> checkpoints.Checkpoint:
    """The run's checkpoint of this step, or the newest that is whole."""
    if step is None:
        return checkpoints.newest_checkpoint(folder)
    there = {checkpoints.step_of(path): path for path in checkpoints.list_checkpoints(folder)}
    if step not in there:
        raise FileNotFoundError(
            f"{folder} has no checkpoint of step {step}; it has those of {sorted(there) or 'none'}"
        )
    return checkpoints.read_checkpoint(there[step])


def how_to_resume(folder: Path) -> str:
    """What to type."""
    return f"To resume the run: trainer.resume(), or `ddpm resume {folder}`."


def _what_is_left(folder: Path) -> str:
    """Which checkpoint there is to go on from."""
    there = checkpoints.list_checkpoints(folder)
    if not there:
        return "No checkpoint had been written yet."
    return f"The last checkpoint is that of step {checkpoints.step_of(there[-1])}. {how_to_resume(folder)}"


@contextlib.contextmanager
def explained(folder: Path, config: TrainingConfig) -> Iterator[None]:
    """Errors that come up while training say what to do about them, and which checkpoint is left."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise torch.OutOfMemoryError(
            f"the GPU's memory does not suffice: lower train_batch_size (now {config.train_batch_size}) and raise"
            f" gradient_accumulate_every (now {config.gradient_accumulate_every}) by as much, set"
            f" mixed_precision='bf16' (now {config.mixed_precision!r}), or make the network or the images smaller."
            f" {_what_is_left(folder)} ({error})"
        ) from error
    except Exception as error:
        if WORKER_DIED.search(str(error)):
            raise RuntimeError(
                f"a process that loads images died, perhaps because memory ran out: lower num_workers (now"
                f" {config.num_workers}; 0 loads in the training process). {_what_is_left(folder)} ({error})"
            ) from error
        error.add_note(_what_is_left(folder))
        raise
