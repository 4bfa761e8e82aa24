"""What a run was made from, as its folder tells it, and how to go on with it. Importing this does not import torch."""

import contextlib
from pathlib import Path
from typing import Any

from ddpm.io import checkpoint as checkpoints
from ddpm.io.files import read_json
from ddpm.io.paths import RUN
from ddpm.io.streams import as_typed

_PARTS = ("data", "network", "diffusion", "training")
_BY_PROGRAM = "only the program that began it can go on with it: there, trainer.train(resume=True)"


def recipe(run: Path) -> dict[str, Any]:
    """The arguments of data, network, diffusion and training of a run that a program began, out of its checkpoint.

    Its images need not be where they were.

    Raises:
        FileNotFoundError: if the run has no checkpoint.
        ValueError: if a part of it can only be built by the program.
    """
    config = _newest_config(run)
    source, weighting = Path(str(config["data"].get("source"))), config["diffusion"].get("loss_weighting")
    if own := checkpoints.own_parts(config):
        raise ValueError(f"{run} was trained with {' and '.join(own)}, so {_BY_PROGRAM}")
    if isinstance(weighting, dict) and weighting.get("name") == "custom":
        raise ValueError(f"{run} has a loss weighting of its program's own, so {_BY_PROGRAM}")
    if not source.is_absolute() and not source.is_dir():
        raise ValueError(
            f"{run} was given a {source} by its program, not a folder of images, so {_BY_PROGRAM}; if `ddpm train`"
            f" began it, its {RUN} was lost: copy it there, too"
        )
    data = {"name_or_path": str(source.absolute()), "image_size": config["diffusion"].get("image_size")}
    data |= {"channels": config["network"].get("channels")}
    data |= {"augment_horizontal_flip": config["training"].get("augment_horizontal_flip")}
    return config | {"data": data}


def _newest_config(run: Path) -> dict[str, Any]:
    """The `config.json` of the newest checkpoint whose own can be read."""
    for folder in reversed(checkpoints.list_checkpoints(run)):
        with contextlib.suppress(OSError, ValueError):
            config = read_json(folder / "config.json")
            if isinstance(config, dict) and all(isinstance(config.get(part), dict) for part in _PARTS):
                return {part: config[part] for part in _PARTS}
    raise FileNotFoundError(f"{run} has no checkpoint whose config.json can be read")


def goes_on_by_command(run: Path) -> bool:
    """Whether `ddpm resume` finds all that it needs in the folder, but for the images, whose place it can be told."""
    if (run / RUN).is_file():
        return True
    try:
        return bool(recipe(run))
    except (OSError, ValueError):
        return False


def how_to_resume(run: Path) -> str:
    """What to type."""
    command = f", or `ddpm resume {as_typed(run)}`" if goes_on_by_command(run) else " in your program"
    return f"To resume the run: trainer.resume(){command}."
