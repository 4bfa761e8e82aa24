"""Right answers to the exercises that differ from the chapters' own: other algebra, loops, NumPy, plain numbers.

Each is what a reader could have written from the text alone, so its check must take it.
"""

import cmath
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.integrate import quad, solve_ivp
from scipy.stats import norm
from torch import Tensor

from ddpm.flows import Path
from ddpm.samplers import ddim

OTHER: dict[str, Any] = {}


def other(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter an answer under its exercise's name."""

    def enter(answer: Callable[..., Any]) -> Callable[..., Any]:
        assert name not in OTHER
        OTHER[name] = answer
        return answer

    return enter


# Chapter 1.


@other("how-many-rounds")
def _(beta: float, limit: float) -> float:
    left, rounds = 1.0, 0
    while left**0.5 >= limit:
        left, rounds = left - beta * left, rounds + 1
    return float(rounds)


@other("scrambled-cat")
def _(picture: Tensor) -> np.ndarray:
    values = picture.float().flatten().tolist()
    random.Random(1).shuffle(values)
    return np.array(values, dtype=np.float32).reshape(picture.shape)


@other("agreement-fades")
def _(s2: float, rho: float, t: int) -> float:
    return rho / (1 + (0.99**-t - 1) / s2)


@other("gan-value")
def _(p: Tensor, q: Tensor, grid: Tensor) -> np.floating:
    width, a, b = float(grid[1] - grid[0]), p.numpy(), q.numpy()
    return (a * np.log(2 * a / (a + b)) + b * np.log(2 * b / (a + b))).sum() * width / 2


@other("worst-leap")
def _(data: Tensor) -> float:
    away = data.numpy() - data.numpy().mean(0)
    return float((away**2).mean())


@other("two-humps")
def _(s: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(50):
        beta = (low + high) / 2
        single = 1 / s**4 - 1 / s**2 - 1 / beta + 1 < 0
        low, high = (beta, high) if single else (low, beta)
    return round(low, 12)


# Chapter 2.


@other("half-power")
def _(alpha_bar: Tensor) -> np.integer:
    return np.argmax(alpha_bar.numpy() < 0.5)


@other("order-of-steps")
def _(betas: list[float]) -> np.ndarray:
    left = 1.0
    while betas:
        left -= left * betas.pop()
    return np.array([math.sqrt(left), 1 - left])


@other("level-to-level")
def _(alpha_bar: Tensor, s: int, t: int) -> list[float]:
    before, after = alpha_bar[s].item(), alpha_bar[t].item()
    return [math.sqrt(after) / math.sqrt(before), (before - after) / before]


@other("merged-noise")
def _(beta: Tensor) -> list[float]:
    weights: list[float] = []
    for share in beta.tolist():
        weights = [weight * math.sqrt(1 - share) for weight in weights] + [math.sqrt(share)]
    length = math.hypot(*weights)
    return [weight / length for weight in weights]


@other("forgotten-root")
def _(beta: float, t: int) -> float:
    return sum(beta**2 * (1 - beta) ** s for s in range(t))


@other("uniform-noise")
def _(weights: Tensor, kappa: float) -> float:
    return sum((kappa + 3) * w**4 - 3 * w**4 for w in weights.tolist())


# Chapter 3.


@other("quadratic-schedule")
def _(timesteps: int, roots: bool) -> tuple[np.floating, np.floating]:
    betas = np.linspace(1e-4, 0.02, timesteps) ** 2
    if roots:
        betas = np.linspace(1e-2, math.sqrt(0.02), timesteps) ** 2
    return betas.sum(), np.exp(np.log1p(-betas).sum())


@other("speed")
def _(timesteps: int, top: float) -> list[float]:
    fall, betas = 2 * top / (timesteps - 1), []
    for t in range(1, timesteps + 1):
        sigma2 = 1 / (1 + math.exp(top - (t - 1) * fall))
        betas.append(sigma2 if t == 1 else (1 - math.exp(-fall)) * sigma2)
    return betas


@other("data-scale")
def _(alpha_bar: float, c: float) -> Tensor:
    return torch.sigmoid(torch.logit(torch.as_tensor(alpha_bar)) + 2 * math.log(c))


@other("log-snr-density")
def _(limit: float) -> Any:
    grid = np.linspace(-1, 1, 4001) * limit
    return np.trapezoid(1 / (2 * np.pi * np.cosh(grid / 2)), grid)


# Chapter 4.

OTHER["posterior-by-hand"] = [0.5, 0.25, 0.333, 0.471, 0.471]


@other("gaussian-data")
def _(alpha: float, x_t: float) -> Tensor:
    return torch.tensor([math.sqrt(alpha) * x_t, 1 - alpha])


def _worst() -> float:
    # By the law of total variance: the posterior's, and that of its mean.
    betas = np.linspace(1e-4, 0.02, 50) * 20
    bar, now = np.cumprod(1 - betas), 3
    x_t = np.linspace(-3, 3, 1201)
    means, V = np.array([-0.6, 1.4])[:, None], 0.16
    spread = bar[now] * V + 1 - bar[now]
    odds = np.array([0.7, 0.3])[:, None] * norm.pdf(x_t, math.sqrt(bar[now]) * means, math.sqrt(spread))
    odds /= odds.sum(0)
    slope = math.sqrt(bar[now]) * V / spread
    guess = means + slope * (x_t - math.sqrt(bar[now]) * means)
    center = (odds * guess).sum(0)
    doubt = (odds * (V - slope**2 * spread + (guess - center) ** 2)).sum(0)
    return float(x_t[doubt.argmax()])


OTHER["more-than-beta"] = _worst()


@other("shortcut")
def _(schedule: Any, t: int) -> float:
    before, after = schedule.alpha_bar[t - 1].item(), schedule.alpha_bar[t].item()
    return math.sqrt(after * (1 - before) / (before * (1 - after)))


@other("many-steps-back")
def _(alpha_bar: Tensor, s: int, t: int) -> np.ndarray:
    kept_s, kept_t = math.sqrt(alpha_bar[s]), math.sqrt(alpha_bar[t])
    # x_s and x_t, given x_0: the rule for the conditional Gaussian.
    covariance = kept_t / kept_s * (1 - kept_s**2)
    gain = covariance / (1 - kept_t**2)
    return np.array([kept_s - gain * kept_t, gain, 1 - kept_s**2 - gain * covariance])


# Chapter 5.


@other("elbo-floor")
def _(std: float) -> list[Any]:
    edge = norm.cdf(1 / 255, scale=std)
    return [-np.log2(2 * edge - 1), -np.log2(edge)]


@other("elbo-variance")
def _(k: float) -> tuple[Tensor, Tensor]:
    ratio = torch.add(1, k, alpha=2)
    return ratio, torch.log(ratio) / 2


@other("elbo-memory")
def _(x_t: Tensor, alpha_bar: Tensor, pictures: Tensor) -> Tensor:
    guesses = []
    for x in x_t:
        prices = [((x - alpha_bar**0.5 * y) ** 2).sum() / (1 - alpha_bar) / 2 for y in pictures]
        weights = [math.exp(min(prices) - price) for price in prices]
        guess = sum(weight * y for weight, y in zip(weights, pictures, strict=True))
        guesses.append(guess / sum(weights))
    return torch.stack(guesses)


@other("elbo-levels")
def _(x0: Tensor, levels: Tensor) -> Tensor:
    edges = (levels[1:] + levels[:-1]) / 2
    return levels[torch.bucketize(x0, edges)]


# Chapter 5b.


@other("finer-steps")
def _(beta: float, k: int) -> float:
    return -math.expm1(math.log1p(-beta) / k)


@other("better-start")
def _(m: float, s2: float, alpha_bar: float) -> tuple[float, float]:
    return math.sqrt(alpha_bar) * m, 1 + alpha_bar * (s2 - 1)


@other("wasted-bits")
def _(schedule: Any, m: float, s: float) -> float:
    def kl(mean: float, variance: float, wide: float) -> float:
        return (variance / wide + mean**2 / wide - 1 - math.log(variance / wide)) / 2

    bar, T = schedule.alpha_bar.tolist(), schedule.timesteps
    w = [left * s**2 + 1 - left for left in bar]
    bill = kl(math.sqrt(bar[T] * (m**2 + s**2)), 1 - bar[T], 1.0)
    for t in range(1, T + 1):
        alpha = bar[t] / bar[t - 1]
        wide = (1 - alpha) * w[t - 1] / w[t]
        if t == 1:
            bill += math.log(2 * math.pi * math.e * wide) / 2
            continue
        tilde = (1 - alpha) * (1 - bar[t - 1]) / (1 - bar[t])
        # On average the squared distance of the means is what the posterior's variance lacks.
        bill += kl(math.sqrt(wide - tilde), tilde, wide)
    return bill


@other("mean-picture")
def _(alpha_bar: float, covariance: Tensor) -> np.ndarray:
    true = alpha_bar * covariance.numpy() + (1 - alpha_bar) * np.eye(len(covariance))
    return true - (1 - alpha_bar) * np.eye(len(covariance))


# Chapter 6.


@other("unet-count")
def _(C: int, C2: int, M: int) -> int:
    return 9 * C2 * (C + C2) + (M + 5) * C2 + 2 * C + (C != C2) * (C + 1) * C2


@other("unet-waking")
def _(network: Any) -> set[str]:
    return {name for name, p in network.named_parameters() if p.grad is not None and float(p.grad.norm()) > 0}


@other("unet-attention-price")
def _(side: int) -> float:
    from ddpm.book.layer_costs import layer_costs
    from ddpm.cli.presets import CIFAR10
    from ddpm.unet import AttentionBlock, Unet

    with torch.device("meta"):
        network = Unet(channels=3, **{**CIFAR10.network, "attention_resolutions": (1,)})
    named = network.named_modules()
    blocks = [block for at, block in named if isinstance(block, AttentionBlock) and "middle" not in at]
    whole, n, attention = sum(cost.flops for cost in layer_costs(network, side)), side**2, 0
    for block in blocks:
        C = next(p.shape[1] for p in block.parameters() if p.ndim > 1)
        attention += 2 * n * 4 * C**2 + 2 * 2 * n**2 * C
    return attention / whole


@other("unet-bridges")
def _(x: Tensor, width: int) -> Tensor:
    x[:, -width:] = 0
    return x


@other("unet-count-from-zero")
def _(W: Tensor, frequencies: Tensor) -> Tensor:
    of_sin, of_cos = W.chunk(2, 1)
    c, s = frequencies.cos(), frequencies.sin()
    return torch.cat([of_sin * c + of_cos * s, of_cos * c - of_sin * s], 1)


# Chapter 7.


@other("training-half-life")
def _(steps: int, every: int) -> float:
    return math.exp(-math.log(2) / (steps // every))


@other("training-first-loss")
def _(objective: str, x_0: Tensor) -> np.floating | Tensor:
    if objective == "pred_noise":
        return (torch.randn_like(x_0) ** 2).mean()
    return (x_0.numpy() ** 2).mean()


@other("training-last-noise")
def _(images: Tensor, std: float, z: Tensor) -> Tensor:
    images *= 2
    images -= 1
    images += std * z
    return torch.maximum(torch.minimum((images + 1) / 2, torch.ones(1)), torch.zeros(1))


@other("training-wrong-level")
def _(network: Any, x_t: Tensor, t: Tensor, target: Tensor, k: int) -> float:
    t += k
    return torch.nn.functional.mse_loss(network(x_t, t), target).item()


@other("training-steps")
def _(none: Tensor, fresh: Tensor) -> np.ndarray:
    gaps = fresh.numpy() - none.numpy()
    return np.array([gaps.mean(), gaps.std(ddof=1) / np.sqrt(len(gaps))])


# Chapter 8.


@other("sampling-one-call")
def _(model: Any, x_T: Tensor) -> Tensor:
    *_, state = ddim(model, x_T, 1)
    return state.x


@other("sampling-all-fresh")
def _(V: float, alpha_bar: Sequence[float]) -> float:
    spread = 1.0
    for i in range(len(alpha_bar) - 1):
        now, then = alpha_bar[i : i + 2]
        gain = math.sqrt(then * now) * V / (1 - now * (1 - V))
        spread = math.hypot(gain * spread, math.sqrt(1 - then))
    return spread


@other("sampling-karras")
def _(model: Any, x: Tensor, grid: Sequence[int]) -> Tensor:
    bar = model.schedule.alpha_bar
    for i in range(len(grid) - 1):
        t, s = grid[i], grid[i + 1]
        signal, u_t, u_s = bar[s] ** 0.5, (1 / bar[t] - 1) ** 0.5, (1 / bar[s] - 1) ** 0.5
        first = model.predict(x, torch.full((len(x),), t), clip_x0=False).noise
        euler = signal * (x / bar[t] ** 0.5 + (u_s - u_t) * first)
        if s == 0:
            return euler
        second = model.predict(euler, torch.full((len(x),), s), clip_x0=False).noise
        x = euler + signal * (u_s - u_t) * (second - first) / 2
    return x


@other("sampling-there-and-back")
def _(up: Any, down: Any, model: Any, x: Tensor, grid: Sequence[int]) -> float:
    back = down(model, up(model, x, grid), sorted(grid, reverse=True))
    return float((back - x).norm()) / math.sqrt(x.numel())


# Chapter 9.


@other("evaluation-rounding")
def _(pictures: Tensor, levels: int) -> np.ndarray:
    return np.floor(pictures.numpy() * (levels - 1) + 0.5) / (levels - 1)


@other("evaluation-how-many")
def _(features: int, n: int) -> float:
    return (5 + features) / (2 * n)


@other("evaluation-shifted")
def _(drawn: Tensor, training: Tensor, held_out: Tensor) -> float:
    def moved(picture: Tensor, i: int, j: int) -> Tensor:
        padded = torch.nn.functional.pad(picture, (1, 1, 1, 1))
        height, width = picture.shape[-2:]
        return padded[..., 1 + i : 1 + i + height, 1 + j : 1 + j + width]

    def nearest(picture: Tensor, others: Tensor) -> float:
        places = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        return min(math.sqrt(((moved(y, *at) - picture) ** 2).sum()) for y in others for at in places)

    means = [sum(nearest(x, others) for x in drawn) / len(drawn) for others in (training, held_out)]
    return means[0] / means[1]


@other("evaluation-permutation")
def _(a: Tensor, b: Tensor) -> float:
    def kid(x: np.ndarray, y: np.ndarray) -> float:
        n, table = len(x), lambda u, v: (u @ v.T / u.shape[1] + 1) ** 3
        pairs = ~np.eye(n, dtype=bool)
        return table(x, x)[pairs].mean() + table(y, y)[pairs].mean() - 2 * table(x, y).mean()

    torch.manual_seed(0)
    observed, both, least = kid(a.numpy(), b.numpy()), torch.cat([a, b]), 1
    for _ in range(50):
        mixed = both[torch.randperm(len(both))].numpy()
        least += kid(mixed[: len(a)], mixed[len(a) :]) >= observed
    return least / 51


# Chapter 10.


@other("conditioning-equal-widths")
def _(m: float, A: float, w: float) -> list[float]:
    slope, curve = w * m / A, w / A + (1 - w) / A
    return [slope / curve, 1 / curve]


@other("conditioning-honest")
def _(log_p: Tensor, w: float) -> Tensor:
    return log_p.exp() ** (w - 1)


@other("conditioning-ancestral")
def _(A: float, B: float, w: float) -> float:
    def slope(h: float, P: np.ndarray) -> np.ndarray:
        return 2 * P * (w / (A + h) + (1 - w) / (B + h)) - 1

    # Far out P is h.
    walked = solve_ivp(slope, (1e5, 0), [1e5], rtol=1e-8, atol=1e-10)
    return walked.y[0, -1]


@other("conditioning-rescale")
def _(v_w: Tensor, v_y: Tensor, rho: float) -> np.ndarray:
    one, other_one = v_w.numpy(), v_y.numpy()
    rows = []
    for guided, told in zip(one, other_one, strict=True):
        whole = guided * np.std(told) / np.std(guided)
        rows.append(rho * whole + (1 - rho) * guided)
    return np.stack(rows)


@other("conditioning-negative")
def _(asked: Tensor, against: Tensor, w: float) -> Tensor:
    asked *= w
    against *= 1 - w
    return asked.add_(against)


# Chapter 11.


@other("editing-three")
def _(pieces: Tensor) -> Tensor:
    weight = len(pieces) ** -0.5
    return torch.einsum("i...,i->...", pieces, torch.full((len(pieces),), weight))


@other("editing-which-t")
def _(alpha_bar: Tensor, std: float, share: float) -> int:
    needed = std * math.sqrt(1 / share - 1)
    u, t = 0.0, 0
    while u < needed:
        t += 1
        u = math.sqrt(1 / alpha_bar[t] - 1)
    return t


@other("editing-where")
def _(timesteps: int) -> np.ndarray:
    often = np.ones((2, timesteps + 1), dtype=int)
    often[0, timesteps // 2 + 1 :] = 5
    often[1, 1 : timesteps // 2 + 1] = 5
    return often


@other("editing-colour")
def _(colours: Tensor, weights: Tensor) -> np.ndarray:
    values = colours.numpy()
    grey = values @ weights.numpy()[0]
    return np.stack([np.polyval(np.polyfit(grey, one, 1), grey) for one in values.T], axis=1)


@other("editing-noisy")
def _(alpha_bar: float, nu: float) -> float:
    return alpha_bar * ((1 / alpha_bar - 1) - nu)


# Chapter 12.


@other("flows-single")
def _(z: Tensor, tau: float, picture: Tensor) -> Tensor:
    noise = (z - (1 - tau) * picture) / tau
    return noise - picture


OTHER["flows-clock"] = Path(
    lambda u: (1 + 1 / u).rsqrt(),
    lambda tau: ((1 - tau) * (1 + tau), tau.square()),
    lambda tau: (tau * -2, tau + tau),
)


@other("flows-forget")
def _(eta: float, believed: float) -> float:
    T = 1000
    bar = np.cumprod(np.concatenate([[1.0], 1 - np.linspace(1e-4, 0.02, T)]))
    variance = 1.0
    for t in range(T, 0, -1):
        h = math.log(bar[t - 1] / bar[t])
        A = 0.25 if bar[t] > 0.5 else believed
        score = -1 / (bar[t] * A + 1 - bar[t])
        factor = 1 + h / 2 + (1 + eta**2) / 2 * h * score
        variance = factor**2 * variance + (eta**2 * h if t > 1 else 0.0)
    return float(variance)


@other("flows-gaussian")
def _(V: float, u_1: float, u_T: float) -> float:
    return quad(lambda log_u: math.exp(2 * log_u) / (V + math.exp(2 * log_u)), math.log(u_1), math.log(u_T))[
        0
    ]


@other("flows-reflow")
def _(snow: Tensor, pictures: Tensor) -> list[float]:
    order = sorted(range(len(snow)), key=lambda i: snow[i].item())
    places = dict(zip(order, sorted(pictures.tolist()), strict=True))
    return [places[i] for i in range(len(snow))]


# Chapter 13.


@other("scaling-fits")
def _(free: int, parameters: int, image_bytes: int, averages: int) -> float:
    return math.floor((free - 16 * parameters - 4 * averages * parameters) / image_bytes)


@other("scaling-busy")
def _(flop_per_image: float, images_per_second: float, peak: float) -> float:
    return (flop_per_image / peak) / (1 / images_per_second)


@other("scaling-snr")
def _(alpha_bar: Tensor, t: int, factor: float) -> int:
    power = alpha_bar.numpy()
    wanted = power[t] / (1 - power[t]) / factor**2
    gaps = np.abs(power[1:] / (1 - power[1:]) - wanted)
    return int(np.argsort(gaps)[0]) + 1


@other("scaling-post-hoc")
def _(kappas: Sequence[float], ends: Sequence[float], kappa: float) -> float:
    u = np.linspace(0, 1, 1001)[1:]
    columns = [np.where(u <= end, u ** (k - 1), 0) for k in kappas for end in ends]
    table, wanted = np.stack(columns, axis=1), u ** (kappa - 1)
    parts = np.linalg.lstsq(table / table.max(0), wanted, rcond=None)[0]
    off = table / table.max(0) @ parts - wanted
    return math.sqrt((off**2).sum() / (wanted**2).sum())


# Appendix A.


@other("two-numbers")
def _(rho: float, x2: float) -> tuple[complex | float, float]:
    angle = math.asin(rho)
    return x2 * math.sin(angle), abs(cmath.exp(1j * angle).real) ** 2


@other("straight-guess")
def _(inputs: Tensor, target: Tensor) -> float:
    X = np.column_stack([np.ones(len(inputs)), inputs.numpy()])
    y = target.numpy()
    left = y - X @ np.linalg.solve(X.T @ X, X.T @ y)
    return float((left**2).mean())


@other("mutual-information")
def _(snr: float) -> np.floating:
    return np.log2(np.sqrt(1 + snr))


@other("linear-look")
def _(a: Tensor, A: Tensor, F: Tensor, B: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    V = torch.linalg.inv(torch.linalg.inv(A) + F.T @ torch.linalg.inv(B) @ F)
    return V @ (torch.linalg.solve(A, a) + F.T @ torch.linalg.solve(B, y)), V


# Appendix B.


@other("four-slopes")
def _(J: float) -> float:
    return math.exp(-math.log(J / (1 - J)))


@other("four-recall")
def _(points: Tensor) -> list[float]:
    far = []
    for i, point in enumerate(points.numpy()):
        gaps = np.linalg.norm(np.delete(points.numpy(), i, axis=0) - point, axis=1)
        far.append(float(np.sort(gaps)[2]))
    return far


@other("four-dequantisation")
def _(prices: Tensor) -> np.ndarray:
    table = prices.numpy()
    least = table.min(0)
    return least - np.log(np.exp(least - table).mean(0))
