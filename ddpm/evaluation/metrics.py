"""How good are the samples? Distances and judgements on raw pixels, for data small enough to need no deep features."""

import warnings
from typing import Any

import numpy as np
import torch
from sklearn.svm import SVC
from torch import Tensor


def frechet_distance(images_a: Tensor, images_b: Tensor) -> float:
    """Fréchet distance between two sets of images as clouds of raw pixels (eq:frechet).

    Both clouds are summarised by mean and covariance, and the distance is that of two Gaussians (Dowson & Landau 1982;
    the FID of Heusel et al. 2017 is the same formula on the features of a network). It falls as the sets grow, so
    compare only figures taken at equal sizes.

    Args:
        images_a: images, shape (N, C, H, W) or (N, D), N at least 2.
        images_b: images of the same shape apart from their number.

    Returns:
        The squared distance, in squared units of the pixels; 0 for equal means and covariances.

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
    root_a, root_b = covariance_root(a), covariance_root(b)
    shared = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    return float(means + (root_a**2).sum() + (root_b**2).sum() - 2 * shared)


def covariance_root(rows: np.ndarray) -> np.ndarray:
    """A matrix A with AᵀA the covariance of `rows`, of shape (N, D); A has as few rows as possible, min(N, D)."""
    centred = (rows - rows.mean(0)) / np.sqrt(len(rows) - 1)
    if centred.shape[0] <= centred.shape[1]:
        return centred
    values, vectors = np.linalg.eigh(centred.T @ centred)  # singular where pixels never change
    return (vectors * np.sqrt(np.clip(values, 0, None))).T


class DigitClassifier:
    """A classifier trained on real images that says how sure it is of a sample.

    A support-vector machine with a Gaussian kernel; for each pair of classes its score is calibrated to a probability
    by cross-validation, and the pairs are coupled into one probability per class (Platt 1999; Wu, Lin & Weng 2004).
    It is sure of nothing that lies far from every real image, so noise is not recognised as some digit. On real digits
    that it has not seen it is more sure than 90 % of about three in four: that is what good samples can reach.
    """

    def __init__(self, images: Tensor, labels: Tensor, gamma: float = 0.5) -> None:
        """Train the judge.

        Args:
            images: real images in [0, 1], shape (N, C, H, W).
            labels: their classes, shape (N,).
            gamma: width of the kernel exp(−γ‖a − b‖²) on the pixels in [0, 1].
        """
        # scikit-learn carries no types, and the checker's guesses from its default values are wrong.
        options: dict[str, Any] = {"gamma": gamma, "probability": True, "random_state": 0}
        self.classifier = SVC(**options)
        with warnings.catch_warnings():
            # Deprecated in scikit-learn 1.9 in favour of a calibration of each class against the rest. That one calls
            # every image of pure noise a digit with certainty, so it cannot judge samples; hence scikit-learn < 1.11.
            warnings.filterwarnings("ignore", "The `probability` parameter was deprecated", FutureWarning)
            self.classifier.fit(images.flatten(1).cpu().numpy(), labels.cpu().numpy())

    def confidence(self, images: Tensor) -> Tensor:
        """Probability of the likeliest class, shape (N,), for images in [0, 1] of shape (N, C, H, W)."""
        return torch.from_numpy(self.classifier.predict_proba(images.flatten(1).cpu().numpy()).max(1))

    def fraction_recognised(self, images: Tensor, threshold: float = 0.9) -> float:
        """Share of the images, between 0 and 1, of which the judge is more than `threshold` sure."""
        return float((self.confidence(images) > threshold).double().mean())
