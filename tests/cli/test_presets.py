"""Presets, and the options that change them."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm import MinSNR
from ddpm.cli import presets
from ddpm.cli.overrides import PARTS, parameters, read_override
from ddpm.cli.presets import CIFAR10, PRESETS, RunConfig, choose_preset, completed, with_overrides
from ddpm.data.names import TORCHVISION, canonical
from ddpm.training.config import TrainingConfig


def parameter_count(run_config):
    return sum(parameter.numel() for parameter in run_config.build_diffusion().network.parameters())


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_and_survives_json(name, tmp_path):
    run_config = completed(choose_preset("cifar10", name)[1])
    model = run_config.build_diffusion()
    assert model.image_shape == (run_config.data["channels"], *[run_config.diffusion["image_size"]] * 2)
    TrainingConfig(**run_config.training)
    run_config.save(tmp_path)
    assert RunConfig.load(tmp_path) == run_config
    assert json.loads((tmp_path / "run.json").read_text()) == asdict(run_config)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_sizes_of_the_networks():
    """That of CIFAR-10 is the paper's: 35.7 million parameters (Ho et al. 2020, appendix B)."""
    assert parameter_count(completed(CIFAR10)) == 35_746_307
    assert parameter_count(completed(PRESETS["fashion-mnist"])) <= 2_000_000


def test_the_preset_of_the_paper_says_what_the_paper_says():
    """Ho et al. 2020, appendix B: T = 1000, linear, noise, dropout 0.1, batches of 128, 2e-4, decay 0.9999, flips."""
    model, training = completed(CIFAR10).build_diffusion(), TrainingConfig(**CIFAR10.training)
    assert (model.schedule.timesteps, model.beta_schedule, model.objective) == (1000, "linear", "pred_noise")
    assert model.network.config["dropout"] == 0.1
    assert model.network.config["attention_resolutions"] == [2]  # at 16×16
    assert (training.train_batch_size, training.train_lr, training.ema_decay) == (128, 2e-4, 0.9999)
    assert CIFAR10.data["augment_horizontal_flip"] is True


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("digits", "digits"),
        ("Fashion-MNIST", "fashion-mnist"),
        ("mnist", "fashion-mnist"),
        ("CIFAR10", "cifar10"),
        ("cifar-100", "cifar10"),
        ("svhn", "folder"),
        ("pictures", "folder"),
        ("./mnist", "folder"),
        ("~/cifar10", "folder"),
    ],
)
def test_the_preset_that_suits_the_data(word, name):
    assert choose_preset(word)[0] == name


def test_an_unknown_preset_is_refused_with_those_there_are():
    with pytest.raises(
        ValueError, match=r"unknown preset 'x'; choose one of digits, fashion-mnist, cifar10, folder"
    ):
        choose_preset("digits", "x")


def test_folders_become_absolute_and_names_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for word in ("pictures", "./pictures", "~/pictures"):
        assert Path(choose_preset(word)[1].data["name_or_path"]) == tmp_path / "pictures"
    for word in ("digits", "cifar10", "pitcures"):
        assert choose_preset(word)[1].data["name_or_path"] == word


@pytest.mark.parametrize(
    ("word", "preset", "mirrored"),
    [
        ("./cats", None, True),
        ("cifar10", None, True),
        ("svhn", None, False),
        ("digits", "folder", False),
        ("mnist", "cifar10", False),
    ],
)
def test_only_what_means_the_same_in_a_mirror_is_mirrored(word, preset, mirrored):
    assert choose_preset(word, preset)[1].data["augment_horizontal_flip"] is mirrored


def test_the_parts_agree_once_the_recipe_is_completed():
    run_config = with_overrides(
        choose_preset("digits")[1], ["data.channels=3", "diffusion.image_size=[8, 12]"]
    )
    run_config = completed(run_config)
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
def test_a_gpu_gets_what_makes_it_fast(monkeypatch, on_gpu, bf16, word, precision, workers):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    training = completed(choose_preset(word)[1]).training
    assert (training.get("mixed_precision"), training.get("num_workers")) == (precision, workers)
    chosen = with_overrides(choose_preset(word)[1], ["training.mixed_precision=no", "training.num_workers=1"])
    assert completed(chosen).training["mixed_precision"] == "no"
    assert completed(chosen).training["num_workers"] == 1


# Options as text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("network.dropout=0.2", 0.2),
        ("network.num_classes=10", 10),
        ("network.num_classes=null", None),
        ("network.num_classes=None", None),
        ("network.self_condition=True", True),
        ("network.dim_mults=[1, 2, 4]", [1, 2, 4]),
        ("network.attention_resolutions=[]", []),
        ("diffusion.objective=pred_x0", "pred_x0"),
        ("diffusion.image_size=[8, 16]", [8, 16]),
        ('diffusion.loss_weighting={"name": "MinSNR", "gamma": 5}', {"name": "MinSNR", "gamma": 5}),
        ("training.ema_halflife=5000", 5000),
        ("training.train_lr=1e-3", 1e-3),
        ("training.adam_betas=[0.9, 0.999]", [0.9, 0.999]),
        ("data.root=~/a=b", "~/a=b"),
    ],
)
def test_options_as_text(text, value):
    part, option = text.partition("=")[0].split(".")
    before = completed(choose_preset("digits")[1])
    after = with_overrides(before, [text])
    assert getattr(after, part)[option] == value
    assert type(getattr(after, part)[option]) is type(value)
    expected = asdict(before)
    expected[part][option] = value
    assert asdict(after) == expected


def test_the_last_of_several_counts():
    run_config = with_overrides(CIFAR10, ["network.dropout=0.3", "training.seed=4", "network.dropout=0"])
    assert (run_config.network["dropout"], run_config.training["seed"]) == (0, 4)
    assert CIFAR10.network["dropout"] == 0.1


@pytest.mark.parametrize("text", ["MinSNR", '{"name": "MinSNR"}', '{"name": "MinSNR", "gamma": 5}'])
def test_a_weighting_by_its_name(text):
    run_config = completed(with_overrides(choose_preset("digits")[1], [f"diffusion.loss_weighting={text}"]))
    assert run_config.build_diffusion().loss_weighting == MinSNR(5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "dropout=0.2",
            r"'dropout=0.2' is not of the form part.option=value, .*data, network, diffusion, training",
        ),
        ("network.dropout", "not of the form"),
        ("nettwork.dropout=0.2", "not of the form"),
        (
            "network.dropuot=0.2",
            r"network has no option 'dropuot' \(did you mean dropout\?\); it takes dim, .*dropout",
        ),
        (
            "training.nonsense=1",
            r"training has no option 'nonsense'; it takes train_batch_size, .*tensorboard",
        ),
        ("diffusion.network=3", "diffusion has no option 'network'; it takes image_size"),
        ("data.train=false", "data has no option 'train'"),
        ("network.dim=abc", "network.dim must be a whole number, but got 'abc'"),
        ("network.dim=true", "network.dim must be a whole number, but got True"),
        ("network.dim=1.5", "network.dim must be a whole number, but got 1.5"),
        ("network.dim_mults=1,2", r"network.dim_mults must be a list such as \[1, 2\], but got '1,2'"),
        ("network.dim_mults=[1, 0.5]", r"network.dim_mults must be a list"),
        ("network.num_classes=ten", "network.num_classes must be a whole number or null, but got 'ten'"),
        ("network.self_condition=1", "network.self_condition must be true or false, but got 1"),
        ("training.train_lr=fast", "training.train_lr must be a number, but got 'fast'"),
        (
            "training.mixed_precision=fp8",
            "training.mixed_precision must be no or fp16 or bf16, but got 'fp8'",
        ),
        (
            "diffusion.loss_weighting=3",
            "diffusion.loss_weighting must be a weighting such as MinSNR or .* or null",
        ),
        ("data.name_or_path=x", "data.name_or_path cannot be set so: it is the argument"),
        ("training.results_folder=x", "training.results_folder cannot be set so: give --out"),
        ("network.channels=3", "network.channels cannot be set so: give data.channels"),
    ],
)
def test_what_is_no_option_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        with_overrides(CIFAR10, [text])


def test_every_preset_option_could_be_set_as_text():
    """The reader of text and the check of options know the same words."""
    for run_config in PRESETS.values():
        for part in PARTS:
            for option, value in getattr(run_config, part).items():
                assert option in parameters(part)
                if f"{part}.{option}" != "data.name_or_path":
                    assert read_override(f"{part}.{option}={json.dumps(value)}") == (part, option, value)


def test_images_that_the_network_cannot_halve_are_refused_before_work_starts():
    run_config = completed(choose_preset("./cats")[1].changed("diffusion", image_size=30))
    with pytest.raises(
        ValueError, match=r"30×30 do not fit .* 4 levels need sides divisible by 8: .*such as 32"
    ):
        run_config.build_diffusion()


# run.json


def test_a_folder_without_recipe_says_what_is_missing(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"holds no run.json: give the folder of a run that `ddpm train` began"
    ):
        RunConfig.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        RunConfig.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "run.json cannot be read as the settings of a run: Expecting"),
        ('{"model": {}}', "run.json cannot be read as the settings of a run: .*'model'"),
        ('{"network": {"dimm": 3}}', "run.json cannot be read .*network has no option 'dimm'"),
    ],
)
def test_a_recipe_that_was_spoiled_is_named(tmp_path, text, message):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        RunConfig.load(tmp_path)


# Data


@pytest.fixture
def fashion_mnist(tmp_path):
    """A root with a small Fashion-MNIST: 6 training and 3 test images; returns (root, training images)."""
    arrays = {"train": np.random.default_rng(0).integers(0, 256, (6, 28, 28)), "t10k": np.zeros((3, 28, 28))}
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for prefix, array in arrays.items():
        for kind, content in (("images-idx3", array), ("labels-idx1", np.arange(len(array)))):
            lengths = b"".join(length.to_bytes(4, "big") for length in content.shape)
            header = bytes([0, 0, 8, content.ndim]) + lengths
            (folder / f"{prefix}-{kind}-ubyte").write_bytes(header + content.astype(np.uint8).tobytes())
    return tmp_path, arrays["train"]


def test_fashion_mnist_is_loaded_by_its_preset(fashion_mnist):
    root, pixels = fashion_mnist
    run_config = completed(choose_preset("fashion-mnist")[1].changed("data", root=str(root)))
    for dataset in (run_config.load_data(), run_config.data_at_hand()):
        assert len(dataset) == 6
        image, label = dataset[4]
        assert image.shape == run_config.build_diffusion().image_shape == (1, 28, 28)
        assert np.array_equal((image[0] * 255).round().numpy(), pixels[4])
        assert label == 4
    assert len(run_config.load_data(train=False)) == 3


def test_nothing_is_downloaded_to_see_whether_data_are_at_hand(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a download")

    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", refuse)
    for word in ("cifar10", "fashion-mnist"):
        run_config = completed(choose_preset(word)[1].changed("data", root=str(tmp_path)))
        assert run_config.data_at_hand() is None
    assert list(tmp_path.iterdir()) == []
    assert len(completed(choose_preset("digits")[1]).data_at_hand()) == 1797


def test_test_images_are_never_mirrored(monkeypatch):
    asked = []
    monkeypatch.setattr(presets, "load_dataset", lambda **options: asked.append(options))
    run_config = completed(choose_preset("cifar10")[1])
    run_config.load_data()
    run_config.load_data(train=False)
    usual = {"name_or_path": "cifar10", "channels": 3, "image_size": 32}
    assert asked == [
        usual | {"augment_horizontal_flip": True, "train": True},
        usual | {"augment_horizontal_flip": False, "train": False},
    ]


def test_mirrored_names_are_names_of_torchvision():
    assert set(map(canonical, TORCHVISION)) >= presets.MIRRORED
    assert set(map(canonical, TORCHVISION)) | {"digits"} >= set(presets.ALIKE)
