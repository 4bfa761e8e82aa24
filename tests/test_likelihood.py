"""The variational bound against exact likelihoods, torch's own distributions, and itself."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ddpm import GaussianDiffusion, Unet
from ddpm.likelihood import VariationalBound, reverse_log_variance, vlb_terms
from ddpm.schedule import NoiseSchedule, cosine_betas, linear_betas

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


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("betas", [linear_betas(40), cosine_betas(100)])
def test_price_of_the_fixed_variances(betas: Tensor, variance: str) -> None:
    model = denoiser(betas, means=(0.3, -0.2) * 8, variances=(0.25, 0.04) * 8)
    gap, error = excess(model, variance, count=2500)
    price = price_of_wrong_variance(model, reverse_log_variance(model.schedule, variance).exp())
    assert price > 2 * ERROR_BARS * error, "the check would not notice"
    assert abs(gap - price) < ERROR_BARS * error


def test_standard_normal_data_make_beta_the_true_reverse_variance() -> None:
    """The remark of Ho et al. (2020, section 3.2): σ_t² = β_t is optimal for x_0 ~ N(0, I)."""
    model = denoiser(linear_betas(40), means=(0.0,) * 16, variances=(1.0,) * 16)
    assert torch.allclose(model.reverse_variance()[1:, 0], model.schedule.beta[1:], rtol=1e-12)
    gap, error = excess(model, model.schedule.beta)
    assert abs(gap) < ERROR_BARS * error


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
    small, large = (reverse_log_variance(schedule, word).exp() for word in ("fixed_small", "fixed_large"))
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
