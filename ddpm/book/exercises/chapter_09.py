"""Chapter 9: evaluation."""

import torch

from ddpm.book.exercises.answers import Ask, exercise
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
        # The formula leaves out terms of 1/n², and the mean of 200 scores has an error of its own.
        ask(features, n).equals(scores.mean(), rtol=0, atol=4 * scores.std().item() / 200**0.5)


@exercise("evaluation-shifted", "ratio_of_shifts(drawn, training, held_out)")
def _(ask: Ask) -> None:
    training, held_out, new = torch.rand(3, 12, 1, 6, 6)
    for drawn in (new, training.roll((1, -1), (2, 3)), training.roll(-1, 3)):
        sums = [0.0, 0.0]
        for picture in drawn:
            moved = [picture.roll((i, j), (1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)]
            for k, others in enumerate((training, held_out)):
                sums[k] += min(
                    (shift - others).square().sum((1, 2, 3)).min().sqrt().item() for shift in moved
                )
        # The distance of equal pictures is known to half of the digits only.
        ask(drawn, training, held_out).equals(sums[0] / sums[1], rtol=1e-4, atol=1e-4)


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
