"""The classifier against held-out digits and noise."""

import torch

from ddpm.data import digits
from ddpm.evaluation.features import DigitClassifier


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
