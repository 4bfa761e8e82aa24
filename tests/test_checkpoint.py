"""Models on disk: what is loaded is what was saved, and bad folders are refused clearly."""

import json

import pytest
import torch
from torch import nn

from ddpm import GaussianDiffusion, Unet
from ddpm.checkpoint import load_pretrained, save_pretrained


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

    monkeypatch.setattr("pathlib.Path.write_bytes", full_disk)
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
