"""Chapter 3: schedules and the signal-to-noise ratio."""

import math

import torch

from ddpm.book.exercises.answers import Ask, exercise
from ddpm.schedule import NoiseSchedule


@exercise("quadratic-schedule", "quadratic_end(timesteps, roots)")
def _(ask: Ask) -> None:
    for timesteps in (2, 200, 1000):
        for roots in (False, True):
            first, last = (x**0.5 if roots else x for x in (1e-4, 0.02))
            spent, left = 0.0, 1.0
            for i in range(timesteps):
                beta = (first + (last - first) * i / (timesteps - 1)) ** 2
                spent, left = spent + beta, left * (1 - beta)
            ask(timesteps, roots).equals((spent, left))


@exercise("speed", "straight_betas(timesteps, top)")
def _(ask: Ask) -> None:
    for timesteps, top in ((200, 9.0), (10, 4.0)):
        reply = ask(timesteps, top)
        betas = reply.numbers(timesteps)
        reply.must((betas > 0).all() and (betas < 1).all(), "has a β that is not between 0 and 1")
        log_snr = NoiseSchedule(betas, dtype=torch.float64).log_snr[1:]
        off = (log_snr - torch.linspace(top, -top, timesteps)).abs()
        reply.must(off.max() < 2e-3, f"bends: at t = {int(off.argmax()) + 1} λ is off by {off.max():.3g}")


@exercise("data-scale", "scaled_alpha_bar(alpha_bar, c)")
def _(ask: Ask) -> None:
    for alpha_bar, c in ((0.5, 0.25), (0.9, 0.5), (0.01, 1.0)):
        log_snr = math.log(alpha_bar / (1 - alpha_bar)) + 2 * math.log(c)
        ask(alpha_bar, c).equals(1 / (1 + math.exp(-log_snr)))


@exercise("log-snr-density", "share_within(limit)")
def _(ask: Ask) -> None:
    level = (torch.arange(200_000) + 0.5) / 200_000  # t/T, evenly
    log_snr = -2 * torch.tan(math.pi / 2 * level).log()
    for limit in (0.5, 2.0, 5.0):
        ask(limit).equals((log_snr.abs() < limit).double().mean(), rtol=0, atol=1e-4)
