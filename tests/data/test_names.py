"""The table of names says what torchvision's classes say of themselves."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from torchvision import datasets

from ddpm.data.names import NEEDS, NO_DOWNLOAD, NO_ROOT, TORCHVISION, check_name_or_folder, known_name

# Bases to derive from, and videos: their items are no images, or their constructors take no name of a data set.
NOT_BY_NAME = {"VisionDataset", "DatasetFolder", "ImageFolder", "LSUNClass", "Kinetics", "HMDB51", "UCF101"}


def parameters(cls):
    """The named parameters of a class's constructor, with those of its base class if it passes **kwargs on."""
    given = inspect.signature(cls).parameters
    named = {key: p for key, p in given.items() if p.kind is not p.VAR_KEYWORD}
    return named if len(named) == len(given) else parameters(cls.__base__) | named


CLASSES = {name: getattr(datasets, name) for name in datasets.__all__ if name not in NOT_BY_NAME}
IMAGES = {name: parameters(cls) for name, cls in CLASSES.items() if isinstance(cls, type)}
IMAGES = {name: given for name, given in IMAGES.items() if "transform" in given}


def part(given):
    if "train" in given:
        return "train"
    split = str(given["split"].default) if "split" in given else None
    return "" if split is None else f"split={split if split.startswith('train') else ''}"


def test_torchvision_table_is_what_the_classes_say():
    assert {name: part(given) for name, given in IMAGES.items()} == TORCHVISION
    without_default = {
        name: [key for key, p in given.items() if p.default is p.empty and key != "root"]
        for name, given in IMAGES.items()
    }
    assert {name: keys for name, keys in without_default.items() if keys} == {
        k: [v] for k, v in NEEDS.items()
    }
    assert {name for name, given in IMAGES.items() if "download" not in given} == NO_DOWNLOAD
    assert {name for name, given in IMAGES.items() if "root" not in given} == NO_ROOT


@pytest.mark.parametrize(
    ("word", "name"),
    [
        *(
            (word, "FashionMNIST")
            for word in ("FashionMNIST", "fashion-mnist", "Fashion MNIST", "fashion_mnist")
        ),
        ("Digits", "digits"),
        ("pictures", None),
        ("", None),
        ("./mnist", None),
        (Path("mnist"), None),
    ],
)
def test_known_name(word, name):
    assert known_name(word) == name


def test_check_name_or_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for word in ("digits", "cifar-10", "pictures", "./anything", Path("anything")):
        check_name_or_folder(word)
    with pytest.raises(
        ValueError, match=r"no folder 'cifar' and no data set of that name \(did you mean CIFAR10"
    ):
        check_name_or_folder("cifar")


def test_names_do_without_torch_and_data_without_scikit_learn_and_torchvision():
    script = """
import sys
from ddpm.data.names import known_name
assert known_name("mnist") == "MNIST" and "torch" not in sys.modules
from ddpm.data import image_folder, load_dataset
print([name for name in ("sklearn", "torchvision") if name in sys.modules])
"""
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"
