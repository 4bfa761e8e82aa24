"""The options of a run, out of JSON or off the command line: which there are, and of what kind.

Those of `Unet`, `GaussianDiffusion` and `load_dataset` stand here in a table, which a test holds equal to their
signatures, since reading the signatures imports torch: seconds before a misspelt option is refused.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ddpm.training.config import TrainingConfig

Size = int | tuple[int, int]

# part -> option -> kind; a weighting is a dict here, its name and its numbers.
OPTIONS: dict[str, dict[str, Any]] = {
    "data": {
        "name_or_path": str | Path,
        "image_size": Size | None,
        "root": str | Path,
        "channels": int | None,
        "augment_horizontal_flip": bool,
        "cache": str | Path | None,
        "classes": Literal["folders"] | None,
    },
    "network": {
        "dim": int,
        "init_dim": int | None,
        "out_dim": int | None,
        "dim_mults": Sequence[int],
        "channels": int,
        "self_condition": bool,
        "resnet_block_groups": int,
        "learned_variance": bool,
        "learned_sinusoidal_cond": bool,
        "random_fourier_features": bool,
        "learned_sinusoidal_dim": int,
        "num_classes": int | None,
        "attention_resolutions": Sequence[int] | None,
        "dropout": float,
        "num_res_blocks": int,
        "label_dropout": float,
    },
    "diffusion": {
        "image_size": Size,
        "timesteps": int,
        "sampling_timesteps": int | None,
        "loss_type": Literal["l1", "l2"],
        "objective": Literal["pred_noise", "pred_x0", "pred_v", "pred_flow"],
        "beta_schedule": str | None,
        "loss_weighting": dict | None,
        "ddim_sampling_eta": float,
        "sampler": Literal["ancestral", "ddim", "heun", "dpm++"] | None,
        "spacing": Literal["even", "log-snr", "karras", "quadratic"],
        "class_names": Sequence[str] | None,
        "variance": Literal["fixed_small", "fixed_large"] | None,
    },
    "training": get_type_hints(TrainingConfig),
}
_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a word",
    Path: "a path",
    NoneType: "null",
    dict: 'a weighting such as MinSNR or {"name": "MinSNR", "gamma": 5}',
}
_LISTS: dict[Any, str] = {int: "[1, 2]", float: "[0.9, 0.99]", str: '["cat", "dog"]'}
_PYTHON_WORDS = {"True": True, "False": False, "None": None}
# What `--set` refuses, because another option, or another part, settles it.
_SETTLED = {
    "data.name_or_path": "it is the argument of ddpm train",
    "data.classes": "give --classes",
    "data.image_size": "give --image-size, or diffusion.image_size",
    "network.channels": "give data.channels",
    "network.out_dim": "the network gives as many channels as it takes",
    "training.results_folder": "give --out",
    "training.augment_horizontal_flip": "give data.augment_horizontal_flip",
}


def check_options(part: str, options: Any) -> None:
    """Refuse an option that the part does not have, or a value of the wrong kind; ranges are the part's own matter."""
    known = OPTIONS[part]
    if not isinstance(options, Mapping):
        raise ValueError(f"{part} must be a list of options by name, but got {options!r}")
    for name, value in options.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise ValueError(f"{part} has no option {name!r}{hint}; it takes {', '.join(known)}")
        if not _fits(value, known[name]):
            raise ValueError(f"{part}.{name} must be {_in_words(known[name])}, but got {value!r}")


def read_override(text: str) -> tuple[str, str, Any]:
    """Part, option and value out of text such as "network.dropout=0.2", if the option may be set so."""
    left, equals, value = text.partition("=")
    part, dot, option = left.strip().partition(".")
    if not (equals and dot) or part not in OPTIONS:
        raise ValueError(
            f"{text!r} is not of the form part.option=value, with a part among {', '.join(OPTIONS)};"
            " for example network.dropout=0.2"
        )
    if f"{part}.{option}" in _SETTLED:
        raise ValueError(f"{part}.{option} cannot be set so: {_SETTLED[f'{part}.{option}']}")
    return part, option, _parsed(value.strip())


def _fits(value: object, kind: Any) -> bool:
    """Whether a value out of JSON can stand for a type."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in inner
    if origin in (Sequence, tuple):
        return isinstance(value, list | tuple) and all(_fits(item, inner[0]) for item in value)
    if inner:  # a union
        return any(_fits(value, one) for one in inner)
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, kind)


def _in_words(kind: Any) -> str:
    """What a type asks for."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin in (Sequence, tuple):
        return f"a list such as {_LISTS[inner[0]]}"
    return " or ".join(map(_in_words, inner)) if inner else _WORDS[kind]


def _parsed(text: str) -> Any:
    """A number, a list, true, false or null as JSON or Python write them; anything else is a word."""
    try:
        return _PYTHON_WORDS[text] if text in _PYTHON_WORDS else json.loads(text)
    except ValueError:
        return text
