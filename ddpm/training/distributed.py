"""Many images from one model: in batches, and shared out over the processes of a distributed run."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env
from torch import Tensor

from ddpm.diffusion import GaussianDiffusion


def this_process() -> PartialState:
    """Which of the processes this is that `accelerate launch` or `torchrun` started, and its device.

    Without an accelerator several processes meet on the CPU, which accelerate does only when it is told to.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    meet_on_cpu = several and (not torch.accelerator.is_available() or torch.backends.mps.is_available())
    return PartialState(cpu=meet_on_cpu or parse_flag_from_env("ACCELERATE_USE_CPU"))


def draw_images(
    diffusion: GaussianDiffusion,
    seeds: Sequence[int],
    *,
    labels: Sequence[int] | None = None,
    batch_size: int = 64,
    rank: int = 0,
    world_size: int = 1,
    **options: Any,
) -> Tensor:
    """Draw one image per seed. Several processes that call this together share the work.

    Args:
        diffusion: the model.
        seeds: one per image; image i depends on seeds[i] (and labels[i]) alone, not on the batch or the processes.
        labels: the classes, one per image, for a model that takes them; None gives 0, 1, 2, … in turn.
        batch_size: images per network call, at least 1.
        rank: this process.
        world_size: number of processes.
        **options: passed on to `GaussianDiffusion.sample`, such as `sampling_timesteps` and `sampler`.

    Returns:
        The images in [0, 1], in the order of the seeds, shape (N, C, H, W), on the CPU, on every process.

    Raises:
        ValueError: if there are no seeds, or the labels are not as many, out of range or not for this model.
    """
    if len(seeds) == 0 or batch_size < 1:
        raise ValueError(
            f"at least one seed and a batch_size of at least 1 are needed, but got {len(seeds)} and {batch_size}"
        )
    labels = chosen_labels(diffusion, labels, len(seeds))
    mine = range(rank, len(seeds), world_size)
    drawn: list[tuple[int, Tensor]] = []
    for first in range(0, len(mine), batch_size):
        places = mine[first : first + batch_size]
        classes = None
        if labels is not None:
            classes = torch.tensor([labels[place] for place in places], device=diffusion.device)
        images = diffusion.sample(len(places), seeds=[seeds[i] for i in places], labels=classes, **options)
        drawn += zip(places, images.cpu(), strict=True)
    together = dict(gather_object(drawn) if world_size > 1 else drawn)
    return torch.stack([together[place] for place in range(len(seeds))])


def chosen_labels(
    diffusion: GaussianDiffusion, labels: Sequence[int] | None, count: int
) -> Sequence[int] | None:
    """The labels, or 0, 1, 2, … in turn for a model that takes some; on a GPU nothing later looks at their range."""
    classes = getattr(diffusion.network, "num_classes", None)
    if labels is None:
        return None if classes is None else [place % classes for place in range(count)]
    if classes is None:
        raise ValueError(
            "this model was trained without classes (num_classes), so it takes no label: leave it out"
        )
    wrong = [label for label in labels if not 0 <= label < classes]
    if wrong:
        raise ValueError(f"this model has the classes 0 … {classes - 1}, but got the label {wrong[0]}")
    if len(labels) != count:
        raise ValueError(f"one label per image is needed, {count} in all, but got {len(labels)}")
    return labels
