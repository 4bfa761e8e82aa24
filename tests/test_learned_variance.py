"""A network that predicts the variance of its step back: the two heads, L_hybrid, sampling and the bound."""

import math

import pytest
import torch

from ddpm import GaussianDiffusion, Unet, ancestral
from ddpm.likelihood import decoder_term, denoising_term, vlb_terms
from ddpm.prediction import training_target
from ddpm.reverse_process import learned_log_variance
from tests.networks import randn, seeded

T = 20
OBJECTIVES = ("pred_noise", "pred_x0", "pred_v", "pred_flow")


def unet(**options) -> Unet:
    return Unet(
        8, dim_mults=(1, 2), resnet_block_groups=4, **{"channels": 2, "learned_variance": True} | options
    )


def model(**options) -> GaussianDiffusion:
    """Every weight is drawn; those of the second head are small, as after some training."""
    torch.manual_seed(0)
    network = unet()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
        network.last.weight[2:] *= 0.2
    return GaussianDiffusion(
        network, **{"image_size": 8, "timesteps": T, "beta_schedule": "cosine"} | options
    )


def pictures(*shape: int) -> torch.Tensor:
    """Images of the 256 grey levels, in [-1, 1]."""
    return torch.randint(0, 256, shape, generator=seeded(0)).float() / 127.5 - 1


# The network, and the step back


def test_there_is_a_second_head_that_starts_in_the_middle():
    network, x, t = unet(channels=3), torch.randn(2, 3, 8, 8), torch.tensor([2, 9])
    assert torch.equal(network(x, t), torch.zeros(2, 6, 8, 8))
    assert Unet(**network.config).learned_variance
    assert network.last.weight.shape == (6, 8, 3, 3), "one head more costs its weights only"
    diffusion = GaussianDiffusion(network, image_size=8, timesteps=T)
    schedule = diffusion.schedule
    expected = (schedule.beta * schedule.posterior_variance).sqrt()[t].view(-1, 1, 1, 1).expand_as(x)
    torch.testing.assert_close(diffusion.p_mean_variance(x, t)[1], expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_missing_head_is_refused(channels):
    diffusion = GaussianDiffusion(unet(channels=channels, out_dim=channels), image_size=8, timesteps=T)
    with pytest.raises(ValueError, match=rf"must return shape \(2, {2 * channels}, 8, 8\)"):
        diffusion.loss(pictures(2, channels, 8, 8))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_prediction_and_step_carry_the_variance(objective):
    """The first head means what it always meant; the second gives the variance, in every pixel by itself."""
    diffusion, x, t = model(objective=objective), randn(3, 2, 8, 8), torch.tensor([1, 7, T])
    prediction, output = diffusion.predict(x, t), diffusion.network(x, t)
    said = {"pred_noise": prediction.noise, "pred_x0": prediction.x0, "pred_v": prediction.v}
    said = said.get(objective, prediction.flow)
    torch.testing.assert_close(said, output[:, :2], rtol=1e-3, atol=1e-3)
    wanted = learned_log_variance(diffusion.schedule, t, output[:, 2:])
    torch.testing.assert_close(prediction.log_variance, wanted)
    torch.testing.assert_close(diffusion.predict(x, t, clip_x0=True).log_variance, wanted)
    mean, variance, log_variance = diffusion.p_mean_variance(x, t, clip_denoised=False)
    torch.testing.assert_close(variance, wanted.exp())
    torch.testing.assert_close(log_variance, wanted)
    torch.testing.assert_close(mean, diffusion.q_posterior(prediction.x0, x, t)[0])


def test_sample_takes_the_learned_variance_by_itself():
    diffusion, source = model().eval(), seeded(5)
    x = expected = torch.randn(1, 2, 8, 8, generator=source)
    for t in range(T, 0, -1):
        expected = diffusion.p_sample(expected, torch.tensor([t]), generator=source)
    sampled = diffusion.sample(1, generator=seeded(5))
    torch.testing.assert_close(sampled, ((expected + 1) / 2).clamp(0, 1))
    *_, fixed = ancestral(diffusion, x, variance="fixed_small", generator=seeded(5))
    assert not torch.allclose(fixed.x, expected)


# The bound


def test_bound_takes_the_learned_variance_by_itself_and_refuses_one_that_is_not_finite():
    diffusion, x0 = model(), pictures(2, 2, 8, 8)
    by_default, by_word, fixed = (
        vlb_terms(diffusion, x0, variance=variance, seeds=[1, 2]).steps
        for variance in (None, "learned", "fixed_small")
    )
    assert torch.equal(by_default, by_word)
    assert not torch.allclose(by_default, fixed)
    with torch.no_grad():
        diffusion.network.last.bias[2:] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        vlb_terms(diffusion, x0)


# Training: L_hybrid


def exact_term(diffusion: GaussianDiffusion, x0: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor) -> float:
    """Bits per dimension of one step, from the terms that the ledger proves (eq:loss-t, eq:decoder)."""
    prediction = diffusion.predict(x_t, t)
    mean = diffusion.schedule.posterior_mean(prediction.x0, x_t, t)
    step = (mean, prediction.log_variance)
    divergence = denoising_term(diffusion.schedule, x0, x_t, t, *step)
    return (divergence if t > 1 else decoder_term(x0, *step)).mean().item() / math.log(2)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("step", [1, 2, 11, T])
def test_the_loss_is_l_simple_and_a_small_part_of_the_bound(objective, step):
    """λ T times the term of the same noise, in bits per dimension, with λ = 1/1000; no weight w(t) multiplies it."""
    diffusion = model(objective=objective, loss_weighting=lambda _s, t, _o: torch.full((len(t),), 3.0)).eval()
    x0, t, noise = pictures(1, 2, 8, 8), torch.tensor([step]), randn(1, 2, 8, 8, seed=2)
    x_t = diffusion.q_sample(x0, t, noise)
    target = training_target(objective, x0, noise, *diffusion.schedule.signal_and_sigma(t, x0))
    simple = (diffusion.network(x_t, t)[:, :2] - target).square().mean().item()
    expected = 3 * simple + T / 1000 * exact_term(diffusion, x0, x_t, t)
    assert diffusion.loss(x0, t, noise).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_bound_teaches_the_second_head_and_the_first_one_nothing(objective):
    """The first learns what it learns without the second, which learns along the slope of the loss."""
    diffusion = model(objective=objective).double().eval()
    last = diffusion.network.last
    x0, noise = pictures(4, 2, 8, 8).double(), randn(4, 2, 8, 8, seed=2).double()
    t = torch.tensor([1, 5, 9, T])
    diffusion.loss(x0, t, noise).backward()
    hybrid, slope = last.weight.grad.clone(), last.bias.grad[2:].clone()
    diffusion.zero_grad()
    target = training_target(objective, x0, noise, *diffusion.schedule.signal_and_sigma(t, x0))
    (diffusion.network(diffusion.q_sample(x0, t, noise), t)[:, :2] - target).square().mean().backward()
    torch.testing.assert_close(hybrid[:2], last.weight.grad[:2], rtol=1e-4, atol=1e-6)
    losses = []
    with torch.no_grad():
        for step in (1e-4, -2e-4):
            last.bias[2:] += step
            losses.append(diffusion.loss(x0, t, noise).item())
    assert slope.abs().min() > 1e-6
    assert slope.sum().item() == pytest.approx((losses[0] - losses[1]) / 2e-4, rel=1e-4)
