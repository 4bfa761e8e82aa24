"""Weights between networks and files: of compiled networks, of others' programs, of half a file, of another class."""

import copy
import json
import re
import shutil

import pytest
import safetensors.torch
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from torch import nn

from ddpm import (
    GaussianDiffusion,
    NoiseSchedule,
    Unet,
    load_diffusers_unet,
    load_pretrained,
    save_diffusers_unet,
    save_pretrained,
    to_diffusers,
)
from ddpm.io.weights import plain_name, unwrapped
from tests.runs import model, saved_files, trained, trainer, weights


def spoiled(folder, change):
    """The tensors of a model's file changed."""
    tensors = load_file(folder / "model.safetensors")
    save_file({name: x.contiguous() for name, x in change(tensors).items()}, folder / "model.safetensors")


def renamed(prefix):
    return lambda tensors: {prefix + name: x for name, x in tensors.items()}


# Compiled networks

COMPILED = {
    "whole": lambda ours: setattr(ours, "network", torch.compile(ours.network, backend="eager")),
    "in place": lambda ours: ours.network.compile(backend="eager"),
    "a part": lambda ours: ours.network.middle.__setitem__(
        0, torch.compile(ours.network.middle[0], backend="eager")
    ),
}


def compiled(how: str, ours: GaussianDiffusion | None = None) -> GaussianDiffusion:
    """The model of `runs.model`, or another, compiled."""
    ours = ours or model()
    COMPILED[how](ours)
    return ours


@pytest.mark.parametrize("how", COMPILED)
def test_a_compiled_network_is_saved_as_the_network_that_it_is(tmp_path, how):
    ours, plain = compiled(how), model()
    for one, place in ((ours, "ours"), (plain, "plain")):
        save_pretrained(one, tmp_path / place)
        save_diffusers_unet(one.network, tmp_path / place / "unet")
    for file in (path.relative_to(tmp_path / "plain") for path in (tmp_path / "plain").rglob("*.*")):
        assert (tmp_path / "ours" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()
    assert torch.equal(weights(load_pretrained(tmp_path / "ours")), weights(plain))


@pytest.mark.parametrize("how", COMPILED)
def test_a_run_of_a_compiled_network_goes_on_with_any_form_of_it(tmp_path, how):
    trained(tmp_path / "whole", model(), train_num_steps=4)
    trained(tmp_path / "parts", compiled(how), train_num_steps=2)
    other = shutil.copytree(tmp_path / "parts", tmp_path / "other")
    assert torch.equal(
        weights(load_pretrained(tmp_path / "parts")),
        weights(trained(tmp_path / "two", train_num_steps=2).ema_model),
    )
    trainer(tmp_path / "parts", model(), train_num_steps=4).resume()
    trainer(other, compiled(how), train_num_steps=4).resume()
    assert saved_files(tmp_path / "parts") == saved_files(other) == saved_files(tmp_path / "whole")


def test_files_that_were_written_with_the_names_of_a_compiled_or_distributed_network_load(tmp_path):
    ours = model()
    for prefix in ("_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module.module."):
        save_pretrained(ours, tmp_path)
        spoiled(tmp_path, renamed(prefix))
        assert torch.equal(weights(load_pretrained(tmp_path)), weights(ours))
    tensors, config = to_diffusers(ours.network)
    again = load_diffusers_unet({f"_orig_mod.{name}": x for name, x in tensors.items()}, config)
    torch.testing.assert_close(weights(again), weights(ours.network))


class Wrapped(nn.Module):
    """A network with a part of that name, alone or with another beside it."""

    channels = 1

    def __init__(self, layer):
        super().__init__()
        self.module, self.layer = nn.Conv2d(1, 1, 3, padding=1), layer

    def forward(self, x_t, t, labels=None):  # noqa: ARG002
        return self.layer(self.module(x_t))


@pytest.mark.parametrize("layer", [nn.Identity(), nn.Conv2d(1, 1, 1)])
def test_a_network_with_parts_of_such_names_keeps_them(tmp_path, layer):
    shape = {"image_size": 8, "timesteps": 50, "sampling_timesteps": 2}
    ours = trained(tmp_path, GaussianDiffusion(Wrapped(copy.deepcopy(layer)), **shape))
    again = trainer(tmp_path, GaussianDiffusion(Wrapped(layer), **shape))
    again.load()
    assert torch.equal(weights(again.diffusion), weights(ours.diffusion))


def test_names_and_forms():
    assert plain_name("middle.0._orig_mod.block.conv1.weight") == "middle.0.block.conv1.weight"
    assert plain_name("first.weight") == "first.weight"
    network = model().network
    assert unwrapped(network) is network
    assert unwrapped(torch.compile(network)) is network


# Classes of one's own


class Louder(Unet):
    def forward(self, *args, **kwargs):
        return 3 * super().forward(*args, **kwargs)


class Other(GaussianDiffusion):
    pass


def own_schedule():
    ours = model()
    ours.schedule = NoiseSchedule(torch.linspace(1e-3, 0.5, 50))
    return ours


def loud(seed: int = 0):
    ours = model(seed)
    ours.network.__class__ = Louder
    return ours


def other():
    ours = model()
    ours.__class__ = Other
    return ours


def widened():
    ours = model()
    ours.network.last = nn.Conv2d(8, 1, 5, padding=2)
    return ours


def changed(how):
    """What makes a model whose network has all its weights, and something more."""

    def make():
        ours = model()
        how(ours.network)
        return ours

    return make


AS_PARENT = "is a subclass of {}, as which it would be loaded, without its own code; save"
OWN = {
    "network": (loud, TypeError, f"Louder {AS_PARENT.format('Unet')}"),
    "compiled": (lambda: compiled("whole", loud()), TypeError, "Louder is a subclass of Unet"),
    "model": (other, TypeError, f"Other {AS_PARENT.format('GaussianDiffusion')}"),
    "schedule": (
        own_schedule,
        ValueError,
        r"schedule is not the 'cosine' one that its configuration .* save the weights by safetensors",
    ),
    "layer": (widened, ValueError, r"no longer the Unet .* last.weight has shape \(1, 8, 5, 5\)"),
    "function": (
        changed(lambda net: setattr(net, "forward", net.forward)),
        ValueError,
        "functions or layers of its own, in the whole, without which",
    ),
    "option of a layer": (
        changed(lambda net: setattr(net.last, "padding_mode", "circular")),
        ValueError,
        "in last, without which it would be loaded; take them away; or save the weights by safetensors",
    ),
    "layer without weights": (
        changed(lambda net: net.time_embedding.__setitem__(2, nn.ReLU())),
        ValueError,
        "in time_embedding.2, without which",
    ),
}


PASSED = {
    "a hook, which observes": lambda net: net.last.register_forward_hook(lambda *_: None),
    "a dropout, which counts in training": lambda net: setattr(net.middle[0].block.dropout, "p", 0.5),
    "accelerate's precision": lambda net: Accelerator(mixed_precision="bf16", cpu=True).prepare(net),
}


@pytest.mark.parametrize("name", PASSED)
def test_what_changes_no_answer_of_the_model_is_no_reason_not_to_save(tmp_path, name):
    AcceleratorState._reset_state()
    ours = changed(PASSED[name])()
    save_pretrained(ours, tmp_path / "model")
    assert torch.equal(weights(load_pretrained(tmp_path / "model")), weights(ours))
    AcceleratorState._reset_state()


@pytest.mark.parametrize("name", OWN)
def test_what_would_be_loaded_as_something_else_is_not_saved(tmp_path, name):
    make, error, message = OWN[name]
    with pytest.raises(error, match=message):
        save_pretrained(make(), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_weights_of_ones_own_class_go_the_way_that_is_advised(tmp_path):
    saved, loaded = loud(), loud(seed=1)
    with pytest.raises(TypeError) as refused:
        save_pretrained(saved, tmp_path)
    words = re.findall(r"safetensors\.torch\.(\w+)\(model\.network, file\)", str(refused.value))
    for function, ours in zip(words, (saved, loaded), strict=True):
        getattr(safetensors.torch, function)(ours.network, tmp_path / "file")
    assert torch.equal(weights(loaded), weights(saved))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (loud, "network of class Louder"),
        (other, "model of class Other"),
        (own_schedule, "schedule of your own"),
    ],
)
def test_a_run_with_a_class_of_ones_own_is_resumed_by_its_program_alone(tmp_path, make, what):
    ours = trained(tmp_path, make())
    again = trainer(tmp_path, make())
    again.load()
    assert torch.equal(weights(again.diffusion), weights(ours.diffusion))
    with pytest.raises(ValueError, match=f"trained with a {what}, which only your own program can build"):
        load_pretrained(tmp_path)


def test_a_run_of_a_subclass_that_an_earlier_version_wrote_goes_on(tmp_path):
    """It was described as its parent."""
    trained(tmp_path, model())
    trainer(tmp_path, loud()).load()
    with pytest.raises(TypeError, match="only a Unet has a counterpart in diffusers, but got a subclass"):
        to_diffusers(loud().network)


def test_from_pretrained_of_a_subclass_gives_the_subclass(tmp_path):
    ours = model(ddim_sampling_eta=0.5)
    save_pretrained(ours, tmp_path)
    again = Other.from_pretrained(tmp_path)
    assert type(again) is Other
    assert not again.training
    assert again.config == ours.config
    assert torch.equal(weights(again), weights(ours))
    assert type(GaussianDiffusion.from_pretrained(tmp_path)) is GaussianDiffusion


# Files that are not what they should be


def without(part):
    return lambda tensors: {name: x for name, x in tensors.items() if part not in name}


def replaced(name, tensor):
    return lambda tensors: tensors | {name: tensor}


MORE = "Give the configuration that came"
INTEGERS = replaced("last.bias", torch.ones(1, dtype=torch.int8))
SHAPES = r"last.weight has shape \(1, 8, 1, 1\) where the network has \(1, 8, 3, 3\)"
FOREIGN = {
    "half": (without("up."), rf"up\.0.* is missing.*; and \d+ more\. {MORE}"),
    "one": (without("last.bias"), f"last.bias is missing. {MORE}"),
    "more": (replaced("extra", torch.ones(1)), f"extra is not expected. {MORE}"),
    "shape": (replaced("last.weight", torch.ones(1, 8, 1, 1)), SHAPES),
    "whole numbers": (INTEGERS, "last.bias holds torch.int8 where the network has torch.float32"),
    "NaN": (replaced("last.bias", torch.tensor([torch.nan])), "last.bias; the model diverged in training"),
    "whole model": (renamed("network."), "By their names they are those of a whole GaussianDiffusion"),
    "lucidrains": (lambda _: {"model.init_conv.weight": torch.ones(1)}, "denoising-diffusion-pytorch"),
    "diffusers": (lambda _: to_diffusers(model().network)[0], "which ddpm.load_diffusers_unet reads"),
    "nothing": (lambda _: {}, "is missing"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_weights_of_another_network_are_refused_with_what_they_are(tmp_path, name):
    change, message = FOREIGN[name]
    save_pretrained(model(), tmp_path)
    spoiled(tmp_path, change)
    with pytest.raises(ValueError, match=message) as caught:
        load_pretrained(tmp_path)
    assert len(str(caught.value)) < 1000


def instead(old, new):
    return lambda content: content.replace(old, new)


WEIGHTS, CONFIG = "model.safetensors", "config.json"
NO_CONFIG = "not the configuration of a model of this package; give a folder that"
NEWER = "gives {} the options {}, which it does not have: was it written by a newer version"
SAYS = r"\nThat is what .*config.json says\."
THEIRS = json.dumps({"_class_name": "UNet2DModel"}).encode()
DAMAGED = [  # the file, what becomes of it, what is said
    (WEIGHTS, lambda content: content[: len(content) // 2], f"{WEIGHTS} is damaged: "),
    (WEIGHTS, lambda content: content[:100], "is damaged: .*; fetch it again"),
    (WEIGHTS, lambda _: b"", "is damaged: "),
    (WEIGHTS, lambda _: b"PK\x03\x04" * 40, "is damaged: "),  # a pickle
    (WEIGHTS, lambda _: b"version https://git-lfs.github.com/spec", "is damaged: .*; `git lfs pull` fetches"),
    (CONFIG, lambda _: b"{", "config.json is damaged: .*; fetch it again"),
    (CONFIG, lambda _: b"\xff\xfe", "config.json is damaged: "),
    (CONFIG, lambda _: b"[]", NO_CONFIG),
    (CONFIG, lambda _: b'{"model_type": "bert"}', NO_CONFIG),
    (CONFIG, lambda content: json.dumps({"network": json.loads(content)["network"]}).encode(), NO_CONFIG),
    (CONFIG, lambda _: THEIRS, "it is one of diffusers: load_diffusers_unet reads"),
    (CONFIG, instead(b'"dim"', b'"heads": 4, "dim"'), NEWER.format("Unet", "heads")),
    (
        CONFIG,
        instead(b'"timesteps"', b'"flow": true, "timesteps"'),
        NEWER.format("GaussianDiffusion", "flow"),
    ),
    (CONFIG, instead(b'"dim": 8', b'"dim": "8"'), f"dim must be a whole number .*{SAYS}"),
    (CONFIG, instead(b'"dim": 8,', b""), f"missing .* 'dim'{SAYS}"),
    (CONFIG, instead(b'"class_names": null', b'"class_names": 3'), f"class_names must be a list .*{SAYS}"),
    (CONFIG, instead(b'"spacing"', b'"loss_weighting": "x", "spacing"'), f"unknown loss weighting .*{SAYS}"),
]


@pytest.mark.parametrize(("file", "change", "message"), DAMAGED)
def test_files_that_cannot_be_read_are_refused_by_name(tmp_path, file, change, message):
    save_pretrained(model(), tmp_path)
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(change(content))
    assert change(content) != content
    with pytest.raises((ValueError, TypeError), match=message):
        load_pretrained(tmp_path)


# Averages of diffusers

AVERAGED = {"decay": 0.9999, "inv_gamma": 1.0, "min_decay": 0.0, "optimization_step": 100, "power": 0.75}
AVERAGED |= {"update_after_step": 0, "use_ema_warmup": True}


def save_averaged(network, folder):
    """As `EMAModel.save_pretrained` of diffusers does."""
    save_diffusers_unet(network, folder)
    config = json.loads((folder / "config.json").read_text()) | AVERAGED
    (folder / "config.json").write_text(json.dumps(config))


def test_the_average_of_a_run_of_diffusers_is_read(tmp_path):
    raw, average = model(0).network, model(1).network
    save_averaged(average, tmp_path / "run" / "unet_ema")
    for place in ("run", "run/unet_ema"):
        torch.testing.assert_close(weights(load_diffusers_unet(tmp_path / place)), weights(average))
    save_diffusers_unet(raw, tmp_path / "run" / "unet")
    with pytest.warns(
        UserWarning, match="two networks; the average, in unet_ema, is taken: .* the subfolder unet$"
    ):
        both = load_diffusers_unet(tmp_path / "run")
    torch.testing.assert_close(weights(both), weights(average))
    torch.testing.assert_close(weights(load_diffusers_unet(tmp_path / "run" / "unet")), weights(raw))


def test_an_average_that_the_peer_itself_wrote_is_read(tmp_path):
    peer = pytest.importorskip("diffusers")
    training_utils = pytest.importorskip("diffusers.training_utils")
    tensors, config = to_diffusers(model().network)
    theirs = peer.UNet2DModel.from_config(config)
    theirs.load_state_dict(tensors)
    average = training_utils.EMAModel(
        theirs.parameters(), model_cls=peer.UNet2DModel, model_config=theirs.config
    )
    average.save_pretrained(tmp_path / "unet_ema")
    again = load_diffusers_unet(tmp_path)
    torch.testing.assert_close(weights(again), weights(model().network))
    assert copy.deepcopy(again).config == again.config
