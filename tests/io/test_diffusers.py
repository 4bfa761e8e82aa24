"""`ddpm.io.diffusers`: the way there and back, old names, files and the Hub, without diffusers.

That names and noise levels are theirs is seen in `tests/peers/test_diffusers_unet.py`, on diffusers' own network.
"""

import math
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from ddpm import Unet, load_diffusers_unet, save_diffusers_unet, to_diffusers
from tests.networks import randn

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
    levels = {"dim_mults": (1, 2), "num_res_blocks": 1, "attention_resolutions": (2,)}
    arguments = {"channels": 1, "resnet_block_groups": 4, "num_classes": 3, **levels}
    return draw(Unet(8, **(arguments | options)))


def published(**options):
    """Tensors in diffusers' layout with their configuration, as a file would bring them."""
    return to_diffusers(small(**options))


def check_same_network(ours, other):
    x, t = randn(4, 1, 8, 12, seed=1), torch.tensor([1, 2, 500, 1000])
    labels = None if ours.num_classes is None else torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        torch.testing.assert_close(other(x, t, labels), ours(x, t, labels), rtol=0, atol=1e-5)


# Names


@pytest.mark.parametrize("matrix", [False, True], ids=["1x1 convolutions", "matrices"])
def test_load_knows_the_old_names_of_attention_and_reads_halves_in_float32(matrix):
    """As files have them that were published before diffusers renamed attention."""
    tensors, config = published()
    tensors = {name: tensor.half() for name, tensor in tensors.items()}
    old_names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    old = {}
    for name, tensor in tensors.items():
        renamed = name
        for new_part, old_part in old_names.items():
            renamed = renamed.replace(new_part, old_part)
        reshape = renamed != name and tensor.ndim == 2 and not matrix
        old[renamed] = tensor[:, :, None, None] if reshape else tensor
    # In four attention blocks, weights and biases of four layers.
    assert len(set(old) - set(tensors)) == 4 * 2 * 4
    loaded = load_diffusers_unet(old, config)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    whole = {name: tensor.float() for name, tensor in tensors.items()}
    check_same_network(load_diffusers_unet(whole, config), loaded)


# Round trips


NETWORKS = {
    "small": {},
    "no classes": {"num_classes": None},
    "attention at both": {"attention_resolutions": (1, 2)},
    "attention at the finest": {"attention_resolutions": (1,)},
    "attention in the middle only": {"attention_resolutions": ()},
    "attention at the coarsest by default": {"attention_resolutions": None},
    "one resolution": {"dim_mults": (1,), "attention_resolutions": ()},
    "three resolutions": {"dim_mults": (1, 3, 2), "num_res_blocks": 3},
    "init_dim said": {"init_dim": 8},
    "other output": {"out_dim": 5},
    "dropout": {"dropout": 0.25},
    "learned variance": {"learned_variance": True},  # by the number of channels that come out
}


@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
def test_networks_come_back(options):
    ours = small(**options)
    tensors, config = to_diffusers(ours)
    again = load_diffusers_unet(tensors, config)
    assert not again.training
    assert again.learned_variance is ours.learned_variance
    assert again.config["dropout"] == ours.config["dropout"]
    check_same_network(ours, again)
    tensors_again, config_again = to_diffusers(again)
    assert config_again == config
    assert list(tensors_again) == list(tensors)
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensors_again[name], tensor, rtol=0, atol=1e-6)
        tensor.zero_()  # a copy: what happens to it is nothing to our network
    check_same_network(again, ours)


# What does not fit

QUERY = "mid_block.attentions.0.query.weight"  # besides today's name of the same
NOT_THOSE = "not those of a network with this configuration: .*"


@pytest.mark.parametrize(
    ("changes", "options", "error", "message"),
    [
        ({"conv_in.bias": None}, {}, ValueError, f"{NOT_THOSE}conv_in.bias is missing"),
        ({QUERY: torch.zeros(16, 16)}, {}, ValueError, f"{NOT_THOSE}{QUERY} is not expected"),
        (
            {"conv_in.bias": torch.zeros(2)},
            {},
            ValueError,
            r"bias has shape \(2,\) where the network has \(8,\)",
        ),
        (
            {f"x.{i}": torch.zeros(1) for i in range(10)},
            {},
            ValueError,
            r"x.0 is not expected; x.1 .* 2 more\. Give the config",
        ),
        ({}, {"num_class_embeds": 10}, ValueError, f"{NOT_THOSE}class_embedding.weight has shape"),
        ({}, {"num_class_embeds": None}, ValueError, f"{NOT_THOSE}class_embedding.weight is not expected"),
        ({"conv_in.bias": [0.0]}, {}, TypeError, "'conv_in.bias' is a list"),
        ({}, None, TypeError, "config must be a mapping"),
        ({}, [1], TypeError, "config must be a mapping"),
    ],
)
def test_load_refuses_tensors_of_another_configuration(changes, options, error, message):
    tensors, config = published()
    tensors = {name: tensor for name, tensor in (tensors | changes).items() if tensor is not None}
    config = config | options if isinstance(options, dict) else options
    with pytest.raises(error, match=message):
        load_diffusers_unet(tensors, config)


# Folders and the Hub

NAME = "google/ddpm-cifar10-32"
CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Where the library keeps what it fetched of `NAME`, empty yet, and no network; the working directory is empty."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    cache = tmp_path / "hub" / "models--google--ddpm-cifar10-32"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("0123")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return cache / "snapshots" / "0123"


@pytest.fixture(params=["folder", "hub"])
def source(request, cached, tmp_path):
    """The same files in a folder or on the Hub: where they lie, and what they are loaded by."""
    return (tmp_path / "folder", tmp_path / "folder") if request.param == "folder" else (cached, NAME)


@pytest.mark.parametrize("place", [".", "unet"])
def test_load_reads_what_was_saved(source, place):
    folder, name = source
    for _ in range(2):
        save_diffusers_unet(small(), folder / place)
    assert {path.name for path in (folder / place).iterdir()} == {CONFIG, WEIGHTS}
    check_same_network(small(), load_diffusers_unet(name))
    check_same_network(small(), load_diffusers_unet(str(name)))
    # Files on the Hub carry metadata, ours do not; neither is a difference.
    save_file(load_file(folder / place / WEIGHTS), folder / place / WEIGHTS, metadata={"format": "pt"})
    check_same_network(small(), load_diffusers_unet(name))
    _, config = published()
    assert load_diffusers_unet(name, config | {"dropout": 0.5}).config["dropout"] == 0.5
    (folder / place / CONFIG).unlink()
    check_same_network(small(), load_diffusers_unet(name, config))
    with pytest.raises(
        FileNotFoundError, match=f"does not hold {CONFIG} and {WEIGHTS}, .* subfolder 'unet_ema' or 'unet'"
    ):
        load_diffusers_unet(name)


@pytest.mark.parametrize("place", [".", "unet"])
def test_load_does_not_read_a_pickle(source, place):
    folder, name = source
    save_diffusers_unet(small(), folder / place)
    (folder / place / WEIGHTS).rename((folder / place / WEIGHTS).with_suffix(".bin"))
    message = "does not hold .* is a pickle, which can run any code as it is opened, and is not read"
    with pytest.raises(FileNotFoundError, match=message):
        load_diffusers_unet(name)


@pytest.mark.parametrize("place", [".", "unet"])
def test_load_names_a_variant_of_the_weights(tmp_path, place):
    save_diffusers_unet(small(), tmp_path / place)
    variant = (tmp_path / place / WEIGHTS).rename(tmp_path / place / WEIGHTS.replace(".", ".fp16."))
    with pytest.raises(FileNotFoundError, match=f"{variant} is a variant .* once it is called {WEIGHTS}"):
        load_diffusers_unet(tmp_path)


def test_load_names_damaged_files(tmp_path):
    save_diffusers_unet(small(), tmp_path)
    with pytest.raises(FileNotFoundError, match="is a file; give the folder that holds"):
        load_diffusers_unet(tmp_path / WEIGHTS)
    for name, content in ((WEIGHTS, (tmp_path / WEIGHTS).read_bytes()[:1000]), (CONFIG, b"{")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            load_diffusers_unet(tmp_path)


@pytest.mark.usefixtures("cached")
def test_load_prefers_a_folder_to_the_hub():
    save_diffusers_unet(small(), NAME)
    check_same_network(small(), load_diffusers_unet(NAME))


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize(
    "name", ["nowhere", "./nowhere/else", "a/b/c", "../b", Path("google") / "ddpm-cifar10-32"]
)
def test_load_refuses_what_is_neither_a_folder_nor_a_name_on_the_hub(name):
    with pytest.raises(
        FileNotFoundError, match=f"there is no folder .*; give a folder that holds {CONFIG} and"
    ):
        load_diffusers_unet(name)


@pytest.mark.usefixtures("cached")
def test_load_says_what_to_do_without_a_way_to_the_hub(monkeypatch):
    def refuse(name, *, allow_patterns):
        """As the library does of a repository that does not exist, or is not yours to see."""
        assert (name, set(allow_patterns)) == (
            NAME,
            {f"{place}{name}" for place in ("", "unet_ema/", "unet/") for name in (CONFIG, WEIGHTS)},
        )
        raise PermissionError("401")

    advice = f"Check the name and the network; .* downloaded elsewhere, from https://huggingface.co/{NAME}"
    for error in ("LocalEntryNotFoundError", "PermissionError"):
        with pytest.raises(FileNotFoundError, match=rf"\({error}\)\. {advice}") as caught:
            load_diffusers_unet(NAME)
        assert type(caught.value.__cause__).__name__ == error
        monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
