"""`ddpm.editing.interpolate` against one exact step, `p_sample` and a denoiser that is no module."""

import pytest
import torch

from ddpm import editing
from tests.networks import Constant, GaussianDenoiser, diffusion_of, exact_diffusion_of, randn, seeded

X1, X2 = randn(3, 1, 4, 4), randn(3, 1, 4, 4, seed=1)


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.5, 1.0])
def test_interpolate_mixes_pictures_that_have_the_same_noise(lam):
    """At t = 1 the step back is E[x_0 | x_1], which for a network that says v = 0 is √ᾱ_1 x_1, clipped."""
    diffusion = exact_diffusion_of(Constant(0.0), "cosine", 5, objective="pred_v")
    x1, x2 = X1.double(), X2.double()
    got = diffusion.interpolate(x1, x2, 1, lam, generator=seeded(5))
    alpha_bar, noise = diffusion.schedule.exact_alpha_bar[1], randn(3, 1, 4, 4, seed=5)
    noisy = alpha_bar.sqrt() * ((1 - lam) * x1 + lam * x2) + (1 - alpha_bar).sqrt() * noise
    torch.testing.assert_close(got, (alpha_bar.sqrt() * noisy).clamp(-1, 1), rtol=0, atol=1e-7)
    if lam == 0.5:
        assert torch.equal(got, diffusion.interpolate(x1, x2, 1, generator=seeded(5)))


@pytest.mark.parametrize("t", [None, 30, 12, 1])
def test_interpolate_of_one_picture_is_that_picture_denoised(t):
    """x_t, and `p_sample` at t, t−1, …, 1, with one source of noise for all; the other picture leaves no trace."""
    diffusion, noise = diffusion_of(timesteps=30, beta_schedule="cosine"), seeded(5)
    start = 30 if t is None else t
    x = diffusion.q_sample(X1, torch.full((3,), start), torch.randn(3, 1, 4, 4, generator=noise))
    for step in range(start, 0, -1):
        x = diffusion.p_sample(x, torch.full((3,), step), generator=noise)
    assert x.min() < 0, "in [-1, 1], not in [0, 1]"
    diffusion.network.calls.clear()
    for ends, lam in (((X1, X2), 0), ((X2, X1), 1), ((X1, X1), 0.3)):
        got = diffusion.interpolate(*ends, t, lam, generator=seeded(5))
        torch.testing.assert_close(got, x, rtol=0, atol=1e-5)
    assert diffusion.network.calls == 3 * list(range(start, 0, -1))


def test_interpolate_passes_labels_on_in_evaluation_mode_and_without_gradients():
    diffusion, labels = diffusion_of(timesteps=30), torch.tensor([0, 1, 2])
    x = X1.clone().requires_grad_()
    sources = [[seeded(seed) for seed in (1, 2, 3)] for _ in range(2)]
    free = diffusion.interpolate(x, X2, 7, generator=sources[0])
    labelled = diffusion.interpolate(x, X2, 7, labels=labels, generator=sources[1])
    assert torch.equal(free[0], labelled[0])
    assert not torch.equal(free[1], labelled[1])
    assert not free.requires_grad
    assert diffusion.network.modes == [(False, False)] * 14
    assert diffusion.network.training


def test_interpolate_takes_an_exact_denoiser():
    exact = GaussianDenoiser(diffusion_of(timesteps=20).schedule, 0.1, 0.01)
    got = editing.interpolate(exact, X1.double(), X2.double(), 20, generator=seeded(0))
    assert got.dtype == torch.float64
    assert (got - 0.1).abs().max() < 0.5
