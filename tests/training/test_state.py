"""Runs that go on: bit for bit the same, and anything that would make them another is refused or said."""

import json
import random
import shutil
import warnings

import numpy as np
import pytest
import torch

from ddpm import GaussianDiffusion, MinSNR, Unet
from ddpm.io.checkpoint import list_checkpoints
from ddpm.training.config import TrainingConfig
from ddpm.training.metrics_logger import read_metrics
from tests.runs import model, pictures, saved_files, spied, trained, trainer, weights

CONFIGURATIONS = {
    "dropout": {"network": {"dropout": 0.3}},
    "bf16": {"mixed_precision": "bf16"},
    "accumulating": {"gradient_accumulate_every": 2, "ema_update_every": 3, "channels_last": False},
    "self-conditioned": {"network": {"self_condition": True}},
    "with labels": {"network": {"num_classes": 10}},
    "random transforms": {"network": {"channels": 3}, "augmented": True, "num_workers": 2},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_resumed_run_ends_bit_for_bit_the_same(tmp_path, name):
    config = {"lr_warmup_steps": 3, **CONFIGURATIONS[name]}
    shape = config.pop("network", None)
    data = pictures(tmp_path / "pictures", 9) if config.pop("augmented", False) else None

    def make(folder, steps):
        return trainer(folder, model(network=shape), data, train_num_steps=steps, **config)

    make(tmp_path / "whole", 6).train()
    make(tmp_path / "parts", 3).train()
    torch.manual_seed(99)  # whatever else the program has done meanwhile
    make(tmp_path / "parts", 6).resume()
    assert saved_files(tmp_path / "whole") == saved_files(tmp_path / "parts")
    whole, parts = (read_metrics(tmp_path / folder) for folder in ("whole", "parts"))
    assert [line["step"] for line in parts] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in parts] == [line["loss"] for line in whole]
    assert [line["seconds"] for line in parts] == sorted(line["seconds"] for line in parts)


def test_load_by_step(tmp_path):
    ours = trained(tmp_path)
    end = weights(ours.diffusion)
    ours.load(2)
    assert (ours.step, ours.images_seen) == (2, 16)
    assert not torch.equal(weights(ours.diffusion), end)
    ours.load()
    assert ours.step == 4
    assert torch.equal(weights(ours.diffusion), end)
    with pytest.raises(FileNotFoundError, match=r"has no checkpoint of step 3; it has those of \[2, 4\]"):
        ours.load(3)
    damaged = list_checkpoints(tmp_path)[-1] / "optimizer.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.warns(UserWarning, match=r"step-00000004 is damaged.*step-00000002, the one before"):
        ours.load()
    assert ours.step == 2
    ours.train()  # over the damaged one
    assert torch.equal(weights(ours.diffusion), end)
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        trainer(tmp_path / "other").resume()


def test_load_puts_every_global_generator_back(tmp_path):
    ours = trained(tmp_path)

    def draw_all():
        return [random.random(), np.random.rand(), float(torch.rand(()))]  # noqa: NPY002

    ours.save()
    expected = draw_all()
    trainer(tmp_path).load()
    assert draw_all() == expected


def test_checkpoint_holds_the_whole_configuration(tmp_path):
    ours = trained(tmp_path, model(loss_weighting=MinSNR(gamma=4.0)), train_lr=3e-4, num_threads=1)
    config = json.loads((list_checkpoints(tmp_path)[-1] / "config.json").read_text())
    assert Unet(**config["network"]).config == ours.diffusion.network.config
    assert config["diffusion"] == ours.diffusion.config
    assert config["diffusion"]["loss_weighting"] == {"name": "MinSNR", "gamma": 4.0}
    assert config["training"] == ours.config.to_json()
    assert (config["training"]["train_lr"], config["training"]["num_threads"]) == (3e-4, 1)
    assert config["data"] == {"source": "TensorDataset", "images": 1797}
    assert (config["processes"], config["device"]) == (1, str(ours.accelerator.device))
    assert torch.__version__.startswith(config["versions"]["torch"])


def test_checkpoint_of_an_earlier_version_loads(tmp_path, monkeypatch):
    """It knows nothing of `num_threads`."""
    to_json = TrainingConfig.to_json
    monkeypatch.setattr(TrainingConfig, "to_json", lambda self: dict(list(to_json(self).items())[:-1]))
    trained(tmp_path)
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer(tmp_path, train_num_steps=5, num_threads=1).resume()


def half_weight(schedule, t, objective):  # noqa: ARG001 (the interface of weightings)
    return torch.full_like(schedule.snr[t], 0.5)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"network": {"dropout": 0.2}, "objective": "pred_noise"},
            r"dropout was 0.0 and is 0.2; objective was",
        ),
        ({"timesteps": 60}, "timesteps was 50 and is 60"),
        ({"loss_weighting": None}, r"loss_weighting was .*half_weight"),
    ],
)
def test_load_refuses_another_model(tmp_path, other, message):
    trained(tmp_path, model(loss_weighting=half_weight), train_num_steps=1)
    with pytest.raises(ValueError, match=rf"another model: .*{message}"):
        trainer(tmp_path, model(**({"loss_weighting": half_weight} | other))).load()


def test_resume_says_what_makes_another_run(tmp_path):
    trained(tmp_path)
    with pytest.warns(UserWarning, match=r"goes on with other settings: train_lr was 0.0001 and is 0.001"):
        trainer(tmp_path, train_lr=1e-3, train_num_steps=5).resume()
    few = torch.utils.data.TensorDataset(torch.zeros(20, 1, 8, 8))
    with pytest.warns(UserWarning, match=r"data was .*1797.* and is .*20"):
        trainer(tmp_path, data=few).load()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="train_num_steps"):  # it stretches the cosine
            trainer(tmp_path, lr_schedule="cosine", train_num_steps=6).load()


def test_resume_is_silent_about_what_is_free_to_change(tmp_path):
    trained(tmp_path, model(loss_weighting=half_weight))
    same = model(loss_weighting=half_weight, sampling_timesteps=3, ddim_sampling_eta=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer(tmp_path, same, train_num_steps=5, log_every=3, num_samples=2, num_threads=2).resume()


def test_load_takes_any_network_that_keeps_the_contract(tmp_path):
    ours, again = spied(tmp_path), spied(tmp_path)
    ours.train()
    again.load()
    assert torch.equal(weights(again.diffusion), weights(ours.diffusion))
    with pytest.raises(ValueError, match="a network of class Spy, which only your own program can build"):
        GaussianDiffusion.from_pretrained(tmp_path)


def test_run_set_back_does_not_write_beside_its_future(tmp_path):
    """Its later checkpoints would come out on top at the next resume."""
    trained(tmp_path)
    again = trainer(tmp_path, train_lr=1e-5)
    with pytest.warns(UserWarning, match="train_lr was"):
        again.load(2)
    with pytest.raises(
        FileExistsError, match=r"up to step 4, and this trainer stands at step 2.*delete the later"
    ):
        again.train()
    shutil.rmtree(list_checkpoints(tmp_path)[-1])
    again.train()
    assert torch.equal(weights(GaussianDiffusion.from_pretrained(tmp_path)), weights(again.ema_model))
