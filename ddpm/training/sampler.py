"""The order in which training sees the images, and the seeds of all that it draws: functions of the position alone.

Nothing here has a state that could be lost. Which images make up a batch, and every random number that goes with them,
follow from the seed and from how many images went before, so a resumed run sees what it would have seen.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from ddpm.data.batches import Batch

NOISE_BLOCK = 32  # neighbouring images whose noise is drawn together


class Purpose(IntEnum):
    """What a seed is for: two purposes never share one."""

    ORDER = 1
    LOADING = 2
    TIMESTEPS = 3
    NOISE = 4
    PROCESS = 5


def mixed_seed(purpose: Purpose, *numbers: int) -> int:
    """One seed from several numbers, far from those of neighbouring numbers and of other purposes."""
    return int(np.random.SeedSequence((purpose, *numbers)).generate_state(1, np.uint64)[0])


@dataclass(frozen=True)
class ShuffledBatches(Sampler[Batch]):
    """Batches for one process, without end: every image once before any image comes again.

    Attributes:
        size: images in the data set.
        batch_size: images per batch of one process; all processes together take `world_size` times as many in a row.
        start: how many images all processes together have had before.
        rank: this process.
    """

    size: int
    batch_size: int
    seed: int
    start: int = 0
    rank: int = 0
    world_size: int = 1

    def __iter__(self) -> Iterator[Batch]:
        """The batches from `start` on."""
        position = self.start + self.rank * self.batch_size
        while True:
            indices = tuple(self._index(position + k) for k in range(self.batch_size))
            yield Batch(indices, mixed_seed(Purpose.LOADING, self.seed, position))
            position += self.world_size * self.batch_size

    def _index(self, position: int) -> int:
        """The image at this position of the endless order."""
        epoch, place = divmod(position, self.size)
        return int(_permutation(self.size, self.seed, epoch)[place])


@lru_cache(maxsize=2)  # a batch may lie across the seam between two epochs
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    """The order of one epoch."""
    return np.random.default_rng(mixed_seed(Purpose.ORDER, seed, epoch)).permutation(size)


def noise_for(
    places: range, image_shape: tuple[int, ...], *seed: int, device: str | torch.device = "cpu"
) -> Tensor:
    """Standard normal noise for the images at some consecutive places of a batch, counted over all processes.

    It is drawn in blocks of `NOISE_BLOCK` images, each from a seed of its own, so that an image's noise does not depend
    on which process asks, and a process draws only the blocks in which its images lie. A generator for every image
    would take longer than the noise. `seed` are the numbers that tell this batch from others.
    """
    first, last = places[0] // NOISE_BLOCK, places[-1] // NOISE_BLOCK
    generator, shape = torch.Generator(device), (NOISE_BLOCK, *image_shape)
    seeds = [mixed_seed(Purpose.NOISE, *seed, block) for block in range(first, last + 1)]
    blocks = [torch.randn(shape, generator=generator.manual_seed(one), device=device) for one in seeds]
    skipped = places[0] - first * NOISE_BLOCK
    return torch.cat(blocks)[skipped : skipped + len(places)]
