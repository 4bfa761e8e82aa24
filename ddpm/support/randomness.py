"""Where noise comes from: one source for a batch, or one for each of its images."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ddpm.support.checks import check_generator, check_seeds, check_whole

Generators = torch.Generator | Sequence[torch.Generator] | None


def image_generators(
    batch_size: int, generator: torch.Generator | None = None, seeds: Sequence[int] | None = None
) -> Generators:
    """The source of noise for a batch: `generator` as it is, or one CPU generator per image from `seeds`.

    With one generator per image, image i depends on seeds[i] alone: neither on the batch around it nor on the device.
    """
    batch_size = check_whole("batch_size", batch_size)
    check_generator(generator)
    if seeds is None:
        return generator
    if generator is not None:
        raise ValueError("give either `generator` (one for the batch) or `seeds` (one per image), not both")
    return [torch.Generator().manual_seed(seed) for seed in check_seeds(seeds, batch_size)]


def image_streams(
    count: int, generator: torch.Generator | None, seeds: Sequence[int] | None
) -> list[torch.Generator]:
    """One generator per image in any case: from `seeds`, or seeded in turn by `generator`."""
    if seeds is None:
        seeds = randint(0, 2**62, count, generator, torch.device("cpu")).tolist()
        generator = None
    streams = image_generators(count, generator, seeds)
    assert isinstance(streams, list)
    return streams


def randn(
    shape: tuple[int, ...],
    generator: Generators,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal noise of `shape` and `dtype` on `device`, from one generator or from one per image.

    It is drawn in float32, so that a seed means the same noise in every type; only where `dtype` and torch's own
    default are both float64 is it drawn in that, as `torch.randn` does there.
    """
    double = dtype == torch.get_default_dtype() == torch.float64
    drawn_in = torch.float64 if double else torch.float32
    if isinstance(generator, Sequence):
        if len(generator) != shape[0]:
            raise ValueError(
                f"{shape[0]} images need one generator each (or a single one), but got {len(generator)}"
            )
        images = [
            torch.randn(shape[1:], generator=one, device=one.device, dtype=drawn_in) for one in generator
        ]
        return torch.stack(images).to(device, dtype)
    # Drawn where the generator lives, so that one seed means the same noise on every device.
    where = device if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=where, dtype=drawn_in).to(device, dtype)


def randn_like(x: Tensor, generator: Generators) -> Tensor:
    """Standard normal noise shaped like `x`, in its type and on its device."""
    return randn(tuple(x.shape), generator, x.device, x.dtype)


def randint(
    low: int, high: int, count: int, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """`count` whole numbers, uniform in low … high − 1, on `device`."""
    where = device if generator is None else generator.device
    return torch.randint(low, high, (count,), generator=generator, device=where).to(device)


def rand(count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """`count` numbers in float32, uniform in [0, 1), on `device`."""
    where = device if generator is None else generator.device
    return torch.rand(count, generator=generator, device=where, dtype=torch.float32).to(device)
