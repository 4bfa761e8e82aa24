"""`ddpm.support.randomness`: one source for a batch, or one for each image that depends on nothing else."""

import pytest
import torch

from ddpm.support.randomness import image_generators, image_streams, randint, randn, randn_like
from tests.networks import seeded

CPU = torch.device("cpu")


def test_randn_of_one_generator_per_image_depends_on_no_other():
    together = randn((3, 1, 4, 4), image_generators(3, seeds=[11, 12, 13]), "cpu")
    for i, seed in enumerate([11, 12, 13]):
        expected = torch.randn(1, 4, 4, generator=seeded(seed))
        assert torch.equal(together[i], expected)
    with pytest.raises(ValueError, match=r"2 images need one generator each .* but got 3"):
        randn((2, 1, 4, 4), image_generators(3, seeds=[11, 12, 13]), "cpu")


def test_randn_and_randint_of_one_generator_leave_the_global_source_alone():
    before = torch.get_rng_state()
    assert torch.equal(randn((2, 3), seeded(1), "cpu"), torch.randn(2, 3, generator=seeded(1)))
    assert torch.equal(randint(1, 5, 100, seeded(1), CPU), torch.randint(1, 5, (100,), generator=seeded(1)))
    assert torch.equal(torch.get_rng_state(), before)


def test_randn_and_randint_without_generator_use_the_global_source():
    for draw in (lambda: randn((2, 3), None, "cpu"), lambda: randint(0, 100, 10, None, CPU)):
        torch.manual_seed(7)
        first = draw()
        torch.manual_seed(7)
        assert torch.equal(first, draw())
        assert not torch.equal(first, draw())


def test_noise_lands_on_the_device_that_is_asked_for():
    """Drawn where the generator lives."""
    assert randn((2, 3), seeded(1), "meta").is_meta
    assert randn((1, 3), [seeded(1)], "meta").is_meta
    assert randint(0, 5, 3, seeded(1), torch.device("meta")).is_meta


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("source", [seeded, lambda seed: [seeded(seed)]], ids=["one", "per image"])
def test_a_seed_is_the_same_noise_in_every_type(source, dtype):
    expected = torch.randn(1, 1, 4, 4, generator=seeded(1)).to(dtype)
    like = randn_like(torch.zeros(1, 1, 4, 4, dtype=dtype), source(1))
    for got in (like, randn((1, 1, 4, 4), source(1), "cpu", dtype)):
        assert got.dtype == dtype
        assert torch.equal(got, expected)


def test_image_streams_are_seeded_in_turn_by_the_generator():
    def draws(count, **source):
        return [torch.randn(2, generator=one).tolist() for one in image_streams(count, **source)]

    seeds = torch.randint(0, 2**62, (3,), generator=seeded(1)).tolist()
    assert draws(3, generator=seeded(1), seeds=None) == draws(3, generator=None, seeds=seeds)
    assert len({tuple(draw) for draw in draws(3, generator=seeded(1), seeds=None)}) == 3
    assert draws(2, generator=None, seeds=[5, 6]) == draws(2, generator=None, seeds=range(5, 7))
