"""Figures of a model: copies found out, unequal reports refused, the bound that of the likelihood module."""

import re
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from ddpm import GaussianDiffusion, Unet
from ddpm.data import digits
from ddpm.evaluation import report
from ddpm.evaluation.metrics import frechet_distance, kernel_distance, nearest_distances, precision_recall
from ddpm.evaluation.report import (
    bits_per_dimension,
    compare,
    first_images,
    random_batches,
    random_images,
    report_on_samples,
)
from ddpm.likelihood import vlb_terms
from tests.io.test_progress import Terminal
from tests.networks import Pointwise

GENERATOR = torch.Generator().manual_seed(0)


def on_grid(images):
    return images.mul(255).round().div(255)


def noise(count):
    return torch.rand(count, 1, 4, 4, generator=GENERATOR, dtype=torch.float64)


def pictures(count):
    """On whole grey levels."""
    return on_grid(noise(count))


def test_report_on_samples_holds_what_its_figures_say():
    samples, images, training, held_out = noise(30), pictures(30), pictures(40), pictures(40)
    classifier = SimpleNamespace(
        fraction_recognised=lambda x: 0.25 if torch.equal(x, on_grid(samples)) else None
    )

    def features(x):
        return x.flatten(1)[:, :6].square()

    report = report_on_samples(
        samples, images, training.split(7), [held_out], features=features, classifier=classifier
    )
    ours, theirs = features(on_grid(samples)), features(images)
    assert report.distance == pytest.approx(frechet_distance(ours, theirs))
    assert (report.precision, report.recall) == precision_recall(ours, theirs)
    near, beside = (nearest_distances(on_grid(samples), x) for x in (training, held_out))
    assert report.nearest_training == pytest.approx(float(near.min()))
    assert report.nearest_held_out == pytest.approx(float(beside.min()))
    assert report.nearest_ratio == pytest.approx(float(near.mean() / beside.mean()))
    assert report.recognised == 0.25
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    assert report.halves == pytest.approx(frechet_distance(theirs[order[:15]], theirs[order[15:]]))
    if find_spec("torchmetrics"):
        kernel = kernel_distance(ours, theirs)
        assert (report.kernel_distance, report.kernel_error) == (kernel.mean, kernel.standard_error)


def test_report_on_samples_takes_pixels_and_does_without_what_is_not_there(monkeypatch):
    monkeypatch.setattr("ddpm.evaluation.report.find_spec", lambda _: None)
    samples, images = noise(30), pictures(30)
    report = report_on_samples(samples, images, [images])
    assert report.distance == pytest.approx(frechet_distance(on_grid(samples), images))
    absent = report.kernel_distance, report.kernel_error, report.nearest_held_out, report.nearest_ratio
    assert {*absent, report.recognised} == {None}
    assert report_on_samples(pictures(30), images, [images]).halves == report.halves


@pytest.mark.parametrize("copied", [0.0, 0.5, 1.0])
def test_copies_of_training_images_are_found_out(copied):
    """Three sets of digits that nothing tells apart, of 599 each: the ratio is 1 less what was copied, within 5 %."""
    images = digits().tensors[0]
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    fresh, training, held_out = (images[part] for part in order.split(599))
    samples = torch.where(torch.arange(599).view(-1, 1, 1, 1) < 599 * copied, training, fresh)
    report = report_on_samples(samples, held_out, training.split(100), [held_out])
    assert abs(report.nearest_ratio - (1 - copied)) < 0.05
    assert (report.nearest_training < 1e-6) == (copied > 0)
    assert report.nearest_held_out > 0.3


def test_report_on_samples_refuses_to_search_more_training_than_held_out_images():
    with pytest.raises(ValueError, match=r"equally many, .* there are 7 and 6"):
        report_on_samples(pictures(5), pictures(5), [pictures(7)], [pictures(6)])


def report_with(settings=(), model=(), figures=()):
    return {
        "model": {"sampler": "ddim", "network_calls": 20} | dict(model),
        "settings": {"images": 1000, "part": "test", "features": "pixels", "seed": 0} | dict(settings),
        "distance": 4.5,
        **dict(figures),
    }


def test_reports_of_two_models_compare():
    other = report_with(model={"network_calls": 50}, figures={"distance": 4.0, "recall": 0.5})
    assert compare(report_with(), other) == {"distance": (4.5, 4.0), "recall": (None, 0.5)}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"images": 500}, "differ: images (1000 and 500);"),
        ({"part": "training", "seed": 3}, "differ: part (test and training), seed (0 and 3);"),
        ({"features": "classifier"}, "differ: features (pixels and classifier);"),
        ({"torch": "2.6"}, "differ: torch (None and 2.6);"),
    ],
)
def test_reports_of_unequal_settings_do_not_compare(settings, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        compare(report_with(), report_with(settings))


@pytest.mark.parametrize(("samples", "images"), [(4, 5), (3, 3)])
def test_report_on_samples_refuses_unequal_or_too_few_images(samples, images):
    with pytest.raises(ValueError, match=rf"equally many, at least 4.*\({samples}, 1, 4, 4\)"):
        report_on_samples(pictures(samples), pictures(images), [pictures(5)])


def test_first_images_come_with_labels_and_without():
    images, labels = pictures(6), torch.arange(10, 16)
    chosen, chosen_labels = first_images(TensorDataset(images, labels), 4)
    assert torch.equal(chosen, images[:4])
    assert torch.equal(chosen_labels, labels[:4])
    chosen, chosen_labels = first_images(list(images), 3)
    assert torch.equal(chosen, images[:3])
    assert chosen_labels is None


@pytest.mark.parametrize("beside", [torch.zeros(40).long(), {"bbox": [1, 2]}, "a caption", None])
def test_random_images_leave_out_what_is_no_label(beside):
    images, labels = random_images([(torch.zeros(1, 4, 4), beside)] * 4, 3)  # pyright: ignore[reportArgumentType]
    assert images.shape == (3, 1, 4, 4)
    assert labels is None


def test_random_images_are_of_the_whole_set_and_the_same_for_a_seed():
    """A data set sorted by class: the first hundred would be of one."""
    labels = torch.arange(1000) // 100
    images = torch.arange(1000.0).view(-1, 1, 1, 1)
    chosen, chosen_labels = random_images(TensorDataset(images, labels), 100)
    assert len(chosen_labels.unique()) == 10
    assert torch.equal(images[chosen.flatten().long()], chosen)
    assert torch.equal(labels[chosen.flatten().long()], chosen_labels)
    assert torch.equal(chosen.flatten().sort().values.unique(), chosen.flatten())
    again, other = (random_images(list(images), 100, seed=seed)[0] for seed in (0, 1))
    assert torch.equal(again, chosen)
    assert not torch.equal(other, chosen)
    # Each place is drawn about equally often.
    drawn = torch.cat([random_images(list(images), 500, seed=seed)[0] for seed in range(40)])
    assert abs(float((drawn < 500).double().mean()) - 0.5) < 0.02


@pytest.mark.parametrize("size", [1, 7, 20, 500])
def test_random_batches_are_the_random_images(size):
    images, labels = pictures(30), torch.arange(30)
    for dataset in (TensorDataset(images, labels), list(images)):
        batches = list(random_batches(dataset, 20, seed=3, size=size))
        assert max(map(len, batches)) == min(size, 20)
        assert torch.equal(torch.cat(batches), random_images(dataset, 20, seed=3)[0])


@pytest.mark.parametrize("count", [6, 7, 1000])
def test_random_images_are_all_where_there_are_no_more(count):
    images = pictures(6)
    assert torch.equal(random_images(list(images), count)[0], images)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("name", "place"), [("samples", 0), ("images", 1)])
def test_report_on_samples_refuses_numbers_that_are_none(value, name, place):
    both = [pictures(5), pictures(5)]
    both[place][3, 0, 1, 1] = value
    with pytest.raises(ValueError, match=rf"^the {name} hold numbers that are not finite"):
        report_on_samples(*both, [pictures(5)])


OTHERS = {
    "array": (lambda x: x.numpy(), TypeError, "must be a tensor, but got numpy"),
    "bytes": (lambda x: x.mul(255).byte(), ValueError, r"must be .* got torch.uint8 .*\.float\(\) / 255"),
    "0 … 255": (lambda x: x * 255, ValueError, r"must lie in \[0, 1\], but ranges from .*to_image_scale"),
    "[-1, 1]": (lambda x: x * 2 - 1, ValueError, r"must lie in \[0, 1\], but ranges from -"),
    "flat": (lambda x: x.flatten(1), ValueError, r"must be a floating-point tensor of shape \(B, "),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("place", range(4))
def test_report_on_samples_refuses_what_are_no_images_in_the_unit_interval(place, kind):
    (other, error, message), given = OTHERS[kind], [pictures(5) for _ in range(4)]
    given[place] = other(given[place])
    names = ["samples", "images", "training images", "held-out images"]
    with pytest.raises(error, match=f"^(the )?{names[place]} {message}"):
        report_on_samples(*given[:2], [given[2]], [given[3]])


def test_report_on_samples_takes_training_images_of_a_loader_or_in_one_tensor():
    samples, images, training = pictures(6), pictures(6), pictures(20)
    labelled = TensorDataset(training, torch.arange(20))
    expected = report_on_samples(samples, images, [training]).nearest_training
    for given in (DataLoader(labelled, 7), DataLoader(TensorDataset(training), 7), training):
        assert report_on_samples(samples, images, given).nearest_training == expected


@pytest.mark.parametrize(("given", "drawn"), [(7, 7), (28, 28), (29, None), (100, None), (None, None)])
def test_bits_per_dimension_are_those_of_the_likelihood_module(given, drawn):
    images = torch.randint(0, 256, (5, 1, 4, 4), generator=GENERATOR).float() / 255
    model = GaussianDiffusion(Pointwise(), image_size=4, timesteps=30)
    bound = vlb_terms(model, images * 2 - 1, timesteps_per_image=drawn, seeds=range(5))
    expected, found = (
        bound.bits_per_dim(bound.total),
        bits_per_dimension(model, images, timesteps_per_image=given),
    )
    assert torch.equal(found.mean, expected.mean)
    assert torch.equal(found.standard_error, expected.standard_error)
    other = bits_per_dimension(model, images, timesteps_per_image=7, seeds=range(10, 15))
    assert other.mean != found.mean


@pytest.mark.parametrize(("drawn", "calls"), [(7, 3 * 8), (None, 3 * 30)])
def test_bits_per_dimension_say_how_far_they_have_come(monkeypatch, drawn, calls):
    monkeypatch.setattr(report, "_AT_A_TIME", 2)
    monkeypatch.setattr(sys, "stderr", Terminal())
    images, model = pictures(5).float(), GaussianDiffusion(Pointwise(), image_size=4, timesteps=30)
    bits_per_dimension(model, images, timesteps_per_image=drawn)
    assert sys.stderr.getvalue() == ""
    bits_per_dimension(model, images, timesteps_per_image=drawn, progress=True)
    assert f"{calls}/{calls}" in sys.stderr.getvalue()
    assert "bound: 100%" in sys.stderr.getvalue()
    assert not model.network._forward_hooks


def test_bits_per_dimension_of_a_model_with_classes_take_the_labels():
    network = Unet(8, dim_mults=(1,), channels=1, num_classes=3, num_res_blocks=1)
    torch.nn.init.normal_(network.last.weight)
    model = GaussianDiffusion(network, image_size=4, timesteps=5, beta_schedule="cosine")
    images, labels = torch.zeros(3, 1, 4, 4), torch.tensor([0, 1, 2])
    found = bits_per_dimension(model, images, labels, timesteps_per_image=None)
    bound = vlb_terms(model, images * 2 - 1, labels=labels, seeds=range(3))
    assert torch.equal(found.mean, bound.bits_per_dim(bound.total).mean)
    with pytest.raises(ValueError, match="needs labels"):
        bits_per_dimension(model, images, timesteps_per_image=None)
