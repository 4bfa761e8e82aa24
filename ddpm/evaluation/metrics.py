"""How far sets of images lie from each other, on raw pixels."""

import math

import numpy as np
import torch
from torch import Tensor


def frechet_distance(images_a: Tensor, images_b: Tensor) -> float:
    """Fréchet distance between two sets of images as clouds of raw pixels (eq:frechet).

    Both clouds are summarised by mean and covariance, and the distance is that of two Gaussians (Dowson & Landau 1982;
    the FID of Heusel et al. 2017 is the same formula on the features of a network). It falls as the sets grow, so
    compare only figures taken at equal sizes.

    The images are of shape (N, C, H, W) or (N, D) and may differ in N. The result is the squared distance, in squared
    units of the pixels; it is 0 for equal means and covariances.

    Raises:
        ValueError: if a set has fewer than two images, or the images differ in shape.
    """
    if images_a.shape[1:] != images_b.shape[1:] or min(len(images_a), len(images_b)) < 2:
        raise ValueError(
            "two sets of at least 2 images of one shape are needed, but got"
            f" {tuple(images_a.shape)} and {tuple(images_b.shape)}"
        )
    a, b = (images.flatten(1).double().cpu().numpy() for images in (images_a, images_b))
    means = ((a.mean(0) - b.mean(0)) ** 2).sum()
    # With Σ_a = AᵀA and Σ_b = BᵀB, the trace of (Σ_a^½ Σ_b Σ_a^½)^½ is the sum of the singular values of A Bᵀ. Any such
    # A and B will do. The rows of centred images are one; where there are more images than pixels, roots are smaller.
    root_a, root_b = _covariance_root(a), _covariance_root(b)
    shared = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    return float(means + (root_a**2).sum() + (root_b**2).sum() - 2 * shared)


def _covariance_root(rows: np.ndarray) -> np.ndarray:
    """A matrix A with AᵀA the covariance of `rows`, of shape (N, D); A has as few rows as possible, min(N, D)."""
    centred = (rows - rows.mean(0)) / np.sqrt(len(rows) - 1)
    if centred.shape[0] <= centred.shape[1]:
        return centred
    # Singular where pixels never change: rounding makes such eigenvalues negative.
    values, vectors = np.linalg.eigh(centred.T @ centred)
    return (vectors * np.sqrt(np.clip(values, 0, None))).T


def nearest_distances(
    queries: Tensor, images: Tensor, *, leave_out_itself: bool = False, chunk: int = 256
) -> Tensor:
    """Euclidean distance from each query to its nearest image, shape (N,), `chunk` queries at a time.

    With `leave_out_itself` the queries are the images, and query i is not held against image i.
    """
    flat, nearest = images.flatten(1), []
    for first in range(0, len(queries), chunk):
        gaps = torch.cdist(queries[first : first + chunk].flatten(1), flat)
        if leave_out_itself:
            rows = torch.arange(len(gaps))
            gaps[rows, first + rows] = math.inf
        nearest.append(gaps.amin(1))
    return torch.cat(nearest)
