"""`ddpm.samplers` where every distribution is known: Gaussian data, the exact denoiser, affine samplers."""

import math
from fractions import Fraction
from itertools import pairwise

import pytest
import torch

from ddpm import GaussianDiffusion, Prediction, State, ancestral, ddim, samplers, timestep_grid
from tests.exact import Constant, GaussianDenoiser, Pointwise, schedule_64

approx = pytest.approx
NAMES = ("linear", "cosine", "sigmoid")
DATA = ((0.3, 0.25), (-0.6, 1.5))


def last_of(chain):
    *_, state = chain
    return state.x


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# The distribution of a sampler's output, exactly


def output_moments(monkeypatch, sampler, draws):
    """Mean and variance of an affine sampler's output, from its response to each source of noise alone.

    One batch: image 0 gets no noise at all, image 1 only x_T = 1, image 2 + k only the k-th draw of the sampler = 1.
    The responses of independent standard normal sources add up in square.
    """
    made = 0

    def one_hot(x, generator):  # noqa: ARG001
        nonlocal made
        noise = torch.zeros_like(x)
        noise[2 + made] = 1
        made += 1
        return noise

    monkeypatch.setattr(samplers, "randn_like", one_hot)
    x_T = torch.zeros(2 + draws, 1, 1, 1, dtype=torch.float64)
    x_T[1] = 1
    out = last_of(sampler(x_T)).flatten()
    assert made == draws, "the sampler drew noise more or less often than it should"
    return out[0].item(), (out[1:] - out[0]).square().sum().item()


def propagate_ancestral(exact, variance):
    """The same moments by the recursion of Ho et al. 2020, eq. 7 and Algorithm 2, in Python's numbers."""
    T = exact.schedule.timesteps
    betas = [0.0, *(1 - exact.schedule.exact_alpha_bar[1:] / exact.schedule.exact_alpha_bar[:-1]).tolist()]
    mean, var = 0.0, 1.0
    for t in range(T, 0, -1):
        now, before = (exact.schedule.exact_alpha_bar[k].item() for k in (t, t - 1))
        small = (1 - before) / (1 - now) * betas[t]
        of_x0 = math.sqrt(before) * betas[t] / (1 - now)
        of_xt = math.sqrt(1 - betas[t]) * (1 - before) / (1 - now)
        slope = of_x0 * exact.gain(t) + of_xt
        mean = slope * mean + of_x0 * (exact.mean - exact.gain(t) * exact.marginal(t)[0])
        var = slope**2 * var + (0.0 if t == 1 else small if variance == "fixed_small" else betas[t])
    return mean, var


def propagate_ddim(exact, grid, eta):
    """The same for Song et al. 2021, eq. 12 and 16."""
    mean, var = 0.0, 1.0
    for t, s in pairwise(grid):
        now, then = (exact.schedule.exact_alpha_bar[k].item() for k in (t, s))
        sigma = eta * math.sqrt((1 - then) / (1 - now)) * math.sqrt(1 - now / then)
        direction = math.sqrt(max(1 - then - sigma**2, 0)) / math.sqrt(1 - now)
        of_x0 = math.sqrt(then) - direction * math.sqrt(now)
        slope = of_x0 * exact.gain(t) + direction
        mean = slope * mean + of_x0 * (exact.mean - exact.gain(t) * exact.marginal(t)[0])
        var = slope**2 * var + sigma**2
    return mean, var


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("mean", "data_variance"), DATA)
def test_ancestral_sampling_has_the_moments_of_its_recursion(
    monkeypatch, name, mean, data_variance, variance
):
    exact = GaussianDenoiser(schedule_64(name, 60), mean, data_variance)

    def sampler(x):
        return ancestral(exact, x, variance=variance, clip_x0=False)

    got = output_moments(monkeypatch, sampler, draws=59)
    assert got == approx(propagate_ancestral(exact, variance), rel=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 7, 60, [60, 59, 20, 3, 0]])
def test_ddim_has_the_moments_of_its_recursion(monkeypatch, name, steps, eta):
    exact = GaussianDenoiser(schedule_64(name, 60), 0.3, 0.25)
    grid = [60 * (steps - i) // steps for i in range(steps + 1)] if isinstance(steps, int) else steps
    draws = len(grid) - 2 if eta > 0 else 0

    def sampler(x):
        return ddim(exact, x, steps, eta=eta, clip_x0=False)

    got = output_moments(monkeypatch, sampler, draws)
    assert got == approx(propagate_ddim(exact, grid, eta), rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("mean", "data_variance"), DATA)
def test_ddim_with_all_the_noise_is_ancestral_sampling(monkeypatch, name, mean, data_variance):
    """η = 1 on the full grid: the same moments exactly, and with the same noise the same path."""
    exact = GaussianDenoiser(schedule_64(name, 60), mean, data_variance)
    by_ddim = output_moments(monkeypatch, lambda x: ddim(exact, x, 60, eta=1.0, clip_x0=False), draws=59)
    assert by_ddim == approx(propagate_ancestral(exact, "fixed_small"), rel=1e-9)
    monkeypatch.undo()

    x_T = randn(4, 1, 3, 3)
    pairs = zip(
        ancestral(exact, x_T, clip_x0=False, generator=seeded(1)),
        ddim(exact, x_T, 60, eta=1.0, clip_x0=False, generator=seeded(1)),
        strict=True,
    )
    for ours, theirs in pairs:
        assert ours.t == theirs.t
        torch.testing.assert_close(ours.x, theirs.x, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(ours.x0, theirs.x0, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
def test_the_same_holds_for_a_network_in_float32(objective, clip):
    """With clipping too: both use the clipped x_0, and DDIM the noise that belongs to it."""
    diffusion = GaussianDiffusion(
        Pointwise(), image_size=4, timesteps=50, objective=objective, beta_schedule="cosine"
    )
    x_T = randn(3, 1, 4, 4, dtype=torch.float32)
    one = last_of(ancestral(diffusion, x_T, clip_x0=clip, generator=seeded(1)))
    other = last_of(ddim(diffusion, x_T, 50, eta=1.0, clip_x0=clip, generator=seeded(1)))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_exact_denoiser_brings_the_data_back(variance):
    """20,000 ancestral samples of N(0.3, 0.25) at T = 1000, against the data within 5 standard errors.

    What T = 1000 steps lose of the variance (0.002, by the recursion above) is well inside the error bar of 0.0125.
    """
    count, mean, data_variance = 20_000, 0.3, 0.25
    exact = GaussianDenoiser(schedule_64("cosine", 1000), mean, data_variance)
    assert propagate_ancestral(exact, variance)[1] == approx(data_variance, abs=2.5e-3)
    out = last_of(
        ancestral(exact, randn(count, 1, 1, 1), variance=variance, clip_x0=False, generator=seeded(2))
    )
    assert out.mean().item() == approx(mean, abs=5 * math.sqrt(data_variance / count))
    assert out.var().item() == approx(data_variance, abs=5 * data_variance * math.sqrt(2 / count))


def test_each_variance_is_exact_for_its_own_data():
    """β̃_t for data that is one point, β_t for data that is white noise itself (Ho et al. 2020, section 3.2)."""
    schedule = schedule_64("linear", 60)
    x_T = randn(3, 1, 2, 2)
    point = GaussianDenoiser(schedule, 0.4, 0.0)
    torch.testing.assert_close(
        last_of(ancestral(point, x_T, clip_x0=False)), torch.full_like(x_T, 0.4), rtol=0, atol=1e-12
    )
    white = GaussianDenoiser(schedule, 0.0, 1.0)
    count = 200_000
    for state in ancestral(
        white, randn(count, 1, 1, 1), variance="fixed_large", clip_x0=False, generator=seeded(3)
    ):
        if state.t in (55, 30, 1):
            assert state.x.var().item() == approx(1, abs=5 * math.sqrt(2 / count))


@pytest.mark.parametrize("name", NAMES)
def test_deterministic_ddim_converges_to_the_probability_flow(name):
    """The flow carries N(√ᾱ_T m, ᾱ_T s² + 1 − ᾱ_T) to N(m, s²) by the increasing straight line between them.

    DDIM is Euler's method for it: halving the step halves the error.
    """
    mean, variance = 0.3, 0.25
    x_T = randn(50, 1, 1, 1)
    errors = []
    for T in (500, 1000, 2000):
        exact = GaussianDenoiser(schedule_64(name, T), mean, variance)
        start_mean, start_variance = exact.marginal(T)
        flow = mean + math.sqrt(variance / start_variance) * (x_T - start_mean)
        errors.append((last_of(ddim(exact, x_T, T, clip_x0=False)) - flow).abs().max().item())
    assert errors[2] < 0.01
    assert 1.7 < errors[0] / errors[1] < 2.3
    assert 1.7 < errors[1] / errors[2] < 2.3


# What a sampler does on its way


def test_every_state_is_yielded_on_the_way_down():
    exact = GaussianDenoiser(schedule_64("cosine", 30), 0.0, 0.5)
    x_T = randn(2, 1, 4, 4)
    for chain, levels in (
        (ancestral(exact, x_T), list(range(29, -1, -1))),
        (ddim(exact, x_T, 7), [30 * (7 - i) // 7 for i in range(1, 8)]),
        (ddim(exact, x_T, (30, 12, 1, 0)), [12, 1, 0]),
        (ddim(exact, x_T, torch.tensor([30, 5, 0])), [5, 0]),
    ):
        states = list(chain)
        assert all(isinstance(state, State) for state in states)
        assert [state.t for state in states] == levels
        assert all(state.x.shape == state.x0.shape == x_T.shape for state in states)
        torch.testing.assert_close(states[-1].x, states[-1].x0, rtol=1e-9, atol=1e-9)


def test_the_network_is_asked_about_the_level_it_is_given():
    diffusion = GaussianDiffusion(Pointwise(), image_size=4, timesteps=30)
    x_T = randn(2, 1, 4, 4, dtype=torch.float32)
    list(ancestral(diffusion, x_T))
    assert diffusion.network.calls == list(range(30, 0, -1))
    diffusion.network.calls.clear()
    list(ddim(diffusion, x_T, 4))
    assert diffusion.network.calls == [30, 22, 15, 7]


@pytest.mark.parametrize("sample", [ancestral, lambda d, x, **kw: ddim(d, x, 10, eta=0.5, **kw)])
def test_clipping_comes_first_unless_turned_off(sample):
    """A network that shouts: with clipping the predicted images stay in [-1, 1], and so does the last state."""
    diffusion = GaussianDiffusion(Constant(3.0), image_size=4, timesteps=30, objective="pred_x0")
    x_T = randn(2, 1, 4, 4, dtype=torch.float32)
    clipped = list(sample(diffusion, x_T, generator=seeded(0)))
    assert all((state.x0 == 1).all() for state in clipped)
    torch.testing.assert_close(clipped[-1].x, torch.ones_like(x_T))
    free = list(sample(diffusion, x_T, clip_x0=False, generator=seeded(0)))
    assert all((state.x0 == 3).all() for state in free)


def test_ddim_follows_the_noise_that_belongs_to_the_clipped_image():
    """One step by hand: x_s = √ᾱ_s x̂_0 + √(1−ᾱ_s) ε̂ with ε̂ = (x_t − √ᾱ_t x̂_0)/σ_t and x̂_0 = 1 after clipping."""
    diffusion = GaussianDiffusion(Constant(3.0), image_size=4, timesteps=30, objective="pred_x0")
    x_T = randn(2, 1, 4, 4, dtype=torch.float32)
    now, then = diffusion.schedule.exact_alpha_bar[[30, 10]].tolist()
    noise = (x_T - math.sqrt(now)) / math.sqrt(1 - now)
    first = next(ddim(diffusion, x_T, [30, 10, 0]))
    torch.testing.assert_close(first.x, math.sqrt(then) + math.sqrt(1 - then) * noise)


def test_ancestral_takes_the_variance_it_is_told():
    """With x̂_0 = 0 the first step is c·x_T plus noise of the chosen variance."""
    count = 200_000
    schedule = schedule_64("linear", 25)
    point = GaussianDenoiser(schedule, 0.0, 0.0)
    x_T = torch.zeros(count, 1, 1, 1, dtype=torch.float64)
    for variance, table in (("fixed_small", schedule.posterior_variance), ("fixed_large", schedule.beta)):
        x = next(ancestral(point, x_T, variance=variance, generator=seeded(0))).x
        assert x.var().item() == approx(table[25].item(), rel=5 * math.sqrt(2 / count))


@pytest.mark.parametrize("sample", [ancestral, lambda d, x, **kw: ddim(d, x, 10, **kw)])
def test_samplers_pass_labels_on(sample):
    diffusion = GaussianDiffusion(Pointwise(), image_size=4, timesteps=30)
    x_T = randn(1, 1, 4, 4, dtype=torch.float32).expand(2, 1, 4, 4)
    labelled = last_of(sample(diffusion, x_T, labels=torch.tensor([0, 1]), generator=[seeded(0), seeded(0)]))
    free = last_of(sample(diffusion, x_T, generator=[seeded(0), seeded(0)]))
    assert torch.equal(labelled[0], free[0])
    assert not torch.equal(labelled[1], free[1])


@pytest.mark.parametrize("sample", [ancestral, lambda d, x: ddim(d, x, 10)])
def test_no_gradients_inside_and_none_lost_outside(sample):
    """The generator pauses between states: whoever looks at them must keep the gradients they had."""

    class Watching(GaussianDenoiser):
        def predict(self, *arguments, **options) -> Prediction:
            assert not torch.is_grad_enabled()
            return super().predict(*arguments, **options)

    watching = Watching(schedule_64("cosine", 30), 0.0, 1.0)
    for state in sample(watching, randn(1, 1, 2, 2).requires_grad_()):
        assert torch.is_grad_enabled()
        assert not state.x.requires_grad


def test_float32_states_stay_float32():
    diffusion = GaussianDiffusion(Pointwise(), image_size=4, timesteps=30)
    x_T = randn(2, 1, 4, 4, dtype=torch.float32)
    assert last_of(ancestral(diffusion, x_T)).dtype == torch.float32
    assert last_of(ddim(diffusion, x_T, 5, eta=1.0)).dtype == torch.float32


# Starting in the middle


@pytest.mark.parametrize("start", [1, 7, 29, 30])
def test_a_chain_that_starts_in_the_middle_is_the_tail_of_the_whole(start):
    """From the state at t = `start` of the whole chain, with the source of noise as it stood there: the same states."""
    exact = GaussianDenoiser(schedule_64("cosine", 30), 0.3, 0.25)
    x, noise = randn(3, 1, 4, 4), seeded(1)
    chain = ancestral(exact, x, generator=noise)
    for _ in range(30 - start):
        x = next(chain).x
    again = torch.Generator()
    again.set_state(noise.get_state())
    tail = list(ancestral(exact, x, generator=again, start=start))
    assert [state.t for state in tail] == list(range(start - 1, -1, -1))
    for ours, whole in zip(tail, chain, strict=True):
        assert torch.equal(ours.x, whole.x)
        assert torch.equal(ours.x0, whole.x0)


@pytest.mark.parametrize("start", [0, 31, -1, True, 2.5, "5"])
def test_ancestral_refuses_levels_that_do_not_exist(start):
    exact = GaussianDenoiser(schedule_64("cosine", 30), 0.0, 1.0)
    with pytest.raises(ValueError, match=r"start must be a whole number in 1 … 30 \(T\), but got"):
        next(ancestral(exact, randn(1, 1, 2, 2), start=start))


# Self-conditioning


class Remembering(GaussianDenoiser):
    """The exact denoiser, which writes down what it is told and moves its answer by half of it."""

    self_condition = True

    def predict(self, x_t, t, labels=None, *, clip_x0=False, x_self_cond) -> Prediction:
        belief = super().predict(x_t, t, labels)
        x0 = belief.x0 if x_self_cond is None else belief.x0 + 0.5 * x_self_cond
        x0 = x0.clamp(-1, 1) if clip_x0 else x0
        told.append((int(t[0]), x_self_cond))
        alpha_bar = self.schedule.exact_alpha_bar[t[0]]
        noise = (x_t - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()
        return Prediction(noise=noise, x0=x0, v=belief.v, score=belief.score)


told: list = []
CHAINS = {
    "ancestral": (ancestral, list(range(30, 0, -1))),
    "ddim": (lambda d, x, **kw: ddim(d, x, 4, eta=0.5, **kw), [30, 22, 15, 7]),
}


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("name", list(CHAINS))
def test_each_step_is_told_what_the_step_before_predicted(name, clip):
    """None first, then the x_0 of the state before; and a second chain knows nothing of the first."""
    sample, asked = CHAINS[name]
    model = Remembering(schedule_64("cosine", 30), 0.3, 0.25)
    for _ in range(2):
        told.clear()
        states = list(sample(model, 3 * randn(2, 1, 2, 2), clip_x0=clip, generator=seeded(0)))
        assert [t for t, _ in told] == asked
        assert told[0][1] is None
        for state, (_, hint) in zip(states, told[1:], strict=False):
            assert torch.equal(state.x0, hint)
    assert len(told) == len(states)


def test_a_model_that_says_it_does_not_remember_is_not_told():
    class Forgetful(GaussianDenoiser):
        self_condition = False

    x = randn(2, 1, 2, 2)
    for sample, _ in CHAINS.values():
        plain, forgetful = (
            last_of(sample(kind(schedule_64("cosine", 30), 0.3, 0.25), x, generator=seeded(0)))
            for kind in (GaussianDenoiser, Forgetful)
        )
        assert torch.equal(plain, forgetful)


@pytest.mark.parametrize("name", list(CHAINS))
def test_with_self_conditioning_an_image_still_depends_on_its_own_seed_alone(name):
    sample, _ = CHAINS[name]
    model = Remembering(schedule_64("cosine", 30), 0.3, 0.25)
    x = randn(3, 1, 2, 2)
    together = last_of(sample(model, x, generator=[seeded(s) for s in (5, 6, 7)]))
    for i, seed in enumerate((5, 6, 7)):
        assert torch.equal(last_of(sample(model, x[i : i + 1], generator=[seeded(seed)]))[0], together[i])


# Grids


def test_even_grids_are_the_exact_floor_for_every_number_of_steps():
    """⌊T (S − i)/S⌋ by rational arithmetic, for all S of 1 … T: from T, strictly down, to 0."""
    for T in (1, 2, 7, 100, 1000):
        for steps in range(1, T + 1):
            grid = timestep_grid(T, steps)
            assert len(grid) == steps + 1
            assert grid[0] == T
            assert grid[-1] == 0
            assert all(t > s for t, s in pairwise(grid))
            if T < 1000 or steps % 13 == 0 or steps in (26, 52, 60):
                assert grid == [math.floor(Fraction(T * (steps - i), steps)) for i in range(steps + 1)]
    assert timestep_grid(1000, 1000) == list(range(1000, -1, -1))


@pytest.mark.parametrize("steps", [0, -1, 101, True, 2.5, 10.0, "5", None])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(
        ValueError, match=r"sampling_timesteps must be a whole number in 1 … 100 \(T\), but got"
    ):
        timestep_grid(100, steps)


@pytest.mark.parametrize(
    "grid",
    [
        [],
        [30],
        [0],
        [30, 10],
        [29, 10, 0],
        [31, 10, 0],
        [30, 10, 10, 0],
        [30, 10, 20, 0],
        [0, 10, 30],
        [30, 10, 0, -1],
        [30, -5, 0],
    ],
)
def test_grids_that_do_not_fall_all_the_way_are_refused(grid):
    exact = GaussianDenoiser(schedule_64("cosine", 30), 0.0, 1.0)
    with pytest.raises(ValueError, match=r"the levels must fall strictly from 30 \(T\) to 0, but got"):
        next(ddim(exact, randn(1, 1, 2, 2), grid))


@pytest.mark.parametrize(
    ("steps", "error", "message"),
    [
        (0, ValueError, "but got 0"),
        (31, ValueError, "but got 31"),
        (True, ValueError, "but got True"),
        (2.5, ValueError, "but got 2.5"),
        ([30, 10.5, 0], TypeError, "'float' object cannot be interpreted as an integer"),
    ],
)
def test_ddim_refuses_impossible_steps(steps, error, message):
    exact = GaussianDenoiser(schedule_64("cosine", 30), 0.0, 1.0)
    with pytest.raises(error, match=message):
        next(ddim(exact, randn(1, 1, 2, 2), steps))


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan, math.inf])
def test_ddim_refuses_impossible_eta(eta):
    exact = GaussianDenoiser(schedule_64("cosine", 30), 0.0, 1.0)
    with pytest.raises(
        ValueError, match=r"eta must lie in \[0, 1\]: 0 is deterministic, 1 is ancestral; but got"
    ):
        next(ddim(exact, randn(1, 1, 2, 2), 5, eta=eta))


def test_ancestral_refuses_unknown_variances():
    exact = GaussianDenoiser(schedule_64("cosine", 30), 0.0, 1.0)
    with pytest.raises(
        ValueError, match=r"unknown variance 'learned'; choose one of 'fixed_small', 'fixed_large'"
    ):
        next(ancestral(exact, randn(1, 1, 2, 2), variance="learned"))


# Randomness


def test_noise_from_one_generator_per_image():
    shape = (3, 1, 4, 4)
    together = samplers.randn(shape, [seeded(s) for s in (5, 6, 7)], "cpu")
    for i, seed in enumerate((5, 6, 7)):
        assert torch.equal(samplers.randn((1, 1, 4, 4), [seeded(seed)], "cpu")[0], together[i])
    assert torch.equal(samplers.randn(shape, seeded(5), "cpu"), torch.randn(shape, generator=seeded(5)))
    torch.manual_seed(5)
    from_global = samplers.randn(shape, None, "cpu")
    assert torch.equal(from_global, torch.randn(shape, generator=seeded(5)))
    x = torch.zeros(shape, dtype=torch.float64)
    assert samplers.randn_like(x, seeded(5)).dtype == torch.float64


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_a_wrong_number_of_generators_is_refused(count):
    """One generator in a list would otherwise give the same noise to every image of the batch."""
    with pytest.raises(
        ValueError, match=rf"3 images need one generator each \(or a single one\), but got {count}"
    ):
        samplers.randn((3, 1, 4, 4), [seeded(0)] * count, "cpu")


def test_image_generators_hand_on_what_they_are_given():
    one = seeded(0)
    assert samplers.image_generators(2, one) is one
    assert samplers.image_generators(2) is None
    many = samplers.image_generators(2, seeds=[3, 4])
    assert [generator.initial_seed() for generator in many] == [3, 4]
