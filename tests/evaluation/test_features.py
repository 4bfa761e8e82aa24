"""The features that images are compared by; the classifier of digits against held-out digits and noise."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ddpm.book.photographs import fashion_test_images
from ddpm.data import digits
from ddpm.evaluation.features import (
    DigitClassifier,
    extractor,
    fashion_classes,
    fashion_classifier,
    features_of,
)

FOLDER = Path(__file__).parents[2] / "checkpoints" / "fashion-mnist-classifier"
# Of the first 64 test images of Fashion-MNIST, in chapters/images.
CLASSES = "9211614657457341248025791460938833807579613767212244582284807785"


def test_classifier_is_sure_of_unseen_digits_and_not_of_noise():
    images, labels = digits().tensors
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    seen, unseen = order[:1200], order[1200:]
    classifier = DigitClassifier(images[seen], labels[seen])
    noise = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    scrambled = images[unseen].flatten(1)[:, torch.randperm(64, generator=torch.Generator().manual_seed(1))]
    assert classifier.confidence(images[unseen]).shape == (597,)
    assert classifier.fraction_recognised(images[unseen]) > 0.6
    assert classifier.fraction_recognised(noise) == 0
    assert classifier.fraction_recognised(scrambled) < 0.02
    assert classifier.fraction_recognised(images[unseen], threshold=1.0) == 0


def test_pixels_are_the_images_themselves():
    images = torch.rand(7, 3, 4, 5)
    assert torch.equal(features_of(images, extractor("pixels"), chunk=3), images.flatten(1))


def test_the_classifier_ships_small_and_says_how_good_it_is():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    parameters = sum(parameter.numel() for parameter in fashion_classifier().parameters())
    assert (FOLDER / "model.safetensors").stat().st_size < 600_000
    assert f"{parameters:,} parameters" in card
    assert float(re.search(r"10,000 test images \| ([\d.]+)%", card)[1]) > 92


def test_the_classifier_gives_what_comes_before_its_last_layer():
    images = torch.rand(7, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    found = features_of(images, extractor("classifier"), chunk=3)
    assert found.shape == (7, 128)
    assert (found >= 0).all()
    torch.testing.assert_close(found[2:3], features_of(images[2:3], extractor("classifier")))
    torch.testing.assert_close(features_of(images.double(), extractor("classifier")), found)
    assert not torch.allclose(found[0], found[1])
    assert not found.requires_grad
    # Something can be trained on them.
    torch.nn.Linear(128, 2)(found).sum().backward()


@pytest.mark.parametrize("shape", [(2, 3, 28, 28), (2, 1, 32, 32)])
def test_the_classifier_refuses_other_images(shape):
    with pytest.raises(
        ValueError, match=r"images of Fashion-MNIST, 1 × 28 × 28, but got .*choose pixels or inception"
    ):
        extractor("classifier")(torch.zeros(shape))


@pytest.mark.parametrize("features", [lambda x: x, lambda x: x.flatten(1)[:1]])
def test_features_of_another_shape_are_refused(features):
    with pytest.raises(ValueError, match=r"must turn 3 images into shape \(3, D\)"):
        features_of(torch.zeros(3, 1, 2, 2), features)


def test_unknown_features_are_refused():
    with pytest.raises(
        ValueError, match="unknown features 'clip'; choose one of 'pixels', 'classifier', 'incep"
    ):
        extractor("clip")


MODULE = "torch_fidelity.feature_extractor_inceptionv3"


class Inception(torch.nn.Module):
    """Stands for torch-fidelity's: it takes bytes of three channels, and gives a tuple."""

    def __init__(self, name, features_list):
        super().__init__()
        assert (name, features_list) == ("inception-v3-compat", ["2048"])

    def forward(self, x):
        assert x.dtype == torch.uint8
        assert x.shape[1] == 3
        return (x.float().mean((2, 3)).repeat(1, 2),)


def test_inception_gets_whole_grey_levels_in_three_channels(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", SimpleNamespace())
    monkeypatch.setitem(sys.modules, MODULE, SimpleNamespace(FeatureExtractorInceptionV3=Inception))
    found = features_of(torch.full((2, 1, 4, 4), 100.6 / 255), extractor("inception"))
    assert torch.equal(found, torch.full((2, 6), 101.0))


def test_inception_says_what_is_missing(monkeypatch):
    def unreachable(*_):
        raise OSError("no route to host")

    monkeypatch.setitem(sys.modules, "torch_fidelity", SimpleNamespace())
    monkeypatch.setitem(sys.modules, MODULE, SimpleNamespace(FeatureExtractorInceptionV3=unreachable))
    with pytest.raises(
        RuntimeError, match=r"Inception could not be fetched \(no route to host\); choose pixels"
    ):
        extractor("inception")
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.delitem(sys.modules, MODULE)
    with pytest.raises(
        RuntimeError, match="torch_fidelity is not installed; it comes with the extra `evaluation`"
    ):
        extractor("inception")


def test_fashion_classes_are_those_of_real_pictures():
    """At least 58 of the 64 test pictures of chapter 11, whose classes are known; the classifier knows 93 %."""
    found = fashion_classes(fashion_test_images())
    assert (found == torch.tensor([*map(int, CLASSES)])).sum() >= 58
    with pytest.raises(ValueError, match="1 × 28 × 28, but got 1 × 8 × 8"):
        fashion_classes(torch.zeros(2, 1, 8, 8))
