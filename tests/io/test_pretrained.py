"""Models on disk: what is loaded is what was saved, and bad folders are refused clearly."""

import math
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ddpm import EDM, P2, DamagedCheckpointError, GaussianDiffusion, MinSNR, load_pretrained, save_pretrained
from ddpm.io.checkpoint import list_checkpoints
from tests import runs


def small_model(**options) -> GaussianDiffusion:
    shape = {"image_size": (8, 12), "network": {"num_classes": 3, "dropout": 0.1}}
    return runs.model(**shape, ddim_sampling_eta=0.5, **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run; tests do not change it."""
    return runs.trained(tmp_path_factory.mktemp("run"))


# Saving and loading


@pytest.mark.parametrize("weighting", [None, MinSNR(gamma=3.0), P2(gamma=0.5, k=2.0), EDM(sigma_data=0.3)])
def test_load_pretrained_gives_what_was_saved(tmp_path, weighting):
    saved = small_model(loss_weighting=weighting).eval()
    save_pretrained(saved, tmp_path / "deep" / "model")
    loaded = load_pretrained(tmp_path / "deep" / "model")
    assert loaded.config == saved.config
    assert loaded.loss_weighting == weighting
    assert loaded.network.config == saved.network.config
    assert not loaded.training
    assert torch.equal(runs.weights(loaded), runs.weights(saved))
    x, t, labels = torch.randn(4, 1, 8, 12), torch.tensor([1, 2, 30, 50]), torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(loaded.predict(x, t, labels).v, saved.predict(x, t, labels).v, rtol=0, atol=0)


def test_save_pretrained_in_half_precision_is_read_in_single_precision(tmp_path):
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


class Other(nn.Module):
    channels = 1


@pytest.mark.parametrize(
    ("network", "bias", "dtype", "message"),
    [
        (None, 1e6, torch.float16, "too large for torch.float16: last.bias"),
        (None, 0.0, torch.int8, "floating-point type"),
        (None, math.nan, None, r"not finite \(NaN\): last.bias; the model diverged in training"),
        (Other(), 0.0, None, "only a Unet can be saved, but the network is a Other"),
    ],
)
def test_save_pretrained_refuses_before_it_writes(tmp_path, network, bias, dtype, message):
    model = small_model()
    nn.init.constant_(model.network.last.bias, bias)
    model.network = network or model.network
    with pytest.raises((TypeError, ValueError), match=message):
        save_pretrained(model, tmp_path / "model", dtype=dtype)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("", ValueError, "the name of the folder is empty, as an unset variable"),
        (
            "deep/er/model.CKPT",
            ValueError,
            "is the name of a file, and a folder is wanted: give one without the .CKPT",
        ),
        ("taken", NotADirectoryError, "taken cannot be written, as taken is a file; choose another"),
        ("taken/deeper", NotADirectoryError, "deeper cannot be written, as"),
        (
            "run",
            FileExistsError,
            "run is the folder of a run, and a model in it would be taken for the run's",
        ),
    ],
)
def test_save_pretrained_refuses_what_is_no_folder_for_a_model(
    run, tmp_path, monkeypatch, name, error, message
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run.results_folder, "run")
    (tmp_path / "taken").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=re.escape(message)):
        save_pretrained(small_model(), name)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["model", "v1.5", "my model", "x.zip"])
def test_save_pretrained_takes_any_other_name(tmp_path, monkeypatch, name):
    """A folder that is there is one, whatever its name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.zip").mkdir()
    for _ in range(2):
        save_pretrained(small_model(), name)
    assert load_pretrained(tmp_path / name).config == small_model().config


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("value", [0.25, math.nan])
def test_load_pretrained_takes_floats_of_any_size_and_no_nan(tmp_path, kind, value):
    model = small_model()
    save_pretrained(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors") | {"last.bias": torch.tensor([value])}
    save_file({name: tensor.to(kind) for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    if math.isnan(value):
        with pytest.raises(ValueError, match=r"not finite \(NaN\): last.bias"):
            load_pretrained(tmp_path)
    else:
        assert load_pretrained(tmp_path).network.last.bias.tolist() == [0.25]


# Out of checkpoints


def test_load_pretrained_takes_a_run_or_a_checkpoint(run):
    for place in (run.results_folder, list_checkpoints(run.results_folder)[-1]):
        ema = GaussianDiffusion.from_pretrained(place)
        assert torch.equal(runs.weights(ema), runs.weights(run.ema_model))
        raw = GaussianDiffusion.from_pretrained(place, weights="model")
        assert torch.equal(runs.weights(raw), runs.weights(run.diffusion))
        assert not torch.equal(runs.weights(raw), runs.weights(ema))
    assert ema.config == run.diffusion.config
    assert not ema.training


def test_load_pretrained_refuses_a_damaged_checkpoint_and_passes_it_over_in_a_run(tmp_path):
    runs.trained(tmp_path)
    newest = list_checkpoints(tmp_path)[-1]
    (newest / "ema.safetensors").write_bytes((newest / "ema.safetensors").read_bytes()[:-1] + b"?")
    with pytest.raises(DamagedCheckpointError, match=r"the checksum of ema\.safetensors does not hold"):
        load_pretrained(newest)
    with pytest.warns(UserWarning, match="step-00000002, the one before it, is used"):
        load_pretrained(tmp_path)


def test_a_run_holds_no_pickle(run):
    files = [path for path in run.results_folder.rglob("*") if path.is_file()]
    kinds = {path.suffix or path.name for path in files}
    # Some versions of filelock take the lock away again.
    assert kinds | {".lock"} == {".json", ".jsonl", ".safetensors", ".png", ".lock"}
