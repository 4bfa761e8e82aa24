"""The command as a whole: errors that a user can mend, and warnings, are told in words."""

import os
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from safetensors import SafetensorError

from ddpm.cli.commands import app
from ddpm.io.checkpoint import DamagedCheckpointError
from ddpm.io.streams import patient_streams
from ddpm.training.memory import keep_freed_memory

# What bad input, a full disk or a broken file can raise. Anything else is a fault of ours and shows its origin.
_EXPECTED = (ValueError, TypeError, OSError, RuntimeError, ArithmeticError, MemoryError)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; errors that a user can mend are told without their origin, unless DDPM_TRACEBACK=1."""
    warnings.showwarning = _warn
    keep_freed_memory()
    with patient_streams():
        _run(arguments)


def _run(arguments: Sequence[str] | None) -> None:
    """The same, once every stream takes every word."""
    try:
        app(arguments)
    except SystemExit as end:
        distributed = sys.modules.get("torch.distributed")
        if not end.code and distributed and distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()
        raise
    except (*_EXPECTED, DamagedCheckpointError, SafetensorError) as error:
        if os.environ.get("DDPM_TRACEBACK"):
            raise
        print("\n".join([f"error: {_message(error)}", *getattr(error, "__notes__", [])]), file=sys.stderr)
        raise SystemExit(1) from error


def _message(error: BaseException) -> str:
    """The words of an error, without the number that the system gave it, or its kind where it has none."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        why = str(error) or "MemoryError"
        return f"memory does not suffice: take a smaller network, smaller images or batches ({why})"
    without_number = error.strerror if isinstance(error, OSError) and error.filename is None else None
    text = without_number or str(error) or type(error).__name__
    # Of a process that loads images torch passes on where it came from, and at the end what it was.
    return re.split(r"\n[\w.]+: ", text)[-1].strip() if "in DataLoader worker process" in text else text


def _warn(text: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as one line, from one process only."""
    if os.environ.get("RANK", "0") == "0":
        print(f"warning: {text}", file=sys.stderr)
