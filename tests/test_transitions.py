"""`ddpm.transitions` beyond its formulas: precision, draws, and what is refused.

The formulas themselves are checked in `tests/equations/`.
"""

import pytest
import torch

from tests.networks import SelfConditioned, diffusion_of, randn, seeded

X, T_OF_X = torch.zeros(2, 1, 4, 4), torch.tensor([1, 2])
WITH_PARTNER = ["q_sample", "predict_start_from_noise", "predict_noise_from_start", "predict_v"]
WITH_PARTNER += ["predict_start_from_v", "loss"]
ALONE = ["predict", "p_mean_variance", "p_sample"]
# Every public method that takes images and timesteps, as a function of (diffusion, images, partner, t).
METHODS = {
    "q_posterior": lambda d, a, b, t: d.q_posterior(a, b, t),
    **{name: lambda d, a, b, t, name=name: getattr(d, name)(a, t, b) for name in WITH_PARTNER},
    **{name: lambda d, a, _, t, name=name: getattr(d, name)(a, t) for name in ALONE},
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


def test_q_posterior_at_the_first_step_is_x0_itself():
    x0, x_t = randn(2, 1, 4, 4), randn(2, 1, 4, 4, seed=1)
    mean, variance, log_variance = diffusion_of().q_posterior(x0, x_t, torch.tensor([1, 2]))
    torch.testing.assert_close(mean[0], x0[0], rtol=1e-6, atol=0)
    assert variance.shape == (2, 1, 1, 1)
    assert variance[0] == 0
    torch.testing.assert_close(log_variance, variance[[1, 1]].log())


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
        (X, torch.tensor([51, 1]), r"t must lie in 1 … 50 .* but got values from 1 to 51"),
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
