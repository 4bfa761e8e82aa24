"""The options of a run, out of JSON or off the command line, held against what each of its parts takes."""

import difflib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from ddpm.data import load_dataset
from ddpm.diffusion import GaussianDiffusion
from ddpm.training.config import TrainingConfig
from ddpm.unet import Unet
from ddpm.weighting import Weighting

PARTS: dict[str, Callable[..., object]] = {  # part -> what its options are arguments of
    "data": load_dataset,
    "network": Unet,
    "diffusion": GaussianDiffusion,
    "training": TrainingConfig,
}
OBJECTS = {
    "network",
    "train",
}  # arguments that are no options: the network itself, and which part of the data
WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a word",
    Path: "a path",
    NoneType: "null",
    Weighting: 'a weighting such as MinSNR or {"name": "MinSNR", "gamma": 5}',
}
PYTHON_WORDS = {"True": True, "False": False, "None": None}
# What `--set` refuses, because another option, or another part, settles it.
SETTLED = {
    "data.name_or_path": "it is the argument of ddpm train",
    "data.image_size": "give --image-size, or diffusion.image_size",
    "network.channels": "give data.channels",
    "network.out_dim": "the network gives as many channels as it takes",
    "training.results_folder": "give --out",
    "training.augment_horizontal_flip": "give data.augment_horizontal_flip",
}


def parameters(part: str) -> dict[str, inspect.Parameter]:
    """The options of a part: name -> its parameter."""
    found = inspect.signature(PARTS[part]).parameters
    return {name: parameter for name, parameter in found.items() if name not in OBJECTS}


def check_options(part: str, options: Mapping[str, Any]) -> None:
    """Refuse an option that the part does not have, or a value of the wrong kind.

    Raises:
        ValueError: if there is one; the message says what is allowed. Ranges are checked by the part itself.
    """
    known = parameters(part)
    for name, value in options.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise ValueError(f"{part} has no option {name!r}{hint}; it takes {', '.join(known)}")
        hint = known[name].annotation
        if not fits(value, hint):
            raise ValueError(f"{part}.{name} must be {in_words(hint)}, but got {value!r}")


def fits(value: object, hint: Any) -> bool:
    """Whether a value out of JSON can stand for a type."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return value in inner
    if origin in (Sequence, tuple):
        return isinstance(value, list | tuple) and all(fits(item, inner[0]) for item in value)
    if inner:  # a union
        return any(fits(value, one) for one in inner)
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    if hint is Weighting:  # as its name and its numbers
        return isinstance(value, dict)
    return isinstance(value, hint)


def in_words(hint: Any) -> str:
    """What a type asks for."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin in (Sequence, tuple):
        return f"a list such as {'[1, 2]' if inner[0] is int else '[0.9, 0.99]'}"
    if inner:
        return " or ".join(map(in_words, inner))
    return WORDS[hint]


def read_override(text: str) -> tuple[str, str, Any]:
    """Part, option and value out of text such as "network.dropout=0.2".

    Raises:
        ValueError: if it is not of that form, or the option is not one to be set so.
    """
    left, equals, value = text.partition("=")
    part, dot, option = left.strip().partition(".")
    if not (equals and dot) or part not in PARTS:
        raise ValueError(
            f"{text!r} is not of the form part.option=value, with a part among {', '.join(PARTS)};"
            " for example network.dropout=0.2"
        )
    if f"{part}.{option}" in SETTLED:
        raise ValueError(f"{part}.{option} cannot be set so: {SETTLED[f'{part}.{option}']}")
    return part, option, parsed_value(value.strip())


def parsed_value(text: str) -> Any:
    """A number, a list, true, false or null as JSON or Python write them; anything else is a word."""
    try:
        return PYTHON_WORDS[text] if text in PYTHON_WORDS else json.loads(text)
    except ValueError:
        return text
