"""The order in which training sees the images, and the seeds of all that it draws: functions of the position alone.

Nothing here has a state that could be lost. Which images make up a batch, and every random number that goes with them,
follow from the seed and from how many images went before, so a resumed run sees what it would have seen.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from ddpm.data.batches import Batch

NOISE_BLOCK = 128  # images whose noise is drawn together


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
            yield Batch(self._indices(position), mixed_seed(Purpose.LOADING, self.seed, position))
            position += self.world_size * self.batch_size

    def _indices(self, position: int) -> tuple[int, ...]:
        """The images of the batch that begins there; it may go on into the next epoch."""
        indices: list[int] = []
        while len(indices) < self.batch_size:
            epoch, place = divmod(position + len(indices), self.size)
            rest = _permutation(self.size, self.seed, epoch)[place:]
            indices += rest[: self.batch_size - len(indices)].tolist()
        return tuple(indices)


@lru_cache(maxsize=2)  # a batch may lie across the seam between two epochs
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    """The order of one epoch."""
    return np.random.default_rng(mixed_seed(Purpose.ORDER, seed, epoch)).permutation(size)


def noise_for(
    mine: range,
    everyone: int,
    image_shape: tuple[int, ...],
    seed: int,
    step: int,
    number: int,
    device: Any = "cpu",
) -> Tensor:
    """Standard normal noise for some of the images that all processes together have in a step's batch of this number.

    It is drawn in blocks of at most `NOISE_BLOCK` images, each from a seed of its own, and a process draws only the
    blocks in which its images lie. So an image's noise does not depend on how many processes there are, and a process
    draws little more than its own; a generator for every image would take longer than the noise.
    """
    of_batch = -(-everyone // NOISE_BLOCK)  # the blocks of all batches of a step are numbered through
    generator, blocks = torch.Generator(device), []
    for block in range(mine[0] // NOISE_BLOCK, mine[-1] // NOISE_BLOCK + 1):
        generator.manual_seed(mixed_seed(Purpose.NOISE, seed, step, number * of_batch + block))
        shape = (min(NOISE_BLOCK, everyone - block * NOISE_BLOCK), *image_shape)
        blocks.append(torch.randn(shape, generator=generator, device=device, dtype=torch.float32))
    skipped = mine[0] % NOISE_BLOCK
    return torch.cat(blocks)[skipped : skipped + len(mine)]
