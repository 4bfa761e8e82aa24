"""`ddpm.weighting` against the papers' formulas, through JSON and back; and what is drawn in `stratified_timesteps`."""

import json
import math

import pytest
import torch

from ddpm import EDM, P2, MinSNR, NoiseSchedule, stratified_timesteps
from ddpm.weighting import noise_level_density, noise_level_weight, weighting_config, weighting_from_config
from tests.networks import diffusion_of, seeded


class Steeper(MinSNR):
    """Not MinSNR, though it has its numbers."""


def own(schedule, t, objective):  # noqa: ARG001
    return t.float()


@pytest.mark.parametrize("shape", [(2, 1), (2, 1, 1, 1), (1,), (1, 2), (3,)])
def test_a_weighting_of_ones_own_gives_one_weight_per_image(shape):
    """Weights of shape (B, 1) would be multiplied with the losses of all images."""
    ours = diffusion_of(loss_weighting=lambda *_: torch.ones(shape), timesteps=2)
    for call in (
        lambda: ours.loss(torch.zeros(2, 1, 4, 4)),
        lambda: noise_level_weight(ours.schedule, "pred_v", ours.loss_weighting),
    ):
        with pytest.raises(ValueError, match=r"one weight per image, shape \(2,\), but returned \("):
            call()


def test_min_snr_and_p2_are_the_papers_formulas():
    schedule, t = NoiseSchedule.from_name("cosine", 100), torch.arange(1, 101)
    snr = schedule.exact_alpha_bar[1:] / (1 - schedule.exact_alpha_bar[1:])
    for objective, output_error in (
        ("pred_noise", snr),
        ("pred_x0", 1),
        ("pred_v", snr + 1),
        ("pred_flow", (1 + snr.sqrt()) ** 2),
    ):
        for weighting, expected in (
            (MinSNR(), snr.clamp(max=5) / output_error),
            (MinSNR(0.1), snr.clamp(max=0.1) / output_error),
            (P2(), 1 / (1 + snr)),
            (P2(gamma=0.5, k=2.0), (2 + snr).sqrt() ** -1),
            (P2(gamma=0.0), torch.ones_like(snr)),
        ):
            got = weighting(schedule, t, objective).double()
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("weighting", "config"),
    [
        (None, None),
        (MinSNR(0.25), {"name": "MinSNR", "gamma": 0.25}),
        (P2(0.5, 2.0), {"name": "P2", "gamma": 0.5, "k": 2.0}),
        (EDM(0.4, std=2), {"name": "EDM", "sigma_data": 0.4, "mean": -1.2, "std": 2}),
    ],
)
def test_weighting_config_goes_through_json_and_comes_back(weighting, config):
    assert weighting_config(weighting) == config
    assert weighting_from_config(json.loads(json.dumps(config))) == weighting
    assert diffusion_of(loss_weighting=weighting).config["loss_weighting"] == config


def test_weighting_from_config_takes_defaults_and_leaves_the_config_alone():
    config = {"name": "P2", "k": 3.0}
    assert weighting_from_config(config) == P2(gamma=1.0, k=3.0)
    assert weighting_from_config({"name": "MinSNR"}) == MinSNR(5.0)
    assert config == {"name": "P2", "k": 3.0}


@pytest.mark.parametrize(("weighting", "kind"), [(own, "own"), (Steeper(), "Steeper")])
def test_weighting_config_names_a_users_own_function(weighting, kind):
    """By a name that the next process gives it too, unlike its address."""
    config = weighting_config(weighting)
    assert config == {"name": "custom", "repr": f"{__name__}.{kind}"}
    with pytest.raises(ValueError, match=rf"the user's own, {__name__}.{kind}, .* give it to Gaussian"):
        weighting_from_config(json.loads(json.dumps(config)))


def test_stratified_timesteps_draw_their_shift_from_the_generator():
    shift = torch.rand((), generator=seeded(3), dtype=torch.float64).item()
    got = stratified_timesteps(7, 100, generator=seeded(3))
    assert got.dtype == torch.int64
    assert torch.equal(got, stratified_timesteps(7, 100, shift=shift))
    assert not torch.equal(got, stratified_timesteps(7, 100, generator=seeded(4)))


def test_stratified_timesteps_stay_in_the_range_whatever_rounding_does():
    almost_one = math.nextafter(1.0, 0.0)
    assert stratified_timesteps(3, 1000, shift=almost_one).tolist()[-1] == 1000
    assert stratified_timesteps(5, 2, shift=0.0).tolist() == [1, 1, 1, 2, 2]


# What a loss asks for, in one form

OBJECTIVES = ("pred_noise", "pred_x0", "pred_v", "pred_flow")


@pytest.mark.parametrize("name", ["linear", "cosine", "log-snr", "flow"])
def test_edms_weight_depends_on_neither_schedule_nor_objective(name):
    schedule, lam = NoiseSchedule.from_name(name, 1000), NoiseSchedule.from_name(name, 1000).exact_log_snr[1:]
    density = torch.distributions.Normal(2.4, 2.4).log_prob(lam).exp()
    wanted = 2 * density * (1 + torch.exp(-lam) / 0.25)
    for objective in OBJECTIVES:
        found = noise_level_weight(schedule, objective, EDM()).double()
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=0)


def test_edms_loss_by_its_own_formulas():
    """Their preconditioned network with its squared error, levels drawn from their normal distribution."""
    schedule, scale = NoiseSchedule.from_name("log-snr", 2000, highest=14.0, lowest=-10.0), 0.5
    u = torch.exp(-schedule.exact_log_snr / 2)[1:]
    x0, guess = 0.3, 0.3 + 0.2 * torch.sin(3 * u.log())
    skip, out = scale**2 / (u**2 + scale**2), u * scale / (u**2 + scale**2).sqrt()
    noisy = x0 + 0.7 * u
    off = ((guess - skip * noisy) / out - (x0 - skip * noisy) / out) ** 2
    chance = torch.distributions.Normal(-1.2, 1.2).log_prob(u.log()).exp()
    theirs = torch.trapezoid(chance * off, u.log())
    diffusion = diffusion_of(timesteps=2000, beta_schedule="log-snr", objective="pred_x0")
    weights = EDM(scale)(schedule, torch.arange(1, 2001), diffusion.objective).double()
    assert (weights * (guess - x0) ** 2).mean().item() == pytest.approx(theirs.item(), rel=2e-3)


def test_density_of_noise_levels_is_that_of_what_is_drawn():
    schedule = NoiseSchedule.from_name("cosine", 1000)
    density = noise_level_density(schedule)
    assert density.shape == (1001,)
    assert density[0].isnan()
    lam = schedule.exact_log_snr
    t = torch.arange(1, 1001)
    for low, high in ((-6, -2), (-1, 1), (2, 7)):
        inside = (lam[1:] > low) & (lam[1:] < high)
        share = -torch.trapezoid(density[1:].double()[inside], lam[1:][inside]).item()
        assert share == pytest.approx(len(t[inside]) / 1000, abs=1.2e-3)
