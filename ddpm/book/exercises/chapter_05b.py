"""Chapter 5b: noise that stops early."""

import math

import torch
from torch.distributions import Normal, kl_divergence

from ddpm.book.exercises.answers import Ask, exercise
from ddpm.schedule import NoiseSchedule, cosine_betas


@exercise("finer-steps", "finer_beta(beta, k)")
def _(ask: Ask) -> None:
    for beta, k in ((0.0151, 1), (0.0151, 8), (0.3, 2)):
        reply = ask(beta, k)
        left = (1 - reply.numbers()) ** k
        reply.must(
            torch.isclose(left, torch.tensor(1 - beta)),
            f"leaves {left:.6g} of the power when its k steps are done, but the one step leaves {1 - beta:.6g}",
        )


@exercise("better-start", "matched_start(m, s2, alpha_bar)")
def _(ask: Ask) -> None:
    grid = torch.linspace(-9, 9, 9001)
    for m, s2, alpha_bar in ((0.25, 0.5, 0.13), (-0.7, 1.2, 0.5), (0.0, 0.3, 0.01)):
        ways = [Normal(alpha_bar**0.5 * (m + sign * s2**0.5), (1 - alpha_bar) ** 0.5) for sign in (1, -1)]
        density = sum(way.log_prob(grid).exp() for way in ways) / 2  # data of two values
        mean = torch.trapezoid(density * grid, grid)
        ask(m, s2, alpha_bar).equals((mean, torch.trapezoid(density * (grid - mean) ** 2, grid)))


@exercise("wasted-bits", "whole_bill(schedule, m, s)")
def _(ask: Ask) -> None:
    for betas in (torch.linspace(1e-4, 0.02, 200), cosine_betas(30), torch.tensor([0.3, 0.2])):
        schedule = NoiseSchedule(betas, dtype=torch.float64)
        for m, s in ((0.7, 0.8), (0.0, 1.3)):
            left = schedule.alpha_bar[-1]
            end = Normal(left.sqrt() * m, (left * s**2 + 1 - left).sqrt())
            wasted = kl_divergence(end, Normal(torch.tensor(0.0), 1.0))
            ask(schedule, m, s).equals(0.5 * math.log(2 * math.pi * math.e * s**2) + wasted)


@exercise("mean-picture", "missing(alpha_bar, covariance)")
def _(ask: Ask) -> None:
    for alpha_bar in (0.3, 1e-3):
        root = torch.randn(3, 3)
        maker = torch.cat([alpha_bar**0.5 * root, (1 - alpha_bar) ** 0.5 * torch.eye(3)], 1)  # of x_{T−1}
        ask(alpha_bar, root @ root.T).equals(maker @ maker.T - (1 - alpha_bar) * torch.eye(3))
