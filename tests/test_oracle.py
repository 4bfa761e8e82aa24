"""The exact denoisers against quadrature, brute force, simulation, torch's own distributions and each other."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from ddpm import (
    EmpiricalOracle,
    GaussianMixtureOracle,
    NoiseSchedule,
    ancestral,
    cosine_betas,
    ddim,
    gaussians,
)
from ddpm.likelihood import vlb_terms
from ddpm.mixture_oracle import choose
from ddpm.prediction import full_timesteps
from tests.networks import GaussianDenoiser, schedule_64

ROOT = Path(__file__).parents[1]
ERROR_BARS = 4.5  # how many standard errors a Monte Carlo mean may be off: about 1 in 150,000
BETAS = [0.02, 0.1, 0.3, 0.5, 0.7]
SHORT = NoiseSchedule(BETAS, dtype=torch.float64)  # T = 5, far too short for a Gaussian step back
WEIGHTS, MEANS, VARIANCES = [0.2, 0.5, 0.3], [-1.0, 0.3, 0.8], [0.04, 0.01, 0.09]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def alpha_bar(t: int) -> float:
    return math.prod(1 - beta for beta in BETAS[:t])


def line() -> GaussianMixtureOracle:
    return GaussianMixtureOracle(SHORT, [[m] for m in MEANS], VARIANCES, WEIGHTS)


def space(schedule: NoiseSchedule = SHORT) -> GaussianMixtureOracle:
    """Three components in three dimensions, each with axes of its own, as images of shape (3, 1, 1)."""
    means = 0.7 * torch.randn(3, 3, generator=seeded(1), dtype=torch.float64)
    roots = 0.3 * torch.randn(3, 3, 3, generator=seeded(2), dtype=torch.float64)
    covariances = roots @ roots.mT + 0.02 * torch.eye(3, dtype=torch.float64)
    return GaussianMixtureOracle(schedule, means, covariances, WEIGHTS, shape=(3, 1, 1))


def spatial_parts() -> tuple[Tensor, Tensor, Tensor]:
    weights, means, covariances = space().marginal(0)
    return weights, means, covariances


def column(x: np.ndarray | Tensor) -> Tensor:
    return torch.as_tensor(x, dtype=torch.float64).view(-1, 1, 1, 1)


def noised(x0: Tensor, t: int, generator: torch.Generator) -> Tensor:
    """x_t by t single steps of the chain, not by the closed form."""
    for beta in BETAS[:t]:
        x0 = math.sqrt(1 - beta) * x0 + math.sqrt(beta) * torch.randn(
            x0.shape, generator=generator, dtype=x0.dtype
        )
    return x0


def assert_same_mean(a: Tensor, b: Tensor) -> None:
    """Two independent samples of shape (N, …) have one mean, within the error bar of their difference."""
    error = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
    assert ((a.mean(0) - b.mean(0)).abs() <= ERROR_BARS * error).all()


def moments(x: Tensor) -> Tensor:
    """x, its products in pairs and something bounded: (N, D) → (N, M)."""
    pairs = (x[:, :, None] * x[:, None, :]).flatten(1)
    return torch.cat([x, pairs, torch.tanh(3 * x), (x > 0.2).to(x)], 1)


# Quadrature in one dimension. The trapezoidal rule is exact to rounding for Gaussians much wider than its step.

GRID = np.linspace(-8, 8, 32_001)
STEP = GRID[1] - GRID[0]


def data_density(x: np.ndarray) -> np.ndarray:
    parts = zip(WEIGHTS, MEANS, VARIANCES, strict=True)
    return np.sum([w * stats.norm.pdf(x, m, math.sqrt(v)) for w, m, v in parts], axis=0)


def data_distribution(x: np.ndarray) -> np.ndarray:
    parts = zip(WEIGHTS, MEANS, VARIANCES, strict=True)
    return np.sum([w * stats.norm.cdf(x, m, math.sqrt(v)) for w, m, v in parts], axis=0)


def joint_density(x_t: float, t: int) -> np.ndarray:
    """p(x_0) q(x_t | x_0) for every x_0 of the grid."""
    kernel = stats.norm.pdf(x_t, math.sqrt(alpha_bar(t)) * GRID, math.sqrt(1 - alpha_bar(t)))
    return data_density(GRID) * kernel


@pytest.mark.parametrize("t", [1, 2, 3, 4, 5])
def test_density_and_posterior_mean_against_quadrature(t: int) -> None:
    points = np.array([-2.5, -1.1, -0.4, 0.0, 0.31, 0.77, 1.9])
    joint = np.stack([joint_density(x, t) for x in points])
    x = column(points)
    density = line().log_density(x, full_timesteps(t, x)).exp().numpy()
    np.testing.assert_allclose(density, joint.sum(1) * STEP, rtol=1e-9)
    mean = line().expected_x0(x, full_timesteps(t, x)).flatten().numpy()
    np.testing.assert_allclose(mean, (joint * GRID).sum(1) / joint.sum(1), rtol=1e-9, atol=1e-12)


def test_density_of_the_data_itself() -> None:
    x = column(np.linspace(-2, 2, 9))
    want = np.log(data_density(x.flatten().numpy()))
    np.testing.assert_allclose(line().log_likelihood(x).numpy(), want, rtol=1e-12)
    np.testing.assert_allclose(line().log_density(x, full_timesteps(0, x)).numpy(), want, rtol=1e-12)


@pytest.mark.parametrize("t", [1, 2, 3, 5])
@pytest.mark.parametrize("x_t", [-0.9, 0.1, 0.6])
def test_step_back_against_quadrature(t: int, x_t: float) -> None:
    """Bayes: q(x_{t−1} | x_t) ∝ q(x_t | x_{t−1}) q(x_{t−1}), with q(x_{t−1}) a mixture written out by hand."""
    before, beta = alpha_bar(t - 1), BETAS[t - 1]
    parts = zip(WEIGHTS, MEANS, VARIANCES, strict=True)
    prior = np.sum(
        [
            w * stats.norm.pdf(GRID, math.sqrt(before) * m, math.sqrt(before * v + 1 - before))
            for w, m, v in parts
        ],
        axis=0,
    )
    density = prior * stats.norm.pdf(x_t, math.sqrt(1 - beta) * GRID, math.sqrt(beta))
    density /= density.sum() * STEP
    distribution = np.cumsum(density) * STEP - density * STEP / 2

    count = 20_000
    x = column(np.full(count, x_t))
    draws = line().sample_posterior(x, full_timesteps(t, x), seeded(t)).flatten().numpy()
    test = stats.kstest(draws, lambda x: np.interp(x, GRID, distribution))
    assert test.pvalue > 1e-4
    mean = (GRID * density).sum() * STEP
    variance = ((GRID - mean) ** 2 * density).sum() * STEP
    assert abs(draws.mean() - mean) < ERROR_BARS * math.sqrt(variance / count)
    squares = (draws - mean) ** 2
    assert abs(squares.mean() - variance) < ERROR_BARS * squares.std() / math.sqrt(count)


# Several dimensions, full covariances


@pytest.mark.parametrize("t", [0, 1, 3, 5])
def test_log_density_against_torch(t: int) -> None:
    weights, means, covariances = spatial_parts()
    signal, noise = alpha_bar(t), 1 - alpha_bar(t)
    components = MultivariateNormal(
        math.sqrt(signal) * means, signal * covariances + noise * torch.eye(3, dtype=torch.float64)
    )
    want = MixtureSameFamily(Categorical(weights), components)
    x = torch.randn(50, 3, 1, 1, generator=seeded(3), dtype=torch.float64)
    torch.testing.assert_close(space().log_density(x, full_timesteps(t, x)), want.log_prob(x.flatten(1)))
    joint = components.log_prob(x.flatten(1)[:, None]) + weights.log()
    torch.testing.assert_close(space().responsibilities(x, full_timesteps(t, x)), joint.softmax(1))
    mixture = space().marginal(t)
    torch.testing.assert_close(mixture[0], torch.tensor(WEIGHTS, dtype=torch.float64))
    torch.testing.assert_close(mixture[1], components.mean)
    torch.testing.assert_close(mixture[2], components.covariance_matrix)


@pytest.mark.parametrize("t", [1, 3, 5])
def test_posterior_mean_by_conditioning(t: int) -> None:
    """The joint Gaussian of (x_0, x_t), of six dimensions, conditioned on x_t by linear algebra."""
    weights, means, covariances = spatial_parts()
    a, identity = math.sqrt(alpha_bar(t)), torch.eye(3, dtype=torch.float64)
    observed = torch.tensor([False] * 3 + [True] * 3)
    x = torch.randn(3, generator=seeded(4), dtype=torch.float64)
    conditionals, log_weights = [], []
    for weight, mean, covariance in zip(weights, means, covariances, strict=True):
        spread = a**2 * covariance + (1 - a**2) * identity
        joint = torch.cat(
            [torch.cat([covariance, a * covariance], 1), torch.cat([a * covariance, spread], 1)]
        )
        conditionals.append(gaussians.condition(torch.cat([mean, a * mean]), joint, observed, x)[0])
        log_weights.append(weight.log() + MultivariateNormal(a * mean, spread).log_prob(x))
    want = torch.stack(log_weights).softmax(0) @ torch.stack(conditionals)
    got = space().expected_x0(x.view(1, 3, 1, 1), torch.tensor([t]))
    torch.testing.assert_close(got.flatten(), want)


@pytest.mark.parametrize("t", [0, 1, 2, 5])
def test_score_is_the_gradient_of_log_density(t: int) -> None:
    x = torch.randn(20, 3, 1, 1, generator=seeded(5), dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(space().log_density(x, full_timesteps(t, x)).sum(), x)
    torch.testing.assert_close(space().score(x, full_timesteps(t, x)), gradient)


@pytest.mark.parametrize("clip_x0", [False, True])
def test_the_four_coordinates_agree(clip_x0: bool) -> None:
    x = 2 * torch.randn(20, 3, 1, 1, generator=seeded(6), dtype=torch.float64)
    t = torch.arange(20) % 5 + 1
    belief = space().predict(x, t, clip_x0=clip_x0)
    x0 = space().expected_x0(x, t)
    assert x0.abs().max() > 1  # otherwise clipping would change nothing
    torch.testing.assert_close(belief.x0, x0.clamp(-1, 1) if clip_x0 else x0)
    signal = torch.tensor([alpha_bar(level) for level in t.tolist()], dtype=torch.float64).view(-1, 1, 1, 1)
    torch.testing.assert_close(signal.sqrt() * belief.x0 + (1 - signal).sqrt() * belief.noise, x)
    torch.testing.assert_close(signal.sqrt() * belief.noise - (1 - signal).sqrt() * belief.x0, belief.v)
    torch.testing.assert_close(belief.score, -belief.noise / (1 - signal).sqrt())
    if not clip_x0:  # Tweedie: the score of q(x_t), which is computed without E[x_0 | x_t]
        torch.testing.assert_close(belief.score, space().score(x, t))


@pytest.mark.parametrize("t", [1, 3, 5])
def test_posterior_mean_is_the_best_guess_of_simulated_data(t: int) -> None:
    """What is left over, x_0 − E[x_0 | x_t], is uncorrelated with every function of x_t."""
    generator = seeded(7)
    x0 = space().sample_data(100_000, generator)
    x_t = noised(x0, t, generator)
    residual = (x0 - space().expected_x0(x_t, full_timesteps(t, x_t))).flatten(1)
    tests = torch.cat([torch.ones(len(x_t), 1, dtype=torch.float64), moments(x_t.flatten(1))], 1)
    products = residual[:, :, None] * tests[:, None, :]
    assert (products.mean(0).abs() <= ERROR_BARS * products.std(0) / math.sqrt(len(x_t))).all()


def test_data_are_drawn_from_the_mixture() -> None:
    weights, means, covariances = spatial_parts()
    torch.manual_seed(8)
    mixture = MixtureSameFamily(Categorical(weights), MultivariateNormal(means, covariances))
    ours = space().sample_data(100_000, seeded(9)).flatten(1)
    assert_same_mean(moments(ours), moments(mixture.sample((100_000,))))


@pytest.mark.parametrize("t", [1, 2, 5])
def test_step_back_undoes_a_simulated_step(t: int) -> None:
    """(x_{t−1}, x_t) has one joint distribution, walked forwards or drawn backwards from x_t alone."""
    generator = seeded(10 + t)
    before = noised(space().sample_data(100_000, generator), t - 1, generator)
    beta = BETAS[t - 1]
    now = math.sqrt(1 - beta) * before + math.sqrt(beta) * torch.randn(
        before.shape, generator=generator, dtype=torch.float64
    )
    other = noised(space().sample_data(100_000, generator), t, generator)
    back = space().sample_posterior(other, full_timesteps(t, other), generator)
    forward = torch.cat([before.flatten(1), now.flatten(1)], 1)
    backward = torch.cat([back.flatten(1), other.flatten(1)], 1)
    assert_same_mean(moments(forward), moments(backward))


def test_the_whole_way_back_is_exact_in_five_steps() -> None:
    """Started in q(x_T), exact steps end in the data; no step size is too large for them."""
    generator = seeded(20)
    for oracle in (line(), space()):
        x = noised(oracle.sample_data(100_000, generator), 5, generator)
        for t in range(5, 0, -1):
            x = oracle.sample_posterior(x, full_timesteps(t, x), generator)
        assert_same_mean(moments(x.flatten(1)), moments(oracle.sample_data(100_000, generator).flatten(1)))
        if oracle.dimensions == 1:
            assert stats.kstest(x.flatten().numpy(), data_distribution).pvalue > 1e-4


def test_one_gaussian_against_the_straight_line() -> None:
    schedule = schedule_64("linear", 50)
    known = GaussianDenoiser(schedule, mean=0.3, variance=0.2)
    oracle = GaussianMixtureOracle(schedule, torch.full((1, 4), 0.3), [0.2], shape=(1, 2, 2))
    x = torch.randn(6, 1, 2, 2, generator=seeded(21), dtype=torch.float64)
    for t in range(1, 51):
        want, got = known.predict(x, full_timesteps(t, x)), oracle.predict(x, full_timesteps(t, x))
        for name in ("x0", "noise", "v", "score"):
            torch.testing.assert_close(getattr(got, name), getattr(want, name), rtol=1e-5, atol=1e-6)
        weights, means, covariances = oracle.marginal(t)
        mean, variance = known.marginal(t)
        assert weights.tolist() == [1]
        torch.testing.assert_close(means, torch.full_like(means, mean), rtol=1e-7, atol=0)
        torch.testing.assert_close(covariances[0], variance * torch.eye(4, dtype=torch.float64))


# How it is called


def test_three_ways_to_write_a_covariance() -> None:
    means = torch.tensor([[0.1, -0.4], [0.5, 0.2]], dtype=torch.float64)
    variances = torch.tensor([0.3, 0.05], dtype=torch.float64)
    diagonal = variances[:, None].expand(2, 2)
    x = torch.randn(8, 1, 1, 2, generator=seeded(22), dtype=torch.float64)
    t = torch.tensor([1, 2, 3, 4, 5, 1, 2, 3])
    one, two, three = (
        GaussianMixtureOracle(SHORT, means, form)
        for form in (variances, diagonal, torch.diag_embed(diagonal))
    )
    torch.testing.assert_close(one.expected_x0(x, t), two.expected_x0(x, t))
    torch.testing.assert_close(one.expected_x0(x, t), three.expected_x0(x, t))
    uneven = torch.tensor([[0.3, 0.01], [0.05, 0.2]], dtype=torch.float64)
    two, three = (GaussianMixtureOracle(SHORT, means, form) for form in (uneven, torch.diag_embed(uneven)))
    torch.testing.assert_close(two.expected_x0(x, t), three.expected_x0(x, t))
    torch.testing.assert_close(two.log_density(x, t), three.log_density(x, t))
    assert (two.expected_x0(x, t) - one.expected_x0(x, t)).abs().max() > 0.01


def empirical(**options: object) -> EmpiricalOracle:
    return EmpiricalOracle(SHORT, some_images(), **options)  # pyright: ignore[reportArgumentType]


def some_images(count: int = 23) -> Tensor:
    return torch.rand(count, 2, 3, 4, generator=seeded(30), dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("kind", ["mixture", "empirical"])
def test_levels_may_differ_within_a_batch(kind: str) -> None:
    oracle = space() if kind == "mixture" else empirical(dtype=torch.float64)
    x = torch.randn(10, *oracle.shape, generator=seeded(23), dtype=torch.float64)
    t = torch.arange(10) % 5 + 1
    together = oracle.predict(x, t)
    for i in range(10):
        alone = oracle.predict(x[i : i + 1], t[i : i + 1])
        torch.testing.assert_close(together.x0[i : i + 1], alone.x0)
        torch.testing.assert_close(together.noise[i : i + 1], alone.noise)
        torch.testing.assert_close(
            oracle.log_density(x, t)[i : i + 1], oracle.log_density(x[i : i + 1], t[i : i + 1])
        )
    if isinstance(oracle, GaussianMixtureOracle):
        drawn = oracle.sample_posterior(x, t, seeded(1))
        for i in range(10):  # the same noise, with the level of image i for all
            every = oracle.sample_posterior(x, full_timesteps(int(t[i]), x), seeded(1))
            torch.testing.assert_close(drawn[i], every[i])


@pytest.mark.parametrize("kind", ["mixture", "empirical"])
def test_images_come_back_in_their_own_type(kind: str) -> None:
    def make(dtype: torch.dtype) -> GaussianMixtureOracle | EmpiricalOracle:
        if kind == "mixture":
            return GaussianMixtureOracle(SHORT, [[0.1, 0.2]], [0.3], dtype=dtype)
        return EmpiricalOracle(SHORT, some_images(), dtype=dtype)

    exact = make(torch.float64)
    x = torch.randn(4, *exact.shape, generator=seeded(24), dtype=torch.float64)
    t = torch.tensor([1, 2, 4, 5])
    for computed in (torch.float32, torch.float64):
        for given in (torch.float32, torch.float64):
            oracle = make(computed)
            belief = oracle.predict(x.to(given), t)
            for value in (belief.x0, belief.noise, belief.v, belief.score, oracle.score(x.to(given), t)):
                assert value.dtype == given
            torch.testing.assert_close(belief.x0.double(), exact.predict(x, t).x0, rtol=1e-4, atol=1e-5)
            assert oracle.log_density(x.to(given), t).dtype == computed
    assert exact.predict(x[:0], t[:0]).x0.shape == (0, *exact.shape)


def test_randomness_comes_from_the_generator() -> None:
    oracle = space()
    x, t = oracle.sample_data(50, seeded(1)), torch.full((50,), 3)
    state = torch.get_rng_state()
    assert torch.equal(oracle.sample_posterior(x, t, seeded(2)), oracle.sample_posterior(x, t, seeded(2)))
    assert torch.equal(oracle.sample_data(50, seeded(2)), oracle.sample_data(50, seeded(2)))
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(oracle.sample_data(50, seeded(2)), oracle.sample_data(50, seeded(3)))
    torch.manual_seed(5)
    first = oracle.sample_posterior(x, t)
    torch.manual_seed(5)
    assert torch.equal(first, oracle.sample_posterior(x, t))


def test_components_are_chosen_by_their_weights() -> None:
    probabilities = torch.tensor([0.0, 0.2, 0.0, 0.79, 0.01, 0.0], dtype=torch.float64)
    chosen = choose(probabilities[:, None].expand(-1, 200_000), seeded(25))
    counts = torch.bincount(chosen, minlength=6).double()
    assert (counts[probabilities == 0] == 0).all()
    error = (200_000 * probabilities * (1 - probabilities)).sqrt()
    assert ((counts - 200_000 * probabilities).abs() <= ERROR_BARS * error).all()


def test_a_component_without_weight_is_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even by the smallest number that torch.rand returns, which is 0."""
    monkeypatch.setattr(torch, "rand", lambda count, **options: torch.zeros(count, dtype=options["dtype"]))
    assert choose(torch.tensor([[0.0], [1.0]], dtype=torch.float64), None).tolist() == [1]


def test_a_component_without_weight_has_no_say() -> None:
    with_it = GaussianMixtureOracle(SHORT, [[-0.5], [0.2], [0.9]], [0.1, 0.2, 0.3], [0.4, 0.0, 0.6])
    without = GaussianMixtureOracle(SHORT, [[-0.5], [0.9]], [0.1, 0.3], [0.4, 0.6])
    x = column(np.linspace(-2, 2, 7)).requires_grad_()
    t = full_timesteps(2, x)
    torch.testing.assert_close(with_it.expected_x0(x, t), without.expected_x0(x, t))
    torch.testing.assert_close(with_it.score(x, t), without.score(x, t))
    (gradient,) = torch.autograd.grad(with_it.expected_x0(x, t).sum(), x)
    assert gradient.isfinite().all()


# A finite data set


def brute_force(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (B, N) and log-density (B,), pair by pair, by torch's own Gaussian."""
    images = some_images().flatten(1)
    logs = torch.empty(len(x), len(images), dtype=torch.float64)
    for b, level in enumerate(t.tolist()):
        for i, image in enumerate(images):
            normal = torch.distributions.Normal(
                math.sqrt(alpha_bar(level)) * image, math.sqrt(1 - alpha_bar(level))
            )
            logs[b, i] = normal.log_prob(x[b].flatten()).sum()
    return logs.softmax(1), logs.logsumexp(1) - math.log(len(images))


def noisy_images(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    t = torch.tensor([1, 2, 2, 3, 4, 5, 5])
    images = torch.stack(
        [noised(x, int(level), generator) for x, level in zip(some_images(), t, strict=False)]
    )
    return images, t


@pytest.mark.parametrize("chunk_size", [1, 3, 8, 22, 23, 1000])
def test_empirical_against_brute_force(chunk_size: int) -> None:
    oracle = empirical(chunk_size=chunk_size, dtype=torch.float64)
    x, t = noisy_images(seeded(31))
    weights, log_density = brute_force(x, t)
    assert weights[-1].max() < 0.9  # the last levels really are an average of several images
    torch.testing.assert_close(oracle.weights(x, t), weights)
    torch.testing.assert_close(oracle.expected_x0(x, t), (weights @ some_images().flatten(1)).view_as(x))
    torch.testing.assert_close(oracle.log_density(x, t), log_density)
    in_float32 = empirical(chunk_size=chunk_size).expected_x0(x, t)
    torch.testing.assert_close(in_float32, oracle.expected_x0(x, t), rtol=0, atol=1e-4)


def test_empirical_is_the_limit_of_narrow_gaussians() -> None:
    images = some_images()
    narrow = GaussianMixtureOracle(
        SHORT, images.flatten(1), torch.full((23,), 1e-12), shape=tuple(images.shape[1:])
    )
    oracle = empirical(dtype=torch.float64)
    x, t = noisy_images(seeded(32))
    for name in ("x0", "noise", "v", "score"):
        torch.testing.assert_close(
            getattr(oracle.predict(x, t), name), getattr(narrow.predict(x, t), name), rtol=1e-6, atol=1e-7
        )
    torch.testing.assert_close(oracle.log_density(x, t), narrow.log_density(x, t), rtol=1e-8, atol=0)
    torch.testing.assert_close(oracle.weights(x, t), narrow.responsibilities(x, t), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("chunk_size", [5, 100])
def test_gradients_of_the_empirical_oracle(chunk_size: int) -> None:
    oracle = empirical(chunk_size=chunk_size, dtype=torch.float64)
    x, t = noisy_images(seeded(33))
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(oracle.log_density(x, t).sum(), x)
    torch.testing.assert_close(oracle.score(x, t), gradient)
    assert torch.autograd.gradcheck(lambda x: oracle.expected_x0(x, t), (x,))


def test_gradients_of_the_mixture() -> None:
    x = torch.randn(4, 3, 1, 1, generator=seeded(34), dtype=torch.float64, requires_grad=True)
    t = torch.tensor([1, 2, 4, 5])
    assert torch.autograd.gradcheck(lambda x: space().expected_x0(x, t), (x,))
    assert torch.autograd.gradcheck(lambda x: space().score(x, t), (x,))


def test_little_noise_in_float32() -> None:
    """1 − ᾱ = 1e-6 has one digit left if ᾱ is rounded to float32 before the subtraction."""
    schedule = NoiseSchedule([1e-6], dtype=torch.float64)
    values = torch.tensor([0.0, 0.002]).view(2, 1, 1, 1)
    x, t = torch.tensor([0.0005]).view(1, 1, 1, 1), torch.tensor([1])
    for make in (
        lambda dtype: EmpiricalOracle(schedule, values, dtype=dtype),
        lambda dtype: GaussianMixtureOracle(schedule, values.flatten(1), [1e-7, 1e-7], dtype=dtype),
    ):
        rounded, exact = make(torch.float32), make(torch.float64)
        torch.testing.assert_close(
            rounded.log_density(x, t).double(), exact.log_density(x, t), rtol=0, atol=1e-4
        )
        torch.testing.assert_close(rounded.expected_x0(x, t), exact.expected_x0(x, t), rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["mixture", "empirical"])
def test_nothing_underflows(kind: str, dtype: torch.dtype) -> None:
    """At T = 1000 the ends of the cosine schedule, images far from all data, and weights below exp(−1e6)."""
    schedule = NoiseSchedule(cosine_betas(1000))
    images = some_images().to(dtype)
    if kind == "mixture":
        oracle = GaussianMixtureOracle(
            schedule, images.flatten(1), torch.full((23,), 1e-8), shape=(2, 3, 4), dtype=dtype
        )
    else:
        oracle = EmpiricalOracle(schedule, images, chunk_size=4, dtype=dtype)
    for t in (1, 2, 500, 999, 1000):
        for scale in (0.0, 1.0, 100.0):
            x = (
                images[:9] + scale * torch.randn(9, 2, 3, 4, generator=seeded(35), dtype=dtype)
            ).requires_grad_()
            belief = oracle.predict(x, full_timesteps(t, x))
            for value in (
                belief.x0,
                belief.noise,
                belief.v,
                belief.score,
                oracle.log_density(x, full_timesteps(t, x)),
            ):
                assert value.isfinite().all()
            (gradient,) = torch.autograd.grad(belief.x0.sum(), x)
            assert gradient.isfinite().all()
            if kind == "empirical":
                assert belief.x0.abs().max() <= 1 + 1e-5  # an average of images
    x = images[:9]
    seen = oracle.predict(math.sqrt(float(schedule.exact_alpha_bar[1])) * x, full_timesteps(1, x)).x0
    torch.testing.assert_close(seen, x, rtol=0, atol=1e-5)  # at t = 1 there is no doubt
    everything = oracle.expected_x0(x, full_timesteps(1000, x)) - images.mean(0)
    assert everything.abs().max() < 0.02  # at T nothing is known but the average


MEMORY = """
import pathlib
import resource
import sys
import torch
from ddpm import EmpiricalOracle, NoiseSchedule
images = torch.rand(60_000, 1, 28, 28, generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1)
oracle = EmpiricalOracle(NoiseSchedule.from_name("linear", 1000), images)
t = torch.tensor([1, 100, 500, 1000]).repeat(16)
a = oracle.schedule.sqrt_alpha_bar[t].view(-1, 1, 1, 1)
x = a * images[59_000:59_064] + (1 - a**2).sqrt() * torch.randn(64, 1, 28, 28)
guess = oracle.expected_x0(x, t)
density = oracle.log_density(x, t)
assert guess.isfinite().all() and density.isfinite().all()
assert torch.allclose(guess[::4], images[59_000:59_064:4], atol=1e-6)
assert guess[3::4].abs().max() < 0.1, "at t = T all that is left is the mean of the data, which is near 0"
# On Linux the maximum of `getrusage` includes what the process was before it became this program: a copy of the tests.
if sys.platform == "linux":
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    print(1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")))
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # bytes on macOS
"""


def test_sixty_thousand_images_fit_in_two_gigabytes() -> None:
    """In a process of its own, all of which counts: Python, torch, the images and the work."""
    run = subprocess.run(
        [sys.executable, "-c", MEMORY], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 2 * 1024**3


# In place of a network


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_samplers_return_to_the_mixture(sampler: str) -> None:
    """200 small steps come close to the data; how close depends on T, so this bound is one of size, not of noise."""
    oracle = GaussianMixtureOracle(schedule_64("cosine", 200), [[-0.6], [0.7]], [0.02, 0.05], [0.3, 0.7])
    x = torch.randn(20_000, 1, 1, 1, generator=seeded(40), dtype=torch.float64)
    if sampler == "ancestral":
        chain = list(ancestral(oracle, x, clip_x0=False, generator=seeded(41)))
    else:
        chain = list(ddim(oracle, x, 100, clip_x0=False))
    truth = oracle.sample_data(20_000, seeded(42))
    assert chain[-1].t == 0
    distance = stats.wasserstein_distance(chain[-1].x.flatten().numpy(), truth.flatten().numpy())
    assert distance < 0.02


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_samplers_return_the_images_of_a_finite_set(sampler: str) -> None:
    oracle = EmpiricalOracle(NoiseSchedule(cosine_betas(100)), some_images().float(), chunk_size=7)
    x = torch.randn(200, *oracle.shape, generator=seeded(43))
    walk = ancestral(oracle, x, generator=seeded(44)) if sampler == "ancestral" else ddim(oracle, x, 100)
    chain = list(walk)
    distances = (chain[-1].x.flatten(1)[:, None] - oracle.images).abs().amax(2)
    nearest, which = distances.min(1)
    assert nearest.max() < 1e-4  # each sample is one of the images, and …
    assert len(which.unique()) > 18  # … most of them turn up


@pytest.mark.parametrize(("schedule", "gap"), [(schedule_64("linear", 200), 0.3), (SHORT, 2.0)])
def test_the_variational_bound_holds(schedule: NoiseSchedule, gap: float) -> None:
    """Never below −log p(x_0), and above it by what Gaussian steps back cost: little in 200 of them, much in five."""
    oracle = space(schedule)
    x0 = oracle.sample_data(400, seeded(45))
    bound = vlb_terms(
        oracle, x0, clip_x0=False, variance=schedule.beta, decoder="continuous", generator=seeded(46)
    )
    excess = bound.total + oracle.log_likelihood(x0)
    error = ERROR_BARS * float(excess.std()) / math.sqrt(len(x0))
    assert -error < excess.mean() < gap + error
    assert schedule is not SHORT or excess.mean() > error


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"means": [0.0, 1.0]}, r"means .* shape \(K, D\)"),
        ({"means": [[0.0, math.nan], [1.0, 1.0]]}, "finite"),
        ({"covariances": [0.1]}, r"covariances of shape \(2, 2, 2\).*but got \(1,\)"),
        ({"covariances": torch.ones(2, 3)}, r"but got \(2, 3\)"),
        ({"covariances": [0.1, 0.0]}, "positive definite.*component 1 is 0;"),
        ({"covariances": [0.1, -0.1]}, "positive definite"),
        ({"covariances": [0.1, math.nan]}, "finite"),
        ({"covariances": [[0.1, 0.1], [0.1, math.inf]]}, "finite"),
        ({"covariances": torch.ones(2, 2, 2)}, "positive definite.*component 0"),  # singular
        ({"covariances": torch.zeros(2, 2, 2)}, "positive definite"),
        (
            {"covariances": torch.tensor([[[1.0, 2], [2, 1]]] * 2)},
            "component 0 is -1;.*multiple of the identity",
        ),
        ({"covariances": torch.tensor([[[1.0, 0.5], [0.4, 1]]] * 2)}, "symmetric"),
        ({"covariances": torch.full((2, 2, 2), math.nan)}, "finite"),
        ({"covariances": torch.full((2, 2, 2), math.inf)}, "finite"),
        ({"weights": [0.5, 0.4]}, "of sum 1.*0.9"),
        ({"weights": [1.5, -0.5]}, "not negative"),
        ({"weights": [math.nan, 1.0]}, "of sum 1"),
        ({"weights": [1.0]}, r"2 numbers, one per mean.*\[1.0\]"),
        ({"weights": [0.5, 0.25, 0.25]}, "2 numbers, one per mean"),
        ({"shape": (1, 3, 1)}, r"C·H·W = 2"),
        ({"shape": (2,)}, r"\(C, H, W\)"),
        ({"shape": (-1, -2, 1)}, r"\(C, H, W\)"),
    ],
)
def test_bad_mixtures_are_refused(changes: dict[str, object], message: str) -> None:
    good: dict[str, object] = {"means": [[0.0, 0.0], [1.0, 1.0]], "covariances": [0.1, 0.1]}
    GaussianMixtureOracle(SHORT, **good)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        GaussianMixtureOracle(SHORT, **(good | changes))  # pyright: ignore[reportArgumentType]


def test_rounding_of_a_covariance_is_no_fault() -> None:
    covariance = torch.tensor([[[1.0, 0.3], [0.3 + 1e-7, 1.0]]])
    weights = torch.tensor([1.0]) + 1e-7
    oracle = GaussianMixtureOracle(SHORT, [[0.0, 0.0]], covariance, weights)
    torch.testing.assert_close(oracle.marginal(0)[2].float(), covariance)
    assert oracle.weights.tolist() == [1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": torch.zeros(3, 4)}, r"\(B, C, H, W\)"),
        ({"images": torch.zeros(3, 1, 2, 2, dtype=torch.uint8)}, "floating-point"),
        ({"images": torch.full((3, 1, 2, 2), 1.01)}, r"\[-1, 1\].*1.01"),
        ({"images": torch.full((3, 1, 2, 2), -255.0)}, r"\[-1, 1\]"),
        ({"images": torch.full((3, 1, 2, 2), math.nan)}, r"\[-1, 1\]"),
        ({"images": torch.zeros(0, 1, 2, 2)}, "at least one"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"chunk_size": 2.5}, "chunk_size"),
        ({"chunk_size": True}, "chunk_size"),
    ],
)
def test_bad_data_sets_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        EmpiricalOracle(SHORT, **({"images": torch.zeros(3, 1, 2, 2)} | options))  # pyright: ignore[reportArgumentType]


CALLS = {
    "mixture": ["predict", "expected_x0", "sample_posterior", "score", "log_density", "responsibilities"],
    "empirical": ["predict", "expected_x0", "score", "log_density", "weights"],
}


@pytest.mark.parametrize(("kind", "call"), [(kind, call) for kind in CALLS for call in CALLS[kind]])
def test_bad_calls_are_refused(kind: str, call: str) -> None:
    oracle = space() if kind == "mixture" else empirical()
    ask = getattr(oracle, call)
    x, t = torch.zeros(2, *oracle.shape), torch.tensor([1, 5])
    ask(x, t)
    lowest = 0 if kind == "mixture" and call in ("score", "log_density", "responsibilities") else 1
    ask(x, torch.tensor([lowest, 5]))
    for wrong in (torch.tensor([lowest - 1, 3]), torch.tensor([3, 6])):
        with pytest.raises(ValueError, match=f"t must lie in {lowest} … 5"):
            ask(x, wrong)
    for wrong in (torch.tensor([1.0, 2.0]), torch.tensor([1]), torch.tensor([[1, 2]])):
        with pytest.raises(ValueError, match="one whole number per image"):
            ask(x, wrong)
    with pytest.raises(TypeError, match="t must be a tensor"):
        ask(x, 3)
    for wrong in (x.flatten(1), x.long()):
        with pytest.raises(ValueError, match="floating-point tensor of shape"):
            ask(wrong, t)
    with pytest.raises(ValueError, match=f"x_t must be .*of shape .*{oracle.shape[0]}"):
        ask(torch.zeros(2, 1, 5, 5), t)


def test_labels_and_wrong_marginals_are_refused() -> None:
    x, t = torch.zeros(2, 1, 1, 1), torch.tensor([1, 5])
    with pytest.raises(ValueError, match="no classes"):
        line().predict(x, t, torch.tensor([0, 1]))
    for wrong in (-1, 6, 2.0, True):
        with pytest.raises(ValueError, match="whole number in 0 … 5"):
            line().marginal(wrong)  # pyright: ignore[reportArgumentType]
    for wrong in (-1, 2.5, True):
        with pytest.raises(ValueError, match="count must be"):
            line().sample_data(wrong)  # pyright: ignore[reportArgumentType]
