"""How far a long piece of work has come: a bar that is drawn over, or in a log a line from time to time."""

import sys
import time
from datetime import timedelta
from typing import Any

from tqdm import tqdm

from ddpm.io.streams import Patient, is_terminal, say

_LONGEST_LEFT = 1e13  # that a timedelta can hold
_SHORTEST, _LONGEST = 30.0, 600.0  # seconds between two lines; between them a tenth of the time so far


class Progress:
    """Shows on standard error how much of something is done.

    Attributes:
        done: how much that is.
    """

    def __init__(
        self,
        total: int,
        unit: str,
        *,
        title: str = "",
        initial: int = 0,
        shown: bool = True,
        stream: Any = None,
    ) -> None:
        stream = stream or sys.stderr
        shown = shown and stream is not None  # a program without a console has none
        draws = is_terminal(stream) or _in_notebook()
        self._bar: Any = None
        if shown and draws:
            self._bar = tqdm(
                total=total, initial=initial, unit=unit, desc=title or None, file=Patient(stream)
            )
        self._stream = stream if shown and not draws else None
        self._total, self._unit, self._title, self._initial, self.done = total, unit, title, initial, initial
        self._started = self._last = time.monotonic()
        self._said = -1  # what the last line said

    def update(self, count: int = 1) -> None:
        """So much more is done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._stream is not None and time.monotonic() - self._last >= self._interval():
            self._line("")

    def tell(self, figures: str) -> None:
        """How it goes; in a log at once if nothing has been said yet, or all is done."""
        if self._bar is not None:
            self._bar.set_postfix_str(figures)
        elif self._stream is not None:
            now = time.monotonic() - self._last >= self._interval()
            if now or self._said < 0 or self.done >= self._total:
                self._line(figures)

    def close(self) -> None:
        """The last word, if there was any before."""
        if self._bar is not None:
            self._bar.close()
        elif self._stream is not None and self.done > self._said >= 0:
            self._line("")

    def _interval(self) -> float:
        """Seconds from a line to the next: few lines for what takes days."""
        return min(_LONGEST, max(_SHORTEST, (time.monotonic() - self._started) / 10))

    def _line(self, figures: str) -> None:
        """Such as "sampling: 300/1,700 steps, 0:01:20 left"."""
        self._last = time.monotonic()
        self._said, now = self.done, self.done - self._initial
        left = (self._last - self._started) / now * (self._total - self.done) if now else 0.0
        time_left = f"{timedelta(seconds=round(min(left, _LONGEST_LEFT)))} left" if left >= 1 else ""
        counted = f"{self.done:,}/{self._total:,} {self._unit}s"
        line = ", ".join(part for part in (counted, figures, time_left) if part)
        say(f"{self._title}: {line}" if self._title else line, self._stream)


def _in_notebook() -> bool:
    """Whether a notebook shows standard error: it is no terminal, and yet draws over what was there."""
    python = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(python, "kernel")
