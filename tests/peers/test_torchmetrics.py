"""The Fréchet distance beside that of torchmetrics, on features of our own."""

import pytest
import torch

from ddpm.data import digits
from ddpm.evaluation.metrics import Moments, frechet_distance

REASON = "torchmetrics is not installed; it comes with the extra `evaluation`: pip install -e '.[evaluation]'"
torchmetrics_fid = pytest.importorskip("torchmetrics.image.fid", reason=REASON)


class Features(torch.nn.Module):
    """The first pixels of an image, squared and mixed."""

    def __init__(self, dimensions):
        super().__init__()
        self.num_features = dimensions
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("mix", torch.randn(64, dimensions, generator=generator, dtype=torch.float64))

    def forward(self, images):
        return images.flatten(1).double().square() @ self.mix


@pytest.mark.parametrize("dimensions", [2, 10, 50])
def test_frechet_distance_is_that_of_torchmetrics(dimensions):
    features, (images, _) = Features(dimensions), digits().tensors
    sets = images[:900], images[900:]
    theirs = torchmetrics_fid.FrechetInceptionDistance(features).set_dtype(torch.float64)
    for place, images in enumerate(sets):
        for batch in images.split(100):
            theirs.update(batch, real=bool(place))
    ours = frechet_distance(*(Moments(map(features, images.split(70))) for images in sets))
    assert ours == pytest.approx(float(theirs.compute()), rel=1e-6)
    assert ours == pytest.approx(frechet_distance(*map(features, sets)), rel=1e-9)
