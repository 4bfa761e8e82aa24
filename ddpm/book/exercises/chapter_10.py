"""Chapter 10: conditioning."""

import statistics

import torch
from torch.distributions import Normal

from ddpm.book.exercises.answers import Ask, exercise
from ddpm.guidance import ClassifierFreeGuidance
from ddpm.mixture_oracle import GaussianMixtureOracle
from ddpm.schedule import NoiseSchedule, cosine_betas


@exercise("conditioning-equal-widths", "guided_gaussian(m, A, w)")
def _(ask: Ask) -> None:
    x = torch.linspace(-20, 20, 20_001)
    for m, A, w in ((0.5, 0.3, 3.0), (-1.0, 2.0, 1.0), (1.0, 0.5, 0.0)):
        powers = w * Normal(m, A**0.5).log_prob(x) + (1 - w) * Normal(0.0, A**0.5).log_prob(x)
        density = torch.softmax(powers, 0)
        mean = density @ x
        ask(m, A, w).equals((mean, density @ (x - mean) ** 2))


@exercise("conditioning-honest", "chance_to_keep(log_p, w)")
def _(ask: Ask) -> None:
    x = torch.linspace(-2, 3, 7)
    log_y, log_other = (Normal(mean, 0.6).log_prob(x) for mean in (0.0, 1.0))
    log_all = torch.logaddexp(log_y, log_other)  # twice the density of all data
    for w in (1.0, 2.0, 4.0):
        # The tilted density over that of the class, whose largest value is 1: where no other class is possible.
        ask(log_y - log_all, w).equals((w * log_y + (1 - w) * log_all - log_y).exp())
        ask(torch.zeros(1), w).equals(torch.ones(1))


@exercise("conditioning-ancestral", "ancestral_variance(A, B, w)")
def _(ask: Ask) -> None:
    for A, B, w in ((0.25, 1.0, 2.0), (0.25, 1.0, 1.0), (0.5, 2.0, 3.5)):
        u = (torch.arange(200_000) + 0.5) / 200_000
        h = u / (1 - u)  # from 0 to ∞

        def growth(h: torch.Tensor, A: float = A, B: float = B, w: float = w) -> torch.Tensor:
            return (A + h) ** (2 * w) * (B + h) ** (2 - 2 * w)

        ask(A, B, w).equals(growth(torch.tensor(0.0)) * (1 / growth(h) / (1 - u) ** 2).mean(), rtol=1e-3)


@exercise("conditioning-rescale", "rescaled(v_w, v_y, rho)")
def _(ask: Ask) -> None:
    schedule = NoiseSchedule(cosine_betas(20), dtype=torch.float64)
    model = GaussianMixtureOracle(schedule, [[0.5, -0.3, 0.1], [-0.4, 0.2, 0.6]], [0.1, 0.2])
    x_t, t, y = torch.randn(4, 1, 1, 3), torch.full((4,), 12), torch.tensor([0, 1, 1, 0])
    v_y, v_none = model.predict(x_t, t, y).v, model.predict(x_t, t).v
    for w, rho in ((4.0, 0.7), (2.0, 1.0), (3.0, 0.1)):
        package = ClassifierFreeGuidance(model, w, rescale=rho).predict(x_t, t, y).v
        ask(v_none + w * (v_y - v_none), v_y, rho).equals(package)
    v_w, v_y = torch.randn(3, 2, 2, 4) + torch.tensor([0.0, 1.0])[:, None, None], torch.randn(3, 2, 2, 4)
    spreads = [[statistics.pstdev(one.flatten().tolist()) for one in v] for v in (v_w, v_y)]
    whole = [one * told / wide for one, wide, told in zip(v_w, *spreads, strict=True)]
    ask(v_w, v_y, 0.25).equals(0.25 * torch.stack(whole) + 0.75 * v_w)


@exercise("conditioning-negative", "not_that(asked, against, w)")
def _(ask: Ask) -> None:
    asked, against = torch.randn(2, 3, 1, 1, 1)
    for w in (0.0, 1.0, 2.0, 5.0):
        ask(asked, against, w).equals(torch.lerp(against, asked, w))
