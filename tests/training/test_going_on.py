"""`train(resume=True)` begins and goes on; checkpoints by the clock; drives that are not like disks."""

import errno
import fcntl
import os
import random
import shutil
import signal
import time

import pytest
import torch

from ddpm.io.checkpoint import DamagedCheckpointError, list_checkpoints, step_of
from ddpm.training.metrics_logger import read_metrics
from ddpm.training.trainer import Trainer
from tests.runs import model, saved_files, trained, trainer, weights


def make(folder, **config) -> Trainer:
    """With dropout, so that a lost random state would show."""
    return trainer(folder, model(network={"dropout": 0.3}), **config)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """The end of a run of 6 steps that nobody disturbed."""
    folder = tmp_path_factory.mktemp("untouched")
    make(folder, train_num_steps=6).train()
    return saved_files(folder)


def nothing(folder):
    """No folder at all."""


def lock_alone(folder):
    """Killed as soon as it had begun."""
    (folder / "samples").mkdir(parents=True)
    (folder / ".lock").touch()


def metrics_alone(folder):
    """Killed before its first checkpoint."""
    lock_alone(folder)
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')


def half_a_checkpoint(folder):
    """Killed while the first was being written."""
    metrics_alone(folder)
    (folder / "checkpoints" / ".step-00000002.part").mkdir(parents=True)
    (folder / "checkpoints" / ".step-00000002.part" / "model.safetensors").write_bytes(b"half")


def two_steps(folder):
    make(folder, train_num_steps=2).train()


def all_steps(folder):
    make(folder, train_num_steps=6).train()


def damaged_newest(folder):
    make(folder, train_num_steps=4).train()
    path = list_checkpoints(folder)[-1] / "ema.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


STATES = [nothing, lock_alone, metrics_alone, half_a_checkpoint, two_steps, all_steps, damaged_newest]


@pytest.mark.filterwarnings("ignore:.*is damaged")
@pytest.mark.parametrize("state", STATES)
def test_train_with_resume_ends_the_same_whatever_is_there_and_however_often(tmp_path, untouched, state):
    folder = tmp_path / "run"
    state(folder)
    torch.manual_seed(99)
    random.seed(99)
    for _ in range(2):
        make(folder, train_num_steps=6).train(resume=True)
        assert saved_files(folder) == untouched
        assert [line["step"] for line in read_metrics(folder)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("state", [lock_alone, metrics_alone, half_a_checkpoint, two_steps])
def test_resume_takes_a_run_that_was_begun(tmp_path, untouched, state):
    state(tmp_path / "run")
    make(tmp_path / "run", train_num_steps=6).resume()
    assert saved_files(tmp_path / "run") == untouched


@pytest.mark.parametrize("step", [4, 6])
def test_resume_draws_the_samples_that_a_broken_off_run_lacks(tmp_path, step):
    make(tmp_path, train_num_steps=step).train()
    grid = tmp_path / "samples" / f"step-{step:08d}.png"
    drawn = grid.read_bytes()
    grid.unlink()
    make(tmp_path, train_num_steps=6).train(resume=True)
    assert grid.read_bytes() == drawn


def test_a_signal_ends_the_drawing_of_samples_at_once(tmp_path, capsys):
    ours, drawn = make(tmp_path, train_num_steps=6), []

    def draws():
        drawn.append(ours.step)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it goes on drawing")

    ours.draw_samples = draws
    with pytest.raises(KeyboardInterrupt):
        ours.train()
    assert drawn == [2] == [step_of(path) for path in list_checkpoints(tmp_path)]
    assert "Saved at step 2. " in capsys.readouterr().out


def test_resume_refuses_a_folder_without_a_run(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"there is no run to resume; trainer\.train\(resume=True\) begins one"
    ):
        make(tmp_path / "misspelt").resume()
    assert not (tmp_path / "misspelt").exists()


def test_train_with_resume_goes_back_to_the_newest_checkpoint(tmp_path, untouched):
    """One trainer, after an error that broke its run off beyond a checkpoint."""
    ours = make(tmp_path, train_num_steps=6)
    step = ours.training_step

    def breaks(*args):
        if ours.step == 3:
            raise KeyError
        return step(*args)

    ours.training_step = breaks
    with pytest.raises(KeyError):
        ours.train(resume=True)
    ours.training_step = step
    ours.train(resume=True)
    assert saved_files(tmp_path) == untouched


def test_train_with_resume_refuses_where_nothing_is_whole(tmp_path):
    trained(tmp_path)
    for path in tmp_path.glob("checkpoints/*/ema.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        DamagedCheckpointError,
        match=r"every checkpoint in .* is damaged.*copy it again; or delete .* to begin again",
    ):
        trainer(tmp_path).train(resume=True)


def test_train_with_resume_refuses_another_model(tmp_path):
    trained(tmp_path)
    with pytest.raises(ValueError, match="another model"):
        trainer(tmp_path, model(timesteps=60)).train(resume=True)


# By the clock


def slowly(ours: Trainer, seconds: float, now: list[float]) -> None:
    """Each update takes so long, by a clock that the test has in hand."""
    step = ours.training_step

    def slow(*args):
        now[0] += seconds
        return step(*args)

    ours.training_step = slow


@pytest.mark.parametrize(
    ("minutes", "seconds", "saved"),
    [
        (1.0, 20.0, [3, 6, 9, 10]),
        (1.0, 61.0, list(range(1, 11))),
        (0.5, 20.0, [2, 4, 6, 8, 10]),
        (1.0, 1.0, [10]),
        (None, 1e6, [10]),
        (10.0, 150.0, [4, 8, 10]),
    ],
)
def test_checkpoints_come_by_the_clock_too_without_samples(tmp_path, monkeypatch, minutes, seconds, saved):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    config = {
        "train_num_steps": 10,
        "save_and_sample_every": 100,
        "checkpoints_to_keep": 20,
        "log_every": 100,
    }
    ours = make(tmp_path / "by clock", save_every_minutes=minutes, **config)
    slowly(ours, seconds, now)
    ours.train()
    assert [step_of(path) for path in list_checkpoints(tmp_path / "by clock")] == saved
    assert [path.name for path in (tmp_path / "by clock" / "samples").iterdir()] == ["step-00000010.png"]
    assert read_metrics(tmp_path / "by clock")[-1]["seconds"] == pytest.approx(10 * seconds)
    make(tmp_path / "plain", save_every_minutes=None, **config).train()
    assert saved_files(tmp_path / "by clock") == saved_files(tmp_path / "plain")


def test_checkpoint_by_steps_sets_the_clock_back(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    ours = make(
        tmp_path, train_num_steps=8, save_and_sample_every=4, save_every_minutes=1.0, checkpoints_to_keep=9
    )
    slowly(ours, 20.0, now)
    ours.train()
    assert [step_of(path) for path in list_checkpoints(tmp_path)] == [3, 4, 7, 8]


def test_a_run_killed_between_two_checkpoints_by_steps_loses_minutes_not_all(
    tmp_path, untouched, monkeypatch
):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    config = {"train_num_steps": 6, "save_and_sample_every": 100}
    ours = make(tmp_path, save_every_minutes=1.0, **config)
    slowly(ours, 25.0, now)
    step = ours.training_step
    ours.training_step = lambda *args: step(*args) if ours.step < 5 else signal.raise_signal(signal.SIGINT)
    with pytest.raises((KeyboardInterrupt, TypeError)):
        ours.train()
    assert step_of(list_checkpoints(tmp_path)[0]) == 3
    make(tmp_path, **config).train(resume=True)
    assert saved_files(tmp_path) == untouched


@pytest.mark.parametrize("minutes", [0, -1.0, float("nan"), "10"])
def test_save_every_minutes_is_checked(tmp_path, minutes):
    with pytest.raises(ValueError, match="save_every_minutes must be a number above 0"):
        trainer(tmp_path, save_every_minutes=minutes)


# Drives


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL])
def test_a_drive_without_locks_is_trained_on_with_a_warning(tmp_path, untouched, monkeypatch, number):
    def no_locks(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.warns(UserWarning, match="lies on a drive without locks .*no other program trains there"):
        make(tmp_path, train_num_steps=6).train(resume=True)
    assert saved_files(tmp_path) == untouched


def test_a_file_that_another_program_left_in_place_of_a_lock_stops_nobody(tmp_path, monkeypatch):
    """As filelock's soft locks would, of a session that ended on another machine."""
    (tmp_path / ".lock").write_text("1\nanother-machine\n")

    def no_locks(*_):
        raise OSError(errno.ENOSYS, "no locks")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.warns(UserWarning, match="without locks"):
        trainer(tmp_path).train(resume=True)


def test_a_drive_that_syncs_no_folders_and_forbids_modes_is_written_to(tmp_path, untouched, monkeypatch):
    whole = os.fsync

    def files_alone(handle):
        if os.path.isdir(f"/proc/self/fd/{handle}"):  # noqa: PTH112
            raise OSError(errno.EINVAL, "not for folders")
        whole(handle)

    monkeypatch.setattr(os, "fsync", files_alone)
    monkeypatch.setattr(os, "chmod", None)
    make(tmp_path, train_num_steps=6).train(resume=True)
    assert saved_files(tmp_path) == untouched


def test_a_drive_that_goes_away_is_named_and_comes_back(tmp_path, untouched, monkeypatch):
    from ddpm.io import checkpoint

    drive, gone = tmp_path / "drive", tmp_path / "gone"
    ours, whole = make(drive / "run", train_num_steps=6), checkpoint.write_synced

    def unplugged(path, content):
        if ours.step == 4 and drive.exists():
            drive.rename(gone)
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        return whole(path, content)

    monkeypatch.setattr(checkpoint, "write_synced", unplugged)
    with pytest.raises(OSError, match=r"cannot be written \(.*not connected\); the drive has gone"):
        ours.train(resume=True)
    monkeypatch.undo()
    shutil.rmtree(drive, ignore_errors=True)
    gone.rename(drive)
    make(drive / "run", train_num_steps=6).train(resume=True)
    assert saved_files(drive / "run") == untouched


# Warm-up


@pytest.mark.parametrize(
    ("warm_up", "steps", "said"), [(4, 4, True), (9, 4, True), (3, 4, False), (0, 1, False), (1, 1, True)]
)
def test_train_says_that_it_is_all_warm_up(tmp_path, recwarn, warm_up, steps, said):
    ours = trainer(tmp_path, lr_warmup_steps=warm_up, train_num_steps=steps)
    ours.train()
    words = [str(warning.message) for warning in recwarn if "warm-up" in str(warning.message)]
    assert len(words) == said
    reached = max(line["lr"] for line in read_metrics(tmp_path))
    assert (reached < ours.train_lr) == said
    assert not said or f"lr_warmup_steps={warm_up} and train_num_steps={steps}" in words[0]
    assert weights(ours.diffusion).isfinite().all()
