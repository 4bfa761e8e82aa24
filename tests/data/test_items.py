"""Whatever can be meant by an item is taken; the rest is refused, with what it is and what to write."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset, TensorDataset

from ddpm.data import items
from ddpm.data.batches import Batch, SeededBatches, loader
from tests.data.test_batches import Items
from tests.networks import seeded

SHAPE = (3, 4, 5)
FIFTH = np.full(SHAPE, 51, np.uint8)
READ_ONLY = FIFTH.copy()
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    "image",
    [
        FIFTH,
        READ_ONLY,
        (FIFTH / 255).astype(">f4"),
        FIFTH / 255,
        (FIFTH / 255).astype(np.float16),
        FIFTH[:, ::-1],
        FIFTH.transpose(1, 2, 0).transpose(2, 0, 1),
        torch.from_numpy(FIFTH),
        torch.from_numpy(FIFTH / 255).float(),
        torch.from_numpy(FIFTH / 255).bfloat16(),
        torch.from_numpy(FIFTH / 255).requires_grad_(),
        Image.fromarray(FIFTH[0]),
        Image.new("RGB", (9, 6), (51, 51, 51)),
        Image.new("RGBA", (50, 40), (51, 51, 51, 255)),
    ],
)
@pytest.mark.parametrize("form", [lambda x: x, lambda x: (x,), lambda x: [x, "a caption", None]])
def test_items_of_each_usual_kind_are_taken(image, form):
    images, labels = SeededBatches(Items(form(image)), SHAPE, num_classes=None)[Batch((0, 0), 0)]
    assert labels is None
    assert images.dtype == torch.float32
    assert not images.requires_grad
    rounded = "float16" in str(getattr(image, "dtype", ""))  # bfloat16 as well
    torch.testing.assert_close(images, torch.full((2, *SHAPE), 0.2), rtol=4e-3 if rounded else 1e-6, atol=0)


@pytest.mark.parametrize(
    "label",
    [
        3,
        np.int64(3),
        np.uint8(3),
        np.array(3),
        torch.tensor(3),
        torch.tensor(3).byte(),
        torch.tensor([3]),
        np.array([3]),
    ],
)
def test_labels_of_each_usual_kind_are_taken(label):
    _, labels = SeededBatches(Items((FIFTH, label)), SHAPE, num_classes=4)[Batch((0,), 0)]
    assert labels.dtype == torch.int64
    assert labels.tolist() == [3]


@pytest.mark.parametrize("label", [True, np.True_, torch.tensor(True), np.array([True])])
def test_a_truth_value_is_one_of_two_classes(label):
    assert SeededBatches(Items((FIFTH, label)), SHAPE, num_classes=2)[Batch((0,), 0)][1].tolist() == [1]


def test_truth_values_are_black_and_white():
    images, _ = SeededBatches(Items(FIFTH > 3), SHAPE, num_classes=None)[Batch((0,), 0)]
    assert images.unique().tolist() == [1.0]


@dataclasses.dataclass
class Record:
    image: object


IMAGES = [  # item, what the message says
    ({"image": FIFTH, "label": 1}, r"item 0 .* is a dict with 'image', 'label', .*returns item\['image'\]"),
    ({"img": FIFTH}, r"is a dict with 'img', .*item\['img'\]"),
    ({"img": FIFTH, "fine_label": 3}, r"\(item\['img'\], item\['fine_label'\]\)"),
    ({"pixel_values": FIFTH, "y": 1}, r"item\['pixel_values'\]"),
    ({}, "item 0 of the data set is a dict"),
    ((), "item 0 of the data set is empty"),
    (({"image": FIFTH}, 3), r"image number 0 is \{'image'.* \(dict\), but an image is a tensor or array"),
    (None, r"image number 0 is None \(NoneType\), but an image is"),
    (3, r"is 3 \(int\)"),
    (Record(FIFTH), r"\(Record\), but an image is"),
    ("a.png", r"is 'a\.png' \(str\), .*; open a file by PIL\.Image\.open, or give the Trainer the folder"),
    (Path("a.png"), r"Path\('a\.png'\) \(PosixPath\), .*; open a file by"),
    (b"\x89PNG", r"\(bytes\), .*; open a file by"),
    ([[0.1, 0.2], [0.3, 0.4]], r"is \[0\.1, 0\.2\] \(list\)"),
    (FIFTH.astype(np.int64), r"is of type torch\.int64, .*: divide by the largest value"),
    (torch.zeros(SHAPE, dtype=torch.int32), r"is of type torch\.int32"),
    (torch.zeros(SHAPE, dtype=torch.complex64), r"is of type torch\.complex64"),
    (np.full(SHAPE, "x"), r"is an array of <U1, but an image is"),
    (np.full(SHAPE, None), "is an array of object"),
    (
        FIFTH.transpose(1, 2, 0),
        r"shape \(3, 4, 5\), but .* is \(4, 5, 3\); its channels come last: .*transpose\(2, 0, 1\)",
    ),
    (torch.zeros(3, 5, 4), r"is \(3, 5, 4\); resize the data, or build the model"),
    (torch.zeros(4, 5), r"is \(4, 5\); resize the data"),
    (torch.zeros(2, *SHAPE), r"is \(2, 3, 4, 5\); it holds many: .*TensorDataset\(images, labels\)"),
    (np.zeros((1, *SHAPE)), r"is \(1, 3, 4, 5\); it holds many"),
    (torch.tensor(0.5), r"is \(\); resize"),
    (torch.full(SHAPE, 1.01), r"must be in \[0, 1\], but .* number 0 is not; a transform such as Normalize"),
    (np.full(SHAPE, 255.0), r"must be in \[0, 1\]"),
    (Image.new("F", (5, 4), 0.5), "number 0 cannot be taken: pixels of mode F from 0.5 to 0.5 have no"),
]


@pytest.mark.parametrize(("item", "message"), IMAGES)
def test_other_images_are_refused_in_words(item, message):
    with pytest.raises(ValueError, match=message):
        SeededBatches(Items(item), SHAPE, num_classes=None)


def test_a_grey_image_without_an_axis_for_its_channel_is_told_so():
    with pytest.raises(
        ValueError, match=r"is \(4, 5\); it has no axis for its channel: add one by image\[None\]"
    ):
        SeededBatches(Items(torch.zeros(4, 5)), (1, 4, 5), num_classes=None)


LABELS = [  # label, what the message says
    (torch.eye(4)[2], r"a Tensor of shape \(4,\); of a one-hot vector give its place, int\(label.argmax\(\)"),
    (np.eye(4)[2], r"a ndarray of shape \(4,\); of a one-hot vector"),
    ("cat", r"the label 'cat' \(str\); number the classes, such as by sorted\(set\(labels\)\)"),
    ("3", r"the label '3' \(str\)"),
    (None, r"label None \(NoneType\); number the classes from 0, or build the network without num_class"),
    (3.7, r"the label 3\.7 \(float\); if it is the number of a class, give int\(label\)"),
    (3.0, r"the label 3\.0 \(float\)"),
    (np.float32(3), r"; if it is the number of a class"),
    (torch.tensor(3.0), r"; if it is the number of a class"),
    ([3], r"the label \[3\] \(list\)"),
    ({"label": 3}, r"\(dict\)"),
    (4, r"the classes 0 … 3 \(num_classes=4\), but item 0 .* has the label 4"),
    (-1, "has the label -1"),
    (torch.tensor(9), "has the label 9"),
]


@pytest.mark.parametrize(("label", "message"), LABELS)
def test_other_labels_are_refused_in_words(label, message):
    with pytest.raises(ValueError, match=message):
        SeededBatches(Items((FIFTH, label)), SHAPE, num_classes=4)
    SeededBatches(Items((FIFTH, label)), SHAPE, num_classes=None)  # nobody asks


def test_a_later_item_is_named_by_its_number():
    data = SeededBatches(Items(FIFTH, FIFTH, {"image": FIFTH}), SHAPE, num_classes=None)
    with pytest.raises(ValueError, match="item 2 of the data set is a dict"):
        data[Batch((1, 2), 0)]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_data_set_is_said_with_the_number_of_its_item(workers):
    data = SeededBatches([FIFTH] * 5, SHAPE, num_classes=None)
    data.dataset = {0: FIFTH, 1: FIFTH}
    batches = loader(data, [Batch((1, 2), 0)], num_workers=workers, pin_memory=False)
    with pytest.raises(KeyError) as caught:
        next(iter(batches))
    assert (
        "That was item 2 of the data set." in f"{caught.value}{caught.value.__notes__ if not workers else ''}"
    )


# By the batch


class Batched(Dataset):
    """Counts how it is asked."""

    def __init__(self, extra=0):
        self.asked, self.extra = [], extra

    def __len__(self):
        return 20

    def __getitem__(self, index):
        raise AssertionError("one by one")

    def __getitems__(self, indices):
        self.asked.append(indices)
        return [torch.full((1, 2, 2), index / 255) for index in [*indices, *range(self.extra)]]


def test_items_are_fetched_by_the_batch():
    data = SeededBatches(Batched(), (1, 2, 2), num_classes=None)
    images, _ = data[Batch((7, 3, 3), 0)]
    assert data.dataset.asked == [[0], [7, 3, 3]]
    assert (images[:, 0, 0, 0] * 255).round().tolist() == [7, 3, 3]
    with pytest.raises(ValueError, match="asked for 1 items, the data set's __getitems__ gave 3"):
        SeededBatches(Batched(2), (1, 2, 2), num_classes=None)


class Slow(TensorDataset):
    """One whose items may be anything."""


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64])
@pytest.mark.parametrize("classes", [None, 20])
def test_tensors_give_what_their_items_give(monkeypatch, dtype, classes):
    images = torch.randint(0, 256, (20, 1, 2, 2), dtype=torch.uint8, generator=seeded(0))
    images = images if dtype == torch.uint8 else images.to(dtype) / 255
    tensors, batch = (images, torch.arange(20)), Batch((4, 19, 0, 4), 0)
    whole, shape = TensorDataset(*tensors), (1, 2, 2)
    one_by_one = SeededBatches(Slow(*tensors), shape, num_classes=classes)[batch]
    by_subset = SeededBatches(Subset(whole, range(20)), shape, num_classes=classes)[batch]
    monkeypatch.setattr(items, "to_image", None)  # so that no item is looked at
    at_once = SeededBatches(whole, shape, num_classes=classes)[batch]
    for images, labels in (one_by_one, by_subset):
        assert torch.equal(images, at_once[0])
        assert images.dtype == at_once[0].dtype == torch.float32
        assert (labels is None and at_once[1] is None) or torch.equal(labels, at_once[1])


class Mirrored(TensorDataset):
    def __getitem__(self, index):
        return (super().__getitem__(index)[0].flip(-1),)


def test_a_data_set_made_of_tensors_with_items_of_its_own_keeps_them():
    images = torch.arange(8.0).view(2, 1, 2, 2) / 8
    found, _ = SeededBatches(Mirrored(images), (1, 2, 2), num_classes=None)[Batch((0, 1), 0)]
    assert torch.equal(found, images.flip(-1))


WRONG_TENSORS = [
    ((torch.zeros(4, 1, 3, 2),), None, r"is \(1, 3, 2\)"),
    ((torch.zeros(4, 1, 2, 2, dtype=torch.int64),), None, "is of type torch.int64"),
    ((torch.zeros(4, 1, 2, 2),), 3, "item 0 is an image alone; .* or --classes folders"),
    ((torch.zeros(4, 1, 2, 2), torch.eye(4)), 4, "one-hot"),
    ((torch.zeros(4, 1, 2, 2), torch.zeros(4)), 4, r"the label tensor\(0\.\)"),
    ((torch.zeros(4, 1, 2, 2), torch.full((4,), 3)), 3, "has the label 3"),
    ((torch.zeros(4, 1, 2, 2), torch.full((4,), -1)), 3, "has the label -1"),
    ((torch.full((4, 1, 2, 2), 2.0),), None, r"in \[0, 1\], but the data set's image number 0"),
]


@pytest.mark.parametrize(("tensors", "classes", "message"), WRONG_TENSORS)
def test_wrong_tensors_are_refused_like_items(tensors, classes, message):
    with pytest.raises(ValueError, match=message):
        SeededBatches(TensorDataset(*tensors), (1, 2, 2), num_classes=classes)


def test_narrow_whole_labels_of_tensors_are_taken():
    tensors = TensorDataset(torch.zeros(4, 1, 2, 2), torch.arange(4, dtype=torch.uint8))
    _, labels = SeededBatches(tensors, (1, 2, 2), num_classes=4)[Batch((2, 1), 0)]
    assert labels.tolist() == [2, 1]
