"""Chapter 2: the forward process."""

import torch

from ddpm.book.exercises.answers import Ask, exercise
from ddpm.schedule import NoiseSchedule, cosine_betas, linear_betas


@exercise("half-power", "first_below_half(alpha_bar)")
def _(ask: Ask) -> None:
    for betas in ([0.5, 0.5], linear_betas(1000), cosine_betas(50)):
        table = NoiseSchedule(betas, dtype=torch.float64).alpha_bar
        ask(table).equals(next(t for t, left in enumerate(table.tolist()) if left < 0.5))


@exercise("order-of-steps", "after_steps(betas)")
def _(ask: Ask) -> None:
    for betas in ([0.3], [0.3, 0.05], [0.05, 0.3], [0.1, 0.2, 0.6]):
        schedule = NoiseSchedule(betas, dtype=torch.float64)
        ask(betas).equals((schedule.sqrt_alpha_bar[-1], schedule.sigma[-1] ** 2))


@exercise("level-to-level", "jump(alpha_bar, s, t)")
def _(ask: Ask) -> None:
    schedule = NoiseSchedule(linear_betas(200), dtype=torch.float64)
    for s, t in ((0, 1), (20, 21), (20, 150), (0, 200)):
        factor, variance = torch.tensor(1.0), torch.tensor(0.0)
        for alpha, beta in zip(schedule.alpha[s + 1 : t + 1], schedule.beta[s + 1 : t + 1], strict=True):
            factor, variance = alpha.sqrt() * factor, alpha * variance + beta
        ask(schedule.alpha_bar, s, t).equals((factor, variance))


@exercise("merged-noise", "noise_weights(beta)")
def _(ask: Ask) -> None:
    for betas in ([0.2], [0.2, 0.2], [0.05, 0.1, 0.3, 0.6]):
        beta = torch.tensor([0.0, *betas])
        noises = torch.zeros(len(beta), requires_grad=True)
        with torch.enable_grad():
            x, variance = torch.tensor(0.0), 0.0
            for s in range(1, len(beta)):
                x = (1 - beta[s]).sqrt() * x + beta[s].sqrt() * noises[s]
                variance = (1 - beta[s]) * variance + beta[s]
            (reach,) = torch.autograd.grad(x, noises)
        ask(beta).equals(reach / variance**0.5)


@exercise("forgotten-root", "weak_variance(beta, t)")
def _(ask: Ask) -> None:
    for beta, t in ((0.3, 1), (0.01, 1000), (0.2, 3)):
        variance = 0.0
        for _ in range(t):
            variance = (1 - beta) * variance + beta**2
        ask(beta, t).equals(variance)


@exercise("uniform-noise", "excess_kurtosis(weights, kappa)")
def _(ask: Ask) -> None:
    for weights, chance in (([1.0], 0.2), ([0.6, 0.8], 1.0), ([0.6, 0.64, 0.48], 0.2)):
        # A noise that is 0 or ±1/√chance; every combination is counted with its probability.
        values, odds = (
            torch.tensor([-1.0, 0.0, 1.0]) / chance**0.5,
            torch.tensor([chance / 2, 1 - chance, chance / 2]),
        )
        total, probability = torch.zeros(1), torch.ones(1)
        for w in weights:
            total = (total[:, None] + w * values).flatten()
            probability = (probability[:, None] * odds).flatten()
        ask(torch.tensor(weights), 1 / chance - 3).equals(probability @ total**4 - 3)
