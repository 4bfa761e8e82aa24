"""`ddpm` against diffusers, whose schedulers were written by others from the same papers.

Their t is ours minus 1: `alphas_cumprod[0]` is ᾱ_1, and "no noise left" is t = −1 with an ᾱ set by hand. They call the
objectives epsilon, sample and v_prediction.

Their tables are computed in float32. 1 − ᾱ is then wrong in the fourth digit, and 1000 steps with noise drift by more
than 1e-5; and without clipping 1/√ᾱ_T multiplies any rounding by 157 (linear) or 2 × 10⁴ (cosine). To compare formulas
and not roundings, `peer` puts float64 tables in the place of theirs and the images are float64; nothing else of theirs
is touched.
"""

import itertools

import pytest
import torch

from ddpm import ancestral, ddim, dpm_solver_pp, encode, heun, timestep_grid
from ddpm.support import randomness
from tests.networks import BETAS, GaussianDenoiser, exact_diffusion_of, schedule_64, seeded
from tests.networks import randn as randn_32
from tests.peers.network import Mixing

REASON = "diffusers is not installed; it comes with the extra `peers`: pip install -e '.[peers]'"
pytest.importorskip("diffusers", reason=REASON)

from diffusers import (  # noqa: E402
    DDIMInverseScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
)
from diffusers.schedulers import scheduling_ddpm  # noqa: E402

T = 1000
NAMES = ("linear", "cosine", "sigmoid", "log-snr")
THEIR_NAME = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
THEIR_OBJECTIVE = {"pred_noise": "epsilon", "pred_x0": "sample", "pred_v": "v_prediction"}
OBJECTIVES = tuple(THEIR_OBJECTIVE)


def close(got, expected):
    """The 1e-5 of every comparison in this file."""
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def randn(*shape, seed=0):
    return randn_32(*shape, seed=seed, dtype=torch.float64)


def diffusion_64(name, objective="pred_noise"):
    return exact_diffusion_of(Mixing(), name, T, image_size=3, objective=objective)


def peer(kind, name, objective="pred_noise", **options):
    """Their scheduler with the tables in float64; its β are ours, and its ᾱ a plain product."""
    scheduler = kind(num_train_timesteps=T, prediction_type=THEIR_OBJECTIVE[objective], **options)
    scheduler.betas = BETAS[name](T)
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, dim=0)
    return scheduler


def noise_stream(seed):
    """The noise that our samplers draw from a generator of this seed, tensor after tensor."""
    generator = seeded(seed)
    return lambda shape, **_: randomness.randn(tuple(shape), generator, "cpu").double()


@pytest.fixture
def hand_noise(monkeypatch):
    """A function that makes their ancestral step take its noise from where it is told."""
    return lambda source: monkeypatch.setattr(scheduling_ddpm, "randn_tensor", source)


@pytest.mark.parametrize("name", THEIR_NAME)
def test_schedules_agree(name):
    schedule = schedule_64(name, T)
    theirs = DDPMScheduler(num_train_timesteps=T, beta_schedule=THEIR_NAME[name])
    close(schedule.beta[1:], theirs.betas.double())
    close(schedule.alpha[1:], theirs.alphas.double())
    close(schedule.alpha_bar[1:], theirs.alphas_cumprod.double())


@pytest.mark.parametrize("name", NAMES)
def test_noising_and_velocity_agree(name):
    x0, noise, t = randn(T, 2, 3, 3).clamp(-1, 1), randn(T, 2, 3, 3, seed=1), torch.arange(1, T + 1)
    diffusion, theirs = diffusion_64(name), peer(DDPMScheduler, name)
    close(diffusion.q_sample(x0, t, noise), theirs.add_noise(x0, noise, t - 1))
    close(diffusion.predict_v(x0, t, noise), theirs.get_velocity(x0, noise, t - 1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("clip", [False, True])
def test_one_ancestral_step_agrees(name, objective, clip, hand_noise):
    diffusion = diffusion_64(name, objective)
    theirs = peer(DDPMScheduler, name, objective, clip_sample=clip)
    for t in (1, 2, 3, 10, 100, 500, 999, 1000):
        x_t, level = randn(4, 2, 3, 3, seed=t), torch.full((4,), t)
        ours = diffusion.p_sample(x_t, level, clip_denoised=clip, generator=seeded(t))
        hand_noise(noise_stream(t))
        close(ours, theirs.step(diffusion.network(x_t, level), t - 1, x_t).prev_sample)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ancestral_chain_agrees(variance, hand_noise):
    """All 1000 steps, every state."""
    diffusion = diffusion_64("linear")
    theirs = peer(DDPMScheduler, "linear", variance_type=variance)
    hand_noise(noise_stream(7))
    x = randn(2, 2, 3, 3)
    for state in ancestral(diffusion, x, variance=variance, generator=seeded(7)):
        t = state.t + 1
        x = theirs.step(diffusion.network(x, torch.full((2,), t)), t - 1, x).prev_sample
        close(state.x, x)
    assert 0.1 < x.abs().mean() <= 1


def step_to(theirs, output, t, s, x, **options):
    """Their DDIM step from our level t to our level s.

    They take the next level to be t − T // num_inference_steps, whatever the grid, also where the next level of their
    own list is another, so that the way to give them a grid is a number of steps for every jump.
    """
    theirs.num_inference_steps = T // (t - s)
    assert T // theirs.num_inference_steps == t - s
    return theirs.step(output, t - 1, x, **options).prev_sample


@pytest.mark.parametrize(
    ("name", "steps", "eta", "objective", "clip"),
    [("linear", steps, eta, "pred_noise", True) for steps in (10, 50, 97, T) for eta in (0, 0.5, 1)]
    + [(name, 97, 0.5, objective, True) for name in NAMES for objective in OBJECTIVES]
    + [("linear", 50, 0.5, objective, False) for objective in OBJECTIVES],
)
def test_ddim_trajectories_agree(name, steps, eta, objective, clip):
    """Every state on our grid, from the same x_T with the same noise; told to, theirs derives the noise again."""
    diffusion = diffusion_64(name, objective)
    theirs = peer(DDIMScheduler, name, objective, clip_sample=clip)
    draw, x, grid = noise_stream(5), randn(2, 2, 3, 3), timestep_grid(T, steps)
    states = list(ddim(diffusion, x, steps, eta=eta, clip_x0=clip, generator=seeded(5)))
    assert [state.t for state in states] == grid[1:]
    for (t, s), state in zip(itertools.pairwise(grid), states, strict=True):
        output = diffusion.network(x, torch.full((2,), t))
        noise = draw(x.shape) if eta > 0 and s > 0 else torch.zeros_like(x)
        x = step_to(theirs, output, t, s, x, eta=eta, variance_noise=noise, use_clipped_model_output=clip)
        close(state.x, x)


@pytest.mark.parametrize("spacing", ["even", "log-snr", "karras", "quadratic"])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 20, 97])
@pytest.mark.parametrize("name", NAMES)
def test_dpm_solver_trajectories_agree(name, steps, spacing):
    """Every state of DPM-Solver++(2M) on our grid, from the same x_T.

    It does not clip, so it is handed clipped x_0. Its own grids are others: they leave out what is below λ = −10.2, and
    thus T itself for the cosine schedule.
    """
    diffusion = diffusion_64(name, "pred_x0")
    options = {"algorithm_type": "dpmsolver++", "solver_order": 2, "final_sigmas_type": "zero"}
    theirs = peer(DPMSolverMultistepScheduler, name, "pred_x0", lower_order_final=True, **options)
    grid, x = timestep_grid(diffusion.schedule, steps, spacing), randn(2, 2, 3, 3)
    theirs.set_timesteps(timesteps=[t - 1 for t in grid[:-1]])
    for t, state in zip(grid, dpm_solver_pp(diffusion, x, steps, spacing=spacing), strict=False):
        x0 = diffusion.network(x, torch.full((2,), t)).clamp(-1, 1)
        x = theirs.step(x0, t - 1, x).prev_sample
        close(state.x, x)
    assert state.t == 0


@pytest.mark.parametrize("steps", [10, 15, 20, 25])
def test_trailing_is_our_even_grid(steps):
    """But for rounding."""
    theirs = DPMSolverMultistepScheduler(num_train_timesteps=1000, timestep_spacing="trailing")
    theirs.set_timesteps(steps)
    for t, ours in zip(theirs.timesteps.tolist(), timestep_grid(1000, steps)[:-1], strict=True):
        assert abs(t + 1 - ours) <= 1


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("name", NAMES)
def test_ddim_inversion_agrees(name, steps):
    """Every state from the same picture, on our grid, from the same answers of the network.

    The step is the same, the question is not: their pipelines ask about x_t as if it had reached the next timestep
    already, on a grid that ends below T; ours ask about x_t at t, and about the picture at t = 1.
    """
    diffusion, theirs = diffusion_64(name), peer(DDIMInverseScheduler, name, clip_sample=False)
    theirs.num_inference_steps, x = steps, randn(2, 2, 3, 3).clamp(-1, 1)
    states = encode(diffusion, x, steps, clip_x0=False)
    for (t, s), state in zip(itertools.pairwise(timestep_grid(T, steps)[::-1]), states, strict=True):
        x = theirs.step(diffusion.network(x, torch.full((2,), max(t, 1))), s - 1, x).prev_sample
        close(state.x, x)
    assert state.t == T


def their_heun(exact, x_T, grid, name="linear"):
    """HeunDiscreteScheduler from x_T; it counts in x/√ᾱ."""
    theirs = peer(HeunDiscreteScheduler, name)
    theirs.set_timesteps(timesteps=[t - 1 for t in grid[:-1]])
    x = x_T / exact.schedule.exact_alpha_bar[-1].sqrt()
    for t in theirs.timesteps:
        scaled = theirs.scale_model_input(x, t)
        x = theirs.step(exact.predict(scaled, torch.full((len(x),), int(t) + 1)).noise, t, x).prev_sample
    return x


def test_heun_is_another_method_with_the_same_limit():
    """Theirs averages the noises of both ends, ours the clean images: they differ, by less as both come to the limit.

    Both are of the second order: at half the steps they differ by four times as much. Where √ᾱ_T is next to 0, as in
    the cosine schedule, theirs leaves the range of pictures, and ours does not.
    """
    exact, x_T = GaussianDenoiser(schedule_64("linear", T), 0.3, 0.25), randn(50, 1, 1, 1)
    differences = []
    for steps in (10, 20, 40):
        grid = timestep_grid(exact.schedule, steps, "log-snr")
        *_, state = heun(exact, x_T, grid, clip_x0=False)
        differences.append((state.x - their_heun(exact, x_T, grid)).abs().max().item())
    assert all(3 < more / less < 6 for more, less in itertools.pairwise(differences)), differences
    assert differences[-1] > 1e-3
    far = GaussianDenoiser(schedule_64("cosine", T), 0.3, 0.25)
    *_, state = heun(far, x_T, 10, clip_x0=False)
    assert state.x.abs().max() < 3
    assert their_heun(far, x_T, timestep_grid(T, 10), "cosine").abs().max() > 10
