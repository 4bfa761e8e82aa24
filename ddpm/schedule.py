"""Noise schedules: how much of the picture is left at every step, in the paper's own index.

The whole forward process is fixed by T numbers, the variances β_1 … β_T (Ho et al. 2020, section 2), which the
functions here return as float64 tensors of shape (T,) on the CPU, for T at least 1. Everything else follows from them,
is computed once in float64, and is stored under the name that the book uses. Near t = T, where ᾱ goes to zero, β is
capped at `max_beta`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ddpm.support.buffers import KeepsPrecision
from ddpm.support.checks import check_choice, check_whole
from ddpm.support.tensor_checks import as_table

# The T for which the DDPM paper chose β from 1e-4 to 0.02.
LINEAR_SCALE_STEPS = 1000
# The smallest T for which the linear schedule, rescaled by 1000/T, keeps every β below 1.
SHORTEST_LINEAR = 21


def linear_betas(timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Tensor:
    """Variances that rise linearly (eq:linear-betas), rescaled so that a short chain, too, ends in noise.

    `beta_start` and `beta_end` are β_1 and β_T for T = 1000 (Ho et al. 2020, section 4). For another T both are
    multiplied by 1000/T, which keeps the sum of the β. So ᾱ_T is about the same for all T of some hundred and more, and
    smaller for fewer; without it a short chain leaves signal at its end. For T of 20 and less the rescaled β reach 1,
    which `NoiseSchedule` refuses.
    """
    timesteps = check_whole("timesteps", timesteps)
    scale = LINEAR_SCALE_STEPS / timesteps
    # Counted down and turned round, so that T = 1 gets the last β (and is refused), not a first one that adds no noise.
    last, first = scale * beta_end, scale * beta_start
    return torch.linspace(last, first, timesteps, dtype=torch.float64, device="cpu").flip(0)


def cosine_betas(timesteps: int, offset: float = 0.008, max_beta: float = 0.999) -> Tensor:
    """Variances for which ᾱ falls like a squared cosine (eq:cosine-schedule; Nichol & Dhariwal 2021, eq. 17).

    `offset` is the paper's s, which keeps β_1 from being too small to matter.
    """
    timesteps = check_whole("timesteps", timesteps)
    time = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64, device="cpu")
    alpha_bar = torch.cos((time + offset) / (1 + offset) * torch.pi / 2) ** 2
    return betas_from_alpha_bar(alpha_bar, max_beta)


def sigmoid_betas(
    timesteps: int, start: float = -3.0, end: float = 3.0, tau: float = 1.0, max_beta: float = 0.999
) -> Tensor:
    """Variances for which ᾱ falls like a logistic curve (eq:sigmoid-schedule; Jabri et al. 2023, the RIN paper).

    On that curve t = 0 lies at `start` and t = T at `end`; the smaller the temperature `tau`, the steeper it is.
    """
    timesteps = check_whole("timesteps", timesteps)
    time = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64, device="cpu")
    curve = torch.sigmoid((start + time * (end - start)) / tau)
    alpha_bar = (curve[-1] - curve) / (curve[-1] - curve[0])
    return betas_from_alpha_bar(alpha_bar, max_beta)


def log_snr_betas(
    timesteps: int, highest: float = 10.0, lowest: float = -7.0, max_beta: float = 0.999
) -> Tensor:
    """Variances for which λ_t falls evenly (eq:log-snr-schedule), so that all of them are trained alike.

    `highest` is λ_1, at which the noise is a little narrower than the step between two 8-bit grey levels, and `lowest`
    is λ_T.
    """
    timesteps = check_whole("timesteps", timesteps)
    # As in `linear_betas`, T = 1 gets the last value.
    log_snr = torch.linspace(lowest, highest, timesteps, dtype=torch.float64, device="cpu").flip(0)
    return betas_from_alpha_bar(torch.cat([log_snr.new_ones(1), log_snr.sigmoid()]), max_beta)


def flow_betas(timesteps: int, max_beta: float = 0.999) -> Tensor:
    """Variances for which the time of flow matching, τ_t = σ_t/(√ᾱ_t + σ_t), is t/T (eq:flow-schedule).

    A training that draws t uniformly then draws τ so (Lipman et al. 2023; Liu et al. 2023). At T, where τ would be 1
    and nothing of the picture left, the cap leaves a trace of it. For T = 1000, σ_1 is an eighth of the step between
    two 8-bit grey levels: what `ddpm.likelihood` charges for L_0 asks for more than a network resolves there.
    """
    timesteps = check_whole("timesteps", timesteps)
    time = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64, device="cpu")
    return betas_from_alpha_bar((1 - time) ** 2 / ((1 - time) ** 2 + time**2), max_beta)


def betas_from_alpha_bar(alpha_bar: Tensor, max_beta: float) -> Tensor:
    """β_t = 1 − ᾱ_t/ᾱ_{t−1}, capped (eq:betas-from-curve), for ᾱ_0 … ᾱ_T of shape (T+1,); shape (T,)."""
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=max_beta)


BETA_SCHEDULES: dict[str, Callable[..., Tensor]] = {
    "linear": linear_betas,
    "cosine": cosine_betas,
    "sigmoid": sigmoid_betas,
    "log-snr": log_snr_betas,
    "flow": flow_betas,
}


def default_schedule(timesteps: int) -> str:
    """The schedule where none is named: the paper's, if T is long enough for it."""
    return "linear" if check_whole("timesteps", timesteps) >= SHORTEST_LINEAR else "cosine"


class NoiseSchedule(KeepsPrecision):
    """Every table of the forward process and its posterior, indexed by the paper's t.

    All tables have length T+1. Index 0 is clean data (`alpha_bar[0] == 1`, `beta[0] == 0`) and 1 … T are the noise
    levels, so `schedule.alpha_bar[t]` is ᾱ_t and nothing is ever shifted by one. They are computed in float64 and
    stored as float32 buffers, which move with `.to(device)` and are never rounded to half precision. The methods take
    images of shape (B, C, H, W) and t of shape (B,); they check nothing and compute in float32 at least.

    `betas` are β_1 … β_T, a tensor, an array or a list of shape (T,), each strictly between 0 and 1; others are a
    ValueError, which names the first offending step. `dtype` is that of the buffers, float64 for full precision.

    Attributes:
        beta: β_t, the variance added by step t (eq:forward-step).
        alpha: α_t = 1 − β_t.
        alpha_bar: ᾱ_t = α_1 ⋯ α_t, the fraction of the signal's power left at t (eq:alpha-bar).
        sqrt_alpha_bar: √ᾱ_t.
        sigma: √(1 − ᾱ_t), the standard deviation of the noise in x_t (eq:q-sample).
        snr: ᾱ_t / (1 − ᾱ_t), the signal-to-noise ratio (eq:snr); infinite at t = 0.
        log_snr: λ_t = log ᾱ_t − log(1 − ᾱ_t) (eq:log-snr); infinite at t = 0.
        posterior_variance: β̃_t (eq:posterior-variance); 0 at t = 1 by itself.
        posterior_log_variance_clipped: log β̃_t, with the value of t = 2 at t = 1 (and at 0), where the logarithm
            would be −∞. For T = 1 there is no t = 2 and log β_1 stands in.
        posterior_mean_coef_x0: the factor of x_0 in μ̃_t (eq:posterior-mean).
        posterior_mean_coef_xt: the factor of x_t in μ̃_t (eq:posterior-mean).
        exact_alpha_bar: ᾱ_t in float64, always on the CPU.
        exact_log_snr: λ_t, likewise.
    """

    beta: Tensor
    alpha: Tensor
    alpha_bar: Tensor
    sqrt_alpha_bar: Tensor
    sigma: Tensor
    snr: Tensor
    log_snr: Tensor
    posterior_variance: Tensor
    posterior_log_variance_clipped: Tensor
    posterior_mean_coef_x0: Tensor
    posterior_mean_coef_xt: Tensor

    def __init__(self, betas: Tensor | Sequence[float] | Any, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        with torch.device("cpu"):
            betas = as_table("betas", betas).cpu()
        _check_betas(betas)
        tables = _schedule_tables(betas)
        # The default device; torch.get_default_device() of torch 2.6 does not know that of `with torch.device(…)`.
        here = torch.empty(0).device
        for name, table in tables.items():
            self.register_buffer(name, table.to(here, dtype), persistent=False)
        # Plain float64 tensors on the CPU, not buffers: samplers that jump over timesteps take their coefficients
        # from here as Python numbers, at full precision and without asking the accelerator for anything.
        self.exact_alpha_bar: Tensor = tables["alpha_bar"]
        self.exact_log_snr: Tensor = tables["log_snr"]

    @classmethod
    def from_name(cls, name: str, timesteps: int, **options: float) -> "NoiseSchedule":
        """Build "linear", "cosine", "sigmoid", "log-snr" or "flow"; `options` go to the function of that name."""
        check_choice("beta_schedule", name, list(BETA_SCHEDULES))
        return cls(BETA_SCHEDULES[name](timesteps, **options))

    @property
    def timesteps(self) -> int:
        """T, the number of noise levels."""
        return len(self.beta) - 1

    def at(self, table: str, t: Tensor, x: Tensor) -> Tensor:
        """The table's entries at t as (B, 1, 1, 1), ready to multiply x: in its type, but in float32 at least."""
        # In half precision the smallest steps would add no noise.
        dtype = torch.promote_types(x.dtype, torch.float32)
        return getattr(self, table)[t].view(-1, 1, 1, 1).to(dtype)

    def signal_and_sigma(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ_t and σ_t, the two factors in x_t = √ᾱ_t x_0 + σ_t ε, ready to multiply x."""
        return self.at("sqrt_alpha_bar", t, x), self.at("sigma", t, x)

    def q_sample(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε: t steps of noise at once (eq:q-sample; Ho et al. 2020, eq. 4)."""
        signal, sigma = self.signal_and_sigma(t, x0)
        return signal * x0 + sigma * noise

    def posterior_mean(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """μ̃_t(x_t, x_0), the mean of q(x_{t−1} | x_t, x_0) (eq:posterior-mean)."""
        return (
            self.at("posterior_mean_coef_x0", t, x_t) * x0 + self.at("posterior_mean_coef_xt", t, x_t) * x_t
        )

    def extra_repr(self) -> str:
        """Show T and how much signal is left at its end."""
        return f"timesteps={self.timesteps}, alpha_bar_T={self.alpha_bar[-1].item():.3g}"


def _schedule_tables(betas: Tensor) -> dict[str, Tensor]:
    """All tables of `NoiseSchedule`, in float64, from β_1 … β_T of shape (T,); each has shape (T+1,)."""
    beta = torch.cat([betas.new_zeros(1), betas])
    alpha = 1 - beta
    alpha_bar = torch.cumprod(alpha, dim=0)
    # 1 − ᾱ_t and log ᾱ_t by log1p and expm1: subtracting from 1 would lose digits where ᾱ is close to 1.
    log_alpha_bar = torch.cumsum(torch.log1p(-beta), dim=0)
    # The absolute value, not the negative, whose −0 at t = 0 would make the signal-to-noise ratio −∞ there.
    one_minus_alpha_bar = torch.expm1(log_alpha_bar).abs()
    # ᾱ_{t−1}, with t = 0 given its own value, so that the tables start with the clean image itself: β̃_0 = 0.
    alpha_bar_prev = torch.cat([alpha_bar[:1], alpha_bar[:-1]])
    one_minus_alpha_bar_prev = torch.cat([one_minus_alpha_bar[:1], one_minus_alpha_bar[:-1]])
    divisor = one_minus_alpha_bar.clone()
    # At t = 0 every numerator below is 0; "the state before clean data" is the clean data, so its factor is 1.
    divisor[0] = 1
    posterior_variance = beta * one_minus_alpha_bar_prev / divisor
    coef_x0 = beta * alpha_bar_prev.sqrt() / divisor
    coef_x0[0] = 1
    smallest = posterior_variance[2] if len(betas) > 1 else beta[1]
    return {
        "beta": beta,
        "alpha": alpha,
        "alpha_bar": alpha_bar,
        "sqrt_alpha_bar": alpha_bar.sqrt(),
        "sigma": one_minus_alpha_bar.sqrt(),
        "snr": alpha_bar / one_minus_alpha_bar,
        "log_snr": log_alpha_bar - one_minus_alpha_bar.log(),
        "posterior_variance": posterior_variance,
        "posterior_log_variance_clipped": torch.cat([smallest.repeat(2), posterior_variance[2:]]).log(),
        "posterior_mean_coef_x0": coef_x0,
        "posterior_mean_coef_xt": alpha.sqrt() * one_minus_alpha_bar_prev / divisor,
    }


def _check_betas(betas: Tensor) -> None:
    """Refuse β that are not a non-empty list of numbers in (0, 1), naming the first offending step."""
    if betas.ndim != 1 or len(betas) < 1:
        raise ValueError(f"betas must have shape (T,) with T >= 1, but got shape {tuple(betas.shape)}")
    wrong = ~((betas > 0) & (betas < 1))
    if wrong.any():
        step = int(wrong.nonzero()[0]) + 1
        raise ValueError(
            f"every beta must lie strictly between 0 and 1, but beta[{step}] is {betas[step - 1].item():g}"
            f" (T = {len(betas)}); a linear schedule rescaled by 1000/T needs T > 20"
        )
