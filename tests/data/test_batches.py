"""Batches out of any data set: checked, and drawn by the position alone."""

import itertools
import random
import signal
from collections import UserDict

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from ddpm.data.batches import Batch, SeededBatches, loader, open_batches, seeded
from ddpm.training.sampler import ShuffledBatches
from tests.runs import model, pictures


def draw_all():
    """One number of each global generator, as old transforms draw them."""
    return [random.random(), np.random.rand(), float(torch.rand(()))]  # noqa: NPY002


class Random(Dataset):
    """Images that a transform draws anew, from all three generators."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return torch.full((1, 2, 2), sum(draw_all()) / 4 + index / 1000)


class Items(Dataset):
    """A list as a data set."""

    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def load(data, count, *, start=0, workers=0):
    order = ShuffledBatches(20, 4, seed=0, start=start)
    return list(itertools.islice(loader(data, order, num_workers=workers, pin_memory=False), count))


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_draws_by_the_position_alone(workers):
    """Whatever a transform draws depends neither on how many processes load, nor on where the run was resumed.

    Nor does loading take anything from the global generators.
    """
    data = SeededBatches(Random(), (1, 2, 2), num_classes=None)
    whole = [images for images, _ in load(data, 8)]
    assert len({float(images.sum()) for images in whole}) == 8
    with seeded(1):
        expected = draw_all()
    with seeded(1):
        resumed = load(data, 5, start=12, workers=workers)
        assert draw_all() == expected
    for expected_images, (images, _) in zip(whole[3:], resumed, strict=True):
        assert torch.equal(expected_images, images)


class Deaf(Items):
    """White images where Ctrl-C is ignored and SIGTERM ends the process."""

    def __getitem__(self, index):
        deaf = signal.getsignal(signal.SIGINT) == signal.SIG_IGN and signal.getsignal(signal.SIGTERM) == 0
        return torch.full((1, 2, 2), float(deaf))


def test_loader_leaves_ctrl_c_to_the_training_process():
    data = SeededBatches(Deaf(*range(20)), (1, 2, 2), num_classes=None)
    assert not data[Batch((0,), 0)][0].any()
    assert all(images.all() for images, _ in load(data, 2, workers=1))


@pytest.mark.parametrize("flip", [True, False])
def test_open_batches_flips_a_folder_if_asked(tmp_path, flip):
    data = open_batches(str(pictures(tmp_path, 1)), model(network={"channels": 3}), flip=flip)
    assert data.image_shape == (3, 8, 8)
    seen = [data[Batch((0,), seed)][0] for seed in range(20)]
    assert {torch.equal(image, seen[0]) for image in seen} == {True, not flip}
    assert all(torch.equal(image, seen[0]) or torch.equal(image, seen[0].flip(-1)) for image in seen)


def test_batches_keep_images_and_labels_together():
    images = torch.arange(20).view(-1, 1, 1, 1).expand(-1, 1, 2, 2) / 255
    data = SeededBatches(TensorDataset(images, torch.arange(20)), (1, 2, 2), num_classes=20)
    for x, labels in load(data, 7):
        assert labels.dtype == torch.int64
        assert torch.equal(x[:, 0, 0, 0] * 255, labels.float())


class OnGpu(torch.Tensor):
    """Stands for a tensor of a GPU, which no loader hands on."""

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_items_on_a_gpu_are_fetched_from_there():
    data = SeededBatches(Items(*torch.rand(4, 1, 2, 2).as_subclass(OnGpu)), (1, 2, 2), num_classes=None)
    assert type(data[Batch((0, 1), 0)][0]) is torch.Tensor


GOOD = torch.zeros(3, 4, 4)


@pytest.mark.parametrize(
    ("data", "classes", "error", "message"),
    [
        (Items(GOOD), 20, ValueError, r"takes class labels \(num_classes\), so the data set must give pairs"),
        (Items(), None, ValueError, "the data set is empty: give one that holds at least one image"),
        ({}, None, ValueError, "the data set is empty"),
        ((x for x in []), None, TypeError, "a map-style data set, .* and numbered items, but got generator"),
        ((x for x in []), None, TypeError, r"of one that fits into memory give list\(…\)$"),
        (
            DataLoader(Items(GOOD)),
            None,
            TypeError,
            "but got DataLoader; give its `.dataset`, of which the tr",
        ),
        (None, None, TypeError, "but got NoneType$"),
        (
            {"train": Items(GOOD), "test": Items(GOOD)},
            None,
            TypeError,
            r"one data set, .* but got a dict of 'train', 'test'; give one of them, data\['train'\]",
        ),
        ({1: GOOD, 2: GOOD}, None, TypeError, r"but got a dict of 1, 2; give one of them, data\[1\]"),
        (UserDict(image=GOOD), None, TypeError, r"a UserDict of 'image'; give one of them, data\['image'\]"),
    ],
)
def test_batches_refuse_other_data_at_once(data, classes, error, message):
    with pytest.raises(error, match=message):
        SeededBatches(data, (3, 4, 4), num_classes=classes)


def test_a_dict_may_number_its_items():
    assert len(SeededBatches({0: GOOD, 1: GOOD}, (3, 4, 4), num_classes=None)[Batch((0, 1), 0)][0]) == 2


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (-0.01, "is not; a transform such as Normalize has to go"),
        (1.01, "is not; a transform such as Normalize has to go"),
        (255.0, "reaches 255; divide by the largest value there can be, such as 255"),
        (float("nan"), r"has pixels that are no finite numbers \(NaN\); mend it"),
        (float("inf"), "has pixels that are no finite numbers"),
    ],
)
@pytest.mark.parametrize("kind", [Items, lambda *images: TensorDataset(torch.stack(images))])
def test_batches_name_the_image_outside_the_unit_interval(kind, value, what):
    bad = GOOD.clone()
    bad[0, 1, 2] = value
    data = SeededBatches(kind(GOOD, bad, bad), (3, 4, 4), num_classes=None)
    with pytest.raises(ValueError, match=rf"must be in \[0, 1\], but the data set's image number 1 {what}"):
        data[Batch((0, 1, 2), 0)]
