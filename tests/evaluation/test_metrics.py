"""Fréchet distance against SciPy's matrix root and closed forms, nearest distances against brute force."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from ddpm.data import digits
from ddpm.evaluation.metrics import frechet_distance, nearest_distances


def test_frechet_distance_of_shifted_and_stretched_clouds():
    # Shifting by d adds ‖d‖²; stretching by k multiplies the root of the covariance by k: tr Σ (1 − k)².
    cloud = torch.randn(500, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    shift = torch.tensor([0.5, -1.0, 0.0, 2.0, 0.1, 0.0], dtype=torch.float64)
    assert frechet_distance(cloud, cloud) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(cloud, cloud + shift) == pytest.approx(float((shift**2).sum()), rel=1e-9)
    centred = cloud - cloud.mean(0)
    trace = float(centred.var(0, correction=1).sum())
    assert frechet_distance(centred, 3 * centred) == pytest.approx(4 * trace, rel=1e-9)


@pytest.mark.parametrize(("rows_a", "rows_b"), [(400, 300), (400, 4), (4, 400), (4, 3)])
def test_frechet_distance_against_scipy(rows_a, rows_b):
    """With more images than pixels, with fewer, and with one of each."""
    generator = torch.Generator().manual_seed(2)
    a = torch.randn(rows_a, 5, generator=generator) @ torch.randn(5, 5, generator=generator)
    b = torch.randn(rows_b, 5, generator=generator) @ torch.randn(5, 5, generator=generator) + 0.3
    x, y = a.double().numpy(), b.double().numpy()
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = sqrtm(sqrtm(cov_x).real @ cov_y @ sqrtm(cov_x).real).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov_x + cov_y - 2 * root)
    singular = min(rows_a, rows_b) <= 5  # and then SciPy's root of rounding errors of 1e-16 is 1e-8
    for pair in ((a, b), (b, a)):
        assert frechet_distance(*pair) == pytest.approx(expected, rel=1e-6 if singular else 1e-8)


def test_frechet_distance_survives_constant_pixels():
    images = digits().tensors[0]  # the corners of the digits are always black
    a, b = images[:900], images[900:]
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6)
    assert 0 < frechet_distance(a, b) < 1


@pytest.mark.parametrize("shapes", [((1, 4), (5, 4)), ((5, 4), (5, 3)), ((5, 1, 2, 2), (5, 4))])
def test_frechet_distance_refuses_what_it_cannot_compare(shapes):
    with pytest.raises(ValueError, match="two sets of at least 2 images of one shape"):
        frechet_distance(*(torch.rand(shape) for shape in shapes))


@pytest.mark.parametrize("chunk", [1, 4, 256])
def test_nearest_distances_are_those_of_brute_force(chunk):
    generator = torch.Generator().manual_seed(0)
    queries, images = (torch.rand(n, 1, 4, 4, generator=generator, dtype=torch.float64) for n in (7, 10))
    among = (images[:, None] - images).pow(2).sum((2, 3, 4)).sqrt()
    to_images = (queries[:, None] - images).pow(2).sum((2, 3, 4)).sqrt()
    assert torch.allclose(nearest_distances(queries, images, chunk=chunk), to_images.amin(1))
    found = nearest_distances(images, images, leave_out_itself=True, chunk=chunk)
    assert torch.allclose(found, among.fill_diagonal_(torch.inf).amin(1))
