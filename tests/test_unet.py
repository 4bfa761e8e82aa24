"""`ddpm.unet`: how its parts are joined, and what a U-Net must never do. The parts' formulas: `tests/equations/`."""

import inspect
import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ddpm import Unet
from ddpm.unet_blocks import AttentionBlock, FourierEmbedding, ResidualBlock, SinusoidalEmbedding
from tests.networks import SMALL_UNET, drawn, randn

SMALL = {"dim": 8, "dim_mults": (1, 2), "channels": 1, "resnet_block_groups": 4}
X, T = randn(2, 1, 8, 8), torch.tensor([1, 500])


def small(**options) -> Unet:
    """A network of two resolutions, with every weight drawn, so that nothing is zero by initialisation."""
    return drawn(Unet(**{**SMALL, **options}), 0.3, seed=1)


# The embeddings of t


def test_embedding_tells_all_timesteps_apart_under_autocast():
    """In bfloat16, 1,000 timesteps would collapse to about 500."""
    with torch.autocast("cpu", torch.bfloat16):
        embedding = SinusoidalEmbedding(32)(torch.arange(1, 1001))
    assert embedding.dtype == torch.float32
    assert len(torch.unique(embedding, dim=0)) == 1000


@pytest.mark.parametrize("learned", [False, True])
def test_fourier_embedding_is_the_timestep_its_sines_and_its_cosines(learned):
    """[t′, sin 2π w t′, cos 2π w t′] for t′ = t/1000, in NumPy; in full precision under autocast too."""
    embedding, t = FourierEmbedding(6, learned=learned), torch.tensor([1, 2, 500, 999, 1000])
    scaled = t.double().numpy()[:, None] / 1000
    angles = 2 * np.pi * scaled * embedding.frequencies.detach().double().numpy()
    with torch.autocast("cpu", torch.bfloat16):
        got = embedding(t)
    assert got.dtype == torch.float32
    expected = np.concatenate([scaled, np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(got.detach().numpy(), expected, rtol=0, atol=3e-6)


def test_fourier_frequencies_are_standard_normal():
    """Mean and variance of 20,000 within 5 standard errors."""
    w = FourierEmbedding(40_000, learned=False).frequencies
    assert abs(w.mean().item()) < 5 / math.sqrt(20_000)
    assert abs(w.var().item() - 1) < 5 * math.sqrt(2 / 20_000)


# The whole


def test_network_joins_its_parts_as_the_papers_figure():
    """Two resolutions of one block: activations, order of layers, which map is joined where, in double precision."""
    network = small(num_classes=3, num_res_blocks=1).double()
    x, t, labels = randn(2, 1, 4, 8).double(), torch.tensor([3, 700]), torch.tensor([2, 0])
    angles = t[:, None] * network.time_embedding[0].frequencies
    time = network.time_embedding[1](torch.cat([angles.sin(), angles.cos()], 1))
    time = F.silu(network.time_embedding[3](F.silu(time)) + network.label_embedding.weight[labels])

    def stage(layer, *maps):
        return layer.attention(layer.block(torch.cat(maps, 1), time))

    (fine, down, coarse), (middle1, middle2) = network.down, network.middle
    up1, up2, rise, up3, up4 = network.up
    attending = [
        stage for stage in network.modules() if isinstance(getattr(stage, "attention", None), AttentionBlock)
    ]
    assert attending == [coarse, middle1, up1, up2]
    first = network.first(x)
    h1 = stage(fine, first)
    h2 = down(h1)
    h3 = stage(coarse, h2)
    h = stage(middle2, stage(middle1, h3))
    h = rise(stage(up2, stage(up1, h, h3), h2))
    h = stage(up4, stage(up3, h, h1), first)
    h = F.group_norm(h, 4, network.last_norm.weight, network.last_norm.bias, eps=1e-6)
    torch.testing.assert_close(network(x, t, labels), network.last(F.silu(h)), rtol=1e-9, atol=1e-9)


def test_the_papers_network_has_35_746_307_parameters():
    """35.7 million (Ho et al. 2020, appendix B), to the last one; `meta` builds and runs it without the memory."""
    with torch.device("meta"):
        network = Unet(128, dim_mults=(1, 2, 2, 2), resnet_block_groups=32, attention_resolutions=(2,))
        assert network(torch.zeros(2, 3, 32, 32), torch.ones(2, dtype=torch.long)).shape == (2, 3, 32, 32)
    assert sum(parameter.numel() for parameter in network.parameters()) == 35_746_307


@pytest.mark.parametrize(
    ("attention", "factors"), [(None, (4,)), ((), ()), ((1, 4), (1, 4)), ([2], (2,)), ((1, 2, 4), (1, 2, 4))]
)
def test_attention_is_where_it_is_asked_for(attention, factors):
    """Per resolution two blocks down and three up, and always one in the middle."""
    network = Unet(8, dim_mults=(1, 2, 3), channels=2, resnet_block_groups=4, attention_resolutions=attention)
    seen = []
    for block in network.modules():
        if isinstance(block, AttentionBlock):
            block.register_forward_pre_hook(lambda _, inputs: seen.append(8 // inputs[0].shape[-1]))
    network(randn(1, 2, 8, 8), torch.tensor([1]))
    assert sorted(seen) == sorted([4, *factors * 5])


@pytest.mark.parametrize(("out", "channels"), [(None, 3), (1, 1), (6, 2)])
@pytest.mark.parametrize("resolutions", [1, 2, 3])
@pytest.mark.parametrize(("init", "blocks"), [(None, 1), (12, 3)])
def test_output_is_shaped_like_the_input(out, channels, resolutions, init, blocks):
    options = {"init_dim": init, "out_dim": out, "channels": channels, "num_res_blocks": blocks}
    network, factor = small(**options, dim_mults=(1, 2, 3)[:resolutions]), 2 ** (resolutions - 1)
    assert network.downsampling == factor
    got = network(randn(2, channels, 3 * factor, factor), T)
    assert got.shape == (2, channels if out is None else out, 3 * factor, factor)


def test_fresh_network_is_zero_its_blocks_the_identity_and_every_part_learns():
    """With so many zeros to start from, gradients reach the last part in the third step."""
    network = Unet(**SMALL)
    assert (network(X, T) == 0).all()
    x, time = randn(2, 8, 4, 4), randn(2, 32)
    assert torch.equal(ResidualBlock(8, 8, time_dim=32, groups=4, dropout=0.0)(x, time), x)
    assert torch.equal(AttentionBlock(8, groups=4)(x), x)
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    for _ in range(4):
        (network(X, T) - X).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert not [name for name, now in network.named_parameters() if torch.equal(before[name], now)]


@pytest.mark.parametrize("kind", ["learned_sinusoidal_cond", "random_fourier_features", "self_condition"])
def test_gradients_reach_every_parameter(kind):
    """Learned frequencies are among them, random ones are not; both are saved with the weights."""
    options = {"learned_sinusoidal_dim": 6, "num_classes": 3, "init_dim": 12, kind: True}
    network, x = small(**options, attention_resolutions=(1, 2)), randn(4, 1, 8, 8)
    estimate = {"x_self_cond": x} if network.self_condition else {}
    out = network(x, torch.tensor([1, 10, 100, 1000]), torch.tensor([0, 1, 2, 1]), **estimate)
    out.square().mean().backward()
    parameters, frequencies = dict(network.named_parameters()), "time_embedding.0.frequencies"
    for name, parameter in parameters.items():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
    assert (frequencies in parameters) == (kind == "learned_sinusoidal_cond")
    assert (frequencies in network.state_dict()) == (kind != "self_condition")
    assert network.time_embedding[1].in_features == (8 if kind == "self_condition" else 7)


def test_no_image_sees_another():
    """The gradient of the answer to image 0 with respect to image 1, its timestep and its label is exactly 0."""
    network = small(num_classes=3, attention_resolutions=(1, 2))
    x, t, labels = randn(3, 1, 8, 8).requires_grad_(), torch.tensor([5, 6, 7]), torch.tensor([0, 1, 2])
    out = network(x, t, labels)
    out[0].square().sum().backward()
    for gradient in (x.grad, network.label_embedding.weight.grad):
        assert gradient[0].abs().max() > 0
        assert (gradient[1:] == 0).all()
    for images in (torch.tensor([2, 0, 1]), torch.tensor([1])):
        alone = network(x[images], t[images], labels[images])
        torch.testing.assert_close(alone, out[images], rtol=1e-4, atol=1e-5)
    assert torch.equal(out, network(x, t, labels.int()))


def test_dropout_works_in_training_only():
    network = small(dropout=0.5)
    assert torch.equal(network(X, T), network(X, T))
    assert not torch.equal(network.train()(X, T), network(X, T))
    still = small().train()
    assert torch.equal(still(X, T), still(X, T))
    assert [module.p for module in network.modules() if isinstance(module, nn.Dropout)] == [0.5] * (2 + 5 * 2)


def test_config_builds_a_twin():
    """Every argument, through JSON; with the weights, which are all that is saved, the twin says the same."""
    options = {"init_dim": 12, "dim_mults": [1, 2], "attention_resolutions": [1], "num_classes": 3}
    options |= dict.fromkeys(("self_condition", "learned_variance", "random_fourier_features"), True)
    options |= {"dropout": 0.1}
    first = small(**{**options, "attention_resolutions": (1,), "dim_mults": (1, 2)})
    assert set(first.config) == set(inspect.signature(Unet).parameters)
    assert first.config | options == first.config
    twin = Unet(**json.loads(json.dumps(first.config))).eval()
    assert twin.config == first.config
    twin.load_state_dict(first.state_dict())
    arguments = X, T, torch.tensor([0, 2]), randn(2, 1, 8, 8, seed=1)
    assert torch.equal(first(*arguments), twin(*arguments))
    assert set(small().state_dict()) == {name for name, _ in small().named_parameters()}


def test_self_conditioning_is_more_channels_of_the_first_convolution():
    """By linearity: conv([x_t, x̂_0]) = conv of x_t by the first half of the weights + conv of x̂_0 by the second."""
    network, plain = small(channels=2, self_condition=True), small(channels=2)
    x, x0 = randn(2, 2, 8, 8), randn(2, 2, 8, 8, seed=1)
    assert (network.self_condition, network.channels, plain.self_condition) == (True, 2, False)
    parts = network.state_dict()
    plain.load_state_dict(parts | {"first.weight": parts["first.weight"][:, :2]})
    # No estimate yet counts as zeros.
    torch.testing.assert_close(network(x, T), plain(x, T), rtol=1e-4, atol=1e-4)
    second = F.conv2d(x0, parts["first.weight"][:, 2:], padding=1)
    plain.first.register_forward_hook(lambda _, __, output: output + second)
    torch.testing.assert_close(network(x, T, x_self_cond=x0), plain(x, T), rtol=1e-4, atol=1e-4)


# Precision and memory


@pytest.mark.parametrize("options", [{}, {"random_fourier_features": True}])
def test_half_precision_weights_do_not_blur_the_time(options):
    """A thousand timesteps stay as many: in bfloat16 there are but 507 whole numbers up to 1000."""
    network, t = small(**options), torch.arange(1, 1001)
    expected = network.time_embedding[0](t)
    got = network.bfloat16().time_embedding[0](t)
    assert torch.equal(got, expected)
    assert len(got.unique(dim=0)) == 1000
    assert network.time_embedding(t).dtype == network(X.bfloat16(), T).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_stem_keeps_full_precision_with_weights_in_half(kind):
    """The image is not rounded: only the weights are, and what comes out."""
    network = small().to(kind)
    weight, bias = network.first.weight.float(), network.first.bias.float()
    expected = F.conv2d(X, weight, bias, padding=1).to(kind)
    assert torch.equal(network._stem(X), expected)
    assert not torch.equal(F.conv2d(X.to(kind).float(), weight, bias, padding=1).to(kind), expected)


def test_stem_keeps_full_precision_under_autocast():
    network, seen = small(), []
    network.first.register_forward_hook(lambda _, __, output: seen.append(output))
    network(X, T)
    with torch.autocast("cpu", torch.bfloat16):
        network(X, T)
    assert torch.equal(*seen)


@pytest.mark.parametrize("size", [(2, 1, 8, 8), (3, 1, 4, 8)])
def test_norms_compute_in_float32_under_autocast_and_return_half(size):
    """Of a map in half precision, too: its rounding comes before and after, none within."""
    network, seen = small(), []
    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
    for norm in norms:
        norm.register_forward_hook(lambda *call: seen.append(call))
    with _Types() as types, torch.autocast("cpu", torch.bfloat16):
        network(randn(*size), torch.tensor([3] * size[0]))
    assert types.of_norms == {torch.float32}
    assert len(seen) == len(norms)
    for norm, (given,), got in seen:
        expected = F.group_norm(
            given.double(), norm.num_groups, norm.weight.double(), norm.bias.double(), 1e-6
        )
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got, expected.bfloat16(), rtol=0.01, atol=1e-5)
    assert {given.dtype for _, (given,), _ in seen} == {torch.float32, torch.bfloat16}


class _Types(TorchDispatchMode):
    """Notes the types of what is normalised."""

    def __init__(self):
        super().__init__()
        self.of_norms = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.native_group_norm.default:
            self.of_norms.add(args[0].dtype)
        return function(*args, **(kwargs or {}))


def test_channels_come_last_in_memory_and_change_nothing():
    network = small(attention_resolutions=(1, 2))
    weight = network.down[0].block.conv2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    got = network(X, T)
    channels_first = network.to(memory_format=torch.contiguous_format)
    torch.testing.assert_close(got, channels_first(X, T), rtol=1e-4, atol=1e-5)


def test_a_network_with_label_dropout_knows_no_label():
    """None, and the class after the last; the other classes and all else are those of a network without."""
    plain = drawn(Unet(**SMALL_UNET, num_classes=3), 0.1)
    ours = Unet(**SMALL_UNET, num_classes=3, label_dropout=0.1).eval()
    assert (plain.null_label, ours.null_label, ours.label_dropout) == (None, 3, 0.1)
    row = randn(1, 32, seed=5)
    embedding = torch.cat([plain.label_embedding.weight, row])
    ours.load_state_dict(plain.state_dict() | {"label_embedding.weight": embedding})
    x, t, labels = randn(2, 1, 8, 8), torch.tensor([3, 40]), torch.tensor([0, 2])
    assert torch.equal(ours(x, t, labels), plain(x, t, labels))
    assert torch.equal(ours(x, t), ours(x, t, torch.tensor([3, 3])))
    plain.label_embedding.weight.data[0] = row
    assert torch.equal(ours(x, t), plain(x, t, torch.tensor([0, 0])))
    assert Unet(**ours.config).null_label == 3
