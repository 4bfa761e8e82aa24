"""Files appear whole or not at all."""

import errno
import os

import pytest
import torch

from ddpm import save_diffusers_unet, save_pretrained
from ddpm.cli.run_config import RunConfig
from ddpm.io import files
from ddpm.io.checkpoint import write_checkpoint
from ddpm.io.files import json_bytes, read_json, read_tensors, tensor_bytes, write_whole
from tests.cli.small_runs import everything_in
from tests.io.test_diffusers import small
from tests.runs import model


def write_json(folder, number):
    write_whole(folder / "x.json", json_bytes(number))


def write_run_config(folder, number):
    RunConfig(training={"seed": number}).save(folder)


def write_diffusers(folder, number):
    save_diffusers_unet(small(num_classes=number), folder)


def write_model(folder, number):
    save_pretrained(model(number), folder)


@pytest.mark.parametrize("write", [write_json, write_run_config, write_diffusers, write_model])
def test_writers_replace_files_whole_or_keep_the_old_ones(tmp_path, monkeypatch, write):
    def full_disk(path, content):
        path.write_bytes(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    written = []
    for number in (4, 5):
        write(tmp_path, number)
        written.append(everything_in(tmp_path))
    assert written[0].keys() == written[1].keys()
    assert written[0] != written[1]
    monkeypatch.setattr(files, "write_synced", full_disk)
    with pytest.raises(OSError, match="No space left") as caught:
        write(tmp_path, 4)
    assert caught.value.errno == errno.ENOSPC
    assert everything_in(tmp_path) == written[1]


@pytest.mark.parametrize("write", [write_diffusers, write_model])
@pytest.mark.parametrize("later", [False, True])
def test_a_disk_that_is_full_before_the_last_file_leaves_none(tmp_path, monkeypatch, write, later):
    """Or those that were there, all of them."""
    if later:
        write(tmp_path, 4)
    before, synced = everything_in(tmp_path), files.write_synced

    def full_disk(path, content):
        if "config.json" in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        synced(path, content)

    monkeypatch.setattr(files, "write_synced", full_disk)
    with pytest.raises(
        OSError, match=r"/config\.json cannot be written \(No space .*\); the disk is full: make room"
    ):
        write(tmp_path, 5)
    assert everything_in(tmp_path) == before


def one_checkpoint(run, _):
    write_checkpoint(run, 1, {"model": {"a": torch.zeros(2)}}, {"state": {}}, keep=3)


@pytest.mark.parametrize(
    ("write", "name"), [(write_json, "x.json"), (one_checkpoint, "checkpoints/step-00000001")]
)
def test_writers_sync_everything_before_they_give_the_name_and_the_name_after(
    tmp_path, monkeypatch, write, name
):
    """What a power cut would show: the contents reach the disk first, then the name, then the folder's entries."""
    synced, target = [], tmp_path / name

    def watched(handle):
        status = os.fstat(handle)
        synced.append((status.st_ino, target.exists(), status.st_size))

    monkeypatch.setattr(os, "fsync", watched)
    write(tmp_path, 1)
    inside = [target, *target.iterdir()] if target.is_dir() else [target]
    sizes = {path.stat().st_ino: path.stat().st_size for path in inside}
    assert {number for number, named, _ in synced if not named} == sizes.keys()
    assert all(size == sizes[number] for number, named, size in synced if not named)
    assert {number for number, named, _ in synced if named} == {target.parent.stat().st_ino}


def test_tensor_bytes_take_any_memory_layout_and_tied_tensors(tmp_path):
    shared = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    write_whole(tmp_path / "x", tensor_bytes({"a": shared, "b": shared, "c": shared.transpose(0, 1)}))
    back = read_tensors(tmp_path / "x")
    assert torch.equal(back["a"], shared)
    assert torch.equal(back["b"], shared)
    assert torch.equal(back["c"], shared.transpose(0, 1))


def test_json_bytes_are_lines_for_people(tmp_path):
    write_whole(tmp_path / "x", json_bytes({"a": [1, 2.5, None]}))
    assert read_json(tmp_path / "x") == {"a": [1, 2.5, None]}
    assert (tmp_path / "x").read_text().count("\n") > 3
    write_whole(
        tmp_path / "x", b"\xef\xbb\xbf" + json_bytes({"a": "ö"})
    )  # saved anew by an editor of Windows
    assert read_json(tmp_path / "x") == {"a": "ö"}
