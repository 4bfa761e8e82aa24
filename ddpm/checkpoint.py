"""Trained models on disk: weights as safetensors, everything else as JSON, never pickle."""

import json
import os
from pathlib import Path

from safetensors.torch import load_model, save

from ddpm.diffusion import GaussianDiffusion
from ddpm.unet import Unet

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
# Where the models that ship with the project lie: beside the package in a checkout, inside it once it is installed.
SHIPPED = [Path(__file__).parent / "pretrained", Path(__file__).parents[1] / "checkpoints"]


def save_pretrained(diffusion: GaussianDiffusion, folder: str | os.PathLike[str]) -> None:
    """Write a model that `load_pretrained` reads back.

    Each file is written under another name, synced and then renamed, so that a folder never holds half a model.

    Args:
        diffusion: the model; its network must be a `Unet`.
        folder: where to write `model.safetensors` and `config.json`; made if it does not exist.

    Raises:
        TypeError: if the network is not a `Unet`, whose arguments the configuration file records.
    """
    if not isinstance(diffusion.network, Unet):
        raise TypeError(f"only a Unet can be saved, but the network is a {type(diffusion.network).__name__}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"network": diffusion.network.config, "diffusion": diffusion.config}
    unfinished = folder / f".{WEIGHTS}.part"
    weights = {name: tensor.contiguous() for name, tensor in diffusion.network.state_dict().items()}
    unfinished.write_bytes(save(weights))
    replace_synced(unfinished, folder / WEIGHTS)
    unfinished = folder / f".{CONFIG}.part"
    unfinished.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    replace_synced(unfinished, folder / CONFIG)


def load_pretrained(name_or_folder: str | os.PathLike[str]) -> GaussianDiffusion:
    """A trained model, ready to sample, in evaluation mode on the CPU.

    Args:
        name_or_folder: the name of a model that ships with the project, such as "digits", or a folder written by
            `save_pretrained`.

    Returns:
        The model.

    Raises:
        FileNotFoundError: if there is no such model; the message names those that ship.
    """
    folder = find_model(name_or_folder)
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    network = Unet(**config["network"])
    load_model(network, folder / WEIGHTS)
    return GaussianDiffusion(network, **config["diffusion"]).eval()


def find_model(name_or_folder: str | os.PathLike[str]) -> Path:
    """The folder of a model, by path or by the name of one that ships."""
    for folder in [Path(name_or_folder), *(root / name_or_folder for root in SHIPPED)]:
        if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
            return folder
    shipped = sorted({path.parent.name for root in SHIPPED for path in root.glob(f"*/{CONFIG}")})
    raise FileNotFoundError(
        f"no model at {os.fspath(name_or_folder)!r}: give a folder that holds {CONFIG} and {WEIGHTS}, or one of the"
        f" models that ship: {', '.join(shipped) or 'none'}"
    )


def replace_synced(unfinished: Path, finished: Path) -> None:
    """Move a file into place once its bytes are on the disk."""
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.replace(finished)
