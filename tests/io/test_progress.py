"""How far work has come: a bar in a terminal, a few plain lines in a log."""

import io
import sys
import time
from types import SimpleNamespace

import pytest

from ddpm.io import progress
from ddpm.io.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


def work(clock, count, seconds, *, every=10, **options):
    """What is written while so many steps of so many seconds are done, figures being told every few of them."""
    stream = io.StringIO()
    shown = Progress(count, "step", stream=stream, **options)
    for number in range(1, count + 1):
        clock.now += seconds
        shown.update()
        if number % every == 0 or number == count:
            shown.tell(f"loss {number}")
    shown.close()
    return stream.getvalue().splitlines()


def test_log_has_a_first_line_a_last_line_and_few_between(clock):
    lines = work(clock, 1000, 0.2)
    assert lines[0] == "10/1,000 steps, loss 10, 0:03:18 left"
    assert lines[-1] == "1,000/1,000 steps, loss 1000"
    assert 6 <= len(lines) <= 8  # 200 seconds, at most one in 30
    assert all("\r" not in line for line in lines)


def test_log_of_days_has_hundreds_of_lines_not_thousands(clock):
    lines = work(clock, 5 * 24 * 360, 10.0, every=50)
    assert 600 < len(lines) < 800


def test_log_of_slow_steps_has_a_line_before_figures_are_due(clock):
    lines = work(clock, 9, 60.0, every=100)
    assert lines[0] == "1/9 steps, 0:08:00 left"
    assert lines[-1] == "9/9 steps, loss 9"


def test_log_of_a_blink_is_empty_unless_figures_are_told(clock):
    stream = io.StringIO()
    shown = Progress(5, "image", stream=stream)
    shown.update(5)
    shown.close()
    assert stream.getvalue() == ""
    assert len(work(clock, 5, 0.01, every=1)) == 2


def test_log_says_where_a_run_that_was_cut_short_ended(clock):
    stream = io.StringIO()
    shown = Progress(100, "step", initial=40, stream=stream, title="training")
    shown.update(5)
    clock.now += 5
    shown.tell("loss 1")
    shown.update(2)
    shown.close()
    assert stream.getvalue().splitlines() == [
        "training: 45/100 steps, loss 1, 0:00:55 left",
        "training: 47/100 steps, 0:00:38 left",
    ]


def test_log_of_a_run_without_end_says_that_it_takes_long(clock):
    stream = io.StringIO()
    shown = Progress(2**63 - 1, "step", stream=stream)
    clock.now += 60
    shown.update()
    assert " steps, 115740740 days, 17:46:40 left" in stream.getvalue()


def test_nothing_is_shown_that_is_not_asked_for(clock):
    assert work(clock, 100, 1.0, shown=False) == []
    terminal = Terminal()
    Progress(3, "step", stream=terminal, shown=False).update(3)
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_terminal_and_notebook_get_a_bar(monkeypatch, stream):
    if not stream.isatty():
        python = SimpleNamespace(kernel=None)
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: python))
    shown = Progress(3, "step", title="drawing", stream=stream)
    shown.update(3)
    shown.tell("loss 1")
    shown.close()
    assert all(part in stream.getvalue() for part in ("drawing: 100%", "3/3", "loss 1", "\r"))


def test_ipython_in_a_terminal_is_no_notebook(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace()))
    assert not progress._in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not progress._in_notebook()


def test_progress_goes_on_when_its_stream_breaks_and_without_a_console(monkeypatch):
    class Gone(Terminal):
        def write(self, _):
            raise OSError(5, "gone")

    shown = Progress(2, "step", stream=Gone())
    shown.update(2)
    shown.tell("loss")
    shown.close()
    monkeypatch.setattr(sys, "stderr", None)
    shown = Progress(2, "step")
    shown.update(2)
    shown.close()
