"""Words reach whoever listens, on any code page, and nothing ends because nobody does."""

import contextlib
import errno
import io
import os
import sys
from pathlib import Path

import pytest

from ddpm.io.streams import Patient, as_typed, is_terminal, patient_streams, say


class Broken(io.StringIO):
    """A stream whose every write, and flush, is an error."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, _):
        raise self.error

    def flush(self):
        raise self.error


GONE = [OSError(number, "gone") for number in (errno.EPIPE, errno.EIO, errno.ENXIO, errno.EBADF)]
GONE += [BrokenPipeError(errno.EPIPE, "gone"), ValueError("I/O operation on closed file")]
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "error", [*GONE, FULL, RuntimeError("reentrant call inside"), AttributeError("flush")]
)
def test_say_never_raises(error):
    say("words", Broken(error))


def test_say_prints_to_the_output_of_the_moment(capsys):
    say("words")
    say("more", sys.stderr)
    assert capsys.readouterr() == ("words\n", "more\n")


@pytest.mark.parametrize("error", GONE)
def test_patient_goes_on_without_a_reader(error):
    stream = Patient(Broken(error), always=False)
    assert stream.write("words") == 5
    stream.flush()


def test_patient_says_that_the_disk_is_full_unless_it_is_of_no_account():
    with pytest.raises(OSError, match="No space left"):
        Patient(Broken(FULL), always=False).write("words")
    Patient(Broken(FULL)).write("words")
    Patient(Broken(FULL)).flush()


def test_patient_leaves_nothing_for_the_end_of_python():
    """What was still in the buffer of a pipe without a reader would be an error when Python flushes it."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        stream = Patient(pipe)
        stream.write("words")
        stream.flush()
        stream.write("more")
    assert pipe.closed


WORDS = "Fréchet 8×8 — … ±1 η=0, 中 “x” ≤ 1"


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", WORDS),
        ("ascii", 'Frechet 8x8 - ... +-1 eta=0, ? "x" <= 1'),
        ("latin-1", 'Fréchet 8×8 - ... ±1 eta=0, ? "x" <= 1'),
        ("cp1252", "Fréchet 8×8 — … ±1 eta=0, ? “x” <= 1"),
        ("cp437", 'Fréchet 8x8 - ... ±1 eta=0, ? "x" ≤ 1'),
    ],
)
def test_patient_streams_take_every_letter(monkeypatch, encoding, shown):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    with patient_streams():
        print(WORDS, end="")
    assert raw.getvalue().decode(encoding) == shown.replace("η", "eta" if encoding == "cp437" else "η")
    assert sys.stdout is stream
    assert stream.errors == "strict"


def test_patient_streams_are_put_back_after_an_error_and_do_without_a_console(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    before = sys.stderr
    with contextlib.suppress(KeyError), patient_streams():
        assert sys.stdout.write("…") == 1  # as libraries do that expect one
        assert not is_terminal(sys.stdout)
        assert sys.stderr is not before
        raise KeyError
    assert sys.stdout is None
    assert sys.stderr is before


@pytest.mark.parametrize("stream", [None, io.StringIO(), Broken(FULL)])
def test_is_terminal_is_not_what_cannot_be_asked(stream):
    assert not is_terminal(stream)
    closed = io.StringIO()
    closed.close()
    assert not is_terminal(closed)


@pytest.mark.parametrize(
    ("system", "path", "typed"),
    [
        ("posix", "runs/digits", "runs/digits"),
        ("posix", "my run", "'my run'"),
        ("posix", "it's", """'it'"'"'s'"""),
        ("posix", "$HOME", "'$HOME'"),
        ("posix", "-run", "./-run"),
        ("posix", "-my run", "'./-my run'"),
        ("nt", "my run", '"my run"'),
        ("nt", "run", "run"),
    ],
)
def test_as_typed_stands_in_a_command(monkeypatch, system, path, typed):
    monkeypatch.setattr("ddpm.io.streams._SYSTEM", system)
    assert as_typed(Path(path)) == typed
