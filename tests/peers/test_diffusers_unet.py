"""Published weights in our `Unet` against diffusers' `UNet2DModel`, by which they were published.

Both networks of the paper, the one for CIFAR-10 and the one for 256² pixels, with weights that are all drawn, biases
and normalisations too, so that a tensor in the wrong place shows. The second is tried on smaller images.

In float64, with one set of angles, the two agree to 10⁻¹²: the conversion is exact. In float32 they are compared as
they ship. Outputs of size 1 then differ by 2 to 9 · 10⁻⁶, of which 2 to 7 · 10⁻⁶ are the rounding of any such network,
and the rest, at late timesteps, that of angles up to 1000 in either network, by up to 5 · 10⁻⁵.
"""

import copy
import functools
import inspect
import json

import pytest
import torch
from torch import nn

from ddpm import load_diffusers_unet, save_diffusers_unet, to_diffusers
from ddpm.io.diffusers import to_their_names
from ddpm.io.diffusers_config import DEFAULTS
from ddpm.unet import SinusoidalEmbedding
from tests.io.test_diffusers import AT_256, CIFAR10, NETWORKS, SMALL, draw, small

REASON = "diffusers is not installed; it comes with the extra `peers`: pip install -e '.[peers]'"
pytest.importorskip("diffusers", reason=REASON)

from diffusers import UNet2DModel  # noqa: E402

PUBLISHED = {"CIFAR-10": CIFAR10, "256": AT_256}


def peer(config, seed=0):
    """Their network, all drawn."""
    with torch.device("meta"):  # their own initial values would be thrown away
        network = UNet2DModel.from_config(config)
    return draw(network.to_empty(device="cpu"), seed)


def pair(config):
    """Their network, and ours with its weights."""
    theirs = peer(config)
    return theirs, load_diffusers_unet(theirs.state_dict(), theirs.config)


@pytest.fixture(scope="module")
def pairs():
    """Each pair is made once: the larger network has 114 million parameters."""
    return functools.cache(lambda name: pair(PUBLISHED[name]))


def images(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class OurAngles(nn.Module):
    """The sines and cosines of their timestep, in float64, at the frequencies that our network multiplies by."""

    def __init__(self, dim):
        super().__init__()
        self.frequencies = SinusoidalEmbedding(dim).frequencies.double()

    def forward(self, timesteps):
        angles = timesteps.double()[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


def in_float64(theirs, ours):
    """Both in float64, theirs with weights that come from ours without a rounding and with the same frequencies."""
    ours = copy.deepcopy(ours).double()
    tensors, config = to_diffusers(ours)
    theirs = copy.deepcopy(theirs).double()
    theirs.load_state_dict(tensors)
    theirs.time_proj = OurAngles(config["block_out_channels"][0])
    return theirs, ours


def difference(theirs, ours, x, t, labels=None):
    """The largest between their output at t−1 and ours at t."""
    with torch.no_grad():
        return (theirs(x, t - 1, class_labels=labels).sample - ours(x, t, labels)).abs().max().item()


# Outputs


@pytest.mark.parametrize("t", [[1], [2], [100], [500], [1000], [1, 700, 30]])
@pytest.mark.parametrize("size", [(8, 8), (32, 32), (16, 24)])
def test_outputs_for_cifar10(pairs, t, size):
    assert difference(*pairs("CIFAR-10"), images(len(t), 3, *size), torch.tensor(t)) < 1e-5


@pytest.mark.parametrize("t", [1, 300, 1000])
def test_outputs_for_256(pairs, t):
    assert difference(*pairs("256"), images(1, 3, 64, 64), torch.tensor([t])) < 1e-5


def test_class_labels():
    x, t = images(6, 1, 8, 12), torch.tensor([1, 2, 50, 300, 999, 1000])
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    theirs, ours = pair(SMALL)
    assert difference(theirs, ours, x, t, labels) < 1e-5
    with torch.no_grad():
        assert (ours(x, t, labels) - ours(x, t, labels.flip(0).roll(1))).abs().max() > 1e-2


def test_every_timestep_in_float64():
    """1000 timesteps of a small network: the rotation is exact, so what remains is rounding in float64."""
    theirs, ours = in_float64(*pair(SMALL))
    t = torch.arange(1, 1001)
    assert difference(theirs, ours, images(1000, 1, 4, 4).double(), t, t % 3) < 1e-12


def test_published_networks_in_float64(pairs):
    t = torch.tensor([1, 1000])
    assert difference(*in_float64(*pairs("CIFAR-10")), images(2, 3, 8, 8).double(), t) < 1e-12


# Gradients


def check_gradients(theirs, ours, x, t, *, rtol):
    """Those of one number with respect to the image and every parameter, each to `rtol` of its own largest entry.

    The bias of the keys has no effect on attention, so its gradient is 0 and what is computed of it rounding. Hence the
    second term, a thousandth of `rtol` of the largest entry of all.
    """
    weights = images(*x.shape, seed=2).to(x.dtype)
    x_theirs, x_ours = (x.clone().requires_grad_() for _ in range(2))
    theirs.zero_grad()
    ours.zero_grad()
    (theirs(x_theirs, t - 1).sample * weights).sum().backward()
    (ours(x_ours, t) * weights).sum().backward()
    of_theirs = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    of_ours = to_their_names({name: parameter.grad for name, parameter in ours.named_parameters()}, ours)
    assert of_theirs.keys() == of_ours.keys()
    of_theirs, of_ours = of_theirs | {"x": x_theirs.grad}, of_ours | {"x": x_ours.grad}
    largest = max(gradient.abs().max().item() for gradient in of_theirs.values())
    for name, expected in of_theirs.items():
        tolerance = rtol * (expected.abs().max().item() + 1e-3 * largest)
        wrong = (of_ours[name] - expected).abs().max().item()
        assert wrong <= tolerance, f"{name}: {wrong:.1e} > {tolerance:.1e}"


@pytest.mark.parametrize(("name", "side"), [("CIFAR-10", 16), ("256", 64)])
def test_gradients(pairs, name, side):
    check_gradients(*pairs(name), images(1, 3, side, side), torch.tensor([300]), rtol=1e-4)


def test_gradients_in_float64(pairs):
    theirs, ours = in_float64(*pairs("CIFAR-10"))
    check_gradients(theirs, ours, images(1, 3, 16, 16).double(), torch.tensor([300]), rtol=1e-10)


# The way out


@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
def test_save_writes_what_diffusers_reads(options, tmp_path):
    ours = small(**options)
    save_diffusers_unet(ours, tmp_path)
    theirs, report = UNet2DModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    labels = None if ours.num_classes is None else torch.tensor([0, 1, 2])
    x, t = images(3, 1, 8, 12), torch.tensor([1, 500, 1000])
    assert difference(theirs.eval(), ours, x, t, labels) < 1e-5


def test_load_reads_what_diffusers_writes(tmp_path):
    theirs = peer(SMALL)
    theirs.save_pretrained(tmp_path / "unet")
    labels = torch.tensor([0, 1])
    ours = load_diffusers_unet(tmp_path)
    assert difference(theirs, ours, images(2, 1, 8, 8), torch.tensor([1, 900]), labels) < 1e-5


def test_round_trip_of_their_weights(pairs):
    theirs, ours = pairs("CIFAR-10")
    back, config = to_diffusers(ours)
    tensors = theirs.state_dict()
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(back[name], tensor, rtol=0, atol=1e-6)
    said = json.loads(json.dumps(theirs.config | {"sample_size": None}))  # which no Unet knows
    assert {name: said[name] for name in config} == config


# Options


def test_their_defaults_are_those_of_our_table():
    """An option that a configuration does not name is at this value; one that they add has to be looked at."""
    parameters = inspect.signature(UNet2DModel.__init__).parameters
    theirs = {name: parameter.default for name, parameter in parameters.items() if name != "self"}
    assert json.loads(json.dumps(theirs)) == DEFAULTS


def test_one_head_by_its_width():
    """A head as wide as the layer is one head, which is what None means."""
    theirs, ours = pair(SMALL | {"attention_head_dim": 16, "num_class_embeds": None})
    assert difference(theirs, ours, images(1, 1, 8, 8), torch.tensor([10])) < 1e-5
