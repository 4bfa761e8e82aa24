"""What is said to people: also where nobody listens any more, and in letters that the place can show.

Standard output may be a pipe whose reader has gone, a terminal that was closed, or a file in a narrow code page. None
of that is a reason to end work that takes hours. Importing this does not import torch.
"""

import codecs
import contextlib
import errno
import io
import os
import shlex
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

# For letters that a narrow code page lacks; those with an accent lose it, and what is left is a question mark.
_PLAIN = (
    {"…": "...", "×": "x", "–": "-", "—": "-", "−": "-", "“": '"', "”": '"', "‘": "'", "’": "'", "│": "|"}
    | {"±": "+-", "≥": ">=", "≤": "<=", "→": "->", "─": "-", "━": "-"}
    | {"α": "alpha", "β": "beta", "γ": "gamma", "ε": "epsilon", "η": "eta", "λ": "lambda", "σ": "sigma"}
)
_SYSTEM = os.name


def _plain(error: UnicodeError) -> tuple[str, int]:
    """The handler of `codecs`: other letters for those that cannot be encoded."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain_letter, error.object[error.start : error.end])), error.end


def _plain_letter(letter: str) -> str:
    """ASCII for any letter."""
    bare = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
    return _PLAIN.get(letter) or bare or "?"


codecs.register_error("ddpm.plain", _plain)


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line, if it can be: a signal may interrupt another print, a terminal have gone, a log lack flush."""
    with contextlib.suppress(RuntimeError, OSError, ValueError, AttributeError):
        print(text, file=stream or sys.stdout, flush=True)


def is_terminal(stream: Any) -> bool:
    """Whether what is written there can be drawn over."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return stream.isatty()
    return False


def as_typed(path: Path) -> str:
    """A path as it stands in a command: in quotation marks if it needs them, and none that looks like an option."""
    text = f".{os.sep}{path}" if str(path).startswith("-") else str(path)
    if _SYSTEM == "nt":
        return f'"{text}"' if " " in text else text
    return shlex.quote(text)


# What the system answers when the reader of a pipe has gone, or a terminal was closed.
_GONE = {errno.EPIPE, errno.EIO, errno.ENXIO, errno.EBADF}


class Patient:
    """A text stream that goes on as if all was well once its reader has gone.

    With `always` it does so after any error, such as a full disk: no work should end because of its log.
    """

    def __init__(self, stream: Any, *, always: bool = True) -> None:
        self._stream, self._always = stream, always

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or let it be."""
        with self._forgiving():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Write out what is left, or let it be."""
        with self._forgiving():
            self._stream.flush()

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        """After the first error what is still to come goes nowhere, what Python writes at its end included."""
        try:
            yield
        except (OSError, ValueError) as error:
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
            if not (self._always or isinstance(error, ValueError) or error.errno in _GONE):
                raise


@contextlib.contextmanager
def patient_streams() -> Iterator[None]:
    """Meanwhile standard output and standard error take any letter, and forgive a reader who leaves.

    A program without a console has none, which other libraries do not expect: what is said there goes nowhere.
    """
    with contextlib.ExitStack() as stack:
        for name in ("stdout", "stderr"):
            before = getattr(sys, name)
            stream = before or stack.enter_context(open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123
            if isinstance(stream, io.TextIOWrapper):
                stack.callback(stream.reconfigure, errors=stream.errors)
                stream.reconfigure(errors="ddpm.plain")
            patient = Patient(stream, always=name == "stderr")
            setattr(sys, name, patient)
            stack.callback(setattr, sys, name, before)
            stack.callback(patient.flush)
        yield
