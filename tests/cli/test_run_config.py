"""What a run is made from: changed, completed, saved, built."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from ddpm import MinSNR
from ddpm.cli.presets import CIFAR10, PRESETS, choose_preset
from ddpm.cli.run_config import RunConfig, completed, with_overrides
from ddpm.data import datasets
from tests.cli.fashion_mnist import fashion_mnist


@pytest.mark.parametrize("name", PRESETS)
def test_run_config_survives_json(name, tmp_path):
    run_config = completed(choose_preset("cifar10", name)[1])
    run_config.save(tmp_path)
    assert RunConfig.load(tmp_path) == run_config
    assert json.loads((tmp_path / "run.json").read_text()) == asdict(run_config)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_save_leaves_the_old_file_when_the_new_one_cannot_be_written(tmp_path, monkeypatch):
    CIFAR10.save(tmp_path)

    def disk_full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        PRESETS["digits"].save(tmp_path)
    monkeypatch.undo()
    assert RunConfig.load(tmp_path) == CIFAR10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "run.json cannot be read as the configuration of a run: Expecting"),
        ('{"model": {}}', "run.json cannot be read as the configuration of a run: .*'model'"),
        ('{"network": {"dimm": 3}}', "run.json cannot be read .*network has no option 'dimm'"),
        ('{"training": {"train_lr": -1}}', "run.json cannot be read .*train_lr must be a number above 0"),
    ],
)
def test_load_refuses_a_file_that_was_spoiled(tmp_path, text, message):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        RunConfig.load(tmp_path)


def test_completed_parts_agree():
    run_config = with_overrides(
        choose_preset("digits")[1], ["data.channels=3", "diffusion.image_size=[8, 12]"]
    )
    run_config = completed(run_config)
    run_config.check_size()
    model, dataset = run_config.build_diffusion(), run_config.load_data()
    assert model.image_shape == tuple(dataset[0][0].shape) == (3, 8, 12)


@pytest.mark.parametrize(
    ("on_gpu", "bf16", "word", "precision", "workers"),
    [
        (False, False, "cifar10", None, None),
        (True, True, "cifar10", "bf16", 4),
        (True, False, "cifar10", "no", 4),
        (True, True, "digits", "bf16", 0),
    ],
)
def test_completed_gives_a_gpu_what_makes_it_fast(monkeypatch, on_gpu, bf16, word, precision, workers):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    training = completed(choose_preset(word)[1]).training
    assert (training.get("mixed_precision"), training.get("num_workers")) == (precision, workers)
    chosen = with_overrides(choose_preset(word)[1], ["training.mixed_precision=no", "training.num_workers=1"])
    assert completed(chosen).training["mixed_precision"] == "no"
    assert completed(chosen).training["num_workers"] == 1


def test_overrides_change_nothing_else_and_the_last_counts():
    before = asdict(CIFAR10)
    overrides = ["network.dropout=0.3", "training.seed=4", "network.num_classes=null", "network.dropout=0"]
    after = asdict(with_overrides(CIFAR10, overrides))
    assert asdict(CIFAR10) == before
    before["network"] |= {"dropout": 0, "num_classes": None}
    before["training"]["seed"] = 4
    assert after == before


@pytest.mark.parametrize("text", ["MinSNR", '{"name": "MinSNR"}', '{"name": "MinSNR", "gamma": 5}'])
def test_overrides_take_a_weighting_by_its_name(text):
    run_config = with_overrides(choose_preset("digits")[1], [f"diffusion.loss_weighting={text}"])
    assert completed(run_config).build_diffusion().loss_weighting == MinSNR(5)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (30, "30×30 do not fit .* 4 resolutions need sides divisible by 8: .*such as 32"),
        ([32, 36], "32×36 do not fit"),
    ],
)
def test_check_size_refuses_what_the_network_cannot_halve(size, message):
    with pytest.raises(ValueError, match=message):
        PRESETS["folder"].changed("diffusion", image_size=size).check_size()


@pytest.mark.parametrize(("side", "fits"), [(8, True), (12, False), (20, False), (24, True)])
def test_check_size_agrees_with_the_network(side, fits):
    run_config = PRESETS["folder"].changed("diffusion", image_size=side).changed("network", dim=8)
    model, x = run_config.build_diffusion(), torch.zeros(1, 3, side, side)
    for check in (run_config.check_size, lambda: model.network(x, torch.ones(1, dtype=torch.long))):
        if fits:
            check()
        else:
            with pytest.raises(ValueError, match="divisible by 8"):
                check()


def test_the_seed_of_training_draws_the_weights():
    def first_weights(seed):
        run_config = completed(PRESETS["digits"].changed("training", seed=seed))
        return run_config.build_diffusion().network.state_dict()["first.weight"]

    assert torch.equal(first_weights(1), first_weights(1))
    assert not torch.equal(first_weights(1), first_weights(2))


# Data


def test_load_data_finds_fashion_mnist_by_its_preset(tmp_path):
    pixels = fashion_mnist(tmp_path, train=6, test=3)
    run_config = completed(choose_preset("fashion-mnist")[1].changed("data", root=str(tmp_path)))
    for dataset in (run_config.load_data(), run_config.local_data()):
        assert len(dataset) == 6
        image, label = dataset[4]
        assert image.shape == run_config.build_diffusion().image_shape == (1, 28, 28)
        assert np.array_equal((image[0] * 255).round().numpy(), pixels[4])
        assert label == 4
    assert len(run_config.load_data(train=False)) == 3


def test_local_data_downloads_nothing(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a download")

    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", refuse)
    for word in ("cifar10", "fashion-mnist"):
        run_config = completed(choose_preset(word)[1].changed("data", root=str(tmp_path)))
        assert run_config.local_data() is None
    assert list(tmp_path.iterdir()) == []
    assert len(completed(choose_preset("digits")[1]).local_data()) == 1797


def test_load_data_never_mirrors_test_images(monkeypatch):
    calls = []
    monkeypatch.setattr(datasets, "load_dataset", lambda **options: calls.append(options))
    run_config = completed(choose_preset("cifar10")[1])
    run_config.load_data()
    run_config.load_data(train=False)
    usual = {"name_or_path": "cifar10", "channels": 3, "image_size": 32}
    assert calls == [
        usual | {"augment_horizontal_flip": True, "train": True},
        usual | {"augment_horizontal_flip": False, "train": False},
    ]
