"""`ddpm.weighting` against the papers' formulas, through JSON and back; and what is drawn in `stratified_timesteps`."""

import json
import math

import pytest
import torch

from ddpm import P2, MinSNR, NoiseSchedule, stratified_timesteps
from ddpm.weighting import weighting_config, weighting_from_config
from tests.networks import diffusion_of, seeded


class Steeper(MinSNR):
    """Not MinSNR, though it has its numbers."""


def own(schedule, t, objective):  # noqa: ARG001
    return t.float()


def test_min_snr_and_p2_are_the_papers_formulas():
    schedule, t = NoiseSchedule.from_name("cosine", 100), torch.arange(1, 101)
    snr = schedule.exact_alpha_bar[1:] / (1 - schedule.exact_alpha_bar[1:])
    for objective, output_error in (("pred_noise", snr), ("pred_x0", 1), ("pred_v", snr + 1)):
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
