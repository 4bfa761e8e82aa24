"""Runs that are killed, at any moment and in any way, end as if nothing had been."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from ddpm.io import checkpoint
from ddpm.io.checkpoint import list_checkpoints, read_checkpoint
from ddpm.training.metrics_logger import read_metrics
from ddpm.training.signals import Interrupts
from tests import runs
from tests.runs import saved_files
from tests.training import killed_runs

# Processes that begin with everything imported: each costs milliseconds, and may be killed without harm to the tests.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.runs", "tests.training.test_interruptions"])

ROOT = Path(__file__).parents[2]
STEPS = 24
CONFIG = {"train_num_steps": STEPS, "save_and_sample_every": 3, "num_samples": 1, "checkpoints_to_keep": 2}
# What Python announces of the calls that write a checkpoint.
WRITING = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}


@pytest.fixture(autouse=True)
def ctrl_c_is_answered():
    """Also where the tests run as a job in the background, which begins with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def make(folder: Path, **config):
    """A run with dropout, so that a lost random state would show."""
    return runs.trainer(folder, runs.model(network={"dropout": 0.2}), **(CONFIG | config))


def go_on(folder: Path, *, group: bool = False, **config: int) -> None:
    """Begin the run, or resume it: what somebody does who finds it dead."""
    if group:  # as its leader, with the processes that load images in it
        os.setpgrp()
        sys.stdout = (folder / "said.txt").open("w", encoding="utf-8")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    make(folder, **config).train(resume=True)


def go_on_and_die_writing(folder: Path, count: int) -> None:
    """The same, but killed at the `count`-th of the calls that write a checkpoint."""
    calls, active, whole = 0, False, checkpoint.write_checkpoint

    def hook(event: str, _: tuple) -> None:
        nonlocal calls
        calls += active and event in WRITING
        if active and event in WRITING and calls == count:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(*args, **keywords):
        nonlocal active
        active = True
        written = whole(*args, **keywords)
        active = False
        return written

    sys.addaudithook(hook)
    checkpoint.write_checkpoint = watched
    go_on(folder)


def start(target, folder: Path, *args, **keywords) -> multiprocessing.process.BaseProcess:
    process = PROCESSES.Process(target=target, args=(folder, *args), kwargs=keywords)
    process.start()
    return process


def end(process: multiprocessing.process.BaseProcess) -> int | None:
    process.join(120)
    if process.is_alive():
        process.kill()
        pytest.fail("a run did not end")
    return process.exitcode


def finish(folder: Path) -> None:
    assert end(start(go_on, folder)) == 0


def steps(folder: Path) -> list[int]:
    return [checkpoint.step_of(path) for path in list_checkpoints(folder)]


@pytest.fixture(scope="module")
def untouched(tmp_path_factory) -> dict[str, bytes]:
    """The end of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("untouched")
    finish(folder)
    return saved_files(folder)


def assert_whole(folder: Path) -> None:
    """Whatever lies under the name of a checkpoint is one."""
    for path in list_checkpoints(folder):
        read_checkpoint(path)


@pytest.mark.slow
def test_resume_after_a_kill_at_any_moment_ends_the_same(tmp_path, untouched):
    """Ten SIGKILLs by the clock, at moments spread over start, steps, samples and checkpoints."""
    moments = random.Random(0)
    killed = 0
    while killed < 10:
        process = start(go_on, tmp_path)
        time.sleep(moments.uniform(0.05, 1.0))
        alive = process.is_alive()
        process.kill()
        end(process)
        assert_whole(tmp_path)
        killed += alive
        if not alive:  # it had come to its end: begin once more
            assert saved_files(tmp_path) == untouched
            for path in tmp_path.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    finish(tmp_path)
    assert saved_files(tmp_path) == untouched
    assert [line["step"] for line in read_metrics(tmp_path)] == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_resume_after_a_kill_while_a_checkpoint_is_written_ends_the_same(tmp_path, untouched):
    """Ten SIGKILLs, each at another of the system calls that write, rename and delete checkpoints."""
    for count in random.Random(1).sample(range(1, 40), 10):
        before = steps(tmp_path)
        assert end(start(go_on_and_die_writing, tmp_path, count)) == -signal.SIGKILL
        assert_whole(tmp_path)
        assert not before or steps(tmp_path)[-1] >= before[-1]  # nothing that was saved is lost
    finish(tmp_path)
    assert saved_files(tmp_path) == untouched
    assert not list((tmp_path / "checkpoints").glob(".*"))


# Ctrl-C without workers is that of test_train_answers_ctrl_c_with_a_checkpoint.
WARNED = [("TERM", 0), ("TERM", 1), ("INT", 1), ("HUP", 0), ("USR1", 1), ("USR2", 0), ("XCPU", 0)]


@pytest.mark.parametrize(("name", "workers"), WARNED)
def test_train_answers_a_signal_to_the_group_with_a_checkpoint(tmp_path, untouched, name, workers):
    """As a terminal and most schedulers send it: to the whole group, the processes that load images included."""
    number = signal.Signals[f"SIG{name}"]
    process = start(go_on, tmp_path, group=True, num_workers=workers)
    while len(read_metrics(tmp_path)) < 4:
        time.sleep(0.01)
    os.killpg(process.pid or 0, number)
    code = end(process)
    # They end a process as they always do; Ctrl-C is a KeyboardInterrupt, which multiprocessing reports as 1.
    assert code == (1 if number == signal.SIGINT else -number)
    last = read_metrics(tmp_path)[-1]["step"]
    assert last < STEPS
    assert steps(tmp_path)[-1] == last
    assert f"Saved at step {last}." in (tmp_path / "said.txt").read_text(encoding="utf-8")
    finish(tmp_path)
    assert saved_files(tmp_path) == untouched


# What a loader says that waits for a dead worker is looked at in test_explained_says_that_a_worker_died.
@pytest.mark.parametrize(
    "broken", [None, EOFError(), ConnectionResetError(), RuntimeError("DataLoader worker (pid 7) exited")]
)
def test_train_answers_ctrl_c_with_a_checkpoint(tmp_path, capsys, broken):
    """Also where it ended a process that loads images while that one handed over a batch."""
    trainer = make(tmp_path)
    step, saved = trainer.training_step, 5 if broken is None else 4

    def interrupted(*args):
        if trainer.step == 4:
            signal.raise_signal(signal.SIGINT)
            if broken is not None:
                raise broken
        return step(*args)

    trainer.training_step = interrupted
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    said = capsys.readouterr()
    assert "Stopping after this step, with a checkpoint. Once more stops at once." in said.err
    how = "To resume the run: trainer.resume() in your program."
    assert f"Saved at step {saved}. {how}" in said.out
    assert steps(tmp_path)[-1] == saved
    assert not (tmp_path / "samples" / f"step-{saved:08d}.png").exists()  # nobody waits for those
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_train_works_outside_of_the_main_thread(tmp_path):
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(runs.trained, tmp_path).result().step == 4


@pytest.mark.parametrize(
    "error", [RuntimeError("reentrant call"), OSError(5, "terminal gone"), ValueError("closed")]
)
def test_interrupts_remember_the_first_signal_alone_whatever_becomes_of_stderr(monkeypatch, error):
    def busy(*_, **__):
        raise error

    monkeypatch.setattr("builtins.print", busy)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with Interrupts() as interrupts:
            signal.raise_signal(number)
            assert interrupts.received == number
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)


def test_interrupts_are_delivered_without_a_console(monkeypatch):
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(KeyboardInterrupt):
        interrupts.deliver()


@pytest.mark.parametrize("ignored", [True, False])
def test_interrupts_leave_a_hang_up_alone_that_nohup_has_switched_off(ignored):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with Interrupts("stopping") as interrupts:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGHUP)  # as terminal and shell may both send one
        assert interrupts.received == (None if ignored else signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == (signal.SIG_IGN if ignored else signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU, signal.SIGHUP])
def test_interrupts_leave_a_signal_to_the_program_that_takes_it(number):
    heard = []
    before = signal.signal(number, lambda *_: heard.append(number))
    try:
        with Interrupts() as interrupts:
            signal.raise_signal(number)
        assert (interrupts.received, heard) == (None, [number])
    finally:
        signal.signal(number, before)


def test_train_leaves_a_checkpoint_when_its_terminal_goes(tmp_path):
    """Every write to the terminal fails from then on: the bar's, the notice, the last words."""
    program = f"""
import os, pty, sys, time
from pathlib import Path
child, terminal = pty.fork()
if child == 0:
    from tests.training.test_interruptions import go_on
    go_on(Path({str(tmp_path)!r}), progress=True, train_num_steps=10_000, log_every=1)
metrics = Path({str(tmp_path)!r}) / "metrics.jsonl"
while not metrics.exists() or metrics.read_text().count("step") < 4:
    os.read(terminal, 1000)
os.close(terminal)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert done.stdout.split() == [str(-signal.SIGHUP)], done.stderr[-1000:]
    assert steps(tmp_path)[-1] == read_metrics(tmp_path)[-1]["step"]


def test_train_refuses_a_folder_that_another_program_has(tmp_path):
    process = start(go_on, tmp_path, train_num_steps=10_000)
    try:
        while not steps(tmp_path):
            assert process.is_alive()
            time.sleep(0.01)
        started = time.monotonic()
        with pytest.raises(
            FileExistsError, match=r"another program is training in .*choose another results_f"
        ):
            make(tmp_path).train()
        assert time.monotonic() - started < 45  # it did not wait
    finally:
        process.kill()
        process.join()
    make(tmp_path, train_num_steps=steps(tmp_path)[-1] + 1).resume()  # the dead hold no lock


@pytest.mark.slow
def test_the_command_that_begins_a_run_finishes_it_after_a_kill_at_any_moment(tmp_path):
    """Whole processes, one killed while Python imports and one later; `killed_runs` takes any number of moments."""
    taken, expected = killed_runs.undisturbed(tmp_path / "whole", 40)
    for share in (0.1, 0.85):
        folder = tmp_path / str(share)
        killed_runs.killed_once(folder, 40, taken * share)
        assert saved_files(folder) == expected
