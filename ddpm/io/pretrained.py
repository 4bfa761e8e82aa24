"""Models on disk: the weights as safetensors, the arguments as JSON, never pickle."""

import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpm.diffusion import GaussianDiffusion
from ddpm.io.checkpoint import CHECKSUMS, own_parts, verify
from ddpm.io.files import json_bytes, tensor_bytes, write_all
from ddpm.io.paths import (
    CONFIG,
    MODEL,
    check_folder_name,
    check_parts,
    find_model,
    naming_config,
    refuse_run,
    weights_file,
)
from ddpm.io.weights import check_code, check_weights, load_weights, read_file, unwrapped, weights_of
from ddpm.latent import Autoencoder, LatentDiffusion
from ddpm.schedule import BETA_SCHEDULES
from ddpm.support.checks import check_choice, how_to_model
from ddpm.unet import Unet
from ddpm.weighting import weighting_from_config

_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Their `save_file` refuses the tensors of a `Unet`, whose channels are last in memory.
_BY_HAND = (
    "save the weights by safetensors.torch.save_model(model.network, file), and load them by"
    " safetensors.torch.load_model(model.network, file)"
)


def save_pretrained(
    diffusion: GaussianDiffusion,
    folder: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    checked_precisions: Sequence[str] = (),
) -> None:
    """Write a model that `load_pretrained` reads back; each of its files appears whole or not at all.

    They are `model.safetensors` and `config.json`, in a folder that is made if it does not exist. Floating-point
    weights are written in `dtype`, such as torch.float16 for a file of half the size; None leaves them in their own
    type. `load_pretrained` makes float32 of any. `checked_precisions`, "bf16" or "fp16", are those in which its samples
    were found as good: `ddpm sample` then draws in them where the machine is best at it.

    Raises:
        TypeError: if the network is not a `Unet`, whose arguments the configuration file records, or a class of your
            own stands where the file would say `Unet` or `GaussianDiffusion`.
        ValueError: if `dtype` is not one of floating-point numbers, or a weight is too large for it; or if weights,
            layers or schedule are not those that the configuration describes; or if `folder` is the name of a file.
        FileExistsError: if it is the folder of a run.
    """
    diffusion = plain_diffusion(diffusion, "save_pretrained")
    for precision in checked_precisions:
        check_choice("checked precision", precision, ["bf16", "fp16"])
    _check_saveable(diffusion)
    weights = tensor_bytes(_in_type(weights_of(diffusion.network), dtype))
    folder = check_folder_name(folder)
    refuse_run(folder)
    folder.mkdir(parents=True, exist_ok=True)
    checked = {"checked_precisions": list(checked_precisions)} if checked_precisions else {}
    write_all({folder / MODEL: weights, folder / CONFIG: json_bytes(model_config(diffusion) | checked)})


def plain_diffusion(diffusion: Any, taker: str) -> GaussianDiffusion:
    """The model itself, where it may be compiled; anything else the `taker` does not take, a TypeError says."""
    diffusion = unwrapped(diffusion)
    if not isinstance(diffusion, GaussianDiffusion):
        raise TypeError(
            f"{taker} takes a GaussianDiffusion, but got a {type(diffusion).__name__};"
            f" {how_to_model(diffusion, lambda held: isinstance(held, GaussianDiffusion))}"
        )
    return diffusion


def _check_saveable(diffusion: GaussianDiffusion) -> None:
    """Refuse a model of which the files would say something else than what it is."""
    network = unwrapped(diffusion.network)
    if not isinstance(network, Unet):
        raise TypeError(f"only a Unet can be saved, but the network is a {type(network).__name__}")
    latent = type(diffusion) is LatentDiffusion  # which can be built again, with its autoencoder
    for part, kind in ((network, Unet), (diffusion, LatentDiffusion if latent else GaussianDiffusion)):
        if type(part) is not kind:
            name = type(part).__name__
            raise TypeError(
                f"{name} is a subclass of {kind.__name__}, as which it would be loaded, without its own code;"
                f" {_BY_HAND}, once your program has built the {name}"
            )
    with torch.device("meta"):
        twin = Unet(**network.config)
    check_weights(
        weights_of(network),
        twin.state_dict(),
        "the network is no longer the Unet that it was built as",
    )
    check_code(network, f"; or {_BY_HAND}, once your program has built the network")
    if has_own_schedule(diffusion):
        raise ValueError(
            f"the model's schedule is not the {diffusion.beta_schedule!r} one that its configuration names, and with"
            f" which it would be loaded; {_BY_HAND}, once your program has built the model and given it its schedule"
        )


def has_own_schedule(diffusion: GaussianDiffusion) -> bool:
    """Whether a schedule was put in place of the one that the configuration names."""
    schedule = diffusion.schedule
    named = BETA_SCHEDULES[diffusion.beta_schedule](schedule.timesteps)
    return not torch.equal(torch.cumprod(1 - named, 0), schedule.exact_alpha_bar[1:])


def _in_type(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> Mapping[str, Tensor]:
    """The tensors with those of floating-point numbers in another type; None leaves all as they are."""
    if dtype is None:
        return tensors
    if dtype not in _TYPES:
        raise ValueError(
            f"weights need a floating-point type such as torch.float16, but got {dtype!r}; choose one of"
            f" {', '.join(map(str, _TYPES))}"
        )
    converted = {name: x.to(dtype) if x.is_floating_point() else x for name, x in tensors.items()}
    lost = [name for name, tensor in converted.items() if not tensor.isfinite().all()]
    if lost:
        names = ", ".join(lost[:3])
        raise ValueError(f"some weights are too large for {dtype}: {names}; keep their own type")
    return converted


def load_pretrained(
    name_or_folder: str | os.PathLike[str], *, weights: str = "ema", autoencoder: Autoencoder | None = None
) -> GaussianDiffusion:
    """A trained model, ready to sample, in evaluation mode on torch's default device.

    Args:
        name_or_folder: the name of a model that ships with the project, such as "digits"; a folder written by
            `save_pretrained`; a checkpoint; or the folder of a run, of which the newest good checkpoint is taken.
        weights: of a checkpoint, which holds both: "ema", the averaged weights, or "model", the weights themselves;
            or "ema-0.9999", the average of that decay, of a run with such `extra_ema_decays`.
        autoencoder: of a `LatentDiffusion`, the one that it was trained with, which no file of it holds; else None.

    Raises:
        FileNotFoundError: if there is no such model; the message names those that ship.
        DamagedCheckpointError: if it is a checkpoint whose checksums do not hold.
        ValueError: if it was trained with a network other than `Unet`, or a loss weighting of its own; if its
            autoencoder is not given; if a file is damaged, or another program's; or if a weight is not finite.
    """
    if not isinstance(name_or_folder, str | os.PathLike):
        raise TypeError(
            f"a model is loaded by its name or its folder, but got a {type(name_or_folder).__name__}; models that ship"
            " are loaded by names such as 'digits'"
        )
    folder = find_model(name_or_folder)
    if (folder / CHECKSUMS).is_file():
        verify(folder)
    file = weights_file(folder, weights)
    config = read_file(folder / CONFIG)
    _check_config(config, folder)
    # In float32 whatever torch's default type is.
    with naming_config(folder):
        diffusion = build_diffusion(config, autoencoder)
    diffusion.network.float()
    load_weights(
        diffusion.network, read_file(file), f"{file} does not hold the weights of the network in {CONFIG}"
    )
    return diffusion.eval()


def _check_config(config: Any, folder: Path) -> None:
    """Refuse a configuration that another program wrote, or a newer version of this one."""
    check_parts(config, folder)
    for part, kind in {"network": Unet, "diffusion": GaussianDiffusion}.items():
        unknown = config[part].keys() - inspect.signature(kind).parameters.keys() - {"class", "own_schedule"}
        if unknown and "class" not in config[part]:  # a class of the user's own has options of its own
            raise ValueError(
                f"{folder / CONFIG} gives {kind.__name__} the options {', '.join(sorted(unknown))}, which it does not"
                " have: was it written by a newer version of this package? Then install that one"
            )


def model_config(diffusion: GaussianDiffusion) -> dict[str, Any]:
    """The arguments of a model and of its network, ready for JSON.

    With the name of a `class` of the user's own where there is one, and with `own_schedule`, which only the user's
    program can build.
    """
    network = unwrapped(diffusion.network)
    described = dict(network.config) if isinstance(network, Unet) else {}
    if type(network) is not Unet:
        described["class"] = type(network).__qualname__
    own: dict[str, Any] = {}
    if type(diffusion) is not GaussianDiffusion:
        own["class"] = type(diffusion).__qualname__
    if has_own_schedule(diffusion):
        own["own_schedule"] = True
    return {"network": described, "diffusion": diffusion.config | own}


def build_diffusion(config: Mapping[str, Any], autoencoder: Autoencoder | None = None) -> GaussianDiffusion:
    """A fresh model from what `model_config` gave, unless a part of it is the user's own."""
    network, diffusion = config["network"], dict(config["diffusion"])
    latent = diffusion.get("class") == LatentDiffusion.__name__
    if latent != (autoencoder is not None):
        raise ValueError(
            "the model is a LatentDiffusion: give the autoencoder that it was trained with, as"
            " load_pretrained(…, autoencoder=…)"
            if latent
            else "autoencoder is for a LatentDiffusion, and this model is none: leave it out"
        )
    if latent:
        del diffusion["class"]
    if own := own_parts({"network": network, "diffusion": diffusion}):
        raise ValueError(
            f"the model was trained with {' and '.join(own)}, which only your own program can build: build it there and"
            " use Trainer.load"
        )
    diffusion["loss_weighting"] = weighting_from_config(diffusion.get("loss_weighting"))
    if autoencoder is None:
        return GaussianDiffusion(Unet(**network), **diffusion)
    scale = {name: torch.tensor(diffusion.pop(f"latent_{name}")) for name in ("mean", "deviation")}
    return LatentDiffusion(Unet(**network), autoencoder, **scale, **diffusion)


def take_weights(diffusion: GaussianDiffusion, name_or_folder: str | os.PathLike[str]) -> None:
    """Begin with the weights of a trained model, the averaged ones of a run, instead of fresh ones.

    The networks must be alike, but for a variance that only the new one learns, and classes that only it takes: the
    weights for these are fresh.

    Raises:
        ValueError: if the networks are not alike.
    """
    model = load_pretrained(name_or_folder)
    if model.channels != diffusion.channels:
        raise ValueError(
            f"{name_or_folder} draws images of {model.channels} channel(s), and those of the data have"
            f" {diffusion.channels}: give the data as many, in the command by --set data.channels={model.channels}"
        )
    theirs = weights_of(model.network)
    own = weights_of(diffusion.network)
    for name in ("last.weight", "last.bias"):
        there, more = theirs[name], own[name][len(theirs[name]) :]
        if diffusion.learned_variance and len(more) == len(there):
            theirs[name] = torch.cat([there, more])
    theirs = {name: x for name, x in own.items() if name.startswith("label_embedding.")} | theirs
    load_weights(
        diffusion.network,
        theirs,
        f"the network of {name_or_folder} is not the one that is to be trained: leave its options as they are there",
    )
