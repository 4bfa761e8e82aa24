"""`ddpm.transitions` beyond its formulas: precision, the ends of the chain, draws, and what is refused.

The formulas themselves are checked in `tests/equations/`.
"""

import pytest
import torch

from tests.networks import BETAS, SelfConditioned, diffusion_of, randn, seeded

X, T_OF_X = torch.zeros(2, 1, 4, 4), torch.tensor([1, 2])
# Every public method that takes images and timesteps, as a function of (diffusion, images, partner, t).
METHODS = {
    "q_sample": lambda d, a, b, t: d.q_sample(a, t, b),
    "q_posterior": lambda d, a, b, t: d.q_posterior(a, b, t),
    "predict_start_from_noise": lambda d, a, b, t: d.predict_start_from_noise(a, t, b),
    "predict_noise_from_start": lambda d, a, b, t: d.predict_noise_from_start(a, t, b),
    "predict_v": lambda d, a, b, t: d.predict_v(a, t, b),
    "predict_start_from_v": lambda d, a, b, t: d.predict_start_from_v(a, t, b),
    "loss": lambda d, a, b, t: d.loss(a, t, b),
    "predict": lambda d, a, _, t: d.predict(a, t),
    "p_mean_variance": lambda d, a, _, t: d.p_mean_variance(a, t),
    "p_sample": lambda d, a, _, t: d.p_sample(a, t),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_q_sample_gives_half_precision_images_their_noise(dtype):
    """In bfloat16 arithmetic the first steps would add no noise at all; the result must be what float32 gives."""
    diffusion, t = diffusion_of(timesteps=1000), torch.arange(1, 1001)
    x0, noise = torch.full((1000, 1, 4, 4), 0.9, dtype=dtype), randn(1000, 1, 4, 4).to(dtype)
    x_t = diffusion.q_sample(x0, t, noise)
    assert x_t.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(diffusion.q_sample(x0, t, noise), x_t)
    assert (x_t - diffusion.q_sample(x0.double(), t, noise.double())).abs().max() < 1e-6


@pytest.mark.parametrize("name", list(BETAS))
def test_q_posterior_at_the_first_step_is_x0_itself(name):
    diffusion = diffusion_of(beta_schedule=name)
    x0, x_t = randn(2, 1, 4, 4), randn(2, 1, 4, 4, seed=1)
    mean, variance, log_variance = diffusion.q_posterior(x0, x_t, torch.tensor([1, 2]))
    torch.testing.assert_close(mean[0], x0[0], rtol=1e-6, atol=0)
    assert variance.shape == log_variance.shape == (2, 1, 1, 1)
    assert variance[0] == 0
    torch.testing.assert_close(log_variance, variance[[1, 1]].log())


@pytest.mark.parametrize("name", list(BETAS))
def test_round_trips_in_float32(name):
    """To 1e-5 where float32 allows it, and within the conditioning of the formula everywhere.

    x_0 = (x_t − σ_t ε)/√ᾱ_t multiplies the rounding of x_t, about 2⁻²⁴ (|x_t| + |ε|), by 1/√ᾱ_t: 2 × 10⁴ at the end of
    the cosine schedule, where 1e-5 is out of reach for any float32 code. ε from x_0 does the same with 1/σ_t. v is a
    rotation and loses nothing.
    """
    T = 1000
    diffusion, t = diffusion_of(timesteps=T, beta_schedule=name), torch.arange(1, T + 1)
    x0, noise = randn(T, 1, 2, 2).clamp(-1, 1), randn(T, 1, 2, 2, seed=1)
    x_t, v = diffusion.q_sample(x0, t, noise), diffusion.predict_v(x0, t, noise)
    rounding = 4 * 2.0**-24 * (x0.abs() + noise.abs() + x_t.abs()).amax((1, 2, 3))
    for got, expected, condition in (
        (diffusion.predict_start_from_noise(x_t, t, noise), x0, 1 / diffusion.schedule.sqrt_alpha_bar[1:]),
        (diffusion.predict_noise_from_start(x_t, t, x0), noise, 1 / diffusion.schedule.sigma[1:]),
        (diffusion.predict_start_from_v(x_t, t, v), x0, torch.ones(T)),
    ):
        error = (got - expected).abs().amax((1, 2, 3))
        assert (error <= rounding * condition).all()
        assert (condition <= 5).sum() > 0.5 * T
        assert (error[condition <= 5] < 1e-5).all()


def test_p_mean_variance_is_the_posterior_of_the_predicted_image():
    """Clipped unless told not to; labels and the previous estimate reach the network."""
    diffusion = diffusion_of(SelfConditioned(), objective="pred_v", beta_schedule="cosine")
    x_t, t, previous = 3 * randn(4, 1, 4, 4), torch.tensor([1, 2, 30, 50]), randn(4, 1, 4, 4, seed=1)
    for told in ({}, {"labels": torch.arange(4)}, {"x_self_cond": previous}):
        means = []
        for clip, option in ((True, {}), (True, {"clip_denoised": True}), (False, {"clip_denoised": False})):
            x0 = diffusion.predict(x_t, t, clip_x0=clip, **told).x0
            got = diffusion.p_mean_variance(x_t, t, **told, **option)
            assert all(map(torch.equal, got, diffusion.q_posterior(x0, x_t, t)))
            means.append(got[0])
        assert not torch.equal(means[0], means[2])
    assert sum(estimate is previous for estimate in diffusion.network.estimates) == 6


def test_p_sample_adds_noise_to_the_mean_except_at_the_first_step():
    diffusion, x_t, t = diffusion_of(SelfConditioned()), 3 * randn(3, 1, 4, 4), torch.tensor([1, 2, 50])
    for told in ({}, {"clip_denoised": False}, {"labels": torch.arange(3)}, {"x_self_cond": x_t.sin()}):
        mean, variance, _ = diffusion.p_mean_variance(x_t, t, **told)
        draws = diffusion.p_sample(x_t, t, **told, generator=seeded(0))
        assert torch.equal(draws[0], mean[0])
        torch.testing.assert_close(draws, mean + variance.sqrt() * randn(3, 1, 4, 4))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("images", "t", "message"),
    [
        (X, torch.tensor([0, 1]), r"t must lie in 1 … 50 .* but got values from 0 to 1"),
        (X, torch.tensor([51, 1]), "values from 1 to 51"),
        (X, torch.tensor([1.0, 2.0]), r"one whole number per image, shape \(2,\), but got torch.float32"),
        (X, torch.tensor([1]), r"but got torch.int64 of shape \(1,\)"),
        (X[:, 0], T_OF_X, r"must be a floating-point tensor of shape \(B, C, H, W\), but got"),
        (X.byte(), T_OF_X, r"must be a floating-point tensor of shape \(B, C, H, W\), but got"),
    ],
)
def test_methods_refuse_wrong_timesteps_and_images(name, images, t, message):
    with pytest.raises(ValueError, match=message):
        METHODS[name](diffusion_of(), images, images, t)


@pytest.mark.parametrize("name", list(METHODS)[:7])
def test_methods_do_not_broadcast_partners_of_another_shape(name):
    with pytest.raises(ValueError, match=r"must have one shape, but got \(2, 3, 4, 4\) and \(2, 1, 4, 4\)"):
        METHODS[name](diffusion_of(), torch.zeros(2, 3, 4, 4), X, T_OF_X)


@pytest.mark.parametrize("name", list(METHODS)[:8])
def test_methods_take_timesteps_of_any_integer_type(name):
    """As many images as the tables are long: an unsigned byte would index them as a mask."""
    x, noise, t = randn(51, 1, 4, 4), randn(51, 1, 4, 4, seed=1), torch.arange(51).clamp(1)
    for dtype in (torch.uint8, torch.int16, torch.int32):
        got, expected = (METHODS[name](diffusion_of(), x, noise, one) for one in (t.to(dtype), t))
        got, expected = (getattr(one, "x0", one) for one in (got, expected))
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
