"""How good a trained model is: the distance of its samples from the data, copies, its bound in bits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ddpm.data.looking import told
from ddpm.diffusion import GaussianDiffusion, to_model_scale
from ddpm.evaluation.metrics import frechet_distance, nearest_distances
from ddpm.likelihood import Estimate, vlb_terms

if TYPE_CHECKING:  # scikit-learn takes a second to import, and only digits need it
    from ddpm.evaluation.features import DigitClassifier


@dataclass(frozen=True)
class SampleReport:
    """Figures of one set of samples and one set of images of the same number.

    Attributes:
        images: how many of each.
        distance: Fréchet distance on raw pixels from the samples to the data.
        halves: the same between two random halves of the data, which differ by chance alone.
        nearest: median distance from a sample to its nearest image, over that between an image and its nearest other;
            far below 1 means copies.
        recognised: fraction of the samples of which a `DigitClassifier` is sure; None for data other than the digits.
    """

    images: int
    distance: float
    halves: float
    nearest: float
    recognised: float | None


def first_images(dataset: Dataset[Any], count: int) -> tuple[Tensor, Tensor | None]:
    """The first `count` images of a data set, shape (count, C, H, W), and their labels if it has any."""
    return _images(dataset, range(count))


def random_images(dataset: Dataset[Any], count: int, *, seed: int = 0) -> tuple[Tensor, Tensor | None]:
    """So many images out of the whole data set, drawn by the seed, in the data set's order, and their labels.

    The first ones would not do: many data sets are sorted by class. Asked for as many as there are, or more, it gives
    all.
    """
    size = len(dataset)  # pyright: ignore[reportArgumentType]
    drawn = torch.randperm(size, generator=torch.Generator().manual_seed(seed))[: min(count, size)]
    return _images(dataset, sorted(drawn.tolist()))


def _images(dataset: Dataset[Any], indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
    """These images, shape (N, C, H, W), and their labels if there are any."""
    items = [dataset[index] for index in told(indices, len(indices), "reading images")]
    if isinstance(items[0], tuple | list):
        return torch.stack([item[0] for item in items]), torch.tensor([int(item[1]) for item in items])
    return torch.stack(items), None


def report_on_samples(
    samples: Tensor, images: Tensor, classifier: "DigitClassifier | None" = None
) -> SampleReport:
    """Compare samples with as many real images, both in [0, 1], shape (N, C, H, W), N at least 4.

    The more real images the `classifier` was trained on, the more samples it is sure of.
    """
    if samples.shape != images.shape or len(images) < 4:
        raise ValueError(
            "samples and images must be equally many, at least 4, and of one shape, but got"
            f" {tuple(samples.shape)} and {tuple(images.shape)}"
        )
    for name, given in (("samples", samples), ("images", images)):
        if not given.isfinite().all():
            raise ValueError(
                f"the {name} hold numbers that are not finite, so that nothing can be compared; a model that draws such"
                " samples has diverged, or its weights are damaged: take an earlier checkpoint"
            )
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    half = len(images) // 2
    among = nearest_distances(images, images, leave_out_itself=True)
    return SampleReport(
        images=len(images),
        distance=frechet_distance(samples, images),
        halves=frechet_distance(images[order[:half]], images[order[half : 2 * half]]),
        nearest=float(nearest_distances(samples, images).median() / among.median()),
        recognised=None if classifier is None else classifier.fraction_recognised(samples),
    )


def bits_per_dimension(
    diffusion: GaussianDiffusion,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    timesteps_per_image: int | None,
    seeds: Sequence[int] | None = None,
) -> Estimate:
    """The variational bound in bits per dimension (`ddpm.likelihood.vlb_terms`) on images in [0, 1], on the 256 greys.

    Of the timesteps all are taken for None, or for as many as there are. `seeds` are 0, 1, 2, … if not given.
    """
    seeds = range(len(images)) if seeds is None else seeds
    if timesteps_per_image is not None and timesteps_per_image >= diffusion.schedule.timesteps - 1:
        timesteps_per_image = None
    bound = vlb_terms(
        diffusion, to_model_scale(images), timesteps_per_image=timesteps_per_image, labels=labels, seeds=seeds
    )
    return bound.bits_per_dim(bound.total)
