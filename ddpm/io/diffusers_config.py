"""The options of diffusers' `UNet2DModel` held against those of our `Unet`: which network is the same in both."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ddpm.unet import Unet
from ddpm.unet_blocks import GROUP_NORM_EPS


class Option(NamedTuple):
    """An option of `UNet2DModel`: its default there, and the values of it that our `Unet` has.

    None in the place of the values means that they depend on other options, or that any will do.
    """

    default: Any
    ours: tuple[Any, ...] | None = None


# A configuration need not name what is at its default, and their defaults are not the paper's.
OPTIONS = {
    "sample_size": Option(None),
    "in_channels": Option(3),
    "out_channels": Option(3),
    "center_input_sample": Option(False, (False,)),
    "time_embedding_type": Option("positional", ("positional",)),
    "time_embedding_dim": Option(None),
    "freq_shift": Option(0, (1,)),
    "flip_sin_to_cos": Option(True, (False,)),
    "down_block_types": Option(("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")),
    "mid_block_type": Option("UNetMidBlock2D", ("UNetMidBlock2D",)),
    "up_block_types": Option(("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")),
    "block_out_channels": Option((224, 448, 672, 896)),
    "layers_per_block": Option(2),
    "mid_block_scale_factor": Option(1, (1,)),
    "downsample_padding": Option(1, (0,)),
    "downsample_type": Option("conv", ("conv",)),
    "upsample_type": Option("conv", ("conv",)),
    "dropout": Option(0.0),
    "act_fn": Option("silu", ("silu", "swish")),
    "attention_head_dim": Option(8),
    "norm_num_groups": Option(32),
    "attn_norm_num_groups": Option(None),
    "norm_eps": Option(1e-5, (GROUP_NORM_EPS,)),
    "resnet_time_scale_shift": Option("default", ("default",)),
    "add_attention": Option(True, (True,)),
    "class_embed_type": Option(None, (None,)),
    "num_class_embeds": Option(None),
    "num_train_timesteps": Option(None),
}
NEWEST = (
    "mid_block_type",
    "time_embedding_dim",
)  # unknown to older versions of diffusers, and at their defaults
LISTS = ("block_out_channels", "down_block_types", "up_block_types")
COUNTS = ("in_channels", "out_channels", "layers_per_block", "norm_num_groups")
# Of either way, their kinds of level -> whether it attends.
KINDS = {
    "down_block_types": {"DownBlock2D": False, "AttnDownBlock2D": True},
    "up_block_types": {"UpBlock2D": False, "AttnUpBlock2D": True},
}


def unet_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the `Unet` that a configuration of `UNet2DModel` describes.

    Raises:
        ValueError: if `Unet` is not such a network; the message says everything that stands in the way.
    """
    options = {name: config.get(name, option.default) for name, option in OPTIONS.items()}
    check_config(config, options)
    widths = options["block_out_channels"]
    channels, out_channels = options["in_channels"], options["out_channels"]
    return {
        "dim": widths[0],
        "out_dim": None if out_channels in (channels, 2 * channels) else out_channels,
        "learned_variance": out_channels == 2 * channels,  # what a second half of the output is for
        "dim_mults": [width // widths[0] for width in widths],
        "channels": channels,
        "resnet_block_groups": options["norm_num_groups"],
        "num_classes": options["num_class_embeds"],
        "attention_resolutions": [2**level for level, attends in enumerate(attending(options)) if attends],
        "dropout": options["dropout"],
        "num_res_blocks": options["layers_per_block"],
    }


def diffusers_config(unet: Unet) -> dict[str, Any]:
    """The configuration of the `UNet2DModel` that is the same network.

    Raises:
        TypeError: if it is no `Unet`.
        ValueError: if there is no such `UNet2DModel`.
    """
    check_unet(unet)
    config = unet.config
    factors = [2**level for level in range(len(config["dim_mults"]))]
    chosen = config["attention_resolutions"]
    attends = [factor in (factors[-1:] if chosen is None else chosen) for factor in factors]
    described = {
        "in_channels": unet.first.in_channels,
        "out_channels": unet.last.out_channels,  # of the layer, whatever option made it so
        "down_block_types": ["AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends],
        "up_block_types": ["AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)],
        "block_out_channels": [config["dim"] * mult for mult in config["dim_mults"]],
        "layers_per_block": config["num_res_blocks"],
        "dropout": config["dropout"],
        "attention_head_dim": None,
        "norm_num_groups": config["resnet_block_groups"],
        "num_class_embeds": config["num_classes"],
    }
    fixed = {name: option.ours[0] if option.ours else option.default for name, option in OPTIONS.items()}
    known = {name: value for name, value in (fixed | described).items() if name not in NEWEST}
    return {"_class_name": "UNet2DModel", **known}


def check_unet(unet: Unet) -> None:
    """Refuse a network that their layout cannot hold, naming each option of it that is in the way."""
    if not isinstance(unet, Unet):
        raise TypeError(f"only a Unet has a counterpart in diffusers, but got a {type(unet).__name__}")
    config = unet.config
    # `learned_variance` is no option to refuse: it doubles the channels of the output, which their layout has.
    fitting = {
        "self_condition": (False,),
        "learned_sinusoidal_cond": (False,),
        "random_fourier_features": (False,),
        "init_dim": (None, config["dim"]),
    }
    problems = [
        f"{name}={config[name]!r} (possible: {one_of(values)})"
        for name, values in fitting.items()
        if config[name] not in values
    ]
    if config["dim_mults"][0] != 1:
        problems.append(f"dim_mults={config['dim_mults']} (possible: lists that begin with 1)")
    if problems:
        raise ValueError(f"UNet2DModel has no network with {', '.join(problems)}")


def check_config(config: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Refuse a configuration that no `Unet` has, with all that is wrong about it.

    Args:
        config: what was given.
        options: the same, completed by the defaults.
    """
    problems = [*unknown_options(config), *fixed_options(config, options), *numbers(options)]
    shape_problems = [*lists(options)] or [*layout(options)]
    # Widths and levels mean something only once the lists are in order.
    dependent = [] if shape_problems else [*heads(options), *groups(options), *time_width(options)]
    problems += shape_problems + dependent
    if problems:
        raise ValueError(f"this configuration is of a network that Unet is not: {'; '.join(problems)}")


def one_of(values: Sequence[Any]) -> str:
    """Values for a message: "1 or 2"."""
    return " or ".join(map(repr, values))


def is_count(value: object) -> bool:
    """Whether it is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def attending(options: Mapping[str, Any], side: str = "down_block_types") -> list[bool]:
    """Whether each level attends: on the way down finest first, on the way up coarsest first."""
    return [KINDS[side][kind_of(name)] for name in options[side]]


def kind_of(name: object) -> str:
    """A kind of level by its present name; the oldest configurations put `UNetRes` in front of it."""
    return str(name).removeprefix("UNetRes")


def unknown_options(config: Mapping[str, Any]) -> Iterator[str]:
    """What `UNet2DModel` does not have: another class, or options that could mean anything."""
    kind = config.get("_class_name", "UNet2DModel")
    if kind != "UNet2DModel":
        yield f"it is one of a {kind}, not of a UNet2DModel"
    for name, value in config.items():
        if name not in OPTIONS and not str(name).startswith("_") and value is not None:
            yield f"UNet2DModel has no option {name} (given: {value!r}); leave it out if it means nothing"


def fixed_options(config: Mapping[str, Any], options: Mapping[str, Any]) -> Iterator[str]:
    """Options that are at another value than the one that our network has."""
    for name, option in OPTIONS.items():
        if option.ours is not None and options[name] not in option.ours:
            origin = "" if name in config else ", the default of UNet2DModel where nothing is said,"
            yield f"{name} is {options[name]!r}{origin} but must be {one_of(option.ours)}"


def numbers(options: Mapping[str, Any]) -> Iterator[str]:
    """Numbers that are none, or out of range."""
    for name in COUNTS:
        if not is_count(options[name]):
            yield f"{name} must be a whole number of at least 1, but is {options[name]!r}"
    classes, dropout = options["num_class_embeds"], options["dropout"]
    if classes is not None and not is_count(classes):
        yield f"num_class_embeds must be None or a whole number of at least 1, but is {classes!r}"
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        yield f"dropout must lie in [0, 1), but is {dropout!r}"


def lists(options: Mapping[str, Any]) -> Iterator[str]:
    """Lists that are none, or not of one length."""
    wrong = [name for name in LISTS if not isinstance(options[name], list | tuple) or not options[name]]
    for name in wrong:
        yield f"{name} must be a list with an entry per level, but is {options[name]!r}"
    lengths = {name: len(options[name]) for name in LISTS if name not in wrong}
    if len(set(lengths.values())) > 1:
        given = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        yield f"these lists must have an entry per level each, but {given}"


def layout(options: Mapping[str, Any]) -> Iterator[str]:
    """Widths that are no multiples of the first, unknown kinds of level, and a way up unlike the way down."""
    widths = options["block_out_channels"]
    if not all(map(is_count, widths)) or any(width % widths[0] for width in widths):
        yield f"block_out_channels must be whole multiples of the first, but are {list(widths)}"
    strange = {
        side: [kind for kind in options[side] if kind_of(kind) not in known] for side, known in KINDS.items()
    }
    for side, kinds in strange.items():
        if kinds:
            yield f"{side} must be {one_of(list(KINDS[side]))}, but has {', '.join(map(repr, kinds))}"
    mirrored = any(strange.values()) or attending(options, "up_block_types")[::-1] == attending(options)
    if not mirrored:
        down, up = list(options["down_block_types"]), list(options["up_block_types"])
        yield f"the way up must attend where the way down does, in reverse, but they are {down} and {up}"


def heads(options: Mapping[str, Any]) -> Iterator[str]:
    """Attention of more than one head; theirs is split into heads of a given width."""
    widths, given = options["block_out_channels"], options["attention_head_dim"]
    # The middle block attends, too, at the last width.
    attends = zip(widths, [*attending(options)[:-1], True], strict=True)
    attending_widths = {width for width, attend in attends if attend}
    if given is not None and list(attending_widths) != [given]:
        yield (
            f"attention_head_dim is {given!r}, but attention must have one head, at the width"
            f" {' and '.join(map(str, sorted(attending_widths)))} here: None, or the width where there is only one"
        )


def groups(options: Mapping[str, Any]) -> Iterator[str]:
    """Groups of channels that do not divide the widths, or are others in the middle block."""
    number, middle = options["norm_num_groups"], options["attn_norm_num_groups"]
    wrong = [width for width in options["block_out_channels"] if is_count(number) and width % number]
    if wrong:
        yield f"norm_num_groups={number} must divide every width, but {wrong} are no multiples of it"
    if middle not in (None, number):
        yield f"attn_norm_num_groups is {middle!r} but must be {one_of([None, number])}"


def time_width(options: Mapping[str, Any]) -> Iterator[str]:
    """Another number of features for the level than four times the first width."""
    given, ours = options["time_embedding_dim"], 4 * options["block_out_channels"][0]
    if given not in (None, ours):
        yield f"time_embedding_dim is {given!r} but must be {one_of([None, ours])}"
