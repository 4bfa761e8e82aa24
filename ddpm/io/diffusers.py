r"""Published weights: networks in diffusers' layout (a `UNet2DModel`) into our `Unet`, and back.

The networks of the DDPM paper for CIFAR-10, CelebA-HQ and LSUN are published in that layout. They are the `Unet` of
this package under other names, with one difference: published weights count noise levels from 0, the paper and
everything here from 1. What they call t−1 is our t, and this file is the only one to know.

No wrapper is needed for it. The levels enter through sines and cosines of t at frequencies f, and by the addition
theorems a shift of t by one turns each pair by the angle f:

    sin f(t−1) = cos f · sin ft − sin f · cos ft
    cos f(t−1) = sin f · sin ft + cos f · cos ft

The first thing that happens to these numbers is a linear layer, so the layer can take the rotation over. With weights a
on the sine and b on the cosine,

    a sin f(t−1) + b cos f(t−1) = (a cos f + b sin f) sin ft + (b cos f − a sin f) cos ft,

so that (a, b) turned by f are weights that see t and do what the published ones do at t−1. The way out turns them by
−f. A rotation is its own inverse transpose, so gradients are turned as weights are, and training further in one layout
or the other is the same.

In exact arithmetic the two networks are equal. In float32 they agree as far as their angles do: an angle at level 1000
is rounded by up to 5 · 10⁻⁵ in either of them, in different ways, which no conversion of weights can undo.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.utils import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ddpm.io.diffusers_config import diffusers_config, unet_arguments
from ddpm.io.files import json_bytes, tensor_bytes, write_whole
from ddpm.io.paths import CONFIG
from ddpm.unet import Downsample, SinusoidalEmbedding, Stage, Unet

WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLE = "diffusion_pytorch_model.bin"
PLACES = ("", "unet")  # a folder of a network alone, and one of a whole pipeline
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


# Our modules -> theirs, within a residual block and within an attention block.
RESIDUAL_NAMES = {
    "norm1": "norm1",
    "conv1": "conv1",
    "time": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "shortcut": "conv_shortcut",
}
ATTENTION_NAMES = {"norm": ("group_norm",), "qkv": ("to_q", "to_k", "to_v"), "out": ("to_out.0",)}
SEES_THE_LEVEL = "time_embedding.1.weight"  # the weight that the rotation is about
# Attention in files from before the summer of 2023: the names then, and those of today.
OLD_NAME = re.compile(r"(attentions\.\d+)\.(query|key|value|proj_attn)\.")
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


# In and out


def load_diffusers_unet(
    path_or_state_dict: str | os.PathLike[str] | Mapping[str, Tensor], config: Mapping[str, Any] | None = None
) -> Unet:
    """A `Unet` with published weights, in evaluation mode on the CPU, in float32.

    The paper's network for CIFAR-10, ready to sample:

        GaussianDiffusion(load_diffusers_unet("google/ddpm-cifar10-32"), image_size=32, beta_schedule="linear")

    It takes our levels t = 1 … T, where the published network takes t−1 (see the top of this file).

    Args:
        path_or_state_dict: a folder that holds `config.json` and `diffusion_pytorch_model.safetensors`, by itself or in
            a subfolder `unet`; or, where there is no such folder, a name on the Hugging Face Hub such as
            "google/ddpm-cifar10-32", of which these two files are fetched; or the tensors themselves, by their names in
            a `UNet2DModel`. Those that diffusers used until 2023 (`query`, `proj_attn`) are known, too.
        config: what diffusers' `config.json` says; needed with tensors. With a folder or a name it replaces the file.
            An option that it does not name has the default of `UNet2DModel`. Published ones do not name `dropout`,
            so a network to be trained further has none unless you add it.

    Returns:
        The network. With twice as many channels in the output as in the input it is one with `learned_variance`, of
        which a configuration says nothing else.

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
        names = [WEIGHTS] if config is not None else [CONFIG, WEIGHTS]
        *config_file, weights_file = find_files(path_or_state_dict, names)
        config = read_config(config_file[0]) if config is None else config
        tensors = read_tensors(weights_file)
    if not isinstance(config, Mapping):
        raise TypeError(f"config must be a mapping, as diffusers' config.json is, but got {config!r}")
    unet = Unet(**unet_arguments(config))
    unet.load_state_dict(to_our_names(tensors, unet))
    return unet.eval()


def to_diffusers(unet: Unet) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights and the configuration of the `UNet2DModel` that does at t−1 what `unet` does at t.

    Args:
        unet: the network.

    Returns:
        The tensors, on the CPU and independent of the network's, and the configuration, ready for JSON.
        `UNet2DModel.from_config(config)` takes the tensors with `load_state_dict`.

    Raises:
        TypeError: if it is no `Unet`.
        ValueError: if it was built with an option that their layout does not have.
    """
    config = diffusers_config(unet)
    return to_their_names(unet.state_dict(), unet), config


def save_diffusers_unet(unet: Unet, folder: str | os.PathLike[str]) -> None:
    """Write a folder that `diffusers.UNet2DModel.from_pretrained` and `load_diffusers_unet` read.

    Each file is written under another name, synced and then renamed, so that a folder never holds half a file.

    Args:
        unet: the network.
        folder: where to write `diffusion_pytorch_model.safetensors` and `config.json`; made if it does not exist.

    Raises:
        TypeError: if it is no `Unet`.
        ValueError: if it was built with an option that their layout does not have.
    """
    tensors, config = to_diffusers(unet)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / WEIGHTS, tensor_bytes(tensors))
    write_whole(folder / CONFIG, json_bytes(config))


# Weights


def turn(weight: Tensor, angles: Tensor) -> Tensor:
    """Turn weights on sines and cosines: those that see f(t−1) become those that see ft, in float64.

    Args:
        weight: shape (features, dim), columns for the sines first.
        angles: f, shape (dim/2,), in float64; −f turns the other way.

    Returns:
        Tensor of shape (features, dim) in float64, on the CPU.
    """
    on_sine, on_cosine = weight.detach().cpu().double().chunk(2, dim=1)
    sine, cosine = angles.sin(), angles.cos()
    return torch.cat([on_sine * cosine + on_cosine * sine, on_cosine * cosine - on_sine * sine], dim=1)


def frequencies_of(unet: Unet) -> Tensor:
    """The frequencies that the network's embedding multiplies t by, rounded as they are there, in float64."""
    return SinusoidalEmbedding(unet.config["dim"]).frequencies.double()


def to_our_names(tensors: Mapping[str, Tensor], unet: Unet) -> dict[str, Tensor]:
    """Published tensors -> tensors for `unet`, once they are all there and of the right shapes."""
    tensors = with_new_names(tensors)
    check_tensors(tensors, expected=to_their_names(unet.state_dict(), unet))
    names = their_modules(unet)
    ours = {}
    for name in unet.state_dict():
        module, _, kind = name.rpartition(".")
        ours[name] = torch.cat([tensors[f"{theirs}.{kind}"] for theirs in names[module]])
    ours[SEES_THE_LEVEL] = turn(ours[SEES_THE_LEVEL], frequencies_of(unet))
    return ours


def to_their_names(tensors: Mapping[str, Tensor], unet: Unet) -> dict[str, Tensor]:
    """Tensors of `unet` (its weights, their gradients) -> those of a `UNet2DModel`, copied to the CPU."""
    ours = dict(tensors)
    seeing = ours[SEES_THE_LEVEL]
    ours[SEES_THE_LEVEL] = turn(seeing, -frequencies_of(unet)).to(seeing.dtype)
    names = their_modules(unet)
    theirs = {}
    for name, tensor in ours.items():
        module, _, kind = name.rpartition(".")
        parts = tensor.detach().cpu().chunk(len(names[module]))
        theirs |= {f"{other}.{kind}": part.clone() for other, part in zip(names[module], parts, strict=True)}
    return theirs


def their_modules(unet: Unet) -> dict[str, tuple[str, ...]]:
    """Our modules -> theirs: one for one, but three for the queries, keys and values, which we compute in one go."""
    return {
        "first": ("conv_in",),
        "time_embedding.1": ("time_embedding.linear_1",),
        "time_embedding.3": ("time_embedding.linear_2",),
        "label_embedding": ("class_embedding",),
        "last_norm": ("conv_norm_out",),
        "last": ("conv_out",),
        **level_names("down", unet.down),
        **stage_names("middle.0", "mid_block", 0),
        **stage_names("middle.1", "mid_block", 1),
        **level_names("up", unet.up),
    }


def level_names(side: str, layers: nn.ModuleList) -> dict[str, tuple[str, ...]]:
    """The modules of one way: ours in the order in which they run, theirs by level and number within it."""
    names = {}
    level = number = 0
    for index, layer in enumerate(layers):
        if isinstance(layer, Stage):
            names |= stage_names(f"{side}.{index}", f"{side}_blocks.{level}", number)
            number += 1
        else:  # what changes the resolution ends the level
            resampler = "downsamplers" if isinstance(layer, Downsample) else "upsamplers"
            names[f"{side}.{index}.conv"] = (f"{side}_blocks.{level}.{resampler}.0.conv",)
            level, number = level + 1, 0
    return names


def stage_names(ours: str, theirs: str, number: int) -> dict[str, tuple[str, ...]]:
    """The modules of a stage: a residual block, and the attention block that may follow it."""
    residual = {
        f"{ours}.block.{mine}": (f"{theirs}.resnets.{number}.{other}",)
        for mine, other in RESIDUAL_NAMES.items()
    }
    attention = {
        f"{ours}.attention.{mine}": tuple(f"{theirs}.attentions.{number}.{other}" for other in others)
        for mine, others in ATTENTION_NAMES.items()
    }
    return residual | attention


def with_new_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the names that diffusers gives attention today, with matrices for 1×1 convolutions."""
    renamed = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"the weights must be tensors, but {name!r} is a {type(tensor).__name__}")
        new = OLD_NAME.sub(lambda match: f"{match[1]}.{OLD_NAMES[match[2]]}.", name)
        is_convolution = ".attentions." in name and tensor.ndim > 2 and tensor.shape[2:].numel() == 1
        renamed[name if new in tensors else new] = tensor.flatten(1) if is_convolution else tensor
    return renamed


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse weights of which some are missing, not expected or of another shape, naming a few."""
    misshapen = [
        f"{name} of shape {tuple(tensors[name].shape)} where the network has {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    problems = [
        *a_few("missing", [name for name in expected if name not in tensors]),
        *a_few("not expected", [name for name in tensors if name not in expected]),
        *a_few("of another shape", misshapen),
    ]
    if problems:
        raise ValueError(
            f"these weights are not those of a network with this configuration: {'; '.join(problems)}."
            " Give the configuration that came with them"
        )


def a_few(what: str, names: Sequence[str]) -> Iterator[str]:
    """How many there are, with up to three of them; nothing where there are none."""
    if names:
        yield f"{len(names)} {what} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"


# Files


def find_files(source: str | os.PathLike[str], names: Sequence[str]) -> list[Path]:
    """Where the files of a network lie, in a folder or, fetched from the Hub, in its cache.

    Args:
        source: a folder, or a name on the Hub where there is no such folder.
        names: the files that are needed.

    Raises:
        FileNotFoundError: if they are nowhere; the message says what to do.
    """
    folder = Path(source)
    if folder.is_dir():
        return in_folder(folder, names)
    if folder.exists():
        raise FileNotFoundError(f"{folder} is a file; give the folder that holds {' and '.join(names)}")
    if isinstance(source, str) and HUB_NAME.fullmatch(source):
        return from_hub(source, names)
    raise FileNotFoundError(
        f"there is no folder {os.fspath(source)!r}; give a folder that holds {' and '.join(names)}, or a name on the"
        " Hugging Face Hub, such as 'google/ddpm-cifar10-32'"
    )


def in_folder(folder: Path, names: Sequence[str]) -> list[Path]:
    """The files of a network in a folder, or in its subfolder `unet`."""
    for place in PLACES:
        files = [folder / place / name for name in names]
        if all(file.is_file() for file in files):
            return files
    pickled = any((folder / place / PICKLE).is_file() for place in PLACES)
    raise FileNotFoundError(f"{missing(f'the folder {folder}', names)}{refused_pickle() if pickled else ''}")


def from_hub(name: str, names: Sequence[str]) -> list[Path]:
    """The files of a network on the Hugging Face Hub, downloaded unless they were before."""
    absent = offline = None
    for place in PLACES:
        # Without a network each look-up takes half a minute of attempts, and one is enough to know.
        options = {"subfolder": place, "local_files_only": offline is not None}
        try:
            return [Path(huggingface_hub.hf_hub_download(name, file, **options)) for file in names]
        except LocalEntryNotFoundError as error:
            offline = error
        except EntryNotFoundError as error:
            absent = error
        except (OSError, HFValidationError) as error:
            raise unreachable(name, names, error) from error
    if offline is not None:
        raise unreachable(name, names, offline) from offline
    raise FileNotFoundError(missing(f"{name!r} on the Hub", names) + refused_pickle()) from absent


def unreachable(name: str, names: Sequence[str], error: Exception) -> FileNotFoundError:
    """What to do where the Hub, or a name on it, cannot be reached."""
    return FileNotFoundError(
        f"there is no folder {name!r}, and nothing of that name could be fetched from the Hugging Face Hub"
        f" ({type(error).__name__}). Check the name and the network; on a computer without one, give the path of a"
        f" folder with {' and '.join(names)} that you downloaded elsewhere, from https://huggingface.co/{name}"
    )


def missing(where: str, names: Sequence[str]) -> str:
    """That files are not where they should be."""
    return f"{where} does not hold {' and '.join(names)}, neither itself nor in a subfolder 'unet'"


def refused_pickle() -> str:
    """Why a pickle is not read, and what to do with one."""
    return (
        f"; a file {PICKLE} is a pickle, which can run any code as it is opened, and is not read. If you trust it,"
        " convert it with diffusers: UNet2DModel.from_pretrained(there).save_pretrained(here)"
    )


def read_config(file: Path) -> Any:
    """What a configuration file says."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged, or is no JSON: {error}") from error


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a file."""
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged, or is no safetensors file: {error}; fetch it again") from error
