"""The equations of chapter 13, scaling up: against counts of what is held, simulations and a lossless autoencoder."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ddpm import GaussianDiffusion, LatentDiffusion, Unet
from ddpm.cli.cost import measure_cost
from ddpm.training.config import TrainingConfig
from tests.equations.ledger import equation, exact, quadrature
from tests.networks import SMALL_UNET, randn, seeded

approx = pytest.approx
DOUBLE = torch.float64


# eq:run-memory


def by_cost(model, averages, batch_size):
    cost = measure_cost(model, batch_size=1, averages=averages)
    return cost.fixed_bytes + batch_size * cost.image_bytes


def memory_of(formula):
    """A formula of N, k, B and A as one of a model, with A as the package measures it."""

    def memory(model, averages, batch_size):
        cost = measure_cost(model, batch_size=1)
        return formula(cost.parameters, averages, batch_size, cost.image_bytes)

    return memory


@equation(
    "eq:run-memory",
    how="exact",
    where="ddpm.cli.cost.measure_cost",
    implementation=by_cost,
    mutants={
        "gradient forgotten": memory_of(lambda N, k, B, A: 4 * (3 + k) * N + B * A),
        "one average, whatever k": memory_of(lambda N, _k, B, A: 4 * 5 * N + B * A),
        "one byte each": memory_of(lambda N, k, B, A: (4 + k) * N + B * A),
        "batch forgotten": memory_of(lambda N, k, _B, A: 4 * (4 + k) * N + A),
        "parameters in every picture": memory_of(lambda N, k, B, A: 4 * (4 + k) * N * B + B * A),
    },
)
def test_run_memory(memory):
    """The bytes of all that is held after a step, and of all that autograd has packed before it."""
    torch.manual_seed(0)
    model = GaussianDiffusion(Unet(**(SMALL_UNET | {"dim": 16})), image_size=16, timesteps=30)
    network = model.network
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    for k, B in ((1, 4), (3, 9)):
        kept = {}

        def pack(tensor, kept=kept):
            storage = tensor.untyped_storage()
            kept |= {} if storage.data_ptr() in own else {storage.data_ptr(): storage.nbytes()}
            return tensor

        averages = [copy.deepcopy(network) for _ in range(k)]
        optimizer = torch.optim.Adam(network.parameters())
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(torch.rand(B, 1, 16, 16))
        packed = sum(kept.values())
        loss.backward()
        optimizer.step()
        held = [one for each in (network, *averages) for one in each.parameters()]
        held += [parameter.grad for parameter in network.parameters()]
        held += [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
        network.zero_grad(set_to_none=True)
        assert memory(model, k, B) == approx(sum(one.nbytes for one in held) + packed, rel=0.01)


# eq:checkpoint-memory


@exact(
    "eq:checkpoint-memory",
    implementation=lambda n, c: n / c + c - 1,
    mutants={
        "segments alone": lambda n, c: n / c,
        "first map counted twice": lambda n, c: n / c + c,
        "all of it": lambda n, c: n + c - 1,
        "segment and number exchanged": lambda n, c: c / n + c - 1,
    },
)
def test_checkpoint_memory(most_held):
    """The way back played through: which maps are there at each moment, by their numbers."""
    for n in (4, 36, 100):
        peaks = {}
        for c in (c for c in range(1, n + 1) if n % c == 0):
            held, most = set(range(0, n, c)), 0
            for start in range(n - c, -1, -c):
                held |= set(range(start, start + c))
                most = max(most, len(held))
                held -= set(range(start, start + c))
            assert most_held(n, c) == most
            peaks[c] = most
        assert min(peaks.values()) == peaks[math.isqrt(n)] == 2 * math.sqrt(n) - 1


# eq:accumulated-gradient


@exact(
    "eq:accumulated-gradient",
    implementation=lambda sizes, parts: sum(
        B_k / sum(sizes) * g for B_k, g in zip(sizes, parts, strict=True)
    ),
    mutants={
        "sum": lambda _sizes, parts: sum(parts),
        "mean of the parts": lambda sizes, parts: sum(parts) / len(sizes),
        "not divided": lambda sizes, parts: sum(B_k * g for B_k, g in zip(sizes, parts, strict=True)),
        "largest part": lambda sizes, parts: sum(
            B_k / max(sizes) * g for B_k, g in zip(sizes, parts, strict=True)
        ),
    },
)
def test_accumulated_gradient(add_up):
    """The gradient of a mean of squares by hand: (2/B) Σ x (x·θ − y), of all at once and of its parts."""
    x, y, theta = randn(10, 3, dtype=DOUBLE), randn(10, seed=1, dtype=DOUBLE), randn(3, seed=2, dtype=DOUBLE)
    by_image = 2 * x * (x @ theta - y)[:, None]
    for sizes in ([5, 5], [1, 2, 7], [10]):
        parts = [part.mean(0) for part in by_image.split(sizes)]
        torch.testing.assert_close(add_up(sizes, parts), by_image.mean(0), rtol=1e-12, atol=0)


# eq:power-average and eq:average-width


def window_by_config(u, n, r):
    """f(u) as the package's decays make it: what is taken in at u, an image, and what of it is left at n."""
    config = TrainingConfig(ema_decay=0.999999, ema_update_every=1, ema_rampup=r)
    seen = torch.arange(10, n + 1, 10)
    decays = torch.tensor([config.average_decays(int(i), 10)[0] for i in seen], dtype=DOUBLE)
    left = torch.cat([decays.flip(0).cumprod(0).flip(0)[1:], torch.ones(1, dtype=DOUBLE)])
    return ((1 - decays) * left / 10)[torch.searchsorted(seen, u)]


def power(kappa_of, exponent):
    """A window κ/n (u/n)^exponent."""

    def window(u, n, r):
        kappa = kappa_of(r)
        return kappa / n * (u / n) ** exponent(kappa)

    return window


@equation(
    "eq:power-average",
    how="quadrature",
    where="ddpm.training.config.TrainingConfig.average_decays",
    implementation=window_by_config,
    mutants={
        "exponent κ": power(lambda r: math.log(2) / r, lambda k: k),
        "logarithm forgotten": power(lambda r: 1 / r, lambda k: k - 1),
        "fraction, not its inverse": power(lambda r: math.log(2) * r, lambda k: k - 1),
        "even window": power(lambda r: math.log(2) / r, lambda _: 0.0),
    },
)
def test_power_average(window):
    """The half-life says how the weight of all before u falls: by 2^(−∫ du/(r u)), as a quadrature has it."""
    n, r = 40_000, 0.05
    for first, last in ((20_000, 30_000), (30_000, 36_000), (36_000, 40_000)):
        u = torch.arange(first + 10, last + 1, 10)
        between = (window(u, n, r) * 10).sum().item()
        kept = []
        for start in (first, last):
            grid = torch.linspace(start, n, 20_001, dtype=DOUBLE)
            kept.append(2 ** -torch.trapezoid(1 / (r * grid), grid).item())
        assert between == approx(kept[1] - kept[0], rel=0.01)


@quadrature(
    "eq:average-width",
    implementation=lambda k: math.sqrt(k / ((k + 1) ** 2 * (k + 2))),
    mutants={
        "variance": lambda k: k / ((k + 1) ** 2 * (k + 2)),
        "mean not taken off": lambda k: math.sqrt(k / (k + 2)),
        "square forgotten": lambda k: math.sqrt(k / ((k + 1) * (k + 2))),
        "one exponent more": lambda k: math.sqrt((k + 1) / ((k + 2) ** 2 * (k + 3))),
    },
)
def test_average_width(width):
    """The standard deviation of the density κ u^(κ−1) on [0, 1]."""
    u = torch.linspace(0, 1, 200_001, dtype=DOUBLE)
    for k in (1.5, 5.0, 13.9, 40.0):
        p = k * u ** (k - 1)
        mean = torch.trapezoid(u * p, u)
        assert width(k) == approx(torch.trapezoid((u - mean) ** 2 * p, u).sqrt().item(), rel=1e-4)


# eq:rounding-noise


@exact(
    "eq:rounding-noise",
    implementation=lambda j, b: (2.0 ** (j + 1 - b)) ** 2 / 12,
    mutants={
        "twelfth forgotten": lambda j, b: (2.0 ** (j + 1 - b)) ** 2,
        "one bit fewer": lambda j, b: (2.0 ** (j + 2 - b)) ** 2 / 12,
        "spacing for its square": lambda j, b: 2.0 ** (j + 1 - b) / 12,
        "whatever the size": lambda _j, b: (2.0 ** (-b)) ** 2 / 12,
    },
)
def test_rounding_noise(variance):
    """The types of torch, on an even grid of numbers between two powers of two."""
    for kind, b in ((torch.bfloat16, 8), (torch.float16, 11)):
        for j in (-3, -1, 0, 2):
            x = 2.0**j * (1 + (torch.arange(400_000, dtype=DOUBLE) + 0.5) / 400_000)
            error = (x.to(kind).double() - x).square().mean().item()
            assert variance(j, b) == approx(error, rel=0.01)


# eq:latent-scale


class Folded(nn.Module):
    """An autoencoder that loses nothing: every 2×2 pixels are four channels, times a number."""

    channels = 1

    def encode(self, x):
        return 3 * F.pixel_unshuffle(x, 2)

    def decode(self, z):
        return F.pixel_shuffle(z / 3, 2)


class Silent(nn.Module):
    channels = 4

    def forward(self, x_t, t, labels=None):  # noqa: ARG002
        return torch.zeros_like(x_t)


def both_ways(images, m, s):
    model = LatentDiffusion(Silent(), Folded(), image_size=4, timesteps=30, mean=m, deviation=s)
    x0 = model.to_x0(images)
    return x0, model.to_images(x0)


def by(there, back):
    """Both ways by other formulas."""

    def ways(images, m, s):
        x0 = there(Folded().encode(2 * images - 1), m, s)
        return x0, (Folded().decode(back(x0, m, s)) + 1) / 2

    return ways


@equation(
    "eq:latent-scale",
    how="exact",
    where="ddpm.latent.LatentDiffusion.to_x0",
    implementation=both_ways,
    mutants={
        "width kept": by(lambda z, m, _s: z - m, lambda x, m, _s: x + m),
        "mean kept": by(lambda z, _m, s: z / s, lambda x, _m, s: s * x),
        "divided before the mean is taken": by(lambda z, m, s: z / s - m, lambda x, m, s: s * (x + m)),
        "variance for deviation": by(lambda z, m, s: (z - m) / s**2, lambda x, m, s: s**2 * x + m),
        "way back without the mean": by(lambda z, m, s: (z - m) / s, lambda x, _m, s: s * x),
    },
)
def test_latent_scale(ways):
    """Codes of mean 0 and deviation 1 channel by channel, and the pictures as they were."""
    images = torch.rand(500, 1, 4, 4, generator=seeded(0)) * torch.tensor([0.2, 0.9]).repeat(2)
    codes = Folded().encode(2 * images - 1)
    x0, back = ways(images, codes.mean((0, 2, 3)).view(-1, 1, 1), codes.std((0, 2, 3)).view(-1, 1, 1))
    torch.testing.assert_close(x0.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(x0.std((0, 2, 3)), torch.ones(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(back, images, rtol=0, atol=1e-5)
