"""What a classifier sees in images, for data small enough to need no deep features."""

import warnings
from typing import Any

import torch
from sklearn.svm import SVC
from torch import Tensor


class DigitClassifier:
    """A classifier trained on real images that says how sure it is of a sample.

    A support-vector machine with a Gaussian kernel; for each pair of classes its score is calibrated to a probability
    by cross-validation, and the pairs are coupled into one probability per class (Platt 1999; Wu, Lin & Weng 2004).
    It is sure of nothing that lies far from every real image, so noise is not recognised as some digit. Of real digits
    that it has not seen it is more than 90 % sure in about four of five: that is what good samples can reach.
    """

    def __init__(self, images: Tensor, labels: Tensor, gamma: float = 0.5) -> None:
        """Train on real images in [0, 1], shape (N, C, H, W), of classes `labels`, with the kernel exp(−γ‖a − b‖²)."""
        # scikit-learn carries no types, and the checker's guesses from its default values are wrong.
        arguments: dict[str, Any] = {"gamma": gamma, "probability": True, "random_state": 0}
        self._classifier = SVC(**arguments)
        with warnings.catch_warnings():
            # Deprecated in scikit-learn 1.9 in favour of a calibration of each class against the rest. That one calls
            # every image of pure noise a digit with certainty, so samples need the old one; hence scikit-learn < 1.11.
            warnings.filterwarnings("ignore", "The `probability` parameter was deprecated", FutureWarning)
            self._classifier.fit(images.flatten(1).cpu().numpy(), labels.cpu().numpy())

    def confidence(self, images: Tensor) -> Tensor:
        """Probability of the likeliest class, shape (N,), for images in [0, 1] of shape (N, C, H, W)."""
        return torch.from_numpy(self._classifier.predict_proba(images.flatten(1).cpu().numpy()).max(1))

    def fraction_recognised(self, images: Tensor, threshold: float = 0.9) -> float:
        """The fraction of the images of which the classifier is more than `threshold` sure."""
        return float((self.confidence(images) > threshold).double().mean())
