"""`ddpm.editing` against exact steps, exact flows and exact conditionals."""

from functools import partial

import pytest
import torch

from ddpm import ClassifierFreeGuidance, GaussianMixtureOracle, NoiseSchedule, editing
from ddpm.gaussians import condition
from tests.networks import Classed, GaussianDenoiser, diffusion_of, randn, schedule_64, seeded

X1, X2 = randn(3, 1, 4, 4), randn(3, 1, 4, 4, seed=1)


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
    halves = [diffusion.interpolate(X1, X2, t, *lam, generator=seeded(5)) for lam in ((), (0.5,))]
    assert torch.equal(*halves)


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


# One picture, painted over


@pytest.mark.parametrize("t", [30, 12, 1])
def test_image_to_image_is_the_way_back_from_its_noise(t):
    """As `interpolate` between a picture and itself."""
    diffusion = diffusion_of(timesteps=30)
    got = editing.image_to_image(diffusion, X1, t, generator=seeded(5))
    assert torch.equal(got, editing.interpolate(diffusion, X1, X1, t, 0.0, generator=seeded(5)))
    assert diffusion.network.calls == 2 * list(range(t, 0, -1))
    assert {training for training, _ in diffusion.network.modes} == {False}


def test_image_to_image_keeps_more_the_lower_it_starts():
    exact, x = GaussianDenoiser(schedule_64("cosine", 40), 0.0, 0.1), X1.double().clamp(-1, 1)
    distances = [(editing.image_to_image(exact, x, t, generator=seeded(1)) - x).norm() for t in (1, 10, 20)]
    assert distances == sorted(distances)
    assert distances[0] < 0.1 * distances[2]


# From latent to latent


@pytest.mark.parametrize("lam", [0.0, 0.25, 0.5, 1.0])
def test_slerp_is_done_image_by_image_and_on_the_line_where_there_is_no_arc(lam):
    """For images of one direction, or none; the arc itself is proved in the ledger."""
    a, b = (3 * torch.eye(4)[i].view(1, 1, 2, 2) for i in (0, 2))
    many = editing.slerp(torch.cat([a, a, 0 * a]), torch.cat([b, 2 * a, b]), lam)
    assert torch.equal(many[:1], editing.slerp(a, b, lam))
    torch.testing.assert_close(many[1:2], (1 + lam) * a)
    assert many.isfinite().all()


def test_interpolation_of_latents_begins_and_ends_at_the_pictures():
    """The exact flow of a Gaussian is a straight line in x, there and back."""
    exact = GaussianDenoiser(schedule_64("cosine", 400), 0.1, 0.2)
    x1, x2 = (0.1 + 0.2**0.5 * x.double() for x in (X1, X2))
    x1, x2 = x1.clamp(-1, 1), x2.clamp(-1, 1)
    between = {lam: editing.interpolate_latents(exact, x1, x2, 400, lam) for lam in (0.0, 0.5, 1.0)}
    errors = [(between[lam] - x).abs().max() for lam, x in ((0.0, x1), (1.0, x2))]
    assert max(errors) < 0.05
    coarse = (editing.interpolate_latents(exact, x1, x2, 50, 0.0) - x1).abs().max()
    assert coarse > 4 * errors[0]
    torch.testing.assert_close(between[0.5], editing.interpolate_latents(exact, x2, x1, 400, 0.5))


def test_interpolation_of_latents_gives_both_pictures_their_labels():
    diffusion = diffusion_of(Classed(), timesteps=20)
    editing.interpolate_latents(diffusion, X1, X2, 2, 0.3, labels=[0, 1, 2])
    assert diffusion.network.labels == [[0, 1, 2, 0, 1, 2]] * 2 + [[0, 1, 2]] * 2
    assert {training for training, _ in diffusion.network.modes} == {False}


# Filled in

KNOWN = torch.tensor([[True, False, True, False], [False, False, False, False], [True] * 4, [False] * 4])


@pytest.mark.parametrize("resamplings", [1, 3])
@pytest.mark.parametrize(
    "known", [KNOWN, KNOWN.expand(3, 1, 4, 4), torch.zeros(4, 4) > 0, torch.zeros(4, 4) == 0]
)
def test_known_pixels_are_kept_to_the_last_bit(known, resamplings):
    diffusion, x = diffusion_of(timesteps=20), X1.clamp(-1, 1)
    got = editing.inpaint(diffusion, x, known, resamplings=resamplings, generator=seeded(2))
    assert torch.equal(torch.where(known, got, 0.0), torch.where(known, x, 0.0))
    assert diffusion.network.calls == [t for t in range(20, 1, -1) for _ in range(resamplings)] + [1]
    # What is elsewhere leaves no trace, be it no number.
    other = torch.where(known, x, torch.nan)
    again = editing.inpaint(diffusion, other, known, resamplings=resamplings, generator=seeded(2))
    assert torch.equal(got, again)


def test_every_picture_is_filled_in_by_its_own_seed():
    diffusion, x = diffusion_of(timesteps=20), X1.clamp(-1, 1)
    alone = [
        editing.inpaint(diffusion, x[i : i + 1], KNOWN, resamplings=2, generator=[seeded(i)])
        for i in range(3)
    ]
    sources = [seeded(i) for i in range(3)]
    together = editing.inpaint(diffusion, x, KNOWN, resamplings=2, generator=sources)
    assert torch.equal(together, torch.cat(alone))


def test_resampling_brings_the_unknown_pixels_nearer_to_the_exact_conditional():
    """Two pixels of a Gaussian, one of them known; the exact mean and deviation by `gaussians.condition`."""
    mean, covariance = torch.zeros(2).double(), torch.tensor([[0.2, 0.17], [0.17, 0.2]]).double()
    known = torch.tensor([[True, False]])
    wanted, variance = condition(mean, covariance, known[0], torch.tensor([0.6]).double())
    oracle = GaussianMixtureOracle(NoiseSchedule.from_name("cosine", 60), mean[None], covariance[None])
    x, off = torch.tensor([0.6, 0.0]).double().expand(3000, 1, 1, 2), []
    for resamplings in (1, 8):
        out = editing.inpaint(oracle, x, known, resamplings=resamplings, clip_x0=False, generator=seeded(3))
        off.append(((out[..., 1].mean() - wanted) / variance.sqrt()).abs().item())
    assert off[0] > 0.3  # the error bar is 0.02
    assert off[1] < off[0] / 2


@pytest.mark.parametrize("resamplings", [1, 3])
def test_the_known_pixels_have_the_noise_of_the_timestep_at_which_they_are_seen(resamplings):
    """Replaced after the step to t−1, and with `resamplings` taken up to t again."""
    diffusion, seen = diffusion_of(timesteps=12, beta_schedule="cosine"), {}
    diffusion.network.register_forward_pre_hook(
        lambda _, given: seen.setdefault(int(given[1][0]), []).append(given[0])
    )
    x, everything = torch.full((20, 1, 32, 32), 0.6), torch.ones(32, 32, dtype=torch.bool)
    editing.inpaint(diffusion, x, everything, resamplings=resamplings, generator=seeded(0))
    for t in range(1, 12):
        signal, sigma = (diffusion.schedule.alpha_bar[t].sqrt().item(), diffusion.schedule.sigma[t].item())
        for x_t in seen[t]:
            assert x_t.mean().item() == pytest.approx(0.6 * signal, abs=5 * sigma / x.numel() ** 0.5)
            assert x_t.std().item() == pytest.approx(sigma, rel=5 / (2 * x.numel()) ** 0.5)


@pytest.mark.parametrize("resamplings", [1, 2, 5])
def test_without_a_known_pixel_it_is_ancestral_sampling_and_steps_up_again(resamplings):
    """For data N(0, 1) the step down to t−1 makes α v + β̃ of the variance v, and the step up α v + β."""
    exact, v = GaussianDenoiser(schedule_64("linear", 25), 0.0, 1.0), 1.0
    for t in range(25, 0, -1):
        alpha, added = exact.schedule.alpha[t].item(), exact.schedule.posterior_variance[t].item()
        for again in range(resamplings if t > 1 else 1):
            v = alpha * v + 1 - alpha if again else v
            v = alpha * v + added
    x, nothing = torch.zeros(20_000, 1, 1, 1).double(), torch.zeros(1, 1, dtype=torch.bool)
    out = editing.inpaint(exact, x, nothing, resamplings=resamplings, clip_x0=False, generator=seeded(0))
    assert out.std().item() == pytest.approx(v**0.5, rel=5 / 40_000**0.5)  # five standard errors
    assert out.mean().item() == pytest.approx(0, abs=5 * (v / 20_000) ** 0.5)


def test_editing_takes_a_guided_model():
    diffusion = diffusion_of(Classed(), timesteps=20)
    guided = ClassifierFreeGuidance(diffusion, 2.0)
    got = editing.inpaint(guided, X1.clamp(-1, 1), KNOWN, labels=[0, 1, 2], generator=seeded(1))
    assert torch.equal(torch.where(KNOWN, got, 0.0), torch.where(KNOWN, X1.clamp(-1, 1), 0.0))
    assert {len(batch) for batch in diffusion.network.labels} == {6}


@pytest.mark.parametrize(
    "known", [KNOWN.numpy(), KNOWN.flip(1).numpy()[:, ::-1], KNOWN.tolist(), [KNOWN.tolist()], KNOWN[None]]
)
def test_known_pixels_may_be_an_array_or_lists(known):
    got, expected = (
        editing.inpaint(diffusion_of(timesteps=5), X1.clamp(-1, 1), mask, generator=seeded(2))
        for mask in (known, KNOWN)
    )
    assert torch.equal(got, expected)


REFUSED = diffusion_of(timesteps=20)
T_OF_20 = "t must be a whole number in 1 … 20, but got"


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    [
        (editing.inpaint, (X1, KNOWN.float()), r"known must say of every .* that is known > 0\.5"),
        (editing.inpaint, (X1, KNOWN[:3]), r"bool of shape \(4, 4\) or \(3, 1, 4, 4\), but got"),
        (editing.inpaint, (X1, KNOWN[:, :1]), r"but got torch\.bool of shape \(4, 1\)"),
        (editing.inpaint, (X1, KNOWN.expand(2, 1, 4, 4)), r"of shape \(2, 1, 4, 4\)"),
        # As many pictures as channels: the mask may be meant for either.
        (
            editing.inpaint,
            (X1.expand(3, 3, 4, 4), KNOWN.expand(3, 4, 4)),
            r"for each picture is known\[:, None\], one for each channel known\[None\]$",
        ),
        (editing.inpaint, (X1, KNOWN[0]), r"of shape \(4,\)"),
        (editing.inpaint, (X1, KNOWN.expand(1, 3, 1, 4, 4)), "known must say"),
        (editing.inpaint, (X1 + 2, KNOWN), r"known pixels of x must lie in \[-1, 1\]"),
        (partial(editing.inpaint, resamplings=0), (X1, KNOWN), "resamplings must be a whole number"),
        (editing.inpaint, (X1[0], KNOWN), r"x must be a floating-point tensor of shape \(B"),
        (editing.image_to_image, (X1, 21), f"{T_OF_20} 21"),
        (editing.image_to_image, (X1, None), f"{T_OF_20} None"),
        (editing.image_to_image, (X1.byte(), 3), "x must be a floating-point tensor"),
        (editing.interpolate_latents, (X1, X2, 21), "must be a whole number in 1 … 20"),
        (editing.interpolate_latents, (X1, X2, 5, 1.5), r"lam must lie in \[0, 1\]"),
        (editing.interpolate_latents, (X1, X2[:1], 5), "x1 and x2 must have one shape"),
    ],
)
def test_what_cannot_be_edited_is_refused_before_a_network_is_asked(call, arguments, message):
    with pytest.raises(ValueError, match=message):
        call(REFUSED, *arguments)
    assert REFUSED.network.calls == []
