"""The equations of chapter 9: the price from a few terms, distances of sets, copies, and two kinds of luck."""

import math
from itertools import permutations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment, minimize
from scipy.spatial import KDTree
from torch import Tensor

from ddpm import EmpiricalOracle
from ddpm.evaluation.metrics import frechet_distance, kernel_distance, precision_recall
from ddpm.evaluation.report import report_on_samples
from ddpm.likelihood import vlb_terms
from tests.equations.ledger import equation, exact
from tests.networks import schedule_64, seeded

# eq:sampled-bound

PICTURES = torch.randint(0, 256, (12, 1, 2, 2), generator=seeded(0)) / 127.5 - 1
GREYS = (PICTURES * 127.5 + 127.5).round() / 127.5 - 1


def memory() -> EmpiricalOracle:
    """A model whose terms are far from zero: it knows three pictures, of many grey levels."""
    return EmpiricalOracle(schedule_64("cosine", 30), GREYS[:3], dtype=torch.float64)


def sampled(weight=lambda term, count: term):  # noqa: ARG005
    """The sum of L_{t−1} from `count` timesteps of each picture; the option is for mutants."""

    def terms(count, seeds):
        pictures = GREYS[:3].repeat(len(seeds) // 3, 1, 1, 1)
        bound = vlb_terms(memory(), pictures, timesteps_per_image=count, seeds=seeds)
        return weight(bound.steps[:, 2:], count).sum(1)

    return terms


@equation(
    "eq:sampled-bound",
    how="Monte Carlo",
    error_bar="5 standard errors of 600 pictures with 4 timesteps each",
    where="ddpm.likelihood.vlb_terms",
    implementation=sampled(),
    mutants={
        "K forgotten": sampled(lambda terms, count: count * terms),
        "not divided by the probability": sampled(
            lambda terms, count: (terms > 0) * terms.mean() / (terms > 0).double().mean() * 29 / count
        ),
        "the mean of what was drawn": sampled(lambda terms, count: terms / 29 + 0 * count),
    },
)
def test_sampled_bound(formula):
    """All 29 terms of the same pictures, with other noise."""
    whole = vlb_terms(memory(), GREYS[:3].repeat(200, 1, 1, 1), seeds=range(5000, 5600)).denoising
    few = formula(4, range(600))
    error = math.hypot(float(few.std()), float(whole.std())) / math.sqrt(600)
    assert abs(float(few.mean() - whole.mean())) < 5 * error


# eq:mixture-price


def most(share):
    return math.log(1 / share)


@exact(
    "eq:mixture-price",
    implementation=most,
    mutants={
        "log of the share": math.log,
        "share for its logarithm": lambda share: 1 / share,
        "the other share": lambda share: math.log(1 / (1 - share)),
    },
)
def test_mixture_price(formula):
    """Over random pairs of distributions the bound holds, and where the second is zero it is reached."""
    generator = np.random.default_rng(0)
    for share in (0.01, 0.3, 0.8):
        p, q = generator.dirichlet(np.ones(50), 2)
        q[:10], p[10] = 0, 1e-12
        rise = np.log(p) - np.log(share * p + (1 - share) * q)
        assert (rise <= formula(share) + 1e-9).all()
        assert math.isclose(rise.max(), formula(share), rel_tol=1e-9)


# eq:transport-cost


def cheapest(a, b, price=lambda gap: gap**2):
    """The least mean cost over all pairings."""
    return min(price(a - b[list(plan)]).mean() for plan in permutations(range(len(a))))


@exact(
    "eq:transport-cost",
    implementation=cheapest,
    mutants={
        "distance for its square": lambda a, b: cheapest(a, b, np.abs),
        "the dearest plan": lambda a, b: -cheapest(a, b, lambda gap: -(gap**2)),
        "square of the mean": lambda a, b: cheapest(a, b, np.abs) ** 2,
    },
)
def test_transport_cost(formula):
    """On a line the plan that keeps the order; and the assignment problem by the Hungarian method."""
    a, b = np.random.default_rng(1).normal(size=(2, 6))
    assert math.isclose(formula(a, b), ((np.sort(a) - np.sort(b)) ** 2).mean(), rel_tol=1e-12)
    cost = (a[:, None] - b) ** 2
    rows, columns = linear_sum_assignment(cost)
    assert math.isclose(formula(a, b), cost[rows, columns].mean(), rel_tol=1e-12)


# eq:best-plan


def root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def best_trace(a, b):
    return np.trace(root(root(a) @ b @ root(a)))


@exact(
    "eq:best-plan",
    implementation=best_trace,
    mutants={
        "outer root forgotten": lambda a, b: np.trace(root(a) @ b @ root(a)),
        "roots multiplied": lambda a, b: np.trace(root(a) @ root(b)),
        "root of the trace": lambda a, b: math.sqrt(np.trace(a @ b)),
    },
)
def test_best_plan(formula):
    """The largest trace that keeps the joint covariance positive, by a search over Cholesky factors."""
    generator = np.random.default_rng(2)
    a, b = (x @ x.T for x in generator.normal(size=(2, 2, 3)))
    factor_a, factor_b = np.linalg.cholesky(a), np.linalg.cholesky(b)

    def negative(angles):
        # Any coupling is C = F_a Z F_bᵀ with singular values of Z at most 1.
        first, second, low, high = angles
        turn = [np.array([[np.cos(x), -np.sin(x)], [np.sin(x), np.cos(x)]]) for x in (first, second)]
        inner = turn[0] @ np.diag([np.cos(low), np.cos(high)]) @ turn[1]
        return -np.trace(factor_a @ inner @ factor_b.T)

    found = min(minimize(negative, generator.normal(size=4), tol=1e-12).fun for _ in range(20))
    assert math.isclose(formula(a, b), -found, rel_tol=1e-6)


# eq:frechet-bias and eq:frechet-limit


def excess(means=2.0, diagonal=0.5, pairs=1.0):
    """The excess of the score of two Gaussian clouds; the options are for mutants."""

    def formula(spread: Tensor, count: int) -> float:
        square = spread**2
        table = square[:, None] * square / (square[:, None] + square)
        return float((means + diagonal) * square.sum() + pairs * table.sum()) / count

    return formula


@equation(
    "eq:frechet-bias",
    how="Monte Carlo",
    error_bar="4 standard errors of 500 pairs of clouds of 500 points",
    where=None,
    implementation=excess(),
    mutants={
        "means forgotten": excess(means=0),
        "one cloud is exact": excess(1, 0.25, 0.5),
        "variances alone": lambda spread, count: float(3 * (spread**2).sum()) / count,
        "diagonal counted once": excess(diagonal=0),
    },
)
def test_frechet_bias(formula):
    """The mean score of two Gaussian clouds of one distribution, in one, three and five dimensions."""
    for spread in ([1.0], [1.0, 0.7, 0.3], [1.0, 1.0, 0.8, 0.5, 0.1]):
        scale, generator = torch.tensor(spread, dtype=torch.float64), seeded(len(spread))
        clouds = (
            torch.randn(2, 500, len(spread), generator=generator, dtype=torch.float64) for _ in range(500)
        )
        scores = torch.tensor([frechet_distance(a * scale, b * scale) for a, b in clouds])
        # The next term is of order 1/n² and below a hundredth of the first.
        allowed = 4 * float(scores.std()) / math.sqrt(500) + 0.01 * float(scores.mean())
        assert abs(float(scores.mean()) - formula(scale, 500)) < allowed


def limit_over(power):
    """Where a straight line over n^−power through the scores meets an infinite size."""

    def formula(sizes, scores):
        columns = np.stack([np.ones(len(sizes)), np.array(sizes, dtype=float) ** -power], 1)
        return np.linalg.lstsq(columns, scores, rcond=None)[0][0]

    return formula


@equation(
    "eq:frechet-limit",
    how="Monte Carlo",
    error_bar="4 standard errors of 200 pairs of clouds",
    where=None,
    implementation=limit_over(1),
    mutants={
        "one over the root of n": limit_over(0.5),
        "one over n²": limit_over(2),
        "no limit taken": lambda sizes, scores: scores[-1] + 0 * sizes[0],
    },
)
def test_frechet_limit(formula):
    """Uniform clouds, not Gaussian ones, of which one is stretched and shifted: the distance is known."""
    sizes, limits, generator = (80, 160, 320, 640), [], np.random.default_rng(3)
    scale = np.array([1.0, 0.8, 0.5])
    for _ in range(200):
        a, b = (torch.from_numpy(generator.uniform(-1, 1, (640, 3)) * scale) for _ in "ab")
        b = 1.1 * b + 0.05
        limits.append(formula(sizes, np.array([frechet_distance(a[:n], b[:n]) for n in sizes])))
    truth = 3 * 0.05**2 + ((0.1 * scale) ** 2 / 3).sum()
    error = np.std(limits) / math.sqrt(len(limits))
    assert abs(np.mean(limits) - truth) < 4 * error


# eq:mmd, eq:cubic-kernel, eq:mmd-moments and eq:kid


def heaps():
    generator = np.random.default_rng(4)
    return generator.normal(size=(6, 3)), generator.normal(size=(5, 3)) + 0.5


def cubic(a, b):
    return (a @ b.T / a.shape[1] + 1) ** 3


def features_of_kernel(x):
    """φ with φ(a)·φ(b) = (a·b/M + 1)³: the numbers are the weights of 1, a, a⊗a, a⊗a⊗a in the cube."""
    count, m = len(x), x.shape[1]
    two = np.einsum("ni,nj->nij", x, x).reshape(count, -1)
    three = np.einsum("ni,nj,nk->nijk", x, x, x).reshape(count, -1)
    parts = [np.ones((count, 1)), math.sqrt(3 / m) * x, math.sqrt(3) / m * two, m**-1.5 * three]
    return np.concatenate(parts, 1)


def discrepancy(across=2.0, within=1.0):
    def formula(table_aa, table_bb, table_ab):
        return within * (table_aa.mean() + table_bb.mean()) - across * table_ab.mean()

    return formula


@exact(
    "eq:mmd",
    implementation=discrepancy(),
    mutants={
        "factor 2 dropped": discrepancy(across=1.0),
        "sign of the last term": discrepancy(across=-2.0),
        "half of the first terms": discrepancy(within=0.5),
    },
)
def test_mmd(formula):
    """The squared distance of the mean features, for features that give the kernel by their products."""
    a, b = (features_of_kernel(x) for x in heaps())
    gap = ((a.mean(0) - b.mean(0)) ** 2).sum()
    assert math.isclose(formula(a @ a.T, b @ b.T, a @ b.T), gap, rel_tol=1e-9)


@exact(
    "eq:cubic-kernel",
    implementation=cubic,
    mutants={
        "square for the cube": lambda a, b: (a @ b.T / a.shape[1] + 1) ** 2,
        "not divided by M": lambda a, b: (a @ b.T + 1) ** 3,
        "one forgotten": lambda a, b: (a @ b.T / a.shape[1]) ** 3,
    },
)
def test_cubic_kernel(formula):
    """It is the product of features that hold all moments up to the third."""
    a, b = heaps()
    assert np.allclose(formula(a, b), features_of_kernel(a) @ features_of_kernel(b).T)


def moment_sum(weights):
    def formula(a, b):
        m = a.shape[1]
        gaps = []
        for names in ("i", "ij", "ijk"):
            tables = [
                np.einsum(",".join("n" + k for k in names) + "->" + names, *[x] * len(names)) / len(x)
                for x in (a, b)
            ]
            gaps.append(((tables[0] - tables[1]) ** 2).sum())
        return sum(weight * gap for weight, gap in zip(weights(m), gaps, strict=True))

    return formula


@exact(
    "eq:mmd-moments",
    implementation=moment_sum(lambda m: (3 / m, 3 / m**2, 1 / m**3)),
    mutants={
        "factors 3 dropped": moment_sum(lambda m: (1 / m, 1 / m**2, 1 / m**3)),
        "M to the first power throughout": moment_sum(lambda m: (3 / m, 3 / m, 1 / m)),
        "third moments left out": moment_sum(lambda m: (3 / m, 3 / m**2, 0)),
    },
)
def test_mmd_moments(formula):
    """All pairs of two small heaps, weighed by the kernel."""
    a, b = heaps()
    by_pairs = cubic(a, a).mean() + cubic(b, b).mean() - 2 * cubic(a, b).mean()
    assert math.isclose(formula(a, b), by_pairs, rel_tol=1e-9)


def kid_by_hand(*, itself=False, across=2.0):
    """KID of whole sets; the options are for mutants."""

    def formula(a, b):
        a, b = a.double().numpy(), b.double().numpy()
        n, within = len(a), cubic(a, a) + cubic(b, b)
        mean = within.mean() if itself else (within.sum() - np.trace(within)) / (n * (n - 1))
        return mean - across * cubic(a, b).mean()

    return formula


@equation(
    "eq:kid",
    how="Monte Carlo",
    error_bar="4 standard errors of 600 pairs of sets of 4 points",
    where="ddpm.evaluation.metrics.kernel_distance",
    implementation=lambda a, b: float(kernel_distance(a, b).mean),
    mutants={
        "pairs of a point with itself": kid_by_hand(itself=True),
        "factor 2 dropped": kid_by_hand(across=1.0),
        "n² for n (n − 1)": lambda a, b: (
            kid_by_hand()(a, b)
            - (1 - (len(a) - 1) / len(a)) * (kid_by_hand()(a, b) + 2 * cubic(a.numpy(), b.numpy()).mean())
        ),
    },
)
def test_kid(formula):
    """Small sets drawn from two heaps whose discrepancy is known exactly; and sets in which all points are one."""
    heap_a, heap_b = heaps()
    truth = cubic(heap_a, heap_a).mean() + cubic(heap_b, heap_b).mean() - 2 * cubic(heap_a, heap_b).mean()
    a, b, generator = torch.from_numpy(heap_a), torch.from_numpy(heap_b), seeded(5)
    draws = [
        formula(
            a[torch.randint(6, (4,), generator=generator)], b[torch.randint(5, (4,), generator=generator)]
        )
        for _ in range(600)
    ]
    assert abs(np.mean(draws) - truth) < 4 * np.std(draws) / math.sqrt(len(draws))
    same = formula(a[:1].repeat(8, 1), b[:1].repeat(8, 1))
    one, other = heap_a[:1], heap_b[:1]
    assert math.isclose(
        same, (cubic(one, one) + cubic(other, other) - 2 * cubic(one, other)).item(), rel_tol=1e-9
    )


# eq:precision and eq:recall

LINE = torch.tensor([[-5.0], [0.0], [1.0], [3.0], [7.0]])
THREE = torch.tensor([[-0.5], [0.2], [12.0]])


def covered(place=0):
    """The part of the points in a ball whose radius is the distance to the `place`-th other centre, from k on."""

    def share(points, centres, k):
        gaps = (centres - centres.T).abs().sort(1).values[:, k + place]
        return float(((points - centres.T).abs() <= gaps).any(1).double().mean())

    return share


@exact(
    "eq:precision",
    where="ddpm.evaluation.metrics.precision_recall",
    implementation=lambda samples, images, k: precision_recall(samples, images, neighbours=k)[0],
    mutants={
        "a point its own neighbour": covered(-1),
        "one neighbour more": covered(1),
        "balls of the samples": lambda samples, images, k: covered()(images, samples, k),
    },
)
def test_precision(formula):
    """Counted in the head: with k = 1 only the sample at 12 is outside; and by a search tree in the plane."""
    assert math.isclose(formula(THREE, LINE, 1), 2 / 3)
    far = torch.tensor([[-11.0], [5.5], [40.0], [2.0]])
    assert math.isclose(formula(far, LINE, 1), 1 / 2)


@exact(
    "eq:recall",
    where="ddpm.evaluation.metrics.precision_recall",
    implementation=lambda samples, images, k: precision_recall(samples, images, neighbours=k)[1],
    mutants={
        "a point its own neighbour": lambda samples, images, k: covered(-1)(images, samples, k),
        "one neighbour more": lambda samples, images, k: covered(1)(images, samples, k),
        "balls of the pictures": covered(),
    },
)
def test_recall(formula):
    """Counted in the head: with k = 1 the balls around samples miss the picture at −5 alone."""
    assert math.isclose(formula(THREE, LINE, 1), 4 / 5)


# eq:memorisation-ratio and eq:copied-share


def nearest(samples, pictures):
    tree = KDTree(pictures.flatten(1).double().numpy())
    return tree.query(samples.flatten(1).double().numpy())[0]


@exact(
    "eq:memorisation-ratio",
    where="ddpm.evaluation.report.report_on_samples",
    implementation=lambda samples, training, held_out: (
        report_on_samples(samples, held_out, [training], [held_out]).nearest_ratio
    ),
    mutants={
        "upside down": lambda x, b, c: nearest(x, c).sum() / nearest(x, b).sum(),
        "mean of the ratios": lambda x, b, c: (nearest(x, b) / nearest(x, c)).mean(),
        "ratio of the medians": lambda x, b, c: np.median(nearest(x, b)) / np.median(nearest(x, c)),
        "smallest distances": lambda x, b, c: nearest(x, b).min() / nearest(x, c).min(),
    },
)
def test_memorisation_ratio(formula):
    """All pairs of pictures on whole grey levels, one after the other."""
    generator = seeded(6)
    samples, training, held_out = torch.randint(0, 256, (3, 9, 1, 2, 2), generator=generator) / 255
    above = below = 0.0
    for picture in samples.double():
        above += min(math.dist(picture.flatten(), other.flatten()) for other in training.double())
        below += min(math.dist(picture.flatten(), other.flatten()) for other in held_out.double())
    assert math.isclose(formula(samples, training, held_out), above / below, rel_tol=1e-6)


@equation(
    "eq:copied-share",
    how="Monte Carlo",
    error_bar="4 standard errors of 60 triples of sets",
    where=None,
    implementation=lambda share: share,
    mutants={
        "share of the copies": lambda share: 1 - share,
        "square": lambda share: share**2,
        "root": math.sqrt,
    },
)
def test_copied_share(formula):
    """Gaussian clouds in ten dimensions; 1 − γ of the samples are replaced by training points."""
    generator = np.random.default_rng(7)
    for share in (0.9, 0.4):
        found = []
        for _ in range(60):
            training, held_out, drawn = torch.from_numpy(generator.normal(size=(3, 200, 10)))
            drawn = torch.cat([training[: round(200 * (1 - share))], drawn[: round(200 * share)]])
            found.append(nearest(drawn, training).sum() / nearest(drawn, held_out).sum())
        assert abs(np.mean(found) - formula(share)) < 4 * np.std(found) / math.sqrt(60) + 0.002


# eq:variance-components


def components(*, lost=1, within=1, corrected=1.0):
    """Both variances; the options are for mutants."""

    def formula(scores):
        runs, draws = scores.shape
        means = scores.mean(1, keepdims=True)
        draw = ((scores - means) ** 2).sum() / (runs * (draws - within))
        run = ((means - scores.mean()) ** 2).sum() / (runs - lost)
        return np.array([draw, run - corrected * draw / draws])

    return formula


@equation(
    "eq:variance-components",
    how="Monte Carlo",
    error_bar="4 standard errors of 6,000 experiments",
    where=None,
    implementation=components(),
    mutants={
        "n for n − 1": components(within=0),
        "m for m − 1": components(lost=0),
        "draws not taken away": components(corrected=0.0),
        "the whole variance of a draw taken away": lambda scores: components(corrected=scores.shape[1])(
            scores
        ),
    },
)
def test_variance_components(formula):
    """Simulated scores with known variances, of normal runs and of uniform draws."""
    generator = np.random.default_rng(8)
    found = np.array(
        [
            formula(0.5 * generator.normal(size=(4, 1)) + generator.uniform(-0.6, 0.6, size=(4, 5)))
            for _ in range(6000)
        ]
    )
    error = found.std(0) / math.sqrt(len(found))
    assert (np.abs(found.mean(0) - np.array([1.2**2 / 12, 0.25])) < 4 * error).all()
