"""Chapter 9: evaluation."""

import torch
from torch import Tensor
from torch.distributions import Chi2

from ddpm.book.exercises.answers import Ask, exercise, shown
from ddpm.evaluation.metrics import frechet_distance


@exercise("evaluation-rounding", "to_levels(pictures, levels)")
def _(ask: Ask) -> None:
    for levels in (2, 4, 256):
        pictures, grey = torch.rand(2, 1, 4, 4), torch.linspace(0, 1, levels)
        ask(pictures, levels).equals(grey[(pictures[..., None] - grey).abs().argmin(-1)])


@exercise("evaluation-how-many", "excess(features, n)")
def _(ask: Ask) -> None:
    # The mean of n draws from N(0, 1) has the variance 1/n, n − 1 times their variance is chi-squared.
    n, draws = 1000, 100_000
    means, squares = torch.randn(2, draws) / n**0.5, Chi2(torch.tensor(n - 1.0)).sample((2, draws))
    spreads = (squares / (n - 1)).sqrt()
    _near(ask, 1, n, (means[0] - means[1]) ** 2 + (spreads[0] - spreads[1]) ** 2)
    features, n = 64, 2000
    pairs = (torch.randn(2, n, features) for _ in range(25))
    _near(ask, features, n, torch.tensor([frechet_distance(*pair) for pair in pairs]) / features)


def _near(ask: Ask, features: int, n: int, scores: Tensor) -> None:
    """Refuse an excess that is not the scores' mean, within four errors and 1% for terms of 1/n²."""
    reply, mean = ask(features, n), scores.mean()
    value, error = reply.numbers(), 4 * scores.std() / len(scores) ** 0.5 + 0.01 * mean
    reply.must(
        (value - mean).abs() < error,
        f"gives {value:.4g}, but {len(scores)} scores average {mean:.4g} ± {error:.2g}",
    )


@exercise("evaluation-shifted", "ratio_of_shifts(drawn, training, held_out)")
def _(ask: Ask) -> None:
    # The border is black, so that it does not matter what a shift brings in.
    training, held_out = torch.nn.functional.pad(torch.rand(2, 12, 1, 5, 5), (1, 1, 1, 1))
    for words, copies in (("copies", training), ("copies shifted to the left", training.roll(-1, 3))):
        reply = ask(copies, training, held_out)
        reply.must(reply.numbers().abs() < 0.01, f"gives {shown(reply.numbers())} for {words}")
    # Squares of one brightness each, which no shift brings nearer. Per pixel, the nearest of one set are apart by 0.15,
    # 0.35 and 0.45, of the other by 0.3, 0.2 and 0.1.
    squares = torch.nn.functional.pad(torch.ones(1, 1, 5, 5), (1, 1, 1, 1))
    shades = torch.tensor([0.0, 0.5, 0.6])[:, None, None, None]
    ask(shades * squares, 0.15 * squares, torch.cat([0.3 * squares, 0.7 * squares])).equals(0.95 / 0.6)
    new, training, held_out = torch.rand(3, 12, 1, 6, 6)
    reply = ask(new, training, held_out)
    one, other = reply.numbers(), ask(new, held_out, training).numbers()
    reply.must(0.7 < one < 1.4, f"gives {shown(one)} for pictures that are not copied")
    reply.must(
        (one * other - 1).abs() < 1e-4,
        "and its value for exchanged sets do not multiply to 1, as they should",
    )


@exercise("evaluation-permutation", "p_value(a, b)")
def _(ask: Ask) -> None:
    apart = ask(torch.randn(30, 4), torch.randn(30, 4) + 2)
    p = apart.numbers()
    apart.must(0 <= p < 0.05, f"gives {p:.3g} for two sets that lie far apart")
    found, generator = [], torch.Generator().manual_seed(3)
    for _ in range(24):
        reply = ask(*torch.randn(2, 25, 4, generator=generator))
        p = reply.numbers()
        reply.must(0 <= p <= 1, f"gives {p:.3g}, which is no probability")
        found.append(p)
    below = int((torch.stack(found) < 0.4).sum())
    # 9.6 are expected, give or take 2.4. Of these pairs 12 are below by thousands of shuffles, and none is near 0.4.
    apart.must(
        4 <= below <= 17,
        f"is right, but of 24 pairs of one distribution {below} have p < 0.4; expected are about 10",
    )
