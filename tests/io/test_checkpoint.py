"""Models on disk: what is loaded is what was saved, and bad folders are refused clearly."""

import errno
import json
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from ddpm import P2, GaussianDiffusion, MinSNR, Unet
from ddpm.io.checkpoint import (
    DamagedCheckpointError,
    list_checkpoints,
    load_pretrained,
    newest_checkpoint,
    read_checkpoint,
    save_pretrained,
    step_of,
    write_checkpoint,
    write_synced,
)
from tests import runs
from tests.io.mounts import run_on_disk


def small_model() -> GaussianDiffusion:
    torch.manual_seed(0)
    network = Unet(
        16,
        dim_mults=(1, 2),
        channels=1,
        num_classes=3,
        attention_resolutions=(),
        num_res_blocks=1,
        dropout=0.1,
    )
    for (
        parameter
    ) in network.parameters():  # the output layers begin at zero, which would hide a missing weight
        nn.init.normal_(parameter, std=0.05)
    return GaussianDiffusion(
        network,
        image_size=(8, 12),
        timesteps=50,
        objective="pred_v",
        beta_schedule="cosine",
        ddim_sampling_eta=0.5,
    )


def test_round_trip(tmp_path):
    saved = small_model().eval()
    save_pretrained(saved, tmp_path / "model")
    loaded = load_pretrained(tmp_path / "model")
    assert loaded.config == saved.config
    assert loaded.network.config == saved.network.config
    assert not loaded.training
    x, t, labels = torch.randn(4, 1, 8, 12), torch.tensor([1, 2, 30, 50]), torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(loaded.predict(x, t, labels).v, saved.predict(x, t, labels).v, rtol=0, atol=0)


def test_half_precision_on_disk_is_single_precision_again(tmp_path):
    """float16 keeps 11 bits: what it can hold exactly comes back unchanged."""
    model = small_model()
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.copy_(parameter.half())
    save_pretrained(model, tmp_path, dtype=torch.float16)
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.float16}
    for name, tensor in load_pretrained(tmp_path).network.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, model.network.state_dict()[name])
    assert next(model.network.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (1e6, torch.float16, "too large for torch.float16: last.bias"),
        (0.0, torch.int8, "floating-point type"),
    ],
)
def test_a_type_that_would_lose_the_weights_is_refused(tmp_path, value, dtype, message):
    model = small_model()
    with torch.no_grad():
        model.network.last.bias.fill_(value)
    with pytest.raises(ValueError, match=message):
        save_pretrained(model, tmp_path / "model", dtype=dtype)
    assert not (tmp_path / "model").exists()


def test_saving_again_replaces_and_leaves_no_scraps(tmp_path):
    model = small_model()
    save_pretrained(model, tmp_path)
    with torch.no_grad():
        model.network.last.bias.fill_(7)
    save_pretrained(model, tmp_path)
    assert float(load_pretrained(tmp_path).network.last.bias.detach()[0]) == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_failed_save_leaves_the_old_model_whole(tmp_path, monkeypatch):
    model = small_model()
    save_pretrained(model, tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("ddpm.io.checkpoint.write_synced", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_pretrained(model, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    load_pretrained(tmp_path)


def test_the_shipped_digits_model_is_found_by_name():
    diffusion = load_pretrained("digits")
    assert diffusion.image_shape == (1, 8, 8)
    images = diffusion.sample(2, 5, seeds=[0, 1])
    assert images.shape == (2, 1, 8, 8)
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1


def test_an_unknown_model_names_those_that_ship():
    with pytest.raises(FileNotFoundError, match=r"no model at 'digitz'.*digits"):
        load_pretrained("digitz")


def test_a_wrong_architecture_is_refused(tmp_path):
    save_pretrained(small_model(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["network"]["dim"] = 32
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_pretrained(tmp_path)


def test_only_a_unet_can_be_saved(tmp_path):
    class Other(nn.Module):
        channels = 1

    with pytest.raises(TypeError, match="only a Unet can be saved, but the network is a Other"):
        save_pretrained(GaussianDiffusion(Other(), image_size=8, timesteps=50), tmp_path)


# Checkpoints


TENSORS = {
    "model": {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7)},
    "ema": {"a": torch.zeros(2, 3)},
}
DOCUMENTS = {"state": {"step": 3, "numbers": [1, 2.5, None]}, "config": {"network": {}}}


def write(run, step, value=0.0, *, keep=3):
    tensors = TENSORS | {"ema": {"a": torch.full((2, 3), value)}}
    return write_checkpoint(run, step, tensors, DOCUMENTS, keep=keep)


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
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


def test_any_memory_layout_is_stored_by_its_values(tmp_path):
    tensor = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    write_checkpoint(tmp_path, 1, {"model": {"a": tensor}}, {}, keep=1)
    assert torch.equal(newest_checkpoint(tmp_path).tensors["model"]["a"], tensor)


def test_the_newest_few_are_kept(tmp_path):
    for step in (1, 2, 10, 100):
        write(tmp_path, step, keep=2)
    assert [step_of(folder) for folder in list_checkpoints(tmp_path)] == [10, 100]


def test_the_checkpoint_just_written_is_never_the_one_to_go(tmp_path):
    """Not even beside later ones, which may be damaged."""
    for step in (10, 20, 30):
        write(tmp_path, step)
    write(tmp_path, 15, keep=1)
    assert [step_of(folder) for folder in list_checkpoints(tmp_path)] == [15, 20, 30]


def test_other_folders_are_no_checkpoints(tmp_path):
    write(tmp_path, 1)
    (tmp_path / "checkpoints" / "step-00000001.bak").mkdir()
    assert [step_of(folder) for folder in list_checkpoints(tmp_path)] == [1]


def test_tied_weights_are_stored_twice(tmp_path):
    shared = torch.randn(3)
    write_checkpoint(tmp_path, 1, {"model": {"a": shared, "b": shared}}, {}, keep=1)
    assert torch.equal(newest_checkpoint(tmp_path).tensors["model"]["b"], shared)


def test_steps_are_ordered_as_numbers(tmp_path):
    for step in (99_999_999, 100_000_000, 5):
        write(tmp_path, step)
    assert newest_checkpoint(tmp_path).step == 100_000_000


def test_remains_of_a_killed_writer_are_no_checkpoint_and_go(tmp_path):
    write(tmp_path, 1, value=1.0)
    remains = tmp_path / "checkpoints" / ".step-00000002.part"
    remains.mkdir()
    (remains / "model.safetensors").write_bytes(b"half")
    assert newest_checkpoint(tmp_path).step == 1
    write(tmp_path, 3)
    assert not remains.exists()


@settings(max_examples=200)
@given(data=st.data())
def test_a_flipped_bit_anywhere_is_seen(tmp_path_factory, data):
    """Every bit of every file but those of JSON's white space and letters' case matters; a flip never passes unseen."""
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
@pytest.mark.parametrize("damage", ["cut", "empty", "gone"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(tmp_path, name, damage):
    write(tmp_path, 1, value=1.0)
    broken = write(tmp_path, 2, value=2.0)
    content = (broken / name).read_bytes()
    (broken / name).unlink()
    if damage != "gone":
        (broken / name).write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    with pytest.warns(
        UserWarning, match=r"step-00000002 is damaged: .*; step-00000001, the one before it, is used"
    ):
        saved = newest_checkpoint(tmp_path)
    assert float(saved.tensors["ema"]["a"][0, 0]) == 1.0


def test_a_damaged_checkpoint_is_written_again(tmp_path):
    broken = write(tmp_path, 2, value=2.0)
    (broken / "state.json").write_text("{}")
    write(tmp_path, 2, value=2.0)
    assert newest_checkpoint(tmp_path).step == 2


def test_a_good_checkpoint_of_the_same_step_is_left_alone(tmp_path):
    folder = write(tmp_path, 2)
    before = (folder / "checksums.json").stat().st_mtime_ns
    write(tmp_path, 2)
    assert (folder / "checksums.json").stat().st_mtime_ns == before


def test_only_damaged_checkpoints_are_an_error_that_names_them(tmp_path):
    for step in (1, 2):
        (write(tmp_path, step) / "model.safetensors").write_bytes(b"")
    with pytest.raises(
        DamagedCheckpointError, match=r"every checkpoint .* is damaged: .*step-00000002.*step-00000001"
    ):
        newest_checkpoint(tmp_path)


def test_no_checkpoint_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        newest_checkpoint(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_disk_that_refuses_leaves_the_old_checkpoints(tmp_path, monkeypatch, number):
    write(tmp_path, 1)
    written = []

    def refuse(path, content):
        written.append(path.name)
        if len(written) == 3:
            raise OSError(number, os.strerror(number), str(path))
        return write_synced(path, content)

    monkeypatch.setattr("ddpm.io.checkpoint.write_synced", refuse)
    with pytest.raises(OSError, match=r"step-00000002 could not be written .*point results_folder") as caught:
        write(tmp_path, 2)
    assert caught.value.errno == number
    assert newest_checkpoint(tmp_path).step == 1
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


def test_a_full_disk(tmp_path):
    """A real one, of 200 kB: no room for the second checkpoint, and the first is whole."""
    script = f"""
import torch
from pathlib import Path
from ddpm.io.checkpoint import newest_checkpoint, write_checkpoint
run, tensors = Path({str(tmp_path)!r}), {{"model": {{"a": torch.randn(30_000)}}}}
write_checkpoint(run, 1, tensors, {{}}, keep=3)
try:
    write_checkpoint(run, 2, tensors, {{}}, keep=3)
except OSError as error:
    print(error)
print("newest", newest_checkpoint(run).step, sorted(path.name for path in (run / "checkpoints").iterdir()))
"""
    printed = run_on_disk(tmp_path, "size=200k", script)
    assert "the disk is full: make room, or point results_folder elsewhere" in printed
    assert "newest 1 ['step-00000001']" in printed


# Models out of checkpoints


def test_a_run_and_its_checkpoints_are_models(tmp_path):
    run = runs.trainer(tmp_path / "run")
    run.train()
    newest = tmp_path / "run" / "checkpoints" / "step-00000004"
    for place in (tmp_path / "run", newest):
        averaged = GaussianDiffusion.from_pretrained(place)
        assert torch.equal(runs.weights(averaged), runs.weights(run.ema_model))
        raw = GaussianDiffusion.from_pretrained(place, weights="model")
        assert torch.equal(runs.weights(raw), runs.weights(run.diffusion))
        assert not torch.equal(runs.weights(raw), runs.weights(averaged))
    assert averaged.config == run.diffusion.config
    assert not averaged.training


def test_a_damaged_checkpoint_is_no_model(tmp_path):
    run = runs.trainer(tmp_path)
    run.train()
    newest = list_checkpoints(tmp_path)[-1]
    (newest / "ema.safetensors").write_bytes((newest / "ema.safetensors").read_bytes()[:-1] + b"?")
    with pytest.raises(DamagedCheckpointError, match=r"the checksum of ema\.safetensors does not hold"):
        load_pretrained(newest)
    with pytest.warns(UserWarning, match="step-00000002, the one before it, is used"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("weighting", [None, MinSNR(gamma=3.0), P2(gamma=0.5, k=2.0)])
def test_the_loss_weighting_comes_back(tmp_path, weighting):
    model = small_model()
    model.loss_weighting = weighting
    save_pretrained(model, tmp_path)
    assert load_pretrained(tmp_path).loss_weighting == weighting


def test_a_network_of_another_class_is_left_to_its_program(tmp_path):
    save_pretrained(small_model(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["network"] = {"class": "MyNetwork"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match="trained with a network of class MyNetwork, which only your own program"
    ):
        load_pretrained(tmp_path)


def test_nothing_is_pickled(tmp_path):
    run = runs.trainer(tmp_path)
    run.train()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".jsonl", ".safetensors", ".png", ""}
    assert [path.name for path in files if not path.suffix] == [".lock"]
