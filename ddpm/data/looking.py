"""Decode every file of a folder once: which can be read, of what size they are, and what Pillow says of them."""

import contextlib
import os
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import humanize
from tqdm import tqdm

from ddpm.io.streams import is_terminal, say

_PATIENCE = 1.0  # seconds before a word is said

Item = TypeVar("Item")
_reading = threading.local()  # .path, the file that this thread reads


@dataclass(frozen=True)
class Look:
    """What one file turned out to be.

    Attributes:
        size: (height, width) of the whole upright picture; None if it cannot be read.
        problem: why not, or empty.
        said: the warnings that came up.
    """

    size: tuple[int, int] | None
    problem: str = ""
    said: tuple[str, ...] = ()


def look_at(
    paths: Sequence[Path], read: Callable[[Path], tuple[Any, tuple[int, int]]], what: str
) -> Iterator[tuple[Path, Look, Any]]:
    """For every file in turn what it is, and what `read` gave for it (with its size), or None; in threads.

    Where that takes more than a second, a line on stderr says how long: `what` is its beginning.
    """

    def look(path: Path) -> tuple[tuple[int, int] | None, str, Any]:
        _reading.path = path
        try:
            given, size = read(path)
        # Pillow's decoders raise many kinds; whichever it is, its words are passed on.
        except Exception as error:
            return None, reason(error), None
        finally:
            _reading.path = None
        return size, "", given

    # Threads suffice: Pillow decodes without holding the GIL. What is ahead is given up before the pool waits for it.
    with (
        _heard() as said,
        ThreadPoolExecutor(_cores()) as pool,
        contextlib.closing(_in_turn(pool, look, paths)) as done,
    ):
        for path, (size, problem, given) in told(zip(paths, done, strict=True), len(paths), what):
            yield path, Look(size, problem, tuple(said.pop(path, ()))), given


def _in_turn(
    pool: ThreadPoolExecutor, call: Callable[[Path], Item], paths: Sequence[Path]
) -> Generator[Item, None, None]:
    """The answers in the order of the paths, with few of them ahead: a prepared image takes memory."""
    ahead = 8 * _cores()
    waiting = deque(pool.submit(call, path) for path in paths[:ahead])
    try:
        for number in range(len(paths)):
            answer = waiting.popleft().result()
            if number + ahead < len(paths):
                waiting.append(pool.submit(call, paths[number + ahead]))
            yield answer
    finally:
        for future in waiting:  # a Ctrl-C does not wait for them
            future.cancel()


def _cores() -> int:
    """The processors that this program may use."""
    with contextlib.suppress(AttributeError):  # macOS and Windows have no such function
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def quietly(read: Callable[[Path], Item], path: Path) -> tuple[Item, list[str]]:
    """Read one file in this thread; returns also the warnings that came up, which are not shown."""
    with _heard() as said:
        _reading.path = path
        try:
            return read(path), said.pop(path, [])
        finally:
            _reading.path = None


@contextlib.contextmanager
def _heard() -> Iterator[dict[Path, list[str]]]:
    """Collects, by file, the warnings that come up while files are read; others are shown as ever."""
    said: dict[Path, list[str]] = {}
    with warnings.catch_warnings():
        show = warnings.showwarning

        def hear(message: Warning | str, *arguments: Any, **options: Any) -> None:
            path = getattr(_reading, "path", None)
            if path is None:
                show(message, *arguments, **options)  # pyright: ignore[reportArgumentType]
            elif str(message) not in said.setdefault(path, []):
                said[path].append(str(message))

        warnings.simplefilter("always")
        warnings.showwarning = hear
        yield said


def told(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """Pass the items on, with a bar in a terminal, and elsewhere one line, once it takes more than a second."""
    if os.environ.get("RANK", "0") != "0":  # from one process alone
        yield from items
    elif is_terminal(sys.stderr):
        yield from tqdm(items, what, total, leave=False, delay=_PATIENCE, unit=" images")
    else:
        yield from _told_once(items, total, what)


def _told_once(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """One line, for a log or a notebook."""
    started, said = time.monotonic(), False
    for number, item in enumerate(items, start=1):
        taken = time.monotonic() - started
        left = taken / number * (total - number)
        if not said and min(taken, left) > _PATIENCE:
            words = f"{what}: {number:,} of {total:,} images, about {humanize.naturaldelta(left)} left"
            say(words, sys.stderr)
            said = True
        yield item


def reason(error: Exception) -> str:
    """The error's words, or its kind where it has none."""
    return str(error) or type(error).__name__
