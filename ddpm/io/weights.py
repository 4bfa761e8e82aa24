"""Weights between a network and a file: under the names of the plain network, all there, of its shapes, and finite."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ddpm.io.files import read_json, read_tensors
from ddpm.unet import Unet

_NAMED = 8  # of the tensors that are wrong, in one message
# What torch.compile puts before the names of the module that it wraps, and what distributed training does.
_COMPILED = "_orig_mod"
_DISTRIBUTED = "module."
# Names by which the weights of another program are known -> what to write.
_FOREIGN = {
    "conv_in.weight": "they are those of a network in diffusers' layout, which ddpm.load_diffusers_unet reads",
    "network.first.weight": "they are those of a whole GaussianDiffusion: take those of its `network`",
    "model.init_conv.weight": "they are those of denoising-diffusion-pytorch, whose network is another one",
    "init_conv.weight": "they are those of denoising-diffusion-pytorch, whose network is another one",
}


def unwrapped(module: Any) -> Any:
    """The module itself, where it was given as `torch.compile` returned it."""
    while _COMPILED in getattr(module, "_modules", {}):
        module = module._modules[_COMPILED]
    return module


def plain_name(name: str) -> str:
    """The name of a tensor without what `torch.compile` puts into it."""
    return ".".join(part for part in name.split(".") if part != _COMPILED)


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """The network's tensors under the names that they have in the plain network, whether it was compiled or not."""
    return {plain_name(name): tensor for name, tensor in network.state_dict().items()}


def check_code(network: Unet, advice: str = "") -> None:
    """Refuse a `Unet` that computes something else than its arguments say: without that it would be loaded.

    Raises:
        ValueError: if it has functions of its own or other layers; the message names where, and the `advice`.
    """
    with torch.device("meta"):
        twin = Unet(**network.config)
    built = dict(twin.named_modules())
    modules = {plain_name(name): part for name, part in network.named_modules() if unwrapped(part) is part}
    changed = [name or "the whole" for name, part in modules.items() if _is_changed(part, built.get(name))]
    if changed:
        raise ValueError(
            "the network is no longer the Unet that it was built as, but has functions or layers of its own, in"
            f" {', '.join(changed[:_NAMED])}, without which it would be loaded; take them away{advice}"
        )


def _is_changed(module: nn.Module, built: nn.Module | None) -> bool:
    """Whether a module may compute something else than the one that was `built` in its place, by equal weights.

    Let pass are hooks, which mostly observe, the probability of a dropout, which counts in training alone, and the
    precision that accelerate puts around a network.
    """
    own = {name for name in vars(module) if callable(getattr(type(module), name, None))}
    if "_original_forward" in vars(module):  # where accelerate keeps it
        own.discard("forward")
    like = type(built) is type(module)
    if built is not None and not isinstance(module, nn.Dropout):
        like = like and built.extra_repr() == module.extra_repr()
    return bool(own) or not like


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Put tensors into a network, whether it, or the one they are from, was compiled or not, or distributed.

    Raises:
        ValueError: if they are not those of such a network; the message names `origin`, and what is wrong.
    """
    own = network.state_dict()
    names = {plain_name(name): name for name in own}
    given = {plain_name(name): tensor for name, tensor in tensors.items()}
    if given and not any(name.startswith(_DISTRIBUTED) for name in names):
        while all(name.startswith(_DISTRIBUTED) for name in given):
            given = {name.removeprefix(_DISTRIBUTED): tensor for name, tensor in given.items()}
    check_weights(given, {plain: own[name] for plain, name in names.items()}, origin)
    network.load_state_dict({names[plain]: tensor for plain, tensor in given.items()})


def check_weights(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], origin: str) -> None:
    """Refuse weights of which some are missing, not expected, of another shape or not finite, naming a few."""
    given, wanted = ({name: tuple(x.shape) for name, x in side.items()} for side in (tensors, expected))
    problems = [f"{name} is missing" for name in wanted if name not in given]
    problems += [f"{name} is not expected" for name in given if name not in wanted]
    problems += [
        f"{name} has shape {given[name]} where the network has {shape}"
        for name, shape in wanted.items()
        if given.get(name, shape) != shape
    ]
    problems += [
        f"{name} holds {x.dtype} where the network has {expected[name].dtype}"
        for name, x in tensors.items()
        if name in wanted and x.is_floating_point() != expected[name].is_floating_point()
    ]
    if problems:
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        advice = next((words for name, words in _FOREIGN.items() if name in given and name not in wanted), "")
        raise ValueError(
            f"{origin}: {'; '.join(sorted(problems)[:_NAMED])}{more}. "
            + (f"By their names {advice}" if advice else "Give the configuration that came with them")
        )
    check_finite_weights(tensors)


def check_finite_weights(tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are no numbers, read or to be written, naming a few."""
    # torch has no such question for its types of 8 bits.
    asked = {name: x.float() if x.element_size() == 1 else x for name, x in tensors.items()}
    spoilt = [name for name, tensor in asked.items() if not tensor.isfinite().all()]
    if spoilt:
        raise ValueError(
            f"some weights are not finite (NaN): {', '.join(spoilt[:3])}; the model diverged in training, or its file"
            " is damaged. Take an earlier checkpoint, or fetch it again"
        )


def read_file(file: Path) -> Any:
    """What a file of JSON or of tensors holds; one that cannot be read is a ValueError that says which."""
    try:
        return read_json(file) if file.suffix == ".json" else read_tensors(file)
    except (ValueError, SafetensorError) as error:
        pointer = file.read_bytes().startswith(b"version https://git-lfs")
        advice = "`git lfs pull` fetches what it stands for" if pointer else "fetch it again"
        raise ValueError(f"{file} is damaged: {error}; {advice}") from error
