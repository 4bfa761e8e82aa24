"""Where models lie. Importing this does not import torch."""

import os
from pathlib import Path

from ddpm.io.checkpoint import list_checkpoints, newest_good_folder

MODEL = "model.safetensors"
EMA = "ema.safetensors"
CONFIG = "config.json"
# The models that ship with the project: inside the package once it is installed, next to it in a checkout.
_SHIPPED = [Path(__file__).parents[1] / "pretrained", Path(__file__).parents[2] / "checkpoints"]


def find_model(name_or_folder: str | os.PathLike[str]) -> Path:
    """The folder of a model, by path or by the name of one that ships; of a run, its newest good checkpoint."""
    for folder in [Path(name_or_folder), *(root / name_or_folder for root in _SHIPPED)]:
        if (folder / CONFIG).is_file() and (folder / MODEL).is_file():
            return folder
    if list_checkpoints(Path(name_or_folder)):
        return newest_good_folder(Path(name_or_folder))
    shipped = sorted({path.parent.name for root in _SHIPPED for path in root.glob(f"*/{CONFIG}")})
    raise FileNotFoundError(
        f"no model at {os.fspath(name_or_folder)!r}: give a folder that holds {CONFIG} and {MODEL}, the folder of a"
        f" run, or one of the models that ship: {', '.join(shipped) or 'none'}"
    )
