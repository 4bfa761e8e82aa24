"""Chapter 7: training."""

import statistics

import torch
from torch import Tensor

from ddpm.book.exercises.answers import Ask, exercise
from ddpm.prediction import Objective, training_target
from ddpm.schedule import NoiseSchedule, cosine_betas
from ddpm.support.scales import to_image_scale, to_model_scale


@exercise("training-half-life", "decay_for(steps, every)")
def _(ask: Ask) -> None:
    for steps, every in ((1000, 1), (1000, 10), (50, 25)):
        reply = ask(steps, every)
        decay = reply.numbers()
        reply.must(0 < decay < 1, f"gives {decay:.6g}, which does not lie between 0 and 1")
        left = decay ** (steps // every)
        reply.must(
            torch.isclose(left, torch.tensor(0.5)),
            f"leaves {left:.6g} of the past after {steps} steps, but a half is asked for",
        )


@exercise("training-first-loss", "first_loss(objective, x_0)")
def _(ask: Ask) -> None:
    schedule = NoiseSchedule(cosine_betas(100), dtype=torch.float64)
    objectives: tuple[Objective, ...] = ("pred_noise", "pred_x0")
    for objective in objectives:
        x_0, noise = torch.rand(400, 1, 8, 8) - 0.2, torch.randn(400, 1, 8, 8)
        signal, sigma = schedule.signal_and_sigma(torch.randint(1, 101, (400,)), x_0)
        target = training_target(objective, x_0, noise, signal, sigma)
        loss, reply = target.square().mean(), ask(objective, x_0)
        value = reply.numbers()
        off = (value / loss - 1).abs()
        reply.must(
            off < 0.04, f"gives {value:.4g}, but on 400 pictures the loss of a silent network is {loss:.4g}"
        )


@exercise("training-last-noise", "with_noise(images, std, z)")
def _(ask: Ask) -> None:
    images, z = torch.rand(3, 1, 4, 4), torch.randn(3, 1, 4, 4)
    for std in (0.0, 0.1, 0.8):
        ask(images, std, z).equals(to_image_scale(to_model_scale(images) + std * z).clamp(0, 1))


@exercise("training-wrong-level", "loss_when_told(network, x_t, t, target, k)")
def _(ask: Ask) -> None:
    def network(x: Tensor, t: Tensor) -> Tensor:
        return x * (t.view(-1, 1, 1, 1) / 100) ** 2

    x_t, target, t = torch.randn(4, 1, 2, 2), torch.randn(4, 1, 2, 2), torch.tensor([30, 40, 50, 90])
    for k in (0, 10, -20):
        squares = [(network(x_t[i : i + 1], t[i] + k) - target[i]) ** 2 for i in range(4)]
        ask(network, x_t, t, target, k).equals(torch.stack(squares).mean())


@exercise("training-steps", "paired(none, fresh)")
def _(ask: Ask) -> None:
    for groups in (5, 12):
        none = torch.randn(groups)
        fresh = none + 0.3 + 0.1 * torch.randn(groups)
        gaps = [b - a for a, b in zip(none.tolist(), fresh.tolist(), strict=True)]
        ask(none, fresh).equals((statistics.fmean(gaps), statistics.stdev(gaps) / groups**0.5))
