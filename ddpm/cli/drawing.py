"""Images drawn for the command line: by all processes together, and on the disk as soon as they are drawn."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ddpm.cli.report import counted, show
from ddpm.diffusion import GaussianDiffusion
from ddpm.io.progress import Progress
from ddpm.io.streams import is_terminal
from ddpm.training.distributed import draw_images, drawn_batches, this_process
from ddpm.training.signals import Interrupts

NOTICE = "\nStopping after these images, with all that were drawn so far. Once more stops at once."


def draw(diffusion: GaussianDiffusion, seeds: Sequence[int], **options: Any) -> Tensor | None:
    """One image per seed, drawn by all processes together; None on all but the first."""
    state = this_process()
    options |= {"rank": state.process_index, "world_size": state.num_processes}
    options["progress"] = state.is_main_process and is_terminal(sys.stderr)
    drawn = draw_images(diffusion.to(state.device), seeds, **options)
    return drawn if state.is_main_process else None


def draw_into(out: Path, diffusion: GaussianDiffusion, seeds: range, **options: Any) -> None:
    """One image per seed, as one picture for a name that ends in .png, else as PNGs in a folder, each once it is drawn.

    A signal ends it after the images that are being drawn; what was drawn so far stays, and for a picture is written.
    """
    state = this_process()
    single = out.suffix.lower() != ".png"
    kept: list[tuple[int, Tensor]] = []  # of a picture that is still to be put together, as bytes
    done = 0
    many = len(seeds) > options["batch_size"] * state.num_processes
    options |= {"rank": state.process_index, "world_size": state.num_processes}
    # Of one batch the steps are counted, of many the images.
    options["progress"] = state.is_main_process and not many and is_terminal(sys.stderr)
    progress = Progress(len(seeds), "image", shown=many and state.is_main_process)
    with Interrupts(NOTICE) as interrupts:
        for places, images in drawn_batches(diffusion.to(state.device), seeds, **options):
            for place, image in zip(places, _as_bytes(images), strict=True):
                if single:
                    _write(image, out / f"{seeds[place]:06d}.png")
                else:
                    kept.append((place, image))
            done += len(places)
            progress.update(min(len(places) * state.num_processes, len(seeds) - progress.done))
            if interrupts.received is not None:
                break
        progress.close()
    if interrupts.received is None and state.num_processes > 1:
        kept, done = _of_all(kept, done)
    if state.is_main_process:
        if kept:
            pictures = [image for _, image in sorted(kept, key=lambda pair: pair[0])]
            _write(_side_by_side(pictures), out)
        show(f"{counted(done, 'image')} in {out}{_what_is_left(done, seeds, state.num_processes)}")
    interrupts.deliver()


def _of_all(kept: list[tuple[int, Tensor]], done: int) -> tuple[list[tuple[int, Tensor]], int]:
    """What all processes together have drawn, once all have."""
    from accelerate.utils import gather_object

    return gather_object(kept), sum(gather_object([done]))


def _what_is_left(done: int, seeds: range, processes: int) -> str:
    """How to draw the rest, where one process drew the first so many."""
    if done >= len(seeds):
        return ""
    rest = f", with --seed {seeds[done]} -n {len(seeds) - done}" if processes == 1 else ""
    return f"; {len(seeds) - done:,} are still to be drawn{rest}"


def _as_bytes(images: Tensor) -> Tensor:
    """From [0, 1] to whole grey levels, as torchvision's save_image rounds them."""
    return images.mul(255).add(0.5).clamp(0, 255).to(torch.uint8)


def _side_by_side(pictures: list[Tensor]) -> Tensor:
    """A square of pictures of shape (C, H, W), row by row with a pixel of white around each; one picture as it is.

    What torchvision's `make_grid` makes of them, but to import torchvision takes longer than many a picture.
    """
    if len(pictures) == 1:
        return pictures[0]
    columns, (channels, height, width) = math.ceil(math.sqrt(len(pictures))), pictures[0].shape
    blank = torch.full((channels, height, width), 255, dtype=torch.uint8)
    rows = torch.stack(pictures + [blank] * (-len(pictures) % columns)).unflatten(0, (-1, columns))
    framed = torch.nn.functional.pad(rows, (0, 1, 0, 1), value=255).permute(2, 0, 3, 1, 4)
    return torch.nn.functional.pad(framed.flatten(3).flatten(1, 2), (1, 0, 1, 0), value=255)


def _write(image: Tensor, path: Path) -> None:
    """Write a PNG, with three channels where it has one, that is there whole or not at all."""
    pixels = image.expand(3, -1, -1) if len(image) == 1 else image
    unfinished = path.with_name(f".{path.name}.part")
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(unfinished, format="PNG")
    unfinished.replace(path)
