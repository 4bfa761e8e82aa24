"""Many images from one model: in batches, and shared out over the processes of a distributed run."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from ddpm.diffusion import GaussianDiffusion


def generate(
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
    """
    classes = getattr(diffusion.network, "num_classes", None)
    if classes is not None and labels is None:
        labels = [place % classes for place in range(len(seeds))]
    mine = range(rank, len(seeds), world_size)
    drawn: list[tuple[int, Tensor]] = []
    for first in range(0, len(mine), batch_size):
        places = mine[first : first + batch_size]
        chosen = (
            None if labels is None else torch.tensor([labels[i] for i in places], device=diffusion.device)
        )
        images = diffusion.sample(len(places), seeds=[seeds[i] for i in places], labels=chosen, **options)
        drawn += zip(places, images.cpu(), strict=True)
    together = dict(gather_object(drawn) if world_size > 1 else drawn)
    return torch.stack([together[place] for place in range(len(seeds))])
