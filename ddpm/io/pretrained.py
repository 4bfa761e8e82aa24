"""Models on disk: the weights as safetensors, the arguments as JSON, never pickle."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ddpm.diffusion import GaussianDiffusion
from ddpm.io.checkpoint import CHECKSUMS, verify
from ddpm.io.files import json_bytes, read_json, read_tensors, tensor_bytes, write_whole
from ddpm.io.paths import CONFIG, EMA, MODEL, find_model
from ddpm.unet import Unet
from ddpm.weighting import weighting_from_config

Weights = Literal["ema", "model"]


def save_pretrained(
    diffusion: GaussianDiffusion, folder: str | os.PathLike[str], *, dtype: torch.dtype | None = None
) -> None:
    """Write a model that `load_pretrained` reads back; each of its files appears whole or not at all.

    They are `model.safetensors` and `config.json`, in a folder that is made if it does not exist. Floating-point
    weights are written in `dtype`, such as torch.float16 for a file of half the size; None leaves them in their own
    type. `load_pretrained` makes float32 of any.

    Raises:
        TypeError: if the network is not a `Unet`, whose arguments the configuration file records.
        ValueError: if `dtype` is not one of floating-point numbers, or a weight is too large for it.
    """
    if not isinstance(diffusion.network, Unet):
        raise TypeError(f"only a Unet can be saved, but the network is a {type(diffusion.network).__name__}")
    weights = tensor_bytes(_in_type(diffusion.network.state_dict(), dtype))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / MODEL, weights)
    write_whole(folder / CONFIG, json_bytes(model_config(diffusion)))


def _in_type(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> Mapping[str, Tensor]:
    """The tensors with those of floating-point numbers in another type; None leaves all as they are."""
    if dtype is None:
        return tensors
    if not dtype.is_floating_point:
        raise ValueError(f"weights need a floating-point type such as torch.float16, but got {dtype}")
    converted = {name: x.to(dtype) if x.is_floating_point() else x for name, x in tensors.items()}
    lost = [name for name, tensor in converted.items() if not tensor.isfinite().all()]
    if lost:
        names = ", ".join(lost[:3])
        raise ValueError(f"some weights are too large for {dtype}: {names}; keep their own type")
    return converted


def load_pretrained(name_or_folder: str | os.PathLike[str], *, weights: Weights = "ema") -> GaussianDiffusion:
    """A trained model, ready to sample, in evaluation mode on the CPU.

    Args:
        name_or_folder: the name of a model that ships with the project, such as "digits"; a folder written by
            `save_pretrained`; a checkpoint; or the folder of a run, of which the newest good checkpoint is taken.
        weights: of a checkpoint, which holds both: "ema", the averaged weights, or "model", the weights themselves.

    Raises:
        FileNotFoundError: if there is no such model; the message names those that ship.
        DamagedCheckpointError: if it is a checkpoint whose checksums do not hold.
        ValueError: if it was trained with a network other than `Unet`, or a loss weighting of its own.
    """
    folder = find_model(name_or_folder)
    if (folder / CHECKSUMS).is_file():
        verify(folder)
    diffusion = build_diffusion(read_json(folder / CONFIG))
    file = EMA if weights == "ema" and (folder / EMA).is_file() else MODEL
    diffusion.network.load_state_dict(read_tensors(folder / file))
    return diffusion.eval()


def model_config(diffusion: GaussianDiffusion) -> dict[str, Any]:
    """The arguments of a model and of its network, ready for JSON."""
    network = diffusion.network
    described = network.config if isinstance(network, Unet) else {"class": type(network).__qualname__}
    return {"network": described, "diffusion": diffusion.config}


def build_diffusion(config: Mapping[str, Any]) -> GaussianDiffusion:
    """A fresh model from what `model_config` gave, unless its network is no `Unet`, or its loss weighting its own."""
    if "class" in config["network"]:
        raise ValueError(
            f"the model was trained with a network of class {config['network']['class']}, which only your own program"
            " can build: build it there and use Trainer.load"
        )
    weighting = weighting_from_config(config["diffusion"].get("loss_weighting"))
    return GaussianDiffusion(
        Unet(**config["network"]), **{**config["diffusion"], "loss_weighting": weighting}
    )
