"""The equations of chapter 7: which levels to train at, the first loss, averaged weights, the Fréchet distance."""

import math

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ddpm.evaluation.metrics import frechet_distance
from ddpm.weighting import stratified_timesteps
from tests.equations.ledger import equation, exact
from tests.networks import Constant, diffusion_of, randn, schedule_64, seeded

# eq:low-discrepancy


@exact(
    "eq:low-discrepancy",
    where="ddpm.weighting.stratified_timesteps",
    implementation=lambda count, timesteps, shift: stratified_timesteps(count, timesteps, shift=shift),
    mutants={
        "levels from 0": lambda n, T, u: (T * (torch.arange(n) + u) / n).long(),
        "its own shift left out": lambda n, T, u: 1 + (T * torch.arange(n) / n).long() + 0 * int(u),
        "rounded, not cut": lambda n, T, u: (
            1 + (T * (torch.arange(n) + u) / n).round().long().clamp(max=T - 1)
        ),
        "slices of T - 1": lambda n, T, u: 1 + ((T - 1) * (torch.arange(n) + u) / n).long(),
    },
)
def test_low_discrepancy(levels):
    """Over a fine grid of shifts every level is drawn equally often; one batch has one level in each slice."""
    timesteps, count, shifts = 24, 8, 300
    counts = torch.zeros(timesteps + 2)
    for k in range(shifts):
        t = levels(count, timesteps, (k + 0.5) / shifts)
        counts += torch.bincount(t, minlength=len(counts))
        slices = (t - 1) * count // timesteps
        assert sorted(slices.tolist()) == list(range(count))
    assert counts[0] == 0
    assert counts[-1] == 0
    assert (counts[1:-1] == count * shifts / timesteps).all()


# eq:initial-loss


def silent_loss(x0: Tensor, t: Tensor, noise: Tensor, power: Tensor) -> tuple[Tensor, Tensor]:
    """The package's loss of a silent network, and the formula for it, at each level."""
    diffusion = diffusion_of(
        Constant(0.0), timesteps=1000, image_size=8, objective="pred_v", beta_schedule="cosine"
    )
    alpha_bar = diffusion.schedule.alpha_bar[t[0]]
    return diffusion.loss(x0, t, noise), alpha_bar + (1 - alpha_bar) * power


def with_formula(formula):
    """`silent_loss` with another formula beside the package's loss."""

    def both(x0, t, noise, power):
        return silent_loss(x0, t, noise, power)[0], formula(
            schedule_64("cosine", 1000).alpha_bar[t[0]], power
        )

    return both


@equation(
    "eq:initial-loss",
    how="Monte Carlo",
    error_bar="5 standard errors of 20,000 images",
    where=None,
    implementation=silent_loss,
    mutants={
        "roots left in": with_formula(lambda a, m: a.sqrt() + (1 - a).sqrt() * m),
        "picture and noise exchanged": with_formula(lambda a, m: a * m + (1 - a)),
        "picture dropped": with_formula(lambda a, m: a + 0 * m),
        "cross term kept": with_formula(lambda a, m: a + (1 - a) * m + 2 * (a * (1 - a) * m).sqrt()),
    },
)
def test_initial_loss(loss_and_formula):
    """Loss of a network that answers zero, on 20,000 images of known power; within 5 standard errors."""
    generator = seeded(0)
    count, power = 20_000, torch.tensor(0.3)
    x0 = power.sqrt() * (2 * torch.randint(0, 2, (count, 1, 8, 8), generator=generator) - 1).float()
    noise = torch.randn(x0.shape, generator=generator)
    for level in (50, 500, 900):
        loss, formula = loss_and_formula(x0, torch.full((count,), level), noise, power)
        # One pixel's v² has a variance of at most about 3 for pixels of power below 1.
        assert abs(loss - formula) < 5 * math.sqrt(3 / x0.numel())


# eq:ema and eq:ema-unrolled


def averaged_by_torch(values: Tensor, m: float) -> Tensor:
    """The average that training keeps, of one weight that takes these values."""
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, float(values[0]))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(m))
    for value in values:
        nn.init.constant_(model.weight, float(value))
        average.update_parameters(model)
    return average.module.weight.detach().squeeze()


def recursion(step):
    """A running average by `step(average, value)`."""

    def run(values, m):
        average = values[0]
        for value in values[1:]:
            average = step(average, value, m)
        return average

    return run


def lag_weights(count: int, m: float) -> np.ndarray:
    """How much each of `count` values counts, by the impulse response of a first-order filter."""
    response = [1 - m]
    for _ in range(count - 1):
        response.append(m * response[-1])
    weights = np.array(response[::-1])
    weights[0] = 1 - weights[1:].sum()  # the first value was copied and keeps what the others leave
    return weights


@exact(
    "eq:ema",
    where="torch.optim.swa_utils.get_ema_multi_avg_fn",
    implementation=averaged_by_torch,
    mutants={
        "factors exchanged": recursion(lambda a, x, m: (1 - m) * a + m * x),
        "new value in full": recursion(lambda a, x, m: m * a + x),
        "the mean of both": recursion(lambda a, x, m: (a + x) / 2 + 0 * m),
    },
)
def test_ema(average):
    """Torch's average is the geometric weighting of the past, by the impulse response of the filter."""
    values = randn(200, dtype=torch.float64)
    for m in (0.9, 0.995):
        expected = float(lag_weights(len(values), m) @ values.numpy())
        assert math.isclose(float(average(values, m)), expected, rel_tol=1e-9)


def unrolled(values: Tensor, m: float) -> Tensor:
    """m^k θ_0 + (1 − m) Σ m^{k−j} θ_j."""
    k = len(values) - 1
    weights = (1 - m) * m ** (k - torch.arange(1, k + 1, dtype=values.dtype))
    return m**k * values[0] + (weights * values[1:]).sum()


@exact(
    "eq:ema-unrolled",
    implementation=unrolled,
    mutants={
        "exponent j": lambda v, m: (
            m ** (len(v) - 1) * v[0] + ((1 - m) * m ** torch.arange(1, len(v), dtype=v.dtype) * v[1:]).sum()
        ),
        "start forgotten": lambda v, m: unrolled(v, m) - m ** (len(v) - 1) * v[0],
        "factor 1 − m dropped": lambda v, m: (
            m ** (len(v) - 1) * v[0] + (unrolled(v, m) - m ** (len(v) - 1) * v[0]) / (1 - m)
        ),
    },
)
def test_ema_unrolled(formula):
    """The sum equals what torch's step-by-step average arrives at."""
    values = randn(120, seed=1, dtype=torch.float64)
    for m in (0.9, 0.99):
        assert math.isclose(float(formula(values, m)), float(averaged_by_torch(values, m)), rel_tol=1e-9)


# eq:frechet


def moments(points: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance."""
    array = points.double().numpy()
    return array.mean(0), np.cov(array, rowvar=False)


def root(matrix: np.ndarray) -> np.ndarray:
    """Symmetric square root."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def frechet_mutant(shared, *, mean_power=2):
    """The formula with another third term, or without the square on the means."""

    def distance(a, b):
        (mean_a, cov_a), (mean_b, cov_b) = moments(a), moments(b)
        means = np.linalg.norm(mean_a - mean_b) ** mean_power
        return means + np.trace(cov_a) + np.trace(cov_b) - shared(cov_a, cov_b)

    return distance


def product_root(a: np.ndarray, b: np.ndarray) -> float:
    """tr (A^½ B A^½)^½."""
    return float(np.trace(root(root(a) @ b @ root(a))))


@exact(
    "eq:frechet",
    where="ddpm.evaluation.metrics.frechet_distance",
    implementation=frechet_distance,
    mutants={
        "means not squared": frechet_mutant(lambda a, b: 2 * product_root(a, b), mean_power=1),
        "factor 2 dropped": frechet_mutant(product_root),
        "roots multiplied": frechet_mutant(lambda a, b: 2 * np.trace(root(a) @ root(b))),
        "root of the product left out": frechet_mutant(lambda a, b: 2 * np.trace(a @ b)),
    },
)
def test_frechet(distance):
    """The cheapest way to carry one cloud onto its image under a symmetric positive map A is that map (Brenier).

    Then the cost is the mean of ‖x − Ax − c‖², which needs no matrix root. On a few points the assignment problem,
    solved exactly, confirms that no other pairing is cheaper.
    """
    generator = seeded(0)
    shape = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    cloud = torch.randn(400, 3, generator=generator, dtype=torch.float64) @ shape
    stretch = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 0.6]], dtype=torch.float64)
    image = cloud @ stretch + torch.tensor([0.4, -1.0, 0.2], dtype=torch.float64)
    cost = torch.cdist(cloud, image).square().numpy()
    rows, columns = linear_sum_assignment(cost)
    assert (rows == columns).all()
    # np.cov divides by n − 1, the assignment by n: scale the spread, not the shift of the mean.
    shift = float((cloud.mean(0) - image.mean(0)).square().sum())
    spread = (cost[rows, columns].mean() - shift) * len(cloud) / (len(cloud) - 1)
    assert math.isclose(distance(cloud, image), shift + spread, rel_tol=1e-8)
