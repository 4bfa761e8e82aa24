"""How far two sets of images lie from each other, as clouds of their features; which are copies."""

import importlib
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpm.likelihood import Estimate
from ddpm.support.tensor_checks import check_tensor

_PARTS = 10  # of the kernel distance, for its error bar


class Moments:
    """Mean and covariance of a cloud that arrives batch by batch, in float64; memory does not grow with the images."""

    def __init__(self, batches: Iterable[Tensor] = ()) -> None:
        """Of batches of features (or images), each of shape (B, D) or (B, C, H, W)."""
        self.count, self._sum, self._products = 0, np.zeros(()), np.zeros(())
        for batch in batches:
            self.update(batch)

    def update(self, batch: Tensor) -> None:
        """Add a batch."""
        _check(batch=batch)
        rows = _rows(batch)
        self.count += len(rows)
        self._sum = self._sum + rows.sum(0)
        self._products = self._products + rows.T @ rows

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D), as of all that came, in one tensor."""
        return self.count, *self._sum.shape

    @property
    def mean(self) -> np.ndarray:
        """Shape (D,)."""
        return self._sum / self.count

    @property
    def covariance(self) -> np.ndarray:
        """Shape (D, D), unbiased."""
        return (self._products - self.count * np.outer(self.mean, self.mean)) / (self.count - 1)


def frechet_distance(images_a: Tensor | Moments, images_b: Tensor | Moments) -> float:
    """Fréchet distance between two sets of images, or of features, as clouds of points (eq:frechet).

    Both clouds are summarised by mean and covariance, and the distance is that of two Gaussians (Dowson & Landau 1982;
    the FID of Heusel et al. 2017 is the same formula on the features of a network). It falls as the sets grow, so
    compare only figures taken at equal sizes.

    The sets are of shape (N, C, H, W) or (N, D) and may differ in N, or are the `Moments` of what is too much to
    hold at once. The result is the squared distance, in squared units of the pixels or features; it is 0 for equal
    means and covariances.

    Raises:
        ValueError: if a set has fewer than two images, or the images differ in shape.
    """
    _check(images_a=images_a, images_b=images_b)
    if images_a.shape[1:] != images_b.shape[1:] or min(images_a.shape[0], images_b.shape[0]) < 2:
        raise ValueError(
            "two sets of at least 2 images of one shape are needed, but got"
            f" {tuple(images_a.shape)} and {tuple(images_b.shape)}"
        )
    (mean_a, root_a), (mean_b, root_b) = _mean_and_root(images_a), _mean_and_root(images_b)
    # With Σ_a = AᵀA and Σ_b = BᵀB, the trace of (Σ_a^½ Σ_b Σ_a^½)^½ is the sum of the singular values of A Bᵀ. Any such
    # A and B will do. The rows of centred images are one; where there are more images than pixels, roots are smaller.
    shared = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    return float(((mean_a - mean_b) ** 2).sum() + (root_a**2).sum() + (root_b**2).sum() - 2 * shared)


def _mean_and_root(images: Tensor | Moments) -> tuple[np.ndarray, np.ndarray]:
    """The mean of a cloud, shape (D,), and a matrix A of at most D rows with AᵀA its covariance."""
    if isinstance(images, Moments):
        mean, covariance = images.mean, images.covariance
    else:
        rows = _rows(images)
        mean = rows.mean(0)
        centred = (rows - mean) / np.sqrt(len(rows) - 1)
        if centred.shape[0] <= centred.shape[1]:
            return mean, centred
        covariance = centred.T @ centred
    # Singular where pixels never change: rounding makes such eigenvalues negative.
    values, vectors = np.linalg.eigh(covariance)
    return mean, (vectors * np.sqrt(np.clip(values, 0, None))).T


def _check(**clouds: Any) -> None:
    """Refuse images or features that are no tensor, or not finite."""
    for name, points in clouds.items():
        if isinstance(points, Moments):
            continue
        check_tensor(name, points)
        if not points.isfinite().all():
            raise ValueError(f"{name} must be finite numbers, but some are NaN or infinite: leave these out")


def _rows(images: Tensor) -> np.ndarray:
    """One row per image, in float64."""
    return images.detach().flatten(1).double().cpu().numpy()


def kernel_distance(features_a: Tensor, features_b: Tensor) -> Estimate:
    """Squared maximum mean discrepancy by the kernel (a·b/D + 1)³, the KID of Bińkowski et al. (2018), with its error.

    Unlike the Fréchet distance it is unbiased (eq:kid): between sets of one distribution it is 0 on average, at any
    size. Each set, of equal size and shape (N, D), falls into ten random parts that do not overlap (fewer where
    N < 20); the estimate is the mean over pairs of parts, each computed by torchmetrics, and its standard error their
    spread over the root of their number.

    Raises:
        ValueError: if the sets differ in shape, or have fewer than 4 rows.
        RuntimeError: if torchmetrics is not installed.
    """
    _check(features_a=features_a, features_b=features_b)
    if features_a.shape != features_b.shape or features_a.ndim != 2 or len(features_a) < 4:
        raise ValueError(
            "two sets of features of one shape (N, D), N at least 4, are needed, but got"
            f" {tuple(features_a.shape)} and {tuple(features_b.shape)}"
        )
    poly_mmd = import_extra("torchmetrics.image.kid").poly_mmd
    count = len(features_a)
    parts = min(_PARTS, count // 2)
    # Data may come sorted by class.
    generator = torch.Generator().manual_seed(0)
    order_a, order_b = (torch.randperm(count, generator=generator, device=generator.device) for _ in "ab")
    size = count // parts
    pairs = zip(order_a.split(size)[:parts], order_b.split(size)[:parts], strict=True)
    values = torch.stack([poly_mmd(features_a[a].double(), features_b[b].double()) for a, b in pairs])
    return Estimate(values.mean(), values.std() / math.sqrt(parts))


def precision_recall(
    samples: Tensor, images: Tensor, *, neighbours: int = 3, chunk: int = 256
) -> tuple[float, float]:
    """Which part of the samples lies among the images, and which part of the images among the samples.

    A point lies among a set if it is within some member's distance to its k-th nearest other member, k = `neighbours`
    (Kynkäänniemi et al. 2019; eq:precision, eq:recall). Precision falls where samples are no images, recall where
    images are never sampled. The sets are features of shape (N, D); take as many of each, for the balls shrink as a set
    grows. Distances are taken in float64, `chunk` points at a time.

    Raises:
        ValueError: if a set has no more than `neighbours` members, or they differ in dimension.
    """
    _check(samples=samples, images=images)
    if min(len(samples), len(images)) <= neighbours or samples.shape[1:] != images.shape[1:]:
        raise ValueError(
            f"two sets of more than {neighbours} points (neighbours={neighbours}) of one dimension are needed, but got"
            f" {tuple(samples.shape)} and {tuple(images.shape)}"
        )
    samples, images = samples.double(), images.double()
    return _covered(samples, images, neighbours, chunk), _covered(images, samples, neighbours, chunk)


def _covered(points: Tensor, centres: Tensor, neighbours: int, chunk: int) -> float:
    """The part of the points that lie within some centre's distance to its k-th nearest other centre."""
    # Each centre is its own nearest.
    radii = [torch.cdist(x, centres).kthvalue(neighbours + 1).values for x in centres.split(chunk)]
    within = [(torch.cdist(x, centres) <= torch.cat(radii)).any(1) for x in points.split(chunk)]
    return float(torch.cat(within).double().mean())


def nearest_distances(
    queries: Tensor, images: Tensor, *, leave_out_itself: bool = False, chunk: int = 256
) -> Tensor:
    """Euclidean distance from each query to its nearest image, shape (N,), `chunk` queries at a time.

    With `leave_out_itself` the queries are the images, and query i is not held against image i.
    """
    _check(queries=queries, images=images)
    flat, nearest = images.flatten(1), []
    for first in range(0, len(queries), chunk):
        gaps = torch.cdist(queries[first : first + chunk].flatten(1), flat)
        if leave_out_itself:
            rows = torch.arange(len(gaps))
            gaps[rows, first + rows] = math.inf
        nearest.append(gaps.amin(1))
    return torch.cat(nearest)


def import_extra(module: str) -> Any:
    """A module of the extra `evaluation`.

    Raises:
        RuntimeError: if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise RuntimeError(
            f"{module.partition('.')[0]} is not installed; it comes with the extra `evaluation`: pip install"
            " torchmetrics torch-fidelity"
        ) from error
