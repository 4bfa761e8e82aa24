"""Ctrl-C and SIGTERM as a request: finish the step, save, and only then go."""

import contextlib
import signal
import sys
import threading
from types import FrameType
from typing import Any

NOTICE = "\nStopping after this step, with a checkpoint. Once more stops at once."
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """While it is entered, the first Ctrl-C or SIGTERM is only remembered; a second one ends the program at once.

    Attributes:
        received: the signal that came, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._handlers_before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupts":
        """Listen, if this is the main thread: no other may."""
        if threading.current_thread() is threading.main_thread():
            self._handlers_before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def _remember(self, number: int, _: FrameType | None) -> None:
        """Remember the signal, and let the next one through."""
        self.received = signal.Signals(number)
        self.__exit__()
        # A signal may come while the same stream is being written to.
        with contextlib.suppress(RuntimeError):
            print(NOTICE, file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        self._handlers_before = {}

    def deliver(self) -> None:
        """Do what the signal would have done: KeyboardInterrupt for Ctrl-C, the end of the process for SIGTERM."""
        if self.received is not None:
            sys.stdout.flush()
            signal.raise_signal(self.received)
