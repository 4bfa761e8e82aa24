"""What the command line refuses before torch is imported and work starts, apart from the options of a run."""

import os
from pathlib import Path

from ddpm.io.checkpoint import list_checkpoints, step_of
from ddpm.io.files import read_json
from ddpm.io.paths import (
    CONFIG,
    MODEL,
    check_folder_name,
    is_file_name,
    nearest_there,
    refuse_model,
    refuse_run,
)
from ddpm.io.streams import as_typed
from ddpm.training.recipe import goes_on_by_command


def check_export(out: Path) -> None:
    """Refuse to write a model where one lies, or into the folder of a run, of which it would take the place."""
    if (out / MODEL).exists():
        raise FileExistsError(f"{out} already holds a model; choose another folder, or delete that one")
    if (out / CONFIG).exists():
        raise FileExistsError(
            f"{out} already holds a {CONFIG}, which would be written over; choose another folder"
        )
    refuse_run(out)
    check_writable(out, by="")


def check_folder(folder: Path, source: str, *, go_on: bool = False) -> None:
    """Refuse a folder that cannot be written, or holds a run, unless to `go_on` with it; a new one among the images."""
    there = list_checkpoints(folder)
    if there and not go_on:
        how = f"resume it with `ddpm resume {as_typed(folder)}`, or by --resume"
        if not goes_on_by_command(folder):
            how = "only the program that began it can go on with it, by trainer.train(resume=True)"
        raise FileExistsError(
            f"{folder} already holds a run, up to step {step_of(there[-1])}: {how}; or choose another folder by --out"
        )
    check_writable(folder)
    if not there:
        refuse_model(folder)
    if not there and Path(source).is_absolute():
        check_apart(folder, Path(source))


def check_apart(out: Path, images: Path) -> None:
    """Refuse to write samples among the images that a model learns from."""
    if out.resolve().is_relative_to(images.resolve()):
        raise ValueError(
            f"{out} lies within the data, {images}, so that samples would be taken for images of it; choose another"
            " place by --out"
        )


def prepare_output(out: Path, images: Path | None = None) -> None:
    """Make the folder that samples will go to, of a model that learned from `images` if these are known.

    The name of any file but a PNG's is refused, and a place that cannot be written or is among the images.
    """
    is_png = out.suffix.lower() == ".png"
    if out.name.lower() == ".png":
        raise ValueError(f"--out {out} has no name before its ending: give one such as samples.png")
    if not is_png and is_file_name(out):
        raise ValueError(f"--out {out} must end in .png, or be a folder for single PNGs")
    if is_png and out.is_dir():
        raise IsADirectoryError(
            f"--out {out} is a folder: give the name of a file in it, or a folder without .png"
        )
    folder = out.parent if is_png else out
    if images is not None:
        check_apart(folder, images)
    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)


def checked_precisions(folder: Path) -> list[str]:
    """In which precisions a model's samples were found as good as in float32, by the configuration in its folder."""
    config = read_json(folder / CONFIG)
    named = config.get("checked_precisions", []) if isinstance(config, dict) else []
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []


def check_writable(folder: Path, *, by: str = " by --out") -> None:
    """Refuse a folder that cannot be made or written to, or has the name of a file; another is given `by` an option."""
    nearest = nearest_there(check_folder_name(folder, by=by))
    if not os.access(nearest, os.W_OK):
        raise PermissionError(f"you may not write to {nearest}; choose another folder{by}")
