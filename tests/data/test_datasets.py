"""Data sets by name: the digits, torchvision's, a folder."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from ddpm import data
from tests.data.pictures import RANDOM, assert_eight_bit, write_images

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


def write_idx(path, array):
    """The IDX format of MNIST: zero, zero, 8 (unsigned bytes), number of axes, their lengths, the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lengths = b"".join(length.to_bytes(4, "big") for length in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + lengths + array.astype(np.uint8).tobytes())


@pytest.fixture
def mnist(tmp_path):
    """A root with a small MNIST (6 training and 3 test images) and EMNIST letters; returns (root, arrays)."""
    arrays = {"train": RANDOM.integers(0, 256, (6, 28, 28)), "test": RANDOM.integers(0, 256, (3, 28, 28))}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        labels = np.arange(len(arrays[part]))
        for kind, content in (("images-idx3", arrays[part]), ("labels-idx1", labels)):
            write_idx(tmp_path / f"MNIST/raw/{prefix}-{kind}-ubyte", content)
            write_idx(tmp_path / f"EMNIST/raw/emnist-letters-{part}-{kind}-ubyte", content)
    return tmp_path, arrays


@pytest.mark.parametrize("name", ["MNIST", "mnist", "M-NIST", "m_n i s t"])
@pytest.mark.parametrize("part", ["train", "test"])
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


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("emnist", {}, r"EMNIST needs split as well: use torchvision_dataset\(…, split=…\)"),
        ("coco-captions", {}, "CocoCaptions needs annFile as well"),
        ("country211", {"split": "tset"}, r"'tset'.*valid"),
        ("fake-data", {"train": False}, "FakeData has no test part"),
        ("lfw-people", {}, "the parts of LFWPeople are not training and test: say which by split="),
        (
            "fashion-mnits",
            {},
            r"no data set 'fashion-mnits' \(did you mean FashionMNIST.*known are .*CIFAR10",
        ),
        ("digits", {}, "torchvision has no data set 'digits'"),
    ],
)
def test_torchvision_dataset_refuses(tmp_path, name, options, message):
    with pytest.raises(ValueError, match=message):
        data.torchvision_dataset(name, tmp_path, **options)


@pytest.mark.parametrize(("name", "options"), [("CIFAR10", {}), ("LFWPeople", {"split": "train"})])
def test_torchvision_dataset_reports_missing_files_with_the_folder(tmp_path, name, options):
    with pytest.raises(RuntimeError, match=re.escape(f"could not load {name} from '{tmp_path}'")):
        data.torchvision_dataset(name.lower(), tmp_path, download=False, **options)


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
    for folder in ("./mnist", Path("mnist")):  # not the data set of that name
        assert [path.name for path in data.load_dataset(folder, image_size=8).paths] == ["b.png"]


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("digts", {}, ValueError, r"no folder 'digts' .*did you mean digits.*known are .*digits.*MNIST"),
        (".", {}, ValueError, "give an image_size, such as 32, for ."),
        (Path("nowhere"), {"image_size": 8}, NotADirectoryError, "nowhere does not exist"),
        ("digits", {"train": False}, ValueError, "digits has no test part"),
        (
            Path(),
            {"train": False},
            ValueError,
            "has no test part: train=False is only for data sets of torchvision",
        ),
        ("digits", {"augment_horizontal_flip": True}, ValueError, "a mirrored digit is none"),
    ],
)
def test_load_dataset_refuses(name, options, error, message):
    with pytest.raises(error, match=message):
        data.load_dataset(name, **options)


def test_load_dataset_mirrors_what_it_is_told_to(mnist, tmp_path):
    root, _ = mnist
    write_images(tmp_path / "pictures", ["a.png"], size=(8, 8))
    for name in ("mnist", tmp_path / "pictures"):
        dataset = data.load_dataset(name, image_size=8, root=root, augment_horizontal_flip=True)
        images = [item[0] if name == "mnist" else item for item in (dataset[0] for _ in range(20))]
        assert len({tuple(image.flatten().tolist()) for image in images}) == 2
