"""The folder of a run: had by one program at a time, never written over, and what to do when a run breaks off."""

import contextlib
import errno
import inspect
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from ddpm.io import checkpoint as checkpoints
from ddpm.io.paths import check_folder_name, refuse_model
from ddpm.support.checks import check_whole
from ddpm.training import spawning
from ddpm.training.config import TrainingConfig
from ddpm.training.metrics_logger import METRICS
from ddpm.training.recipe import how_to_resume

LOCK = ".lock"
# What torch says when a process that loads images is gone; an error *in* one is passed on as it is.
WORKER_DIED = re.compile(r"DataLoader worker \(pid")
# What a system answers that has no locks, as some network drives.
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Have the folder to oneself, and make sure beforehand that it can be written; it is made if it does not exist."""
    lock = _lock(check_folder_name(folder, by=" results_folder") / LOCK)
    try:
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise FileExistsError(
            f"another program is training in {folder}; wait for it, or choose another results_folder"
        ) from error
    except NotImplementedError as error:
        _warn_of_no_lock(folder, error)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise type(error)(
                error.errno, f"results_folder {folder} cannot be written ({error.strerror}); choose another"
            ) from error
        _warn_of_no_lock(folder, error)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # of a drive that has gone meanwhile
            lock.release()


def _lock(path: Path) -> FileLock:
    """A lock that the system lets go when the process ends, however it ends.

    Some versions of filelock take a file in its place on drives without locks, which a killed process would leave.
    """
    known = inspect.signature(FileLock.__init__).parameters
    options: dict[str, Any] = {"fallback_to_soft": False} if "fallback_to_soft" in known else {}
    return FileLock(path, **options)


def _warn_of_no_lock(folder: Path, error: Exception) -> None:
    """Say what is not looked after."""
    warnings.warn(
        f"{folder} lies on a drive without locks ({error}): see to it that no other program trains there",
        stacklevel=4,
    )


def refuse_used(folder: Path, step: int, *, continued: bool) -> None:
    """Refuse a folder whose run has come further: its checkpoints would be lost, or resumed in place of this run's.

    The trainer stands at `step`; the run is `continued` if it wrote or loaded the checkpoints that are there.
    """
    there = checkpoints.list_checkpoints(folder)
    if not there:
        refuse_model(folder)
    later = [path for path in there if checkpoints.step_of(path) > step]
    if any(map(checkpoints.is_good, later)) or (there and not continued):
        raise FileExistsError(
            f"{folder} already holds a run, up to step {checkpoints.step_of(there[-1])}, and this trainer stands at"
            f" step {step}. {how_to_resume(folder)} Or choose another folder, or delete the later checkpoints."
        )


def refuse_unbegun(folder: Path) -> None:
    """Refuse to resume where no run was ever begun, which is one with a misspelt name."""
    begun = any((folder / name).is_file() for name in (LOCK, METRICS))
    if not begun and not checkpoints.list_checkpoints(folder):
        raise FileNotFoundError(
            f"no checkpoint in {folder}: there is no run to resume; trainer.train(resume=True) begins one where there"
            " is none"
        )


def find_checkpoint(folder: Path, step: int | None) -> checkpoints.Checkpoint:
    """The run's checkpoint of this step, or the newest that is whole."""
    if step is None:
        return checkpoints.newest_checkpoint(folder)
    step = check_whole("step", step, lowest=0)
    there = {checkpoints.step_of(path): path for path in checkpoints.list_checkpoints(folder)}
    if step not in there:
        raise FileNotFoundError(
            f"{folder} has no checkpoint of step {step}; it has those of {sorted(there) or 'none'}"
        )
    return checkpoints.read_checkpoint(there[step])


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
            f" mixed_precision='bf16' (now {config.mixed_precision!r}), gradient_checkpointing=True (now"
            f" {config.gradient_checkpointing}), or make the network or the images smaller."
            f" {_what_is_left(folder)} ({error})"
        ) from error
    except Exception as error:
        if WORKER_DIED.search(str(error)):
            raise RuntimeError(
                f"a process that loads images died{spawning.why_a_worker_died()}; or lower num_workers (now"
                f" {config.num_workers}; 0 loads in the training process). {_what_is_left(folder)} ({error})"
            ) from error
        if advice := spawning.about_pickling(error):
            error.add_note(advice)
        error.add_note(_what_is_left(folder))
        raise
