"""The variational bound against exact likelihoods, torch's own distributions, and itself."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from ddpm import NoiseSchedule, likelihood
from ddpm.likelihood import VariationalBound, decoder_term, denoising_term, vlb_terms
from ddpm.mixture_oracle import GaussianMixtureOracle
from ddpm.reverse_process import OptimalVariance
from ddpm.schedule import linear_betas
from tests.networks import BETAS, SelfConditioned, diffusion_of, schedule_64, seeded

ERROR_BARS = 4.5  # how many standard errors a Monte Carlo mean may be off: about 1 in 150,000
CONTINUOUS = {"clip_x0": False, "decoder": "continuous"}
UNLIKE = {"means": (0.3, -0.5), "variances": (0.25, 0.04)}


def gaussian(betas, *, means=(0.3,), variances=(0.25,)) -> GaussianMixtureOracle:
    """The exact denoiser of independent Gaussian pixels, as channels."""
    schedule = NoiseSchedule(betas, dtype=torch.float64)
    return GaussianMixtureOracle(schedule, [means], [variances], shape=(len(means), 1, 1))


def exact_excess(model) -> float:
    """What the bound of an exact denoiser with the best variance loses, in nats: KL(q(x_T) ‖ N(0, I))."""
    left = model.schedule.alpha_bar[-1]
    end = Normal(left.sqrt() * model.means, (left * model.eigenvalues + 1 - left).sqrt())
    return kl_divergence(end, Normal(0.0, 1.0)).sum().item()


@pytest.fixture
def expected_excess(monkeypatch):
    def excess(model, variance) -> float:
        """E[bound] − E[−log p(x_0)] in nats, without draws.

        For Gaussian data every term is quadratic in the image and in the noise, pixel by pixel, so that one standard
        deviation to either side of the mean, for both, averages to the expectation itself.
        """
        sides = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
        side, noise = sides.T[:, :, None, None, None].expand(2, 4, *model.shape)
        mean, deviation = model.means.view(model.shape), model.eigenvalues.sqrt().view(model.shape)
        monkeypatch.setattr(likelihood, "randn_like", lambda *_: noise)
        bound = vlb_terms(model, mean + deviation * side, variance=variance, **CONTINUOUS)
        exact = Normal(mean, deviation).log_prob(mean + deviation * side).flatten(1).sum(1)
        return (bound.total + exact).mean().item()

    return excess


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("timesteps", [30, 300])
def test_bound_is_within_a_ten_thousandth_of_the_likelihood_and_not_below(expected_excess, name, timesteps):
    model = gaussian(BETAS[name](timesteps), **UNLIKE)
    gap = expected_excess(model, OptimalVariance(model))
    assert 0 < gap < 2e-4
    assert gap == pytest.approx(exact_excess(model), abs=1e-11)


# A few timesteps per image


def test_few_timesteps_estimate_the_same_bound_with_an_honest_error(expected_excess, monkeypatch):
    """How often the mean of 30 images lies within 2.045 standard errors of the truth: 95 % by Student's t.

    One shift for all images, or timesteps even in t, would make it 80 or 88 %. Of 300 trials the error is 1.3 %.
    """
    model = gaussian(linear_betas(60), means=(0.3,) * 8, variances=(0.25,) * 8)
    entropy = 8 * (0.5 + 0.5 * math.log(2 * math.pi * 0.25))
    truth = expected_excess(model, "fixed_small") + entropy
    monkeypatch.undo()
    x0 = model.sample_data(9000, seeded(0))
    options = {"generator": seeded(4), "batch_size": 9000, **CONTINUOUS}
    totals = vlb_terms(model, x0, timesteps_per_image=3, **options).total
    error = totals.std().item() / math.sqrt(9000)
    assert error < 0.01 * truth
    assert abs(totals.mean().item() - truth) < ERROR_BARS * error
    means, errors = totals.view(300, 30).mean(1), totals.view(300, 30).std(1) / math.sqrt(30)
    assert 0.91 < ((means - truth).abs() < 2.045 * errors).double().mean() < 0.985


@pytest.mark.parametrize("count", [4, 9])  # of nine draws some fall on the same timestep
def test_every_term_of_few_timesteps_has_the_right_mean(count):
    """E[L_{t−1}] = ½ (SNR(t−1) − SNR(t)) · E[Var(x_0 | x_t)] for ω_t² = β̃_t, for every t ≥ 2."""
    # No timestep is too rare to be drawn.
    alpha_bar = torch.sigmoid(torch.linspace(5, -2, 10, dtype=torch.float64))
    model = gaussian(1 - alpha_bar / torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]]))
    x0 = model.sample_data(8000, seeded(0))
    options = {"generator": seeded(1), "batch_size": 8000, **CONTINUOUS}
    steps = vlb_terms(model, x0, timesteps_per_image=count, **options).steps
    left = 0.25 * (1 - alpha_bar) / (0.25 * alpha_bar + 1 - alpha_bar)
    expected = -0.5 * (alpha_bar / (1 - alpha_bar)).diff() * left[1:]
    error = steps[:, 2:].std(0) / math.sqrt(8000)
    assert ((steps[:, 2:].mean(0) - expected).abs() < ERROR_BARS * error).all()


def test_timesteps_that_are_spread_wander_less_than_independent_ones():
    model = gaussian(linear_betas(200), means=(0.3,) * 16, variances=(0.25,) * 16)
    x0 = model.sample_data(1, seeded(0)).expand(2000, -1, -1, -1)
    options = {"batch_size": 2000, "seeds": range(2000), **CONTINUOUS}
    one, eight = (vlb_terms(model, x0, timesteps_per_image=count, **options).denoising for count in (1, 8))
    assert eight.std() < 0.8 * one.std() / math.sqrt(8)


@pytest.mark.parametrize(("count", "calls"), [(None, 25), (4, 5), (24, 25), (1, 2)])
def test_each_timestep_is_one_call_of_the_network_and_knows_nothing_of_the_call_before(count, calls):
    """The noisy end comes first. A model with self-conditioning is told nothing: the chain has no memory."""
    diffusion = diffusion_of(SelfConditioned(), timesteps=25)
    bound = vlb_terms(diffusion, eight_bit_images(3, 1).expand(3, 1, 4, 4), timesteps_per_image=count)
    asked = diffusion.network.calls
    assert (len(asked), asked[-1], sorted(asked, reverse=True)) == (calls, 1, asked)
    assert diffusion.network.estimates == [None] * calls
    assert {int(t) for t in bound.steps[0].nonzero()} == set(asked)


# Every term by itself


def eight_bit_images(count: int, channels: int) -> torch.Tensor:
    grey = torch.randint(0, 256, (count, channels, 1, 1), generator=seeded(3))
    grey[0, 0], grey[1, 0] = 0, 255
    return grey.double() / 127.5 - 1


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("clip_x0", [True, False])
def test_every_term_is_that_of_its_own_noise(variance, clip_x0):
    """The same noise, drawn again by hand, and the terms that the ledger proves; torch's KL for the far end."""
    # A chain that leaves half of the signal.
    model = gaussian(torch.linspace(0.01, 0.1, 12), means=(0.1, 0.9), variances=(0.3, 2.0))
    x0, streams = eight_bit_images(4, 2), [seeded(seed) for seed in (5, 6, 7, 8)]
    bound = vlb_terms(model, x0, variance=variance, clip_x0=clip_x0, seeds=[5, 6, 7, 8])
    schedule, expected = model.schedule, torch.zeros(4, 13, dtype=torch.float64)
    for step in range(12, 0, -1):
        t = torch.full((4,), step)
        noise = torch.stack([torch.randn(2, 1, 1, generator=stream) for stream in streams]).double()
        x_t = schedule.q_sample(x0, t, noise)
        guess = model.predict(x_t, t, clip_x0=clip_x0).x0
        # At t = 1, where x_0 is known, the variance is that of t = 2.
        table = schedule.beta if variance == "fixed_large" and step > 1 else schedule.posterior_variance
        said = schedule.posterior_mean(guess, x_t, t), table[max(step, 2)].log()
        term = denoising_term(schedule, x0, x_t, t, *said) if step > 1 else decoder_term(x0, *said)
        expected[:, step] = term.flatten(1).sum(1)
    torch.testing.assert_close(bound.steps, expected, rtol=1e-7, atol=1e-9)
    end = Normal(schedule.sqrt_alpha_bar[-1] * x0, schedule.sigma[-1])
    torch.testing.assert_close(bound.prior, kl_divergence(end, Normal(0.0, 1.0)).flatten(1).sum(1))


def test_a_chain_of_one_step_has_a_prior_and_a_decoder():
    bound = vlb_terms(gaussian([0.7]), eight_bit_images(3, 1), seeds=[1, 2, 3])
    assert bound.steps.shape == (3, 2)
    assert torch.equal(bound.total, bound.prior + bound.decoder)


def test_bits_per_dim_by_hand():
    steps = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 2.0, 4.0, 6.0]], dtype=torch.float64)
    bound = VariationalBound(torch.tensor([0.5, 1.5], dtype=torch.float64), steps, dimensions=4)
    assert (bound.decoder.tolist(), bound.denoising.tolist()) == ([1.0, 2.0], [5.0, 10.0])
    assert bound.total.tolist() == [6.5, 13.5]
    estimate, nat = bound.bits_per_dim(bound.total), 1 / (4 * math.log(2))
    assert estimate.mean.item() == pytest.approx(10 * nat)
    # Two values 7 apart: sample standard deviation 7/√2, over √2.
    assert estimate.standard_error.item() == pytest.approx(3.5 * nat)
    assert bound.bits_per_dim(bound.steps).mean.shape == (4,)


# How it is called


def test_an_image_does_not_depend_on_the_batch():
    model, x0 = gaussian(linear_betas(25), **UNLIKE), eight_bit_images(7, 2)
    seeds = list(range(10, 17))
    for few in (None, 5):
        options = {"seeds": seeds, "timesteps_per_image": few}
        whole, parts = (vlb_terms(model, x0, batch_size=size, **options) for size in (256, 3))
        alone = vlb_terms(model, x0[4:5], seeds=seeds[4:5], timesteps_per_image=few)
        torch.testing.assert_close(parts.steps, whole.steps, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(parts.prior, whole.prior, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(alone.steps, whole.steps[4:5], rtol=1e-10, atol=1e-12)
    assert whole.dimensions == 2
    by_generator = [vlb_terms(model, x0, generator=seeded(2), batch_size=size).total for size in (2, 256)]
    torch.testing.assert_close(*by_generator, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(vlb_terms(model, x0, generator=seeded(3)).total, by_generator[0])


def test_labels_travel_with_their_images():
    def predict(x_t, _t, labels, *, clip_x0):  # noqa: ARG001
        return SimpleNamespace(x0=labels.view(-1, 1, 1, 1).to(x_t))

    x0 = torch.tensor([-1.0, 1.0, -1.0, 1.0, 1.0], dtype=torch.float64)[:, None, None, None]
    model = SimpleNamespace(schedule=schedule_64("linear", 25), predict=predict)
    bound = vlb_terms(model, x0, labels=x0.flatten().long(), batch_size=2)
    assert (bound.denoising == 0).all(), "the label is the picture, so nothing is left to pay for"


class Dropping(nn.Sequential):
    """A convolution, which autocast would round, and dropout."""

    channels = 1

    def forward(self, x_t, t, labels=None):  # noqa: ARG002
        return super().forward(x_t)


def test_a_network_is_asked_without_dropout_gradients_or_half_precision():
    network = Dropping(nn.Conv2d(1, 1, 3, padding=1), nn.Dropout(0.5))
    diffusion, x0 = diffusion_of(network), eight_bit_images(3, 1).expand(3, 1, 4, 4).float()
    once, again = (vlb_terms(diffusion, x0, seeds=[1, 2, 3]) for _ in range(2))
    assert network[1].training
    assert torch.equal(once.steps, again.steps)
    assert not once.total.requires_grad
    assert once.steps.dtype == once.prior.dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(vlb_terms(diffusion, x0, seeds=[1, 2, 3]).steps, once.steps)


def test_half_precision_images_are_computed_in_single():
    model, half = gaussian(linear_betas(25)), torch.full((2, 1, 1, 1), 0.25).bfloat16()
    ours, theirs = (vlb_terms(model, x0, seeds=[1, 2], **CONTINUOUS) for x0 in (half, half.float()))
    assert torch.equal(ours.steps, theirs.steps)
