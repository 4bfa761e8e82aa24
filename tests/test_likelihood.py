"""The variational bound against exact likelihoods, torch's own distributions, and itself."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ddpm import GaussianDiffusion, Unet, likelihood
from ddpm.likelihood import VariationalBound, decoder_term, denoising_term, prior_term, vlb_terms
from ddpm.mixture_oracle import GaussianMixtureOracle
from ddpm.reverse_process import OptimalVariance, ReverseStep, variance_rule
from ddpm.schedule import NoiseSchedule, cosine_betas, linear_betas
from ddpm.weighting import stratified_timesteps

ERROR_BARS = 4.5  # how many standard errors a Monte Carlo mean may be off: about 1 in 150,000


@dataclass
class Belief:
    x0: Tensor
    noise: Tensor


@dataclass
class GaussianDenoiser:
    """The exact denoiser of independent Gaussian data with `mean` and `variance` of shape (D,)."""

    schedule: NoiseSchedule
    mean: Tensor
    variance: Tensor

    def predict(
        self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, *, clip_x0: bool = False
    ) -> Belief:
        del labels
        alpha_bar = self.schedule.alpha_bar[t].view(-1, 1, 1, 1)
        mean, variance = self.mean.view(1, -1, 1, 1), self.variance.view(1, -1, 1, 1)
        gain = alpha_bar.sqrt() * variance / (alpha_bar * variance + 1 - alpha_bar)
        x0 = mean + gain * (x_t - alpha_bar.sqrt() * mean)
        x0 = x0.clamp(-1, 1) if clip_x0 else x0
        return Belief(x0, (x_t - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt())

    def draw(self, count: int) -> Tensor:
        noise = torch.randn(
            count, len(self.mean), generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
        return (self.mean + self.variance.sqrt() * noise)[:, :, None, None]

    def negative_log_likelihood(self, x0: Tensor) -> Tensor:
        return -Normal(self.mean, self.variance.sqrt()).log_prob(x0.flatten(1)).sum(1)

    def level_variance(self) -> Tensor:
        """Variance of the noisy data at each t, shape (T+1, D)."""
        alpha_bar = self.schedule.alpha_bar[:, None]
        return alpha_bar * self.variance + 1 - alpha_bar

    def reverse_variance(self) -> Tensor:
        """Var(x_{t−1} | x_t) by conditioning one Gaussian on another, shape (T+1, D); row 0 is not used."""
        level = self.level_variance()
        covariance = self.schedule.alpha[1:, None].sqrt() * level[:-1]
        return torch.cat([level[:1], level[:-1] - covariance**2 / level[1:]])


def denoiser(betas: Tensor, *, means: tuple[float, ...] = (0.3,), variances: tuple[float, ...] = (0.25,)):
    schedule = NoiseSchedule(betas, dtype=torch.float64)
    return GaussianDenoiser(
        schedule, torch.tensor(means, dtype=torch.float64), torch.tensor(variances, dtype=torch.float64)
    )


def uniform_log_snr_betas(timesteps: int, first: float = 5.0, last: float = -12.0) -> Tensor:
    """A schedule of T levels between two fixed log-SNRs: more levels mean smaller steps everywhere."""
    alpha_bar = torch.sigmoid(torch.linspace(first, last, timesteps, dtype=torch.float64))
    return 1 - alpha_bar / torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])


def excess(model: GaussianDenoiser, variance: str | Tensor, count: int = 500) -> tuple[float, float]:
    """Mean of (bound − exact negative log-likelihood) over images and its standard error, in nats."""
    x0 = model.draw(count)
    bound = continuous_bound(model, x0, variance)
    difference = bound.total - model.negative_log_likelihood(x0)
    return difference.mean().item(), difference.std().item() / math.sqrt(count)


def continuous_bound(model: GaussianDenoiser, x0: Tensor, variance: str | Tensor) -> VariationalBound:
    generator = torch.Generator().manual_seed(1)
    return vlb_terms(
        model,
        x0,
        clip_x0=False,
        variance=variance,
        decoder="continuous",
        generator=generator,
        batch_size=4000,
    )


def price_of_wrong_variance(model: GaussianDenoiser, variance: Tensor) -> float:
    """What the bound loses where σ_t² is not the variance of the way back: a KL per step and dimension, in nats.

    The mean of an exact denoiser is right, so only the variances differ.
    """
    ratio = model.reverse_variance()[1:] / variance[1:, None]
    return (0.5 * (ratio - 1 - ratio.log())).sum().item()


# Gaussian data: everything is known. Sixteen dimensions measure as well as sixteen times as many images.


@pytest.mark.parametrize("betas", [linear_betas(50), cosine_betas(200), uniform_log_snr_betas(30)])
def test_bound_meets_the_log_likelihood_with_the_true_reverse_variance(betas: Tensor) -> None:
    model = denoiser(betas, means=(0.3, -0.5) * 8, variances=(0.25,) * 16)
    gap, error = excess(model, model.reverse_variance()[:, 0])
    last = model.level_variance()[-1]
    mean = model.schedule.sqrt_alpha_bar[-1] * model.mean
    prior_gap = kl_divergence(Normal(mean, last.sqrt()), Normal(0.0, 1.0)).sum().item()
    assert error < 0.02 * 16
    assert abs(gap - prior_gap) < ERROR_BARS * error


def test_bound_meets_the_log_likelihood_as_steps_grow() -> None:
    gaps = []
    for timesteps in (8, 32, 128, 512):
        model = denoiser(uniform_log_snr_betas(timesteps), means=(0.3,) * 16, variances=(0.25,) * 16)
        table = model.schedule.posterior_variance.clone()
        table[1] = model.reverse_variance()[1, 0]  # β̃_1 = 0 says nothing about the decoder
        gap, error = excess(model, table, count=200)
        assert gap > -ERROR_BARS * error, "a bound on the cost lies below the cost"
        assert abs(gap - price_of_wrong_variance(model, table)) < ERROR_BARS * error
        gaps.append(gap / 16)
    assert gaps[0] > gaps[1] > gaps[2] > gaps[3]
    assert gaps[0] > 0.4
    assert gaps[3] < 0.05


def variances_of(model, word: str) -> Tensor:
    """σ_t² of a fixed choice, shape (T+1,); entry 0 is not used."""
    t = torch.arange(model.schedule.timesteps + 1).clamp(min=1)
    x = torch.zeros(len(t), 1, 1, 1, dtype=torch.float64)
    return variance_rule(model, word)(x, t, None).exp().flatten()


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("betas", [linear_betas(40), cosine_betas(100)])
def test_price_of_the_fixed_variances(betas: Tensor, variance: str) -> None:
    model = denoiser(betas, means=(0.3, -0.2) * 8, variances=(0.25, 0.04) * 8)
    gap, error = excess(model, variance, count=2500)
    price = price_of_wrong_variance(model, variances_of(model, variance))
    assert price > 2 * ERROR_BARS * error, "the check would not notice"
    assert abs(gap - price) < ERROR_BARS * error


def test_standard_normal_data_make_beta_the_true_reverse_variance() -> None:
    """The remark of Ho et al. (2020, section 3.2): σ_t² = β_t is optimal for x_0 ~ N(0, I)."""
    model = denoiser(linear_betas(40), means=(0.0,) * 16, variances=(1.0,) * 16)
    assert torch.allclose(model.reverse_variance()[1:, 0], model.schedule.beta[1:], rtol=1e-12)
    gap, error = excess(model, model.schedule.beta)
    assert abs(gap) < ERROR_BARS * error


# The same without draws. For Gaussian data every term is quadratic in the image and in the noise, pixel by pixel, so
# that one standard deviation to either side of the mean, for both, averages to the expectation itself.

BOTH_SIDES = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
UNLIKE = {"means": (0.3, -0.5), "variances": (0.25, 0.04)}


def two_points(model: GaussianDenoiser) -> tuple[Tensor, Tensor]:
    """Images and noise to average over, both of shape (4, D, 1, 1)."""
    side_x0, side_noise = BOTH_SIDES.T[:, :, None].expand(2, 4, len(model.mean))
    return (model.mean + model.variance.sqrt() * side_x0)[:, :, None, None], side_noise[:, :, None, None]


def expected_bounds(model: GaussianDenoiser, variance) -> Tensor:
    """E[bound | x_0] for four images, in nats; their mean is E[bound]."""
    schedule, x0 = model.schedule, two_points(model)[0]
    step = ReverseStep(model, variance_rule(model, variance), None, clip_x0=False)

    def denoising(images: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        mean, log_variance, _ = step.moments(x_t, t)
        return denoising_term(schedule, images, x_t, t, mean, log_variance)

    def noised(t: Tensor, image: Tensor, side: Tensor) -> Tensor:
        alpha_bar = schedule.alpha_bar[t].view(-1, 1, 1, 1)
        return alpha_bar.sqrt() * image + (1 - alpha_bar).sqrt() * side

    t, costs = torch.arange(2, schedule.timesteps + 1), []
    for image in x0:
        images = image.expand(len(t), -1, -1, -1)
        steps = [denoising(images, noised(t, image, side), t).sum() for side in (1, -1)]
        x_1 = noised(torch.ones(2, dtype=torch.long), image, torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
        mean, log_variance, _ = step.moments(x_1, torch.ones(2, dtype=torch.long))
        pixels = decoder_term(image.expand_as(x_1), mean, log_variance, "continuous").sum() / 2
        costs.append(prior_term(schedule, image).sum() + sum(steps) / 2 + pixels)
    return torch.stack(costs)


def expected_excess(model: GaussianDenoiser, variance) -> float:
    """E[bound] − E[−log p(x_0)] in nats per dimension."""
    x0, _ = two_points(model)
    return (expected_bounds(model, variance) - model.negative_log_likelihood(x0)).mean().item() / len(
        model.mean
    )


def with_true_decoder(model: GaussianDenoiser, table: Tensor) -> Tensor:
    """The table with the true variance at t = 1, where the two fixed choices are a mere convention."""
    return torch.cat([table[:1], model.reverse_variance()[1:2, 0], table[2:]])


def test_expectation_without_draws_is_that_of_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    model = denoiser(cosine_betas(30), **UNLIKE)
    x0, noise = two_points(model)
    monkeypatch.setattr(likelihood, "randn_like", lambda x, _: noise.expand_as(x))
    drawn = vlb_terms(model, x0, clip_x0=False, decoder="continuous").total.mean()
    torch.testing.assert_close(drawn, expected_bounds(model, "fixed_small").mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("schedule", [linear_betas, cosine_betas])
@pytest.mark.parametrize("timesteps", [30, 300, 3000])
def test_bound_is_within_a_ten_thousandth_of_the_log_likelihood_and_not_below(schedule, timesteps) -> None:
    model = denoiser(schedule(timesteps), **UNLIKE)
    gap = expected_excess(model, OptimalVariance(model))
    mean, last = model.schedule.sqrt_alpha_bar[-1] * model.mean, model.level_variance()[-1]
    prior_gap = kl_divergence(Normal(mean, last.sqrt()), Normal(0.0, 1.0)).mean().item()
    assert 0 < gap < 1e-4
    assert gap == pytest.approx(prior_gap, abs=1e-11), "all that is lost is what x_T still knows"


def test_what_the_bound_of_one_image_is() -> None:
    """−log p(x_0) + KL(q(x_T | x_0) ‖ N(0, I)) − KL(q(x_T | x_0) ‖ q(x_T)): only the mean over images is a bound."""
    betas = torch.full((20,), 0.05, dtype=torch.float64)  # leaves a third of the signal
    model = denoiser(betas, **UNLIKE)
    x0, _ = two_points(model)
    alpha_bar, last = model.schedule.alpha_bar[-1], model.level_variance()[-1].view(1, -1, 1, 1)
    end = Normal(alpha_bar.sqrt() * x0, (1 - alpha_bar).sqrt())
    marginal = Normal(alpha_bar.sqrt() * model.mean.view(1, -1, 1, 1), last.sqrt())
    known = kl_divergence(end, Normal(0.0, 1.0)) - kl_divergence(end, marginal)
    expected = model.negative_log_likelihood(x0) + known.flatten(1).sum(1)
    torch.testing.assert_close(expected_bounds(model, OptimalVariance(model)), expected, rtol=1e-11, atol=0)


def test_with_beta_the_gap_closes_like_one_over_the_number_of_steps() -> None:
    gaps = []
    for timesteps in (100, 1000, 15_000):
        model = denoiser(linear_betas(timesteps))
        gaps.append(expected_excess(model, with_true_decoder(model, model.schedule.beta)))
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.02)
    assert gaps[1] / gaps[2] == pytest.approx(15, rel=0.05)
    assert 0 < gaps[2] < 1e-4


def test_with_beta_tilde_half_of_eulers_constant_is_lost_for_ever() -> None:
    """Near t = 1 the ratio of the true variance to β̃_t tends to t/(t−1), and Σ ½(1/(t−1) − ln(t/(t−1))) to γ/2."""
    gaps = []
    for timesteps in (1000, 4000, 16_000, 64_000):
        model = denoiser(linear_betas(timesteps))
        gaps.append(expected_excess(model, with_true_decoder(model, model.schedule.posterior_variance)))
    half_gamma = 0.5772156649015329 / 2
    assert gaps[0] > gaps[1] > gaps[2] > gaps[3] > half_gamma
    assert gaps[3] == pytest.approx(half_gamma, rel=0.05)


# A mixture: its way back is no Gaussian, and only short steps look like one


def mixture(timesteps: int) -> GaussianMixtureOracle:
    schedule = NoiseSchedule(cosine_betas(timesteps), dtype=torch.float64)
    return GaussianMixtureOracle(schedule, [[-1.0], [1.0]], [0.01, 0.01])


def mixture_excess(oracle: GaussianMixtureOracle, variance, monkeypatch: pytest.MonkeyPatch) -> float:
    """E[bound] − E[−log p(x_0)] in nats, by Gauss–Hermite quadrature over both; one hump mirrors the other."""
    nodes, weights = (torch.as_tensor(part) for part in np.polynomial.hermite_e.hermegauss(40))
    weight = torch.outer(weights, weights).flatten() / weights.sum() ** 2
    x0 = (1 + 0.1 * nodes).repeat_interleave(40)[:, None, None, None]
    noise = nodes.repeat(40)[:, None, None, None]
    monkeypatch.setattr(likelihood, "randn_like", lambda x, _: noise.expand_as(x))
    options = {"clip_x0": False, "decoder": "continuous", "seeds": range(len(x0)), "batch_size": len(x0)}
    bound = vlb_terms(oracle, x0, variance=variance, **options)
    return (weight * (bound.total + oracle.log_likelihood(x0))).sum().item()


def test_bound_of_a_mixture_closes_from_above(monkeypatch: pytest.MonkeyPatch) -> None:
    gaps = []
    for timesteps in (10, 50, 250, 500):
        oracle = mixture(timesteps)
        gaps.append(mixture_excess(oracle, OptimalVariance(oracle), monkeypatch))
    assert gaps[0] > gaps[1] > gaps[2] > gaps[3] > 0
    assert gaps[0] > 0.05
    assert gaps[3] < 1e-4


def test_no_fixed_variance_of_a_mixture_is_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = mixture(50)
    best = mixture_excess(oracle, OptimalVariance(oracle), monkeypatch)
    for wider in (0.9, 1.1):
        other = lambda *what, by=wider: OptimalVariance(oracle)(*what) + math.log(by)  # noqa: E731
        assert mixture_excess(oracle, other, monkeypatch) > best + 0.1
    for fixed in ("fixed_small", "fixed_large"):
        assert mixture_excess(oracle, fixed, monkeypatch) > best + 0.1


# A few levels per image

GROUP, REPEATS = 30, 300


def sampled_totals(model: GaussianDenoiser, timesteps_per_image: int) -> Tensor:
    """The estimate for `REPEATS` data sets of `GROUP` images, shape (REPEATS, GROUP)."""
    generator = torch.Generator().manual_seed(4)
    x0 = model.draw(REPEATS * GROUP)
    options = {"clip_x0": False, "decoder": "continuous", "generator": generator, "batch_size": len(x0)}
    return vlb_terms(model, x0, timesteps_per_image=timesteps_per_image, **options).total.view(REPEATS, GROUP)


def coverage(totals: Tensor, truth: float) -> float:
    """How often the mean lies within 2.045 standard errors of the truth: 95 % by Student's t for 30 images."""
    error = totals.std(1) / math.sqrt(GROUP)
    return ((totals.mean(1) - truth).abs() < 2.045 * error).double().mean().item()


def eight_pixels() -> GaussianDenoiser:
    return denoiser(linear_betas(60), means=(0.3,) * 8, variances=(0.25,) * 8)


def test_few_levels_estimate_the_same_bound_with_an_honest_error() -> None:
    model = eight_pixels()
    truth = expected_bounds(model, "fixed_small").mean().item()
    totals = sampled_totals(model, timesteps_per_image=3)
    error = totals.std().item() / math.sqrt(totals.numel())
    assert error < 0.01 * truth
    assert abs(totals.mean().item() - truth) < ERROR_BARS * error
    assert 0.91 < coverage(totals, truth) < 0.985  # 300 trials: one standard error is 0.013


def test_one_shift_for_the_batch_would_make_the_error_a_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    each = likelihood._visited_timesteps

    def shared(schedule: NoiseSchedule, count: int, source: list) -> tuple[Tensor, Tensor]:
        visited, weight = each(schedule, count, source[::GROUP])
        return visited.repeat_interleave(GROUP, 0), weight

    monkeypatch.setattr(likelihood, "_visited_timesteps", shared)
    model = eight_pixels()
    truth = expected_bounds(model, "fixed_small").mean().item()
    assert coverage(sampled_totals(model, timesteps_per_image=3), truth) < 0.8


def test_levels_even_in_t_would_miss_where_the_cost_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def even(schedule: NoiseSchedule, count: int, source: list) -> tuple[Tensor, Tensor]:
        rows = [
            1 + stratified_timesteps(count, schedule.timesteps - 1, generator=stream) for stream in source
        ]
        return torch.stack(rows), torch.full((schedule.timesteps + 1,), (schedule.timesteps - 1) / count)

    model = eight_pixels()
    ours = sampled_totals(model, timesteps_per_image=3).std()
    monkeypatch.setattr(likelihood, "_visited_timesteps", even)
    totals = sampled_totals(model, timesteps_per_image=3)
    assert totals.std() > 4 * ours
    assert coverage(totals, expected_bounds(model, "fixed_small").mean().item()) < 0.88


@pytest.mark.parametrize("levels", [4, 9])  # of nine draws some fall on the same level
def test_every_term_of_few_levels_has_the_right_mean(levels: int) -> None:
    model = denoiser(uniform_log_snr_betas(10, last=-2.0))  # no level too rare to be drawn
    options = {"clip_x0": False, "decoder": "continuous", "generator": torch.Generator().manual_seed(1)}
    bound = vlb_terms(model, model.draw(8000), timesteps_per_image=levels, batch_size=8000, **options)
    assert bound.steps[:, 2:].isfinite().all()
    check_steps_against_closed_form(bound, model)


@pytest.mark.parametrize("count", [1, 4, 9])
def test_levels_are_drawn_as_often_as_their_weights_say(count: int) -> None:
    schedule = NoiseSchedule(cosine_betas(10), dtype=torch.float64)
    source = [torch.Generator().manual_seed(seed) for seed in range(4000)]
    visited, weight = likelihood._visited_timesteps(schedule, count, source)
    assert visited.shape == (4000, count)
    assert (visited.diff(dim=1) <= 0).all()
    often = torch.bincount(visited.flatten(), minlength=11) / 4000
    assert often[:2].tolist() == [0, 0], "clean data and the decoder are not among the sampled levels"
    wandering = 4.5 * (often.clamp(min=1e-3) / 4000).sqrt()  # evenly spread draws wander less than this
    assert ((often - 1 / weight)[2:].abs() < wandering[2:]).all()


def test_levels_that_are_spread_wander_less_than_independent_ones() -> None:
    model = denoiser(linear_betas(200), means=(0.3,) * 16, variances=(0.25,) * 16)
    x0 = model.draw(1).expand(2000, -1, -1, -1)
    options = {"clip_x0": False, "decoder": "continuous", "batch_size": 2000}
    one, eight = (
        vlb_terms(
            model, x0, timesteps_per_image=count, generator=torch.Generator().manual_seed(3), **options
        ).denoising.std()
        for count in (1, 8)
    )
    assert eight < 0.8 * one / math.sqrt(8)


def test_few_levels_cost_few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, predict = [], GaussianDenoiser.predict
    monkeypatch.setattr(
        GaussianDenoiser,
        "predict",
        lambda self, x, t, *_, **how: (calls.append(t), predict(self, x, t, **how))[1],
    )
    vlb_terms(denoiser(linear_betas(25)), eight_bit_images(3, 1), timesteps_per_image=4)
    assert len(calls) == 5
    assert all(len(t) == 3 for t in calls)


# Every term by itself


def check_steps_against_closed_form(bound: VariationalBound, model: GaussianDenoiser) -> None:
    """E[L_{t−1}] = ½ (SNR(t−1) − SNR(t)) · E[Var(x_0 | x_t)] for σ_t² = β̃_t, for every t ≥ 2."""
    alpha_bar = model.schedule.alpha_bar
    snr = alpha_bar[1:] / (1 - alpha_bar[1:])
    left = model.variance[0] * (1 - alpha_bar[2:]) / model.level_variance()[2:, 0]
    expected = 0.5 * (snr[:-1] - snr[1:]) * left
    error = bound.steps.std(0)[2:] / math.sqrt(len(bound.steps))
    worst = ((bound.steps.mean(0)[2:] - expected).abs() / error).max().item()
    assert worst < ERROR_BARS


def test_expected_terms() -> None:
    model = denoiser(uniform_log_snr_betas(10))
    bound = continuous_bound(model, model.draw(6000), "fixed_small")
    check_steps_against_closed_form(bound, model)


def roll(table: Tensor, by: int) -> Tensor:
    return torch.cat([table[:1], table[1:].roll(by)])


@pytest.mark.parametrize(
    "names",
    [
        ("posterior_log_variance_clipped",),
        ("posterior_mean_coef_x0", "posterior_mean_coef_xt"),
        ("sqrt_alpha_bar", "sigma"),
        ("posterior_mean_coef_x0",),
    ],
)
@pytest.mark.parametrize("by", [1, -1])
def test_the_check_notices_tables_that_are_off_by_one(names: tuple[str, ...], by: int) -> None:
    model = denoiser(uniform_log_snr_betas(10))
    for name in names:
        setattr(model.schedule, name, roll(getattr(model.schedule, name), by))
    bound = continuous_bound(model, model.draw(6000), "fixed_small")
    with pytest.raises(AssertionError):
        check_steps_against_closed_form(bound, model)


def test_the_check_notices_a_model_asked_at_the_level_below() -> None:
    class AskedBelow(GaussianDenoiser):
        def predict(
            self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, *, clip_x0: bool = False
        ) -> Belief:
            return super().predict(x_t, t - 1, labels, clip_x0=clip_x0)

    model = denoiser(uniform_log_snr_betas(10))
    bound = continuous_bound(
        AskedBelow(model.schedule, model.mean, model.variance), model.draw(6000), "fixed_small"
    )
    with pytest.raises(AssertionError):
        check_steps_against_closed_form(bound, model)


def eight_bit_images(count: int, dimensions: int) -> Tensor:
    levels = torch.randint(0, 256, (count, dimensions, 1, 1), generator=torch.Generator().manual_seed(3))
    levels[0, 0], levels[1, 0] = 0, 255
    return levels.double() / 127.5 - 1


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("clip_x0", [True, False])
def test_every_term_is_what_torch_distributions_say(variance: str, clip_x0: bool) -> None:
    """The same noise, drawn again by hand, and torch's KL and normal distribution function."""
    model = denoiser(cosine_betas(12), means=(0.1, 0.9), variances=(0.3, 2.0))
    x0 = eight_bit_images(4, 2)
    bound = vlb_terms(model, x0, variance=variance, clip_x0=clip_x0, seeds=[5, 6, 7, 8])
    beta, alpha_bar = model.schedule.beta, model.schedule.alpha_bar
    assert bound.dimensions == 2
    assert bound.steps.shape == (4, 13)
    assert (bound.steps[:, 0] == 0).all()
    streams = [torch.Generator().manual_seed(seed) for seed in (5, 6, 7, 8)]
    for t in range(12, 0, -1):
        noise = torch.stack([torch.randn(2, 1, 1, generator=stream) for stream in streams])
        x_t = alpha_bar[t].sqrt() * x0 + (1 - alpha_bar[t]).sqrt() * noise
        guess = model.predict(x_t, torch.full((4,), t), clip_x0=clip_x0).x0
        precision = (1 - beta[t]) / beta[t] + 1 / (1 - alpha_bar[t - 1])  # infinite at t = 1: x_0 is known
        small = 1 / precision
        at_two = 1 / ((1 - beta[2]) / beta[2] + 1 / (1 - alpha_bar[1]))
        sigma2 = at_two if t == 1 else (small if variance == "fixed_small" else beta[t])
        if t == 1:
            likely = Normal(guess, sigma2.sqrt())
            upper = torch.where(x0 > 0.999, 1.0, likely.cdf(x0 + 1 / 255))
            lower = torch.where(x0 < -0.999, 0.0, likely.cdf(x0 - 1 / 255))
            expected = -(upper - lower).clamp(min=1e-12).log()
        else:
            past = alpha_bar[t - 1].sqrt() / (1 - alpha_bar[t - 1])
            pull = (1 - beta[t]).sqrt() / beta[t] * x_t
            true, ours = (small * (past * image + pull) for image in (x0, guess))
            expected = kl_divergence(Normal(true, small.sqrt()), Normal(ours, sigma2.sqrt()))
        torch.testing.assert_close(bound.steps[:, t], expected.flatten(1).sum(1), rtol=1e-7, atol=1e-9)


def test_prior_term_is_the_closed_form() -> None:
    betas = torch.linspace(
        0.01, 0.1, 10, dtype=torch.float64
    )  # a chain so short that much of the picture is left
    model = denoiser(betas, means=(0.0, 0.0), variances=(1.0, 1.0))
    x0 = eight_bit_images(5, 2)
    alpha_bar = model.schedule.alpha_bar[-1]
    assert 0.5 < alpha_bar < 0.6
    expected = kl_divergence(Normal(alpha_bar.sqrt() * x0, (1 - alpha_bar).sqrt()), Normal(0.0, 1.0))
    torch.testing.assert_close(vlb_terms(model, x0).prior, expected.flatten(1).sum(1))


def test_fixed_choices_of_variance() -> None:
    schedule = NoiseSchedule(linear_betas(30), dtype=torch.float64)
    small, large = (
        variances_of(FixedGuess(schedule, torch.zeros(1)), word) for word in ("fixed_small", "fixed_large")
    )
    assert torch.allclose(small[2:], schedule.posterior_variance[2:])
    assert torch.allclose(large[2:], schedule.beta[2:])
    for table in (small, large):
        assert table[1].item() == pytest.approx(schedule.posterior_variance[2].item(), rel=1e-12)


def test_no_model_spends_more_than_all_its_probability() -> None:
    """e^(−bound) is at most p(x_0), so over all 256 pictures of one pixel its sum is at most 1.

    It would be 1 with the true variances of the way back. With 0.8 of them each of the 40 steps wastes
    ½ (1.25 − 1 − ln 1.25) nats, so that a share of about e^(−0.54) = 0.58 is left.
    """
    model = denoiser(linear_betas(40), means=(0.1,), variances=(0.1,))
    levels = torch.arange(256, dtype=torch.float64).repeat_interleave(40)[:, None, None, None] / 127.5 - 1
    generator = torch.Generator().manual_seed(0)
    table = 0.8 * model.reverse_variance()[:, 0]
    bound = vlb_terms(model, levels, variance=table, generator=generator, batch_size=len(levels))
    share = (-bound.total.view(256, 40).mean(1)).exp().sum().item()
    assert share == pytest.approx(0.58, abs=0.05)


def test_variance_at_the_first_step_is_not_a_needle() -> None:
    """A guess two grey levels off costs 40 bits a pixel under a needle, and a few with the convention β̃_1 := β̃_2."""
    schedule = NoiseSchedule(linear_betas(1000), dtype=torch.float64)
    x0 = eight_bit_images(4, 4).clamp(max=0.9)
    x0 = (x0 * 127.5 + 127.5).round() / 127.5 - 1
    guess = FixedGuess(schedule, x0 + 4 / 255)
    convention = variances_of(guess, "fixed_small")[1].log()
    assert convention.item() == pytest.approx(-9.8, abs=0.1)
    needle = torch.tensor(math.log(1e-20))
    ours, theirs = (decoder_term(x0, guess.x0, each, "8-bit") / math.log(2) for each in (convention, needle))
    assert theirs.flatten().tolist() == pytest.approx([math.log2(1e12)] * 16)
    assert (ours < 12).all()


@dataclass
class FixedGuess:
    schedule: NoiseSchedule
    x0: Tensor

    def predict(
        self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, *, clip_x0: bool = False
    ) -> Belief:
        del t, labels, clip_x0
        return Belief(self.x0, x_t)


def test_one_step_chain() -> None:
    model = denoiser(torch.tensor([0.7], dtype=torch.float64))
    bound = vlb_terms(model, eight_bit_images(3, 1), seeds=[1, 2, 3])
    assert bound.steps.shape == (3, 2)
    assert torch.equal(bound.total, bound.prior + bound.decoder)
    assert (bound.denoising == 0).all()


# The report


def test_bits_per_dimension_by_hand() -> None:
    steps = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 2.0, 4.0, 6.0]], dtype=torch.float64)
    bound = VariationalBound(torch.tensor([0.5, 1.5], dtype=torch.float64), steps, dimensions=4)
    assert bound.decoder.tolist() == [1.0, 2.0]
    assert bound.denoising.tolist() == [5.0, 10.0]
    assert bound.total.tolist() == [6.5, 13.5]
    estimate = bound.bits_per_dim(bound.total)
    assert estimate.mean.item() == pytest.approx(10 / (4 * math.log(2)))
    # Two values 7 apart: sample standard deviation 7/√2, over √2.
    assert estimate.standard_error.item() == pytest.approx(3.5 / (4 * math.log(2)))
    assert bound.bits_per_dim(bound.steps).mean.shape == (4,)


def test_total_is_the_sum_of_its_parts() -> None:
    model = denoiser(linear_betas(25))
    bound = vlb_terms(model, eight_bit_images(6, 1), seeds=range(6))
    assert torch.allclose(bound.total, bound.prior + bound.denoising + bound.decoder)


# Images do not depend on one another


def test_an_image_does_not_depend_on_the_batch() -> None:
    model = denoiser(linear_betas(25), means=(0.3, 0.1), variances=(0.2, 0.1))
    x0 = eight_bit_images(7, 2)
    seeds = list(range(10, 17))
    whole = vlb_terms(model, x0, seeds=seeds)
    parts = vlb_terms(model, x0, seeds=seeds, batch_size=3)
    alone = vlb_terms(model, x0[4:5], seeds=seeds[4:5])
    torch.testing.assert_close(parts.steps, whole.steps, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(alone.total, whole.total[4:5], rtol=1e-10, atol=1e-12)
    few, fewer = (
        vlb_terms(model, x0, seeds=seeds, timesteps_per_image=5, batch_size=size) for size in (7, 3)
    )
    torch.testing.assert_close(few.steps, fewer.steps, rtol=1e-10, atol=1e-12)
    by_generator = [
        vlb_terms(model, x0, generator=torch.Generator().manual_seed(2), batch_size=size).total
        for size in (2, 256)
    ]
    torch.testing.assert_close(*by_generator, rtol=1e-10, atol=1e-12)


def test_labels_travel_with_their_images() -> None:
    class Labelled(GaussianDenoiser):
        def predict(
            self, x_t: Tensor, t: Tensor, labels: Tensor | None = None, *, clip_x0: bool = False
        ) -> Belief:
            del t, clip_x0
            assert labels is not None
            return Belief(labels.view(-1, 1, 1, 1).to(x_t), x_t)

    exact = denoiser(linear_betas(25))
    model = Labelled(exact.schedule, exact.mean, exact.variance)
    x0 = torch.tensor([-1.0, 1.0, -1.0, 1.0, 1.0], dtype=torch.float64)[:, None, None, None]
    bound = vlb_terms(model, x0, labels=x0.flatten().long(), batch_size=2)
    assert (bound.denoising == 0).all(), "the label is the picture, so nothing is left to pay for"


# A real network


@pytest.fixture
def diffusion() -> GaussianDiffusion:
    torch.manual_seed(0)
    network = Unet(8, dim_mults=(1, 2), channels=1, dropout=0.5, num_res_blocks=1)
    for parameter in network.parameters():  # the zero-initialised layers would hide the dropout
        torch.nn.init.normal_(parameter, std=0.1)
    return GaussianDiffusion(network, image_size=8, timesteps=25, objective="pred_v", beta_schedule="cosine")


def test_network_without_dropout_or_gradients(diffusion: GaussianDiffusion) -> None:
    x0 = torch.randint(0, 256, (3, 1, 8, 8)).float() / 127.5 - 1
    assert diffusion.training
    once, again = (vlb_terms(diffusion, x0, seeds=[1, 2, 3]) for _ in range(2))
    assert diffusion.training
    assert torch.equal(once.steps, again.steps)
    assert not once.total.requires_grad
    assert once.total.dtype == torch.float64
    smaller = vlb_terms(diffusion, x0, seeds=[1, 2, 3], batch_size=2)
    torch.testing.assert_close(smaller.total, once.total, rtol=1e-4, atol=0)


def test_network_in_full_precision_wherever_it_is_asked(diffusion: GaussianDiffusion) -> None:
    x0 = torch.randint(0, 256, (2, 1, 8, 8)).float() / 127.5 - 1
    plain = vlb_terms(diffusion, x0, seeds=[1, 2], timesteps_per_image=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(vlb_terms(diffusion, x0, seeds=[1, 2], timesteps_per_image=3).steps, plain.steps)


def test_untrained_network_costs_far_more_than_the_raw_bytes(diffusion: GaussianDiffusion) -> None:
    x0 = torch.randint(0, 256, (4, 1, 8, 8)).float() / 127.5 - 1
    bound = vlb_terms(diffusion, x0)
    assert bound.bits_per_dim(bound.total).mean.item() > 8


# Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x0": torch.zeros(2, 8)}, r"x0 must be a floating-point tensor of shape \(B, C, H, W\)"),
        ({"x0": torch.zeros(2, 1, 1, 1, dtype=torch.uint8)}, "floating-point"),
        ({"x0": torch.zeros(0, 1, 1, 1)}, "at least one image"),
        ({"x0": torch.full((1, 1, 1, 1), float("nan"))}, "only finite values"),
        ({"x0": torch.full((1, 1, 1, 1), 127.0)}, r"scaled to \[-1, 1\]"),
        ({"x0": torch.full((1, 1, 1, 1), 0.5)}, "exact 8-bit pixels"),
        ({"x0": torch.full((1, 1, 1, 1), -1.5), "decoder": "continuous"}, "give clip_x0=False"),
        ({"timesteps_per_image": 0}, "timesteps_per_image must be a whole number in 1 … 24"),
        ({"timesteps_per_image": 25}, "must be a whole number in 1 … 24, but got 25"),
        ({"timesteps_per_image": 2.0}, "but got 2.0"),
        ({"decoder": "4-bit"}, "unknown decoder '4-bit'; choose one of '8-bit', 'continuous'"),
        ({"variance": "learned"}, "unknown variance 'learned'; choose one of 'fixed_small', 'fixed_large'"),
        ({"variance": torch.ones(25)}, r"must have shape \(26,\)"),
        ({"variance": torch.zeros(26)}, "positive and finite"),
        ({"variance": torch.full((26,), math.nan)}, "positive and finite"),
        ({"labels": torch.zeros(3, dtype=torch.long)}, r"labels must have shape \(2,\)"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, but got 0"),
        ({"batch_size": 2.0}, "batch_size must be a whole number"),
        ({"seeds": [1]}, "seeds must hold one number per image"),
        ({"seeds": [1, 2], "generator": torch.Generator()}, "not both"),
    ],
)
def test_bad_input_is_refused_before_any_network_call(options: dict, message: str, monkeypatch) -> None:
    model = denoiser(linear_betas(25))
    monkeypatch.setattr(GaussianDenoiser, "predict", lambda *_, **__: pytest.fail("asked the model"))
    with pytest.raises(ValueError, match=message):
        vlb_terms(model, **{"x0": torch.ones(2, 1, 1, 1), **options})


def test_half_precision_images_are_computed_in_single() -> None:
    model = denoiser(linear_betas(25))
    half = torch.full((2, 1, 1, 1), 0.25, dtype=torch.bfloat16)  # exact in either type
    options = {"decoder": "continuous", "clip_x0": False, "seeds": [1, 2]}
    assert torch.equal(
        vlb_terms(model, half, **options).steps, vlb_terms(model, half.float(), **options).steps
    )


def test_continuous_decoder_takes_any_values() -> None:
    model = denoiser(linear_betas(25))
    bound = vlb_terms(model, torch.full((2, 1, 1, 1), 3.21), decoder="continuous", clip_x0=False)
    assert bound.total.isfinite().all()
