"""The order of the images and the noise: functions of the position alone, whatever the processes."""

from itertools import islice, product

import numpy as np
import pytest
import torch

from ddpm.training.sampler import NOISE_BLOCK, Purpose, ShuffledBatches, mixed_seed, noise_for


def first(count, *order, **place):
    return list(islice(ShuffledBatches(*order, **place), count))


def indices(batches):
    return [index for batch in batches for index in batch.indices]


def test_shuffled_batches_give_every_image_once_an_epoch():
    epochs = np.reshape(indices(first(10, 10, 4, seed=0)), (4, 10)).tolist()
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    # each epoch, and each seed, in an order of its own
    assert len(set(map(tuple, [*epochs, indices(first(2, 10, 5, seed=1))]))) == 5


def test_shuffled_batches_have_uniform_orders():
    """Each image is as likely in each place: 2,000 epochs of 5 images, within 5 standard errors."""
    counts = np.zeros((5, 5))
    for place, index in enumerate(indices(first(2000, 5, 5, seed=3))):
        counts[place % 5, index] += 1
    assert abs(counts - 400).max() < 5 * (2000 * 0.2 * 0.8) ** 0.5


@pytest.mark.parametrize("before", [1, 2, 7])
def test_shuffled_batches_start_in_the_middle(before):
    whole = first(12, 10, 4, seed=0)
    assert first(12 - before, 10, 4, seed=0, start=4 * before) == whole[before:]


def test_shuffled_batches_of_two_processes_are_one_of_twice_the_size():
    one = first(5, 10, 6, seed=0, start=12)
    two = [first(5, 10, 3, seed=0, start=12, rank=rank, world_size=2) for rank in (0, 1)]
    assert indices(one) == indices(batch for pair in zip(*two, strict=True) for batch in pair)


def test_shuffled_batches_load_each_batch_under_a_seed_of_its_own():
    ranks = product((0, 1), (0, 1))
    seeds = [batch.seed for s, rank in ranks for batch in first(5, 10, 3, seed=s, rank=rank, world_size=2)]
    assert len(set(seeds)) == 20


def correlations(rows):
    return torch.corrcoef(rows)[~torch.eye(len(rows), dtype=torch.bool)].abs().max()


def test_mixed_seed_gives_seeds_with_nothing_in_common():
    assert len({mixed_seed(*place) for place in product(Purpose, range(5), range(20), range(5))}) == 2500
    generators = [torch.Generator().manual_seed(mixed_seed(Purpose.NOISE, 0, step)) for step in range(50)]
    draws = torch.stack([torch.rand(200, generator=generator) for generator in generators])
    assert correlations(draws) < 5 / 200**0.5


@pytest.mark.parametrize("each", [1, 5, NOISE_BLOCK // 4, NOISE_BLOCK, NOISE_BLOCK + 9])
def test_noise_for_the_processes_is_that_of_one(each):
    whole = noise_for(range(4 * each), 4 * each, (1, 5, 4), 7, 3, 1)
    parts = [noise_for(range(k * each, (k + 1) * each), 4 * each, (1, 5, 4), 7, 3, 1) for k in range(4)]
    assert torch.equal(torch.cat(parts), whole)


def test_noise_for_is_standard_normal_and_independent():
    """Within 5 standard errors; between images of one block, of two, and of two batches, steps and seeds."""
    count, places = NOISE_BLOCK + 20, [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    noise = torch.cat([noise_for(range(count), count, (1, 16, 16), *place) for place in places]).flatten(1)
    assert abs(noise.mean()) < 5 / noise.numel() ** 0.5
    assert abs(noise.square().mean() - 1) < 5 * (2 / noise.numel()) ** 0.5
    assert correlations(noise) < 6 / 256**0.5  # the largest of 174,936


def test_noise_for_draws_the_own_blocks_alone(monkeypatch):
    drawn, randn, everyone = [], torch.randn, 1001 * NOISE_BLOCK + 7
    monkeypatch.setattr(torch, "randn", lambda shape, **to: drawn.append(shape[0]) or randn(shape, **to))
    noise_for(range(5, 9), 10, (1, 2, 2), 0, 0, 0)
    noise_for(range(1000 * NOISE_BLOCK + 5, 1001 * NOISE_BLOCK + 5), everyone, (1, 2, 2), 0, 0, 0)
    assert drawn == [10, NOISE_BLOCK, 7]
