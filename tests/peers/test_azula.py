"""Our samplers against those of azula, step by step on the same grid.

Its Gaussian transitions are ours. Its η multiplies a variance, as ours does a standard deviation. Its Heun averages the
noises of both ends and its Adams-Bashforth methods integrate a polynomial exactly, where ours average x̂_0 and take it
in the middle: other methods, which agree only in the limit of many steps.
"""

import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ddpm import ddim, dpm_solver_pp, heun
from ddpm.grids import timestep_grid
from ddpm.support.randomness import randn
from tests.networks import GaussianDenoiser, schedule_64, seeded

sample = pytest.importorskip("azula.sample", reason="needs the extra `peers`")

GRIDS = [
    ("linear", 10, "even"),
    ("cosine", 97, "quadratic"),
    ("sigmoid", 20, "log-snr"),
    ("log-snr", 50, "even"),
]
# On the others' grids even in λ the first step, from below λ = −10, stays as long however many steps follow.
SPREAD = ["linear", "log-snr"]


@dataclass
class Mean:
    mean: Tensor


class Theirs:
    """An exact denoiser as azula asks it: by (x_t, t), for a schedule that gives signal and noise at t."""

    def __init__(self, denoiser):
        self.denoiser = denoiser
        self.alpha_bar = denoiser.schedule.exact_alpha_bar

    def schedule(self, t):
        return self.alpha_bar[t].sqrt(), (1 - self.alpha_bar[t]).sqrt()

    def __call__(self, x_t, t):
        return Mean(self.denoiser.predict(x_t, t.expand(len(x_t)), clip_x0=False).x0)


def exact(name):
    return GaussianDenoiser(schedule_64(name), mean=0.3, variance=0.2)


def start():
    return randn((4, 1, 2, 2), seeded(0), "cpu").double()


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("name", "steps", "spacing"), GRIDS)
def test_ddim_agrees(name, steps, spacing, eta, monkeypatch):
    """Every state but the last one, for whose empty noise theirs draws as well; with η = 0 that too."""
    denoiser, source, x = exact(name), seeded(3), start()
    theirs = sample.DDIMSampler(Theirs(denoiser), eta=eta**2, silent=True)
    monkeypatch.setattr(torch, "randn_like", lambda x: randn(tuple(x.shape), source, "cpu").double())
    grid = timestep_grid(denoiser.schedule, steps, spacing)
    states = ddim(denoiser, x, steps, spacing=spacing, eta=eta, clip_x0=False, generator=seeded(3))
    for (t, s), state in zip(itertools.pairwise(grid), states, strict=True):
        x = theirs.step(x, torch.tensor(t), torch.tensor(s))
        torch.testing.assert_close(state.x, x, rtol=0, atol=1e-5)


def test_ancestral_agrees_with_ddpm_and_eta_1(monkeypatch):
    denoiser, source, x = exact("linear"), seeded(3), start()
    theirs = sample.DDPMSampler(Theirs(denoiser), silent=True)
    monkeypatch.setattr(torch, "randn_like", lambda x: randn(tuple(x.shape), source, "cpu").double())
    grid = timestep_grid(denoiser.schedule, 100)
    states = ddim(denoiser, x, 100, eta=1.0, clip_x0=False, generator=seeded(3))
    for (t, s), state in zip(itertools.pairwise(grid), states, strict=True):
        x = theirs.step(x, torch.tensor(t), torch.tensor(s))
        torch.testing.assert_close(state.x, x, rtol=0, atol=1e-5)


def last(states):
    for state in states:
        x = state.x
    return x


@pytest.mark.parametrize("name", SPREAD)
def test_heun_is_another_method_with_the_same_limit(name):
    """Both take Euler's step to t = 0, where theirs would ask at σ = 0."""
    denoiser = exact(name)
    theirs = Theirs(denoiser)
    corrected, plain = sample.HeunSampler(theirs, silent=True), sample.EulerSampler(theirs, silent=True)

    def apart(steps):
        x = start()
        for t, s in itertools.pairwise(timestep_grid(denoiser.schedule, steps, "log-snr")):
            x = (corrected if s else plain).step(x, torch.tensor(t), torch.tensor(s))
        ours = last(heun(denoiser, start(), steps, spacing="log-snr", clip_x0=False))
        return (ours - x).abs().max().item()

    assert apart(20) > 1e-5
    assert apart(300) < apart(20) / 50


@pytest.mark.parametrize("name", SPREAD)
def test_dpm_solver_is_another_method_than_adams_bashforth_with_the_same_limit(name):
    """Theirs stops before t = 0, where its own logarithm of σ is infinite; so the states there are compared."""
    denoiser = exact(name)

    def apart(steps):
        grid = timestep_grid(denoiser.schedule, steps, "log-snr")

        class OnGrid(sample.xEABSampler):
            timesteps = torch.tensor(grid[:-1])

        theirs = OnGrid(Theirs(denoiser), order=2, silent=True)(start())
        states = list(dpm_solver_pp(denoiser, start(), steps, spacing="log-snr", clip_x0=False))
        assert states[-2].t == grid[-2]
        return (states[-2].x - theirs).abs().max().item()

    assert apart(20) > 1e-5
    assert apart(300) < apart(20) / 50
