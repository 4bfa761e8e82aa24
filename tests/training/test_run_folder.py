"""A run's folder is had by one run alone, and whatever breaks a run off says what to do."""

import errno
import math
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load
from torch.utils.data import Dataset

from ddpm import GaussianDiffusion
from ddpm.io import checkpoint, files
from ddpm.io.checkpoint import list_checkpoints
from tests.io.mounts import run_on_disk
from tests.runs import model, pictures, saved_files, spied, trained, trainer, weights


def test_locked_refuses_a_folder_with_a_run_in_it(tmp_path):
    trained(tmp_path)
    before = saved_files(tmp_path)
    with pytest.raises(FileExistsError, match=r"already holds a run, up to step 4, .*trainer\.resume\(\)"):
        trainer(tmp_path).train()
    assert saved_files(tmp_path) == before
    for path in tmp_path.glob("checkpoints/*/ema.safetensors"):  # damaged ones may hold what somebody wants
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FileExistsError, match="already holds a run, up to step 4") as refused:
        trainer(tmp_path).train()
    shutil.rmtree(tmp_path / "checkpoints")
    trained(tmp_path)  # whoever was refused holds no lock
    del refused


def test_locked_refuses_a_run_set_back_beside_its_future(tmp_path):
    """Its later checkpoints would come out on top at the next resume."""
    trained(tmp_path)
    again = trainer(tmp_path, train_lr=1e-5)
    with pytest.warns(UserWarning, match="train_lr was"):
        again.load(2)
    with pytest.raises(FileExistsError, match=r"up to step 4, .* stands at step 2.*delete the later"):
        again.train()
    shutil.rmtree(list_checkpoints(tmp_path)[-1])
    again.train()
    assert torch.equal(weights(GaussianDiffusion.from_pretrained(tmp_path)), weights(again.ema_model))


@pytest.mark.parametrize("name", ["run.png", "run.zip", "deep/er/run.safetensors", ".json"])
def test_locked_refuses_the_name_of_a_file(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} is the name of a file, and a folder is wanted"):
        trainer(tmp_path / name).train()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / name).mkdir(parents=True)
    trained(tmp_path / name)


def test_samples_are_there_whole_or_not_at_all(tmp_path, monkeypatch):
    """Also where nothing has made the folder yet; what is there is not drawn again."""
    ours = trainer(tmp_path / "run")
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", lambda _: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            ours.draw_samples()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    ours.draw_samples()
    assert [path.name for path in (tmp_path / "run/samples").iterdir()] == ["step-00000000.png"]


def test_locked_refuses_a_read_only_disk_before_the_first_step(tmp_path):
    script = f"""
from tests import runs
trainer = runs.trainer({str(tmp_path)!r} + "/run")
trainer.training_step = lambda *_: print("began to work")
try:
    trainer.train()
except OSError as error:
    print(error)
"""
    printed = run_on_disk(tmp_path, "ro", script)
    assert "cannot be written (Read-only file system); choose another" in printed
    assert "began to work" not in printed


def test_samples_that_a_full_disk_cuts_short_are_drawn_again_by_the_resumed_run(tmp_path, monkeypatch):
    written = files.write_synced

    def full_disk(path, content):
        if ".png" not in path.name:
            return written(path, content)
        path.write_bytes(content[:9])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(files, "write_synced", full_disk)
        with pytest.raises(OSError, match=r"step-00000002\.png cannot be written .*: make room") as caught:
            trainer(tmp_path).train()
    assert "The last checkpoint is that of step 2." in caught.value.__notes__[-1]
    assert list((tmp_path / "samples").iterdir()) == []
    trainer(tmp_path).train(resume=True)
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {
        "step-00000002.png",
        "step-00000004.png",
    }


class Explode(torch.autograd.Function):
    """The same forwards, infinite backwards."""

    @staticmethod
    def forward(_, x):
        return x.clone()

    @staticmethod
    def backward(_, gradient):
        return gradient * math.inf


def no_memory(_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        (lambda x: x * math.nan, FloatingPointError, "the loss is nan at step 5: the weights are of no use"),
        (Explode.apply, FloatingPointError, r"the gradient's length is (nan|inf) at step 5"),
        (
            no_memory,
            torch.OutOfMemoryError,
            r"lower train_batch_size \(now 8\) and raise gradient_accumulate_every \(now 1\) .*"
            r"mixed_precision='bf16' \(now 'no'\).*Tried to allocate",
        ),
    ],
)
def test_explained_names_the_cause_and_the_last_checkpoint(tmp_path, failure, error, message):
    def spoil(output, calls):
        fifth = calls[-1]["training"] and sum(call["training"] for call in calls) == 5
        return failure(output) if fifth else output

    ours = spied(tmp_path, {"spoil": spoil}, train_num_steps=9, log_every=4)
    with pytest.raises(error, match=message) as caught:
        ours.train()
    said = " ".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    resume = "To resume the run: trainer.resume() in your program."
    assert f"The last checkpoint is that of step 4. {resume}" in said
    assert [folder.name for folder in list_checkpoints(tmp_path)] == ["step-00000002", "step-00000004"]
    kept = load((list_checkpoints(tmp_path)[-1] / "model.safetensors").read_bytes())
    assert all(bool(tensor.isfinite().all()) for tensor in kept.values())


class Dying(Dataset):
    """A data set whose reading ends the process that reads it."""

    def __len__(self):
        return 100

    def __getitem__(self, index):
        if index and torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(1, 8, 8)


def test_explained_says_that_a_worker_died(tmp_path):
    ours = trainer(tmp_path, data=Dying(), num_workers=1)
    with pytest.raises(RuntimeError, match=r"a process that loads images died.*lower num_workers \(now 1;"):
        ours.train()


@pytest.mark.parametrize("workers", [0, 1])
def test_explained_passes_on_which_picture_broke(tmp_path, workers):
    folder = pictures(tmp_path / "pictures", 9)
    ours = trainer(tmp_path / "run", model(network={"channels": 3}), folder, num_workers=workers)
    for path in folder.iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(RuntimeError, match=r"cannot read the image .*\.png") as caught:
        ours.train()
    assert "No checkpoint had been written yet." in caught.value.__notes__


def test_explained_says_that_the_disk_is_full_and_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    """The disk fills up on the way: the run ends with the words for it, and goes on when there is room."""
    ours, whole = trainer(tmp_path, train_num_steps=6), checkpoint.write_synced

    def fills_up(path, content):
        if ours.step > 2:
            raise OSError(28, "No space left on device", str(path))
        return whole(path, content)

    monkeypatch.setattr(checkpoint, "write_synced", fills_up)
    with pytest.raises(OSError, match="the disk is full") as caught:
        ours.train()
    assert any("The last checkpoint is that of step 2." in note for note in caught.value.__notes__)
    monkeypatch.undo()
    trainer(tmp_path, train_num_steps=6).resume()
    trained(tmp_path / "whole", train_num_steps=6)
    assert saved_files(tmp_path) == saved_files(tmp_path / "whole")
