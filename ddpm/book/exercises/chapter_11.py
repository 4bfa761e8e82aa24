"""Chapter 11: editing."""

import torch

from ddpm.book.exercises.answers import Ask, exercise
from ddpm.schedule import NoiseSchedule, cosine_betas, linear_betas


@exercise("editing-three", "equal_parts(pieces)")
def _(ask: Ask) -> None:
    for count in (3, 2, 7):
        # A mix is a linear map: of the unit vectors it gives the weights, of −2 times these too.
        units = torch.eye(count)
        reply = ask(torch.cat([units, -2 * units], 1))
        weights, doubled = reply.numbers(2 * count).chunk(2)
        reply.must((doubled + 2 * weights).abs().max() < 1e-6, "is not a sum of the pieces with weights")
        reply.must((weights - weights.mean()).abs().max() < 1e-6, f"weighs the {count} pieces unequally")
        power = weights.square().sum()
        reply.must((power - 1).abs() < 1e-5, f"makes of {count} pieces of snow one of variance {power:.4g}")


@exercise("editing-which-t", "first_t(alpha_bar, std, share)")
def _(ask: Ask) -> None:
    for betas in (linear_betas(1000), cosine_betas(300)):
        table = NoiseSchedule(betas, dtype=torch.float64).alpha_bar
        for std, share in ((0.1, 0.1), (1.0, 0.5), (0.3, 0.8)):
            V = std**2
            kept = [a * V / (a * V + 1 - a) for a in table.tolist()]  # what E[x_0 | x_t] keeps
            ask(table, std, share).equals(next(t for t, part in enumerate(kept) if part <= share))


@exercise("editing-where", "plans(timesteps)")
def _(ask: Ask) -> None:
    for timesteps in (100, 20):
        reply = ask(timesteps)
        found = reply.numbers(2, timesteps + 1)
        upper = torch.arange(timesteps + 1) > timesteps / 2
        wanted = torch.stack([torch.where(upper, 5, 1), torch.where(upper, 1, 5)])
        for half, t in (found != wanted).nonzero().tolist():  # t = 0 is never taken
            reply.must(
                t == 0,
                f"has {found[half, t]:g} for t = {t} in plan {half + 1}, but should have {wanted[half, t]}",
            )


@exercise("editing-colour", "best_colours(colours, weights)")
def _(ask: Ask) -> None:
    for weights in ([[0.30, 0.59, 0.11]], [[0.0, 1.0, 0.0]]):
        colours = torch.randn(200, 3) @ torch.randn(3, 3) + torch.tensor([0.5, -0.2, 0.1])
        grey = torch.cat([torch.ones(200, 1), colours @ torch.tensor(weights).T], 1)
        fit = torch.linalg.lstsq(grey, colours).solution
        ask(colours, torch.tensor(weights)).equals(grey @ fit, rtol=1e-3, atol=1e-3)


@exercise("editing-noisy", "missing_variance(alpha_bar, nu)")
def _(ask: Ask) -> None:
    for alpha_bar, nu in ((0.5, 0.05), (0.99, 0.05), (0.2, 0.0)):
        reply = ask(alpha_bar, nu)
        total = reply.numbers() + alpha_bar * nu
        reply.must(
            torch.isclose(total, torch.tensor(1 - alpha_bar)),
            f"makes the noise {total:.6g} altogether, but x_t has {1 - alpha_bar:.6g}",
        )
