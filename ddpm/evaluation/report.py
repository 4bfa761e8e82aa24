"""How good a trained model is: the distance of its samples from the data, copies, its bound in bits."""

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ddpm.data.looking import told
from ddpm.diffusion import GaussianDiffusion, to_model_scale
from ddpm.evaluation.features import DigitClassifier, Features, extractor, features_of
from ddpm.evaluation.metrics import frechet_distance, kernel_distance, nearest_distances, precision_recall
from ddpm.io.progress import Progress
from ddpm.likelihood import Estimate, vlb_terms
from ddpm.support.tensor_checks import check_images, check_within

_AT_A_TIME = 256  # images, for the bound


@dataclass(frozen=True)
class SampleReport:
    """Figures of one set of samples beside as many images, the reference.

    Attributes:
        distance: Fréchet distance between the features of the samples and of the reference.
        halves: the same between two random halves of the reference, which differ by chance alone.
        kernel_distance: kernel distance between the same features; None where torchmetrics is not installed.
        kernel_error: its standard error.
        precision: the part of the samples that lies among the reference, in features.
        recall: the part of the reference that lies among the samples.
        nearest_training: the smallest distance, in pixels, from a sample to a training image; near 0 means a copy.
        nearest_held_out: the smallest to one of as many held-out images, of which none was copied; None without any.
        nearest_ratio: mean distance to the nearest training image over that to the nearest held-out one. It is 1 for a
            model that learned the distribution, however good its samples are, and falls with every copy.
        recognised: part of the samples of which a `DigitClassifier` is sure; None for data other than the digits.
    """

    distance: float
    halves: float
    kernel_distance: float | None
    kernel_error: float | None
    precision: float
    recall: float
    nearest_training: float
    nearest_held_out: float | None
    nearest_ratio: float | None
    recognised: float | None


def first_images(dataset: Dataset[Any], count: int) -> tuple[Tensor, Tensor | None]:
    """The first `count` images of a data set, shape (count, C, H, W), and their labels if it has any."""
    return _images(dataset, range(count))


def random_images(dataset: Dataset[Any], count: int, *, seed: int = 0) -> tuple[Tensor, Tensor | None]:
    """So many images out of the whole data set, drawn by the seed, in the data set's order, and their labels.

    The first ones would not do: many data sets are sorted by class. Asked for as many as there are, or more, it gives
    all.
    """
    return _images(dataset, _drawn(dataset, count, seed))


def random_batches(dataset: Dataset[Any], count: int, *, seed: int = 0, size: int = 500) -> Iterator[Tensor]:
    """The same images by themselves, `size` at a time, so that they need not be held all at once."""
    indices = _drawn(dataset, count, seed)
    items = (dataset[index] for index in told(indices, len(indices), "reading images"))
    while batch := list(islice(items, size)):
        yield torch.stack([_unlabelled(item) for item in batch])


def _unlabelled(item: Any) -> Any:
    """Images alone, where labels may come with them."""
    return item[0] if isinstance(item, tuple | list) else item


def _drawn(dataset: Dataset[Any], count: int, seed: int) -> list[int]:
    size = len(dataset)  # pyright: ignore[reportArgumentType]
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed), device="cpu")
    return sorted(order[:count].tolist())


def _images(dataset: Dataset[Any], indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
    """These images, shape (N, C, H, W), and their labels if there are any."""
    items = [dataset[index] for index in told(indices, len(indices), "reading images")]
    images = torch.stack([_unlabelled(item) for item in items])
    # What comes with an image may be no class: the forty attributes of CelebA, boxes, a caption.
    if isinstance(items[0], tuple | list):
        with contextlib.suppress(TypeError, ValueError, RuntimeError, IndexError):
            return images, torch.tensor([int(item[1]) for item in items])
    return images, None


def report_on_samples(
    samples: Tensor,
    images: Tensor,
    training: Iterable[Tensor],
    held_out: Iterable[Tensor] | None = None,
    *,
    features: Features | None = None,
    classifier: DigitClassifier | None = None,
) -> SampleReport:
    """Compare samples with as many real images, both in [0, 1], shape (N, C, H, W), N at least 4.

    The samples are rounded to 256 grey levels first, as the images are. `training` and `held_out` are equally many
    images, in batches, such as those of a `DataLoader`, in which copies are looked for (eq:memorisation-ratio); of M
    out of N training images, a model that copies all alike is found out by M/N of its samples. `features` are the
    pixels for None. The more real images the `classifier` was trained on, the more samples it is sure of.
    """
    _check_pictures("samples", samples)
    _check_pictures("images", images)
    if samples.shape != images.shape or len(images) < 4:
        raise ValueError(
            "samples and images must be equally many, at least 4, and of one shape, but got"
            f" {tuple(samples.shape)} and {tuple(images.shape)}"
        )
    samples = samples.mul(255).round().div(255)
    ours, theirs = (features_of(x, features or extractor("pixels")) for x in (samples, images))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0), device="cpu")
    half = len(images) // 2
    precision, recall = precision_recall(ours, theirs)
    kernel = kernel_distance(ours, theirs) if find_spec("torchmetrics") else None
    nearest, nearest_held_out, ratio = _copies(samples, training, held_out)
    return SampleReport(
        distance=frechet_distance(ours, theirs),
        halves=frechet_distance(theirs[order[:half]], theirs[order[half : 2 * half]]),
        kernel_distance=None if kernel is None else float(kernel.mean),
        kernel_error=None if kernel is None else float(kernel.standard_error),
        precision=precision,
        recall=recall,
        nearest_training=nearest,
        nearest_held_out=nearest_held_out,
        nearest_ratio=ratio,
        recognised=None if classifier is None else classifier.fraction_recognised(samples),
    )


def _check_pictures(name: str, images: Any, shape: Sequence[int] | None = None) -> None:
    """Refuse what is no batch of images in [0, 1]."""
    check_images(name, images, shape)
    if not images.isfinite().all():
        raise ValueError(
            f"the {name} hold numbers that are not finite, so that nothing can be compared; a model that draws such"
            " samples has diverged, or its weights are damaged: take an earlier checkpoint"
        )
    # Also those of an accelerator, which has had to wait already.
    check_within(f"the {name}", images.cpu(), 0, 1, "ddpm.to_image_scale makes such of [-1, 1]")


def _copies(
    samples: Tensor, training: Iterable[Tensor], held_out: Iterable[Tensor] | None
) -> tuple[float, float | None, float | None]:
    """How near the samples come to training images, to held-out ones, and the ratio of the means."""
    near, count = _nearest(samples, "training images", training)
    if held_out is None:
        return float(near.min()), None, None
    beside, as_many = _nearest(samples, "held-out images", held_out)
    if count != as_many:
        raise ValueError(
            "training and held-out images must be equally many, as among more some lie nearer, but there are"
            f" {count} and {as_many}"
        )
    return float(near.min()), float(beside.min()), float(near.mean() / beside.mean())


def _nearest(samples: Tensor, name: str, batches: Iterable[Tensor]) -> tuple[Tensor, int]:
    """The distance from each sample to the nearest of all images, and how many these are."""
    # In float64, since torch.cdist loses half of the digits of a distance near 0.
    samples, count = samples.double(), 0
    nearest = samples.new_full((len(samples),), math.inf)
    for batch in map(_unlabelled, [batches] if isinstance(batches, Tensor) else batches):
        _check_pictures(name, batch, samples.shape[1:])
        nearest = torch.minimum(nearest, nearest_distances(samples, batch.double()))
        count += len(batch)
    return nearest, count


def compare(report_a: dict[str, Any], report_b: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The figures of two reports of `ddpm evaluate` side by side, by name.

    What was measured may differ: the model, its weights, how it was sampled. How it was measured may not.

    Raises:
        ValueError: if the settings differ; the message names those that do.
    """
    a, b = report_a["settings"], report_b["settings"]
    unequal = [f"{name} ({a.get(name)} and {b.get(name)})" for name in (a | b) if a.get(name) != b.get(name)]
    if unequal:
        raise ValueError(
            f"the two reports cannot be compared, since their settings differ: {', '.join(unequal)}; evaluate one"
            " of them again with the other's"
        )
    figures = [name for name in report_a | report_b if name not in ("model", "settings")]
    return {name: (report_a.get(name), report_b.get(name)) for name in figures}


def bits_per_dimension(
    diffusion: GaussianDiffusion,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    timesteps_per_image: int | None,
    seeds: Sequence[int] | None = None,
    progress: bool = False,
) -> Estimate:
    """The variational bound in bits per dimension (`ddpm.likelihood.vlb_terms`) on images in [0, 1], on the 256 greys.

    Of the timesteps all are taken for None, or for as many as there are. `seeds` are 0, 1, 2, … if not given. With
    `progress` it is shown how far this has come.
    """
    seeds, steps = range(len(images)) if seeds is None else seeds, diffusion.schedule.timesteps
    if timesteps_per_image is not None and timesteps_per_image >= steps - 1:
        timesteps_per_image = None
    options = {"timesteps_per_image": timesteps_per_image, "labels": labels, "seeds": seeds}
    calls = math.ceil(len(images) / _AT_A_TIME) * (1 + (timesteps_per_image or steps - 1))
    shown = Progress(calls, "network call", title="bound", shown=progress)
    counted = diffusion.network.register_forward_hook(lambda *_: shown.update())
    with contextlib.closing(shown), counted:
        bound = vlb_terms(diffusion, to_model_scale(images), batch_size=_AT_A_TIME, **options)
    return bound.bits_per_dim(bound.total)
