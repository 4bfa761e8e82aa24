"""The order of the images and the noise: functions of the position alone, whatever the processes."""

import itertools

import numpy as np
import pytest
import torch

from ddpm.training.sampler import NOISE_BLOCK, Purpose, ShuffledBatches, mixed_seed, noise_for


def first(order, count):
    return list(itertools.islice(order, count))


def indices(order, count):
    return [index for batch in first(order, count) for index in batch.indices]


def test_shuffled_batches_give_every_image_once_an_epoch():
    seen = indices(ShuffledBatches(10, 4, seed=0), 10)  # four epochs
    for epoch in range(4):
        assert sorted(seen[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert seen[:10] != seen[10:20]  # and each in an order of its own
    assert seen[:10] != indices(ShuffledBatches(10, 5, seed=1), 2)


def test_shuffled_batches_have_uniform_orders():
    """Each image is as likely in each place: 2,000 epochs of 5 images, within 5 standard errors."""
    counts = np.zeros((5, 5))
    for place, index in enumerate(indices(ShuffledBatches(5, 5, seed=3), 2000)):
        counts[place % 5, index] += 1
    assert abs(counts - 400).max() < 5 * (2000 * 0.2 * 0.8) ** 0.5


@pytest.mark.parametrize("before", [1, 2, 7])
def test_shuffled_batches_start_in_the_middle(before):
    whole = first(ShuffledBatches(10, 4, seed=0), 12)
    assert first(ShuffledBatches(10, 4, seed=0, start=4 * before), 12 - before) == whole[before:]


def test_shuffled_batches_of_two_processes_are_one_of_twice_the_size():
    one = first(ShuffledBatches(10, 6, seed=0, start=12), 5)
    two = [first(ShuffledBatches(10, 3, seed=0, start=12, rank=rank, world_size=2), 5) for rank in (0, 1)]
    for together, left, right in zip(one, *two, strict=True):
        assert together.indices == left.indices + right.indices
        assert left.seed != right.seed


def correlations(rows):
    return torch.corrcoef(rows)[~torch.eye(len(rows), dtype=torch.bool)].abs().max()


def test_mixed_seeds_have_nothing_in_common():
    places = itertools.product(Purpose, range(5), range(20), range(5))
    assert len({mixed_seed(*place) for place in places}) == 2500
    generators = [torch.Generator().manual_seed(mixed_seed(Purpose.NOISE, 0, step)) for step in range(50)]
    draws = torch.stack([torch.rand(200, generator=generator) for generator in generators])
    assert correlations(draws) < 5 / 200**0.5


@pytest.mark.parametrize("each", [1, 5, NOISE_BLOCK // 4, NOISE_BLOCK, NOISE_BLOCK + 9])
def test_noise_of_the_processes_is_that_of_one(each):
    whole = noise_for(range(4 * each), 4 * each, (1, 5, 4), 7, 3, 1)
    parts = [noise_for(range(k * each, (k + 1) * each), 4 * each, (1, 5, 4), 7, 3, 1) for k in range(4)]
    assert torch.equal(torch.cat(parts), whole)


def test_noise_is_standard_normal_and_independent():
    """Within 5 standard errors; between images of one block, of two, of two batches and of two steps."""
    count, places = NOISE_BLOCK + 20, [(0, 0), (0, 1), (1, 0)]
    noise = torch.cat([noise_for(range(count), count, (1, 16, 16), 0, *place) for place in places]).flatten(1)
    assert abs(noise.mean()) < 5 / noise.numel() ** 0.5
    assert abs(noise.square().mean() - 1) < 5 * (2 / noise.numel()) ** 0.5
    assert correlations(noise) < 6 / 256**0.5  # the largest of 98,346


def test_noise_is_drawn_for_the_own_blocks_alone(monkeypatch):
    drawn, randn = [], torch.randn
    monkeypatch.setattr(torch, "randn", lambda shape, **to: drawn.append(shape[0]) or randn(shape, **to))
    noise_for(range(5, 9), 10, (1, 2, 2), 0, 0, 0)
    noise_for(
        range(1000 * NOISE_BLOCK + 5, 1001 * NOISE_BLOCK + 5), 1001 * NOISE_BLOCK + 7, (1, 2, 2), 0, 0, 0
    )
    assert drawn == [10, NOISE_BLOCK, 7]
