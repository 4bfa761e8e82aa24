"""What images are compared by: their pixels, or what a classifier sees in them."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ddpm.evaluation.metrics import import_extra
from ddpm.io.files import read_tensors
from ddpm.io.paths import shipped_weights
from ddpm.support.checks import check_choice
from ddpm.support.tensor_checks import check_tensor

Features = Callable[[Tensor], Tensor]  # from images in [0, 1], shape (B, C, H, W), to (B, D)
NAMES = ("pixels", "classifier", "inception")


def fashion_classifier() -> nn.Sequential:
    """A small convolutional classifier of 28 × 28 grey images into 10 classes, untrained; the last layer is linear."""
    layers: list[nn.Module] = []
    for channels_in, channels in ((1, 32), (32, 64), (64, 128)):
        convolution = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 3 * 3, 128), nn.ReLU(), nn.Linear(128, 10))


def extractor(name: str) -> Features:
    """What images are compared by: their "pixels", or what a "classifier" or "inception" has before its last layer.

    The classifier is that of `checkpoints/fashion-mnist-classifier`, for 28 × 28 grey images, with D = 128. Inception
    has the weights of the FID of Heusel et al. (2017) and D = 2048; torch-fidelity fetches them on first use and
    resizes the images to 299 × 299.

    Raises:
        ValueError: if the name is another.
        RuntimeError: if torch-fidelity is not installed, or its weights cannot be had.
    """
    check_choice("features", name, NAMES)
    return {"pixels": _pixels, "classifier": _classifier, "inception": _inception}[name]()


def features_of(images: Tensor, features: Features, *, chunk: int = 250) -> Tensor:
    """The features of images in [0, 1], shape (N, D), taken `chunk` images at a time.

    Raises:
        ValueError: if the features are not of shape (N, D), or not for images of this shape.
    """
    check_tensor("images", images)
    with torch.no_grad():
        found = torch.cat([features(batch) for batch in images.split(chunk)])
    if found.ndim != 2 or len(found) != len(images):
        raise ValueError(
            f"features must turn {len(images)} images into shape ({len(images)}, D), not {tuple(found.shape)}"
        )
    return found


def _pixels() -> Features:
    return lambda images: images.flatten(1)


def fashion_classes(images: Tensor) -> Tensor:
    """The class, 0 … 9, that the classifier that ships sees in each image, in [0, 1], shape (N, 1, 28, 28), on a CPU.

    Raises:
        ValueError: if the images are of another shape.
    """
    return features_of(images, _shipped_classifier(None)).argmax(1)


def _classifier() -> Features:
    return _shipped_classifier(-1)


def _shipped_classifier(layers: int | None) -> Features:
    """The classifier of Fashion-MNIST up to a layer; to the end for None."""
    network = fashion_classifier()
    network.load_state_dict(read_tensors(shipped_weights("fashion-mnist-classifier")))
    # In float32 whatever torch's default type is.
    part = network.float().eval()[:layers]

    def features(images: Tensor) -> Tensor:
        if images.shape[1:] != (1, 28, 28):
            raise ValueError(
                "the features of the classifier are for images of Fashion-MNIST, 1 × 28 × 28, but got"
                f" {' × '.join(map(str, images.shape[1:]))}; choose pixels or inception"
            )
        return part(images.float())

    return features


def _inception() -> Features:
    fidelity = import_extra("torch_fidelity.feature_extractor_inceptionv3")
    try:
        network = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).eval()
    except OSError as error:
        raise RuntimeError(
            f"the weights of Inception could not be fetched ({error}); choose pixels or classifier"
        ) from error

    def features(images: Tensor) -> Tensor:
        grey_levels = images.mul(255).round().to(torch.uint8)
        return network(grey_levels.expand(-1, 3, -1, -1))[0]

    return features


class DigitClassifier:
    """A classifier trained on real images that says how sure it is of a sample.

    A support-vector machine with a Gaussian kernel; for each pair of classes its score is calibrated to a probability
    by cross-validation, and the pairs are coupled into one probability per class (Platt 1999; Wu, Lin & Weng 2004).
    It is sure of nothing that lies far from every real image, so noise is not recognised as some digit. Of real digits
    that it has not seen it is more than 90 % sure in about four of five: that is what good samples can reach.
    """

    def __init__(self, images: Tensor, labels: Tensor, gamma: float = 0.5) -> None:
        """Train on real images in [0, 1], shape (N, C, H, W), of classes `labels`, with the kernel exp(−γ‖a − b‖²)."""
        from sklearn.svm import SVC

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
