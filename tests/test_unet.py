"""`ddpm.unet` against NumPy, SciPy, a count of parameters done by hand, and what a U-Net must never do."""

import inspect
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import correlate2d
from scipy.special import expit, softmax
from torch import nn

from ddpm import GaussianDiffusion, Unet
from ddpm.unet import (
    AttentionBlock,
    Downsample,
    FourierEmbedding,
    ResidualBlock,
    SinusoidalEmbedding,
    Upsample,
)

CIFAR10 = {
    "dim": 128,
    "dim_mults": (1, 2, 2, 2),
    "resnet_block_groups": 32,
    "attention_resolutions": (2,),
    "dropout": 0.1,
}


def small(**options) -> Unet:
    """A network of two levels, with every weight drawn, so that nothing is zero by initialisation."""
    torch.manual_seed(0)
    network = Unet(**{"dim": 8, "dim_mults": (1, 2), "channels": 1, "resnet_block_groups": 4, **options})
    return draw_all(network).eval()


def draw_all(module):
    """Draw every parameter, also the ones that start at zero or one."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module


def images(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Parts, each against NumPy


def conv(x, layer, stride=1, pad=((1, 1), (1, 1))):
    """A convolution by SciPy: x of shape (C, H, W) in float64."""
    weight, bias = layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()
    padded = np.pad(x, ((0, 0), *pad))
    maps = [sum(correlate2d(padded[c], kernel[c], "valid") for c in range(len(x))) for kernel in weight]
    return np.stack(maps)[:, ::stride, ::stride] + bias[:, None, None]


def group_norm(x, layer, groups):
    """Each group of channels to mean 0 and variance 1 over its pixels; ε = 1e-6 as in the paper's code."""
    grouped = x.reshape(groups, -1)
    scaled = (grouped - grouped.mean(1, keepdims=True)) / np.sqrt(grouped.var(1, keepdims=True) + 1e-6)
    weight, bias = (p.detach().double().numpy()[:, None, None] for p in (layer.weight, layer.bias))
    return scaled.reshape(x.shape) * weight + bias


def silu(x):
    return x * expit(x)


def linear(x, layer):
    return x @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()


def residual(x, moment, block, groups):
    """A `ResidualBlock` on one image, without dropout; `moment` is the activated embedding."""
    h = conv(silu(group_norm(x, block.norm1, groups)), block.conv1)
    h = h + linear(moment, block.time)[:, None, None]
    h = conv(silu(group_norm(h, block.norm2, groups)), block.conv2)
    same = isinstance(block.shortcut, nn.Identity)
    return h + (x if same else conv(x, block.shortcut, pad=((0, 0), (0, 0))))


def attend(x, block, groups):
    """An `AttentionBlock` on one image: softmax(q kᵀ/√d) v over all pixels, one head."""
    channels, height, width = x.shape
    tokens = group_norm(x, block.norm, groups).reshape(channels, -1).T
    q, k, v = np.split(linear(tokens, block.qkv), 3, axis=1)
    attended = softmax(q @ k.T / math.sqrt(channels), axis=1) @ v
    return x + linear(attended, block.out).T.reshape(channels, height, width)


@pytest.mark.parametrize("dim", [4, 8, 128])
def test_time_embedding_is_sines_then_cosines_with_both_ends(dim):
    """Frequencies 10000^(−i/(half−1)) for i = 0 … half−1, from 1 down to exactly 1/10000."""
    t = torch.tensor([0, 1, 2, 500, 1000, 4000])
    half = dim // 2
    angles = t.numpy()[:, None] * 10_000.0 ** (-np.arange(half) / (half - 1))
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    embedding = SinusoidalEmbedding(dim)(t)
    assert embedding.dtype == torch.float32
    # An angle of 4000 rounded to float32 is off by 1.2e-4.
    np.testing.assert_allclose(embedding.numpy(), expected, rtol=0, atol=3e-4)
    np.testing.assert_allclose(embedding[:3].numpy(), expected[:3], rtol=0, atol=1e-6)


def test_time_embedding_tells_all_levels_apart_under_autocast():
    """In bfloat16, 1,000 levels would collapse to about 500."""
    with torch.autocast("cpu", torch.bfloat16):
        embedding = SinusoidalEmbedding(32)(torch.arange(1, 1001))
    assert len(torch.unique(embedding, dim=0)) == 1000


@pytest.mark.parametrize("dim", [0, 2, 3, 7])
def test_time_embedding_refuses_odd_and_tiny_dimensions(dim):
    with pytest.raises(ValueError, match=f"an even dimension of at least 4, but got {dim}"):
        SinusoidalEmbedding(dim)


@pytest.mark.parametrize("learned", [False, True])
def test_fourier_embedding_is_the_level_its_sines_and_its_cosines(learned):
    """[t′, sin 2π w t′, cos 2π w t′] for t′ = t/1000, in NumPy; in full precision under autocast too."""
    embedding = FourierEmbedding(6, learned=learned)
    t = torch.tensor([1, 2, 500, 999, 1000])
    w = embedding.frequencies.detach().double().numpy()
    scaled = t.double().numpy()[:, None] / 1000
    angles = 2 * np.pi * scaled * w
    expected = np.concatenate([scaled, np.sin(angles), np.cos(angles)], axis=1)
    with torch.autocast("cpu", torch.bfloat16):
        got = embedding(t)
    assert got.shape == (5, 7)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.detach().numpy(), expected, rtol=0, atol=3e-6)
    assert isinstance(embedding.frequencies, nn.Parameter) == learned


def test_fourier_frequencies_are_standard_normal():
    """Mean and variance of 20,000 within 5 standard errors."""
    torch.manual_seed(0)
    w = FourierEmbedding(40_000, learned=False).frequencies
    assert abs(w.mean().item()) < 5 / math.sqrt(20_000)
    assert abs(w.var().item() - 1) < 5 * math.sqrt(2 / 20_000)


def test_neighbouring_levels_have_neighbouring_fourier_features():
    """At the scale t/1000 no wave turns by more than a little from t to t+1; at the scale t they would be scrambled."""
    torch.manual_seed(0)
    features = FourierEmbedding(64, learned=False)(torch.arange(1, 1001))
    assert (features[1:] - features[:-1]).abs().max() < 0.05
    assert len(torch.unique(features, dim=0)) == 1000


@pytest.mark.parametrize(("dim", "dim_out"), [(8, 8), (8, 4)])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_residual_block(dim, dim_out, scale):
    """Also for inputs so small that the ε of the normalisation decides the result."""
    block = draw_all(ResidualBlock(dim, dim_out, time_dim=16, groups=4, dropout=0.5)).eval()
    x, time = scale * images(2, dim, 6, 4), images(2, 16, seed=1)
    expected = [
        residual(one, moment, block, 4)
        for one, moment in zip(x.double().numpy(), time.double().numpy(), strict=True)
    ]
    np.testing.assert_allclose(block(x, time).detach().numpy(), np.stack(expected), rtol=1e-4, atol=1e-4)


def test_attention_block():
    """Every pixel attends to every pixel, softmax(q kᵀ/√d) v, one head; the result is added to the input."""
    block = draw_all(AttentionBlock(8, groups=4))
    x = images(2, 8, 3, 5)
    expected = [attend(one, block, 4) for one in x.double().numpy()]
    np.testing.assert_allclose(block(x).detach().numpy(), np.stack(expected), rtol=1e-4, atol=1e-4)


def test_downsampling_is_padded_below_and_to_the_right_only():
    layer = draw_all(Downsample(4))
    x = images(2, 4, 6, 8)
    expected = [conv(one, layer.conv, stride=2, pad=((0, 1), (0, 1))) for one in x.double().numpy()]
    assert expected[0].shape == (4, 3, 4)
    np.testing.assert_allclose(layer(x).detach().numpy(), np.stack(expected), rtol=1e-4, atol=1e-5)


def test_upsampling_repeats_and_convolves():
    layer = draw_all(Upsample(4))
    x = images(2, 4, 3, 5)
    expected = [conv(one.repeat(2, axis=1).repeat(2, axis=2), layer.conv) for one in x.double().numpy()]
    np.testing.assert_allclose(layer(x).detach().numpy(), np.stack(expected), rtol=1e-4, atol=1e-5)


# The whole


def test_the_whole_network_is_the_papers_figure():
    """Two levels of one block, with labels, against NumPy: activations, order of layers, which map is joined where."""
    network = small(num_classes=3, num_res_blocks=1)
    x, t, labels = images(2, 1, 4, 8), torch.tensor([3, 700]), torch.tensor([2, 0])
    _, dense1, _, dense2 = network.time_embedding
    fine, down, coarse = network.down
    middle1, middle2 = network.middle
    up1, up2, rise, up3, up4 = network.up
    expected = []
    for i, one in enumerate(x.double().numpy()):
        angles = t[i].item() * 10_000.0 ** (-np.arange(4) / 3)
        moment = np.concatenate([np.sin(angles), np.cos(angles)])
        moment = linear(silu(linear(moment, dense1)), dense2)
        moment = silu(moment + network.label_embedding.weight[labels[i]].detach().double().numpy())

        def stage(h, layer, *joined, moment=moment):
            h = residual(np.concatenate([h, *joined]), moment, layer.block, 4)
            return h if isinstance(layer.attention, nn.Identity) else attend(h, layer.attention, 4)

        first = conv(one, network.first)
        h1 = stage(first, fine)
        h2 = conv(h1, down.conv, stride=2, pad=((0, 1), (0, 1)))
        h3 = stage(h2, coarse)
        h = stage(stage(h3, middle1), middle2)
        h = stage(stage(h, up1, h3), up2, h2)
        h = conv(h.repeat(2, axis=1).repeat(2, axis=2), rise.conv)
        h = stage(stage(h, up3, h1), up4, first)
        expected.append(conv(silu(group_norm(h, network.last_norm, 4)), network.last))
    got = network(x, t, labels).detach().numpy()
    np.testing.assert_allclose(got, np.stack(expected), rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def parameters_by_hand(dim, mults, channels, attention, time_dim):  # noqa: C901
    """The paper's network from its description: two blocks down and three up per level, a middle with attention."""

    def convolution(a, b, size=3):
        return a * b * size**2 + b

    def block(a, b):
        shortcut = convolution(a, b, 1) if a != b else 0
        return 2 * a + convolution(a, b) + (time_dim * b + b) + 2 * b + convolution(b, b) + shortcut

    def attend(a):
        return 2 * a + 4 * (a * a + a)

    widths = [dim * mult for mult in mults]
    total = (dim * time_dim + time_dim) + (time_dim**2 + time_dim) + convolution(channels, dim)
    width, skips = dim, [dim]
    for level, out in enumerate(widths):
        for _ in range(2):
            total += block(width, out) + (attend(out) if 2**level in attention else 0)
            width = out
            skips.append(out)
        if level < len(widths) - 1:
            total += convolution(out, out)
            skips.append(out)
    total += 2 * block(width, width) + attend(width)
    for level, out in reversed(list(enumerate(widths))):
        for _ in range(3):
            total += block(width + skips.pop(), out) + (attend(out) if 2**level in attention else 0)
            width = out
        if level > 0:
            total += convolution(out, out)
    assert not skips
    return total + 2 * width + convolution(width, channels)


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_papers_network_has_35_746_307_parameters():
    """35.7 million (Ho et al. 2020, appendix B), to the last one; `meta` builds it without the memory."""
    with torch.device("meta"):
        network = Unet(**CIFAR10)
    assert parameters_by_hand(128, (1, 2, 2, 2), 3, (2,), 512) == 35_746_307
    assert count(network) == 35_746_307


@pytest.mark.parametrize(
    ("attention", "factors"), [(None, (4,)), ((), ()), ((1, 4), (1, 4)), ([2], (2,)), ((1, 2, 4), (1, 2, 4))]
)
def test_attention_is_where_it_is_asked_for(attention, factors):
    """Per level two blocks down and three up, and always one in the middle."""
    network = Unet(8, dim_mults=(1, 2, 3), channels=2, resnet_block_groups=4, attention_resolutions=attention)
    assert count(network) == parameters_by_hand(8, (1, 2, 3), 2, factors, 32)
    blocks = [module for module in network.modules() if isinstance(module, AttentionBlock)]
    assert len(blocks) == 1 + 5 * len(factors)
    seen = set()
    for block in blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.add(8 // inputs[0].shape[-1]))
    network(images(1, 2, 8, 8), torch.tensor([1]))
    assert seen == {4, *factors}


@settings(max_examples=15)
@given(
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    batch=st.integers(1, 3),
    channels=st.integers(1, 4),
    levels=st.integers(1, 3),
    init=st.sampled_from([None, 4, 12]),
    out=st.sampled_from([None, 1, 6]),
    blocks=st.integers(1, 3),
)
def test_shapes(height, width, batch, channels, levels, init, out, blocks):
    network = Unet(
        8,
        init_dim=init,
        out_dim=out,
        dim_mults=(1, 2, 3)[:levels],
        channels=channels,
        resnet_block_groups=4,
        num_res_blocks=blocks,
    )
    factor = 2 ** (levels - 1)
    assert network.downsampling == factor
    x = images(batch, channels, height * factor, width * factor)
    expected = (batch, channels if out is None else out, height * factor, width * factor)
    assert network(x, torch.arange(1, batch + 1)).shape == expected


def test_a_fresh_network_answers_zero_and_each_block_is_the_identity():
    torch.manual_seed(0)
    network = Unet(8, dim_mults=(1, 2), channels=3, resnet_block_groups=4)
    assert (network(images(2, 3, 8, 8), torch.tensor([1, 900])) == 0).all()
    x, time = images(2, 8, 4, 4), images(2, 32)
    assert torch.equal(ResidualBlock(8, 8, time_dim=32, groups=4, dropout=0.0)(x, time), x)
    assert torch.equal(AttentionBlock(8, groups=4)(x), x)


def test_gradients_reach_every_parameter():
    network = small(channels=2, num_classes=3, init_dim=12, attention_resolutions=(1, 2)).train()
    out = network(images(4, 2, 8, 8), torch.tensor([1, 10, 100, 1000]), torch.tensor([0, 1, 2, 1]))
    out.square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_every_part_takes_part_in_the_first_steps_of_training():
    """From the zero start it learns: the error on four fixed images falls to less than half in 60 steps."""
    torch.manual_seed(0)
    network = Unet(8, dim_mults=(1, 2), channels=1, resnet_block_groups=4)
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    diffusion = GaussianDiffusion(network, image_size=8, timesteps=50, beta_schedule="cosine")
    x0, noise, t = images(4, 1, 8, 8).clamp(-1, 1), images(4, 1, 8, 8, seed=1), torch.tensor([10, 20, 30, 45])
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = diffusion.loss(x0, t, noise)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(not torch.equal(before[name], parameter) for name, parameter in network.named_parameters())


def test_time_and_labels_change_the_answer():
    network = small(num_classes=3)
    x = images(1, 1, 8, 8).expand(3, 1, 8, 8)
    t, labels = torch.tensor([7, 7, 7]), torch.tensor([0, 1, 2])
    by_label = network(x, t, labels)
    assert (by_label[0] - by_label[1]).abs().max() > 1e-3
    assert (by_label[1] - by_label[2]).abs().max() > 1e-3
    by_time = network(x, torch.tensor([1, 2, 1000]), torch.tensor([0, 0, 0]))
    assert (by_time[0] - by_time[1]).abs().max() > 1e-3
    assert (by_time[1] - by_time[2]).abs().max() > 1e-3
    assert torch.equal(network(x, t, labels), network(x, t, labels.int()))


def test_no_image_sees_another():
    """The gradient of the answer to image 0 with respect to image 1, its level and its label is exactly 0."""
    network = small(num_classes=3, attention_resolutions=(1, 2))
    x, t, labels = images(3, 1, 8, 8).requires_grad_(), torch.tensor([5, 6, 7]), torch.tensor([0, 1, 2])
    out = network(x, t, labels)
    out[0].square().sum().backward()
    assert x.grad[0].abs().max() > 0
    assert (x.grad[1:] == 0).all()
    embedding = network.label_embedding.weight.grad
    assert embedding[0].abs().max() > 0
    assert (embedding[1:] == 0).all()
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(network(x[order], t[order], labels[order]), out[order], rtol=1e-4, atol=1e-5)
    alone = network(x[1:2], t[1:2], labels[1:2])
    torch.testing.assert_close(alone, out[1:2], rtol=1e-4, atol=1e-5)


def test_every_pixel_can_reach_every_pixel():
    """Through the middle attention, whatever the size of the picture."""
    network = small(attention_resolutions=())
    x = images(1, 1, 16, 16).requires_grad_()
    network(x, torch.tensor([3]))[0, 0, 0, 0].backward()
    assert (x.grad[0, 0] != 0).all()


def test_dropout_works_in_training_only():
    network = small(dropout=0.5)
    x, t = images(2, 1, 8, 8), torch.tensor([1, 2])
    assert torch.equal(network(x, t), network(x, t))
    network.train()
    assert not torch.equal(network(x, t), network(x, t))
    still = small(dropout=0.0).train()
    assert torch.equal(still(x, t), still(x, t))
    blocks = [module for module in network.modules() if isinstance(module, nn.Dropout)]
    assert len(blocks) == 2 + 5 * 2
    assert {block.p for block in blocks} == {0.5}


def test_state_dict_round_trip():
    """Weights only: the frequencies of the time embedding follow from its size."""
    first = small(num_classes=3)
    second = Unet(8, dim_mults=(1, 2), channels=1, resnet_block_groups=4, num_classes=3).eval()
    x, t, labels = images(2, 1, 8, 8), torch.tensor([1, 2]), torch.tensor([0, 2])
    assert not torch.equal(first(x, t, labels), second(x, t, labels))
    assert set(first.state_dict()) == {name for name, _ in first.named_parameters()}
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x, t, labels), second(x, t, labels))


EVERY_OPTION = {
    "dim": 8,
    "init_dim": 12,
    "out_dim": 4,
    "dim_mults": [1, 2],
    "channels": 2,
    "self_condition": True,
    "resnet_block_groups": 4,
    "learned_variance": True,
    "learned_sinusoidal_cond": True,
    "random_fourier_features": False,
    "learned_sinusoidal_dim": 6,
    "num_classes": 3,
    "attention_resolutions": [1],
    "dropout": 0.1,
    "num_res_blocks": 1,
}


@pytest.mark.parametrize("kind", [{}, {"learned_sinusoidal_cond": False, "random_fourier_features": True}])
def test_config_builds_a_twin(kind):
    """Every argument, in the order of the signature and through JSON; with the weights the twin says the same."""
    options = {**EVERY_OPTION, **kind}
    assert list(inspect.signature(Unet).parameters) == list(options)
    first = draw_all(Unet(**options)).eval()
    assert first.config == options
    assert list(first.config) == list(options)
    twin = Unet(**json.loads(json.dumps(first.config))).eval()
    assert twin.config == first.config
    x, t, labels = images(2, 2, 8, 8), torch.tensor([1, 900]), torch.tensor([0, 2])
    x0 = images(2, 2, 8, 8, seed=1)
    assert not torch.equal(first(x, t, labels, x0), twin(x, t, labels, x0))
    twin.load_state_dict(first.state_dict())
    assert torch.equal(first(x, t, labels, x0), twin(x, t, labels, x0))


def test_a_configuration_from_before_the_options_builds_the_same_network():
    old = ("dim", "init_dim", "out_dim", "dim_mults", "channels", "resnet_block_groups", "num_classes")
    network = small(num_classes=3)
    again = Unet(**{name: network.config[name] for name in old}).eval()
    again.load_state_dict(network.state_dict())
    x, t, labels = images(2, 1, 8, 8), torch.tensor([1, 2]), torch.tensor([0, 2])
    assert torch.equal(again(x, t, labels), network(x, t, labels))


# Self-conditioning


def test_self_conditioning_is_more_channels_of_the_first_convolution():
    """By linearity: conv([x_t, x̂_0]) = conv of x_t by the first half of the weights + conv of x̂_0 by the second."""
    network = small(channels=2, self_condition=True)
    x, x0, t = images(3, 2, 8, 8), images(3, 2, 8, 8, seed=1), torch.tensor([1, 20, 1000])
    assert network.self_condition
    assert network.channels == 2
    assert network.first.weight.shape == (8, 4, 3, 3)
    plain = small(channels=2)
    assert not plain.self_condition
    parts = network.state_dict()
    plain.load_state_dict(parts | {"first.weight": parts["first.weight"][:, :2]})
    second = torch.nn.functional.conv2d(x0, parts["first.weight"][:, 2:], padding=1)
    plain.first.register_forward_hook(lambda _, __, output: output + second)
    torch.testing.assert_close(network(x, t, None, x0), plain(x, t), rtol=1e-4, atol=1e-4)


def test_no_estimate_yet_counts_as_zeros():
    network = small(self_condition=True)
    x, t = images(2, 1, 8, 8), torch.tensor([1, 20])
    nothing = network(x, t)
    assert torch.equal(nothing, network(x, t, x_self_cond=torch.zeros_like(x)))
    assert (nothing - network(x, t, x_self_cond=images(2, 1, 8, 8, seed=1))).abs().max() > 1e-3


@pytest.mark.parametrize("shape", [(2, 1, 8, 4), (1, 1, 8, 8), (2, 2, 8, 8), (1, 8, 8)])
def test_an_estimate_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"x_self_cond must be shaped like x_t, \(2, 1, 8, 8\), but got"):
        small(self_condition=True)(
            torch.zeros(2, 1, 8, 8), torch.tensor([1, 2]), x_self_cond=torch.zeros(shape)
        )


def test_an_estimate_that_is_not_expected_is_refused():
    x = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ValueError, match="built without self_condition and takes no x_self_cond"):
        small()(x, torch.tensor([1, 2]), x_self_cond=x)


# Fourier features in the network


def test_learned_frequencies_learn_and_random_ones_do_not():
    for kind, learned in (("learned_sinusoidal_cond", True), ("random_fourier_features", False)):
        network = small(**{kind: True, "learned_sinusoidal_dim": 6}).train()
        assert isinstance(network.time_embedding[0], FourierEmbedding)
        assert network.time_embedding[1].in_features == 7
        parameters = dict(network.named_parameters())
        assert ("time_embedding.0.frequencies" in parameters) == learned
        assert "time_embedding.0.frequencies" in network.state_dict()
        network(images(4, 1, 8, 8), torch.tensor([1, 10, 100, 1000])).square().mean().backward()
        for name, parameter in parameters.items():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_double_precision():
    network = small()
    single = network(images(2, 1, 8, 8), torch.tensor([1, 500]))
    double = network.double()(images(2, 1, 8, 8).double(), torch.tensor([1, 500]))
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=1e-3, atol=1e-3)


def test_half_precision_weights_fail_loudly_rather_than_blur_the_time():
    with pytest.raises(RuntimeError, match="dtype"):
        small().bfloat16()(images(2, 1, 8, 8).bfloat16(), torch.tensor([1, 2]))


def test_autocast_to_bfloat16():
    network = small()
    x, t = images(2, 1, 8, 8), torch.tensor([1, 500])
    with torch.autocast("cpu", torch.bfloat16):
        half = network(x, t)
        loss = GaussianDiffusion(network, image_size=8, timesteps=500).loss(x, t, x)
    assert half.dtype == torch.bfloat16
    reference = network(x, t)
    assert (half.float() - reference).abs().max() < 0.05 * reference.abs().max()
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_channels_come_last_in_memory_and_change_nothing():
    network = small(attention_resolutions=(1, 2))
    weight = network.down[0].block.conv2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    x, t = images(2, 1, 8, 8), torch.tensor([1, 500])
    got = network(x, t)
    channels_first = network.to(memory_format=torch.contiguous_format)
    assert channels_first.down[0].block.conv2.weight.is_contiguous()
    torch.testing.assert_close(got, channels_first(x, t), rtol=1e-4, atol=1e-5)


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim_mults": ()}, r"dim_mults must name at least one level, for example \(1, 2\)"),
        ({"resnet_block_groups": 3}, r"multiple of resnet_block_groups=3, but \[8, 8, 16\] are not"),
        ({"resnet_block_groups": 16}, r"multiple of resnet_block_groups=16, but \[8, 8\] are not"),
        ({"resnet_block_groups": 0}, "multiple of resnet_block_groups=0"),
        ({"init_dim": 6}, r"multiple of resnet_block_groups=4, but \[6\] are not"),
        ({"dim_mults": (1, 0)}, r"but \[0\] are not"),
        ({"dim": 0}, r"every width must be a multiple"),
        (
            {"attention_resolutions": (4,)},
            r"attention_resolutions \[4\] do not exist here.* factors \[1, 2\]",
        ),
        ({"attention_resolutions": (3, 1)}, r"attention_resolutions \[3\] do not exist here"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), but got 1.0"),
        ({"dropout": -0.1}, r"dropout must lie in \[0, 1\), but got -0.1"),
        ({"dropout": math.nan}, r"dropout must lie in \[0, 1\), but got nan"),
        ({"num_res_blocks": 0}, "num_res_blocks must be at least 1, but got 0"),
        ({"channels": 0}, "channels must be at least 1, but got 0"),
        ({"out_dim": 0}, "out_dim must be at least 1, but got 0"),
        ({"num_classes": 0}, "num_classes must be at least 1, but got 0"),
        ({"learned_sinusoidal_dim": 0}, "learned_sinusoidal_dim must be even and at least 2, but got 0"),
        ({"learned_sinusoidal_dim": 7}, "even and at least 2, but got 7"),
        ({"learned_sinusoidal_dim": 1, "random_fourier_features": True}, "even and at least 2, but got 1"),
        (
            {"learned_sinusoidal_cond": True, "random_fourier_features": True},
            "learned_sinusoidal_cond and random_fourier_features are two .* choose one",
        ),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Unet(**{"dim": 8, "dim_mults": (1, 2), "channels": 1, "resnet_block_groups": 4, **options})


@pytest.mark.parametrize("shape", [(2, 1, 7, 8), (2, 1, 8, 7), (2, 3, 8, 8), (1, 8, 8), (2, 1, 8)])
def test_images_that_do_not_fit_are_refused(shape):
    with pytest.raises(
        ValueError, match=r"images of shape \(B, 1, H, W\) with H and W divisible by 2, but got"
    ):
        small()(torch.zeros(shape), torch.tensor([1, 2]))


@pytest.mark.parametrize("t", [torch.tensor([1]), torch.tensor([[1], [2]]), torch.tensor(1)])
def test_anything_but_one_level_per_image_is_refused(t):
    with pytest.raises(ValueError, match=r"t must hold one level per image, shape \(2,\), but got shape"):
        small()(torch.zeros(2, 1, 8, 8), t)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, r"this network needs labels of shape \(2,\), whole numbers in 0 … 2, but got none"),
        (torch.tensor([1]), r"but got torch.int64 of shape \(1,\)"),
        (torch.tensor([[1], [2]]), r"of shape \(2, 1\)"),
        (torch.tensor([0.0, 1.0]), "but got torch.float32"),
        (torch.tensor([0, 3]), "but got values from 0 to 3"),
        (torch.tensor([-1, 2]), "but got values from -1 to 2"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        small(num_classes=3)(torch.zeros(2, 1, 8, 8), torch.tensor([1, 2]), labels)


def test_labels_that_are_not_expected_are_refused():
    with pytest.raises(ValueError, match="built without num_classes and takes no labels"):
        small()(torch.zeros(2, 1, 8, 8), torch.tensor([1, 2]), torch.tensor([0, 1]))
