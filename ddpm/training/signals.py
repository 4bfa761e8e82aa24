"""Ctrl-C, SIGTERM, a closed terminal, a scheduler's warning as a request: finish the step, save, and only then go."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from ddpm.io.streams import say

NOTICE = "\nStopping after this step, with a checkpoint. Once more stops at once."
# SIGHUP comes when the terminal is closed or its connection lost; SIGUSR1 and SIGUSR2 before the time of a job ends,
# where its scheduler was asked to (Slurm's --signal, Grid Engine's -notify); SIGXCPU when its processor time does.
# Windows has none of these.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
_ALWAYS_HEARD = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """While it is entered, the first of the `SIGNALS` is only remembered; a second one ends the program at once.

    But for Ctrl-C and SIGTERM, a signal that the program ignores, as under nohup, or takes itself is left alone.

    Attributes:
        received: the signal that came, or None.
    """

    def __init__(self, notice: str = NOTICE) -> None:
        self._notice = notice
        self.received: signal.Signals | None = None
        self._handlers_before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupts":
        """Listen, if this is the main thread: no other may."""
        if threading.current_thread() is threading.main_thread():
            heard = [n for n in SIGNALS if n in _ALWAYS_HEARD or signal.getsignal(n) is signal.SIG_DFL]
            self._handlers_before = {number: signal.signal(number, self._remember) for number in heard}
        return self

    def _remember(self, number: int, _: FrameType | None) -> None:
        """Remember the signal, and let the next one through, but for a SIGHUP: terminal and shell may both send one."""
        self.received = signal.Signals(number)
        for other, handler in self._handlers_before.items():
            again = number == other == getattr(signal, "SIGHUP", None)
            signal.signal(other, signal.SIG_IGN if again else handler)
        say(self._notice, sys.stderr)

    def __exit__(self, *_: object) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        self._handlers_before = {}

    @contextlib.contextmanager
    def let_through(self) -> Iterator[None]:
        """Within it a signal does at once what it would have done, unless one was received before."""
        self.__exit__()
        try:
            yield
        finally:
            if self.received is None:
                self.__enter__()

    def deliver(self) -> None:
        """Do what the signal would have done: KeyboardInterrupt for Ctrl-C, the end of the process for the others."""
        if self.received is not None:
            # Of a terminal that has gone, or none.
            with contextlib.suppress(OSError, ValueError, AttributeError):
                sys.stdout.flush()
            signal.raise_signal(self.received)
