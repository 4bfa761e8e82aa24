"""The step back by itself: the rules for its variance, against exact conditional variances and by hand."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from ddpm import gaussians
from ddpm.likelihood import vlb_terms
from ddpm.mixture_oracle import GaussianMixtureOracle
from ddpm.prediction import full_timesteps
from ddpm.reverse_process import OptimalVariance, ReverseStep, variance_rule
from ddpm.schedule import NoiseSchedule, cosine_betas, linear_betas

SCHEDULE = NoiseSchedule(linear_betas(40), dtype=torch.float64)
PICTURES = (
    torch.randint(0, 256, (3, 2, 2, 1), generator=torch.Generator().manual_seed(0)).double() / 127.5 - 1
)


def learned(rule: Callable[[Tensor], Tensor]) -> SimpleNamespace:
    """A model that hands a log-variance on with its guess."""

    def predict(
        x_t: Tensor, t: Tensor, labels: Tensor | None = None, *, clip_x0: bool = False
    ) -> SimpleNamespace:
        del labels, clip_x0
        return SimpleNamespace(x0=0.9 * x_t, noise=x_t, log_variance=rule(t))

    return SimpleNamespace(schedule=SCHEDULE, predict=predict)


def per_image(table: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda t: table[t].view(-1, 1, 1, 1)


@pytest.mark.parametrize("few", [None, 7])
def test_a_learned_variance_that_equals_a_table_costs_the_same(few: int | None) -> None:
    table = torch.linspace(0.5, 1.5, 41, dtype=torch.float64) * SCHEDULE.beta
    model = learned(per_image(table.log()))
    by_table, by_rule = (
        vlb_terms(model, PICTURES, variance=variance, seeds=[1, 2, 3], timesteps_per_image=few)
        for variance in (table, lambda _x, _t, prediction: prediction.log_variance)
    )
    torch.testing.assert_close(by_rule.steps, by_table.steps, rtol=1e-12, atol=0)


def test_a_learned_variance_may_differ_in_every_pixel() -> None:
    """Two channels with variances of their own cost what each would cost alone."""
    wide, narrow = SCHEDULE.beta.log(), SCHEDULE.posterior_log_variance_clipped
    wide = torch.cat([narrow[:2], wide[2:]])  # the two fixed choices take β̃_2 at t = 1
    model = learned(lambda t: torch.stack([wide[t], narrow[t]], dim=1)[:, :, None, None])
    both = vlb_terms(
        model, PICTURES, variance=lambda _x, _t, prediction: prediction.log_variance, seeds=[1, 2, 3]
    )
    large, small = (
        ReverseStep(model, variance_rule(model, word), None, clip_x0=True)
        for word in ("fixed_large", "fixed_small")
    )
    x_t, t = torch.randn(3, 2, 2, 1, dtype=torch.float64), torch.tensor([2, 9, 40])
    mixed = ReverseStep(model, lambda _x, _t, prediction: prediction.log_variance, None, clip_x0=True)
    ours = mixed.moments(x_t, t)[1].expand_as(x_t)
    assert torch.allclose(ours[:, :1], large.moments(x_t, t)[1])
    assert torch.allclose(ours[:, 1:], small.moments(x_t, t)[1])
    assert both.total.isfinite().all()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            lambda x_t: torch.zeros(len(x_t)),
            r"must return log-variances of shape \(3, 2, 2, 1\).*but got \(3,\)",
        ),
        (lambda _: torch.zeros(3, 2, 2, 5), "1 in place of any side"),
        (lambda x_t: torch.full_like(x_t, -torch.inf), "not finite; the variance must be positive"),
        (lambda x_t: torch.full_like(x_t, torch.nan), "not finite"),
    ],
)
def test_a_rule_that_answers_nonsense(answer: Callable[[Tensor], Tensor], message: str) -> None:
    model = learned(per_image(SCHEDULE.beta))
    with pytest.raises(ValueError, match=message):
        vlb_terms(model, PICTURES, variance=lambda x_t, _t, _prediction: answer(x_t))


# The best variance


def true_variance(schedule: NoiseSchedule, data: Tensor, t: int) -> Tensor:
    """Diagonal of Cov(x_{t−1} | x_t) for x_0 ~ N(·, data), by conditioning their joint Gaussian; shape (D,)."""
    size, kept, before = len(data), schedule.alpha[t], schedule.alpha_bar[t - 1]
    identity = torch.eye(size, dtype=torch.float64)
    past = before * data + (1 - before) * identity
    joint = torch.cat(
        [
            torch.cat([past, kept.sqrt() * past], dim=1),
            torch.cat([kept.sqrt() * past, kept * past + (1 - kept) * identity], dim=1),
        ]
    )
    observed = torch.arange(2 * size) >= size
    zero = torch.zeros(2 * size, dtype=torch.float64)
    return gaussians.condition(zero, joint, observed, zero[:size])[1].diagonal()


@pytest.mark.parametrize("betas", [linear_betas(40), cosine_betas(100)])
def test_optimal_variance_of_correlated_gaussian_pixels(betas: Tensor) -> None:
    schedule = NoiseSchedule(betas, dtype=torch.float64)
    data = torch.tensor([[0.3, 0.1, 0.0], [0.1, 0.2, -0.05], [0.0, -0.05, 0.4]], dtype=torch.float64)
    oracle = GaussianMixtureOracle(schedule, [[0.3, -0.2, 0.1]], data[None], shape=(3, 1, 1))
    rule = OptimalVariance(oracle)
    x_t = torch.randn(2, 3, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t in (1, 2, 17, schedule.timesteps):
        with torch.no_grad():
            variance = rule(x_t, full_timesteps(t, x_t), oracle.predict(x_t, full_timesteps(t, x_t))).exp()
        expected = true_variance(schedule, data, t).view(1, 3, 1, 1).expand_as(variance)
        torch.testing.assert_close(variance, expected, rtol=1e-7, atol=0)


def test_optimal_variance_of_a_mixture_is_the_spread_of_its_exact_steps_back() -> None:
    schedule = NoiseSchedule(cosine_betas(10), dtype=torch.float64)
    oracle = GaussianMixtureOracle(schedule, [[-1.0], [1.0]], [0.01, 0.04], [0.3, 0.7])
    for t, where in [(5, 0.1), (9, 0.5), (1, -0.9)]:
        x_t = torch.full((40_000, 1, 1, 1), where, dtype=torch.float64)
        level = full_timesteps(t, x_t)
        drawn = oracle.sample_posterior(x_t, level, torch.Generator().manual_seed(t)).flatten()
        squares = (drawn - drawn.mean()) ** 2
        error = squares.std().item() / 200
        one = x_t[:1], level[:1]
        ours = OptimalVariance(oracle)(*one, oracle.predict(*one)).exp().item()
        assert error < 0.03 * ours
        assert abs(squares.mean().item() - ours) < 4.5 * error
