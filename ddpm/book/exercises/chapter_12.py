"""Chapter 12: scores and flows."""

import math

import torch
from torch import Tensor

from ddpm.book.exercises.answers import Ask, exercise
from ddpm.flows import PATHS, Path
from ddpm.oracle import EmpiricalOracle
from ddpm.schedule import NoiseSchedule, cosine_betas


@exercise("flows-single", "slope_to(z, tau, picture)")
def _(ask: Ask) -> None:
    schedule = NoiseSchedule(cosine_betas(100), dtype=torch.float64)
    for t in (10, 50, 90):
        picture, x_t = 2 * torch.rand(2, 1, 1, 4) - 1
        model = EmpiricalOracle(schedule, picture[None], dtype=torch.float64)
        place = PATHS["flow"].at(schedule, t)
        wanted = place.velocity(model.predict(x_t[None], torch.tensor([t]))).flatten()
        z = (place.scale * x_t).flatten()
        ask(z, place.time.item(), picture.flatten()).equals(wanted)


@exercise("flows-clock", "squared")
def _(ask: Ask) -> None:
    reply = ask()
    path = reply.value
    reply.must(isinstance(path, Path), "is no Path of ddpm.flows")
    tau = torch.linspace(0.1, 0.9, 9).requires_grad_()
    factors = path.factors(tau)

    def same(words: str, found: Tensor, wanted: Tensor) -> None:
        worst = int((found - wanted).abs().argmax())
        reply.must(
            torch.allclose(found, wanted),
            f"at τ = {tau[worst]:g} has the {words} {found[worst]:g}, not that asked for",
        )

    for name, factor, wanted in zip("ab", factors, (1 - tau**2, tau**2), strict=True):
        same(f"factor {name} =", factor, wanted)
    same("time", path.time(tau**2 / (1 - tau**2)), tau)
    for name, factor, slope in zip("ab", factors, path.slopes(tau), strict=True):
        (wanted,) = torch.autograd.grad(factor.sum(), tau)
        same(f"slope of {name}", slope, wanted)


@exercise("flows-forget", "arrives(eta, believed)")
def _(ask: Ask) -> None:
    # The SDE makes of a variance P another one by a linear equation, which the m of the belief solves. So P − m of the
    # exact part changes by a factor that can be integrated: with m = ᾱV + σ², it goes with m^(1+η²) / ᾱ^(η²).
    half, V = 0.5, 0.25
    for eta, believed in ((0.0, 0.125), (1.0, 0.125), (0.5, 1.0), (1.5, 0.02)):
        m = half * V + 1 - half
        off = half * believed + 1 - half - m
        wanted = V + off * (V / m) ** (1 + eta**2) * half ** (eta**2)
        # On the linear schedule a thousand steps end within 0.0012 of this.
        ask(eta, believed).equals(wanted, rtol=0.0, atol=4e-3)


@exercise("flows-gaussian", "stretch(V, u_1, u_T)")
def _(ask: Ask) -> None:
    for V, u_1, u_T in ((0.25, 0.01, 100.0), (1.0, 0.5, 2.0), (4.0, 0.1, 10.0)):
        u = torch.logspace(math.log10(u_1), math.log10(u_T), 20_001)
        ask(V, u_1, u_T).equals(torch.trapezoid(u / (V + u**2), u), rtol=1e-4)


@exercise("flows-reflow", "carried(snow, pictures)")
def _(ask: Ask) -> None:
    for count in (5, 60):
        snow, pictures = torch.randn(count), torch.rand(count) ** 2 - 0.3
        reply = ask(snow, pictures)
        found = reply.numbers(count)
        alike = torch.allclose(found.sort().values, pictures.sort().values)
        reply.must(alike, "does not hand out each of the pictures once")
        crossed = (snow[:, None] < snow) & (found[:, None] > found)
        reply.must(not crossed.any(), "lets curves cross")
