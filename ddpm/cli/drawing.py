"""Images drawn for the command line: by all processes together, and on the disk as soon as they are drawn."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddpm.cli.report import counted, show
from ddpm.diffusion import GaussianDiffusion
from ddpm.io.files import json_bytes, naming_file, sha256, tensor_bytes, unfinished_file
from ddpm.io.progress import Progress
from ddpm.io.streams import is_terminal
from ddpm.sampler_choice import sampler_name
from ddpm.training.config import MixedPrecision
from ddpm.training.distributed import chosen_labels, drawn_batches, this_process
from ddpm.training.signals import Interrupts

NOTICE = "\nStopping after these images, with all that were drawn so far. Once more stops at once."


def drawn_by(
    diffusion: GaussianDiffusion,
    sampling_timesteps: int | None,
    precision: MixedPrecision = "no",
    **options: Any,
) -> dict[str, Any]:
    """How `GaussianDiffusion.sample` draws images with these options; what the sampler does not take is None.

    Raises:
        ValueError: if it draws none with them.
    """
    walk = diffusion.chosen_sampler(sampling_timesteps, **options)
    name, taken = sampler_name(walk), walk.keywords
    steps = taken.get("steps", diffusion.schedule.timesteps)
    calls = 2 * steps - 1 if name == "heun" else steps
    how = {"sampler": name, "network_calls": calls, "spacing": taken.get("spacing"), "eta": taken.get("eta")}
    # Images drawn in float32 keep the folder that they had before there was a choice.
    return how if precision == "no" else {**how, "mixed_precision": precision}


def draw_kept(
    samples: Path,
    diffusion: GaussianDiffusion,
    seeds: range,
    labels: Sequence[int] | None,
    *,
    batch_size: int,
    **options: Any,
) -> Tensor | None:
    """One image per seed, as `draw_into` leaves it in a folder within `samples`; what is there already is not drawn.

    The folder is named after all that an image depends on but its seed. The images come in [0, 1], rounded to whole
    grey levels, shape (N, C, H, W), on the CPU of the first process; None on the others.

    Raises:
        KeyboardInterrupt: if it was cut short by a signal that the program ignores otherwise.
    """
    state = this_process()
    diffusion.to(state.device)
    labels = chosen_labels(diffusion, labels, len(seeds))
    how = drawn_by(diffusion, **options)
    made_of = json_bytes([diffusion.config, how, labels and [seeds.start, *labels]])
    folder = samples / sha256(made_of + tensor_bytes(diffusion.state_dict()))[:16]
    left = _missing(folder, seeds)
    state.wait_for_everyone()  # all have looked before one of them draws
    if len(left) < len(seeds):
        show(f"{counted(len(seeds) - len(left), 'image')} in {folder}, drawn before")
    if left:
        folder.mkdir(parents=True, exist_ok=True)
        options |= {"batch_size": batch_size, "labels": labels and [labels[place] for place in left]}
        draw_into(folder, diffusion, [seeds[place] for place in left], rest="by the same command", **options)
    if not state.is_main_process:
        return None
    if _missing(folder, seeds):
        raise KeyboardInterrupt
    return torch.stack([_read(_single(folder, seed), diffusion.channels) for seed in seeds])


def _missing(folder: Path, seeds: Sequence[int]) -> list[int]:
    """The places of the seeds whose images are not in the folder."""
    return [place for place, seed in enumerate(seeds) if not _single(folder, seed).exists()]


def draw_into(
    out: Path, diffusion: GaussianDiffusion, seeds: Sequence[int], *, rest: str | None = None, **options: Any
) -> None:
    """One image per seed, as one picture for a name that ends in .png, else as PNGs in a folder, each once it is drawn.

    A signal ends it after the images that are being drawn; what was drawn so far stays, and for a picture is written.
    It is said how the `rest` is drawn: from the next seed on, if that is None.
    """
    state = this_process()
    single = out.suffix.lower() != ".png"
    kept: list[tuple[int, Tensor]] = []  # of a picture that is still to be put together, as bytes
    done = 0
    many = len(seeds) > options["batch_size"] * state.num_processes
    options |= {"rank": state.process_index, "world_size": state.num_processes}
    options["labels"] = options.get("labels") or _in_turn(diffusion, seeds)
    # Of one batch the steps are counted, of many the images.
    options["progress"] = state.is_main_process and not many and is_terminal(sys.stderr)
    progress = Progress(len(seeds), "image", shown=many and state.is_main_process)
    with Interrupts(NOTICE) as interrupts:
        for places, images in drawn_batches(diffusion.to(state.device), seeds, **options):
            for place, image in zip(places, _as_bytes(images), strict=True):
                if single:
                    _write(image, _single(out, seeds[place]))
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
        show(
            f"{counted(done, 'image')} in {out}{_what_is_left(done, seeds, state.num_processes, rest, single=single)}"
        )
    interrupts.deliver()


def _in_turn(diffusion: GaussianDiffusion, seeds: Sequence[int]) -> list[int] | None:
    """All classes in turn, by the seeds: so the image of a seed is the same wherever drawing begins."""
    classes = getattr(diffusion.network, "num_classes", None)
    return None if classes is None else [seed % classes for seed in seeds]


def _of_all(kept: list[tuple[int, Tensor]], done: int) -> tuple[list[tuple[int, Tensor]], int]:
    """What all processes together have drawn, once all have."""
    from accelerate.utils import gather_object

    return gather_object(kept), sum(gather_object([done]))


def _what_is_left(done: int, seeds: Sequence[int], processes: int, rest: str | None, *, single: bool) -> str:
    """How to draw the rest, which is known where one process drew the first so many."""
    left = len(seeds) - done
    if not left:
        return ""
    if rest is None and processes == 1:
        rest = f"with --seed {seeds[done]} -n {left}{'' if single else ', into another picture'}"
    return f"; {left:,} {'is' if left == 1 else 'are'} still to be drawn" + (f", {rest}" if rest else "")


def _as_bytes(images: Tensor) -> Tensor:
    """From [0, 1] to whole grey levels, as torchvision's save_image rounds them."""
    return images.mul(255).add(0.5).clamp(0, 255).to(torch.uint8)


def _single(folder: Path, seed: int) -> Path:
    """Where a folder has the image of a seed."""
    return folder / f"{seed:06d}.png"


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
    with naming_file(path), unfinished_file(path) as unfinished:
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(unfinished, format="PNG")


def _read(path: Path, channels: int) -> Tensor:
    """What `_write` wrote, in [0, 1] and with the channels that it had."""
    with Image.open(path) as image:
        pixels = torch.from_numpy(np.array(image))
    return pixels[..., :channels].permute(2, 0, 1).float() / 255
