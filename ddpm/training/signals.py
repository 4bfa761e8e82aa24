"""Ctrl-C and SIGTERM as a request: finish the step, save, and only then go."""

import contextlib
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

NOTICE = "\nStopping after this step, with a checkpoint. Once more stops at once."
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """While it is entered, the first Ctrl-C or SIGTERM only leaves a mark; a second one ends the program at once.

    Attributes:
        received: the signal that came, or None.
    """

    def __init__(self) -> None:
        """Nothing has come yet."""
        self.received: signal.Signals | None = None
        self.before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupts":
        """Listen, if this is the main thread: no other may."""
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self.mark) for number in SIGNALS}
        return self

    def mark(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 (the interface of signal handlers)
        """Remember the signal, and let the next one through."""
        self.received = signal.Signals(number)
        self.restore()
        with contextlib.suppress(
            RuntimeError
        ):  # if the signal came while the same stream was being written to
            print(NOTICE, file=sys.stderr, flush=True)

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        self.restore()

    def deliver(self) -> None:
        """Do what the signal would have done: KeyboardInterrupt for Ctrl-C, the end of the process for SIGTERM."""
        if self.received is not None:
            sys.stdout.flush()
            signal.raise_signal(self.received)
