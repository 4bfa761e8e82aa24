"""`ddpm.io.diffusers`: names, the shift of the noise levels, files and the Hub, without diffusers.

`tests/peers/test_diffusers_unet.py` compares with diffusers' own network.
"""

import errno
import math
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.utils import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from ddpm import Unet, load_diffusers_unet, save_diffusers_unet, to_diffusers
from ddpm.io.diffusers import rotate

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
    x, t = (
        torch.randn(4, 1, 8, 12, generator=torch.Generator().manual_seed(1)),
        torch.tensor([1, 2, 500, 1000]),
    )
    labels = None if ours.num_classes is None else torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        torch.testing.assert_close(other(x, t, labels), ours(x, t, labels), rtol=0, atol=1e-5)


# Names


def residual_block(name, *, shortcut=True):
    parts = ["norm1", "conv1", "time_emb_proj", "norm2", "conv2", *(["conv_shortcut"] if shortcut else [])]
    return [f"{name}.{part}" for part in parts]


def attention_block(name):
    return [f"{name}.{part}" for part in ("group_norm", "to_q", "to_k", "to_v", "to_out.0")]


def test_to_diffusers_names_of_a_small_network():
    """Written out by hand, from the listing of a published file."""
    modules = [
        *("conv_in", "conv_norm_out", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"),
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
    ]
    expected = {f"{module}.{kind}" for module in modules for kind in ("weight", "bias")}
    tensors, _ = published()
    assert set(tensors) == expected | {"class_embedding.weight"}


def test_to_diffusers_puts_tensors_where_they_belong():
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
    for tensor in theirs.values():  # copies: what happens to them is nothing to our network
        tensor.zero_()
    check_same_network(small(), ours)


@pytest.mark.parametrize("matrix", [False, True], ids=["1x1 convolutions", "matrices"])
def test_load_knows_the_old_names_of_attention(matrix):
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
    # In four attention blocks, weights and biases of four layers.
    assert len(set(old) - set(tensors)) == 4 * 2 * 4
    check_same_network(small(), load_diffusers_unet(old, config))


# The shift of the noise levels


def test_their_timestep_is_ours_minus_one():
    """At every t: their layer on sines and cosines of t−1, by NumPy in float64, is our layer on those of t."""
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
    # And there and back again.
    angles = torch.from_numpy(frequencies)
    weight = layer.weight.detach()
    torch.testing.assert_close(rotate(rotate(weight, angles), -angles), weight, rtol=0, atol=1e-14)


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


def test_half_precision_is_read_in_float32():
    tensors, config = published()
    halves = {name: tensor.half() for name, tensor in tensors.items()}
    loaded = load_diffusers_unet(halves, config)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    expected = load_diffusers_unet({name: tensor.float() for name, tensor in halves.items()}, config)
    check_same_network(expected, loaded)


# Tensors that do not fit

QUERY = "mid_block.attentions.0.query.weight"  # besides today's name of the same
WRONG_TENSORS = [
    ({"conv_in.bias": None}, {}, "conv_in.bias is missing"),
    ({QUERY: torch.zeros(16, 16)}, {}, f"{QUERY} is not expected"),
    ({"conv_in.bias": torch.zeros(2)}, {}, r"conv_in.bias has shape \(2,\) where the network has \(8,\)"),
    (
        {f"x.{i}": torch.zeros(1) for i in range(10)},
        {},
        r"x.0 is not expected; x.1 .* 2 more\. Give the config",
    ),
    ({}, {"num_class_embeds": 10}, "class_embedding.weight has shape"),
    ({}, {"num_class_embeds": None}, "class_embedding.weight is not expected"),
]


@pytest.mark.parametrize(("changes", "options", "message"), WRONG_TENSORS)
def test_load_refuses_tensors_of_another_configuration(changes, options, message):
    tensors, config = published()
    tensors = {name: tensor for name, tensor in (tensors | changes).items() if tensor is not None}
    with pytest.raises(ValueError, match=f"not those of a network with this configuration: .*{message}"):
        load_diffusers_unet(tensors, config | options)


def test_load_refuses_what_is_no_tensor_or_no_configuration():
    tensors, config = published()
    with pytest.raises(TypeError, match=r"'conv_in.bias' is a list"):
        load_diffusers_unet(tensors | {"conv_in.bias": [0.0]}, config)
    for other in (None, "folder", [1]):
        with pytest.raises(TypeError, match="config must be a mapping"):
            load_diffusers_unet(tensors, other)


# Folders


def test_save_and_load(tmp_path):
    folder = tmp_path / "deep" / "model"
    for _ in range(2):
        save_diffusers_unet(small(), folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    for path in (folder, str(folder)):
        check_same_network(small(), load_diffusers_unet(path))
    # Files on the Hub carry metadata, ours do not; neither is a difference.
    weights = folder / "diffusion_pytorch_model.safetensors"
    save_file(load_file(weights), weights, metadata={"format": "pt"})
    check_same_network(small(), load_diffusers_unet(folder))


def test_a_failed_save_leaves_the_old_files_whole(tmp_path, monkeypatch):
    save_diffusers_unet(small(), tmp_path)

    def full_disk(path, content):
        path.write_bytes(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ddpm.io.files.write_synced", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_diffusers_unet(small(num_classes=5), tmp_path)
    check_same_network(small(), load_diffusers_unet(tmp_path))


def test_a_configuration_replaces_the_file(tmp_path):
    save_diffusers_unet(small(), tmp_path)
    _, config = published()
    assert load_diffusers_unet(tmp_path, config | {"dropout": 0.5}).config["dropout"] == 0.5
    (tmp_path / "config.json").unlink()
    check_same_network(small(), load_diffusers_unet(tmp_path, config))
    missing = r"does not hold config.json and diffusion_pytorch_model.safetensors, .* subfolder 'unet'$"
    with pytest.raises(FileNotFoundError, match=missing):
        load_diffusers_unet(tmp_path)


@pytest.mark.parametrize("place", [".", "unet"])
def test_a_pickle_is_not_read(tmp_path, place):
    save_diffusers_unet(small(), tmp_path / place)
    weights = tmp_path / place / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(
        FileNotFoundError, match="is a pickle, which can run any code as it is opened, and is not read"
    ):
        load_diffusers_unet(tmp_path)


def test_damaged_files_are_named(tmp_path):
    save_diffusers_unet(small(), tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    with pytest.raises(FileNotFoundError, match="is a file; give the folder that holds"):
        load_diffusers_unet(weights)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model.safetensors is damaged"):
        load_diffusers_unet(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is damaged"):
        load_diffusers_unet(tmp_path)


# The Hub

NAME = "google/ddpm-cifar10-32"


class FakeHub:
    """Stands in for `snapshot_download`: what lies in `remote` is there; an error in `failure` is raised instead."""

    def __init__(self, folder):
        self.remote, self.cache, self.asked, self.failure = folder / "remote", folder / "cache", [], None

    def __call__(self, repo_id, *, allow_patterns):
        self.asked.append(repo_id)
        if self.failure is not None:
            raise self.failure
        for path in (self.remote / pattern for pattern in allow_patterns):
            if path.is_file():
                (self.cache / path.relative_to(self.remote)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, self.cache / path.relative_to(self.remote))
        return str(self.cache)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub with nothing on it yet; the working directory is an empty folder."""
    fake = FakeHub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return fake


@pytest.mark.parametrize("place", [".", "unet"])
def test_load_from_the_hub(hub, place):
    save_diffusers_unet(small(), hub.remote / place)
    (hub.remote / place / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    check_same_network(small(), load_diffusers_unet(NAME))
    assert hub.asked == [NAME]
    fetched = {path.name for path in hub.cache.rglob("*") if path.is_file()}
    assert fetched == {"config.json", "diffusion_pytorch_model.safetensors"}


def test_load_from_the_hub_with_a_configuration(hub):
    save_diffusers_unet(small(), hub.remote)
    check_same_network(small(), load_diffusers_unet(NAME, published()[1]))
    assert [path.name for path in hub.cache.iterdir()] == ["diffusion_pytorch_model.safetensors"]


def test_a_folder_wins_over_the_hub(hub):
    save_diffusers_unet(small(), NAME)
    check_same_network(small(), load_diffusers_unet(NAME))
    assert hub.asked == []


def test_only_a_pickle_on_the_hub(hub):
    save_diffusers_unet(small(), hub.remote)
    weights = hub.remote / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(FileNotFoundError, match=r"on the Hub does not hold .* is a pickle"):
        load_diffusers_unet(NAME)


@pytest.mark.parametrize(
    "name", ["nowhere", "./nowhere/else", "a/b/c", "../b", Path("google") / "ddpm-cifar10-32"]
)
def test_neither_a_folder_nor_a_name_on_the_hub(name, hub):
    with pytest.raises(
        FileNotFoundError, match=r"there is no folder .*; give a folder that holds config.json and"
    ):
        load_diffusers_unet(name)
    assert hub.asked == []


class RefusedError(OSError):
    """What `huggingface_hub` raises of a repository that does not exist, or is not yours to see, is an OSError."""


@pytest.mark.parametrize("failure", [LocalEntryNotFoundError("offline"), RefusedError("401")])
def test_no_way_to_the_hub(hub, failure):
    hub.failure = failure
    advice = f"Check the name and the network; .* downloaded elsewhere, from https://huggingface.co/{NAME}"
    with pytest.raises(FileNotFoundError, match=rf"\({type(failure).__name__}\)\. {advice}") as caught:
        load_diffusers_unet(NAME)
    assert caught.value.__cause__ is failure


def test_offline_for_real(tmp_path, monkeypatch):
    """The library itself, told to stay off the network: what it raises is what is expected of it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="nothing of that name could be fetched"):
        load_diffusers_unet(NAME)
    # What was downloaded before is found, in the layout of the library's cache.
    cache = tmp_path / "models--google--ddpm-cifar10-32"
    save_diffusers_unet(small(), cache / "snapshots" / "0123")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0123")
    check_same_network(small(), load_diffusers_unet(NAME))
