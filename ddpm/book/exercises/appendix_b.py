"""Appendix B: four families."""

import torch

from ddpm.book.exercises.answers import Ask, exercise


@exercise("four-slopes", "slope_ratio(J)")
def _(ask: Ask) -> None:
    for J in (0.001, 0.2, 0.9):
        h = torch.tensor(J).logit().requires_grad_()
        with torch.enable_grad():
            (game,) = torch.autograd.grad((1 - h.sigmoid()).log(), h)
            (other,) = torch.autograd.grad(-h.sigmoid().log(), h)
        ask(J).equals(other / game)


@exercise("four-recall", "radii(points)")
def _(ask: Ask) -> None:
    for count, width in ((4, 1), (30, 3)):
        points, expected = torch.randn(count, width), []
        for i in range(count):
            others = sorted((points[i] - points[j]).norm().item() for j in range(count) if j != i)
            expected.append(others[2])
        ask(points).equals(torch.tensor(expected), atol=1e-5)


@exercise("four-dequantisation", "averaged_price(prices)")
def _(ask: Ask) -> None:
    for draws in (1, 10):
        prices = 3 * torch.rand(draws, 4)
        ask(prices).equals(-torch.exp(-prices).mean(0).log())
    # Prices of pictures are hundreds of nats, and their exponentials too small to be added as they are.
    ask(prices + 2000).equals(-torch.exp(-prices).mean(0).log() + 2000)
