"""What the command line refuses before torch is imported and work starts, apart from the options of a run."""

import mimetypes
import os
from pathlib import Path

from ddpm.data.names import check_name_or_folder, is_path
from ddpm.io.checkpoint import list_checkpoints, step_of
from ddpm.io.paths import MODEL, holds_run
from ddpm.io.streams import as_typed
from ddpm.training.recipe import goes_on_by_command


def check_data(source: str) -> None:
    """Refuse what is neither a folder nor the name of a data set; the message has names that are close."""
    if is_path(source) and not Path(source).is_dir():
        what = "is a file" if Path(source).exists() else "does not exist"
        raise NotADirectoryError(f"{source} {what}; give the path of a folder that holds images")
    check_name_or_folder(source)


def check_export(out: Path) -> None:
    """Refuse to write a model where one lies, or into the folder of a run, of which it would take the place."""
    if (out / MODEL).exists():
        raise FileExistsError(f"{out} already holds a model; choose another folder, or delete that one")
    if holds_run(out):
        raise FileExistsError(
            f"{out} is the folder of a run, and a model in it would be taken for the run's; choose another"
        )
    check_writable(out)


def check_folder(folder: Path, source: str) -> None:
    """Refuse a folder that holds a run, cannot be written, or lies among the images, which would then hold samples."""
    there = list_checkpoints(folder)
    if there:
        how = f"resume it with `ddpm resume {as_typed(folder)}`, or by --resume"
        if not goes_on_by_command(folder):
            how = "only the program that began it can go on with it, by trainer.train(resume=True)"
        raise FileExistsError(
            f"{folder} already holds a run, up to step {step_of(there[-1])}: {how}; or choose another folder by --out"
        )
    check_writable(folder)
    if Path(source).is_absolute() and folder.resolve().is_relative_to(Path(source).resolve()):
        raise ValueError(
            f"{folder} lies within the data, {source}, so that the run's samples would be taken for images of it;"
            " choose another folder by --out"
        )


def prepare_output(out: Path) -> None:
    """Make the folder that images will go to; refuse the name of any file but a PNG's, and what cannot be written."""
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
    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)


# Endings of files, besides those of pictures, films and sounds, that people give where a folder is meant.
_ENDINGS = {
    *(
        ".npy",
        ".npz",
        ".pt",
        ".pth",
        ".ckpt",
        ".bin",
        ".safetensors",
        ".onnx",
        ".gguf",
        ".pkl",
        ".h5",
        ".json",
    ),
    *(
        ".jsonl",
        ".yaml",
        ".yml",
        ".toml",
        ".txt",
        ".md",
        ".log",
        ".csv",
        ".html",
        ".pdf",
        ".ps",
        ".eps",
        ".zip",
    ),
    *(
        ".tar",
        ".gz",
        ".tgz",
        ".7z",
        ".py",
        ".ipynb",
        ".png",
        ".gif",
        ".heic",
        ".heif",
        ".avif",
        ".jxl",
        ".webp",
    ),
    *(".jfif", ".mp4", ".webm", ".mkv"),
}


def is_file_name(path: Path) -> bool:
    """Whether this is the name of a file, ".gif" by itself as well, and there is no folder of that name."""
    ending = (path.suffix or path.name).lower()
    kind = (mimetypes.guess_type(f"x{ending}", strict=False)[0] or "").partition("/")[0]
    return (
        not path.is_dir()
        and ending[:1] == "."
        and (ending in _ENDINGS or kind in ("image", "video", "audio"))
    )


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to, or has the name of a file."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(
            f"{folder} cannot be written, as {nearest} is a file; choose another by --out"
        )
    if is_file_name(folder):
        ending = folder.suffix or folder.name
        raise ValueError(
            f"{folder} is the name of a file, and a folder is wanted: give one without the {ending}"
        )
    if not os.access(nearest, os.W_OK):
        raise PermissionError(f"you may not write to {nearest}; choose another folder by --out")
