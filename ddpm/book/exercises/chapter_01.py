"""Chapter 1: snow."""

import math

import torch
from torch import Tensor
from torch.distributions import Normal

from ddpm.book.exercises.answers import Ask, exercise, shown


@exercise("how-many-rounds", "rounds_until(beta, limit)")
def _(ask: Ask) -> None:
    for beta, limit in ((0.01, 0.01), (0.05, 0.3), (0.3, 0.5)):
        amplitude, rounds = 1.0, 0
        while amplitude >= limit:
            amplitude, rounds = amplitude * math.sqrt(1 - beta), rounds + 1
        ask(beta, limit).equals(rounds)


@exercise("scrambled-cat", "scramble(picture)")
def _(ask: Ask) -> None:
    ramp = torch.arange(1200.0).view(3, 20, 20) / 1200
    # In the one each colour and row has its own values, in the other each column.
    for picture in (ramp, ramp.square().view(20, 3, 20).permute(1, 2, 0)):
        reply, values = ask(picture), picture.flatten().sort().values
        mixed = reply.numbers(3, 20, 20)
        reply.must(torch.allclose(mixed.flatten().sort().values, values), "has other values than the picture")
        for words, along in (("beside", mixed), ("below", mixed.transpose(1, 2))):
            pairs = torch.stack([along[..., :-1].flatten(), along[..., 1:].flatten()])
            alike = torch.corrcoef(pairs)[0, 1]
            reply.must(
                alike.abs() < 0.2, f"leaves pixels {words} each other with a correlation of {alike:.2f}"
            )
        means = mixed.mean((1, 2))
        reply.must(
            (means - picture.mean()).abs().max() < 0.1,
            f"keeps the three colours apart: their means are {shown(means)}",
        )


@exercise("agreement-fades", "faded(s2, rho, t)")
def _(ask: Ask) -> None:
    for s2, rho, t in ((0.2, 0.9, 10), (0.3, 0.5, 100), (1.0, -0.4, 40)):
        variance, shared = s2, rho * s2
        for _ in range(t):  # neighbours share what was there before, and none of the noise
            variance, shared = 0.99 * variance + 0.01, 0.99 * shared
        ask(s2, rho, t).equals(shared / variance)


@exercise("gan-value", "jsd(p, q, grid)")
def _(ask: Ask) -> None:
    grid = torch.linspace(-8, 8, 4001)

    def entropy(density: Tensor) -> Tensor:
        return -torch.trapezoid(torch.special.xlogy(density, density), grid)

    for mean, std in ((0.0, 1.0), (1.0, 1.5), (-2.0, 1.2)):
        p, q = (Normal(*at).log_prob(grid).exp() for at in ((0.0, 1.0), (mean, std)))
        ask(p, q, grid).equals(entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2, rtol=1e-3)


@exercise("worst-leap", "leap_error(data)")
def _(ask: Ask) -> None:
    for shape in ((2, 1), (5, 3), (40, 64)):
        data = torch.randn(shape) + torch.arange(float(shape[1]))
        # Two independent pictures are apart by twice the variance, on average.
        ask(data).equals((data[:, None] - data).square().mean() / 2)


@exercise("two-humps", "critical_beta(s)")
def _(ask: Ask) -> None:
    x = torch.linspace(-3, 3, 12_001)
    for s in (0.3, 0.5, 0.8):
        reply = ask(s)
        beta = reply.numbers()
        reply.must(0 < beta < 1, "is no share of variance: it must lie between 0 and 1")
        for part, humps in ((0.98, 1), (1.02, 2)):
            step = min(part * beta.item(), 1.0)
            ways = [-((x - m) ** 2) / (2 * s**2) for m in (1, -1)]
            log_q = torch.logaddexp(*ways) - (1 - step) * x**2 / (2 * step)
            found = int(((log_q[1:-1] > log_q[:-2]) & (log_q[1:-1] > log_q[2:])).sum())
            reply.must(
                found == humps,
                f"gives {beta:.6g}, but after a step of {part} times that the humps number {found}, not {humps}",
            )
