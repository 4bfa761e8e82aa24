"""Data sets by name: the digits, torchvision's, a folder."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from ddpm import data
from tests.data.pictures import assert_eight_bit, write_images, write_mnist

# Digits


def test_digits_are_those_of_scikit_learn_moved_to_the_nearest_eight_bit_level():
    images, labels = data.digits().tensors
    source = load_digits()
    assert images.shape == (1797, 1, 8, 8)
    assert labels.dtype == torch.int64
    assert np.array_equal(labels, source.target)
    assert_eight_bit(images)
    distance = np.abs(images[:, 0].double().numpy() - source.images / 16)
    assert distance.max() <= 1 / 510 + 1e-7  # 1e-7: float32
    assert len(images.unique()) == 17
    assert torch.equal(data.digits(channels=3).tensors[0], images.expand(-1, 3, -1, -1))
    for size in (16, (10, 12)):  # 8-bit levels at any size, which the discrete decoder needs
        assert_eight_bit(data.digits(size).tensors[0])


# torchvision


@pytest.fixture
def mnist(tmp_path):
    return tmp_path, write_mnist(tmp_path)


@pytest.mark.parametrize(
    ("name", "part"), [("MNIST", "train"), ("m_n i s t", "test"), ("fashion-mnist", "test")]
)
def test_torchvision_dataset_by_a_forgiving_name(mnist, name, part):
    root, arrays = mnist
    dataset = data.torchvision_dataset(name, root, train=part == "train")
    assert len(dataset) == len(arrays[part])
    for index, (image, label) in enumerate(dataset):
        assert_eight_bit(image)
        assert np.array_equal((image[0] * 255).round().numpy(), arrays[part][index])
        assert label == index
    image, _ = data.torchvision_dataset(name, root, image_size=(14, 20), channels=3)[0]
    assert image.shape == (3, 14, 20)
    assert torch.equal(image[0], image[2])
    assert_eight_bit(image)


def test_torchvision_dataset_passes_options_on(mnist, tmp_path):
    """EMNIST takes `train` and has a `split` that is no part; Country211 has split="train" | "valid" | "test"."""
    root, arrays = mnist
    dataset = data.torchvision_dataset("emnist", root, train=False, split="letters")
    assert len(dataset) == len(arrays["test"])
    for part, count in (("train", 3), ("valid", 2), ("test", 1)):
        write_images(tmp_path / "country211" / part, [f"AD/{index}.png" for index in range(count)])
    lengths = [len(data.torchvision_dataset("country211", tmp_path, train=train)) for train in (True, False)]
    assert lengths == [3, 1]
    assert len(data.torchvision_dataset("country211", tmp_path, split="valid")) == 2
    image, label = data.torchvision_dataset("fake-data", image_size=16, size=5)[0]
    assert image.shape == (3, 16, 16)
    assert 0 <= label < 10


# By one word


def test_load_dataset_knows_digits_names_and_folders(tmp_path, mnist, monkeypatch):
    root, arrays = mnist
    assert len(data.load_dataset("digits")) == 1797
    assert data.load_dataset("Digits", image_size=16, channels=3)[0][0].shape == (3, 16, 16)
    assert len(data.load_dataset("mnist", root=root, train=False)) == len(arrays["test"])
    write_images(tmp_path, ["pictures/a.png", "mnist/b.png"])
    monkeypatch.chdir(tmp_path)
    assert data.load_dataset("pictures", image_size=8)[0].shape == (3, 8, 8)
    assert data.load_dataset(tmp_path / "pictures", image_size=8, channels=1)[0].shape == (1, 8, 8)
    for name, options in (("mnist", {"root": root}), ("pictures", {"channels": 1})):
        mirrored = data.load_dataset(name, image_size=8, augment_horizontal_flip=True, **options)
        assert len({torch.as_tensor(mirrored[0][0]).numpy().tobytes() for _ in range(20)}) == 2
    for folder in ("./mnist", Path("mnist")):  # not the data set of that name
        assert [path.name for path in data.load_dataset(folder, image_size=8).paths] == ["b.png"]


# Refusals

NO_FILES = {"download": False}


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("emnist", {}, ValueError, r"EMNIST needs split as well: use torchvision_dataset\(…, split=…\)"),
        ("country211", {"split": "tset"}, ValueError, r"'tset'.*valid"),
        ("fake-data", {"train": False}, ValueError, "FakeData has no test part"),
        ("lfw-people", {}, ValueError, "parts of LFWPeople are not training and test: say which by split="),
        (
            "fashion-mnits",
            {},
            ValueError,
            r"no data set 'fashion-mnits' \(did you mean FashionMNIST.*known are .*CIFAR10",
        ),
        ("digits", {}, ValueError, "torchvision has no data set 'digits'"),
        ("cifar10", NO_FILES, RuntimeError, "could not load CIFAR10 from '{folder}'"),
        ("lfwpeople", NO_FILES | {"split": "train"}, RuntimeError, "not load LFWPeople from '{folder}'"),
    ],
)
def test_torchvision_dataset_refuses(tmp_path, name, options, error, message):
    with pytest.raises(error, match=message.replace("{folder}", re.escape(str(tmp_path)))):
        data.torchvision_dataset(name, tmp_path, **options)


@pytest.mark.parametrize(
    ("name", "module", "options"),
    [
        ("LSUN", "lmdb", {}),
        ("coco-detection", "pycocotools.coco", {"annFile": "x.json"}),
        ("SVHN", "scipy.io", NO_FILES),
    ],
)
def test_a_package_that_torchvision_needs_is_named_where_it_is_missing(
    tmp_path, monkeypatch, name, module, options
):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr("torchvision.datasets.SVHN._check_integrity", lambda _: True)
    package = module.partition(".")[0]
    with pytest.raises(
        RuntimeError, match=f" by the package {package}, .* installed: pip install {package}$"
    ):
        data.torchvision_dataset(name, tmp_path, **options)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("digts", {}, ValueError, r"no folder 'digts' .*did you mean digits.*known are .*digits.*MNIST"),
        (".", {}, ValueError, "give an image_size, such as 32, for ."),
        (Path("nowhere"), {"image_size": 8}, NotADirectoryError, "nowhere does not exist"),
        ("digits", {"train": False}, ValueError, "digits has no test part"),
        (Path(), {"train": False}, ValueError, "no test part: train=False is only for data sets of torch"),
        ("digits", {"augment_horizontal_flip": True}, ValueError, "a mirrored digit is none"),
    ],
)
def test_load_dataset_refuses(name, options, error, message):
    with pytest.raises(error, match=message):
        data.load_dataset(name, **options)
