"""The options of diffusers' `UNet2DModel` and the arguments of our `Unet`: which network is the same in both.

Either is translated to the other and back. What does not come back as it was is something that the other side lacks.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ddpm.io.weights import check_code
from ddpm.support.checks import how_to_unwrap
from ddpm.unet import Unet
from ddpm.unet_blocks import GROUP_NORM_EPS

# What UNet2DModel takes where a configuration says nothing. Its defaults are not the paper's.
DEFAULTS: dict[str, Any] = (
    {"sample_size": None, "in_channels": 3, "out_channels": 3, "center_input_sample": False}
    | {"time_embedding_type": "positional", "time_embedding_dim": None}
    | {"freq_shift": 0, "flip_sin_to_cos": True, "num_train_timesteps": None}
    | {"down_block_types": ["DownBlock2D", *["AttnDownBlock2D"] * 3], "mid_block_type": "UNetMidBlock2D"}
    | {"up_block_types": [*["AttnUpBlock2D"] * 3, "UpBlock2D"], "block_out_channels": [224, 448, 672, 896]}
    | {"layers_per_block": 2, "mid_block_scale_factor": 1, "resnet_time_scale_shift": "default"}
    | {"downsample_padding": 1, "downsample_type": "conv", "upsample_type": "conv", "dropout": 0.0}
    | {"act_fn": "silu", "norm_num_groups": 32, "norm_eps": 1e-5, "attn_norm_num_groups": None}
    | {"add_attention": True, "attention_head_dim": 8, "class_embed_type": None, "num_class_embeds": None}
)
# The options of which every `Unet` has the same value, as the paper's network has; "swish" is another name of SiLU.
_FIXED: dict[str, list[Any]] = (
    {"freq_shift": [1], "flip_sin_to_cos": [False], "downsample_padding": [0], "norm_eps": [GROUP_NORM_EPS]}
    | {"center_input_sample": [False], "time_embedding_type": ["positional"], "act_fn": ["silu", "swish"]}
    | {"mid_block_type": ["UNetMidBlock2D"], "mid_block_scale_factor": [1], "add_attention": [True]}
    | {"downsample_type": ["conv"], "upsample_type": ["conv"], "resnet_time_scale_shift": ["default"]}
    | {"class_embed_type": [None]}
)
_RENAMED = {  # theirs -> ours
    "in_channels": "channels",
    "layers_per_block": "num_res_blocks",
    "dropout": "dropout",
    "norm_num_groups": "resnet_block_groups",
    "num_class_embeds": "num_classes",
}
_LISTS = ("block_out_channels", "down_block_types", "up_block_types")
_COUNTS = ("in_channels", "out_channels", "layers_per_block", "norm_num_groups", "num_class_embeds")
# What `EMAModel.save_pretrained` adds to the options of the network that it averages; the weights are what they are.
_AVERAGED = dict.fromkeys(
    ("decay", "min_decay", "inv_gamma", "power", "optimization_step", "update_after_step", "use_ema_warmup")
)
# Unknown to older versions of diffusers, and at their defaults.
_NEWEST = ("mid_block_type", "time_embedding_dim")


def unet_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the `Unet` that a configuration of `UNet2DModel` describes; a ValueError names all obstacles."""
    options = {name: _normalised(config.get(name, default)) for name, default in DEFAULTS.items()}
    problems = [*_unknown(config), *(malformed := [*_malformed(options)])]
    allowed, arguments = _FIXED, {}
    if not malformed:
        arguments = _to_ours(options)
        allowed = _FIXED | _fitting(arguments)
        problems += _complaints_of_unet(arguments)
    for name, values in allowed.items():
        if options[name] not in values:
            origin = "" if name in config else ", the default of UNet2DModel where nothing is said,"
            wanted = " or ".join(map(repr, values))
            problems.append(f"{name} is {options[name]!r}{origin} but must be {wanted}")
    if problems:
        raise ValueError(f"this configuration is of a network that Unet is not: {'; '.join(problems)}")
    return arguments


def _complaints_of_unet(arguments: dict[str, Any]) -> Iterator[str]:
    """What `Unet` itself finds wrong, in the names of a configuration."""
    theirs = {ours: name for name, ours in _RENAMED.items()}
    try:
        with torch.device("meta"):
            Unet(**arguments)
    except ValueError as error:
        yield re.sub(r"\w+", lambda word: theirs.get(word[0], word[0]), str(error))


def diffusers_config(unet: Unet) -> dict[str, Any]:
    """The configuration of the `UNet2DModel` that is the same network; a ValueError names all obstacles."""
    if type(unet) is not Unet:
        kind = "a subclass, whose own code would be lost: " if isinstance(unet, Unet) else ""
        advice = how_to_unwrap(unet, lambda held: isinstance(held, Unet))
        raise TypeError(
            f"only a Unet has a counterpart in diffusers, but got {kind}a {type(unet).__name__}"
            + (advice and f"; {advice}")
        )
    check_code(unet)
    config = unet.config
    lacking = {
        name: config[name]
        for name in ("self_condition", "learned_sinusoidal_cond", "random_fourier_features")
    }
    lacking["init_dim"] = config["init_dim"] not in (None, config["dim"]) and config["init_dim"]
    lacking["dim_mults"] = config["dim_mults"][0] != 1 and config["dim_mults"]
    problems = [f"{name}={value!r}" for name, value in lacking.items() if value]
    if problems:
        raise ValueError(
            f"UNet2DModel has no network with {', '.join(problems)}: it has no self-conditioning and no Fourier"
            " features, its first convolution is as wide as dim, and so is its finest resolution"
        )
    known = {name: value for name, value in _to_theirs(config).items() if name not in _NEWEST}
    return {"_class_name": "UNet2DModel", **known}


def _to_ours(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `UNet2DModel` -> arguments of `Unet`."""
    widths, kinds = options["block_out_channels"], options["down_block_types"]
    channels, out_channels = options["in_channels"], options["out_channels"]
    return {ours: options[theirs] for theirs, ours in _RENAMED.items()} | {
        "dim": widths[0],
        "dim_mults": [width // widths[0] for width in widths],
        "attention_resolutions": [2**n for n, kind in enumerate(kinds) if kind == "AttnDownBlock2D"],
        "learned_variance": out_channels == 2 * channels,  # what a second half of the output is for
        "out_dim": None if out_channels in (channels, 2 * channels) else out_channels,
    }


def _to_theirs(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `Unet` -> options of `UNet2DModel`."""
    chosen, mults = arguments["attention_resolutions"], arguments["dim_mults"]
    chosen = [2 ** (len(mults) - 1)] if chosen is None else chosen
    attention = ["Attn" if 2**n in chosen else "" for n in range(len(mults))]
    fixed = {name: values[0] for name, values in _FIXED.items()}
    renamed = {theirs: arguments[ours] for theirs, ours in _RENAMED.items()}
    classes = arguments["num_classes"]
    described = {
        # The class after the last one stands for "no label".
        "num_class_embeds": classes and classes + bool(arguments.get("label_dropout")),
        "out_channels": arguments["out_dim"] or arguments["channels"] * (1 + arguments["learned_variance"]),
        "down_block_types": [f"{kind}DownBlock2D" for kind in attention],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(attention)],
        "block_out_channels": [arguments["dim"] * mult for mult in mults],
        "attention_head_dim": None,
    }
    return DEFAULTS | fixed | renamed | described


def _fitting(arguments: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What the options that follow from these arguments may be."""
    twin = _to_theirs(arguments)
    widths, kinds = twin["block_out_channels"], twin["down_block_types"]
    # The middle block attends, too, at the last width. Theirs has as many heads as fit, ours has one.
    attending = {width for width, kind in zip(widths, kinds, strict=True) if "Attn" in kind} | {widths[-1]}
    return {name: [twin[name]] for name in _LISTS} | {
        "time_embedding_dim": [None, 4 * widths[0]],
        "attn_norm_num_groups": [None, twin["norm_num_groups"]],
        "attention_head_dim": [None, *attending] if len(attending) == 1 else [None],
    }


def _normalised(value: Any) -> Any:
    """Tuples as lists, and kinds of block by their present names: the oldest had `UNetRes` in front."""
    if not isinstance(value, list | tuple):
        return value
    return [item.removeprefix("UNetRes") if isinstance(item, str) else item for item in value]


def _malformed(options: Mapping[str, Any]) -> Iterator[str]:
    """Lists that are none, and numbers that are none."""
    counts = [
        (name, options[name]) for name in _COUNTS if (name, options[name]) != ("num_class_embeds", None)
    ]
    for name in _LISTS:
        if not isinstance(options[name], list) or not options[name]:
            yield f"{name} must be a list with an entry per resolution, but is {options[name]!r}"
        elif name == "block_out_channels":
            counts += [("an entry of block_out_channels", width) for width in options[name]]
    for name, value in counts:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            yield f"{name} must be a whole number of at least 1, but is {value!r}"
    if not isinstance(options["dropout"], int | float):
        yield f"dropout must lie in [0, 1), but is {options['dropout']!r}"


def _unknown(config: Mapping[str, Any]) -> Iterator[str]:
    """What `UNet2DModel` does not have: another class, or options that could mean anything."""
    kind = config.get("_class_name", "UNet2DModel")
    if kind != "UNet2DModel":
        yield f"it is one of a {kind}, not of a UNet2DModel"
    for name, value in config.items():
        if name not in DEFAULTS | _AVERAGED and not str(name).startswith("_") and value is not None:
            yield f"UNet2DModel has no option {name} (given: {value!r}); leave it out if it means nothing"
