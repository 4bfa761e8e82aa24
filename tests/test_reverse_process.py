"""`ddpm.reverse_process`: the step back and the rules for its variance, by hand and against exact variances."""

from types import SimpleNamespace

import pytest
import torch

from ddpm import NoiseSchedule, Prediction
from ddpm.mixture_oracle import GaussianMixtureOracle
from ddpm.reverse_process import OptimalVariance, ReverseStep, draw, learned_log_variance, variance_rule
from tests.networks import GaussianDenoiser, Pointwise, diffusion_of, randn, schedule_64, seeded

SCHEDULE = schedule_64("linear", 50)
EXACT = GaussianDenoiser(SCHEDULE, 0.3, 0.25)
T = torch.tensor([1, 2, 30, 50])
X = randn(4, 2, 3, 3, dtype=torch.float64)
LOG_VARIANCE = randn(4, 2, 3, 3, seed=1, dtype=torch.float64)
ONE = torch.ones((), dtype=torch.float64)
LEARNED = Prediction(X, 2 * X, ONE, ONE, LOG_VARIANCE)


def model(**attributes):
    return SimpleNamespace(schedule=SCHEDULE, **attributes)


def variance_of(diffusion, variance, x=X, t=T):
    return variance_rule(diffusion, variance)(x, t, LEARNED).exp()


def test_fixed_variances_are_the_posteriors_and_betas():
    """But for t = 1, where both take the posterior's at t = 2."""
    small, beta = SCHEDULE.posterior_variance, SCHEDULE.beta
    for variance, table in (("fixed_small", small), ("fixed_large", beta), (None, small)):
        expected = torch.stack([small[2], *table[T[1:]]]).view(4, 1, 1, 1)
        torch.testing.assert_close(variance_of(EXACT, variance), expected, rtol=1e-12, atol=0)
    short = GaussianDenoiser(NoiseSchedule([0.7], dtype=torch.float64), 0.0, 1.0)
    for variance in ("fixed_small", "fixed_large"):
        assert variance_of(short, variance, X[:1], T[:1]).item() == pytest.approx(0.7)


def test_a_table_is_looked_up_at_t_in_the_type_of_x():
    table = torch.linspace(0.5, 1.5, 51)
    got = variance_of(EXACT, table, X.float())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, table[T].view(4, 1, 1, 1))
    table[0] = 0  # at clean data there is no step
    torch.testing.assert_close(variance_of(EXACT, table, X.float()), got)


def test_a_learned_variance_is_that_of_the_prediction_and_the_default():
    for variance in (None, "learned"):
        assert torch.equal(variance_of(model(learned_variance=True), variance), LOG_VARIANCE.exp())
    for attributes in ({}, {"learned_variance": False}):
        assert variance_of(model(**attributes), None).shape == (4, 1, 1, 1)
    assert variance_of(model(learned_variance=True), "fixed_large").shape == (4, 1, 1, 1)


def test_learned_log_variance_runs_from_the_small_variance_to_the_large_one():
    """Between them it is geometric, and it may go beyond; at t = 1 the small one is that of t = 2, as everywhere."""
    large, small = SCHEDULE.beta[T], SCHEDULE.posterior_variance[T.clamp(min=2)]
    between, beyond = small**0.25 * large**0.75, large**2 / small
    for fraction, expected in ((-1.0, small), (1.0, large), (0.5, between), (3.0, beyond)):
        got = learned_log_variance(SCHEDULE, T, X.new_full((4, 1, 1, 1), fraction))
        torch.testing.assert_close(got.exp().flatten(), expected, rtol=1e-10, atol=0)


def test_moments_are_those_of_the_posterior_with_the_predicted_image():
    diffusion = diffusion_of(Pointwise(), objective="pred_x0")
    labels, x, rule = torch.tensor([0, 1, 2, 3]), X[:, :1].float(), lambda *asked: asked[2].x0 - 7
    for clip in (False, True):
        mean, log_variance, x0 = ReverseStep(diffusion, rule, labels, clip).moments(x, T)
        expected = diffusion.predict(x, T, labels, clip_x0=clip).x0
        assert torch.equal(x0, expected)
        assert torch.equal(log_variance, expected - 7)
        torch.testing.assert_close(mean, diffusion.q_posterior(expected, x, T)[0])
    assert not torch.equal(expected, diffusion.predict(x, T, labels).x0), "nothing to clip"


def test_draw_adds_noise_of_the_variance_except_at_the_first_step():
    noise = torch.randn(X.shape, generator=seeded(3)).double()
    noise[0] = 0
    got = draw(X, LOG_VARIANCE, T, seeded(3))
    torch.testing.assert_close(got, X + LOG_VARIANCE.exp().sqrt() * noise)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (X[:, 0, 0, 0], r"must return log-variances of shape \(4, 2, 3, 3\).*but got \(4,\)"),
        (X[..., :2], "1 in place of any side"),
        (X[None], "but got \\(1, 4, 2, 3, 3\\)"),
        (X.log(), "not finite; the variance must be positive"),
        (torch.full((4, 1, 1, 1), -torch.inf), "not finite"),
    ],
)
def test_a_rule_that_answers_nonsense_is_refused_whenever_it_does(answer, message):
    answers = [LOG_VARIANCE[:, :1], answer]
    rule = variance_rule(EXACT, lambda *_: answers.pop(0))
    assert torch.equal(rule(X, T, LEARNED), LOG_VARIANCE[:, :1])
    with pytest.raises(ValueError, match=message):
        rule(X, T, LEARNED)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_optimal_variance_of_correlated_gaussian_pixels(name):
    """The diagonal of Cov(x_{t−1} | x_t), by conditioning the joint Gaussian of both; for each image its own t."""
    schedule, identity = schedule_64(name, 50), torch.eye(3, dtype=torch.float64)
    data = torch.tensor([[0.3, 0.1, 0.0], [0.1, 0.2, -0.05], [0.0, -0.05, 0.4]], dtype=torch.float64)
    oracle = GaussianMixtureOracle(schedule, [[0.3, -0.2, 0.1]], data[None], shape=(3, 1, 1))
    x_t = randn(4, 3, 1, 1, dtype=torch.float64)
    with torch.no_grad():
        variance = OptimalVariance(oracle)(x_t, T, oracle.predict(x_t, T)).exp()
    assert not variance.requires_grad
    for got, t in zip(variance, T.tolist(), strict=True):
        alpha, before = schedule.alpha[t], schedule.alpha_bar[t - 1]
        past = before * data + (1 - before) * identity
        later = alpha * past + (1 - alpha) * identity
        expected = (past - alpha * past @ later.inverse() @ past).diagonal()
        torch.testing.assert_close(got.flatten(), expected, rtol=1e-7, atol=0)
