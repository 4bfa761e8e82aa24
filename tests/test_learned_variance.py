"""A network that predicts the variance of its step back: the two heads, L_hybrid, sampling and the bound."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from ddpm import GaussianDiffusion, NoiseSchedule, Unet, ancestral
from ddpm.likelihood import vlb_terms
from ddpm.reverse_process import OptimalVariance, learned_log_variance
from tests.networks import schedule_64

T = 20
OBJECTIVES = ("pred_noise", "pred_x0", "pred_v")


def small(**options) -> Unet:
    """Two levels with every weight drawn; the second head is drawn small, as after some training."""
    torch.manual_seed(0)
    network = Unet(8, dim_mults=(1, 2), channels=2, resnet_block_groups=4, learned_variance=True, **options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
        network.last.weight[2:] *= 0.2
    return network


def model(**options) -> GaussianDiffusion:
    settings = {"image_size": 8, "timesteps": T, "beta_schedule": "cosine", **options}
    return GaussianDiffusion(small(), **settings)


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    """Images of the 256 grey levels, in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator).float() / 127.5 - 1


class Exact(nn.Module):
    """For pixels from N(0, s²): E[x_0 | x_t], and in the second head the share that makes the variance optimal."""

    learned_variance = True
    channels = 1

    def __init__(self, schedule: NoiseSchedule, spread: float) -> None:
        super().__init__()
        a, noise = schedule.exact_alpha_bar.sqrt(), 1 - schedule.exact_alpha_bar
        self.gain = a * spread**2 / (a**2 * spread**2 + noise)
        unknown = spread**2 * noise / (a**2 * spread**2 + noise)  # Var(x_0 | x_t)
        known_x0 = schedule.posterior_variance.double()
        best = (known_x0 + schedule.posterior_mean_coef_x0.double() ** 2 * unknown).log()
        low, high = schedule.posterior_log_variance_clipped.double(), schedule.beta.double().log()
        self.share = 2 * (best - low) / (high - low).clamp(min=1e-12) - 1

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, labels: None = None) -> torch.Tensor:
        del labels
        gain, share = (table[t].view(-1, 1, 1, 1).to(x_t.dtype) for table in (self.gain, self.share))
        return torch.cat([gain * x_t, share.expand_as(x_t)], dim=1)


# The network


def test_there_is_a_second_head_that_starts_in_the_middle():
    network = Unet(8, dim_mults=(1, 2), channels=3, resnet_block_groups=4, learned_variance=True)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(network(x, torch.tensor([1, 9])), torch.zeros(2, 6, 8, 8))
    assert Unet(**network.config).learned_variance
    diffusion = GaussianDiffusion(network, image_size=8, timesteps=T)
    schedule, t = diffusion.schedule, torch.tensor([2, 9])
    expected = (schedule.beta * schedule.posterior_variance).sqrt()[t].view(-1, 1, 1, 1).expand_as(x)
    torch.testing.assert_close(diffusion.p_mean_variance(x, t)[1], expected)


def test_one_head_more_costs_its_weights_only():
    plain, twice = (Unet(8, dim_mults=(1, 2), channels=3, learned_variance=two) for two in (False, True))
    difference = sum(p.numel() for p in twice.parameters()) - sum(p.numel() for p in plain.parameters())
    assert difference == 3 * (8 * 9 + 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_missing_head_is_refused(channels):
    network = Unet(8, dim_mults=(1, 2), channels=channels, out_dim=channels, learned_variance=True)
    diffusion = GaussianDiffusion(network, image_size=8, timesteps=T)
    with pytest.raises(ValueError, match=rf"must return shape \(2, {2 * channels}, 8, 8\)"):
        diffusion.loss(pictures(2, channels, 8, 8))


# The variance


def test_the_share_runs_from_the_small_variance_to_the_large_one():
    """Between them it is geometric, and it may go beyond; at t = 1 the small one is β̃_2, as everywhere."""
    schedule = schedule_64("linear", 50)
    t = torch.tensor([1, 2, 30, 50])
    beta, small_one = schedule.beta.numpy()[t], schedule.posterior_variance.numpy()[np.maximum(t.numpy(), 2)]
    for share, expected in (
        (-1.0, small_one),
        (1.0, beta),
        (0.5, small_one**0.25 * beta**0.75),
        (3.0, beta**2 / small_one),
    ):
        got = learned_log_variance(schedule, t, torch.full((4, 1, 1, 1), share, dtype=torch.float64))
        np.testing.assert_allclose(got.exp().flatten().numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_prediction_and_step_carry_the_variance(objective):
    """The first head means what it always meant; the second gives the variance, in every pixel by itself."""
    diffusion = model(objective=objective)
    x, t = torch.randn(3, 2, 8, 8), torch.tensor([1, 7, T])
    prediction = diffusion.predict(x, t)
    output = diffusion.network(x, t)
    said = {"pred_noise": prediction.noise, "pred_x0": prediction.x0, "pred_v": prediction.v}[objective]
    torch.testing.assert_close(said, output[:, :2], rtol=1e-3, atol=1e-3)
    wanted = learned_log_variance(diffusion.schedule, t, output[:, 2:])
    torch.testing.assert_close(prediction.log_variance, wanted)
    mean, variance, log_variance = diffusion.p_mean_variance(x, t, clip_denoised=False)
    torch.testing.assert_close(variance, wanted.exp())
    torch.testing.assert_close(log_variance, wanted)
    torch.testing.assert_close(mean, diffusion.q_posterior(prediction.x0, x, t)[0])
    drawn = diffusion.p_sample(x, t, clip_denoised=False, generator=torch.Generator().manual_seed(3))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    noise[0] = 0  # at t = 1 no noise is added, whatever the head says
    torch.testing.assert_close(drawn, mean + variance.sqrt() * noise)


def sampled_variance(variance: str | None, spread: float, timesteps: int, count: int) -> float:
    diffusion = exact_model(spread, timesteps)
    x = torch.randn(count, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    source = torch.Generator().manual_seed(1)
    chain = ancestral(diffusion, x, variance=variance, clip_x0=False, generator=source)
    return [state.x for state in chain][-2].var().item()  # x_1: the last step adds no noise


def exact_model(spread: float, timesteps: int) -> GaussianDiffusion:
    schedule = schedule_64("cosine", timesteps)
    diffusion = GaussianDiffusion(
        Exact(schedule, spread),
        image_size=1,
        timesteps=timesteps,
        objective="pred_x0",
        beta_schedule="cosine",
    )
    diffusion.schedule = schedule
    return diffusion


def test_sampling_with_the_optimal_variance_is_exact_in_few_steps():
    """Six steps back from N(0, 1) to N(0, s²): only the learned variance arrives at that of x_1.

    With it every step of the way is the true conditional, so that Var(x_1) = ᾱ_1 s² + 1 − ᾱ_1, but for what the
    schedule leaves in x_T. Error bar: 5 standard errors, √(2/n) of the variance.
    """
    spread, timesteps, count = 0.5, 6, 200_000
    alpha_bar = exact_model(spread, timesteps).schedule.alpha_bar
    expected = (alpha_bar[1] * spread**2 + 1 - alpha_bar[1]).item()
    error = 5 * expected * math.sqrt(2 / count)
    assert abs(sampled_variance(None, spread, timesteps, count) - expected) < error
    assert abs(sampled_variance("learned", spread, timesteps, count) - expected) < error
    assert abs(sampled_variance("fixed_small", spread, timesteps, count) - expected) > 3 * error
    assert abs(sampled_variance("fixed_large", spread, timesteps, count) - expected) > 3 * error


def test_sample_takes_the_learned_variance():
    """By itself in `sample`, which has no other way of being told."""
    diffusion = model()
    x = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(5))
    source = torch.Generator().manual_seed(5)
    torch.randn(1, 2, 8, 8, generator=source)
    learned = [state.x for state in ancestral(diffusion.eval(), x, variance="learned", generator=source)][-1]
    sampled = diffusion.sample(1, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(sampled, ((learned + 1) / 2).clamp(0, 1))


def test_a_model_without_it_has_no_learned_variance():
    plain = GaussianDiffusion(Unet(8, dim_mults=(1, 2), channels=2), image_size=8, timesteps=T)
    assert plain.predict(torch.randn(1, 2, 8, 8), torch.tensor([3])).log_variance is None
    with pytest.raises(ValueError, match="unknown variance 'learned'; choose one of 'fixed_small'"):
        next(ancestral(plain, torch.randn(1, 2, 8, 8), variance="learned"))


# The bound


def test_the_bound_takes_the_learned_variance_by_itself():
    diffusion, x0 = model(), pictures(3, 2, 8, 8)
    by_default, by_word, by_rule = (
        vlb_terms(diffusion, x0, variance=variance, seeds=[1, 2, 3])
        for variance in (None, "learned", lambda _x, _t, prediction: prediction.log_variance)
    )
    assert torch.equal(by_default.steps, by_rule.steps)
    assert torch.equal(by_word.steps, by_rule.steps)
    assert not torch.allclose(
        by_default.steps, vlb_terms(diffusion, x0, variance="fixed_small", seeds=[1, 2, 3]).steps
    )


def test_no_variance_costs_less_than_the_optimal_one():
    """The head that holds the rule of `OptimalVariance` costs what that rule does, and less than both fixed ones."""
    diffusion = exact_model(0.5, 6)
    x0 = 0.5 * torch.randn(400, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    options = {"decoder": "continuous", "clip_x0": False, "seeds": range(400)}
    optimal = vlb_terms(diffusion, x0, variance=OptimalVariance(diffusion), **options)
    learned, fixed_small, fixed_large = (
        vlb_terms(diffusion, x0, variance=variance, **options)
        for variance in (None, "fixed_small", "fixed_large")
    )
    torch.testing.assert_close(learned.steps[:, 2:], optimal.steps[:, 2:], rtol=1e-6, atol=1e-8)
    for fixed in (fixed_small, fixed_large):
        gain = (fixed.denoising - learned.denoising).mean()
        assert gain > 5 * (fixed.denoising - learned.denoising).std() / math.sqrt(400)


# Training: L_hybrid


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("t", [1, 2, 11, T])
def test_the_loss_is_l_simple_and_a_share_of_the_bound(objective, t):
    """λ T times the term that `vlb_terms` finds for the same noise, in bits per dimension, with λ = 1/1000."""
    diffusion, x0 = model(objective=objective).eval(), pictures(1, 2, 8, 8)
    level = torch.tensor([t])
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(2))
    hybrid = diffusion.loss(x0, level, noise)
    output = diffusion.network(diffusion.q_sample(x0, level, noise), level)[:, :2]
    targets = {"pred_noise": noise, "pred_x0": x0, "pred_v": diffusion.predict_v(x0, level, noise)}
    simple = (output - targets[objective]).square().mean()
    term = exact_term(diffusion, x0, diffusion.q_sample(x0, level, noise), t)
    assert hybrid.item() == pytest.approx(simple.item() + T / 1000 * term, rel=1e-4)


def exact_term(diffusion: GaussianDiffusion, x0: torch.Tensor, x_t: torch.Tensor, t: int) -> float:
    """Bits per dimension of one step, in NumPy from the definitions: the KL of two Gaussians, or the decoder's bins."""
    from scipy.stats import norm

    beta = diffusion.schedule.beta.double().numpy()
    alpha_bar = np.cumprod(1 - beta)
    prediction = diffusion.predict(x_t, torch.tensor([t]))
    guess, log_variance = (
        tensor.detach().double().numpy() for tensor in (prediction.x0, prediction.log_variance)
    )
    x, clean = x_t.double().numpy(), x0.double().numpy()
    before, now = alpha_bar[t - 1], alpha_bar[t]

    def posterior(start):
        return (np.sqrt(before) * beta[t] * start + np.sqrt(1 - beta[t]) * (1 - before) * x) / (1 - now)

    mean, variance = posterior(guess), np.exp(log_variance)
    if t > 1:
        true = beta[t] * (1 - before) / (1 - now)
        nats = 0.5 * (np.log(variance / true) + (true + (posterior(clean) - mean) ** 2) / variance - 1)
    else:
        upper = np.where(clean > 0.999, np.inf, clean + 1 / 255)
        lower = np.where(clean < -0.999, -np.inf, clean - 1 / 255)
        deviation = np.sqrt(variance)
        mass = norm.cdf((upper - mean) / deviation) - norm.cdf((lower - mean) / deviation)
        nats = -np.log(np.maximum(mass, 1e-12))
    return nats.mean() / math.log(2)


def test_the_bound_teaches_the_first_head_nothing():
    """What it learns is what it learns without a second head; the second one does learn."""
    diffusion, x0 = model().eval(), pictures(4, 2, 8, 8)
    t, noise = torch.tensor([1, 5, 9, T]), torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(2))
    diffusion.loss(x0, t, noise).backward()
    hybrid = diffusion.network.last.weight.grad.clone()
    diffusion.zero_grad()
    output = diffusion.network(diffusion.q_sample(x0, t, noise), t)[:, :2]
    (output - noise).square().mean().backward()
    torch.testing.assert_close(hybrid[:2], diffusion.network.last.weight.grad[:2], rtol=1e-4, atol=1e-6)
    assert hybrid[2:].abs().max() > 0
    assert diffusion.network.last.weight.grad[2:].abs().max() == 0


class TwoTables(nn.Module):
    """A guess and a share per level, both learned: all that pixels from one Gaussian call for."""

    learned_variance = True
    channels = 1

    def __init__(self, timesteps: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(timesteps + 1))
        self.share = nn.Parameter(torch.zeros(timesteps + 1))

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, labels: None = None) -> torch.Tensor:
        del labels
        gain, share = self.gain[t].view(-1, 1, 1, 1), self.share[t].view(-1, 1, 1, 1)
        return torch.cat([gain * x_t, share.expand_as(x_t)], dim=1)


def test_training_finds_the_optimal_variance():
    """On pixels from N(0, s²): the gain and, above t = 1, the variance that are known exactly.

    Adam on fresh noise leaves the log-variances within 0.1 of the optimum, where the two fixed ones are as far apart as
    1.0 at the least; seeds are fixed.
    """
    spread, timesteps = 0.5, 8
    exact = exact_model(spread, timesteps).network
    torch.manual_seed(0)
    network = TwoTables(timesteps)
    diffusion = GaussianDiffusion(
        network, image_size=1, timesteps=timesteps, objective="pred_x0", beta_schedule="cosine"
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for step in range(800):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 800)
        diffusion.loss(spread * torch.randn(512, 1, 1, 1)).backward()
        optimizer.step()
        optimizer.zero_grad()
    schedule = diffusion.schedule
    apart = schedule.beta[2:].log() - schedule.posterior_log_variance_clipped[2:]
    off = (network.share[2:].detach() - exact.share[2:]) / 2 * apart
    assert off.abs().max() < 0.1
    np.testing.assert_allclose(network.gain[1:].detach(), exact.gain[1:], atol=0.02)
