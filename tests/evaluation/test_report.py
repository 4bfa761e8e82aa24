"""Figures of a model: copies found out, the bound that of the likelihood module."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import TensorDataset

from ddpm import GaussianDiffusion, Unet
from ddpm.evaluation.metrics import frechet_distance, nearest_distances
from ddpm.evaluation.report import bits_per_dimension, first_images, random_images, report_on_samples
from ddpm.likelihood import vlb_terms
from tests.networks import Pointwise

GENERATOR = torch.Generator().manual_seed(0)


def pictures(count):
    return torch.rand(count, 1, 4, 4, generator=GENERATOR, dtype=torch.float64)


def test_report_on_samples_holds_what_its_figures_say():
    samples, images = pictures(30), pictures(30)
    classifier = SimpleNamespace(fraction_recognised=lambda x: 0.25 if x is samples else None)
    report = report_on_samples(samples, images, classifier)
    among = nearest_distances(images, images, leave_out_itself=True)
    assert report.nearest == pytest.approx(
        float(nearest_distances(samples, images).median() / among.median())
    )
    assert report.distance == pytest.approx(frechet_distance(samples, images))
    assert report.recognised == 0.25
    assert report.images == 30
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    halves = frechet_distance(images[order[:15]], images[order[15:]])
    assert report.halves == pytest.approx(halves)
    assert report_on_samples(pictures(30), images).halves == report.halves
    copies = report_on_samples(images.clone(), images)
    assert abs(copies.distance) < 1e-6
    assert copies.nearest < 1e-3  # torch.cdist loses half of the digits of a distance near 0
    assert copies.recognised is None


@pytest.mark.parametrize(("samples", "images"), [(4, 5), (3, 3)])
def test_report_on_samples_refuses_unequal_or_too_few_images(samples, images):
    with pytest.raises(ValueError, match=rf"equally many, at least 4.*\({samples}, 1, 4, 4\)"):
        report_on_samples(pictures(samples), pictures(images))


def test_first_images_come_with_labels_and_without():
    images, labels = pictures(6), torch.arange(10, 16)
    chosen, chosen_labels = first_images(TensorDataset(images, labels), 4)
    assert torch.equal(chosen, images[:4])
    assert torch.equal(chosen_labels, labels[:4])
    chosen, chosen_labels = first_images(list(images), 3)
    assert torch.equal(chosen, images[:3])
    assert chosen_labels is None


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
        report_on_samples(*both)


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
