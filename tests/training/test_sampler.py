"""The order of the images: every one once per epoch, and a function of the position alone."""

import itertools
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset

from ddpm.training.sampler import Purpose, SeededBatches, ShuffledBatches, loader, mixed_seed, seeded


def first(order, count):
    return list(itertools.islice(order, count))


def indices(order, count):
    return [index for batch in first(order, count) for index in batch.indices]


def draw_all():
    """One number of each global generator, as old transforms draw them."""
    return [random.random(), np.random.rand(), float(torch.rand(()))]  # noqa: NPY002


def seed_all(seed):
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


class Random(Dataset):
    """Images that a transform draws anew, from all three generators."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        value = sum(draw_all()) / 4
        return torch.full((1, 2, 2), value + index / 1000)


def images(count, *, shape=(1, 2, 2)):
    return torch.arange(count).view(-1, 1, 1, 1).expand(-1, *shape) / 255


def test_every_image_comes_once_before_any_comes_again():
    seen = indices(ShuffledBatches(10, 4, seed=0), 10)  # four epochs
    for epoch in range(4):
        assert sorted(seen[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert seen[:10] != seen[10:20]  # and each in an order of its own
    assert seen[:10] != indices(ShuffledBatches(10, 5, seed=1), 2)


def test_the_orders_are_uniform():
    """Each image is as likely in each place: 2,000 epochs of 5 images, within 5 standard errors."""
    counts = np.zeros((5, 5))
    for place, index in enumerate(indices(ShuffledBatches(5, 5, seed=3), 2000)):
        counts[place % 5, index] += 1
    error = (2000 * 0.2 * 0.8) ** 0.5
    assert abs(counts - 400).max() < 5 * error


@pytest.mark.parametrize("before", [1, 2, 7])
def test_a_start_in_the_middle_goes_on_as_before(before):
    whole = first(ShuffledBatches(10, 4, seed=0), 12)
    assert first(ShuffledBatches(10, 4, seed=0, start=4 * before), 12 - before) == whole[before:]


def test_two_processes_share_what_one_takes_with_twice_the_batch():
    one = first(ShuffledBatches(10, 6, seed=0, start=12), 5)
    two = [first(ShuffledBatches(10, 3, seed=0, start=12, rank=rank, world_size=2), 5) for rank in (0, 1)]
    for together, left, right in zip(one, *two, strict=True):
        assert together.indices == left.indices + right.indices
        assert left.seed != right.seed


def test_neighbouring_seeds_have_nothing_in_common():
    places = itertools.product(Purpose, range(5), range(20), range(5))
    assert len({mixed_seed(*place) for place in places}) == 2500
    draws = torch.stack(
        [
            torch.rand(200, generator=torch.Generator().manual_seed(mixed_seed(Purpose.NOISE, 0, step)))
            for step in range(50)
        ]
    )
    correlations = torch.corrcoef(draws)[~torch.eye(50, dtype=torch.bool)]
    assert correlations.abs().max() < 5 / 200**0.5


def test_seeded_gives_the_generators_back():
    seed_all(1)
    expected = draw_all()
    seed_all(1)
    with seeded(5):
        inside = draw_all()
    assert draw_all() == expected
    with seeded(5):
        assert draw_all() == inside


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_transform_draws_depends_on_the_position_alone(workers):
    """Not on how many processes load, nor on whether the run was taken up in the middle."""
    data = SeededBatches(Random(), (1, 2, 2), num_classes=None)

    def load(start, count, workers):
        order = ShuffledBatches(20, 4, seed=0, start=start)
        return [x for x, _ in first(loader(data, order, num_workers=workers, pin_memory=False), count)]

    whole = load(0, 8, 0)
    assert len({float(x.sum()) for x in whole}) == 8
    for expected, loaded in zip(whole[3:], load(12, 5, workers), strict=True):
        assert torch.equal(expected, loaded)


def test_loading_takes_nothing_from_the_global_generator():
    data = SeededBatches(Random(), (1, 2, 2), num_classes=None)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first(loader(data, ShuffledBatches(20, 4, seed=0), num_workers=0, pin_memory=False), 3)
    assert torch.equal(torch.rand(3), expected)


def test_images_and_labels_stay_together():
    data = SeededBatches(TensorDataset(images(20), torch.arange(20)), (1, 2, 2), num_classes=20)
    for x, labels in first(loader(data, ShuffledBatches(20, 6, seed=0), num_workers=0, pin_memory=False), 5):
        assert labels is not None
        assert labels.dtype == torch.int64
        assert torch.equal(x[:, 0, 0, 0] * 255, labels.float())


class Items(Dataset):
    """A list as a data set."""

    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


@pytest.mark.parametrize(
    "item",
    [
        torch.full((3, 4, 4), 51, dtype=torch.uint8),
        torch.full((3, 4, 4), 0.2),
        torch.full((3, 4, 4), 0.2, dtype=torch.float64),
        (torch.full((3, 4, 4), 0.2), 7),
        [torch.full((3, 4, 4), 0.2), 7, "more"],
        Image.new("RGB", (9, 6), (51, 51, 51)),
        Image.new("L", (4, 4), 51),
    ],
)
def test_every_usual_kind_of_image_is_taken(item):
    x, labels = SeededBatches(Items(item), (3, 4, 4), num_classes=None)[next(iter(ShuffledBatches(1, 2, 0)))]
    assert labels is None
    torch.testing.assert_close(x, torch.full((2, 3, 4, 4), 0.2))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (torch.zeros(1, 4, 4), r"takes images of shape \(3, 4, 4\), but .* image number 0 is \(1, 4, 4\)"),
        (np.zeros((3, 4, 4)), r"takes images of shape \(3, 4, 4\), but .* is ndarray; resize the data"),
        ({"image": torch.zeros(3, 4, 4)}, "is dict"),
    ],
)
def test_other_items_are_refused_at_once(item, message):
    with pytest.raises(ValueError, match=message):
        SeededBatches(Items(item), (3, 4, 4), num_classes=None)


def test_missing_labels_are_refused_at_once():
    with pytest.raises(
        ValueError, match=r"takes class labels \(num_classes\), so the data set must give pairs"
    ):
        SeededBatches(Items(torch.zeros(3, 4, 4)), (3, 4, 4), num_classes=20)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_is_refused(label):
    message = rf"takes the classes 0 … 2 \(num_classes=3\), but item 0 of the data set has the label {label}"
    with pytest.raises(ValueError, match=message):
        SeededBatches(Items((torch.zeros(1, 2, 2), label)), (1, 2, 2), num_classes=3)


def test_empty_and_endless_data_sets_are_refused():
    with pytest.raises(ValueError, match="the data set is empty: give one that holds at least one image"):
        SeededBatches(Items(), (3, 4, 4), num_classes=None)
    with pytest.raises(
        TypeError, match="a map-style data set, with a length and numbered items, but got generator"
    ):
        SeededBatches((x for x in []), (3, 4, 4), num_classes=None)


@pytest.mark.parametrize("value", [-1.0, 1.5, float("nan")])
def test_images_outside_the_unit_interval_are_named(value):
    data = SeededBatches(
        Items(torch.zeros(1, 2, 2), torch.full((1, 2, 2), value)), (1, 2, 2), num_classes=None
    )
    with pytest.raises(ValueError, match=r"must be in \[0, 1\], but the data set's image number 1 is not"):
        data[next(iter(ShuffledBatches(2, 2, 0)))]
