"""A trained model judged: how far its samples lie from the data, whether it copied, what its bound is in bits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ddpm.diffusion import GaussianDiffusion, to_model_scale
from ddpm.evaluation.metrics import DigitClassifier, frechet_distance
from ddpm.likelihood import Estimate, vlb_terms


@dataclass(frozen=True)
class SampleReport:
    """Figures of one set of samples beside one set of images of the same number.

    Attributes:
        images: how many of each.
        distance: Fréchet distance on raw pixels from the samples to the data.
        halves: the same between two random halves of the data, which differ by chance alone.
        nearest: median distance from a sample to its nearest image, over that between an image and its nearest other;
            far below 1 means copies.
        recognised: share of samples of which `DigitClassifier` is sure; None for data other than the digits.
    """

    images: int
    distance: float
    halves: float
    nearest: float
    recognised: float | None


def first_images(dataset: Dataset[Any], count: int) -> tuple[Tensor, Tensor | None]:
    """The first `count` images of a data set, shape (count, C, H, W), and their labels if it has any."""
    items = [dataset[index] for index in range(count)]
    if isinstance(items[0], tuple | list):
        return torch.stack([item[0] for item in items]), torch.tensor([int(item[1]) for item in items])
    return torch.stack(items), None


def report_on_samples(samples: Tensor, images: Tensor, judge: DigitClassifier | None = None) -> SampleReport:
    """Hold samples against real images.

    Args:
        samples: shape (N, C, H, W), in [0, 1].
        images: real images, of the same shape, N at least 4.
        judge: of digits, if these are some; the more real images it was trained on, the more samples it is sure of.

    Returns:
        The figures.

    Raises:
        ValueError: if the numbers differ, or are below 4.
    """
    if samples.shape != images.shape or len(images) < 4:
        raise ValueError(
            "samples and images must be equally many, at least 4, and of one shape, but got"
            f" {tuple(samples.shape)} and {tuple(images.shape)}"
        )
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    half = len(images) // 2
    among = nearest_distances(images, images, leave_out_itself=True)
    return SampleReport(
        images=len(images),
        distance=frechet_distance(samples, images),
        halves=frechet_distance(images[order[:half]], images[order[half : 2 * half]]),
        nearest=float(nearest_distances(samples, images).median() / among.median()),
        recognised=None if judge is None else judge.fraction_recognised(samples),
    )


def nearest_distances(
    queries: Tensor, images: Tensor, *, leave_out_itself: bool = False, chunk: int = 256
) -> Tensor:
    """Euclidean distance from each query to its nearest image, shape (N,)."""
    flat, nearest = images.flatten(1), []
    for first in range(0, len(queries), chunk):
        gaps = torch.cdist(queries[first : first + chunk].flatten(1), flat)
        if leave_out_itself:
            rows = torch.arange(len(gaps))
            gaps[rows, first + rows] = math.inf
        nearest.append(gaps.amin(1))
    return torch.cat(nearest)


def bits_per_dimension(
    diffusion: GaussianDiffusion,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    levels: int | None,
    seeds: Sequence[int] | None = None,
) -> Estimate:
    """The variational bound on images, in bits per dimension (`ddpm.likelihood.vlb_terms`).

    Args:
        diffusion: the model.
        images: in [0, 1] on 8-bit levels, shape (N, C, H, W).
        labels: their classes, shape (N,), for a model that takes them.
        levels: how many noise levels to draw for each image; None, or as many as there are, takes them all.
        seeds: one per image; None means 0, 1, 2, …

    Returns:
        The mean over the images and its standard error.
    """
    seeds = range(len(images)) if seeds is None else seeds
    levels = None if levels is None or levels >= diffusion.schedule.timesteps - 1 else levels
    bound = vlb_terms(
        diffusion, to_model_scale(images), timesteps_per_image=levels, labels=labels, seeds=seeds
    )
    return bound.bits_per_dim(bound.total)
