"""`ddpm.flow_likelihood` against densities that are known: of mixtures, of Gaussians, of a flow that is linear."""

import math

import pytest
import torch

from ddpm import PATHS, GaussianMixtureOracle, NoiseSchedule, flow_bits_per_dim, flow_log_density
from ddpm.flow_likelihood import FlowDensity
from ddpm.likelihood import vlb_terms
from ddpm.prediction import full_timesteps
from tests.networks import GaussianDenoiser, Pointwise, diffusion_of, randn, schedule_64, seeded

DOUBLE = torch.float64
SCHEDULE = schedule_64("cosine", 1000)
PLANE = GaussianMixtureOracle(
    SCHEDULE, [[-0.5, 0.2], [0.5, -0.3], [0.1, 0.6]], [0.02, 0.04, 0.01], [0.3, 0.3, 0.4]
)


def noised(oracle, count, seed=0):
    """Draws of x_1."""
    x0 = oracle.sample_data(count, seeded(seed))
    noise = torch.randn(x0.shape, dtype=DOUBLE, generator=seeded(seed + 1))
    return oracle.schedule.q_sample(x0, full_timesteps(1, x0), noise)


@pytest.mark.parametrize("path", ["vp", "flow"])
def test_density_of_a_mixture_is_exact_to_a_thousandth_of_a_nat_per_dimension(path):
    x_1 = noised(PLANE, 30)
    found = flow_log_density(PLANE, x_1, 999, path=path)
    exact = PLANE.log_density(x_1, full_timesteps(1, x_1))
    assert ((found.log_density - exact) / 2).abs().max() < 2e-4
    assert torch.equal(found.nats_per_dim, -found.log_density / 2)
    assert found.standard_error.tolist() == [0] * 30
    # The snow is standard normal.
    assert found.snow.std().item() == pytest.approx(1, abs=4 / (2 * 60) ** 0.5)


def test_paths_agree_and_so_do_grids():
    """On a schedule on which every path is smooth enough; what is left of the picture at T is common to all."""
    oracle = GaussianMixtureOracle(schedule_64("linear", 1000), [[-0.6], [0.5]], [0.05, 0.02])
    x_1 = noised(oracle, 9)
    found = [
        flow_log_density(oracle, x_1, steps, path=path, spacing=spacing).log_density
        for path in PATHS
        for steps, spacing in ((999, "even"), (300, "log-snr"))
    ]
    for one in found[1:]:
        assert (one - found[0]).abs().max() < 2e-3


def test_error_falls_with_the_square_of_the_steps():
    x_1 = noised(PLANE, 20)
    exact = PLANE.log_density(x_1, full_timesteps(1, x_1))
    errors = [
        (flow_log_density(PLANE, x_1, steps, spacing="log-snr").log_density - exact).abs().mean().item()
        for steps in (60, 240)
    ]
    assert errors[0] / errors[1] > 10


def test_hutchinsons_estimate_is_right_within_its_error():
    """Of 8 dimensions that are correlated, so that the Jacobian is not diagonal, and the estimate has an error."""
    root = randn(8, 8, dtype=DOUBLE) / 8**0.5
    oracle = GaussianMixtureOracle(
        SCHEDULE, randn(1, 8, seed=1, dtype=DOUBLE) / 2, (root @ root.T + 0.05 * torch.eye(8))[None] / 4
    )
    x_1 = noised(oracle, 40)
    options = {"steps": 100, "spacing": "log-snr"}
    exact = flow_log_density(oracle, x_1, **options)
    found = flow_log_density(oracle, x_1, **options, probes=16, generator=seeded(3))
    off = (found.log_density - exact.log_density) / found.standard_error
    assert (found.standard_error > 0.01).all()
    # Of 40 values with 15 degrees of freedom, whose variance is 15/13.
    assert off.square().mean().item() == pytest.approx(15 / 13, abs=4 * 15 / 13 * (2.5 / 40) ** 0.5)
    assert off.mean().abs() < 4 * (15 / 13 / 40) ** 0.5
    again = flow_log_density(oracle, x_1, **options, probes=16, generator=seeded(3))
    assert torch.equal(again.log_density, found.log_density)
    single = flow_log_density(oracle, x_1[:2], 5, probes=1)
    assert single.standard_error.isnan().all()


def test_density_of_pictures_with_independent_pixels():
    """Of shape (2, 2, 3), with a number for each image and D in the right places."""
    exact = GaussianDenoiser(SCHEDULE, 0.3, 0.2)
    x_1 = 0.3 + 0.45 * randn(4, 2, 2, 3, dtype=DOUBLE)
    mean, variance = exact.marginal(1)
    wanted = torch.distributions.Normal(mean, variance**0.5).log_prob(x_1).flatten(1).sum(1)
    found = flow_log_density(exact, x_1, 300)
    torch.testing.assert_close(found.log_density, wanted, rtol=0, atol=12e-3)
    assert found.dimensions == 12


def test_a_network_is_asked_without_clipping_in_evaluation_mode_and_left_as_it_was():
    network = Pointwise()
    diffusion = diffusion_of(network).train()
    found = flow_log_density(diffusion, 3 * randn(2, 1, 4, 4), 7)
    assert isinstance(found, FlowDensity)
    assert network.calls[:2] == [1, 12]
    assert network.calls[-1] == 50
    assert len(network.calls) == 14
    assert network.modes == [(False, True)] * 14
    assert network.training
    assert not found.log_density.requires_grad
    assert found.log_density.dtype == DOUBLE
    assert found.snow.dtype == torch.float32


def test_labels_reach_the_model():
    oracle = GaussianMixtureOracle(SCHEDULE, [[-0.6], [0.5]], [0.05, 0.02])
    x_1, labels = noised(oracle, 6), torch.tensor([0, 1, 0, 1, 0, 1])
    found = flow_log_density(oracle, x_1, 400, labels=labels).log_density
    wanted = oracle.log_density(x_1, full_timesteps(1, x_1), labels)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-3)


# In bits


def grey(oracle, count):
    x0 = oracle.sample_data(count, seeded(1)).clamp(-1, 1)
    return ((x0 + 1) * 127.5).round() / 127.5 - 1


def test_bits_of_a_mixture_lie_between_its_entropy_and_the_bound():
    """The chain pays for steps back that are Gaussian and too narrow; the flow has the density itself."""
    oracle = GaussianMixtureOracle(SCHEDULE, [[-0.5, 0.1], [0.4, -0.3]], [0.02, 0.04])
    x0 = grey(oracle, 400)
    flow = flow_bits_per_dim(oracle, x0, 150, generator=seeded(2), spacing="log-snr")
    bound = vlb_terms(oracle, x0, seeds=range(400))
    # The probability of a grey level is the density times its width.
    entropy = -oracle.log_likelihood(x0).mean() / 2 / math.log(2) + math.log2(127.5)
    of_bound = bound.bits_per_dim(bound.total)
    slack = 4 * flow.standard_error
    assert entropy - slack < flow.mean < of_bound.mean - slack


def test_bits_are_those_of_their_parts():
    """With a model of one Gaussian, everything is known: by hand, for the same draw of x_1."""
    exact = GaussianDenoiser(SCHEDULE, 0.1, 0.09)
    x0 = ((0.1 + 0.3 * randn(5, 1, 2, 2, dtype=DOUBLE)).clamp(-1, 1) * 127.5 + 127.5).round() / 127.5 - 1
    noise = torch.randn(x0.shape, generator=seeded(4)).double()
    found = flow_bits_per_dim(exact, x0, 600, generator=seeded(4), clip_x0=False)
    bar = SCHEDULE.exact_alpha_bar[1]
    x_1 = bar.sqrt() * x0 + (1 - bar).sqrt() * noise
    normal = torch.distributions.Normal
    known = normal(bar.sqrt() * x0, (1 - bar).sqrt()).log_prob(x_1)
    mean, variance = exact.marginal(1)
    flow = normal(mean, variance**0.5).log_prob(x_1)
    guess = exact.mean + exact.gain(1) * (x_1 - mean)
    pixel = normal(guess, SCHEDULE.posterior_variance[2].sqrt())
    upper = torch.where(x0 > 0.999, math.inf, x0 + 1 / 255)
    lower = torch.where(x0 < -0.999, -math.inf, x0 - 1 / 255)
    decoder = (pixel.cdf(upper) - pixel.cdf(lower)).clamp(min=1e-12).log()
    bits = (known - flow - decoder).flatten(1).sum(1) / (4 * math.log(2))
    assert found.mean.item() == pytest.approx(bits.mean().item(), abs=1e-3)
    assert found.standard_error.item() == pytest.approx(bits.std().item() / 5**0.5, rel=1e-2)


def test_self_conditioning_and_half_precision_of_the_schedule_do_not_matter():
    schedule = NoiseSchedule.from_name("cosine", 1000)
    x_1 = noised(PLANE, 5)
    single = GaussianMixtureOracle(
        schedule, PLANE.means, torch.tensor([0.02, 0.04, 0.01]), PLANE.weights, dtype=torch.float32
    )
    found = flow_log_density(single, x_1.float(), 999).log_density
    exact = PLANE.log_density(x_1, full_timesteps(1, x_1))
    assert ((found - exact) / 2).abs().max() < 1e-3
