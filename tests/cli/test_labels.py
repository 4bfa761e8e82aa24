"""Classes on the command line: learned from sub-folders, kept with the model, asked for by their names."""

import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm import load_pretrained
from ddpm.cli.labels import label_number
from ddpm.cli.run_config import RunConfig
from ddpm.cli.runs import with_class_names
from ddpm.data import load_dataset
from tests.cli.conftest import trained
from tests.cli.small_runs import CHANGES, SMALL
from tests.data.pictures import write_mnist
from tests.runs import model, pictures

CLASSED = [
    "network.num_classes=10",
    "network.label_dropout=0.2",
    "training.train_lr=0.1",
    "training.lr_warmup_steps=0",
]


def classed_pictures(folder, names=("cats", "Big dogs")):
    for name in names:
        pictures(folder / name, 5)
    return folder


def model_folder(folder, names, count=None, **network):
    """The configuration of a model, which is all that is looked at."""
    config = {"network": {"num_classes": count} | network, "diffusion": {"class_names": names}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("label", "names", "number"),
    [
        *[(word, ["Shirt", "T-shirt/top", "Bag"], 0) for word in ("Shirt", "shirt", "SHIRT", "0")],
        *[(word, ["Shirt", "T-shirt/top", "Bag"], 1) for word in ("T-shirt/top", "t-shirt top", "1")],
        *[(word, ["3", "7"], n) for word, n in (("3", 0), ("7", 1))],
        *[(word, ["a-b", "ab"], n) for word, n in (("a-b", 0), ("ab", 1), ("1", 1))],
        *[(word, None, n) for word, n in (("0", 0), ("2", 2))],
        ("日本", ["中国", "日本"], 1),
    ],
)
def test_a_label_is_a_name_or_else_a_number(tmp_path, label, names, number):
    folder = model_folder(tmp_path, names, len(names) if names else 3)
    assert label_number(folder, label) == number


@pytest.mark.parametrize(
    ("label", "names", "count", "message"),
    [
        (
            "shrit",
            ["Shirt", "Bag"],
            2,
            r"do not include 'shrit' \(did you mean Shirt\?\); known are Bag, Shirt",
        ),
        ("A-B", ["a-b", "ab"], 2, "do not include 'A-B'"),
        ("1", ["3", "7"], 2, "do not include '1'"),  # not the second one, which is called 7
        ("2", ["cat", "dog"], 2, "this model has the classes 0 … 1, but got the label 2"),
        ("cat", None, 3, r"do not include 'cat'; they have no names, give a number in 0 … 2"),
        ("-1", None, 3, "do not include '-1'; they have no names"),
        ("/", ["%", "a"], 2, "do not include '/'"),
        ("cat", None, None, r"trained without classes \(num_classes\): leave --label out"),
    ],
)
def test_a_label_that_is_none_of_them_is_refused(tmp_path, label, names, count, message):
    with pytest.raises(ValueError, match=message):
        label_number(model_folder(tmp_path, names, count), label)


def test_a_spoiled_configuration_is_named(tmp_path):
    for text in ("{", "[]", "{}", '{"network": 3, "diffusion": {}}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config\.json is (damaged|not the configuration of a model)"):
            label_number(tmp_path, "3")


@pytest.fixture(scope="module")
def guidable(tmp_path_factory):
    """A finished run of a model that knows its digits, and "no digit"."""
    changes = [word for option in CLASSED for word in ("--set", option)]
    return trained(tmp_path_factory.mktemp("guidable") / "run", *changes)


def pixels(path):
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("L"))).flatten().long()


def test_sample_is_guided(ddpm, guidable, tmp_path):
    """1 is the model as it is, 0 the one without labels, and 2 neither; each is what Python draws."""
    ours, drawn = load_pretrained(guidable, weights="model"), {}
    words = [
        "sample",
        guidable,
        "--weights",
        "model",
        "-n",
        1,
        "--label",
        3,
        "--seed",
        5,
        "--out",
        tmp_path / "x.png",
    ]
    for scale in ("1", "0", "2.5", None):
        guidance = [] if scale is None else ["--guidance", scale]
        ddpm(*words, *guidance)
        drawn[scale] = pixels(tmp_path / "x.png")
        images = ours.sample(1, labels=[3], guidance=None if scale is None else float(scale), seeds=[5])
        assert torch.equal(drawn[scale], images.mul(255).add(0.5).to(torch.uint8).flatten().long())
    assert torch.equal(drawn["1"], drawn[None])
    assert not torch.equal(drawn["0"], drawn["1"])
    assert not torch.equal(drawn["2.5"], drawn["1"])


def test_guided_images_are_of_all_classes_in_turn_where_none_is_named(ddpm, guidable, tmp_path):
    ddpm("sample", guidable, "-n", 2, "--guidance", 2, "--out", tmp_path / "all")
    ddpm(
        "sample", guidable, "-n", 1, "--guidance", 2, "--label", 1, "--seed", 1, "--out", tmp_path / "one.png"
    )
    assert torch.equal(pixels(tmp_path / "all" / "000001.png"), pixels(tmp_path / "one.png"))


@pytest.mark.filterwarnings("ignore")
def test_sub_folders_are_classes_from_training_to_sampling(ddpm, tmp_path):
    folder, run, tiny = classed_pictures(tmp_path / "pictures"), tmp_path / "run", ["--image-size", 8]
    words = [
        "train",
        folder,
        "--classes",
        "folders",
        "--out",
        run,
        *SMALL,
        *tiny,
        "--set",
        "network.dim_mults=[1,2]",
    ]
    out, _ = ddpm(*words)
    assert "num_classes=2" in out
    assert "label_dropout=0.1" in out
    saved = RunConfig.load(run)
    assert saved.data["classes"] == "folders"
    ddpm("export", run, tmp_path / "model")
    for place in (run, tmp_path / "model"):
        ours = load_pretrained(place)
        assert ours.class_names == ["Big dogs", "cats"]
        assert (ours.network.num_classes, ours.network.label_dropout) == (2, 0.1)
        ddpm("sample", place, "-n", 1, "--label", "big-dogs", "--guidance", 2, "--out", tmp_path / "dog.png")
        _, err = ddpm("sample", place, "--label", "cat", "--out", tmp_path / "x.png", code=1)
        assert (
            "this model's classes do not include 'cat' (did you mean cats?); known are Big dogs, cats" in err
        )
    assert "class_names=['Big dogs', 'cats']".replace(" ", "") in ddpm("info", run)[0].replace(
        " ", ""
    ).replace("\n", "")
    # The run goes on, by either command, but not with other classes.
    ddpm("resume", run, "--steps", 5)
    ddpm(*words, "--resume", "--steps", 6)
    assert load_pretrained(run).class_names == ["Big dogs", "cats"]
    pictures(folder / "ants", 1)
    for command in (["resume", run, "--steps", 8], [*words, "--resume", "--steps", 8]):
        _, err = ddpm(*command, code=1)
        assert (
            "are Big dogs, ants, cats, but the run's classes are Big dogs, cats: a run goes on with the"
            in err
        )


def test_the_names_of_a_data_set_go_with_the_model(tmp_path):
    write_mnist(tmp_path)
    images = load_dataset("fashion-mnist", root=tmp_path)
    ours, other = model(network={"num_classes": 10}), model(network={"num_classes": 7})
    named = with_class_names(RunConfig(), ours, images)
    assert named.diffusion["class_names"] == ours.class_names
    assert ours.class_names[6:8] == ["Shirt", "Sneaker"]
    for without in (other, model()):
        assert with_class_names(RunConfig(), without, images) == RunConfig()
        assert without.class_names is None
    # Those that a run has stay.
    ours.class_names = list("abcdefghij")
    assert with_class_names(RunConfig(), ours, images).diffusion["class_names"] == list("abcdefghij")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--set", "network.num_classes=5"],
            "has 2 classes, Big dogs, cats, but the network has 5 (num_classes)",
        ),
        (
            ["--from", "fashion-mnist-classes"],
            "has 2 classes, Big dogs, cats, but the network has 10 (num_clas",
        ),
    ],
)
def test_a_network_has_as_many_classes_as_the_folder(ddpm, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    folder = classed_pictures(tmp_path / "pictures")
    _, err = ddpm("train", folder, "--classes", "folders", "--image-size", 8, *options, code=1)
    assert message in err


def test_classes_are_for_folders_and_every_image_in_one(ddpm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, err = ddpm("train", "digits", "--classes", "folders", code=1)
    assert "--classes folders is for a folder of images; digits has labels of its own" in err
    folder = classed_pictures(tmp_path / "pictures")
    pictures(folder, 2)
    words = ["train", folder, "--classes", "folders", "--image-size", 8, *CHANGES]
    assert "but 2 lie in" in ddpm(*words, code=1)[1]
    assert not (tmp_path / "runs").exists()
    assert "'labels' is not" in ddpm("train", folder, "--classes", "labels", code=2)[1]
