"""What a run is made from: changed, completed, saved, built."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from ddpm import MinSNR
from ddpm.cli.presets import CIFAR10, PRESETS, choose_preset
from ddpm.cli.run_config import RunConfig, completed, with_overrides
from ddpm.training.precision import Processor, choose_precision
from tests.data.pictures import write_mnist


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "run.json cannot be read as the configuration of a run: Expecting"),
        ('{"model": {}}', "run.json cannot be read as the configuration of a run: .*'model'"),
        (
            "[1]",
            r"run.json cannot be read .*: it holds data, network, diffusion, training, start, but got \[1\]",
        ),
        ("null", "run.json cannot be read .*: it holds data, .*, but got None"),
        ('{"data": 3}', "run.json cannot be read .*: data must be a list of options by name, but got 3"),
        ('{"training": []}', "run.json cannot be read .*: training must be a list of options by name"),
        (
            '{"start": 5}',
            "run.json cannot be read .*: start must be the name or the folder of a model, or null",
        ),
        (
            "{}",
            "run.json cannot be read .*: data.name_or_path and network.dim and .*image_size must be there",
        ),
        ('{"network": {"dimm": 3}}', "run.json cannot be read .*network has no option 'dimm'"),
        ('{"training": {"train_lr": -1}}', "run.json cannot be read .*train_lr must be a number above 0"),
    ],
)
def test_load_refuses_a_file_that_was_spoiled(tmp_path, text, message):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        RunConfig.load(tmp_path)


def test_overrides_change_nothing_else_and_the_last_counts():
    before = asdict(CIFAR10)
    overrides = ["network.dropout=0.3", "training.seed=4", "network.num_classes=null", "network.dropout=0"]
    after = asdict(with_overrides(CIFAR10, overrides))
    assert asdict(CIFAR10) == before
    before["network"] |= {"dropout": 0, "num_classes": None}
    before["training"]["seed"] = 4
    assert after == before


@pytest.mark.parametrize("weighting", ["MinSNR", '{"name": "MinSNR"}', '{"name": "MinSNR", "gamma": 5}'])
def test_completed_parts_agree_and_a_weighting_is_known_by_its_name(weighting):
    overrides = ["data.channels=3", "diffusion.image_size=[8, 12]", f"diffusion.loss_weighting={weighting}"]
    run_config = completed(with_overrides(choose_preset("digits")[1], overrides))
    run_config.check_size()
    model, dataset = run_config.build_diffusion(), run_config.load_data()
    assert model.image_shape == tuple(dataset[0][0].shape) == (3, 8, 12)
    assert model.loss_weighting == MinSNR(5)


@pytest.mark.parametrize(
    ("processor", "word", "precision", "workers"),
    [
        (Processor("cpu", native_bf16=False), "cifar10", "no", None),
        (Processor("cpu", native_bf16=True), "cifar10", "bf16", None),
        (Processor("cuda", native_bf16=True), "cifar10", "bf16", 4),
        (Processor("cuda", native_bf16=False), "cifar10", "fp16", 4),
        (Processor("mps", native_bf16=False), "cifar10", "no", None),
        (Processor("cuda", native_bf16=True), "mnist", "bf16", 4),
        # Too small for it to be faster.
        (Processor("cuda", native_bf16=True), "digits", "no", 0),
        (Processor("cpu", native_bf16=True), "digits", "no", None),
    ],
)
def test_completed_gives_a_machine_what_makes_it_fast(monkeypatch, processor, word, precision, workers):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: processor.kind == "cuda")
    monkeypatch.setattr("ddpm.training.precision.this_processor", lambda: processor)
    training = completed(choose_preset(word)[1]).training
    assert (training["mixed_precision"], training.get("num_workers")) == (precision, workers)
    chosen = with_overrides(choose_preset(word)[1], ["training.mixed_precision=no", "training.num_workers=1"])
    assert completed(chosen).training["mixed_precision"] == "no"
    assert completed(chosen).training["num_workers"] == 1
    # Where nothing is said, as in the run config of one's own.
    unsaid = replace(choose_preset("cifar10")[1], training={})
    assert completed(unsaid).training["mixed_precision"] == choose_precision(processor)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (8, None),
        ([24, 32], None),
        (12, "12×12 do not fit"),
        (30, "30×30 do not fit .* 4 resolutions need sides divisible by 8: .*such as 32"),
        ([32, 36], "32×36 do not fit"),
        ([36, 32], "36×32 do not fit"),
    ],
)
def test_check_size_agrees_with_the_network(size, message):
    run_config = PRESETS["folder"].changed("diffusion", image_size=size).changed("network", dim=8)
    model = run_config.build_diffusion()
    x, t = torch.zeros(1, *model.image_shape), torch.ones(1, dtype=torch.long)
    if message is None:
        run_config.check_size()
        model.network(x, t)
        return
    with pytest.raises(ValueError, match=message):
        run_config.check_size()
    with pytest.raises(ValueError, match="divisible by 8"):
        model.network(x, t)


def test_the_seed_of_training_draws_the_weights():
    def first_weights(seed):
        run_config = completed(PRESETS["digits"].changed("training", seed=seed))
        return run_config.build_diffusion().network.state_dict()["first.weight"]

    assert torch.equal(first_weights(1), first_weights(1))
    assert not torch.equal(first_weights(1), first_weights(2))


# Data


def test_data_are_found_by_the_preset_and_no_test_image_is_mirrored(tmp_path):
    pixels = write_mnist(tmp_path)
    options = {"root": str(tmp_path), "augment_horizontal_flip": True}
    run_config = completed(choose_preset("fashion-mnist")[1].changed("data", **options))
    for dataset, part, looks in (
        (run_config.load_data(), "train", 2),
        (run_config.local_data(), "train", 2),
        (run_config.load_data(train=False), "test", 1),
    ):
        assert len(dataset) == len(pixels[part])
        draws = [dataset[2][0] for _ in range(20)]
        assert draws[0].shape == run_config.build_diffusion().image_shape == (1, 28, 28)
        assert any(np.array_equal((image[0] * 255).round().numpy(), pixels[part][2]) for image in draws)
        assert len({image.numpy().tobytes() for image in draws}) == looks
        assert dataset[2][1] == 2


def test_local_data_downloads_nothing(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a download")

    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", refuse)
    for word in ("cifar10", "fashion-mnist"):
        run_config = completed(choose_preset(word)[1].changed("data", root=str(tmp_path)))
        assert run_config.local_data() is None
    assert list(tmp_path.iterdir()) == []
    assert len(completed(choose_preset("digits")[1]).local_data()) == 1797
