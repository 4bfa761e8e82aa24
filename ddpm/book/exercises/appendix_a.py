"""Appendix A: Gaussians."""

import math

import torch
from torch.distributions import MultivariateNormal, kl_divergence

from ddpm.book.exercises.answers import Ask, exercise
from ddpm.gaussians import condition


@exercise("two-numbers", "given(rho, x2)")
def _(ask: Ask) -> None:
    x1 = torch.linspace(-12, 12, 8001)
    for rho, x2 in ((0.6, 2.0), (-0.9, 1.0), (0.0, -1.5)):
        pair = MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, rho], [rho, 1.0]]))
        weight = torch.softmax(pair.log_prob(torch.stack([x1, torch.full_like(x1, x2)], 1)), 0)
        mean = weight @ x1
        ask(rho, x2).equals((mean, weight @ (x1 - mean) ** 2))


@exercise("straight-guess", "straight_error(inputs, target)")
def _(ask: Ask) -> None:
    for count, width in ((50, 2), (30, 1), (200, 4)):
        inputs = torch.randn(count, width) @ torch.randn(width, width) + 1
        target = inputs.square().sum(1) + torch.randn(count)
        straight = torch.cat([torch.ones(count, 1), inputs], 1)
        guess = straight @ torch.linalg.lstsq(straight, target[:, None]).solution
        ask(inputs, target).equals((guess[:, 0] - target).square().mean())


@exercise("mutual-information", "bits_held(snr)")
def _(ask: Ask) -> None:
    for snr in (0.01, 1.0, 30.0):
        shared = math.sqrt(snr / (1 + snr))
        joint = MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, shared], [shared, 1.0]]))
        apart = MultivariateNormal(torch.zeros(2), torch.eye(2))
        ask(snr).equals(kl_divergence(joint, apart) / math.log(2))


@exercise("linear-look", "look(a, A, F, B, y)")
def _(ask: Ask) -> None:
    for D, k in ((1, 1), (5, 2), (2, 3)):
        root, F, noise_root = torch.randn(D, D), torch.randn(k, D), torch.randn(k, k)
        A, B, a, y = root @ root.T, noise_root @ noise_root.T, torch.randn(D), torch.randn(k)
        covariance = torch.cat([torch.cat([A, A @ F.T], 1), torch.cat([F @ A, F @ A @ F.T + B], 1)])
        expected = condition(torch.cat([a, F @ a]), covariance, torch.arange(D + k) >= D, y)
        ask(a, A, F, B, y).equals(expected, rtol=1e-4, atol=1e-6)
