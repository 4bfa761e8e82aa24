"""Many images: each is its seed's own, whatever the batches and the processes."""

import threading

import pytest
import torch

from ddpm import GaussianDiffusion
from ddpm.training import distributed as generation
from ddpm.training.distributed import draw_images, this_process
from tests.exact import Pointwise

SEEDS = [5, 3, 11, 8, 2, 40, 7]


def make_model(num_classes=None):
    """A model that mixes no images, so that equal inputs give bit-equal outputs."""
    network = Pointwise()
    network.num_classes = num_classes
    return GaussianDiffusion(network, image_size=4, timesteps=30, sampling_timesteps=3, ddim_sampling_eta=1.0)


def one_by_one(model, labels):
    """The images, each drawn alone by the model itself."""
    return torch.cat(
        [
            model.sample(1, seeds=[seed], labels=None if label is None else torch.tensor([label]))
            for seed, label in zip(SEEDS, labels, strict=True)
        ]
    )


def generate_together(monkeypatch, world_size, *arguments, **options):
    """What each of several processes returns, threads in their place."""
    barrier, everything = threading.Barrier(world_size), []

    def gather(mine):
        everything.extend(mine)
        barrier.wait()
        return list(everything)

    monkeypatch.setattr(generation, "gather_object", gather)
    results = {}

    def process(rank):
        results[rank] = draw_images(*arguments, rank=rank, world_size=world_size, **options)

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return [results[rank] for rank in range(world_size)]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_image_i_is_that_of_seed_i_in_any_batch(batch_size):
    model = make_model()
    images = draw_images(model, SEEDS, batch_size=batch_size)
    assert images.shape == (7, 1, 4, 4)
    assert torch.equal(images, one_by_one(model, [None] * 7))
    assert len({image.sum().item() for image in images}) == 7


@pytest.mark.parametrize("world_size", [2, 3, 9])
@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_processes_share_the_work_and_keep_the_order(monkeypatch, world_size, batch_size):
    model = make_model(num_classes=3).eval()
    expected = one_by_one(model, [0, 1, 2, 0, 1, 2, 0])
    calls = len(model.network.calls)
    together = generate_together(monkeypatch, world_size, model, SEEDS, batch_size=batch_size)
    assert all(torch.equal(images, expected) for images in together)
    of_each = [len(range(rank, 7, world_size)) for rank in range(world_size)]
    assert len(model.network.calls) - calls == 3 * sum(-(-count // batch_size) for count in of_each)


def test_labels_go_in_turn_or_as_given():
    model = make_model(num_classes=3)
    assert torch.equal(draw_images(model, SEEDS, batch_size=2), one_by_one(model, [0, 1, 2, 0, 1, 2, 0]))
    given = [2, 2, 0, 1, 1, 0, 2]
    images = draw_images(model, SEEDS, labels=given, batch_size=2)
    assert torch.equal(images, one_by_one(model, given))
    assert not torch.equal(images, draw_images(model, SEEDS))


def test_options_reach_the_sampler():
    model = make_model()
    draw_images(model, [0], sampling_timesteps=5)
    assert len(model.network.calls) == 5
    assert not torch.equal(draw_images(model, [0], eta=0.0), draw_images(model, [0], eta=1.0))


@pytest.mark.parametrize(
    ("classes", "options", "message"),
    [
        (None, {"labels": [0, 0]}, "trained without classes"),
        (3, {"labels": [0, 3]}, r"classes 0 … 2, but got the label 3"),
        (3, {"labels": [-1, 0]}, r"classes 0 … 2, but got the label -1"),
        (3, {"labels": [0]}, r"2 in all, but got 1"),
        (None, {"batch_size": 0}, r"batch_size of at least 1 are needed, but got 2 and 0"),
    ],
)
def test_what_makes_no_sense_is_refused(classes, options, message):
    with pytest.raises(ValueError, match=message):
        draw_images(make_model(classes), [1, 2], **options)


def test_no_seeds_are_refused():
    with pytest.raises(ValueError, match="at least one seed"):
        draw_images(make_model(), [])


@pytest.mark.parametrize(
    ("environment", "accelerator", "expected"),
    [
        ({}, None, False),
        ({"WORLD_SIZE": "2"}, None, True),
        ({"WORLD_SIZE": "2"}, "mps", True),  # accelerate knows no processes on one
        ({"WORLD_SIZE": "2"}, "cuda", False),
        ({"WORLD_SIZE": "1"}, None, False),
        ({"ACCELERATE_USE_CPU": "true"}, "cuda", True),
    ],
)
def test_several_processes_meet_on_the_cpu_where_there_is_nothing_else(
    monkeypatch, environment, accelerator, expected
):
    for name in ("WORLD_SIZE", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator is not None)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: accelerator == "mps")
    monkeypatch.setattr(generation, "PartialState", lambda *, cpu: cpu)
    assert this_process() is expected
