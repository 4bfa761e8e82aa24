"""Many images: each is its seed's own, whatever the batches and the processes."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from ddpm import GaussianDiffusion
from ddpm.training import distributed
from ddpm.training.distributed import draw_images, this_process
from ddpm.training.machine import Machine
from tests.networks import Pointwise

SEEDS = [5, 3, 11, 8, 2, 40, 7]


def make_model(num_classes=None):
    """A model that mixes no images, so that equal inputs give bit-equal outputs."""
    network = Pointwise()
    network.num_classes = num_classes
    return GaussianDiffusion(network, image_size=4, timesteps=30, sampling_timesteps=3, ddim_sampling_eta=1.0)


def one_by_one(model, labels):
    """The images, each drawn alone by the model itself."""
    labels = [None if label is None else torch.tensor([label]) for label in labels]
    each = zip(SEEDS, labels, strict=True)
    return torch.cat([model.sample(1, seeds=[seed], labels=label) for seed, label in each])


def draw_together(monkeypatch, world_size, *arguments, **options):
    """What each of several processes returns, threads in their place."""
    barrier, everything = threading.Barrier(world_size), []

    def gather(mine):
        everything.extend(mine)
        barrier.wait(60)
        return list(everything)

    monkeypatch.setattr(distributed, "gather_object", gather)
    with ThreadPoolExecutor(world_size) as pool:
        drawing = partial(draw_images, *arguments, world_size=world_size, **options)
        return list(pool.map(lambda rank: drawing(rank=rank), range(world_size)))


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_draw_images_gives_each_seed_its_image_in_any_batch(batch_size):
    model = make_model()
    images = draw_images(model, SEEDS, batch_size=batch_size)
    assert images.shape == (7, 1, 4, 4)
    assert torch.equal(images, one_by_one(model, [None] * 7))
    assert len({image.sum().item() for image in images}) == 7


@pytest.mark.parametrize("world_size", [2, 3, 9])
@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_draw_images_divides_the_work_and_keeps_the_order(monkeypatch, world_size, batch_size):
    model = make_model(num_classes=3).eval()
    expected = one_by_one(model, [0, 1, 2, 0, 1, 2, 0])
    calls = len(model.network.calls)
    together = draw_together(monkeypatch, world_size, model, SEEDS, batch_size=batch_size)
    assert all(torch.equal(images, expected) for images in together)
    of_each = [len(range(rank, 7, world_size)) for rank in range(world_size)]
    assert len(model.network.calls) - calls == 3 * sum(-(-count // batch_size) for count in of_each)


@pytest.mark.parametrize("given", [None, [2, 2, 0, 1, 1, 0, 2]])
def test_draw_images_takes_labels_in_turn_or_as_given(given):
    model = make_model(num_classes=3)
    images = draw_images(model, SEEDS, labels=given, batch_size=2)
    assert torch.equal(images, one_by_one(model, given or [0, 1, 2, 0, 1, 2, 0]))


def test_draw_images_passes_options_on():
    model = make_model()
    draw_images(model, [0], sampling_timesteps=5)
    assert len(model.network.calls) == 5
    assert not torch.equal(draw_images(model, [0], eta=0.0), draw_images(model, [0], eta=1.0))


@pytest.mark.parametrize(
    ("classes", "seeds", "options", "message"),
    [
        (None, [1, 2], {"labels": [0, 0]}, "trained without classes"),
        (3, [1, 2], {"labels": [0, 3]}, r"classes 0 … 2, but got the label 3"),
        (3, [1, 2], {"labels": [-1, 0]}, r"classes 0 … 2, but got the label -1"),
        (3, [1, 2], {"labels": [0]}, r"2 in all, but got 1"),
        (None, [1, 2], {"batch_size": 0}, r"batch_size of at least 1 are needed, but got 2 and 0"),
        (None, [], {}, "at least one seed"),
    ],
)
def test_draw_images_refuses_what_makes_no_sense(classes, seeds, options, message):
    with pytest.raises(ValueError, match=message):
        draw_images(make_model(classes), seeds, **options)


@pytest.mark.parametrize(
    ("machine", "told", "asked"),
    [
        (Machine(), "false", {"cpu": False}),
        (Machine(), "true", {"cpu": True}),
        (Machine("cpu", 2, 2), "false", {"cpu": True, "backend": "gloo"}),
        (Machine("cuda", 2, 2, 2, nccl=True), "false", {"cpu": False, "backend": "nccl"}),
        (Machine("cuda", 2, 2, 2, nccl=True), "true", {"cpu": True, "backend": "gloo"}),
    ],
)
def test_this_process_tells_accelerate_where_and_how_processes_meet(monkeypatch, machine, told, asked):
    monkeypatch.setenv("ACCELERATE_USE_CPU", told)
    monkeypatch.setattr(Machine, "found", lambda: machine)
    monkeypatch.setattr(distributed, "PartialState", lambda **told: told)
    assert this_process() == asked


@pytest.mark.parametrize(
    ("wishes", "meeting", "expected"),
    [
        ([(True, False), (False, False)], True, [True, False]),
        ([(False, False), (False, True)], True, [False, True]),
        ([(True, True), (True, True)], False, [False, False]),
        ([(True, False)], False, [True, False]),
    ],
)
def test_agreed_is_what_any_process_wishes_where_they_meet(monkeypatch, wishes, meeting, expected):
    accelerator = SimpleNamespace(num_processes=len(wishes))
    monkeypatch.setattr(distributed, "gather_object", lambda mine: wishes if mine == wishes[:1] else None)
    assert distributed.agreed(accelerator, *wishes[0], meeting=meeting) == expected
