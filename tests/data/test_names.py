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
    needs = {
        (name, key)
        for name, given in images.items()
        for key in given
        if given[key] is inspect.Parameter.empty
    }
    assert {(name, key) for name, key in needs if key != "root"} == set(NEEDS.items())
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


def test_data_do_without_scikit_learn_and_torchvision():
    script = """
import sys
from ddpm.data import image_folder, load_dataset
print([name for name in ("sklearn", "torchvision") if name in sys.modules])
"""
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"
