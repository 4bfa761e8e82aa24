"""Files appear whole or not at all."""

import errno
import os

import pytest
import torch

from ddpm.io import files
from ddpm.io.files import json_bytes, read_json, read_tensors, tensor_bytes, write_whole


def full_disk(path, content):
    path.write_bytes(content[: len(content) // 2])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_write_whole_replaces_and_leaves_no_scraps(tmp_path):
    for content in (b"first", b"second"):
        write_whole(tmp_path / "x.json", content)
        assert (tmp_path / "x.json").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_write_whole_keeps_the_old_file_on_a_full_disk(tmp_path, monkeypatch):
    write_whole(tmp_path / "x.json", b"old")
    monkeypatch.setattr(files, "write_synced", full_disk)
    with pytest.raises(OSError, match="No space left") as caught:
        write_whole(tmp_path / "x.json", b"something longer")
    assert caught.value.errno == errno.ENOSPC
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x.json": b"old"}


def test_write_whole_syncs_the_file_before_its_name_and_the_folder_after(tmp_path, monkeypatch):
    """What a power cut would show: the contents reach the disk first, then the name, then the folder's entries."""
    synced, target = [], tmp_path / "x.json"

    def watched(handle):
        status = os.fstat(handle)
        synced.append((status.st_ino, status.st_size, target.exists()))

    monkeypatch.setattr(os, "fsync", watched)
    write_whole(target, b"content")
    (file, size, named), (folder, _, named_then) = synced
    assert (file, size, named) == (target.stat().st_ino, 7, False)
    assert (folder, named_then) == (tmp_path.stat().st_ino, True)


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
