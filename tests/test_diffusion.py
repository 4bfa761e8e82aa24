"""`ddpm.diffusion` against the iterated chain, Bayes' rule, exact Gaussian data and a great deal of bad input."""

import copy
import json
import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ddpm import (
    P2,
    GaussianDiffusion,
    MinSNR,
    NoiseSchedule,
    Unet,
    ancestral,
    ddim,
    linear_betas,
    to_image_scale,
    to_model_scale,
)
from ddpm.gaussians import kl_divergence, log_density
from ddpm.weighting import weighting_config, weighting_from_config
from tests.exact import BETAS, Constant, GaussianDenoiser, Pointwise, schedule_64

approx = pytest.approx
OBJECTIVES = ("pred_noise", "pred_x0", "pred_v")
NAMES = ("linear", "cosine", "sigmoid")


def make(network=None, *, timesteps=50, image_size=4, **options):
    """A small diffusion around a network without weights."""
    return GaussianDiffusion(network or Pointwise(), image_size=image_size, timesteps=timesteps, **options)


def make_64(name, timesteps, **options):
    """The same with tables that are not rounded to float32."""
    diffusion = make(timesteps=timesteps, beta_schedule=name, **options)
    diffusion.schedule = schedule_64(name, timesteps)
    return diffusion


def column(values):
    """Numbers as a batch of images of one pixel."""
    return torch.as_tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def every_level(T):
    return torch.arange(1, T + 1)


# The forward process


@pytest.mark.parametrize("name", NAMES)
def test_closed_form_is_the_composition_of_the_steps(name):
    """x_t = √(1−β_t) x_{t−1} + √β_t ε_t, step by step with 50 digits: factor of x_0, variance of the rest."""
    T = 1000
    diffusion = make_64(name, T)
    t = every_level(T)
    ones, zeros = column(torch.ones(T)), column(torch.zeros(T))
    factor = diffusion.q_sample(ones, t, zeros).flatten()
    spread = diffusion.q_sample(zeros, t, ones).flatten()
    with mpmath.workdps(50):
        of_x0, variance = mpmath.mpf(1), mpmath.mpf(0)
        for step, beta in enumerate(BETAS[name](T).tolist()):
            of_x0 *= mpmath.sqrt(1 - mpmath.mpf(beta))
            variance = (1 - mpmath.mpf(beta)) * variance + mpmath.mpf(beta)
            assert factor[step].item() == approx(float(of_x0), rel=1e-11)
            assert spread[step].item() ** 2 == approx(float(variance), rel=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_closed_form_has_the_moments_of_simulated_chains(name):
    """200,000 chains of 40 steps and as many single draws; both must lie within 5 standard errors of the formula."""
    T, count, x0 = 40, 200_000, 0.8
    diffusion = make_64(name, T)
    noise = torch.Generator().manual_seed(1)
    chain = torch.full((count,), x0, dtype=torch.float64)
    betas = BETAS[name](T).tolist()
    for t, beta in enumerate(betas, start=1):
        fresh = torch.randn(count, generator=noise, dtype=torch.float64)
        chain = math.sqrt(1 - beta) * chain + math.sqrt(beta) * fresh
        if t not in (1, 7, 20, 40):
            continue
        levels = torch.full((count,), t)
        fresh = torch.randn(count, generator=noise, dtype=torch.float64)
        direct = diffusion.q_sample(column([x0]).expand(count, 1, 1, 1), levels, column(fresh)).flatten()
        alpha_bar = math.prod(1 - b for b in betas[:t])
        mean, variance = math.sqrt(alpha_bar) * x0, 1 - alpha_bar
        for draws in (chain, direct):
            assert draws.mean().item() == approx(mean, abs=5 * math.sqrt(variance / count))
            assert draws.var().item() == approx(variance, abs=5 * variance * math.sqrt(2 / (count - 1)))


def test_q_sample_takes_each_images_own_level():
    diffusion = make(timesteps=50)
    x0, noise, t = randn(3, 1, 4, 4), randn(3, 1, 4, 4, seed=1), torch.tensor([1, 25, 50])
    together = diffusion.q_sample(x0, t, noise)
    for i in range(3):
        alone = diffusion.q_sample(x0[i : i + 1], t[i : i + 1], noise[i : i + 1])
        assert torch.equal(together[i : i + 1], alone)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_images_get_their_noise(dtype):
    """In bfloat16 arithmetic the first steps would add no noise at all; the result must be what float32 gives."""
    diffusion = make(timesteps=1000)
    x0 = torch.full((1000, 1, 4, 4), 0.9, dtype=dtype)
    noise = randn(1000, 1, 4, 4).to(dtype)
    x_t = diffusion.q_sample(x0, every_level(1000), noise)
    assert x_t.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(diffusion.q_sample(x0, every_level(1000), noise), x_t)
    expected = diffusion.q_sample(x0.double(), every_level(1000), noise.double())
    assert (x_t - expected).abs().max() < 1e-6


# The posterior


def bayes_by_quadrature(betas, t, x0, x_t):
    """Mean and variance of q(x_{t−1} | x_t, x_0) ∝ q(x_t | x_{t−1}) q(x_{t−1} | x_0), on a grid."""
    beta = betas[t - 1]
    before = math.prod(1 - b for b in betas[: t - 1])  # ᾱ_{t−1}
    ends = (x_t / math.sqrt(1 - beta), math.sqrt(before) * x0)  # where either factor peaks
    spread = math.sqrt(min(beta / (1 - beta), 1 - before))  # the product is narrower than its narrower factor

    def log_weight(x):
        return -((x_t - np.sqrt(1 - beta) * x) ** 2) / (2 * beta) - (x - np.sqrt(before) * x0) ** 2 / (
            2 * (1 - before)
        )

    rough = np.linspace(min(ends) - spread, max(ends) + spread, 100_001)
    peak = rough[log_weight(rough).argmax()]
    grid = np.linspace(peak - 15 * spread, peak + 15 * spread, 100_001)
    weight = np.exp(log_weight(grid) - log_weight(grid).max())
    weight /= weight.sum()
    mean = (weight * grid).sum()
    return mean, (weight * (grid - mean) ** 2).sum()


@pytest.mark.parametrize("t", [2, 3, 10, 250, 500, 999, 1000])
@pytest.mark.parametrize("name", NAMES)
def test_posterior_is_bayes_rule(name, t):
    diffusion = make_64(name, 1000)
    betas = BETAS[name](1000).tolist()
    for x0, x_t in ((0.9, -0.4), (-1.0, 1.7), (0.2, 0.2)):
        mean, variance = bayes_by_quadrature(betas, t, x0, x_t)
        got_mean, got_variance, got_log = diffusion.q_posterior(
            column([x0]), column([x_t]), torch.tensor([t])
        )
        assert got_mean.item() == approx(mean, rel=1e-7, abs=1e-8)
        assert got_variance.item() == approx(variance, rel=1e-6)
        assert got_log.item() == approx(math.log(variance), abs=1e-6)
        assert got_variance.shape == got_log.shape == (1, 1, 1, 1)


@pytest.mark.parametrize("name", NAMES)
def test_posterior_at_the_first_step_is_x0_itself(name):
    x0, x1 = randn(2, 1, 4, 4), randn(2, 1, 4, 4, seed=1)
    mean, variance, log_variance = make(beta_schedule=name).q_posterior(x0, x1, torch.tensor([1, 1]))
    torch.testing.assert_close(mean, x0, rtol=1e-6, atol=0)
    assert (variance == 0).all()
    second = make(beta_schedule=name).q_posterior(x0, x1, torch.tensor([2, 2]))[1]
    torch.testing.assert_close(log_variance, second.log())


# Noise, clean image, v and score


@pytest.mark.parametrize("name", NAMES)
def test_round_trips_in_float64(name):
    """ε → x_0 → ε, x_0 → ε → x_0 and v → x_0 → v to 1e-5 at every t of 1 … 1000, all three schedules."""
    T = 1000
    diffusion = make_64(name, T)
    t = every_level(T)
    x0 = randn(T, 1, 2, 2, dtype=torch.float64).clamp(-1, 1)
    noise = randn(T, 1, 2, 2, seed=1, dtype=torch.float64)
    x_t = diffusion.q_sample(x0, t, noise)
    v = diffusion.predict_v(x0, t, noise)
    for got, expected in (
        (diffusion.predict_start_from_noise(x_t, t, noise), x0),
        (diffusion.predict_noise_from_start(x_t, t, x0), noise),
        (diffusion.predict_start_from_v(x_t, t, v), x0),
    ):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    # v by its definition as a rotation: (x_t, v) is (x_0, ε) turned by the angle whose cosine is √ᾱ_t.
    alpha_bar = diffusion.schedule.exact_alpha_bar[1:].view(-1, 1, 1, 1)
    torch.testing.assert_close(x_t**2 + v**2, x0**2 + noise**2, rtol=0, atol=1e-9)
    torch.testing.assert_close(v, (alpha_bar.sqrt() * x_t - x0) / (1 - alpha_bar).sqrt(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_round_trips_in_float32(name):
    """To 1e-5 where float32 allows it, and within the conditioning of the formula everywhere.

    x_0 = (x_t − σ_t ε)/√ᾱ_t multiplies the rounding of x_t, about 2⁻²⁴ (|x_t| + |ε|), by 1/√ᾱ_t: 2 × 10⁴ at the end of
    the cosine schedule, where 1e-5 is out of reach for any float32 code. ε from x_0 does the same with 1/σ_t. v is a
    rotation and loses nothing.
    """
    T = 1000
    diffusion = make(timesteps=T, beta_schedule=name)
    t = every_level(T)
    x0, noise = randn(T, 1, 2, 2).clamp(-1, 1), randn(T, 1, 2, 2, seed=1)
    x_t = diffusion.q_sample(x0, t, noise)
    v = diffusion.predict_v(x0, t, noise)
    largest = (x0.abs() + noise.abs() + x_t.abs()).amax((1, 2, 3))
    rounding = 4 * 2.0**-24 * largest
    for got, expected, condition in (
        (diffusion.predict_start_from_noise(x_t, t, noise), x0, 1 / diffusion.schedule.sqrt_alpha_bar[1:]),
        (diffusion.predict_noise_from_start(x_t, t, x0), noise, 1 / diffusion.schedule.sigma[1:]),
        (diffusion.predict_start_from_v(x_t, t, v), x0, torch.ones(T)),
    ):
        error = (got - expected).abs().amax((1, 2, 3))
        assert (error <= rounding * condition).all()
        well_conditioned = condition <= 5
        assert well_conditioned.sum() > 0.5 * T
        assert (error[well_conditioned] < 1e-5).all()


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", NAMES)
def test_the_four_coordinates_agree(name, objective, clip):
    """One belief: x_t = √ᾱ x_0 + σ ε, v = √ᾱ ε − σ x_0, score = −ε/σ, clipped or not, whatever the network speaks."""
    T = 100
    answer = randn(T, 1, 3, 3, seed=2, dtype=torch.float64)
    diffusion = make_64(name, T, objective=objective)
    diffusion.network = Constant(answer)
    x_t, t = randn(T, 1, 3, 3, dtype=torch.float64), every_level(T)
    prediction = diffusion.predict(x_t, t, clip_x0=clip)

    alpha_bar = diffusion.schedule.exact_alpha_bar[1:].view(-1, 1, 1, 1)
    root, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    unclipped = {
        "pred_noise": (x_t - sigma * answer) / root,
        "pred_x0": answer,
        "pred_v": root * x_t - sigma * answer,
    }[objective]
    assert (unclipped.abs() > 1).any(), "nothing to clip"
    close = {"rtol": 1e-8, "atol": 1e-8}
    torch.testing.assert_close(prediction.x0, unclipped.clamp(-1, 1) if clip else unclipped, **close)
    torch.testing.assert_close(root * prediction.x0 + sigma * prediction.noise, x_t, **close)
    torch.testing.assert_close(root * prediction.noise - sigma * prediction.x0, prediction.v, **close)
    torch.testing.assert_close(-prediction.noise / sigma, prediction.score, **close)
    if not clip:
        spoken = {"pred_noise": prediction.noise, "pred_x0": prediction.x0, "pred_v": prediction.v}[objective]
        torch.testing.assert_close(spoken, answer, **close)


def test_score_is_the_gradient_of_the_log_density():
    """For Gaussian data q(x_t) is known; autograd of its log-density is the score of the exact prediction."""
    schedule = schedule_64("linear", 100)
    exact = GaussianDenoiser(schedule, mean=0.3, variance=0.25)
    for level in (1, 40, 100):
        t = torch.full((5,), level)
        x_t = column([-2.0, -0.5, 0.0, 0.7, 3.0]).requires_grad_()
        mean, variance = exact.marginal(level)
        (-((x_t - mean) ** 2) / (2 * variance)).sum().backward()
        diffusion = make_64("linear", 100, objective="pred_x0")
        diffusion.network = Constant(exact.predict(x_t.detach(), t).x0)
        torch.testing.assert_close(diffusion.predict(x_t.detach(), t).score, x_t.grad, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_predictions_under_autocast_stay_in_float32(objective):
    """A network that answers in bfloat16 must not drag the sampler's state down with it."""

    class InHalf(Pointwise):
        def forward(self, x_t, t, labels=None):
            return super().forward(x_t, t, labels).bfloat16()

    prediction = make(InHalf(), objective=objective).predict(randn(2, 1, 4, 4), torch.tensor([3, 30]))
    for name in ("x0", "noise", "v", "score"):
        assert getattr(prediction, name).dtype == torch.float32, name


# The reverse step


@pytest.mark.parametrize("clip", [False, True])
def test_p_mean_variance_is_the_posterior_of_the_predicted_image(clip):
    diffusion = make(timesteps=50, objective="pred_v", beta_schedule="cosine")
    x_t, t = 3 * randn(4, 1, 4, 4), torch.tensor([1, 2, 30, 50])
    x0 = diffusion.predict(x_t, t, clip_x0=clip).x0
    expected = diffusion.q_posterior(x0, x_t, t)
    for got, want in zip(diffusion.p_mean_variance(x_t, t, clip_denoised=clip), expected, strict=True):
        assert torch.equal(got, want)
    if clip:
        assert not torch.equal(diffusion.p_mean_variance(x_t, t, clip_denoised=False)[0], expected[0])
        for got, want in zip(
            diffusion.p_mean_variance(x_t, t), expected, strict=True
        ):  # clips unless told not to
            assert torch.equal(got, want)


def test_p_sample_has_the_mean_and_the_variance_of_p():
    """100,000 draws per level, 5 standard errors; at t = 1 there is nothing random."""
    count = 100_000
    for level in (2, 30, 50):
        diffusion = make(Constant(0.3), objective="pred_x0", image_size=1)
        x_t, t = torch.full((count, 1, 1, 1), 0.7), torch.full((count,), level)
        mean, variance, _ = diffusion.p_mean_variance(x_t[:1], t[:1])
        draws = diffusion.p_sample(x_t, t, generator=torch.Generator().manual_seed(level)).double()
        assert draws.mean().item() == approx(mean.item(), abs=5 * math.sqrt(variance.item() / count))
        assert draws.var().item() == approx(variance.item(), abs=5 * variance.item() * math.sqrt(2 / count))
    at_end = diffusion.p_sample(x_t[:3], torch.ones(3, dtype=torch.long))
    assert torch.equal(at_end, diffusion.p_mean_variance(x_t[:3], torch.ones(3, dtype=torch.long))[0])


def test_p_sample_one_step_at_a_time_is_ancestral_sampling():
    diffusion = make(timesteps=30, beta_schedule="cosine")
    x = start = randn(3, 1, 4, 4)
    noise = torch.Generator().manual_seed(5)
    for t in range(30, 0, -1):
        x = diffusion.p_sample(x, torch.full((3,), t), generator=noise)
    *_, last = ancestral(diffusion, start, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(x, last.x, rtol=0, atol=1e-6)


def test_p_sample_passes_clipping_and_labels_on():
    diffusion = make(timesteps=30)
    x_t, t = 3 * randn(2, 1, 4, 4), torch.tensor([20, 20])
    labels = torch.tensor([0, 1])

    def draw(*arguments, **options):
        return diffusion.p_sample(x_t, t, *arguments, generator=torch.Generator().manual_seed(0), **options)

    assert not torch.equal(draw(), draw(clip_denoised=False))
    free, labelled = draw(clip_denoised=False), draw(labels, clip_denoised=False)
    assert torch.equal(free[0], labelled[0])
    assert not torch.equal(free[1], labelled[1])


# The bound of a Gaussian data set


def gaussian_bound(name, T, mean, variance, *, reverse_variance):
    """E[log p(x_0)] of N(mean, variance) data, the bound on it, and KL(q(x_T) ‖ N(0, 1)), all without sampling.

    Every term is a polynomial of degree 2 in (x_0, ε), so that Gauss–Hermite quadrature with 3 × 3 nodes has no error.
    p(x_{t−1} | x_t) has the variance of the true reverse step ("exact"), β_t ("large") or β̃_t ("small").
    """
    schedule = schedule_64(name, T)
    exact = GaussianDenoiser(schedule, mean, variance)
    diffusion = make_64(name, T)
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    weights = torch.from_numpy(np.outer(weights, weights).flatten() / weights.sum() ** 2)
    x0 = column(mean + math.sqrt(variance) * np.repeat(nodes, 3))
    noise = column(np.tile(nodes, 3))

    def expectation(values: Tensor) -> float:
        return (weights * values.flatten()).sum().item()

    def latent(level):
        t = torch.full((9,), level)
        return t, diffusion.q_sample(x0, t, noise)

    alpha_bar = schedule.exact_alpha_bar[T]
    zero = torch.zeros((), dtype=torch.float64)
    bound = -expectation(kl_divergence(alpha_bar.sqrt() * x0, (1 - alpha_bar).log(), zero, zero))
    for level in range(T, 1, -1):
        t, x_t = latent(level)
        true_mean, true_variance, true_log = diffusion.q_posterior(x0, x_t, t)
        model_mean, _, _ = diffusion.q_posterior(exact.predict(x_t, t).x0, x_t, t)
        extra = schedule.posterior_mean_coef_x0[level] ** 2 * exact.remaining_variance(level)
        model_variance = {
            "exact": true_variance + extra,
            "large": schedule.beta[level],
            "small": true_variance,
        }[reverse_variance]
        model_log = model_variance.log()
        bound -= expectation(kl_divergence(true_mean, true_log, model_mean, model_log))
    t, x_1 = latent(1)
    decoder = torch.tensor(exact.remaining_variance(1), dtype=torch.float64).log()
    bound += expectation(log_density(x0, exact.predict(x_1, t).x0, decoder))

    log_likelihood = -0.5 * (math.log(2 * math.pi * variance) + 1)
    mean_T, variance_T = exact.marginal(T)
    prior = 0.5 * (mean_T**2 + variance_T - 1 - math.log(variance_T))
    return log_likelihood, bound, prior


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("mean", "variance"), [(0.0, 1.0), (0.4, 0.09), (-0.7, 2.0)])
def test_bound_is_tight_with_the_exact_reverse_process(name, mean, variance):
    """All that it loses is that the chain starts from N(0, 1) rather than from q(x_T): exactly that divergence."""
    log_likelihood, bound, prior = gaussian_bound(name, 40, mean, variance, reverse_variance="exact")
    assert log_likelihood - bound == approx(prior, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_bound_with_the_larger_variance_closes_as_the_chain_grows(name):
    """With β_t it stays below the log-likelihood, and the gap falls like 1/T: about fourfold from one T to the next."""
    gaps = []
    for T in (50, 200, 800):
        log_likelihood, bound, prior = gaussian_bound(name, T, 0.4, 0.09, reverse_variance="large")
        assert bound < log_likelihood
        gaps.append(log_likelihood - bound - prior)
    assert gaps[0] > 3 * gaps[1] > 9 * gaps[2] > 0
    assert gaps[2] < 0.02


def test_bound_with_the_smaller_variance_keeps_a_gap_of_half_eulers_constant():
    """β̃_t is too small at the first levels by (t−1)/t however long the chain is, where β hardly changes with t.

    Each such step loses ½ (1/(t−1) − log(t/(t−1))) for every pixel, and these add up to γ/2 = 0.2886.
    """
    distances = []
    for T in (50, 200, 800):
        log_likelihood, bound, prior = gaussian_bound("sigmoid", T, 0.4, 0.09, reverse_variance="small")
        assert bound < log_likelihood
        distances.append(abs(log_likelihood - bound - prior - np.euler_gamma / 2))
    assert distances[0] > 3 * distances[1] > 9 * distances[2]
    assert distances[2] < 0.01


# The loss


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("loss_type", ["l1", "l2"])
def test_loss_is_the_mean_distance_to_the_target(objective, loss_type):
    """Against NumPy, with the target written out from α's own definition."""
    diffusion = make(timesteps=50, objective=objective, loss_type=loss_type, beta_schedule="cosine")
    x0, noise, t = randn(6, 1, 4, 4), randn(6, 1, 4, 4, seed=1), torch.tensor([1, 2, 10, 25, 49, 50])
    alpha_bar = np.cumprod(1 - BETAS["cosine"](50).numpy())[t.numpy() - 1].reshape(-1, 1, 1, 1)
    x, e = x0.numpy().astype(float), noise.numpy().astype(float)
    x_t = np.sqrt(alpha_bar) * x + np.sqrt(1 - alpha_bar) * e
    target = {"pred_noise": e, "pred_x0": x, "pred_v": np.sqrt(alpha_bar) * e - np.sqrt(1 - alpha_bar) * x}[
        objective
    ]
    output = np.sin(0.7 * x_t) + 0.01 * np.log(t.numpy()).reshape(-1, 1, 1, 1)  # what Pointwise answers
    distance = np.abs(output - target) if loss_type == "l1" else (output - target) ** 2
    assert diffusion.loss(x0, t, noise).item() == approx(distance.mean(), rel=1e-5)


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_of_a_network_that_says_nothing(objective, name):
    """E ε² = 1; the mean square of the images; E v² = E[ᾱ + (1 − ᾱ) x_0²]: within 5 standard errors of 40,000 draws."""
    count, T, level = 40_000, 50, 0.5
    diffusion = make(Constant(0.0), timesteps=T, objective=objective, beta_schedule=name, image_size=1)
    x0 = torch.full((count, 1, 1, 1), level)
    loss = diffusion.loss(x0, generator=torch.Generator().manual_seed(3)).item()
    alpha_bar = np.cumprod(1 - BETAS[name](T).numpy())
    # Mean and second moment of the squared target, for t uniform in 1 … T and ε ~ N(0, 1).
    root, shift = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar) * level
    second = {"pred_noise": 1.0, "pred_x0": level**2, "pred_v": (root**2 + shift**2).mean()}[objective]
    fourth = {
        "pred_noise": 3.0,
        "pred_x0": level**4,
        "pred_v": (3 * root**4 + 6 * root**2 * shift**2 + shift**4).mean(),
    }[objective]
    assert loss == approx(second, abs=5 * math.sqrt((fourth - second**2) / count) + 1e-6)


def test_l1_loss_of_a_network_that_says_nothing():
    """E|ε| = √(2/π), standard error √((1 − 2/π)/n)."""
    count = 40_000
    diffusion = make(Constant(0.0), loss_type="l1", image_size=1)
    loss = diffusion.loss(torch.zeros(count, 1, 1, 1), generator=torch.Generator().manual_seed(3)).item()
    assert loss == approx(math.sqrt(2 / math.pi), abs=5 * math.sqrt((1 - 2 / math.pi) / count))


def test_levels_are_drawn_uniformly():
    """A chi-squared statistic of 20,000 draws over 10 levels (9 degrees of freedom; 35 has probability 6e-5)."""
    network = Constant(0.0, channels=1)
    seen = []
    network.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1]))
    diffusion = make(network, timesteps=10, beta_schedule="cosine", image_size=1)
    diffusion.loss(torch.zeros(20_000, 1, 1, 1), generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(seen[0], minlength=11).double()
    assert counts[0] == 0
    assert len(counts) == 11
    assert ((counts[1:] - 2000) ** 2 / 2000).sum() < 35


def test_every_image_is_averaged_before_it_is_weighted():
    """Two images whose errors and weights differ a lot: the mean of products is not the product of means."""

    def weighting(schedule, t, objective):  # noqa: ARG001
        return t.float()

    errors = torch.tensor([1.0, 10.0]).view(2, 1, 1, 1)
    diffusion = make(Constant(0.0), loss_weighting=weighting, timesteps=50)
    noise = errors.sqrt().expand(2, 1, 4, 4)
    loss = diffusion.loss(torch.zeros(2, 1, 4, 4), torch.tensor([50, 2]), noise).item()
    assert loss == approx((50 * 1 + 2 * 10) / 2, rel=1e-6)
    assert loss != approx((50 + 2) / 2 * (1 + 10) / 2, rel=0.1)


@pytest.mark.parametrize("gamma", [1.0, 5.0, 1e9])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_min_snr_is_one_weight_on_the_error_of_x0(objective, gamma):
    """Hang et al. 2023: w · |output − target|² = min(SNR, γ) · |x̂_0 − x_0|² for each objective, any output, any t."""
    T = 200
    diffusion = make_64("cosine", T, objective=objective, loss_weighting=MinSNR(gamma))
    t = every_level(T)
    x0, noise = randn(T, 1, 3, 3, dtype=torch.float64), randn(T, 1, 3, 3, seed=1, dtype=torch.float64)
    x_t = diffusion.q_sample(x0, t, noise)
    error = (diffusion.predict(x_t, t).x0 - x0).square().mean((1, 2, 3))
    snr = diffusion.schedule.exact_alpha_bar / (1 - diffusion.schedule.exact_alpha_bar)
    for level in (1, 50, 100, 199, 200):
        one = slice(level - 1, level)
        loss = diffusion.loss(x0[one], t[one], noise[one]).item()
        assert loss == approx(min(snr[level].item(), gamma) * error[level - 1].item(), rel=1e-4)


def test_min_snr_and_p2_are_the_papers_formulas():
    schedule = NoiseSchedule.from_name("cosine", 100)
    t = every_level(100)
    snr = schedule.exact_alpha_bar[1:] / (1 - schedule.exact_alpha_bar[1:])
    clipped = snr.clamp(max=5)
    for objective, expected in (
        ("pred_noise", clipped / snr),
        ("pred_x0", clipped),
        ("pred_v", clipped / (snr + 1)),
    ):
        torch.testing.assert_close(MinSNR()(schedule, t, objective).double(), expected, rtol=1e-5, atol=0)
        torch.testing.assert_close(P2()(schedule, t, objective).double(), 1 / (1 + snr), rtol=1e-5, atol=0)
        torch.testing.assert_close(
            P2(gamma=0.5, k=2.0)(schedule, t, objective).double(), (2 + snr).sqrt() ** -1, rtol=1e-5, atol=0
        )
        assert (P2(gamma=0.0)(schedule, t, objective) == 1).all()


@pytest.mark.parametrize("make_weighting", [lambda: MinSNR(0), lambda: MinSNR(-1), lambda: MinSNR(math.nan)])
def test_min_snr_refuses_a_ceiling_that_is_not_positive(make_weighting):
    with pytest.raises(ValueError, match="MinSNR needs gamma > 0"):
        make_weighting()


@pytest.mark.parametrize("options", [{"gamma": -1.0}, {"k": -1.0}, {"gamma": math.nan}])
def test_p2_refuses_negative_numbers(options):
    with pytest.raises(ValueError, match="P2 needs gamma >= 0 and k >= 0"):
        P2(**options)


# Weightings in a configuration


@pytest.mark.parametrize(
    ("weighting", "config"),
    [
        (None, None),
        (MinSNR(), {"name": "MinSNR", "gamma": 5.0}),
        (MinSNR(0.25), {"name": "MinSNR", "gamma": 0.25}),
        (P2(), {"name": "P2", "gamma": 1.0, "k": 1.0}),
        (P2(0.5, 2.0), {"name": "P2", "gamma": 0.5, "k": 2.0}),
    ],
)
def test_weightings_go_through_json_and_come_back(weighting, config):
    assert weighting_config(weighting) == config
    assert weighting_from_config(json.loads(json.dumps(config))) == weighting
    assert make(loss_weighting=weighting).config["loss_weighting"] == config


def test_numbers_left_out_of_a_weightings_configuration_take_their_defaults():
    config = {"name": "P2", "k": 3.0}
    assert weighting_from_config(config) == P2(k=3.0)
    assert config == {"name": "P2", "k": 3.0}, "the caller's configuration was changed"


def test_a_function_of_ones_own_is_named_but_not_brought_back():
    class Steeper(MinSNR):
        """Not MinSNR, though it has its numbers."""

    def own(schedule, t, objective):  # noqa: ARG001
        return t.float()

    for weighting, kind in ((own, own), (Steeper(), Steeper)):
        with pytest.raises(
            TypeError, match="only None, MinSNR and P2 can be written to a configuration, but"
        ):
            weighting_config(weighting)
        config = json.loads(json.dumps(make(loss_weighting=weighting).config))["loss_weighting"]
        # by a name that the next process gives it too, unlike its address
        assert config == {"name": "custom", "repr": f"{__name__}.{kind.__qualname__}"}
        with pytest.raises(
            ValueError, match=r"a function of the user's own, .* give it to GaussianDiffusion"
        ):
            weighting_from_config(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "SNR"}, "unknown loss weighting .* must be one of MinSNR, P2"),
        ({"gamma": 5.0}, "unknown loss weighting"),
        ({"name": ["P2"]}, "unknown loss weighting"),
        ({"name": "MinSNR", "gamma": -1.0}, "MinSNR needs gamma > 0, but got -1.0"),
        ({"name": "MinSNR", "k": 1.0}, r"MinSNR takes gamma, but got \['k'\]"),
        ({"name": "P2", "gama": 1.0}, r"P2 takes gamma and k, but got \['gama'\]"),
    ],
)
def test_configurations_of_no_weighting_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        weighting_from_config(config)


def test_a_configuration_is_not_a_weighting():
    with pytest.raises(
        TypeError, match=r"loss_weighting must be None or a weighting .* weighting_from_config"
    ):
        make(loss_weighting={"name": "MinSNR", "gamma": 5.0})


def test_forward_takes_images_in_0_1():
    """`diffusion(images)` is `loss` of the rescaled images, with t and ε from the global source."""
    diffusion = make(timesteps=50)
    images = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(7)
    at_the_door = diffusion(images)
    torch.manual_seed(7)
    assert torch.equal(at_the_door, diffusion.loss(2 * images - 1))
    assert at_the_door.shape == ()
    labels = torch.arange(5)
    torch.manual_seed(7)
    assert not torch.equal(at_the_door, diffusion(images, labels))


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20))
def test_scales_undo_each_other(values):
    images = torch.tensor(values)
    x = to_model_scale(images)
    assert x.min() >= -1
    assert x.max() <= 1
    torch.testing.assert_close(to_image_scale(x), images, rtol=0, atol=1e-7)
    assert to_image_scale(torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0])).tolist() == [0, 0, 0.5, 1, 1]


# Randomness


def test_a_generator_repeats_and_leaves_the_global_source_alone():
    diffusion = make(timesteps=30, ddim_sampling_eta=0.5)
    x0 = randn(4, 1, 4, 4)
    before = torch.get_rng_state()

    def everything(seed):
        generator = torch.Generator().manual_seed(seed)
        return (
            diffusion.loss(x0, generator=generator),
            diffusion.sample(2, generator=generator),
            diffusion.sample(2, 5, generator=generator),
            diffusion.p_sample(x0, torch.tensor([1, 2, 3, 4]), generator=generator),
            diffusion.sample(2, seeds=[seed, seed + 1]),
            diffusion.sample(2, 5, seeds=[seed, seed + 1]),
        )

    for first, again, other in zip(everything(1), everything(1), everything(2), strict=True):
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("steps", [30, 7])
def test_an_image_depends_on_its_own_seed_alone(steps):
    """Bit for bit with a network that mixes nothing; the seed's place in the batch does not matter either."""
    diffusion = make(timesteps=30, beta_schedule="cosine", ddim_sampling_eta=1.0)
    together = diffusion.sample(5, steps, seeds=[11, 12, 13, 14, 15])
    for i, seed in enumerate([11, 12, 13, 14, 15]):
        assert torch.equal(diffusion.sample(1, steps, seeds=[seed])[0], together[i])
    assert torch.equal(diffusion.sample(2, steps, seeds=[15, 13]), together[[4, 2]])
    assert len({tuple(image.flatten().tolist()) for image in together}) == 5


def test_an_image_of_the_unet_depends_on_its_own_seed_alone():
    """Convolutions may add up in another order in another batch: equal to 1e-5, not bit for bit."""
    torch.manual_seed(0)
    network = Unet(8, dim_mults=(1, 2), channels=1, resnet_block_groups=4)
    torch.nn.init.normal_(network.last.weight, std=0.05)
    diffusion = GaussianDiffusion(network, image_size=8, timesteps=20, beta_schedule="cosine")
    together = diffusion.sample(4, seeds=[1, 2, 3, 4])
    torch.testing.assert_close(diffusion.sample(1, seeds=[3])[0], together[2], rtol=0, atol=1e-5)


# Self-conditioning


class Hearing(torch.nn.Module):
    """A network with self-conditioning and one weight, which mixes no images and writes down what it is given."""

    self_condition = True
    channels = 1

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.8))
        self.heard = []

    def forward(self, x_t, t, labels=None, x_self_cond=None):
        self.heard.append((x_self_cond, torch.is_grad_enabled()))
        output = torch.sin(self.weight * x_t) + 0.01 * t[:, None, None, None].log()
        output = output if labels is None else output + labels[:, None, None, None]
        return output if x_self_cond is None else output + 0.3 * self.weight * x_self_cond


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_first_guess_is_heard_by_the_images_of_the_mask(objective):
    """It is x_0 of the first answer, clipped, computed without gradients; the others hear zeros."""
    diffusion = make(Hearing(), objective=objective)
    x0, noise, t = randn(4, 1, 4, 4), randn(4, 1, 4, 4, seed=1), torch.tensor([1, 20, 40, 50])
    labels, mask = torch.tensor([0, 1, 2, 0]), torch.tensor([True, False, True, False])
    loss = diffusion.loss(x0, t, noise, labels, self_condition_mask=mask)
    (first, with_grad_first), (second, with_grad) = diffusion.network.heard
    assert first is None
    assert not with_grad_first
    assert with_grad
    assert not second.requires_grad
    x_t = diffusion.q_sample(x0, t, noise)
    guess = diffusion.predict(x_t, t, labels).x0.detach()
    assert (guess.abs() > 1).any(), "nothing to clip"
    assert torch.equal(second, guess.clamp(-1, 1) * mask.view(-1, 1, 1, 1))
    # The loss is that of the second answer alone, and so is its gradient.
    answer = diffusion.network(x_t, t, labels, second)
    expected = (answer - diffusion.target(x0, t, noise)).square().mean()
    assert loss.item() == approx(expected.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, diffusion.network.weight)
    (wanted,) = torch.autograd.grad(expected, diffusion.network.weight)
    assert gradient.item() == approx(wanted.item(), rel=1e-5)


def test_no_gradient_flows_through_the_first_guess():
    """Written out: d/dw of (sin(w x_t) + 0.3 w x̂_0 − target)², with x̂_0 a number although it came from w too."""
    diffusion = make(Hearing(), objective="pred_x0", image_size=1)
    x0, noise, t = 0.5 * torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), torch.tensor([1])
    diffusion.loss(x0, t, noise, self_condition_mask=torch.tensor([True])).backward()
    x_t = math.sqrt(diffusion.schedule.exact_alpha_bar[1].item()) * 0.5
    guess = math.sin(0.8 * x_t)
    error = guess + 0.3 * 0.8 * guess - 0.5
    slope = x_t * math.cos(0.8 * x_t) + 0.3 * guess
    assert diffusion.network.weight.grad.item() == approx(2 * error * slope, rel=1e-5)
    through = 0.3 * 0.8 * x_t * math.cos(0.8 * x_t)  # what the chain rule would add
    assert diffusion.network.weight.grad.item() != approx(2 * error * (slope + through), rel=0.05)


def test_half_of_the_images_hear_their_first_guess():
    """20,000 fair coins within 5 standard errors, none depending on the one before; t and ε are drawn as ever."""
    count = 20_000
    diffusion = make(Hearing(), image_size=1)
    before = torch.get_rng_state()
    diffusion.loss(torch.ones(count, 1, 1, 1), generator=torch.Generator().manual_seed(0))
    coins = (diffusion.network.heard[1][0].flatten() != 0).double()
    assert coins.mean().item() == approx(0.5, abs=5 * 0.5 / math.sqrt(count))
    neighbours = (coins[1:] == coins[:-1]).double().mean().item()
    assert neighbours == approx(0.5, abs=5 * 0.5 / math.sqrt(count))
    assert torch.equal(torch.get_rng_state(), before), "the coins came from the global source"

    x0, seed = randn(8, 1, 1, 1), 3
    drawn = diffusion.loss(x0, generator=torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed)
    t = torch.randint(1, 51, (8,), generator=generator)
    noise = torch.randn(8, 1, 1, 1, generator=generator)
    mask = diffusion.network.heard[-1][0].flatten() != 0
    assert torch.equal(drawn, diffusion.loss(x0, t, noise, self_condition_mask=mask))


def test_a_network_without_self_conditioning_is_asked_once_and_flips_no_coin():
    diffusion = make(timesteps=50)
    assert not diffusion.self_condition
    generator = torch.Generator().manual_seed(0)
    diffusion.loss(randn(4, 1, 4, 4), generator=generator)
    assert len(diffusion.network.calls) == 1
    expected = torch.Generator().manual_seed(0)
    torch.randint(1, 51, (4,), generator=expected)
    torch.randn(4, 1, 4, 4, generator=expected)
    assert torch.equal(generator.get_state(), expected.get_state())


def test_self_condition_is_the_networks():
    assert make(Hearing()).self_condition is True
    unet = {"dim": 8, "dim_mults": (1, 2), "channels": 1, "resnet_block_groups": 4}
    assert make(Unet(**unet, self_condition=True)).self_condition is True
    assert make(Unet(**unet)).self_condition is False


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_self_conditioned_unet_trains_on_every_weight(precision):
    """Also under autocast, where some versions of torch would keep what the first guess cast, without gradients."""
    torch.manual_seed(0)
    network = Unet(8, dim_mults=(1, 2), channels=1, resnet_block_groups=4, self_condition=True)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    diffusion = GaussianDiffusion(network, image_size=8, timesteps=50)
    x0, mask = randn(4, 1, 8, 8).clamp(-1, 1), torch.tensor([True, True, False, True])
    with torch.autocast("cpu", torch.bfloat16, enabled=precision != torch.float32):
        loss = diffusion.loss(x0, generator=torch.Generator().manual_seed(0), self_condition_mask=mask)
    assert loss.dtype == torch.float32
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("steps", [30, 5])
def test_samples_are_self_conditioned_and_depend_on_their_own_seed_alone(steps):
    diffusion = make(Hearing(), timesteps=30, beta_schedule="cosine", ddim_sampling_eta=1.0)
    together = diffusion.sample(3, steps, seeds=[11, 12, 13])
    hints = [hint for hint, _ in diffusion.network.heard]
    assert len(hints) == steps
    assert hints[0] is None
    assert all(hint.shape == (3, 1, 4, 4) and hint.abs().max() <= 1 for hint in hints[1:])
    for i, seed in enumerate([11, 12, 13]):
        assert torch.equal(diffusion.sample(1, steps, seeds=[seed])[0], together[i])
    diffusion.network.self_condition = False
    assert not torch.equal(diffusion.sample(3, steps, seeds=[11, 12, 13]), together)


def test_an_estimate_reaches_the_network_through_every_door():
    diffusion = make(Hearing())
    x_t, t, hint = randn(2, 1, 4, 4), torch.tensor([3, 40]), randn(2, 1, 4, 4, seed=1)
    prediction = diffusion.predict(x_t, t, clip_x0=True, x_self_cond=hint)
    mean, variance, _ = diffusion.p_mean_variance(x_t, t, x_self_cond=hint)
    assert torch.equal(mean, diffusion.q_posterior(prediction.x0, x_t, t)[0])
    assert not torch.equal(mean, diffusion.p_mean_variance(x_t, t)[0])
    draw = diffusion.p_sample(x_t, t, x_self_cond=hint, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(draw, mean + variance.sqrt() * noise)
    assert all(heard is hint for heard, _ in diffusion.network.heard if heard is not None)


def test_estimates_and_masks_that_do_not_fit_are_refused():
    plain, hearing = make(), make(Hearing())
    x, t = torch.zeros(2, 1, 4, 4), torch.tensor([1, 2])
    for call in (plain.predict, plain.p_mean_variance, plain.p_sample):
        with pytest.raises(
            ValueError, match=r"x_self_cond is for a network with self-conditioning.* has none"
        ):
            call(x, t, x_self_cond=x)
    with pytest.raises(ValueError, match="self_condition_mask is for a network with self-conditioning"):
        plain.loss(x, self_condition_mask=torch.tensor([True, False]))
    for call in (hearing.predict, hearing.p_mean_variance, hearing.p_sample):
        with pytest.raises(ValueError, match=r"x_t and x_self_cond must have one shape"):
            call(x, t, x_self_cond=x[:1])
    for mask in (torch.ones(3, dtype=torch.bool), torch.ones(2), torch.ones(2, 1, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"one truth value per image, bool of shape \(2,\), but got"):
            hearing.loss(x, self_condition_mask=mask)


def test_another_form_of_the_network_is_called_in_its_place():
    """In `predict` and in both calls of the loss; the network itself is left alone."""
    for network, asked in ((Pointwise(), 1), (Hearing(), 2)):
        diffusion = make(network)
        calls = []

        def compiled(*arguments, inner=network, calls=calls, **options):
            calls.append((arguments, options))
            return type(inner).forward(inner, *arguments, **options) + 1

        network.register_forward_pre_hook(lambda *_: pytest.fail("the network itself was called"))
        x0, noise, t = randn(2, 1, 4, 4), randn(2, 1, 4, 4, seed=1), torch.tensor([3, 40])
        options = {"self_condition_mask": torch.tensor([True, False])} if asked == 2 else {}
        diffusion.loss(x0, t, noise, network=compiled, **options)
        assert len(calls) == asked
        diffusion.predict(x0, t, network=compiled)
        assert len(calls) == asked + 1


# Interpolation


class Exact(torch.nn.Module):
    """The best network for pixels N(mean, variance), as one that predicts x_0."""

    channels = 1

    def __init__(self, mean, variance, schedule):
        super().__init__()
        self.denoiser = GaussianDenoiser(schedule, mean, variance)

    def forward(self, x_t, t, labels=None):
        return self.denoiser.predict(x_t, t, labels).x0


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("level", [1, 25, 40])
def test_interpolations_have_the_moments_of_the_recursion(level, lam):
    """50,000 pixels of exact Gaussian data against Algorithm 2 in Python's numbers, within 5 standard errors.

    The mix has the mean √ᾱ_t ((1−λ) x_1 + λ x_2) and, as both have the same noise, the variance 1 − ᾱ_t of any x_t.
    """
    T, count, mean, variance = 40, 50_000, 0.1, 0.01
    schedule = schedule_64("cosine", T)
    diffusion = make_64("cosine", T, objective="pred_x0", image_size=1)
    exact = Exact(mean, variance, schedule)
    diffusion.network = exact
    x1, x2 = column([0.4]).expand(count, 1, 1, 1), column([-0.2]).expand(count, 1, 1, 1)
    got = diffusion.interpolate(x1, x2, level, lam, generator=torch.Generator().manual_seed(level))

    alpha_bar = schedule.exact_alpha_bar.tolist()
    m, v = math.sqrt(alpha_bar[level]) * ((1 - lam) * 0.4 + lam * -0.2), 1 - alpha_bar[level]
    for t in range(level, 0, -1):
        now, before = alpha_bar[t], alpha_bar[t - 1]
        beta = 1 - now / before
        of_x0, of_xt = math.sqrt(before) * beta / (1 - now), math.sqrt(1 - beta) * (1 - before) / (1 - now)
        gain = exact.denoiser.gain(t)
        m = of_x0 * (mean + gain * (m - math.sqrt(now) * mean)) + of_xt * m
        v = (of_x0 * gain + of_xt) ** 2 * v + (1 - before) / (1 - now) * beta
    assert got.mean().item() == approx(m, abs=5 * math.sqrt(v / count))
    assert got.var().item() == approx(v, rel=5 * math.sqrt(2 / count))


@pytest.mark.parametrize("level", [None, 30, 12, 1])
def test_an_interpolation_that_is_all_of_one_picture_is_that_picture_denoised(level):
    """λ = 0: x_t of x_1, and `p_sample` at t, t−1, …, 1, with one source of noise for all; x_2 leaves no trace."""
    diffusion = make(timesteps=30, beta_schedule="cosine")
    x1, x2, noise = randn(3, 1, 4, 4), randn(3, 1, 4, 4, seed=1), torch.Generator().manual_seed(5)
    start = 30 if level is None else level
    x = diffusion.q_sample(x1, torch.full((3,), start), torch.randn(3, 1, 4, 4, generator=noise))
    for t in range(start, 0, -1):
        x = diffusion.p_sample(x, torch.full((3,), t), generator=noise)
    assert x.min() < 0, "in [-1, 1], not in [0, 1]"
    diffusion.network.calls.clear()
    for ends, lam in (((x1, x2), 0), ((x2, x1), 1), ((x1, x1), 0.3)):
        got = diffusion.interpolate(*ends, level, lam, generator=torch.Generator().manual_seed(5))
        torch.testing.assert_close(got, x, rtol=0, atol=1e-5)
    assert diffusion.network.calls == 3 * list(range(start, 0, -1))


def test_an_interpolation_does_not_care_which_picture_comes_first():
    diffusion = make(timesteps=30, beta_schedule="cosine")
    x1, x2 = randn(3, 1, 4, 4), randn(3, 1, 4, 4, seed=1)

    def between(first, second, *lam):
        return diffusion.interpolate(first, second, 20, *lam, generator=torch.Generator().manual_seed(5))

    torch.testing.assert_close(between(x1, x2, 0.25), between(x2, x1, 0.75), rtol=0, atol=1e-5)
    assert torch.equal(between(x1, x2), between(x1, x2, 0.5))
    assert (between(x1, x2, 0.25) - between(x1, x2, 0.75)).abs().max() > 1e-2


def test_interpolation_passes_labels_on_works_in_evaluation_mode_and_without_gradients():
    modes = []

    class Watching(Pointwise):
        def forward(self, x_t, t, labels=None):
            modes.append((self.training, torch.is_grad_enabled()))
            return super().forward(x_t, t, labels)

    diffusion = make(Watching(), timesteps=30)
    x, labels = randn(2, 1, 4, 4).requires_grad_(), torch.tensor([0, 1])

    def between(**options):
        seeds = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
        return diffusion.interpolate(x, -x, 7, generator=seeds, **options)

    free, labelled = between(), between(labels=labels)
    assert torch.equal(free[0], labelled[0])
    assert not torch.equal(free[1], labelled[1])
    assert not free.requires_grad
    assert modes == [(False, False)] * 14
    assert diffusion.network.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"t": 0}, r"t must be a whole number in 1 … 50 \(T\), but got 0"),
        ({"t": 51}, "but got 51"),
        ({"t": True}, "but got True"),
        ({"t": 2.5}, "but got 2.5"),
        ({"lam": -0.1}, r"lam must lie in \[0, 1\]: 0 is all x1, 1 is all x2; but got -0.1"),
        ({"lam": 1.1}, "but got 1.1"),
        ({"lam": math.nan}, "but got nan"),
        ({"x2": torch.zeros(1, 1, 4, 4)}, "x1 and x2 must have one shape"),
        ({"x2": torch.zeros(2, 1, 4, 4, dtype=torch.uint8)}, "x2 must be a floating-point tensor"),
    ],
)
def test_interpolate_refuses_what_it_cannot_do(arguments, message):
    with pytest.raises(ValueError, match=message):
        make().interpolate(**{"x1": torch.zeros(2, 1, 4, 4), "x2": torch.zeros(2, 1, 4, 4), **arguments})


# Sampling


def test_sample_over_all_levels_is_ancestral_and_over_fewer_is_ddim():
    diffusion = make(timesteps=30, beta_schedule="cosine", ddim_sampling_eta=0.3)
    for steps in (None, 30, 7, 1):
        generator = torch.Generator().manual_seed(4)
        x = torch.randn(3, 1, 4, 4, generator=generator)
        if steps in (None, 30):
            *_, last = ancestral(diffusion, x, generator=generator)
        else:
            *_, last = ddim(diffusion, x, steps, eta=0.3, generator=generator)
        diffusion.network.calls.clear()
        images = diffusion.sample(3, steps, generator=torch.Generator().manual_seed(4))
        assert torch.equal(images, to_image_scale(last.x))
        assert len(diffusion.network.calls) == (30 if steps is None else steps)
        assert images.shape == (3, 1, 4, 4)
        assert images.min() >= 0
        assert images.max() <= 1


def test_sample_takes_its_defaults_from_construction():
    diffusion = make(Pointwise(channels=2), timesteps=30, sampling_timesteps=6, image_size=(3, 5))
    images = diffusion.sample(generator=torch.Generator().manual_seed(0))
    assert images.shape == (16, 2, 3, 5)
    assert len(diffusion.network.calls) == 6
    assert diffusion.image_shape == (2, 3, 5)
    assert diffusion.device == torch.device("cpu")


@pytest.mark.parametrize("steps", [30, 5])
def test_sample_passes_labels_on(steps):
    diffusion = make(timesteps=30)
    labels = torch.tensor([0, 1])
    free = diffusion.sample(2, steps, seeds=[1, 1])
    labelled = diffusion.sample(2, steps, seeds=[1, 1], labels=labels)
    assert torch.equal(free[0], labelled[0])
    assert not torch.equal(free[1], labelled[1])


def test_sample_works_in_evaluation_mode_and_puts_every_mode_back():
    modes = []

    class Watching(Pointwise):
        def __init__(self):
            super().__init__()
            self.frozen = torch.nn.Dropout()
            self.frozen.eval()

        def forward(self, x_t, t, labels=None):
            modes.append((self.training, torch.is_grad_enabled()))
            return super().forward(x_t, t, labels)

    diffusion = make(Watching(), timesteps=30)
    diffusion.sample(1, 3)
    assert modes == [(False, False)] * 3
    assert diffusion.training
    assert diffusion.network.training
    assert not diffusion.network.frozen.training, "a part in evaluation mode was switched to training"
    diffusion.eval()
    diffusion.sample(1, 3)
    assert not diffusion.training
    assert not diffusion.network.training


def test_sample_puts_the_mode_back_when_the_network_fails():
    class Failing(Pointwise):
        def forward(self, x_t, t, labels=None):  # noqa: ARG002
            raise RuntimeError("out of ideas")

    diffusion = make(Failing(), timesteps=30)
    with pytest.raises(RuntimeError, match="out of ideas"):
        diffusion.sample(1)
    assert diffusion.training
    assert diffusion.network.training
    assert torch.is_grad_enabled()


def test_progress_is_shown_only_when_asked_for(capsys):
    diffusion = make(timesteps=30)
    diffusion.sample(1, 4)
    assert capsys.readouterr().err == ""
    diffusion.sample(1, 4, progress=True)
    assert "4/4" in capsys.readouterr().err


# The module


def test_double_precision_all_the_way():
    diffusion = make(
        Unet(8, dim_mults=(1, 2), channels=1, resnet_block_groups=4), timesteps=30, image_size=8
    ).double()
    images = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    diffusion(images).backward()
    assert diffusion.network.last.weight.grad.dtype == torch.float64
    assert diffusion.sample(2, 3).dtype == torch.float64


def test_state_dict_holds_the_networks_weights_and_nothing_else():
    torch.manual_seed(0)

    def fresh():
        return make(Unet(8, dim_mults=(1, 2), channels=1, resnet_block_groups=4), timesteps=30, image_size=8)

    first, second = fresh(), fresh()
    for parameter in first.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    assert all(name.startswith("network.") for name in first.state_dict())
    x, t = randn(2, 1, 8, 8), torch.tensor([3, 30])
    assert not torch.equal(first.predict(x, t).x0, second.predict(x, t).x0)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.predict(x, t).x0, second.predict(x, t).x0)
    assert torch.equal(copy.deepcopy(first).predict(x, t).x0, first.predict(x, t).x0)


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"objective": "pred_eps"},
            r"unknown objective 'pred_eps'; choose one of 'pred_noise', 'pred_x0', 'pred_v'",
        ),
        ({"objective": None}, "unknown objective None"),
        ({"loss_type": "huber"}, r"unknown loss_type 'huber'; choose one of 'l1', 'l2'"),
        ({"beta_schedule": "quadratic"}, "unknown beta_schedule 'quadratic'"),
        ({"timesteps": 0}, r"timesteps \(T\) must be a whole number of at least 1, but got 0"),
        ({"timesteps": 10.5}, r"timesteps \(T\) must be a whole number"),
        ({"timesteps": "10"}, r"timesteps \(T\) must be a whole number"),
        ({"timesteps": 10, "beta_schedule": "linear"}, r"strictly between 0 and 1.*T > 20"),
        ({"timesteps": 20, "beta_schedule": "linear"}, r"strictly between 0 and 1.*T > 20"),
        ({"sampling_timesteps": 0}, r"sampling_timesteps must be a whole number in 1 … 50 \(T\), but got 0"),
        ({"sampling_timesteps": 51}, "but got 51"),
        ({"sampling_timesteps": True}, "but got True"),
        ({"sampling_timesteps": 2.5}, "but got 2.5"),
        ({"ddim_sampling_eta": -0.1}, r"eta must lie in \[0, 1\].*but got -0.1"),
        ({"ddim_sampling_eta": 1.1}, "but got 1.1"),
        ({"ddim_sampling_eta": math.nan}, "but got nan"),
        ({"image_size": 0}, "image_size must be one whole number >= 1 or a pair of them, but got 0"),
        ({"image_size": (8, 0)}, r"but got \(8, 0\)"),
        ({"image_size": (8, 8, 8)}, r"but got \(8, 8, 8\)"),
        ({"image_size": 8.0}, "but got 8.0"),
        ({"image_size": True}, "but got True"),
        ({"image_size": "28"}, "but got '28'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_a_network_without_channels_is_refused():
    with pytest.raises(ValueError, match="in an attribute `channels` >= 1"):
        make(torch.nn.Identity())


def methods(diffusion):
    """Every public method that takes images and levels, as a function of (x, t)."""
    return {
        "q_sample": lambda x, t: diffusion.q_sample(x, t, x),
        "q_posterior": lambda x, t: diffusion.q_posterior(x, x, t),
        "predict_start_from_noise": lambda x, t: diffusion.predict_start_from_noise(x, t, x),
        "predict_noise_from_start": lambda x, t: diffusion.predict_noise_from_start(x, t, x),
        "predict_v": lambda x, t: diffusion.predict_v(x, t, x),
        "predict_start_from_v": lambda x, t: diffusion.predict_start_from_v(x, t, x),
        "predict": diffusion.predict,
        "p_mean_variance": diffusion.p_mean_variance,
        "p_sample": diffusion.p_sample,
        "loss": diffusion.loss,
    }


@pytest.mark.parametrize("name", list(methods(make())))
@pytest.mark.parametrize(
    ("t", "message"),
    [
        ([0, 1], r"t must lie in 1 … 50 \(0 is the clean image\), but got values from 0 to 1"),
        ([51, 1], "values from 1 to 51"),
        ([-1, 1], "values from -1 to 1"),
        (
            [1.0, 2.0],
            r"t must hold one whole number per image, shape \(2,\), but got torch.float32 of shape \(2,\)",
        ),
        ([True, False], "but got torch.bool"),
        ([1j, 2j], "but got torch.complex64"),
        ([1], r"but got torch.int64 of shape \(1,\)"),
        ([[1], [2]], r"of shape \(2, 1\)"),
        (3, r"of shape \(\)"),
    ],
)
def test_levels_that_do_not_exist_are_refused(name, t, message):
    with pytest.raises(ValueError, match=message):
        methods(make())[name](torch.zeros(2, 1, 4, 4), torch.tensor(t))


@pytest.mark.parametrize("name", list(methods(make())))
def test_a_bare_number_for_t_is_refused_with_the_way_to_write_it(name):
    with pytest.raises(TypeError, match=r"t must be a tensor with one level per image, torch.full\(\(2,\)"):
        methods(make())[name](torch.zeros(2, 1, 4, 4), 3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_levels_of_any_integer_type_mean_the_same(dtype):
    """As many images as the tables are long: an unsigned byte would index them as a mask."""
    diffusion = make(timesteps=50)
    x, noise = randn(51, 1, 4, 4), randn(51, 1, 4, 4, seed=1)
    t = torch.arange(51).clamp(1)
    assert torch.equal(diffusion.q_sample(x, t.to(dtype), noise), diffusion.q_sample(x, t, noise))
    assert torch.equal(diffusion.predict(x, t.to(dtype)).x0, diffusion.predict(x, t).x0)
    assert torch.equal(diffusion.loss(x, t.to(dtype), noise), diffusion.loss(x, t, noise))


@pytest.mark.parametrize("name", list(methods(make())))
@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(2, 4, 4),
        torch.zeros(2, 1, 4, 4, dtype=torch.uint8),
        torch.zeros(2, 1, 4, 4, dtype=torch.cfloat),
    ],
)
def test_what_is_no_batch_of_images_is_refused(name, x):
    with pytest.raises(ValueError, match=r"must be a floating-point tensor of shape \(B, C, H, W\), but got"):
        methods(make())[name](x, torch.tensor([1, 2]))


@pytest.mark.parametrize(
    "call",
    [
        lambda d, a, b, t: d.q_sample(a, t, b),
        lambda d, a, b, t: d.q_posterior(a, b, t),
        lambda d, a, b, t: d.predict_start_from_noise(a, t, b),
        lambda d, a, b, t: d.predict_noise_from_start(a, t, b),
        lambda d, a, b, t: d.predict_v(a, t, b),
        lambda d, a, b, t: d.predict_start_from_v(a, t, b),
        lambda d, a, b, t: d.loss(a, t, b),
    ],
)
def test_partners_of_another_shape_are_not_broadcast(call):
    with pytest.raises(ValueError, match=r"must have one shape, but got \(2, 3, 4, 4\) and \(2, 1, 4, 4\)"):
        call(make(), torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4), torch.tensor([1, 2]))


def test_a_network_of_another_output_shape_is_refused():
    """PyTorch would only warn, and train on broadcast nonsense."""

    class OneChannel(Pointwise):
        def forward(self, x_t, t, labels=None):
            return super().forward(x_t, t, labels)[:, :1]

    diffusion = make(OneChannel(channels=3))
    x, t = torch.zeros(2, 3, 4, 4), torch.tensor([1, 2])
    for call in (diffusion.loss, diffusion.predict):
        with pytest.raises(
            ValueError, match=r"x_t and the network's output must have one shape.*\(2, 1, 4, 4\)"
        ):
            call(x, t)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            torch.zeros(2, 1, 4, 5),
            r"images must have shape \(B, 1, 4, 4\) with B >= 1, but got \(2, 1, 4, 5\)",
        ),
        (torch.zeros(2, 3, 4, 4), r"but got \(2, 3, 4, 4\)"),
        (torch.zeros(0, 1, 4, 4), r"but got \(0, 1, 4, 4\)"),
        (torch.zeros(1, 4, 4), r"images must be a floating-point tensor of shape"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), "but got torch.uint8"),
        (
            torch.full((2, 1, 4, 4), 1.01),
            r"images must be in \[0, 1\], but range from 1.01 to 1.01; `loss` takes",
        ),
        (torch.full((2, 1, 4, 4), -1.0), r"but range from -1 to -1"),
        (torch.full((2, 1, 4, 4), 255.0), r"but range from 255"),
        (torch.full((2, 1, 4, 4), math.nan), r"images must be in \[0, 1\], but range from nan"),
        (torch.cat([torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), math.nan)]), r"but range from nan"),
    ],
)
def test_images_that_do_not_belong_at_the_door_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        make()(images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampling_timesteps": 0}, "sampling_timesteps must be a whole number in 1 … 50 .* but got 0"),
        ({"sampling_timesteps": 51}, "but got 51"),
        ({"sampling_timesteps": True}, "but got True"),
        ({"sampling_timesteps": 2.5}, "but got 2.5"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, but got 0"),
        ({"batch_size": 2.0}, "but got 2.0"),
        ({"batch_size": True}, "but got True"),
        ({"seeds": [1, 2], "generator": torch.Generator()}, "either `generator` .* or `seeds` .* not both"),
        ({"seeds": [1, 2, 3]}, "batch_size is 2, but got 3 seeds"),
        ({"seeds": []}, "batch_size is 2, but got 0 seeds"),
    ],
)
def test_sample_refuses_what_it_cannot_do(arguments, message):
    diffusion = make()
    with pytest.raises(ValueError, match=message):
        diffusion.sample(**{"batch_size": 2, **arguments})
    assert diffusion.training
    assert diffusion.network.calls == []


@pytest.mark.parametrize("timesteps", range(1, 41))
def test_the_schedule_of_a_short_chain_is_one_that_exists(timesteps):
    """Linear, the paper's, exactly where it can be built; cosine below."""
    try:
        NoiseSchedule(linear_betas(timesteps))
        expected = "linear"
    except ValueError:
        expected = "cosine"
    assert expected == ("linear" if timesteps > 20 else "cosine")
    diffusion = make(timesteps=timesteps)
    assert diffusion.beta_schedule == diffusion.config["beta_schedule"] == expected
    assert torch.equal(diffusion.schedule.beta[1:], BETAS[expected](timesteps).float())


@pytest.mark.parametrize("name", NAMES)
def test_a_schedule_that_is_named_is_the_one_that_is_taken(name):
    diffusion = make(timesteps=30, beta_schedule=name)
    assert diffusion.config["beta_schedule"] == name
    assert torch.equal(diffusion.schedule.beta[1:], BETAS[name](30).float())


def test_config_builds_a_twin():
    options = {
        "image_size": [4, 6],
        "timesteps": 10,
        "sampling_timesteps": 3,
        "loss_type": "l1",
        "objective": "pred_v",
        "loss_weighting": MinSNR(2.0),
        "ddim_sampling_eta": 0.5,
    }
    config = json.loads(json.dumps(GaussianDiffusion(Pointwise(), **options).config))
    assert config == {
        **options,
        "beta_schedule": "cosine",
        "loss_weighting": {"name": "MinSNR", "gamma": 2.0},
    }
    weighting = weighting_from_config(config.pop("loss_weighting"))
    twin = GaussianDiffusion(Pointwise(), **config, loss_weighting=weighting)
    assert twin.config == {**config, "loss_weighting": {"name": "MinSNR", "gamma": 2.0}}


def test_the_papers_defaults():
    diffusion = GaussianDiffusion(Pointwise(), image_size=32)
    assert diffusion.schedule.timesteps == diffusion.sampling_timesteps == 1000
    assert (diffusion.objective, diffusion.loss_type, diffusion.loss_weighting) == ("pred_noise", "l2", None)
    torch.testing.assert_close(diffusion.schedule.beta[1:].double(), linear_betas(1000), rtol=1e-6, atol=0)
    assert diffusion.ddim_sampling_eta == 0
