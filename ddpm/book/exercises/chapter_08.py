"""Chapter 8: sampling."""

from itertools import pairwise

import torch
from torch import Tensor

from ddpm.book.exercises.answers import Ask, exercise
from ddpm.gaussians import condition
from ddpm.mixture_oracle import GaussianMixtureOracle
from ddpm.schedule import NoiseSchedule, cosine_betas, linear_betas, log_snr_betas


@exercise("sampling-one-call", "one_call(model, x_T)")
def _(ask: Ask) -> None:
    for betas in (cosine_betas(1000), linear_betas(40), torch.tensor([0.2, 0.1])):
        schedule = NoiseSchedule(betas, dtype=torch.float64)
        model = GaussianMixtureOracle(schedule, [[0.3, -0.2], [0.4, 0.1]], [0.02, 0.01])
        x_T = torch.randn(4, 1, 1, 2)
        ask(model, x_T).equals(model.predict(x_T, torch.full((4,), schedule.timesteps)).x0, atol=1e-5)


@exercise("sampling-all-fresh", "afresh_std(V, alpha_bar)")
def _(ask: Ask) -> None:
    for V, left in ((0.25, [1e-4, 0.3, 0.9, 1.0]), (2.0, [0.1, 1.0]), (1.0, [1e-4, 0.5, 1.0])):
        variance = torch.tensor(1.0)
        for now, then in pairwise(left):
            covariance = torch.tensor([[V, now**0.5 * V], [now**0.5 * V, now * V + 1 - now]])
            guess, _ = condition(
                torch.zeros(2), covariance, torch.tensor([False, True]), variance.sqrt()[None]
            )
            variance = then * guess[0] ** 2 + 1 - then
        ask(V, left).equals(variance.sqrt())


@exercise("sampling-karras", "heun_with_noises(model, x, grid)")
def _(ask: Ask) -> None:
    schedule = NoiseSchedule(log_snr_betas(100), dtype=torch.float64)
    m, V, x = torch.tensor([0.3, -0.2]), torch.tensor([0.25, 0.09]), torch.randn(3, 1, 1, 2)
    model, kept = GaussianMixtureOracle(schedule, m[None], V[None]), schedule.alpha_bar.sqrt()
    u = (1 / schedule.alpha_bar - 1).sqrt()
    for grid in ([5, 0], [100, 60], [100, 70, 20, 0]):
        z = x / kept[grid[0]]
        for t, s in pairwise(grid):
            noise = u[t] * (z - m) / (V + u[t] ** 2)  # exact for this Gaussian
            ahead = z + (u[s] - u[t]) * noise
            after = u[s] * (ahead - m) / (V + u[s] ** 2) if s > 0 else noise
            z = z + (u[s] - u[t]) * (noise + after) / 2
        ask(model, x, grid).equals(kept[grid[-1]] * z, rtol=1e-4, atol=1e-5)


@exercise("sampling-there-and-back", "missed_by(up, down, model, x, grid)")
def _(ask: Ask) -> None:
    def up(model: float, x: Tensor, grid: list[int]) -> Tensor:  # depends on the order of the grid
        for t, s in pairwise(grid):
            x = x + model * (s - t) * t * x
        return x

    def down(model: float, x: Tensor, grid: list[int]) -> Tensor:
        return 0.9 * up(model, x, grid) + 0.1

    for grid in ([20, 40, 90], [1, 2, 7, 9]):
        x = torch.randn(6)
        expected = (down(0.001, up(0.001, x, grid), list(reversed(grid))) - x).square().mean().sqrt()
        ask(up, down, 0.001, x, grid).equals(expected)
