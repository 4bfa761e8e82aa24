"""The table of names says what torchvision's classes say of themselves."""

import inspect
import re
import warnings
from pathlib import Path

import pytest
from torchvision import datasets

from ddpm.data.names import (
    NEEDS,
    NO_DOWNLOAD,
    NO_ROOT,
    TORCHVISION,
    check_name_or_folder,
    described,
    known_name,
)

# Bases to derive from, and videos: their items are no images, or their constructors take no name of a data set.
NOT_BY_NAME = {"VisionDataset", "DatasetFolder", "ImageFolder", "LSUNClass", "Kinetics", "HMDB51", "UCF101"}
EMPTY = inspect.Parameter.empty


def defaults(cls):
    """The named parameters of a constructor with their defaults; those of the base class if it passes **kwargs on."""
    given = inspect.signature(cls).parameters
    named = {key: p.default for key, p in given.items() if p.kind is not p.VAR_KEYWORD}
    return named if len(named) == len(given) else defaults(cls.__base__) | named


def part(given):
    split = str(given.get("split", ""))
    how = f"split={split if split.startswith('train') else ''}" if "split" in given else ""
    return "train" if "train" in given else how


def test_torchvision_table_is_what_the_classes_say():
    classes = {name: getattr(datasets, name) for name in datasets.__all__ if name not in NOT_BY_NAME}
    images = {name: defaults(cls) for name, cls in classes.items() if isinstance(cls, type)}
    images = {name: given for name, given in images.items() if "transform" in given}
    assert {name: part(given) for name, given in images.items()} == TORCHVISION
    every = {(name, key) for name, given in images.items() for key, value in given.items() if value is EMPTY}
    assert {(name, key) for name, key in every if key != "root"} == set(NEEDS.items())
    assert {name for name, given in images.items() if "download" not in given} == NO_DOWNLOAD
    assert {name for name, given in images.items() if "root" not in given} == NO_ROOT


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("FashionMNIST", "FashionMNIST"),
        ("fashion_m-nist", "FashionMNIST"),
        ("Digits", "digits"),
        ("pictures", None),
        ("", None),
        ("./mnist", None),
        (Path("mnist"), None),
        ("~mnist", None),
    ],
)
def test_known_name(word, name):
    assert known_name(word) == name


TAKEN = "is taken for"
CHECKED = [  # word, what lies here, what a warning or an error says
    ("digits", [], None),
    ("cifar-10", [], None),
    ("pictures", ["pictures"], None),
    ("./anything", ["anything"], None),
    (Path("anything"), ["anything"], None),
    ("~/anything", ["anything"], None),
    ("./celeba", ["celeba"], None),
    (Path("celeba"), ["celeba"], None),
    (
        "celeba",
        ["celeba"],
        f"'celeba' {TAKEN} torchvision's data set CelebA, not .*; for the folder write ./celeba$",
    ),
    (
        "digits",
        ["digits"],
        f"'digits' {TAKEN} the digits of scikit-learn, not for the folder of that name here",
    ),
    ("Fashion-MNIST", ["Fashion-MNIST"], r"data set FashionMNIST, not for .* write \./Fashion-MNIST$"),
    ("digits", ["digits/run.json"], None),  # a run that learns from them
    ("mnist", ["mnist/checkpoints/step-00000004"], None),
    ("CelebA", ["celeba"], None),
]


@pytest.mark.parametrize(("word", "here", "message"), CHECKED)
def test_a_name_goes_before_a_folder_and_says_so(tmp_path, monkeypatch, word, here, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in here:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch() if name.endswith("json") else (tmp_path / name).mkdir()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        check_name_or_folder(word)
    assert len(said) == (message is not None)
    for warning in said:
        assert re.search(message, str(warning.message))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("cifar", r"no folder 'cifar' and no data set of that name \(did you mean CIFAR10"),
        ("", "the data are an empty word: give the name of a data set or the path of a folder"),
        ("./gone", "gone does not exist; give the path of a folder that holds images"),
        (Path("digits"), "digits does not exist; give the path of a folder that holds images"),
        ("./x.zip", "x.zip is a file; give the path of a folder that holds images"),
        ("x.zip", "x.zip is a file; give the path of a folder that holds images"),
    ],
)
def test_other_words_are_refused(tmp_path, monkeypatch, word, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.zip").touch()
    with pytest.raises((ValueError, NotADirectoryError), match=message):
        check_name_or_folder(word)


@pytest.mark.parametrize(
    ("word", "root", "words"),
    [
        ("Digits", None, "the digits of scikit-learn"),
        ("fashion-mnist", None, "torchvision's data set FashionMNIST"),
        ("fashion-mnist", "/a", "torchvision's data set FashionMNIST, its files in /a"),
        ("/", None, "the folder /"),
        ("./gone", None, "the folder gone, which is not there"),
        ("~", None, "the folder {home}"),
    ],
)
def test_described(monkeypatch, tmp_path, word, root, words):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert described(word, root) == words.format(home=tmp_path)
