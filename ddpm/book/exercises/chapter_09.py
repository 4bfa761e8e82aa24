"""Chapter 9: evaluation."""

import torch

from ddpm.book.exercises.answers import Ask, exercise, shown
from ddpm.evaluation.metrics import frechet_distance


@exercise("evaluation-rounding", "to_levels(pictures, levels)")
def _(ask: Ask) -> None:
    for levels in (2, 4, 256):
        pictures, grey = torch.rand(2, 1, 4, 4), torch.linspace(0, 1, levels)
        ask(pictures.clone(), levels).equals(grey[(pictures[..., None] - grey).abs().argmin(-1)])


@exercise("evaluation-how-many", "excess(features, n)")
def _(ask: Ask) -> None:
    for features, n in ((2, 300), (12, 600)):
        pairs = [torch.randn(2, n, features) for _ in range(200)]
        scores = torch.tensor([frechet_distance(*pair) for pair in pairs]) / features
        # The formula leaves out terms of 1/n², which are smaller than the error of this mean.
        error, reply = 4 * scores.std() / 200**0.5, ask(features, n)
        value, mean = reply.numbers(), scores.mean()
        reply.must(
            (value - mean).abs() < error,
            f"gives {value:.4g}, but 200 scores average {mean:.4g} ± {error:.2g}",
        )


@exercise("evaluation-shifted", "ratio_of_shifts(drawn, training, held_out)")
def _(ask: Ask) -> None:
    # The border is black, so that it does not matter what a shift brings in.
    training, held_out = torch.nn.functional.pad(torch.rand(2, 12, 1, 5, 5), (1, 1, 1, 1))
    for words, copies in (("copies", training), ("copies shifted to the left", training.roll(-1, 3))):
        reply = ask(copies, training, held_out)
        reply.must(reply.numbers().abs() < 0.01, f"gives {shown(reply.value)} for {words}")
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
    found = []
    for _ in range(24):
        reply = ask(torch.randn(25, 4), torch.randn(25, 4))
        reply.must(0 <= reply.numbers() <= 1, "is no probability")
        found.append(reply.numbers())
    below = int((torch.stack(found) < 0.4).sum())  # 9.6 of 24 expected, give or take 2.4
    apart.must(
        2 <= below <= 17,
        f"is right, but of 24 pairs of one distribution {below} have p < 0.4; expected are 10",
    )
