"""Presets: what they build, and which suits which data."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from ddpm.cli.presets import _ALIKE, _MIRRORED, CIFAR10, PRESETS, choose_preset
from ddpm.cli.run_config import RunConfig, completed
from ddpm.data.names import TORCHVISION, canonical


def parameter_count(run_config):
    return sum(parameter.numel() for parameter in run_config.build_diffusion().network.parameters())


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_and_survives_json(name, tmp_path):
    run_config = completed(choose_preset("cifar10", name)[1])
    run_config.check_size()
    model = run_config.build_diffusion()
    assert model.image_shape == (run_config.data["channels"], *[run_config.diffusion["image_size"]] * 2)
    run_config.save(tmp_path)
    assert RunConfig.load(tmp_path) == run_config
    assert json.loads((tmp_path / "run.json").read_text()) == asdict(run_config)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_the_preset_of_the_paper_says_what_the_paper_says():
    """Ho et al. 2020, appendix B: T = 1000, linear, noise, dropout 0.1, batches of 128, 2e-4, decay 0.9999, flips."""
    model, training = completed(CIFAR10).build_diffusion(), CIFAR10.training_config
    assert parameter_count(completed(CIFAR10)) == 35_746_307
    assert (model.schedule.timesteps, model.beta_schedule, model.objective) == (1000, "linear", "pred_noise")
    assert model.network.config["dropout"] == 0.1
    assert model.network.config["attention_resolutions"] == [2]  # at 16×16
    assert (training.train_batch_size, training.train_lr, training.ema_decay) == (128, 2e-4, 0.9999)
    assert CIFAR10.data["augment_horizontal_flip"] is True
    # Small grey pictures have a small one.
    assert parameter_count(completed(PRESETS["fashion-mnist"])) <= 2_000_000


@pytest.mark.parametrize(
    ("word", "preset", "name", "mirrored"),
    [
        ("digits", None, "digits", False),
        ("Fashion-MNIST", None, "fashion-mnist", False),
        ("mnist", None, "fashion-mnist", False),
        ("CIFAR10", None, "cifar10", True),
        ("cifar-100", None, "cifar10", True),
        ("svhn", None, "folder", False),
        ("pictures", None, "folder", True),
        ("./mnist", None, "folder", True),
        ("~/cifar10", None, "folder", True),
        ("digits", "folder", "folder", False),
        ("mnist", "cifar10", "cifar10", False),
    ],
)
def test_choose_preset_suits_the_data_and_mirrors_only_what_means_the_same(word, preset, name, mirrored):
    chosen, run_config = choose_preset(word, preset)
    assert chosen == name
    assert run_config.training == PRESETS[name].training
    assert run_config.data.get("augment_horizontal_flip", False) is mirrored


def test_choose_preset_makes_folders_absolute_and_leaves_names(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for word in ("pictures", "./pictures", "~/pictures"):
        assert Path(choose_preset(word)[1].data["name_or_path"]) == tmp_path / "pictures"
    for word in ("digits", "cifar10", "pitcures"):
        assert choose_preset(word)[1].data["name_or_path"] == word


def test_words_that_a_preset_suits_are_names_of_data_sets():
    known = {"digits", *map(canonical, TORCHVISION)}
    assert known >= set.union(*_ALIKE.values()) >= _MIRRORED
