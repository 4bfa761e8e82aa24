"""A model judged: distances against brute force, copies found out, the bound that of the likelihood module."""

import pytest
import torch
from torch.utils.data import TensorDataset

from ddpm import GaussianDiffusion, Unet, data
from ddpm.evaluation.metrics import DigitClassifier, frechet_distance
from ddpm.evaluation.report import bits_per_dimension, first_images, nearest_distances, report_on_samples
from ddpm.likelihood import vlb_terms
from tests.exact import Pointwise

GENERATOR = torch.Generator().manual_seed(0)


def pictures(count):
    return torch.rand(count, 1, 4, 4, generator=GENERATOR, dtype=torch.float64)


def brute_force(queries, images, *, leave_out_itself=False):
    """Pair by pair."""
    nearest = []
    for i, query in enumerate(queries):
        others = [image for j, image in enumerate(images) if not (leave_out_itself and i == j)]
        nearest.append(min(((query - other) ** 2).sum().sqrt().item() for other in others))
    return torch.tensor(nearest, dtype=torch.float64)


@pytest.mark.parametrize("chunk", [1, 4, 256])
def test_nearest_distances_are_those_of_brute_force(chunk):
    queries, images = pictures(7), pictures(10)
    assert torch.allclose(nearest_distances(queries, images, chunk=chunk), brute_force(queries, images))
    among = nearest_distances(images, images, leave_out_itself=True, chunk=chunk)
    assert torch.allclose(among, brute_force(images, images, leave_out_itself=True))


def test_copies_are_found_out():
    images = pictures(20).float()
    judgement = report_on_samples(images.clone(), images)
    assert judgement.images == 20
    assert abs(judgement.distance) < 1e-6
    assert judgement.nearest < 1e-3  # torch.cdist loses half of the digits of a distance near 0
    assert judgement.recognised is None


def test_the_figures_are_what_they_say():
    samples, images = pictures(30), pictures(30)
    judgement = report_on_samples(samples, images)
    among = brute_force(images, images, leave_out_itself=True)
    assert judgement.nearest == pytest.approx(float(brute_force(samples, images).median() / among.median()))
    assert judgement.distance == pytest.approx(frechet_distance(samples, images))
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    halves = frechet_distance(images[order[:15]], images[order[15:]])
    assert judgement.halves == pytest.approx(halves)
    assert report_on_samples(pictures(30), images).halves == judgement.halves
    assert report_on_samples(samples / 2, images).distance > judgement.distance


def test_digits_are_recognised_and_noise_is_not():
    """The judge's own docstring: of real digits that it has not seen it is sure of about three in four."""
    images, labels = data.digits().tensors
    judge = DigitClassifier(images[300:], labels[300:])
    judged = report_on_samples(images[:300], images[300:600], judge)
    assert judged.recognised == judge.fraction_recognised(images[:300]) > 0.6
    assert report_on_samples(torch.rand(300, 1, 8, 8), images[:300], judge).recognised < 0.05


@pytest.mark.parametrize(("samples", "images"), [(4, 5), (3, 3)])
def test_unequal_or_too_few_images_are_refused(samples, images):
    with pytest.raises(ValueError, match=rf"equally many, at least 4.*\({samples}, 1, 4, 4\)"):
        report_on_samples(pictures(samples), pictures(images))


def test_first_images_with_labels_and_without():
    images, labels = pictures(6), torch.arange(10, 16)
    chosen, chosen_labels = first_images(TensorDataset(images, labels), 4)
    assert torch.equal(chosen, images[:4])
    assert torch.equal(chosen_labels, labels[:4])
    chosen, chosen_labels = first_images(list(images), 3)
    assert torch.equal(chosen, images[:3])
    assert chosen_labels is None


def test_the_bound_is_that_of_the_likelihood_module():
    images = torch.randint(0, 256, (5, 1, 4, 4), generator=GENERATOR).float() / 255
    model = GaussianDiffusion(Pointwise(), image_size=4, timesteps=30)
    for given, levels in ((7, 7), (29, None), (100, None), (None, None)):
        bound = vlb_terms(model, images * 2 - 1, levels=levels, seeds=range(5))
        expected = bound.bits_per_dim(bound.total)
        found = bits_per_dimension(model, images, levels=given)
        assert torch.equal(found.mean, expected.mean)
        assert torch.equal(found.standard_error, expected.standard_error)
    other = bits_per_dimension(model, images, levels=7, seeds=range(10, 15))
    assert other.mean != bits_per_dimension(model, images, levels=7).mean


def test_the_bound_of_a_model_with_classes_takes_the_labels():
    network = Unet(8, dim_mults=(1,), channels=1, num_classes=3, num_res_blocks=1)
    torch.nn.init.normal_(network.last.weight)
    model = GaussianDiffusion(network, image_size=4, timesteps=5, beta_schedule="cosine")
    images, labels = torch.zeros(3, 1, 4, 4), torch.tensor([0, 1, 2])
    found = bits_per_dimension(model, images, labels, levels=None)
    bound = vlb_terms(model, images * 2 - 1, labels=labels, seeds=range(3))
    assert torch.equal(found.mean, bound.bits_per_dim(bound.total).mean)
    with pytest.raises(ValueError, match="needs labels"):
        bits_per_dimension(model, images, levels=None)
