"""`ddpm.flows`: what is one model in several coordinates, asserted on the shipped digits and on exact denoisers."""

import math
from itertools import pairwise

import pytest
import torch

from ddpm import (
    PATHS,
    GaussianDiffusion,
    GaussianMixtureOracle,
    Path,
    Prediction,
    ancestral,
    ddim,
    load_pretrained,
    probability_flow,
    reverse_sde,
    timestep_grid,
)
from ddpm.flows import named_path
from ddpm.prediction import full_timesteps, training_target, x0_from_score
from ddpm.reverse_process import ReverseStep, variance_rule
from tests.networks import (
    BETAS,
    Constant,
    GaussianDenoiser,
    diffusion_of,
    exact_diffusion_of,
    last_of,
    randn,
    schedule_64,
    seeded,
)

DOUBLE = torch.float64
# λ itself as the time, which has no end at the picture, and a curved way of its own.
LOG_SNR = Path(
    lambda u: -2 * u.log(),
    lambda tau: (tau.sigmoid().sqrt(), (-tau).sigmoid().sqrt()),
    lambda tau: (tau.sigmoid().sqrt() * (-tau).sigmoid() / 2, -(-tau).sigmoid().sqrt() * tau.sigmoid() / 2),
)
CURVED = Path(
    lambda u: torch.sqrt(u / (1 + u)), lambda tau: (1 - tau**2, tau**2), lambda tau: (-2 * tau, 2 * tau)
)
EVERY = {**PATHS, "curved": CURVED, "log-snr": LOG_SNR}
STRAIGHT = ("edm", "flow")


def close(found, wanted, tolerance=1e-9):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


# Coordinates


@pytest.mark.parametrize("name", BETAS)
@pytest.mark.parametrize("path", EVERY)
def test_a_path_has_the_chains_pictures_times_its_scale(path, name):
    """At every t the ratio of picture and noise is that of x_t; the slopes are what autograd makes of the factors."""
    schedule, t = schedule_64(name, 30), torch.arange(1, 31)
    place = EVERY[path].at(schedule, t, randn(30, 1, 1, 1))
    bar = schedule.exact_alpha_bar[1:].view(-1, 1, 1, 1)
    close(place.signal, place.scale * bar.sqrt())
    close(place.sigma, place.scale * (1 - bar).sqrt())
    tau = place.time.clone().requires_grad_()
    for factor, slope in zip(EVERY[path].factors(tau), (place.signal_slope, place.sigma_slope), strict=True):
        close(torch.autograd.grad((factor + 0 * tau).sum(), tau)[0], slope)
    rises = (place.sigma / place.signal).flatten().diff() * place.time.flatten().diff().sign()
    assert (rises < 0).all() if path == "log-snr" else (rises > 0).all()


@pytest.mark.parametrize("path", [*PATHS, "curved"])
def test_a_path_begins_with_the_picture(path):
    place = EVERY[path].at(schedule_64("cosine", 30), 0)
    assert [x.item() for x in (place.time, place.signal, place.sigma, place.scale)] == [0, 1, 0, 1]


def test_a_path_by_its_name_or_itself():
    assert named_path("edm") is PATHS["edm"]
    assert named_path(CURVED) is CURVED


@pytest.mark.parametrize("path", EVERY)
def test_velocity_is_how_the_picture_with_its_noise_moves(path):
    """By finite differences of z between two neighbouring levels of a fine schedule, and there and back."""
    schedule = schedule_64("flow", 4000)
    x0, noise = randn(2, 5, 1, 3, 3, dtype=DOUBLE)
    t = torch.tensor([400, 1500, 2000, 3000, 3600])
    place, before, after = (EVERY[path].at(schedule, t + step, x0) for step in (0, -1, 1))
    prediction = Prediction(noise, x0, *schedule.signal_and_sigma(t, x0))
    z = [p.signal * x0 + p.sigma * noise for p in (before, after)]
    by_differences = (z[1] - z[0]) / (after.time - before.time)
    velocity = place.velocity(prediction)
    close(velocity, by_differences, 1e-5)
    again = place.prediction(place.signal * x0 + place.sigma * noise, velocity)
    for name in ("noise", "x0", "signal", "sigma"):
        close(getattr(again, name), getattr(prediction, name).expand_as(getattr(again, name)))


def test_the_velocities_have_names():
    x0, noise = randn(2, 3, 1, 2, 2, dtype=DOUBLE)
    schedule, t = schedule_64("cosine", 30), torch.tensor([1, 15, 30])
    prediction = Prediction(noise, x0, *schedule.signal_and_sigma(t, x0))
    wanted = {"edm": prediction.noise, "flow": prediction.flow, "vp": prediction.v}
    for path, velocity in wanted.items():
        close(PATHS[path].at(schedule, t, x0).velocity(prediction), velocity)


def test_a_prediction_keeps_the_type_of_the_pictures():
    place = PATHS["flow"].at(schedule_64("cosine", 30), 7)
    assert place.prediction(randn(1, 1, 2, 2), randn(1, 1, 2, 2, seed=1)).x0.dtype == torch.float32


# The flow


@pytest.mark.parametrize("spacing", ["even", "log-snr", "karras"])
@pytest.mark.parametrize("path", STRAIGHT)
@pytest.mark.parametrize("name", ["linear", "cosine", "flow"])
def test_euler_on_a_straight_path_is_ddim(name, path, spacing):
    """Exactly, on any grid, with clipping or without."""
    diffusion, x = exact_diffusion_of(None, name, 60), randn(3, 1, 4, 4, dtype=DOUBLE)
    for steps in (1, 7, 60, [60, 33, 32, 1, 0]):
        for clip in (False, True):
            options = {"spacing": spacing, "clip_x0": clip}
            ours = list(probability_flow(diffusion, x, steps, path=path, **options))
            theirs = list(ddim(diffusion, x, steps, **options))
            for a, b in zip(ours, theirs, strict=True):
                assert a.t == b.t
                close(a.x, b.x, 1e-7)
                close(a.x0, b.x0, 1e-7)


def test_euler_on_a_curved_path_is_not():
    diffusion, x = exact_diffusion_of(None, "cosine", 60), randn(3, 1, 4, 4, dtype=DOUBLE)
    wanted = last_of(ddim(diffusion, x, 7))
    for path in ("vp", CURVED):
        assert (last_of(probability_flow(diffusion, x, 7, path=path)) - wanted).abs().max() > 1e-2


def karras(diffusion, y, u):
    """Algorithm 1 of Karras et al. 2022, σ(t) = t and s(t) = 1, with D(y; u) and the levels u_0 … u_N = 0."""
    schedule = diffusion.schedule
    levels = (1 / schedule.exact_alpha_bar - 1).sqrt()

    def denoised(y, now):
        t = int((levels - now).abs().argmin())
        x = y * schedule.exact_alpha_bar[t].sqrt()
        return diffusion.predict(x, full_timesteps(t, x)).x0

    for now, then in pairwise(u):
        d = (y - denoised(y, now)) / now
        ahead = y + (then - now) * d
        if then > 0:
            d = (d + (ahead - denoised(ahead, then)) / then) / 2
            ahead = y + (then - now) * d
        y = ahead
    return y


@pytest.mark.parametrize("steps", [1, 2, 12])
def test_heun_on_the_path_of_edm_is_their_algorithm(steps):
    schedule = schedule_64("linear", 100)
    oracle = GaussianMixtureOracle(schedule, [[-0.6], [0.5]], [0.05, 0.02])
    grid, x = timestep_grid(schedule, steps, "karras"), randn(5, 1, 1, 1, dtype=DOUBLE)
    u = [math.sqrt(1 / schedule.exact_alpha_bar[t] - 1) for t in grid]
    y = karras(oracle, x / schedule.exact_alpha_bar[-1].sqrt(), u)
    close(last_of(probability_flow(oracle, x, grid, path="edm", order=2, clip_x0=False)), y, 1e-8)


@pytest.mark.parametrize("path", ["vp", "flow"])
@pytest.mark.parametrize("order", [1, 2])
def test_orders_on_a_gaussian_whose_curves_are_known(path, order):
    """Along a curve (x_t − mean) over the standard deviation stays (eq:gaussian-flow). Steps are halved twice."""
    exact, x = GaussianDenoiser(schedule_64("flow", 1600), 0.3, 0.2), randn(9, 1, 1, 1, dtype=DOUBLE)
    mean, variance = exact.marginal(1600)
    wanted = exact.mean + (x - mean) * math.sqrt(exact.variance / variance)
    errors = [
        (last_of(probability_flow(exact, x, steps, path=path, order=order, clip_x0=False)) - wanted)
        .abs()
        .max()
        .item()
        for steps in (40, 160)
    ]
    assert math.log(errors[0] / errors[1], 4) == pytest.approx(order, abs=0.2)


# The stochastic differential equation


def half_way(T):
    """A mixture and the levels of a linear schedule up to the middle, where the steps of two T lead to one level."""
    schedule = schedule_64(BETAS["linear"](T)[: T // 2])
    return GaussianMixtureOracle(schedule, [[-0.6], [0.5]], [0.05, 0.02])


def first_step(oracle, x, eta):
    """Mean and standard deviation of the first step of `reverse_sde`, with its draw taken away."""
    grid = [oracle.schedule.timesteps, oracle.schedule.timesteps - 1, 0]
    drawn = [
        next(reverse_sde(oracle, x, grid, eta=eta, clip_x0=False, generator=seeded(s))).x for s in (1, 2)
    ]
    noise = [torch.randn(x.shape, generator=seeded(s)).double() for s in (1, 2)]
    std = ((drawn[0] - drawn[1]) / (noise[0] - noise[1])).mean() if eta else torch.zeros((), dtype=DOUBLE)
    return drawn[0] - std * noise[0], std


def test_ancestral_sampling_is_a_discretised_reverse_sde():
    """A single step: the means differ by something of the order of β², the variances by that of β², too."""
    x, off = torch.linspace(-2, 2, 9, dtype=DOUBLE).view(-1, 1, 1, 1), []
    for T in (1000, 2000, 4000):
        oracle = half_way(T)
        t = full_timesteps(T // 2, x)
        mean, log_variance, _ = ReverseStep(
            oracle, variance_rule(oracle, "fixed_large"), None, False
        ).moments(x, t)
        ours, std = first_step(oracle, x, 1.0)
        off.append(((ours - mean).abs().max().item(), (std**2 - log_variance.exp().mean()).abs().item()))
    for before, after in pairwise(off):
        assert [a / b for a, b in zip(before, after, strict=True)] == pytest.approx([4, 4], rel=0.02)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_with_noise_is_one_as_well(eta):
    x, off = torch.linspace(-2, 2, 9, dtype=DOUBLE).view(-1, 1, 1, 1), []
    for T in (1000, 2000, 4000):
        oracle = half_way(T)
        grid = [T // 2, T // 2 - 1, 0]
        theirs = next(ddim(oracle, x, grid, eta=eta, clip_x0=False, generator=seeded(1))).x
        ours = next(reverse_sde(oracle, x, grid, eta=eta, clip_x0=False, generator=seeded(1))).x
        off.append((ours - theirs).abs().max().item())
    # What is left of the noise is of the order of β^1.5.
    wanted = 2**1.5 if eta else 4
    for before, after in pairwise(off):
        assert before / after == pytest.approx(wanted, rel=0.06)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.5])
def test_every_amount_of_noise_leads_to_the_data(eta):
    """The mean and the variance of what is drawn, by the recursion of an affine step, against those of the data."""
    T = 2000
    exact, beta = GaussianDenoiser(schedule_64("linear", T), 0.3, 0.2), BETAS["linear"](T)
    places = torch.tensor([-1.0, 1.0], dtype=DOUBLE).view(2, 1, 1, 1)
    # The response to x_T, without noise; what each draw adds is damped by the steps that follow it.
    steps = list(reverse_sde(exact, places, T, eta=0.0, clip_x0=False))
    assert len(steps) == T
    mean, variance = 0.0, 1.0
    for t in range(T, 0, -1):
        b = -math.log1p(-beta[t - 1])
        m, v = exact.marginal(t)
        slope = 1 + b / 2 - (1 + eta**2) * b / (2 * v)
        mean = slope * mean + (1 + eta**2) * b * m / (2 * v)
        variance = slope**2 * variance + (eta**2 * b if t > 1 else 0)
    draws = last_of(
        reverse_sde(exact, randn(4000, 1, 1, 1).double(), T, eta=eta, clip_x0=False, generator=seeded(1))
    )
    assert (mean, variance) == (pytest.approx(0.3, abs=0.005), pytest.approx(0.2, rel=0.02))
    assert draws.mean().item() == pytest.approx(mean, abs=4 * (0.2 / 4000) ** 0.5)
    assert draws.var().item() == pytest.approx(variance, rel=4 * (2 / 4000) ** 0.5)


def test_without_noise_it_is_eulers_method_on_the_flow_in_the_time_of_beta():
    diffusion, x = exact_diffusion_of(None, "linear", 50), randn(3, 1, 4, 4, dtype=DOUBLE)
    bar, grid = diffusion.schedule.exact_alpha_bar.tolist(), timestep_grid(50, 10)
    y = x
    for state, (t, s) in zip(reverse_sde(diffusion, x, 10, eta=0.0), pairwise(grid), strict=True):
        prediction = diffusion.predict(y, full_timesteps(t, y), clip_x0=True)
        y = y - math.log(bar[s] / bar[t]) / 2 * (prediction.noise / math.sqrt(1 - bar[t]) - y)
        close(state.x, y, 1e-7)


# One network


@pytest.fixture(scope="module")
def shipped():
    """The trained digits, in double precision."""
    diffusion = load_pretrained("digits").double().eval()
    diffusion.schedule = schedule_64("cosine", diffusion.schedule.timesteps)
    return diffusion.requires_grad_(False)


class Asked(torch.nn.Module):
    """A network that was trained for another target: it says in its own words what `diffusion` believes."""

    channels = 1

    def __init__(self, diffusion, objective):
        super().__init__()
        self.diffusion, self.objective = diffusion, objective

    def forward(self, x_t, t, labels=None):
        believed = self.diffusion.predict(x_t, t, labels)
        return training_target(self.objective, believed.x0, believed.noise, believed.signal, believed.sigma)


def trained_for(target, shipped):
    """A model around a network with this target."""
    objective = "pred_noise" if target == "score" else target
    return exact_diffusion_of(Asked(shipped, objective), "cosine", 1000, image_size=8, objective=objective)


SNOW = randn(2, 1, 8, 8, seed=5, dtype=DOUBLE)
SAMPLERS = {
    "DDPM": lambda model: ancestral(model, SNOW, start=30, generator=seeded(2)),
    "DDIM": lambda model: ddim(model, SNOW, 8),
    "reverse SDE": lambda model: reverse_sde(model, SNOW, 8, generator=seeded(2)),
    "flow of the SDE": lambda model: reverse_sde(model, SNOW, 8, eta=0.0),
    "EDM": lambda model: probability_flow(model, SNOW, 8, path="edm", order=2, spacing="karras"),
    "flow matching": lambda model: probability_flow(model, SNOW, 8),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("target", ["pred_noise", "pred_x0", "pred_v", "pred_flow"])
def test_a_network_trained_on_any_target_serves_every_sampler(target, sampler, shipped):
    draw = SAMPLERS[sampler]
    close(last_of(draw(trained_for(target, shipped))), last_of(draw(shipped)), 1e-6)


def test_and_so_does_one_that_was_trained_on_the_score(shipped):
    for t in (1, 300, 700, 1000):
        believed = shipped.predict(SNOW, full_timesteps(t, SNOW))
        again = x0_from_score(SNOW, believed.score, believed.signal, believed.sigma)
        close(again, believed.x0, 1e-6)


@pytest.mark.parametrize("path", [*PATHS, "curved"])
def test_and_one_that_answers_with_the_velocity_of_a_path(path, shipped):
    """What it is asked about is z_τ, and not x_t; `Place.prediction` makes a model of the chain of it."""

    class OnPath:
        schedule = shipped.schedule

        def predict(self, x_t, t, labels=None, *, clip_x0=False):
            place = EVERY[path].at(self.schedule, t, x_t)
            z = place.scale * x_t
            velocity = place.velocity(shipped.predict(z / place.scale, t, labels))
            x0 = place.prediction(z, velocity).x0
            signal, sigma = self.schedule.signal_and_sigma(t, x_t)
            return Prediction.from_x0(x_t, x0.clamp(-1, 1) if clip_x0 else x0, signal, sigma)

    close(last_of(ddim(OnPath(), SNOW, 8)), last_of(ddim(shipped, SNOW, 8)), 1e-6)


@pytest.mark.parametrize("steps", [10, 50])
def test_digits_drawn_through_flow_matchings_coordinates_are_ddims_to_rounding(steps):
    diffusion, x = load_pretrained("digits"), SNOW.float()
    wanted = last_of(ddim(diffusion, x, steps))
    for path, tolerance in (("flow", 1e-5), ("edm", 1e-3)):
        assert (last_of(probability_flow(diffusion, x, steps, path=path)) - wanted).abs().max() < tolerance


# The loss


@pytest.mark.parametrize("name", ["flow", "cosine"])
def test_the_loss_of_flow_matching(name):
    """On the straight line z = (1 − τ) x_0 + τ ε, with the network behind a change of coordinates."""
    answer = randn(3, 1, 4, 4, seed=7)
    diffusion = diffusion_of(Constant(answer), beta_schedule=name, objective="pred_flow")
    x0, noise, t = randn(3, 1, 4, 4), randn(3, 1, 4, 4, seed=1), torch.tensor([5, 20, 45])
    place = PATHS["flow"].at(diffusion.schedule, t, x0)
    z = (1 - place.time) * x0 + place.time * noise
    x_t = diffusion.q_sample(x0, t, noise)
    close((z / place.scale).float(), x_t, 1e-5)
    close(diffusion.loss(x0, t, noise), (answer - (noise - x0)).square().mean(), 1e-5)
    believed = diffusion.predict(x_t, t)
    close((1 - place.time) * believed.x0 + place.time * believed.noise, z, 1e-5)
    close(place.velocity(believed).float(), answer, 1e-4)


def test_the_flow_schedule_is_even_in_the_time_of_flow_matching():
    diffusion = GaussianDiffusion(Constant(0.0), image_size=4, timesteps=40, beta_schedule="flow")
    t = torch.arange(40)
    place = PATHS["flow"].at(diffusion.schedule, t, torch.zeros(40, 1, 1, 1))
    close(place.time.flatten(), t.double() / 40, 1e-6)
    assert 0.999 < PATHS["flow"].at(diffusion.schedule, 40).time.item() < 1
