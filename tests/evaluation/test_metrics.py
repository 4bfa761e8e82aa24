"""Each measure against a closed form, an independent formula, or brute force."""

import math
import sys

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from ddpm.data import digits
from ddpm.evaluation.metrics import (
    Moments,
    frechet_distance,
    kernel_distance,
    nearest_distances,
    precision_recall,
)

REASON = "torchmetrics is not installed; it comes with the extra `evaluation`: pip install -e '.[evaluation]'"


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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


def with_moments(count, mean, covariance, seed):
    """Points whose mean and covariance are these, and not only about these."""
    points = draw(count, len(mean), seed=seed)
    points = points - points.mean(0)
    whitened = points @ torch.linalg.inv(torch.linalg.cholesky(points.T.cov()).mT)
    return mean + whitened @ torch.linalg.cholesky(covariance).mT


@pytest.mark.parametrize("dimension", [2, 5, 30])
def test_frechet_distance_of_gaussians_has_its_closed_form(dimension):
    """Covariances with one set of axes: the squared distances of the means and of the roots along each axis add up."""
    axes = torch.linalg.qr(draw(dimension, dimension)).Q
    mean_a, mean_b = draw(2, dimension, seed=1)
    roots_a, roots_b = draw(2, dimension, seed=2).abs() + 0.1
    clouds = [
        with_moments(200, mean, axes @ torch.diag(roots**2) @ axes.mT, seed)
        for seed, mean, roots in ((3, mean_a, roots_a), (4, mean_b, roots_b))
    ]
    expected = float(((mean_a - mean_b) ** 2).sum() + ((roots_a - roots_b) ** 2).sum())
    assert frechet_distance(*clouds) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(*(Moments([cloud]) for cloud in clouds)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("size", [1, 7, 256, 1000])
def test_moments_are_the_same_in_any_batches(size):
    cloud = (3 + draw(600, 5) @ draw(5, 5, seed=1)).float()
    moments = Moments(cloud.split(size))
    assert moments.shape == cloud.shape
    np.testing.assert_allclose(moments.mean, cloud.double().mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(cloud.double().numpy(), rowvar=False), rtol=1e-10)
    other = 3 + draw(300, 5, seed=2).float()
    assert frechet_distance(moments, other) == pytest.approx(frechet_distance(cloud, other), rel=1e-10)


def test_frechet_distance_of_a_stream_is_that_of_the_whole():
    """On images with constant pixels, of which rounding makes variances that are not quite 0; 64 numbers each."""
    images = 0.1 + 0.7 * digits().tensors[0]
    a, b = images[:900], images[900:]
    streamed = frechet_distance(Moments(a.split(100)), Moments(b.split(50)))
    with pytest.raises(ValueError, match="one shape"):
        frechet_distance(Moments(a.split(100)), b)
    assert streamed == pytest.approx(frechet_distance(a, b), rel=1e-6)


def test_frechet_distance_refuses_a_stream_that_holds_nothing():
    with pytest.raises(ValueError, match=r"at least 2 images of one shape .* \(0,\) and \(5, 3\)"):
        frechet_distance(Moments(), torch.rand(5, 3))


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


# The kernel distance


@pytest.mark.parametrize(
    ("count", "value_a", "value_b", "expected"),
    [
        (4, 0.0, 1.0, 1 + 8 - 2),
        (25, 0.0, 1.0, 7),
        (100, 2.0, -1.0, 5**3 + 2**3 - 2 * (-1) ** 3),
        (50, 3, 3, 0),
    ],
)
def test_kernel_distance_of_points_that_are_all_alike(count, value_a, value_b, expected):
    """The kernel is (a·b/D + 1)³ for every pair, so that the parts do not matter."""
    pytest.importorskip("torchmetrics", reason=REASON)
    found = kernel_distance(torch.full((count, 6), value_a), torch.full((count, 6), value_b))
    assert float(found.mean) == pytest.approx(expected, abs=1e-9)
    assert float(found.standard_error) == pytest.approx(0, abs=1e-9)


def test_kernel_distance_against_the_moments_of_gaussians():
    """In one dimension E (xy + 1)³ = 1 + 3 m₁m₁ + 3 m₂m₂ + m₃m₃, the moments 0, 1, 0 of N(0, 1) and 1, 2, 4 of N(1, 1).

    So the distance is 4 + 32 − 2·7 = 22; the estimate is allowed four of its standard errors, which are about 0.7.
    """
    pytest.importorskip("torchmetrics", reason=REASON)
    found = kernel_distance(draw(20_000, 1), 1 + draw(20_000, 1, seed=1))
    assert abs(float(found.mean) - 22) < 4 * float(found.standard_error)
    assert 0.3 < float(found.standard_error) < 1.4


def test_kernel_distance_against_its_feature_map():
    """(1 + a·b/D)³ is an inner product of all products of three of (1, a/√D); no point is paired with itself."""
    pytest.importorskip("torchmetrics", reason=REASON)
    a, b = draw(43, 3), 0.5 + draw(43, 3, seed=1)
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(43, generator=generator) for _ in range(2)]
    values = []
    for part in range(10):
        sums, squares = [], []
        for x, order in zip((a, b), orders, strict=True):
            point = torch.cat([torch.ones(4, 1), x[order[4 * part : 4 * part + 4]] / math.sqrt(3)], 1)
            mapped = torch.einsum("ni,nj,nk->nijk", point, point, point).flatten(1)
            sums.append(mapped.sum(0))
            squares.append(mapped.square().sum())
        within = [(total @ total - square) / 12 for total, square in zip(sums, squares, strict=True)]
        values.append(float(within[0] + within[1] - 2 * sums[0] @ sums[1] / 16))
    found = kernel_distance(a, b)
    assert float(found.mean) == pytest.approx(np.mean(values), rel=1e-9)
    assert float(found.standard_error) == pytest.approx(np.std(values, ddof=1) / math.sqrt(10), rel=1e-9)


def test_kernel_distance_between_halves_of_one_set_is_0_on_average():
    """Over all ways to halve a set every pair is equally likely in every role, so that the mean is exactly 0.

    Over 200 halvings of 200 points it is 0 within four standard errors of that mean; the distance with the pairs of a
    point with itself, which is biased, would be more than ten of them away.
    """
    pytest.importorskip("torchmetrics", reason=REASON)
    points = draw(200, 8).exp()
    generator = torch.Generator().manual_seed(1)
    halves = [points[torch.randperm(200, generator=generator)].split(100) for _ in range(200)]
    found = torch.stack([kernel_distance(*pair).mean for pair in halves])
    error = float(found.std()) / math.sqrt(200)
    assert abs(float(found.mean())) < 4 * error
    itself = ((points.square().sum(1) / 8 + 1) ** 3).mean() - ((points @ points.T / 8 + 1) ** 3).mean()
    assert 2 * float(itself) / 10 > 10 * error


def test_kernel_distance_of_data_that_come_sorted():
    """Parts taken as they come would hold one class of the one set and all of the other, and lie far apart."""
    pytest.importorskip("torchmetrics", reason=REASON)
    classes = torch.arange(1000)[:, None] // 250
    a, b = draw(1000, 4) + classes, draw(1000, 4, seed=1) + classes
    mixed = [x[torch.randperm(1000, generator=torch.Generator().manual_seed(3))] for x in (a, b)]
    for sets in ((a, mixed[1]), (mixed[0], b)):
        assert abs(float(kernel_distance(*sets).mean)) < 4 * float(kernel_distance(*mixed).standard_error)


@pytest.mark.parametrize(
    "shapes", [((3, 4), (3, 4)), ((5, 4), (6, 4)), ((5, 4), (5, 3)), ((5, 1, 2), (5, 1, 2))]
)
def test_kernel_distance_refuses_what_it_cannot_compare(shapes):
    with pytest.raises(ValueError, match=r"of one shape \(N, D\), N at least 4, are needed"):
        kernel_distance(*(torch.rand(shape) for shape in shapes))


def test_kernel_distance_says_what_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.image.kid", None)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(RuntimeError, match=r"torchmetrics is not installed; .* pip install torchmetrics"):
        kernel_distance(draw(5, 2), draw(5, 2))


# Precision and recall


def covered(points, centres, neighbours):
    """By the definition, point by point: within the distance of some centre to its k-th nearest other centre."""
    count = 0
    for point in points:
        for i, centre in enumerate(centres):
            others = sorted(math.dist(centre, other) for j, other in enumerate(centres) if j != i)
            if math.dist(point, centre) <= others[neighbours - 1]:
                count += 1
                break
    return count / len(points)


@pytest.mark.parametrize("neighbours", [1, 3, 5])
@pytest.mark.parametrize(("samples", "images", "chunk"), [(40, 40, 256), (30, 47, 8), (6, 9, 1)])
def test_precision_and_recall_are_those_of_the_definition(neighbours, samples, images, chunk):
    a, b = draw(samples, 3), 1 + draw(images, 3, seed=1)
    expected = covered(a.tolist(), b.tolist(), neighbours), covered(b.tolist(), a.tolist(), neighbours)
    assert precision_recall(a, b, neighbours=neighbours, chunk=chunk) == expected
    assert 0 < sum(expected) < 2


def test_precision_and_recall_tell_poor_samples_from_missing_ones():
    images = torch.cat([draw(100, 2), 50 + draw(100, 2, seed=1)])
    one_of_two, half_of_it_noise = draw(200, 2, seed=2), torch.cat([draw(100, 2, seed=3), 500 + images[:100]])
    precision, recall = precision_recall(one_of_two, images)
    assert precision > 0.9
    assert 0.4 < recall <= 0.5
    assert 0.4 < precision_recall(half_of_it_noise, images)[0] <= 0.5
    assert precision_recall(images, images) == (1, 1)
    assert precision_recall(images + 1000, images) == (0, 0)


def test_precision_and_recall_of_float32_far_from_0():
    """The differences of squares by which torch.cdist finds distances need the digits of float64 there."""
    a, b = ((1000 + draw(40, 3, seed=seed)).float() for seed in (0, 1))
    expected = covered(a.tolist(), b.tolist(), 3), covered(b.tolist(), a.tolist(), 3)
    assert precision_recall(a, b) == expected


def test_a_point_on_the_edge_of_a_ball_lies_in_it():
    """The images reach 1, 1, 2 and 4 far; -1 and 11 are on the edge, and 11.5 is beyond it."""
    images, samples = (torch.tensor(x)[:, None] for x in ([0.0, 1.0, 3.0, 7.0], [-1.0, 5.0, 11.0, 11.5]))
    assert precision_recall(samples, images, neighbours=1) == (0.75, 1)


@pytest.mark.parametrize("shapes", [((3, 2), (9, 2)), ((9, 2), (3, 2)), ((9, 2), (9, 3))])
def test_precision_recall_refuses_what_it_cannot_compare(shapes):
    with pytest.raises(ValueError, match="two sets of more than 3 points"):
        precision_recall(*(torch.rand(shape) for shape in shapes))


# What all of them refuse


MEASURES = {
    "frechet": frechet_distance,
    "moments": lambda a, b: frechet_distance(Moments([a]), b),
    "kernel": kernel_distance,
    "precision": precision_recall,
    "nearest": nearest_distances,
}
BAD = {
    "array": (lambda x: x.numpy(), TypeError, "must be a tensor, but got numpy.ndarray of float64"),
    "list": (lambda x: x.tolist(), TypeError, "must be a tensor, but got "),
    "NaN": (lambda x: x.log(), ValueError, "must be finite numbers, but some are NaN or infinite"),
    "infinite": (lambda x: x / 0, ValueError, "must be finite numbers, but some are NaN or infinite"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("name", MEASURES)
def test_clouds_of_something_else_are_refused(name, kind):
    spoilt, error, message = BAD[kind]
    for pair in ((spoilt(draw(9, 3)), draw(9, 3)), (draw(9, 3), spoilt(draw(9, 3)))):
        with pytest.raises(error, match=message):
            MEASURES[name](*pair)


def test_frechet_distance_of_features_with_gradients():
    a, b = draw(9, 3), draw(8, 3, seed=1)
    traced = a.clone().requires_grad_(), Moments([b.clone().requires_grad_()])
    assert frechet_distance(*traced) == pytest.approx(frechet_distance(a, b))
