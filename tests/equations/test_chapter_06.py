"""The equations of chapter 6: the clock, the parts of the U-Net, how far it sees and what it costs."""

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm import Unet
from ddpm.book.layer_costs import layer_costs
from ddpm.unet import AttentionBlock, Downsample, ResidualBlock, SinusoidalEmbedding, Upsample
from tests.equations.ledger import equation, exact
from tests.networks import drawn, randn, seeded

# eq:time-embedding, eq:embedding-product, eq:embedding-shift


def waves(
    t: Tensor, dim: int, *, base: float = 10_000, last: int = 1, first: int = 0
) -> tuple[Tensor, Tensor]:
    """Sines and cosines at speeds base^(−(i + first)/(dim/2 − last))."""
    powers = (torch.arange(dim // 2, dtype=torch.float64) + first) / (dim // 2 - last)
    angles = t.double()[:, None] * base**-powers
    return angles.sin(), angles.cos()


@exact(
    "eq:time-embedding",
    where="ddpm.unet.SinusoidalEmbedding.forward",
    implementation=lambda t, dim: SinusoidalEmbedding(dim)(t),
    mutants={
        "cosines first": lambda t, dim: torch.cat(waves(t, dim)[::-1], 1),
        "divided by h": lambda t, dim: torch.cat(waves(t, dim, last=0), 1),
        "from i = 1 on": lambda t, dim: torch.cat(waves(t, dim, last=0, first=1), 1),
        "base of 1000": lambda t, dim: torch.cat(waves(t, dim, base=1000), 1),
        "turns, not radians": lambda t, dim: torch.cat(waves(2 * math.pi * t, dim), 1),
        "interleaved": lambda t, dim: torch.stack(waves(t, dim), 2).flatten(1),
    },
)
def test_time_embedding(embedding):
    """Hands turned step by step: each level multiplies the complex number of a hand by one rotation."""
    levels, dim = 60, 12
    got = embedding(torch.arange(levels), dim)
    slowdown = 10_000 ** (-1 / (dim // 2 - 1))
    speed = 1.0
    for i in range(dim // 2):
        step, hand = complex(math.cos(speed), math.sin(speed)), complex(1, 0)
        for t in range(levels):
            assert abs(got[t, i].item() - hand.imag) < 1e-4
            assert abs(got[t, dim // 2 + i].item() - hand.real) < 1e-4
            hand *= step
        speed *= slowdown
    assert math.isclose(speed / slowdown, 1e-4)


def speeds(half: int) -> Tensor:
    """The speeds of the hands, as the package's embedding has them."""
    return SinusoidalEmbedding(2 * half).frequencies.double()


@exact(
    "eq:embedding-product",
    implementation=lambda half, t, s: (speeds(half) * (t - s)).cos().sum(),
    mutants={
        "sum of the levels": lambda half, t, s: (speeds(half) * (t + s)).cos().sum(),
        "sines": lambda half, t, s: (speeds(half) * (t - s)).sin().sum(),
        "the mean": lambda half, t, s: (speeds(half) * (t - s)).cos().mean(),
        "slowest hand left out": lambda half, t, s: (speeds(half) * (t - s)).cos()[:-1].sum(),
    },
)
def test_embedding_product(formula):
    """Inner products of the package's embeddings."""
    for half, (t, s) in product((4, 32), ((5, 5), (3, 17), (900, 1), (1000, 998))):
        e = SinusoidalEmbedding(2 * half)(torch.tensor([t, s])).double()
        assert abs((e[0] @ e[1] - formula(half, t, s)).item()) < 2e-3  # the embedding has single precision


def turned(sines: Tensor, cosines: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    """The page's two lines."""
    return (
        angles.cos() * sines + angles.sin() * cosines,
        angles.cos() * cosines - angles.sin() * sines,
    )


@exact(
    "eq:embedding-shift",
    implementation=turned,
    mutants={
        "backwards": lambda s, c, a: turned(s, c, -a),
        "both signs plus": lambda s, c, a: (a.cos() * s + a.sin() * c, a.cos() * c + a.sin() * s),
        "sine and cosine exchanged": lambda s, c, a: (a.sin() * s + a.cos() * c, a.sin() * c - a.cos() * s),
    },
)
def test_embedding_shift(formula):
    """The embedding of t, turned, is that of t + k."""
    embedding, t = SinusoidalEmbedding(16), torch.tensor([1, 30, 500])
    for k in (-1, 1, 37):
        sines, cosines = embedding(t).double().chunk(2, dim=1)
        got = torch.cat(formula(sines, cosines, k * embedding.frequencies.double()), 1)
        torch.testing.assert_close(got, embedding(t + k).double(), rtol=0, atol=1e-3)


# eq:group-norm and eq:residual-block


def maps(*shape: int, seed: int = 0) -> Tensor:
    """Random maps in double precision."""
    return randn(*shape, seed=seed, dtype=torch.float64)


def block_of(dim: int, dim_out: int) -> nn.Module:
    """A block with weights that are not zero."""
    return drawn(ResidualBlock(dim, dim_out, time_dim=6, groups=2, dropout=0.5).double(), 0.4)


def normalised(h: Tensor, norm: nn.GroupNorm, dims: tuple[int, ...] = (2, 3, 4), **change: float) -> Tensor:
    """Group normalisation, with the axes of the mean and with the details that mutants change."""
    grouped = h.unflatten(1, (norm.num_groups, -1))
    mean = grouped.mean(dims, keepdim=True)
    variance = grouped.var(dims, keepdim=True, correction=change.get("correction", 0))
    scaled = (grouped - mean) / (variance + change.get("eps", 1e-6)) ** change.get("power", 0.5)
    return scaled.flatten(1, 2) * norm.weight[:, None, None] + norm.bias[:, None, None]


@exact(
    "eq:group-norm",
    where="torch.nn.functional.group_norm",
    implementation=lambda h, norm: norm(h),
    mutants={
        "root dropped": lambda h, norm: normalised(h, norm, power=1.0),
        "over the batch as well": lambda h, norm: normalised(h, norm, (0, 2, 3, 4)),
        "each channel by itself": lambda h, norm: normalised(h, norm, (3, 4)),
        "all channels together": lambda h, norm: (
            F.layer_norm(h, h.shape[1:], eps=1e-6) * norm.weight[:, None, None] + norm.bias[:, None, None]
        ),
        "n − 1": lambda h, norm: normalised(h, norm, correction=1),
        "ε of 1e-5": lambda h, norm: normalised(h, norm, eps=1e-5),
        "offset dropped": lambda h, norm: normalised(h, norm) - norm.bias[:, None, None],
    },
)
def test_group_norm(formula):
    """The norm of the package's block, against a loop in NumPy over pictures and groups; ε shows on faint maps."""
    norm = block_of(6, 6).norm1
    h = 0.01 * maps(3, 6, 4, 5) + 2
    got = formula(h, norm).detach().numpy()
    scale, offset = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    for picture, channel in product(range(3), range(6)):
        group = slice(channel // 3 * 3, channel // 3 * 3 + 3)
        numbers = h[picture, group].numpy().ravel()
        spread = math.sqrt(sum((numbers - numbers.mean()) ** 2) / len(numbers) + 1e-6)
        expected = scale[channel] * (h[picture, channel].numpy() - numbers.mean()) / spread + offset[channel]
        np.testing.assert_allclose(got[picture, channel], expected, rtol=1e-9, atol=1e-9)


def block_variant(change: str):
    """The block of the page with one mistake."""

    def run(x, time, block):
        told = block.time(time)[:, :, None, None]
        bend = torch.relu if change == "another bend" else F.silu
        u = block.conv1(bend(block.norm1(x))) + (0 if change.startswith("time") else told)
        y = bend(u if change == "second norm forgotten" else block.norm2(u))
        y = block.conv2(block.norm2(bend(u)) if change == "bend before the norm" else y)
        y = y + told if change == "time at the end" else y
        return y if change == "no shortcut" else y + block.shortcut(x)

    return run


def convolved(x: np.ndarray, layer: nn.Conv2d) -> np.ndarray:
    """One picture, convolved pixel by pixel with zeros around it."""
    weight, side = layer.weight.detach().numpy(), layer.kernel_size[0] // 2
    padded = np.pad(x, ((0, 0), (side, side), (side, side)))
    result = np.zeros((len(weight), *x.shape[1:]))
    for i, j in product(range(x.shape[1]), range(x.shape[2])):
        window = padded[:, i : i + 2 * side + 1, j : j + 2 * side + 1]
        result[:, i, j] = np.einsum("ocmn,cmn->o", weight, window)
    return result + (0 if layer.bias is None else layer.bias.detach().numpy()[:, None, None])


def bent(x: np.ndarray) -> np.ndarray:
    """SiLU."""
    return x / (1 + np.exp(-x))


@exact(
    "eq:residual-block",
    where="ddpm.unet.ResidualBlock.forward",
    implementation=lambda x, time, block: block(x, time),
    mutants={
        change: block_variant(change)
        for change in (
            "another bend",
            "time forgotten",
            "time at the end",
            "bend before the norm",
            "second norm forgotten",
            "no shortcut",
        )
    },
)
def test_residual_block(formula):
    """Pixel by pixel in NumPy, with and without a change of width."""
    time = maps(2, 6, seed=3)
    for dim_out in (4, 6):
        block, x = block_of(4, dim_out), maps(2, 4, 5, 3)
        got = formula(x, time, block).detach().numpy()
        with torch.no_grad():
            for picture in range(2):
                u = convolved(bent(normalised(x, block.norm1)[picture].numpy()), block.conv1)
                told = block.time.weight.numpy() @ time[picture].numpy() + block.time.bias.numpy()
                u = u + told[:, None, None]
                v = normalised(torch.from_numpy(u)[None], block.norm2)[0].numpy()
                same = isinstance(block.shortcut, nn.Identity)
                kept = x[picture].numpy() if same else convolved(x[picture].numpy(), block.shortcut)
                np.testing.assert_allclose(got[picture], kept + convolved(bent(v), block.conv2), atol=1e-9)


# eq:attention, eq:dot-product-variance, eq:attention-flops


def attending(*, scale: float = 0.5, axis: int = -1, swap: bool = False, shortcut: bool = True):
    """Attention by matrices, with the details that mutants change."""

    def run(x, block):
        rows = block.norm(x).flatten(2).transpose(1, 2)
        q, k, v = block.qkv(rows).chunk(3, dim=-1)
        q, v = (v, q) if swap else (q, v)
        weights = torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** scale, dim=axis)
        answer = block.out(weights @ v).transpose(1, 2).view_as(x)
        return x + answer if shortcut else answer

    return run


@exact(
    "eq:attention",
    where="ddpm.unet.AttentionBlock.forward",
    implementation=lambda x, block: block(x),
    mutants={
        "not divided": attending(scale=0.0),
        "divided by d": attending(scale=1.0),
        "softmax over the queries": attending(axis=-2),
        "queries and values exchanged": attending(swap=True),
        "no shortcut": attending(shortcut=False),
    },
)
def test_attention(formula):
    """One pixel after the other: scores, their exponentials, the weighted mean of the values."""
    block = drawn(AttentionBlock(4, groups=2).double(), 0.4)
    x = 2 * maps(2, 4, 2, 3)
    got = formula(x, block).detach().numpy()
    with torch.no_grad():
        rows = normalised(x, block.norm).flatten(2).numpy()  # (B, d, N)
        matrices = np.split(block.qkv.weight.numpy(), 3)
        offsets = np.split(block.qkv.bias.numpy(), 3)
        for picture, place in product(range(2), range(6)):
            q, k, v = (
                [matrix @ rows[picture, :, n] + offset for n in range(6)]
                for matrix, offset in zip(matrices, offsets, strict=True)
            )
            fits = [math.exp(sum(a * b for a, b in zip(q[place], key, strict=True)) / 2) for key in k]
            mean = sum(fit * value for fit, value in zip(fits, v, strict=True)) / sum(fits)
            answer = block.out.weight.numpy() @ mean + block.out.bias.numpy()
            expected = x[picture].flatten(1)[:, place].numpy() + answer
            np.testing.assert_allclose(got[picture].reshape(4, 6)[:, place], expected, atol=1e-9)


@equation(
    "eq:dot-product-variance",
    how="Monte Carlo",
    error_bar="5 standard errors of 40,000 draws",
    where=None,
    implementation=lambda d: d,
    mutants={"the root": math.sqrt, "the square": lambda d: d**2, "one": lambda _: 1, "2d": lambda d: 2 * d},
)
def test_dot_product_variance(formula):
    """Entries of mean 0 and variance 1, normal and of another shape; within 5 standard errors of 40,000 draws."""
    count = 40_000
    for d in (3, 16, 100):
        q = maps(count, d, seed=d)
        k = math.sqrt(12) * (torch.rand(count, d, generator=seeded(d)).double() - 0.5)
        scores = (q * k).sum(1)
        error = ((scores - scores.mean()) ** 2).std() / math.sqrt(count)
        assert abs(scores.var() - formula(d)) < 5 * error


class Tally:
    """A number that counts the multiplications and additions it takes part in."""

    done = 0

    def count(self, _: "Tally") -> "Tally":
        Tally.done += 1
        return self

    __mul__ = __add__ = count


def counted(products: list[tuple[int, int, int]]) -> int:
    """Operations of products of matrices, (rows, inner, columns), each sum begun with what is there already."""
    number, Tally.done = Tally(), 0
    for rows, inner, columns in products:
        for _ in range(rows * columns):
            total = Tally()
            for _ in range(inner):
                total = total + number * number
    return Tally.done


def charged(layer: str, network: Unet, size: tuple[int, int]) -> int:
    """What the package's ledger charges for a layer."""
    return next(cost.flops for cost in layer_costs(network, size) if cost.name == layer)


ONE_STAGE = {"dim_mults": (1,), "resnet_block_groups": 1, "num_res_blocks": 1}


def attention_by_ledger(pixels: int, d: int) -> int:
    """What the package's ledger charges for attention in one stage: with it, less without it."""
    pair = (Unet(d, attention_resolutions=levels, channels=1, **ONE_STAGE) for levels in ((1,), ()))
    attending, plain = (charged("down.0", network, (1, pixels)) for network in pair)
    return attending - plain


@exact(
    "eq:attention-flops",
    where="ddpm.book.layer_costs.layer_costs",
    implementation=attention_by_ledger,
    mutants={
        "multiplications only": lambda n, d: 4 * n * d**2 + 2 * n**2 * d,
        "one product of pairs": lambda n, d: 8 * n * d**2 + 2 * n**2 * d,
        "three projections": lambda n, d: 6 * n * d**2 + 4 * n**2 * d,
        "pairs counted once": lambda n, d: 8 * n * d**2 + 4 * n * d,
    },
)
def test_attention_flops(formula):
    """Multiplications and additions, one by one: four projections, all queries with all keys, weights with values."""
    for pixels, d in ((3, 4), (6, 8)):
        products = [*[(pixels, d, d)] * 4, (pixels, d, pixels), (pixels, pixels, d)]
        assert formula(pixels, d) == counted(products)


# eq:downsample and eq:upsample


def strided(shift: int, stride: int = 2):
    """A convolution that reads x at 2i + m + shift."""

    def run(x, layer):
        height, width = x.shape[2] // 2, x.shape[3] // 2
        padded = F.pad(x, (2, 2, 2, 2))[:, :, 2 + shift :, 2 + shift :]
        out = F.conv2d(padded, layer.conv.weight, layer.conv.bias, stride=stride)
        return out[:, :, :height, :width]

    return run


def read(x: Tensor, picture: int, i: int, j: int) -> np.ndarray:
    """All channels at one place; zero beyond the border."""
    inside = 0 <= i < x.shape[2] and 0 <= j < x.shape[3]
    return x[picture, :, i, j].numpy() if inside else np.zeros(x.shape[1])


def check_sums(got: Tensor, conv: nn.Conv2d, x: Tensor, place: Callable[[int, int], int]) -> None:
    """Every output is the bias and nine products with weights m, n = 0 … 2, which read x where `place` says."""
    weight, bias = conv.weight.detach().numpy(), conv.bias.detach().numpy()
    for picture, i, j in product(*(range(got.shape[axis]) for axis in (0, 2, 3))):
        expected = bias + sum(
            weight[:, :, m, n] @ read(x, picture, place(i, m), place(j, n))
            for m, n in product(range(3), range(3))
        )
        np.testing.assert_allclose(got[picture, :, i, j].detach().numpy(), expected, atol=1e-12)


@exact(
    "eq:downsample",
    where="ddpm.unet.Downsample.forward",
    implementation=lambda x, layer: layer(x),
    mutants={
        "padded on all sides": strided(-1),
        "one further": strided(1),
        "every place": strided(0, stride=1),
        "bias dropped": lambda x, layer: layer(x) - layer.conv.bias[:, None, None],
        "transposed kernel": lambda x, layer: F.conv2d(
            F.pad(x, (0, 1, 0, 1)), layer.conv.weight.transpose(2, 3), layer.conv.bias, stride=2
        ),
    },
)
def test_downsample(formula):
    """The sum on the page, place by place."""
    layer, x = drawn(Downsample(2).double(), 0.4), maps(2, 2, 6, 4)
    got = formula(x, layer)
    assert got.shape == (2, 2, 3, 2)
    check_sums(got, layer.conv, x, lambda i, m: 2 * i + m)


@exact(
    "eq:upsample",
    where="ddpm.unet.Upsample.forward",
    implementation=lambda x, layer: layer(x),
    mutants={
        "rounded up": lambda x, layer: layer.conv(
            F.pad(F.interpolate(x, scale_factor=2.0), (-1, 1, -1, 1), mode="replicate")
        ),
        "bilinear": lambda x, layer: layer.conv(F.interpolate(x, scale_factor=2.0, mode="bilinear")),
        "zeros in between": lambda x, layer: layer.conv(
            F.interpolate(x, scale_factor=2.0) * torch.tensor([1.0, 0.0]).repeat(x.shape[3])
        ),
        "convolved first": lambda x, layer: F.interpolate(layer.conv(x), scale_factor=2.0),
    },
)
def test_upsample(formula):
    """The two lines on the page, place by place."""
    layer, x = drawn(Upsample(2).double(), 0.4), maps(2, 2, 3, 2)
    got = formula(x, layer)
    assert got.shape == (2, 2, 6, 4)
    check_sums(got, layer.conv, x, lambda i, m: (i + m - 1) // 2)


# eq:receptive-field


def seen(layers: list[tuple[int, int]]) -> int:
    """1 + Σ (k − 1) j for pairs of kernel size and stride."""
    size, jump = 1, 1
    for kernel, stride in layers:
        size, jump = size + (kernel - 1) * jump, jump * stride
    return size


def seen_wrongly(change: str):
    """The sum with one mistake."""
    own = change == "own stride counted"

    def size(layers):
        total, jump = 0 if change == "the pixel itself forgotten" else 1, 1
        for kernel, stride in layers:
            following = 1 if change == "jumps ignored" else jump * stride
            total += (kernel if change == "k for k − 1" else kernel - 1) * (following if own else jump)
            jump = following
        return total

    return size


@exact(
    "eq:receptive-field",
    implementation=seen,
    mutants={
        change: seen_wrongly(change)
        for change in ("the pixel itself forgotten", "own stride counted", "k for k − 1", "jumps ignored")
    },
)
def test_receptive_field(formula):
    """Gradients of chains of convolutions with positive weights: how many inputs one output depends on."""
    for layers in (
        [(3, 1), (3, 2), (3, 1)],
        [(3, 1), (3, 2), (5, 1), (3, 2), (1, 1), (3, 1)],
        [(2, 2), (4, 1)],
    ):
        x = torch.ones(1, 1, 100, dtype=torch.float64, requires_grad=True)
        h = x
        for kernel, stride in layers:
            h = F.conv1d(h, torch.ones(1, 1, kernel, dtype=torch.float64), stride=stride)
        h[0, 0, 0].backward()
        assert formula(layers) == int((x.grad != 0).sum())


# eq:conv-flops


def convolution_by_ledger(c_in: int, c_out: int, height: int, width: int) -> int:
    """What the package's ledger charges for the first convolution of a network, which is 3×3."""
    return charged("first", Unet(c_out, channels=c_in, **ONE_STAGE), (height, width))


@exact(
    "eq:conv-flops",
    where="ddpm.book.layer_costs.layer_costs",
    implementation=convolution_by_ledger,
    mutants={
        "multiplications only": lambda c_in, c_out, h, w: 9 * c_in * c_out * h * w,
        "k for k²": lambda c_in, c_out, h, w: 2 * 3 * c_in * c_out * h * w,
        "one channel in": lambda c_in, c_out, h, w: 2 * 9 * c_out * h * w + 0 * c_in,
        "height twice": lambda c_in, c_out, h, w: 2 * 9 * c_in * c_out * h * h + 0 * w,
        "once, not per pixel": lambda c_in, c_out, h, w: 2 * 9 * c_in * c_out + 0 * h * w,
    },
)
def test_conv_flops(formula):
    """Multiplications and additions of a 3×3 convolution, counted one by one."""
    for c_in, c_out, height, width in ((1, 4, 2, 3), (3, 8, 3, 2)):
        assert formula(c_in, c_out, height, width) == counted([(1, 9 * c_in, c_out)] * height * width)
