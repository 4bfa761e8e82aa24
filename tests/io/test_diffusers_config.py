"""Configurations of diffusers' `UNet2DModel`: which are those of a `Unet`, and what is said of the others."""

import json
from collections import OrderedDict

import pytest
import torch

from ddpm import Unet, load_diffusers_unet, save_diffusers_unet
from ddpm.io.diffusers_config import DEFAULTS, diffusers_config, unet_arguments
from tests.io.test_diffusers import AT_256, CIFAR10, SMALL, small


def test_unet_arguments_of_the_networks_of_the_paper():
    """CIFAR-10 as in the docstring of `Unet`; both with the paper's number of parameters, 35.7 and 114 million."""
    with torch.device("meta"):
        expected = Unet(128, dim_mults=(1, 2, 2, 2), resnet_block_groups=32, attention_resolutions=(2,))
        cifar10, at_256 = (Unet(**unet_arguments(config)) for config in (CIFAR10, AT_256))
    assert cifar10.config == expected.config
    assert at_256.config["dim_mults"] == [1, 1, 2, 2, 4, 4]
    assert at_256.config["attention_resolutions"] == [16]
    counts = [sum(p.numel() for p in network.parameters()) / 1e6 for network in (cifar10, at_256)]
    assert [round(counts[0], 1), round(counts[1])] == [35.7, 114]


@pytest.mark.parametrize("config", [CIFAR10, AT_256, SMALL])
def test_configurations_come_back(config):
    with torch.device("meta"):
        back = diffusers_config(Unet(**unet_arguments(config)))
    json.dumps(back)
    said = {
        name: value for name, value in config.items() if name not in ("_diffusers_version", "sample_size")
    }
    assert {name: back[name] for name in said} == said
    assert back.keys() == {"_class_name", *DEFAULTS} - {"mid_block_type", "time_embedding_dim"}


def test_unet_arguments_in_other_clothes():
    """The oldest names, a tuple for a list, None for an option that is unknown, values that come to the same."""
    same = {
        "down_block_types": tuple(f"UNetRes{kind}" for kind in SMALL["down_block_types"]),
        "up_block_types": [f"UNetRes{kind}" for kind in SMALL["up_block_types"]],
        "block_out_channels": (8, 16),
        "mid_block_scale_factor": 1.0,
        "act_fn": "swish",
        "attention_head_dim": 16,  # attention is only at this width
        "attn_norm_num_groups": 4,
        "time_embedding_dim": 32,
        "num_train_timesteps": 1000,
        "from_the_future": None,
        "_private": 3,
    }
    assert unet_arguments(OrderedDict(SMALL | same)) == unet_arguments(SMALL)


AT_BOTH = {"down_block_types": ["AttnDownBlock2D"] * 2, "up_block_types": ["AttnUpBlock2D"] * 2}
AT_FINEST = {
    "down_block_types": ["AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D"],
}
# Options of which every `Unet` has the same value, with another one.
OTHER_NETWORKS = (
    {"norm_eps": 1e-5, "freq_shift": 0, "flip_sin_to_cos": True, "downsample_padding": 1, "act_fn": "gelu"}
    | {"time_embedding_type": "fourier", "center_input_sample": True, "mid_block_scale_factor": 1.4}
    | {"mid_block_type": None, "downsample_type": "resnet", "upsample_type": "resnet", "add_attention": False}
    | {"class_embed_type": "timestep", "resnet_time_scale_shift": "scale_shift"}
)
NO_COUNTS = {"layers_per_block": 0, "in_channels": "three", "out_channels": None, "norm_num_groups": True}
WRONG = [
    *(({name: value}, f"{name} is {value!r} but must be") for name, value in OTHER_NETWORKS.items()),
    *(
        ({name: value}, f"{name} must be a whole number of at least 1, but is {value!r}")
        for name, value in (NO_COUNTS | {"num_class_embeds": 0}).items()
    ),
    ({"act_fn": "gelu"}, "act_fn is 'gelu' but must be 'silu' or 'swish'"),
    ({"time_embedding_dim": 64}, "time_embedding_dim is 64 but must be None or 32"),
    ({"attn_norm_num_groups": 2}, "attn_norm_num_groups is 2 but must be None or 4"),
    ({"attention_head_dim": [16]}, r"attention_head_dim is \[16\] but must be None or 16"),
    ({"attention_head_dim": 8, **AT_FINEST}, "attention_head_dim is 8 but must be None$"),
    ({"attention_head_dim": 16, **AT_BOTH}, "attention_head_dim is 16 but must be None$"),
    ({"norm_num_groups": 3}, r"every width must be a multiple of norm_num_groups=3, but .* are not"),
    ({"block_out_channels": [8, 12]}, r"block_out_channels is \[8, 12\] but must be \[8, 8\]"),
    ({"block_out_channels": 8}, "block_out_channels must be a list with an entry per resolution, but is 8"),
    ({"block_out_channels": [8, 16.0]}, "an entry of block_out_channels must be .*, but is 16.0"),
    ({"block_out_channels": [0]}, "an entry of block_out_channels must be .* at least 1, but is 0"),
    ({"up_block_types": []}, r"up_block_types must be a list with an entry per resolution, but is \[\]"),
    ({"up_block_types": ["UpBlock2D", "AttnUpBlock2D"]}, r"must be \['AttnUpBlock2D', 'UpBlock2D'\]"),
    ({"dropout": 1.5}, r"dropout must lie in \[0, 1\), but got 1.5"),
    ({"dropout": "half"}, r"dropout must lie in \[0, 1\), but is 'half'"),
    ({"_class_name": "UNet2DConditionModel"}, "it is one of a UNet2DConditionModel, not of a UNet2DModel"),
    ({"cross_attention_dim": 768}, r"UNet2DModel has no option cross_attention_dim \(given: 768\)"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_unet_arguments_refuses_an_option(changes, message):
    with pytest.raises(ValueError, match=f"a network that Unet is not: .*{message}") as caught:
        unet_arguments(SMALL | changes)
    assert str(caught.value).count(" must ") <= 1  # no other complaint besides


def test_the_defaults_of_diffusers_are_refused_at_once():
    """The example that a user is most likely to bring."""
    with pytest.raises(ValueError, match="a network that Unet is not") as caught:
        load_diffusers_unet({}, {"_class_name": "UNet2DModel"})
    for name in ("freq_shift", "flip_sin_to_cos", "downsample_padding", "norm_eps", "attention_head_dim"):
        assert f"{name} is {DEFAULTS[name]!r}, the default" in str(caught.value)
    assert str(caught.value).count("where nothing is said") == 5


def test_unet_arguments_says_everything_at_once():
    for changes, messages in (
        ({"block_out_channels": [8, 16, 16]}, ["down_block_types is", "up_block_types is"]),
        ({"down_block_types": ["DownBlock2D", "SkipDownBlock2D"]}, ["'SkipDownBlock2D'] but"]),
        (
            {"block_out_channels": 8, "norm_eps": 1e-5, "in_channels": 0},
            ["channels must", "norm_eps", "in_channels"],
        ),
        ({"norm_num_groups": 3, "attention_head_dim": 8}, ["norm_num_groups=3", "attention_head_dim is 8"]),
    ):
        with pytest.raises(ValueError, match="a network that Unet is not") as caught:
            unet_arguments(SMALL | changes)
        assert all(message in str(caught.value) for message in messages)


def patched():
    network = small()
    network.last.padding_mode = "circular"
    return network


@pytest.mark.parametrize(
    ("network", "error", "message"),
    [
        (lambda: small(self_condition=True), ValueError, "self_condition=True: it has no self-conditioning"),
        (lambda: small(learned_sinusoidal_cond=True), ValueError, "learned_sinusoidal_cond=True:"),
        (lambda: small(random_fourier_features=True), ValueError, "random_fourier_features=True:"),
        (lambda: small(dim_mults=(2, 4)), ValueError, r"no network with dim_mults=\[2, 4\]:"),
        (lambda: small(self_condition=True, init_dim=16), ValueError, "self_condition=True, init_dim=16:"),
        (
            patched,
            ValueError,
            "functions or layers of its own, in last, without which it would be loaded",
        ),
        (lambda: torch.nn.Linear(1, 1), TypeError, "a Unet has a counterpart in diffusers, but got a Linear"),
    ],
)
def test_save_refuses_what_their_layout_cannot_hold(network, error, message, tmp_path):
    with pytest.raises(error, match=message):
        save_diffusers_unet(network(), tmp_path / "new")
    assert not (tmp_path / "new").exists()
