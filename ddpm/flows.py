"""The continuous-time view: the same model in other coordinates, as a flow and as a stochastic differential equation.

A noisy picture is a x_0 + b ε. The chain of this package has a² + b² = 1, EDM a = 1, flow matching a + b = 1: what they
call x differs by a factor, and what they call time by a relabelling of λ = log SNR. A `Path` is such a choice of both.
So a model trained for one of them is a model for all; it is asked in the chain's own x_t and t.

`probability_flow` follows the curve of a path from noise to picture, `reverse_sde` the same densities with fresh noise.
They are samplers like those of `ddpm.samplers`, which says what their arguments are, and step on its grids of
timesteps.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

import torch
from torch import Tensor

from ddpm.grids import Spacing
from ddpm.prediction import Denoiser, Prediction
from ddpm.samplers import State, Walk
from ddpm.schedule import NoiseSchedule
from ddpm.support.checks import check_choice, check_number, check_whole
from ddpm.support.randomness import Generators, randn_like
from ddpm.support.tensor_checks import check_pair, check_t

# The two factors a and b of a path at a time, or how fast they change.
Factors = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Path:
    """A way from picture to noise, z_τ = a(τ) x_0 + b(τ) ε (eq:path): a stochastic interpolant (Albergo et al. 2023).

    The functions take and return float64 tensors of any shape. Paths of your own work like the three of `PATHS`, as
    long as b/a rises from 0 with τ.

    Attributes:
        time: τ, from the noise-to-signal ratio u = σ_t/√ᾱ_t.
        factors: a and b, from τ.
        slopes: da/dτ and db/dτ, from τ.
    """

    time: Callable[[Tensor], Tensor]
    factors: Factors
    slopes: Factors

    def at(self, schedule: NoiseSchedule, t: Tensor | int, x: Tensor | None = None) -> "Place":
        """Where on the path timesteps lie, for t of shape (B,) or one t, in 0 … T; on the device of `x`."""
        if isinstance(t, Tensor) and x is not None:
            t = check_t(t, x, schedule.timesteps, 0).cpu()
        elif not isinstance(t, Tensor):
            t = torch.tensor([check_whole("t", t, 0, schedule.timesteps)], device="cpu")
        time = self.time(torch.exp(-schedule.exact_log_snr[t.cpu()] / 2)).view(-1, 1, 1, 1)
        numbers = (time, *self.factors(time), *self.slopes(time))
        # Apple's GPUs have no float64.
        kind = torch.float32 if x is not None and x.device.type == "mps" else torch.float64
        return Place(*(number.to("cpu" if x is None else x.device, kind) for number in numbers))


@dataclass(frozen=True)
class Place:
    """A path at some of its times; all are in float64, of shape (B or 1, 1, 1, 1).

    Attributes:
        time: τ.
        signal: a, the factor of x_0.
        sigma: b, the factor of ε.
        signal_slope: da/dτ.
        sigma_slope: db/dτ.
    """

    time: Tensor
    signal: Tensor
    sigma: Tensor
    signal_slope: Tensor
    sigma_slope: Tensor

    @property
    def scale(self) -> Tensor:
        """z_τ / x_t, which is √(a² + b²), as those of x_t have the sum 1 (eq:path)."""
        return torch.hypot(self.signal, self.sigma)

    def velocity(self, prediction: Prediction) -> Tensor:
        """dz/dτ = a′ x̂_0 + b′ ε̂ of a belief about x_t, in the type of the path (eq:path-velocity).

        That is ε̂ for EDM, ε̂ − x̂_0 for flow matching, and v̂ for the chain with the angle as its time.
        """
        return self.signal_slope * prediction.x0 + self.sigma_slope * prediction.noise

    def prediction(self, z: Tensor, velocity: Tensor) -> Prediction:
        """The belief that a velocity dz/dτ at z stands for: `velocity` turned round.

        So what was trained for a path is made a model of the chain. Both have shape (B, C, H, W); the `signal` and the
        `sigma` of the prediction are the chain's.
        """
        check_pair("z", z, "velocity", velocity)
        turned = self.signal * self.sigma_slope - self.signal_slope * self.sigma
        x0 = (self.sigma_slope * z - self.sigma * velocity) / turned
        noise = (self.signal * velocity - self.signal_slope * z) / turned
        own = (noise, x0, self.signal / self.scale, self.sigma / self.scale)
        return Prediction(*(value.to(z.dtype) for value in own))


PATHS: Mapping[str, Path] = MappingProxyType(
    {
        # x_t as it is, against the angle φ_t.
        "vp": Path(torch.atan, lambda tau: (tau.cos(), tau.sin()), lambda tau: (-tau.sin(), tau.cos())),
        # Karras et al. 2022: the picture at full strength, against the width of the noise on it.
        "edm": Path(
            lambda u: u,
            lambda tau: (torch.ones_like(tau), tau),
            lambda tau: (torch.zeros_like(tau), torch.ones_like(tau)),
        ),
        # Lipman et al. 2023, Liu et al. 2023: straight from the picture to the noise.
        "flow": Path(
            lambda u: u / (1 + u),
            lambda tau: (1 - tau, tau),
            lambda tau: (-torch.ones_like(tau), torch.ones_like(tau)),
        ),
    }
)


def named_path(path: str | Path) -> Path:
    """A path by its name, or itself."""
    if isinstance(path, Path):
        return path
    check_choice("path", path, list(PATHS))
    return PATHS[path]


@torch.no_grad()
def probability_flow(
    diffusion: Denoiser,
    x: Tensor,
    steps: int | Sequence[int],
    *,
    path: str | Path = "flow",
    order: int = 1,
    spacing: Spacing = "even",
    labels: Tensor | None = None,
    clip_x0: bool = True,
) -> Iterator[State]:
    """Euler's (`order` 1) or Heun's method (2) on dz/dτ = a′ x̂_0 + b′ ε̂ (eq:path-velocity), down to the picture.

    `path` is "vp", "edm", "flow" or a `Path`. On a path whose factors are straight lines, as those of the last two are,
    Euler's step is that of DDIM with η = 0, x̂_0 and ε̂ put together anew. Heun's method on "edm" is
    algorithm 1 of Karras et al. 2022 with their σ(t) = t and s(t) = 1. The last step is Euler's.

    z is kept in float64, because u grows to thousands; states hold x_t, in the type of `x`, and the x̂_0 of their first
    call.
    """
    own, order = named_path(path), check_whole("order", order, 1, 2)
    walk = Walk(diffusion, x, steps, spacing, labels, clip_x0)
    here = own.at(diffusion.schedule, walk.grid[0], x)
    z = here.scale * x
    for t, s in pairwise(walk.grid):
        there = own.at(diffusion.schedule, s, x)
        first = walk.ask(x, t)
        velocity, step = here.velocity(first), there.time - here.time
        if order == 2 and s > 0:
            tried = (z + step * velocity) / there.scale
            velocity = (velocity + there.velocity(walk.ask(tried.to(x.dtype), s))) / 2
        z, here = z + step * velocity, there
        x = (z / here.scale).to(x.dtype)
        yield State(s, x, first.x0)


@torch.no_grad()
def reverse_sde(
    diffusion: Denoiser,
    x: Tensor,
    steps: int | Sequence[int],
    *,
    eta: float = 1.0,
    spacing: Spacing = "even",
    labels: Tensor | None = None,
    clip_x0: bool = True,
    generator: Generators = None,
) -> Iterator[State]:
    """The Euler–Maruyama method on the reverse-time SDE of Song et al. 2021 (their eq. 6 and 11), for any η ≥ 0.

    dx = −½β [x + (1 + η²) ∇ log q(x)] dt + η √β dw, with dt < 0 (eq:reverse-sde). η = 1 turns the forward process
    round, η = 0 is the probability-flow ODE, and the densities are the same for all of them. The β of a step from t to
    s, summed over it, is log ᾱ_s − log ᾱ_t. Ancestral sampling is such a step but for terms of the order of β², and so
    is DDIM with the same η.
    """
    eta = check_number("eta", eta, at_least=0)
    walk = Walk(diffusion, x, steps, spacing, labels, clip_x0, generator)
    for t, s in pairwise(walk.grid):
        prediction = walk.ask(x, t)
        beta = math.log(walk.alpha_bar[s] / walk.alpha_bar[t])
        x = x + beta / 2 * (x + (1 + eta**2) * prediction.score)
        if eta > 0 and s > 0:
            x = x + eta * math.sqrt(beta) * randn_like(x, generator)
        yield State(s, x, prediction.x0)
