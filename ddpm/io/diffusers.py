r"""Published weights: networks in diffusers' layout (a `UNet2DModel`) into our `Unet`, and back.

The networks of the DDPM paper for CIFAR-10, CelebA-HQ and LSUN are published in that layout. They are the `Unet` of
this package under other names, with one difference: published weights count noise levels from 0, the paper and
everything here from 1. What they call t−1 is our t, and this file is the only one to know.

No wrapper is needed for it. The noise level enters through sines and cosines of t at frequencies f, and by the addition
theorems a shift of t by one rotates each pair by the angle f:

    sin f(t−1) = cos f · sin ft − sin f · cos ft
    cos f(t−1) = sin f · sin ft + cos f · cos ft

The first thing that happens to these numbers is a linear layer, so the layer can take the rotation over. With weights a
on the sine and b on the cosine,

    a sin f(t−1) + b cos f(t−1) = (a cos f + b sin f) sin ft + (b cos f − a sin f) cos ft,

so that (a, b) rotated by f are weights that see t and do what the published ones do at t−1. The way out rotates by −f.
A rotation is its own inverse transpose, so gradients are rotated as weights are, and training further in one layout or
the other is the same.

In exact arithmetic the two networks are equal. In float32 they agree as far as their angles do: an angle at t = 1000 is
rounded by up to 5 · 10⁻⁵ in either of them, in different ways, which no conversion of weights can undo.
"""

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpm.io.diffusers_config import diffusers_config, unet_arguments
from ddpm.io.files import json_bytes, tensor_bytes, write_all
from ddpm.io.paths import CONFIG, HUB_NAME, check_folder_name, expanded
from ddpm.io.weights import check_finite_weights, check_weights, plain_name, read_file, unwrapped, weights_of
from ddpm.support.checks import shown
from ddpm.unet import SinusoidalEmbedding, Stage, Unet

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_VARIANTS = "diffusion_pytorch_model.*.safetensors"
_PICKLE = "diffusion_pytorch_model.bin"
# A folder of a network alone, one of a run of diffusers' script, and one of a whole pipeline.
_PLACES = ("", "unet_ema", "unet")
_NOT_THESE = "these weights are not those of a network with this configuration"
_SEES_T = "time_embedding.1.weight"  # the weight that the rotation is about
# Modules of a stage -> theirs; queries, keys and values are computed in one go here.
_STAGE = {
    "block.norm1": ["resnets.{}.norm1"],
    "block.conv1": ["resnets.{}.conv1"],
    "block.time": ["resnets.{}.time_emb_proj"],
    "block.norm2": ["resnets.{}.norm2"],
    "block.conv2": ["resnets.{}.conv2"],
    "block.shortcut": ["resnets.{}.conv_shortcut"],
    "attention.norm": ["attentions.{}.group_norm"],
    "attention.qkv": ["attentions.{}.to_q", "attentions.{}.to_k", "attentions.{}.to_v"],
    "attention.out": ["attentions.{}.to_out.0"],
}
# Attention in files from before the summer of 2023: the names then, and those of today.
_OLD_NAME = re.compile(r"(attentions\.\d+)\.(query|key|value|proj_attn)\.")
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


# In and out


def load_diffusers_unet(
    path_or_state_dict: str | os.PathLike[str] | Mapping[str, Tensor], config: Mapping[str, Any] | None = None
) -> Unet:
    """A `Unet` with published weights, in evaluation mode on the CPU, in float32.

    The paper's network for CIFAR-10, ready to sample:

        GaussianDiffusion(load_diffusers_unet("google/ddpm-cifar10-32"), image_size=32, beta_schedule="linear")

    It takes our noise levels t = 1 … T, where the published network takes t−1. With twice as many channels in the
    output as in the input it is one with `learned_variance`.

    Args:
        path_or_state_dict: a folder that holds `config.json` and `diffusion_pytorch_model.safetensors`, by itself or in
            a subfolder `unet`, or `unet_ema`, the average of a run, which is preferred with a warning; or, where there
            is no such folder, a name on the Hugging Face Hub, from which these two files are fetched; or the tensors
            themselves, by their names in a `UNet2DModel`, today's or those of 2023.
        config: what diffusers' `config.json` says; needed with tensors. With a folder or a name it replaces the file.
            An option that it does not name has the default of `UNet2DModel`. Published ones do not name `dropout`,
            so a network to be trained further has none unless you add it.

    Raises:
        FileNotFoundError: if there is no such folder, nothing of that name on the Hub, no network to reach it, or only
            a pickle, which is not read.
        TypeError: if there are tensors without a configuration, or either is something else.
        ValueError: if the configuration is of a network that `Unet` is not, with everything that is wrong; if the
            weights are not those of the configuration; or if a file is damaged.
    """
    if isinstance(path_or_state_dict, Mapping):
        tensors = path_or_state_dict
    else:
        names = [CONFIG, _WEIGHTS] if config is None else [_WEIGHTS]
        *config_file, weights_file = find_files(path_or_state_dict, names)
        config = read_file(config_file[0]) if config is None else config
        tensors = read_file(weights_file)
    if not isinstance(config, Mapping):
        raise TypeError(f"config must be a mapping, as diffusers' config.json is, but got {config!r}")
    # In float32 whatever torch's default type is.
    unet = Unet(**unet_arguments(config)).float()
    unet.load_state_dict(_to_our_names(tensors, unet))
    return unet.eval()


def to_diffusers(unet: Unet) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights and the configuration of the `UNet2DModel` that does at t−1 what `unet` does at t.

    The tensors are on the CPU and independent of the network's, and the configuration is ready for JSON;
    `UNet2DModel.from_config(config)` takes the tensors with `load_state_dict`.

    Raises:
        TypeError: if it is not a `Unet`.
        ValueError: if it was built with an option that their layout does not have, or a weight is not finite.
    """
    unet = unwrapped(unet)
    config = diffusers_config(unet)
    check_finite_weights(weights := weights_of(unet))
    return to_their_names(weights, unet), config


def save_diffusers_unet(
    unet: Unet, folder: str | os.PathLike[str], *, sample_size: int | Sequence[int] | None = None
) -> None:
    """Write a folder that `diffusers.UNet2DModel.from_pretrained` and `load_diffusers_unet` read.

    It is made if it does not exist; each of its files appears whole or not at all. `sample_size` is the side of the
    images in pixels, or height and width, which a `Unet` does not know. Errors are those of `to_diffusers`.
    """
    tensors, config = to_diffusers(unet)
    config["sample_size"] = sample_size
    folder = check_folder_name(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_all({folder / _WEIGHTS: tensor_bytes(tensors), folder / CONFIG: json_bytes(config)})


# Weights


def rotate(weight: Tensor, angles: Tensor) -> Tensor:
    """Rotate weights on sines and cosines: those that see f(t−1) become those that see ft.

    They are of shape (features, dim), columns for the sines first, and come back in float64 on the CPU. The `angles`
    are f, shape (dim/2,), in float64; −f rotates the other way.
    """
    on_sine, on_cosine = weight.detach().cpu().double().chunk(2, dim=1)
    sine, cosine = angles.sin(), angles.cos()
    return torch.cat([on_sine * cosine + on_cosine * sine, on_cosine * cosine - on_sine * sine], dim=1)


def _frequencies(unet: Unet) -> Tensor:
    """The frequencies that the network's embedding multiplies t by, rounded as they are there, in float64."""
    return SinusoidalEmbedding(unet.config["dim"]).frequencies.double()


def to_their_names(tensors: Mapping[str, Tensor], unet: Unet) -> dict[str, Tensor]:
    """Tensors of `unet` (its weights, their gradients) -> those of a `UNet2DModel`, copied to the CPU."""
    rotated = rotate(tensors[_SEES_T], -_frequencies(unet)).to(tensors[_SEES_T].dtype)
    names = _their_modules(unet)
    theirs = {}
    for name, tensor in {**tensors, _SEES_T: rotated}.items():
        module, _, kind = name.rpartition(".")
        parts = tensor.detach().cpu().chunk(len(names[module]))
        theirs |= {f"{other}.{kind}": part.clone() for other, part in zip(names[module], parts, strict=True)}
    return theirs


def _to_our_names(tensors: Mapping[str, Tensor], unet: Unet) -> dict[str, Tensor]:
    """Published tensors -> tensors for `unet`, once they are all there and of the right shapes."""
    tensors = _with_new_names(tensors)
    check_weights(tensors, to_their_names(unet.state_dict(), unet), _NOT_THESE)
    names = _their_modules(unet)
    ours = {}
    for name in unet.state_dict():
        module, _, kind = name.rpartition(".")
        ours[name] = torch.cat([tensors[f"{other}.{kind}"] for other in names[module]])
    return ours | {_SEES_T: rotate(ours[_SEES_T], _frequencies(unet))}


def _their_modules(unet: Unet) -> dict[str, list[str]]:
    """Our modules -> theirs. Ours are numbered in the order in which they run, theirs by resolution and within it."""
    names = {
        "first": ["conv_in"],
        "time_embedding.1": ["time_embedding.linear_1"],
        "time_embedding.3": ["time_embedding.linear_2"],
        "label_embedding": ["class_embedding"],
        "last_norm": ["conv_norm_out"],
        "last": ["conv_out"],
    }
    stages = {f"middle.{number}": ("mid_block", number) for number in (0, 1)}
    for side, layers in (("down", unet.down), ("up", unet.up)):
        resolution = number = 0
        for index, layer in enumerate(layers):
            theirs = f"{side}_blocks.{resolution}"
            if isinstance(layer, Stage):
                stages[f"{side}.{index}"] = (theirs, number)
                number += 1
            else:
                names[f"{side}.{index}.conv"] = [f"{theirs}.{side}samplers.0.conv"]
                resolution, number = resolution + 1, 0
    for ours, (theirs, number) in stages.items():
        for module, others in _STAGE.items():
            names[f"{ours}.{module}"] = [f"{theirs}.{other.format(number)}" for other in others]
    return names


def _with_new_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the names that diffusers gives attention today, with matrices for 1×1 convolutions."""
    renamed = {}
    for name, tensor in ((plain_name(str(name)), tensor) for name, tensor in tensors.items()):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"the weights must be tensors, but {name!r} is a {type(tensor).__name__}")
        new = _OLD_NAME.sub(lambda match: f"{match[1]}.{_OLD_NAMES[match[2]]}.", name)
        is_convolution = ".attentions." in name and tensor.ndim > 2 and tensor.shape[2:].numel() == 1
        renamed[name if new in tensors else new] = tensor.flatten(1) if is_convolution else tensor
    return renamed


# Files


def find_files(
    source: str | os.PathLike[str], names: Sequence[str], places: Sequence[str] = _PLACES
) -> list[Path]:
    """Where the files of a network lie: in a folder, or fetched from the Hub where there is no such folder.

    They are all in one of the `places`, "" for the folder itself and others for its subfolders.
    """
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            "a network is loaded from a folder, a name on the Hugging Face Hub or a mapping of tensors, but got"
            f" {shown(source)}"
        )
    folder, wanted = expanded(source), " and ".join(names)
    if folder.is_dir():
        pickled = any((folder / place / _PICKLE).is_file() for place in places)
        return _in_folder(folder, names, places, f"the folder {folder}", pickled=pickled)
    if folder.exists():
        raise FileNotFoundError(f"{folder} is a file; give the folder that holds {wanted}")
    if not (isinstance(source, str) and HUB_NAME.fullmatch(source)):
        raise FileNotFoundError(
            f"there is no folder {os.fspath(source)!r}; give a folder that holds {wanted}, or a name on the Hugging"
            " Face Hub, such as 'google/ddpm-cifar10-32'"
        )
    import huggingface_hub

    patterns = [f"{place}/{name}".lstrip("/") for place in places for name in names]
    try:
        fetched = huggingface_hub.snapshot_download(source, allow_patterns=patterns)
    except (OSError, huggingface_hub.utils.HFValidationError) as error:
        raise FileNotFoundError(
            f"there is no folder {source!r}, and nothing of that name could be fetched from the Hugging Face Hub"
            f" ({type(error).__name__}). Check the name and the network; on a computer without one, give the path of a"
            f" folder with {wanted} that you downloaded elsewhere, from https://huggingface.co/{source}"
        ) from error
    return _in_folder(Path(fetched), names, places, f"{source!r} on the Hub", pickled=_WEIGHTS in names)


def _in_folder(
    folder: Path, names: Sequence[str], places: Sequence[str], where: str, *, pickled: bool
) -> list[Path]:
    """The files of a network in a folder, or in one of its subfolders."""
    found = [[folder / place / name for name in names] for place in places]
    found = [files for files in found if all(file.is_file() for file in files)]
    if len(found) > 1 and found[0][0].parent.name == _PLACES[1]:
        warnings.warn(
            f"{where} holds two networks; the average, in {_PLACES[1]}, is taken: for the weights themselves give the"
            f" subfolder {_PLACES[2]}",
            stacklevel=4,
        )
    if found:
        return found[0]
    advice = ""
    if pickled:
        advice = (
            f"; a file {_PICKLE} is a pickle, which can run any code as it is opened, and is not read. If you trust it,"
            " convert it with diffusers: UNet2DModel.from_pretrained(there).save_pretrained(here)"
        )
    if variants := [file for place in places for file in (folder / place).glob(_VARIANTS)]:
        advice = f"; {variants[0]} is a variant of the weights, which is read once it is called {_WEIGHTS}"
    wanted = " and ".join(names)
    raise FileNotFoundError(
        f"{where} does not hold {wanted}, neither itself nor in a subfolder"
        f" {' or '.join(repr(place) for place in places if place)}{advice}"
    )
