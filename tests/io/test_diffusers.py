"""`ddpm.io.diffusers`: names, the shift of the levels, configurations, files and the Hub, without diffusers.

`tests/peers/test_diffusers_unet.py` compares with diffusers' own network.
"""

import errno
import json
import math
from collections import OrderedDict
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from ddpm import GaussianDiffusion, Unet, load_diffusers_unet, save_diffusers_unet, to_diffusers
from ddpm.io import diffusers as interop
from ddpm.io.diffusers import turn
from ddpm.io.diffusers_config import OPTIONS, diffusers_config, unet_arguments

# As published with the weights: google/ddpm-cifar10-32, and google/ddpm-celebahq-256 with its LSUN siblings.
CIFAR10 = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
AT_256 = {
    **CIFAR10,
    "block_out_channels": [128, 128, 256, 256, 512, 512],
    "down_block_types": [*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"],
    "sample_size": 256,
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4],
}
SMALL = {
    **CIFAR10,
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "in_channels": 1,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "num_class_embeds": 3,
    "out_channels": 1,
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}


def draw(module, seed=0):
    """Draw every parameter, also the ones that start at zero or one, at sizes that keep signals near 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            z = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(z / math.sqrt(parameter[0].numel()) if parameter.ndim > 1 else 0.2 * z)
        for part in module.modules():
            if isinstance(part, torch.nn.GroupNorm):
                part.weight.add_(1)
    return module.eval()


def small(**options) -> Unet:
    """Ours of the configuration `SMALL`."""
    arguments = {
        "dim_mults": (1, 2),
        "channels": 1,
        "resnet_block_groups": 4,
        "num_classes": 3,
        "attention_resolutions": (2,),
        "num_res_blocks": 1,
    }
    return draw(Unet(8, **(arguments | options)))


def published(**options):
    """Tensors in diffusers' layout with their configuration, as a file would bring them."""
    return to_diffusers(small(**options))


def check_same_network(ours, other):
    x, t = (
        torch.randn(4, 1, 8, 12, generator=torch.Generator().manual_seed(1)),
        torch.tensor([1, 2, 500, 1000]),
    )
    labels = None if ours.num_classes is None else torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        torch.testing.assert_close(other(x, t, labels), ours(x, t, labels), rtol=0, atol=1e-5)


# Names


def residual_block(name, shortcut=True):
    parts = ["norm1", "conv1", "time_emb_proj", "norm2", "conv2", *(["conv_shortcut"] if shortcut else [])]
    return [f"{name}.{part}" for part in parts]


def attention_block(name):
    return [f"{name}.{part}" for part in ("group_norm", "to_q", "to_k", "to_v", "to_out.0")]


def test_names_of_a_small_network():
    """Written out by hand, from the listing of a published file."""
    modules = [
        "conv_in",
        "time_embedding.linear_1",
        "time_embedding.linear_2",
        *residual_block("down_blocks.0.resnets.0", shortcut=False),
        "down_blocks.0.downsamplers.0.conv",
        *residual_block("down_blocks.1.resnets.0"),
        *attention_block("down_blocks.1.attentions.0"),
        *residual_block("mid_block.resnets.0", shortcut=False),
        *attention_block("mid_block.attentions.0"),
        *residual_block("mid_block.resnets.1", shortcut=False),
        *residual_block("up_blocks.0.resnets.0"),
        *attention_block("up_blocks.0.attentions.0"),
        *residual_block("up_blocks.0.resnets.1"),
        *attention_block("up_blocks.0.attentions.1"),
        "up_blocks.0.upsamplers.0.conv",
        *residual_block("up_blocks.1.resnets.0"),
        *residual_block("up_blocks.1.resnets.1"),
        "conv_norm_out",
        "conv_out",
    ]
    expected = {f"{module}.{kind}" for module in modules for kind in ("weight", "bias")}
    tensors, _ = published()
    assert set(tensors) == expected | {"class_embedding.weight"}


def test_tensors_go_where_they_belong():
    """One by one, those that a swap within the same shape would hide."""
    ours = small()
    theirs, _ = to_diffusers(ours)
    stage = ours.down[2]
    q, k, v = stage.attention.qkv.weight.split(16)
    pairs = {
        "down_blocks.1.attentions.0.to_q.weight": q,
        "down_blocks.1.attentions.0.to_k.weight": k,
        "down_blocks.1.attentions.0.to_v.weight": v,
        "down_blocks.1.resnets.0.time_emb_proj.bias": stage.block.time.bias,
        "mid_block.resnets.0.conv2.weight": ours.middle[0].block.conv2.weight,
        "mid_block.resnets.1.conv2.weight": ours.middle[1].block.conv2.weight,
        "up_blocks.0.resnets.1.norm1.weight": ours.up[1].block.norm1.weight,
        "up_blocks.1.resnets.0.norm1.weight": ours.up[3].block.norm1.weight,
        "time_embedding.linear_1.bias": ours.time_embedding[1].bias,
        "time_embedding.linear_2.weight": ours.time_embedding[3].weight,
        "class_embedding.weight": ours.label_embedding.weight,
    }
    for name, tensor in pairs.items():
        torch.testing.assert_close(theirs[name], tensor.detach(), rtol=0, atol=0)


def test_tensors_are_copies():
    ours = small()
    theirs, _ = to_diffusers(ours)
    for tensor in theirs.values():
        tensor.zero_()
    check_same_network(small(), ours)


@pytest.mark.parametrize("matrix", [False, True], ids=["1x1 convolutions", "matrices"])
def test_old_names_of_attention(matrix):
    """As files have them that were published before diffusers renamed attention."""
    tensors, config = published()
    old_names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    old = {}
    for name, tensor in tensors.items():
        renamed = name
        for new_part, old_part in old_names.items():
            renamed = renamed.replace(new_part, old_part)
        reshape = renamed != name and tensor.ndim == 2 and not matrix
        old[renamed] = tensor[:, :, None, None] if reshape else tensor
    assert (
        len(set(old) - set(tensors)) == 4 * 2 * 4
    )  # in four attention blocks, weights and biases of four layers
    check_same_network(small(), load_diffusers_unet(old, config))


def test_both_names_of_one_tensor_are_one_too_many():
    tensors, config = published()
    tensors["mid_block.attentions.0.query.weight"] = tensors["mid_block.attentions.0.to_q.weight"]
    with pytest.raises(ValueError, match=r"1 not expected \(mid_block.attentions.0.query.weight\)"):
        load_diffusers_unet(tensors, config)


# The shift of the levels


def test_their_level_is_ours_minus_one():
    """At every level: their layer on sines and cosines of t−1, by NumPy in float64, is our layer on those of t."""
    ours = small().double()
    theirs, _ = to_diffusers(ours)
    t, half = np.arange(1, 1001), 4
    frequencies = np.float32(10_000.0 ** (-np.arange(half) / (half - 1))).astype(np.float64)
    angles = (t - 1)[:, None] * frequencies
    weight = theirs["time_embedding.linear_1.weight"].numpy()
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1) @ weight.T
    layer = ours.time_embedding[1]
    embedded = ours.time_embedding[0](torch.from_numpy(t)) @ layer.weight.detach().T
    np.testing.assert_allclose(embedded.numpy(), expected, rtol=0, atol=1e-12)


def test_turning_there_and_back():
    weight, angles = (
        torch.randn(5, 8, generator=torch.Generator().manual_seed(0)),
        torch.linspace(0, 2, 4).double(),
    )
    torch.testing.assert_close(turn(turn(weight, angles), -angles), weight.double())
    torch.testing.assert_close(turn(weight, angles).norm(), weight.double().norm())


def test_round_trip_of_tensors():
    tensors, config = published()
    again, config_again = to_diffusers(load_diffusers_unet(tensors, config))
    assert config_again == config
    assert list(again) == list(tensors)
    for name, tensor in tensors.items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=1e-6)


NETWORKS = {
    "small": {},
    "no classes": {"num_classes": None},
    "attention at both": {"attention_resolutions": (1, 2)},
    "attention at the finest": {"attention_resolutions": (1,)},
    "attention in the middle only": {"attention_resolutions": ()},
    "attention at the coarsest by default": {"attention_resolutions": None},
    "one level": {"dim_mults": (1,), "attention_resolutions": ()},
    "three levels": {"dim_mults": (1, 3, 2), "num_res_blocks": 3},
    "init_dim said": {"init_dim": 8},
    "other output": {"out_dim": 5},
}


@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
def test_round_trip_of_networks(options):
    ours = small(**options)
    again = load_diffusers_unet(*to_diffusers(ours))
    assert not again.training
    check_same_network(ours, again)


def test_dropout_is_kept():
    ours = small(dropout=0.25)
    assert load_diffusers_unet(*to_diffusers(ours)).config["dropout"] == 0.25


def test_two_heads_are_a_learned_variance():
    """Their layout has only the number of channels to say it with."""
    ours = small(learned_variance=True)
    tensors, config = to_diffusers(ours)
    assert config["out_channels"] == 2 * config["in_channels"] == 2
    again = load_diffusers_unet(tensors, config)
    assert again.learned_variance
    check_same_network(ours, again)


def test_half_precision_is_read_in_float32():
    tensors, config = published()
    halves = {name: tensor.half() for name, tensor in tensors.items()}
    loaded = load_diffusers_unet(halves, config)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    expected = load_diffusers_unet({name: tensor.float() for name, tensor in halves.items()}, config)
    check_same_network(expected, loaded)


def test_the_loaded_network_can_be_sampled():
    diffusion = GaussianDiffusion(load_diffusers_unet(*published()), image_size=8, timesteps=3)
    images = diffusion.sample(batch_size=2, labels=torch.tensor([0, 2]))
    assert images.shape == (2, 1, 8, 8)
    assert images.isfinite().all()


# Configurations


def test_the_networks_of_the_paper():
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
def test_round_trip_of_configurations(config):
    with torch.device("meta"):
        back = diffusers_config(Unet(**unet_arguments(config)))
    json.dumps(back)
    said = {
        name: value for name, value in config.items() if name not in ("_diffusers_version", "sample_size")
    }
    assert {name: back[name] for name in said} == said


def test_oldest_names_of_levels():
    """The very first configurations have another word in front."""
    sides = ("down_block_types", "up_block_types")
    old = {side: [f"UNetRes{kind}" for kind in SMALL[side]] for side in sides}
    assert unet_arguments(SMALL | old) == unet_arguments(SMALL)


def test_options_in_other_clothes():
    """A tuple for a list, None for an option that is unknown, and values that come to the same."""
    same = {
        "block_out_channels": (8, 16),
        "mid_block_scale_factor": 1.0,
        "act_fn": "swish",
        "attention_head_dim": 16,  # attention is only at this width
        "attn_norm_num_groups": 4,
        "time_embedding_dim": 32,
        "from_the_future": None,
        "_private": 3,
    }
    assert unet_arguments(OrderedDict(SMALL | same)) == unet_arguments(SMALL)


WRONG = {
    "norm_eps": (1e-5, "norm_eps is 1e-05 but must be 1e-06"),
    "freq_shift": (0, "freq_shift is 0 but must be 1"),
    "flip_sin_to_cos": (True, "flip_sin_to_cos is True but must be False"),
    "downsample_padding": (1, "downsample_padding is 1 but must be 0"),
    "time_embedding_type": ("fourier", "time_embedding_type is 'fourier' but must be 'positional'"),
    "time_embedding_dim": (64, "time_embedding_dim is 64 but must be None or 32"),
    "resnet_time_scale_shift": (
        "scale_shift",
        "resnet_time_scale_shift is 'scale_shift' but must be 'default'",
    ),
    "center_input_sample": (True, "center_input_sample is True but must be False"),
    "mid_block_scale_factor": (1.4, "mid_block_scale_factor is 1.4 but must be 1"),
    "mid_block_type": (None, "mid_block_type is None but must be 'UNetMidBlock2D'"),
    "downsample_type": ("resnet", "downsample_type is 'resnet' but must be 'conv'"),
    "upsample_type": ("resnet", "upsample_type is 'resnet' but must be 'conv'"),
    "class_embed_type": ("timestep", "class_embed_type is 'timestep' but must be None"),
    "add_attention": (False, "add_attention is False but must be True"),
    "act_fn": ("gelu", "act_fn is 'gelu' but must be 'silu' or 'swish'"),
    "attn_norm_num_groups": (2, "attn_norm_num_groups is 2 but must be None or 4"),
    "attention_head_dim": (8, "attention_head_dim is 8, but attention must have one head, at the width 16"),
    "norm_num_groups": (3, "norm_num_groups=3 must divide every width"),
    "block_out_channels": (
        [8, 12],
        r"block_out_channels must be whole multiples of the first, but are \[8, 12\]",
    ),
    "down_block_types": (
        ["DownBlock2D", "SkipDownBlock2D"],
        "down_block_types must be .*, but has 'SkipDownBlock2D'",
    ),
    "up_block_types": (
        ["UpBlock2D", "AttnUpBlock2D"],
        "the way up must attend where the way down does, in reverse",
    ),
    "layers_per_block": (0, "layers_per_block must be a whole number of at least 1, but is 0"),
    "in_channels": ("three", "in_channels must be a whole number of at least 1, but is 'three'"),
    "num_class_embeds": (0, "num_class_embeds must be None or a whole number"),
    "dropout": (1.5, r"dropout must lie in \[0, 1\), but is 1.5"),
    "_class_name": ("UNet2DConditionModel", "it is one of a UNet2DConditionModel, not of a UNet2DModel"),
    "cross_attention_dim": (768, r"UNet2DModel has no option cross_attention_dim \(given: 768\)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_option(name):
    value, message = WRONG[name]
    with pytest.raises(ValueError, match=message) as caught:
        unet_arguments(SMALL | {name: value})
    assert str(caught.value).count(" must ") <= 1  # no other complaint beside it


OTHER_WRONG = {
    "no list": (
        {"block_out_channels": 8},
        "block_out_channels must be a list with an entry per level, but is 8",
    ),
    "empty": ({"up_block_types": []}, "up_block_types must be a list with an entry per level"),
    "lengths": ({"block_out_channels": [8, 16, 16]}, "block_out_channels has 3, down_block_types has 2"),
    "fractions": ({"block_out_channels": [8, 16.0]}, "block_out_channels must be whole multiples"),
    "zeros": ({"block_out_channels": [0, 0]}, "block_out_channels must be whole multiples"),
    "strange head": ({"attention_head_dim": [16]}, r"attention_head_dim is \[16\]"),
    "the middle block": (
        {
            "down_block_types": ["AttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "AttnUpBlock2D"],
            "attention_head_dim": 8,
        },
        "attention_head_dim is 8, but .* at the width 8 and 16 here",
    ),
    "two widths": (
        {
            "down_block_types": ["AttnDownBlock2D"] * 2,
            "up_block_types": ["AttnUpBlock2D"] * 2,
            "attention_head_dim": 16,
        },
        "attention_head_dim is 16, but .* at the width 8 and 16 here",
    ),
}


@pytest.mark.parametrize(("changes", "message"), OTHER_WRONG.values(), ids=OTHER_WRONG)
def test_other_wrong_options(changes, message):
    with pytest.raises(ValueError, match=message):
        unet_arguments(SMALL | changes)


@pytest.mark.parametrize(
    "name", ["norm_eps", "freq_shift", "flip_sin_to_cos", "downsample_padding", "attention_head_dim"]
)
def test_an_absent_option_has_their_default(name):
    """Which differs from the paper's: a configuration that leaves it out is of another network."""
    config = {other: value for other, value in SMALL.items() if other != name}
    with pytest.raises(ValueError, match=f"{name} is {OPTIONS[name].default!r}"):
        unet_arguments(config)


def test_everything_wrong_is_said_at_once():
    """The example that a user is most likely to bring: a UNet2DModel with the defaults of diffusers."""
    with pytest.raises(ValueError, match="a network that Unet is not") as caught:
        load_diffusers_unet({}, {"_class_name": "UNet2DModel"})
    for name in ("freq_shift", "flip_sin_to_cos", "downsample_padding", "norm_eps", "attention_head_dim"):
        assert name in str(caught.value)
    assert str(caught.value).count("where nothing is said") == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"self_condition": True}, r"self_condition=True \(possible: False\)"),
        ({"learned_sinusoidal_cond": True}, "learned_sinusoidal_cond=True"),
        ({"random_fourier_features": True}, "random_fourier_features=True"),
        ({"init_dim": 16}, r"init_dim=16 \(possible: None or 8\)"),
        ({"dim_mults": (2, 4)}, r"dim_mults=\[2, 4\] \(possible: lists that begin with 1\)"),
        ({"self_condition": True, "init_dim": 16}, "self_condition=True .*, init_dim=16"),
    ],
)
def test_what_their_layout_cannot_hold(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_diffusers_unet(small(**options), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_only_a_unet_goes_out():
    with pytest.raises(TypeError, match="only a Unet has a counterpart in diffusers, but got a Linear"):
        to_diffusers(torch.nn.Linear(1, 1))


# Tensors


def test_missing_extra_and_misshapen_tensors():
    tensors, config = published()
    del tensors["conv_in.bias"]
    for number in range(5):
        tensors[f"extra.{number}"] = torch.zeros(1)
    tensors["conv_out.weight"] = torch.zeros(2, 8, 3, 3)
    with pytest.raises(ValueError, match="not those of a network with this configuration") as caught:
        load_diffusers_unet(tensors, config)
    assert "1 missing (conv_in.bias)" in str(caught.value)
    assert "5 not expected (extra.0, extra.1, extra.2, …)" in str(caught.value)
    assert "conv_out.weight of shape (2, 8, 3, 3) where the network has (1, 8, 3, 3)" in str(caught.value)


def test_weights_of_another_configuration():
    tensors, config = published()
    with pytest.raises(ValueError, match=r"class_embedding.weight of shape"):
        load_diffusers_unet(tensors, config | {"num_class_embeds": 10})
    with pytest.raises(ValueError, match="not expected"):
        load_diffusers_unet(tensors, config | {"num_class_embeds": None})


def test_what_is_no_tensor():
    tensors, config = published()
    with pytest.raises(TypeError, match=r"'conv_in.bias' is a list"):
        load_diffusers_unet(tensors | {"conv_in.bias": [0.0]}, config)


def test_tensors_need_a_configuration(tmp_path):
    tensors, _ = published()
    for config in (None, str(tmp_path), [1]):
        with pytest.raises(TypeError, match="config must be a mapping"):
            load_diffusers_unet(tensors, config)


# Folders


def test_save_and_load(tmp_path):
    ours = small()
    save_diffusers_unet(ours, tmp_path / "deep" / "model")
    save_diffusers_unet(ours, tmp_path / "deep" / "model")
    names = sorted(path.name for path in (tmp_path / "deep" / "model").iterdir())
    assert names == ["config.json", "diffusion_pytorch_model.safetensors"]
    for path in (tmp_path / "deep" / "model", str(tmp_path / "deep" / "model")):
        check_same_network(ours, load_diffusers_unet(path))


def test_a_failed_save_leaves_the_old_files_whole(tmp_path, monkeypatch):
    save_diffusers_unet(small(), tmp_path)

    def full_disk(path, content):
        path.write_bytes(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ddpm.io.files.write_synced", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_diffusers_unet(small(num_classes=5), tmp_path)
    check_same_network(small(), load_diffusers_unet(tmp_path))


def test_a_folder_of_a_pipeline(tmp_path):
    save_diffusers_unet(small(), tmp_path / "unet")
    (tmp_path / "model_index.json").write_text("{}")
    check_same_network(small(), load_diffusers_unet(tmp_path))


def test_a_configuration_replaces_the_file(tmp_path):
    save_diffusers_unet(small(), tmp_path)
    _, config = published()
    assert load_diffusers_unet(tmp_path, config | {"dropout": 0.5}).config["dropout"] == 0.5
    (tmp_path / "config.json").unlink()
    check_same_network(small(), load_diffusers_unet(tmp_path, config))
    with pytest.raises(
        FileNotFoundError, match=r"does not hold config.json and diffusion_pytorch_model.safetensors"
    ):
        load_diffusers_unet(tmp_path)


@pytest.mark.parametrize("place", [".", "unet"])
def test_a_pickle_is_not_read(tmp_path, place):
    save_diffusers_unet(small(), tmp_path / place)
    (tmp_path / place / "diffusion_pytorch_model.safetensors").rename(
        tmp_path / place / "diffusion_pytorch_model.bin"
    )
    with pytest.raises(
        FileNotFoundError, match="is a pickle, which can run any code as it is opened, and is not read"
    ):
        load_diffusers_unet(tmp_path)


def test_an_empty_folder_says_nothing_of_pickles(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"subfolder 'unet'$"):
        load_diffusers_unet(tmp_path)


def test_a_file_is_no_folder(tmp_path):
    save_diffusers_unet(small(), tmp_path)
    with pytest.raises(FileNotFoundError, match="is a file; give the folder that holds"):
        load_diffusers_unet(tmp_path / "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize(
    "name", ["nowhere", "./nowhere/else", "a/b/c", "../b", Path("google") / "ddpm-cifar10-32"]
)
def test_neither_a_folder_nor_a_name_on_the_hub(name, hub):
    with pytest.raises(
        FileNotFoundError, match=r"there is no folder .*; give a folder that holds config.json and"
    ):
        load_diffusers_unet(name)
    assert hub.asked == []


def test_damaged_files(tmp_path):
    save_diffusers_unet(small(), tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model.safetensors is damaged"):
        load_diffusers_unet(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is damaged, or is no JSON"):
        load_diffusers_unet(tmp_path)


# The Hub


class FakeHub:
    """Stands in for `hf_hub_download`: `files` says which exist, and an error in `failure` is raised of every other.

    Attributes:
        asked: what was asked for, (name, file with its subfolder, whether only of the cache).
    """

    def __init__(self, folder):
        self.folder, self.asked, self.failure = folder, [], EntryNotFoundError("404")

    def __call__(self, repo_id, filename, *, subfolder=None, local_files_only=False):
        path = f"{subfolder}/{filename}" if subfolder else filename
        self.asked.append((repo_id, path, local_files_only))
        if repo_id != "google/ddpm-cifar10-32" or not (self.folder / path).is_file():
            raise self.failure
        return str(self.folder / path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub with nothing on it yet; the working directory is an empty folder."""
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return fake


NAME = "google/ddpm-cifar10-32"


@pytest.mark.parametrize("place", [".", "unet"])
def test_from_the_hub(hub, place):
    save_diffusers_unet(small(), hub.folder / place)
    check_same_network(small(), load_diffusers_unet(NAME))
    allowed = {"config.json", "diffusion_pytorch_model.safetensors"}
    assert {path.removeprefix("unet/") for _, path, _ in hub.asked} <= allowed
    assert not any(cache_only for *_, cache_only in hub.asked)


def test_from_the_hub_with_a_configuration(hub):
    save_diffusers_unet(small(), hub.folder)
    (hub.folder / "config.json").unlink()
    check_same_network(small(), load_diffusers_unet(NAME, published()[1]))
    assert [path for _, path, _ in hub.asked] == ["diffusion_pytorch_model.safetensors"]


def test_a_folder_wins_over_the_hub(hub):
    save_diffusers_unet(small(), NAME)
    check_same_network(small(), load_diffusers_unet(NAME))
    assert hub.asked == []


def test_only_a_pickle_on_the_hub(hub):
    save_diffusers_unet(small(), hub.folder)
    (hub.folder / "diffusion_pytorch_model.safetensors").rename(hub.folder / "diffusion_pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"on the Hub does not hold .* is a pickle"):
        load_diffusers_unet(NAME)
    assert not any(path.endswith(".bin") for _, path, _ in hub.asked)


class RefusedError(OSError):
    """What `huggingface_hub` raises of a repository that does not exist, or is not yours to see, is an OSError."""


@pytest.mark.parametrize(
    ("failure", "attempts"),
    [(LocalEntryNotFoundError("offline"), 2), (RefusedError("401"), 1)],
    ids=["offline", "401"],
)
def test_no_way_to_the_hub(hub, failure, attempts):
    hub.failure = failure
    advice = f"Check the name and the network; .* downloaded elsewhere, from https://huggingface.co/{NAME}"
    with pytest.raises(FileNotFoundError, match=advice) as caught:
        load_diffusers_unet(NAME)
    assert type(failure).__name__ in str(caught.value)
    assert caught.value.__cause__ is failure
    assert len(hub.asked) == attempts
    assert [cache_only for *_, cache_only in hub.asked] == [False, True][
        :attempts
    ]  # one wait for the network, not two


def test_offline_with_what_is_in_the_cache(hub):
    """The first look fails, of a file that the repository never had; the second finds what was downloaded before."""
    hub.failure = LocalEntryNotFoundError("offline")
    save_diffusers_unet(small(), hub.folder / "unet")
    check_same_network(small(), load_diffusers_unet(NAME))


def test_offline_for_real(tmp_path, monkeypatch):
    """The library itself, told to stay off the network: what it raises is what is expected of it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="nothing of that name could be fetched"):
        load_diffusers_unet(NAME)


def test_metadata_in_a_published_file(tmp_path):
    """Files on the Hub carry it, ours do not; neither is a difference."""
    save_diffusers_unet(small(), tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt"})
    check_same_network(small(), load_diffusers_unet(tmp_path))
