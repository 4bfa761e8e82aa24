"""Runs that go on: bit for bit the same, and anything that would make them another is refused or said."""

import contextlib
import json
import random
import shutil
import warnings
from dataclasses import fields
from importlib import metadata

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import ddpm
from ddpm import GaussianDiffusion, MinSNR, NoiseSchedule, Unet
from ddpm.io.checkpoint import list_checkpoints
from ddpm.training.config import TrainingConfig
from ddpm.training.metrics_logger import read_metrics
from tests.runs import model, pictures, saved_files, spied, trained, trainer, weights

CONFIGURATIONS = {
    "dropout": {"network": {"dropout": 0.3}},
    "bf16": {"mixed_precision": "bf16"},
    "accumulating": {"gradient_accumulate_every": 2, "ema_update_every": 3, "channels_last": False},
    "self-conditioned with labels": {
        "network": {"self_condition": True, "num_classes": 10, "label_dropout": 0.5}
    },
    "averages and gradient checkpointing": {
        "network": {"dropout": 0.3, "self_condition": True},
        "extra_ema_decays": (0.5, 0.999),
        "gradient_checkpointing": True,
        "ema_update_every": 1,
    },
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


@pytest.fixture(scope="module")
def half_weighted(tmp_path_factory):
    """A finished run of 4 steps, with a weighting that cannot be written down; tests do not change it."""
    folder = tmp_path_factory.mktemp("half")
    trained(folder, model(loss_weighting=half_weight))
    return folder


def half_weight(schedule, t, objective):  # noqa: ARG001 (the interface of weightings)
    return torch.full_like(schedule.snr[t], 0.5)


def test_load_by_step(tmp_path):
    ours = trained(tmp_path)
    end = weights(ours.diffusion)
    ours.load(2)
    assert (ours.step, ours.images_seen) == (2, 16)
    assert not torch.equal(weights(ours.diffusion), end)
    ours.load()
    assert ours.step == 4
    assert torch.equal(weights(ours.diffusion), end)
    with pytest.raises(ValueError, match="step must be a whole number of at least 0, but got '2'"):
        ours.load("2")
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


def test_load_puts_every_global_generator_and_the_loss_scale_back(tmp_path):
    ours, again = trained(tmp_path), trainer(tmp_path)
    ours.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)  # where fp16 has one
    again.scaler = torch.amp.GradScaler("cpu")

    def draw_all():
        return [random.random(), np.random.rand(), float(torch.rand(()))]  # noqa: NPY002

    ours.save()
    expected = draw_all()
    again.load()
    assert draw_all() == expected
    assert again.scaler.get_scale() == 8.0


def test_load_gives_a_process_that_the_run_did_not_have_numbers_of_its_own(half_weighted):
    drawn = []
    for rank in (0, 1, 2, 1):
        ours = trainer(half_weighted, model(loss_weighting=half_weight))
        ours.accelerator.process_index = rank
        ours.load()
        ours.accelerator.process_index = 0
        drawn.append((float(torch.rand(())), float(np.random.rand())))  # noqa: NPY002
    assert drawn[1] == drawn[3]
    assert len(set(drawn)) == 3


def test_checkpoint_holds_the_whole_configuration(tmp_path):
    ours = trained(tmp_path, model(loss_weighting=MinSNR(gamma=4.0)), train_lr=3e-4, num_threads=1)
    config = json.loads((list_checkpoints(tmp_path)[-1] / "config.json").read_text())
    assert Unet(**config["network"]).config == ours.diffusion.network.config
    assert config["diffusion"] == ours.diffusion.config
    assert config["diffusion"]["loss_weighting"] == {"name": "MinSNR", "gamma": 4.0}
    assert config["training"] == ours.config.to_json()
    assert config["data"] == {"source": "TensorDataset", "images": 1797}
    assert (config["processes"], config["device"]) == (1, str(ours.accelerator.device))
    assert torch.__version__.startswith(config["versions"]["torch"])


def test_a_clone_on_the_path_trains_without_being_installed(tmp_path, monkeypatch):
    known = metadata.Distribution.from_name

    def found(name: str) -> metadata.Distribution:
        if name == "out-of-the-snow":
            raise metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(metadata.Distribution, "from_name", found)
    trained(tmp_path, model(), num_threads=1)
    config = json.loads((list_checkpoints(tmp_path)[-1] / "config.json").read_text())
    assert config["versions"]["ddpm"] == ddpm.__version__


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"network": {"dropout": 0.2}, "objective": "pred_x0"}, "dropout was 0.0 and is 0.2; objective was"),
        ({"timesteps": 60}, "timesteps was 50 and is 60"),
        ({"loss_weighting": None}, r"loss_weighting was .*half_weight"),
    ],
)
def test_load_refuses_another_model(half_weighted, other, message):
    with pytest.raises(ValueError, match=rf"another model: .*{message}"):
        trainer(half_weighted, model(**({"loss_weighting": half_weight} | other))).load()


def scheduled(highest):
    """A model with the schedule that its configuration names, or one of its own, up to this β."""
    ours = model()
    if highest is not None:
        ours.schedule = NoiseSchedule(torch.linspace(1e-3, highest, 50))
    return ours


@pytest.mark.parametrize(("before", "now"), [(0.3, 0.1), (0.3, None), (None, 0.3), (0.3, 0.3)])
def test_load_refuses_another_schedule(tmp_path, before, now):
    trained(tmp_path, scheduled(before), train_num_steps=1)
    with (
        contextlib.nullcontext() if before == now else pytest.raises(ValueError, match=r"schedule (had|was)")
    ):
        trainer(tmp_path, scheduled(now)).load()


# What a run and its continuation may differ in without a word, and what makes them differ.
FREE = {
    "train_num_steps": 5,
    "save_and_sample_every": 3,
    "num_samples": 2,
    "num_workers": 1,
    "num_threads": 2,
}
FREE |= {
    "save_every_minutes": None,
    "checkpoints_to_keep": 2,
    "log_every": 3,
    "progress": True,
    "tensorboard": True,
    "gradient_checkpointing": True,
}
CHANGES = {"train_batch_size": 4, "gradient_accumulate_every": 2, "train_lr": 1e-3, "ema_update_every": 2}
CHANGES |= {"ema_decay": 0.9, "adam_betas": (0.8, 0.99), "mixed_precision": "bf16", "compile": True}
CHANGES |= {
    "weight_decay": 0.1,
    "lr_warmup_steps": 3,
    "lr_schedule": "cosine",
    "max_grad_norm": 2.0,
    "seed": 1,
}
CHANGES |= {
    "deterministic": True,
    "ema_halflife": 9.0,
    "ema_rampup": None,
    "channels_last": False,
    "augment_horizontal_flip": False,
    "extra_ema_decays": (0.5,),
}


def test_load_names_all_that_makes_another_run_and_nothing_else(half_weighted, tmp_path):
    assert {*FREE, *CHANGES, "results_folder"} == {field.name for field in fields(TrainingConfig)}
    run = shutil.copytree(half_weighted, tmp_path / "moved")
    sampling = {"sampling_timesteps": 3, "ddim_sampling_eta": 1.0, "sampler": "heun", "spacing": "quadratic"}
    same = model(loss_weighting=half_weight, **sampling)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer(run, same, **FREE).load()
    few = TensorDataset(torch.zeros(20, 1, 8, 8))
    other = trainer(run, model(loss_weighting=half_weight), few, **CHANGES)
    other.accelerator.num_processes = 2
    with pytest.warns(UserWarning, match="goes on with other settings: ") as said:
        other.load()
    other.accelerator.num_processes = 1
    changes = str(said[0].message)
    assert [name for name in (*CHANGES, "processes", "data") if f"{name} was " not in changes] == []
    assert [name for name in FREE if f"{name} was " in changes] == []
    assert "train_lr was 0.0001 and is 0.001" in changes
    with pytest.warns(UserWarning, match="train_num_steps was 4 and is 6"):  # it stretches the cosine
        trainer(run, same, lr_schedule="cosine", train_num_steps=6).load()


def test_load_takes_a_checkpoint_of_an_earlier_version(tmp_path, monkeypatch):
    """It knows nothing of `num_threads`."""
    to_json = TrainingConfig.to_json
    monkeypatch.setattr(
        TrainingConfig, "to_json", lambda self: {k: v for k, v in to_json(self).items() if k != "num_threads"}
    )
    trained(tmp_path)
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer(tmp_path, train_num_steps=5, num_threads=1).resume()


def test_load_takes_any_network_that_keeps_the_contract(tmp_path):
    ours, again = spied(tmp_path), spied(tmp_path)
    ours.train()
    again.load()
    assert torch.equal(weights(again.diffusion), weights(ours.diffusion))
    with pytest.raises(ValueError, match="a network of class Spy, which only your own program can build"):
        GaussianDiffusion.from_pretrained(tmp_path)
