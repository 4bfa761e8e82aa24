"""Checkpoints: what is read is what was written; what is damaged is seen, named, and never in the way."""

import errno
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddpm.io import checkpoint
from ddpm.io.checkpoint import (
    DamagedCheckpointError,
    list_checkpoints,
    newest_checkpoint,
    read_checkpoint,
    step_of,
    write_checkpoint,
)
from ddpm.io.files import write_synced

TENSORS = {"model": {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7)}}
TENSORS |= {"ema": {"a": torch.zeros(2, 3)}}
DOCUMENTS = {"state": {"step": 3, "numbers": [1, 2.5, None]}, "config": {"network": {}}}


def write(run, step, value=0.0, *, keep=3):
    tensors = TENSORS | {"ema": {"a": torch.full((2, 3), value)}}
    return write_checkpoint(run, step, tensors, DOCUMENTS, keep=keep)


def steps(run):
    return [step_of(folder) for folder in list_checkpoints(run)]


def test_newest_checkpoint_gives_what_was_written(tmp_path):
    folder = write(tmp_path, 3)
    assert folder == tmp_path / "checkpoints" / "step-00000003"
    saved = newest_checkpoint(tmp_path)
    assert saved.step == 3
    assert saved.documents == DOCUMENTS
    for file, tensors in TENSORS.items():
        for name, tensor in tensors.items():
            assert torch.equal(saved.tensors[file][name], tensor)
            assert saved.tensors[file][name].dtype == tensor.dtype
    assert sorted(path.suffix for path in folder.iterdir()) == [".json"] * 3 + [".safetensors"] * 2


def test_write_checkpoint_keeps_the_newest_few_by_number(tmp_path):
    for step in (1, 99_999_999, 100_000_000, 5):
        write(tmp_path, step, keep=4)
    assert newest_checkpoint(tmp_path).step == 100_000_000
    write(tmp_path, 100_000_001, keep=2)
    assert steps(tmp_path) == [100_000_000, 100_000_001]


def test_write_checkpoint_never_deletes_what_it_just_wrote(tmp_path):
    """Not even if there are later ones, which may be damaged."""
    for step in (10, 20, 30):
        write(tmp_path, step)
    write(tmp_path, 15, keep=1)
    assert steps(tmp_path) == [15, 20, 30]


def test_remains_of_a_killed_writer_and_other_names_are_no_checkpoint(tmp_path):
    folder = write(tmp_path, 1, value=1.0).parent
    for name in (".step-00000002.part", ".step-00000001.old", "step-00000001.bak"):
        (folder / name).mkdir()
        (folder / name / "model.safetensors").write_bytes(b"half")
    (folder / "step-00000003").touch()
    assert steps(tmp_path) == [1]
    assert newest_checkpoint(tmp_path).step == 1
    write(tmp_path, 2)
    there = {"step-00000001", "step-00000001.bak", "step-00000002", "step-00000003"}
    assert {path.name for path in folder.iterdir()} == there


# Damage


@settings(max_examples=200)
@given(data=st.data())
def test_read_checkpoint_sees_a_flipped_bit_anywhere(tmp_path_factory, data):
    """Every bit of every file matters, but those of white space and of letters' case in JSON."""
    run = tmp_path_factory.mktemp("run")
    folder = write(run, 1)
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        saved = read_checkpoint(folder)
    except DamagedCheckpointError:
        return
    # A flip that gets through was in the list of checksums itself and left its meaning: white space, say.
    assert path.name == "checksums.json"
    assert saved.documents == DOCUMENTS
    assert torch.equal(saved.tensors["model"]["a"], TENSORS["model"]["a"])


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "state.json", "checksums.json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "{}", "gone"])
def test_newest_checkpoint_passes_over_a_damaged_one(tmp_path, name, damage):
    write(tmp_path, 1, value=1.0)
    broken = write(tmp_path, 2, value=2.0)
    content = (broken / name).read_bytes()
    (broken / name).unlink()
    if damage != "gone":
        spoilt = {"cut": content[: len(content) // 2], "empty": b"", "{}": b"{}"}
        (broken / name).write_bytes(spoilt[damage])
    why = "lists no file" if (name, damage) == ("checksums.json", "{}") else ""
    message = rf"step-00000002 is damaged: .*{why}.*; step-00000001, the one before it, is used"
    with pytest.warns(UserWarning, match=message) as caught:
        saved = newest_checkpoint(tmp_path)
    assert caught[0].filename == __file__
    assert float(saved.tensors["ema"]["a"][0, 0]) == 1.0


def test_newest_checkpoint_needs_a_good_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        newest_checkpoint(tmp_path)
    for step in (1, 2):
        (write(tmp_path, step) / "model.safetensors").write_bytes(b"")
    message = r"every checkpoint .* is damaged: .*step-00000002.*step-00000001"
    with pytest.raises(DamagedCheckpointError, match=message):
        newest_checkpoint(tmp_path)


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    write(tmp_path, 1)
    read = Path.read_bytes

    def refuse(path):
        if path.name == "ema.safetensors":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(PermissionError, match=r"Permission denied: .*ema\.safetensors"):
        newest_checkpoint(tmp_path)


def test_write_checkpoint_replaces_all_but_a_good_one_of_the_same_contents(tmp_path):
    broken = write(tmp_path, 2, value=2.0)
    (broken / "state.json").write_text("{}")
    for value in (2.0, 3.0):
        checksums = write(tmp_path, 2, value=value) / "checksums.json"
        assert float(newest_checkpoint(tmp_path).tensors["ema"]["a"][0, 0]) == value
        before = checksums.stat().st_mtime_ns
        write(tmp_path, 2, value=value)
        assert checksums.stat().st_mtime_ns == before
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSYS, errno.EXDEV, errno.EACCES])
def test_checkpoints_are_kept_on_drives_whose_folders_get_no_other_name(tmp_path, monkeypatch, number):
    """As those over a bucket, or of Windows while another program looks into the folder."""
    named, order = Path.replace, []

    def replace(path, target):
        if path.is_dir():
            raise OSError(number, os.strerror(number), str(path))
        order.append(path.name)
        return named(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    for step in (1, 2, 3, 3):
        write(tmp_path, step, value=float(len(order)), keep=2)
        assert (newest_checkpoint(tmp_path).step, order[-1]) == (step, "checksums.json")
    left = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert left == {"step-00000002", "step-00000003"}


# Disks that refuse


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "the disk is full: make room"),
        (errno.EDQUOT, "your quota on that disk is used up"),
        (errno.EROFS, "that disk is read-only"),
        (errno.EACCES, "you may not write there"),
        (errno.EIO, "move the run's folder to a disk that can be written"),
    ],
)
def test_write_checkpoint_leaves_the_old_ones_where_the_disk_refuses(tmp_path, monkeypatch, number, hint):
    write(tmp_path, 1)
    written = []

    def refuse(path, content):
        written.append(path.name)
        if len(written) == 3:
            raise OSError(number, os.strerror(number), str(path))
        return write_synced(path, content)

    monkeypatch.setattr(checkpoint, "write_synced", refuse)
    message = rf"step-00000002 cannot be written .*{hint}"
    with pytest.raises(OSError, match=message) as caught:
        write(tmp_path, 2)
    assert caught.value.errno == number
    assert newest_checkpoint(tmp_path).step == 1
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
