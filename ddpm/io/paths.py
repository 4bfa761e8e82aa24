"""Names against paths, and where models lie. Importing this does not import torch.

The rule, for models and for data, in Python and on the command line:

- What has a slash in it, such as "./digits" or "~/runs/a", and every `Path`, is a path and never a name.
- A word without one, such as "digits", may mean two things. Of **models**, a folder of that name that holds one, or a
  run, goes before the model that ships: it is the reader's own. Of **data**, the name of a data set goes before a
  folder: `run.json` keeps the word, which has to mean the same wherever the run is resumed.

What a word was taken for is said; where it means two things, a warning says how to write the other.
"""

import contextlib
import difflib
import mimetypes
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpm.io.checkpoint import CHECKPOINTS, CHECKSUMS, list_checkpoints, newest_good_folder, step_of
from ddpm.io.files import read_json
from ddpm.io.streams import as_typed
from ddpm.support.checks import check_choice

MODEL = "model.safetensors"
EMA = "ema.safetensors"
CONFIG = "config.json"
RUN = "run.json"
DIFFUSERS_INDEX = "model_index.json"
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
# The models that ship with the project: inside the package once it is installed, next to it in a checkout.
_SHIPPED = [Path(__file__).parents[1] / "pretrained", Path(__file__).parents[2] / "checkpoints"]


@dataclass(frozen=True)
class FoundModel:
    """A model that was asked for by a word.

    Attributes:
        folder: holds its `config.json` and its weights.
        said: what the word was taken for, such as "the run in ./digits, its checkpoint of step 2".
    """

    folder: Path
    said: str


def is_path(word: str | os.PathLike[str]) -> bool:
    """Whether this is a path, such as "./mnist", whatever has that name."""
    return not isinstance(word, str) or "/" in word or os.sep in word or word.startswith("~")


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with the home directory for "~", and for "~name" where there is such a user."""
    # `Path.expanduser` fails where there is none, although a folder may be called so.
    return Path(os.path.expanduser(path))  # noqa: PTH111


def canonical(name: str) -> str:
    """Lower case without punctuation: "fashionmnist" for "Fashion-MNIST"."""
    return "".join(character for character in name.lower() if character.isalnum())


def holds_run(folder: Path) -> bool:
    """Whether the folder is that of a run."""
    return (folder / RUN).is_file() or bool(list_checkpoints(folder))


# Endings of files, besides those of pictures, films and sounds, that people give where a folder is meant.
_ENDINGS = re.compile(
    r"\.(npy|npz|pt|pth|ckpt|bin|safetensors|onnx|gguf|pkl|h5|json|jsonl|yaml|yml|toml|txt|md|log|csv|html|pdf|ps|eps"
    r"|zip|tar|gz|tgz|7z|py|ipynb|png|gif|heic|heif|avif|jxl|webp|jfif|mp4|webm|mkv)"
)


def is_file_name(path: Path) -> bool:
    """Whether this is the name of a file, ".gif" by itself as well, and there is no folder of that name."""
    ending = (path.suffix or path.name).lower()
    kind = (mimetypes.guess_type(f"x{ending}", strict=False)[0] or "").partition("/")[0]
    return (
        not path.is_dir()
        and ending[:1] == "."
        and (_ENDINGS.fullmatch(ending) is not None or kind in ("image", "video", "audio"))
    )


def nearest_there(path: Path) -> Path:
    """The path itself, or the nearest folder around it that exists."""
    return next(near for near in (path, *path.absolute().parents) if os.path.exists(near))  # noqa: PTH110 (Path.exists raises where one may not look)


def check_folder_name(folder: str | os.PathLike[str], *, by: str = "") -> Path:
    """A folder that is to be written to; refused if it is empty, a file or the name of one; given `by` some option."""
    if os.fspath(folder) == "":
        raise ValueError("the name of the folder is empty, as an unset variable of a script would be")
    path = expanded(folder)
    nearest = nearest_there(path)
    if not nearest.is_dir():
        raise NotADirectoryError(f"{path} cannot be written, as {nearest} is a file; choose another{by}")
    if is_file_name(path):
        ending = path.suffix or path.name
        raise ValueError(
            f"{path} is the name of a file, and a folder is wanted: give one without the {ending}"
        )
    return path


def refuse_run(folder: Path) -> None:
    """Refuse to write a model into the folder of a run, of which it would take the place."""
    if holds_run(folder):
        raise FileExistsError(
            f"{folder} is the folder of a run, and a model in it would be taken for the run's; choose another"
        )


def refuse_model(folder: Path) -> None:
    """Refuse to begin a run in the folder of a model, which would be taken for the run's."""
    if (folder / MODEL).is_file() and (folder / CONFIG).is_file():
        raise FileExistsError(
            f"{folder} holds a model, which would be taken in place of the run's; choose another folder, or delete"
            f" {MODEL} and {CONFIG} there"
        )


def check_run(folder: Path) -> None:
    """Refuse what is not the folder of a run, with the runs that are near."""
    if holds_run(folder):
        return
    what = f"holds no {RUN}" if folder.is_dir() else "is not a folder"
    hint = (near := runs_near(folder)) and f" ({near})"
    if shipped_model(str(folder)) is not None:
        hint += f" (The model {folder} that ships is no run: ddpm sample, export and info take it.)"
    raise FileNotFoundError(
        f"{folder} {what}: give the folder of a run that `ddpm train` began, or a program's run with a checkpoint in"
        f" it{hint}"
    )


def runs_near(folder: Path) -> str:
    """For a message: the runs that may be meant by a folder that is none: around it, in it, of a like name, in runs."""
    beside = {path.parent.name: path.parent for path in folder.parent.glob(f"*/{RUN}")}
    near = [*folder.parents[:3], Path("runs", folder.name)]
    near += [beside[name] for name in difflib.get_close_matches(folder.name, beside)]
    near += sorted(path.parent for path in folder.glob(f"*/{RUN}"))
    there = dict.fromkeys(as_typed(path) for path in near if path != folder and holds_run(path))
    return f"did you mean {' or '.join(list(there)[:3])}?" if there else ""


def shipped_model(word: str | os.PathLike[str]) -> Path | None:
    """The folder of the model that ships under this name, in whatever spelling; None for a path or another word."""
    return None if is_path(word) else _shipped().get(canonical(os.fspath(word)))


def weights_file(folder: Path, weights: str) -> Path:
    """The file of these weights in the folder of a model; a model without its run has one, whichever is asked for."""
    averages = sorted(path.name.removesuffix(".safetensors") for path in folder.glob("ema-*.safetensors"))
    check_choice("weights", weights, ["ema", "model", *averages])
    file = folder / f"{weights}.safetensors"
    return file if file.is_file() else folder / MODEL


def shipped_weights(folder: str) -> Path:
    """The weights in a folder that ships, by its exact name; they may be of something else than a diffusion model."""
    return next(path for root in _SHIPPED if (path := root / folder / MODEL).is_file())


def find_model(name_or_folder: str | os.PathLike[str]) -> Path:
    """The folder of a model, by path or by the name of one that ships; of a run, its newest good checkpoint."""
    return locate_model(name_or_folder).folder


def locate_model(name_or_folder: str | os.PathLike[str]) -> FoundModel:
    """The model that a word means, by the rule above; a warning if it could mean two.

    Raises:
        FileNotFoundError: if there is none; the message says what is missing, and which models ship.
        DamagedCheckpointError: if it is a run without a whole checkpoint.
    """
    word, ships = os.fspath(name_or_folder), shipped_model(name_or_folder)
    folder = expanded(word)
    begun = any((folder / name).exists() for name in (MODEL, CONFIG, RUN, CHECKPOINTS))
    if ships is not None and not begun:
        return FoundModel(ships, f"the model {ships.name} that ships, in {ships}")
    found = _in_folder(folder, word)
    if ships is not None:
        warnings.warn(
            f"{word!r} is taken for {found.said}, before the model {ships.name} that ships, which is {ships}; write"
            f" {_dotted(word)} to say so",
            stacklevel=2,
        )
    return found


def _in_folder(folder: Path, word: str) -> FoundModel:
    """The model or the run in a folder."""
    there = {name for name in (CONFIG, MODEL) if word and (folder / name).is_file()}
    if len(there) == 2:
        kind = "checkpoint" if (folder / CHECKSUMS).is_file() else "model in"
        return FoundModel(folder, f"the {kind} {folder}")
    if word and list_checkpoints(folder):
        newest = newest_good_folder(folder)
        return FoundModel(newest, f"the run in {folder}, its checkpoint of step {step_of(newest)}")
    if not word or not folder.exists():
        what = "no such folder"
    elif not folder.is_dir():
        what = "a file"
    elif there:
        what = f"it holds {there.pop()} alone"
    else:
        what = "a run without a checkpoint yet" if (folder / RUN).is_file() else "it holds neither"
    what += _reader_of(folder, word)
    if word and (near := runs_near(folder)):
        what += f"; {near}"
    raise FileNotFoundError(
        f"no model at {word!r} ({what}): give a folder that holds {CONFIG} and {MODEL}, the"
        f" folder of a run, or one of the models that ship{_suggestion(folder.name)}: {', '.join(_names()) or 'none'}"
    )


def _reader_of(folder: Path, word: str) -> str:
    """For a message: what reads the model of diffusers that is there, or may have this name on the Hub."""
    if (folder / DIFFUSERS_INDEX).is_file():
        return "; load_diffusers_pipeline reads the model of diffusers there"
    weights = "diffusion_pytorch_model.*"
    if [*folder.glob(weights), *folder.glob(f"unet*/{weights}")]:
        return "; load_diffusers_unet reads the network of diffusers there"
    on_hub = HUB_NAME.fullmatch(word) and not folder.exists()
    return "; if it is a name on the Hugging Face Hub, load_diffusers_pipeline fetches it" if on_hub else ""


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of the model in a folder; a ValueError if it is none, or damaged."""
    try:
        config = read_json(folder / CONFIG)
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG} is damaged: {error}") from error
    check_parts(config, folder)
    return config


def check_parts(config: Any, folder: Path) -> None:
    """Refuse the configuration of another program's model."""
    if isinstance(config, dict) and all(
        isinstance(config.get(part), dict) for part in ("network", "diffusion")
    ):
        return
    theirs = isinstance(config, dict) and "_class_name" in config
    advice = (
        "it is one of diffusers: load_diffusers_unet reads networks in that layout"
        if theirs
        else "give a folder that save_pretrained or a training run has written"
    )
    raise ValueError(f"{folder / CONFIG} is not the configuration of a model of this package; {advice}")


@contextlib.contextmanager
def naming_config(folder: Path) -> Iterator[None]:
    """Meanwhile something is made of the configuration in a folder: an error has the name of that file."""
    try:
        yield
    except (TypeError, ValueError) as error:
        error.add_note(f"That is what {folder / CONFIG} says.")
        raise


def _suggestion(word: str) -> str:
    """For a message: the name of a model that ships and is close to this word."""
    close = difflib.get_close_matches(canonical(word), _shipped(), n=1)
    return f" (did you mean {_shipped()[close[0]].name}?)" if close else ""


def _names() -> list[str]:
    """The names of the models that ship."""
    return sorted(folder.name for folder in _shipped().values())


def _shipped() -> dict[str, Path]:
    """The folders of the models that ship, by their names in lower case without punctuation."""
    folders = [path.parent for root in reversed(_SHIPPED) for path in root.glob(f"*/{CONFIG}")]
    return {canonical(folder.name): folder for folder in folders if (folder / MODEL).is_file()}


def _dotted(word: str) -> str:
    """The word as a path."""
    return f".{os.sep}{word}"
