"""Chapter 5: the variational bound."""

import math

import torch
from torch.distributions import Normal, kl_divergence

from ddpm.book.exercises.answers import Ask, exercise
from ddpm.oracle import EmpiricalOracle
from ddpm.schedule import NoiseSchedule, cosine_betas


@exercise("elbo-floor", "floor_bits(std)")
def _(ask: Ask) -> None:
    for std in (0.003, 0.006, 0.02):
        inside = math.erf(1 / (255 * std * math.sqrt(2)))  # the mass within half a bin of the mean
        ask(std).equals((-math.log2(inside), -math.log2((1 + inside) / 2)), rtol=1e-4)


@exercise("elbo-variance", "refit(k)")
def _(ask: Ask) -> None:
    ratio = torch.logspace(-1, 2, 300_001)
    for k in (0.0, 0.05, 0.5, 4.0):
        # A posterior of variance 1 whose mean is off by √(2k), to either side, costs k.
        price = kl_divergence(Normal(0.0, 1.0), Normal(math.sqrt(2 * k), ratio.sqrt()))
        ask(k).equals((ratio[price.argmin()], price.min()), rtol=1e-4, atol=1e-6)


@exercise("elbo-memory", "remembered(x_t, alpha_bar, pictures)")
def _(ask: Ask) -> None:
    schedule, pictures = NoiseSchedule(cosine_betas(20), dtype=torch.float64), 2 * torch.rand(5, 1, 2, 2) - 1
    oracle = EmpiricalOracle(schedule, pictures, dtype=torch.float64)
    for t in (18, 12, 4):
        x_t = schedule.sqrt_alpha_bar[t] * pictures[:3] + schedule.sigma[t] * torch.randn(3, 1, 2, 2)
        expected = oracle.predict(x_t, torch.full((3,), t)).x0
        ask(x_t, schedule.alpha_bar[t], pictures).equals(expected)


@exercise("elbo-levels", "nearest(x0, levels)")
def _(ask: Ask) -> None:
    for levels in (torch.linspace(-1, 1, 17), torch.tensor([-1.0, -0.2, 0.9])):
        x0 = torch.rand(2, 1, 4, 4) * 2.4 - 1.2
        expected = [
            min(levels.tolist(), key=lambda level, x=x: abs(level - x)) for x in x0.flatten().tolist()
        ]
        ask(x0, levels).equals(torch.tensor(expected).view_as(x0))
