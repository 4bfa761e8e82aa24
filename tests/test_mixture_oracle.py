"""The exact denoiser of a Gaussian mixture against conditioning by linear algebra and torch's own distributions."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from ddpm import EmpiricalOracle, GaussianMixtureOracle, NoiseSchedule
from ddpm.mixture_oracle import choose
from ddpm.prediction import full_timesteps
from tests.networks import randn, seeded

ERROR_BARS = 4.5  # how many standard errors a Monte Carlo mean may be off: about 1 in 150,000
BETAS = [0.02, 0.1, 0.3, 0.5, 0.7]
SHORT = NoiseSchedule(BETAS, dtype=torch.float64)  # T = 5, far too short for a Gaussian step back
DOUBLE = torch.float64

# Three components in three dimensions, each with axes of its own.
WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=DOUBLE)
MEANS = 0.7 * randn(3, 3, seed=1, dtype=DOUBLE)
ROOTS = 0.3 * randn(3, 3, 3, seed=2, dtype=DOUBLE)
COVARIANCES = ROOTS @ ROOTS.mT + 0.02 * torch.eye(3, dtype=DOUBLE)
ORACLE = GaussianMixtureOracle(SHORT, MEANS, COVARIANCES, WEIGHTS, shape=(3, 1, 1))


def alpha_bar(t: int) -> float:
    return math.prod(1 - beta for beta in BETAS[:t])


def components(t: int) -> tuple[Tensor, Tensor]:
    """Means and covariances of the components of x_t."""
    kept = alpha_bar(t)
    return math.sqrt(kept) * MEANS, kept * COVARIANCES + (1 - kept) * torch.eye(3, dtype=DOUBLE)


def mixture(weights: Tensor, means: Tensor, covariances: Tensor) -> MixtureSameFamily:
    return MixtureSameFamily(Categorical(weights), MultivariateNormal(means, covariances))


def earlier(s: int, t: int, x: Tensor) -> MixtureSameFamily:
    """q(x_s | x_t), s < t: each component's joint Gaussian of both, conditioned by linear algebra."""
    (means, covariances), (later_means, later) = components(s), components(t)
    a = math.sqrt(alpha_bar(t) / alpha_bar(s))
    gain = a * covariances @ later.inverse()
    given = means + (gain @ (x - later_means)[..., None]).squeeze(-1)
    left = covariances - a * gain @ covariances
    log_weights = WEIGHTS.log() + MultivariateNormal(later_means, later).log_prob(x)
    return mixture(log_weights.softmax(0), given, (left + left.mT) / 2)


def assert_same_distribution(ours: Tensor, theirs: Tensor) -> None:
    """Two samples of shape (N, D) agree in x, its products in pairs and something bounded, within the error bars."""

    def moments(x: Tensor) -> Tensor:
        pairs = (x[:, :, None] * x[:, None, :]).flatten(1)
        return torch.cat([x, pairs, torch.tanh(3 * x), (x > 0.2).to(x)], 1)

    a, b = moments(ours), moments(theirs)
    error = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
    assert ((a.mean(0) - b.mean(0)).abs() <= ERROR_BARS * error).all()


@pytest.mark.parametrize("t", [0, 1, 3, 5])
def test_density_responsibilities_and_score_against_torch(t):
    x = randn(50, 3, 1, 1, seed=3, dtype=DOUBLE).requires_grad_()
    density = mixture(WEIGHTS, *components(t)).log_prob(x.flatten(1))
    at = full_timesteps(t, x)
    torch.testing.assert_close(ORACLE.log_density(x, at), density)
    torch.testing.assert_close(ORACLE.score(x, at), torch.autograd.grad(density.sum(), x)[0])
    joint = MultivariateNormal(*components(t)).log_prob(x.flatten(1)[:, None]) + WEIGHTS.log()
    torch.testing.assert_close(ORACLE.responsibilities(x, at), joint.softmax(1))
    torch.testing.assert_close(ORACLE.marginal(t), (WEIGHTS, *components(t)))
    if t == 0:
        torch.testing.assert_close(ORACLE.log_likelihood(x), density)


@pytest.mark.parametrize("t", [1, 3, 5])
def test_expected_x0_is_the_mean_given_x_t(t):
    x = randn(3, 3, 1, 1, seed=4, dtype=DOUBLE)
    want = torch.stack([earlier(0, t, one.flatten()).mean for one in x])
    torch.testing.assert_close(ORACLE.expected_x0(x, full_timesteps(t, x)).flatten(1), want)


@pytest.mark.parametrize("t", [1, 2, 5])
def test_sample_posterior_draws_the_step_before(t):
    x = randn(3, 1, 1, seed=t, dtype=DOUBLE).expand(50_000, 3, 1, 1)
    ours = ORACLE.sample_posterior(x, full_timesteps(t, x), seeded(6)).flatten(1)
    torch.manual_seed(7)
    assert_same_distribution(ours, earlier(t - 1, t, x[0].flatten()).sample((50_000,)))


def test_sample_data_draws_from_the_mixture():
    torch.manual_seed(8)
    theirs = mixture(WEIGHTS, MEANS, COVARIANCES).sample((50_000,))
    assert_same_distribution(ORACLE.sample_data(50_000, seeded(9)).flatten(1), theirs)


def test_draws_come_from_the_generator():
    x, t = ORACLE.sample_data(50, seeded(1)), torch.arange(50) % 5 + 1
    state = torch.get_rng_state()
    for draw in (partial(ORACLE.sample_posterior, x, t), partial(ORACLE.sample_data, 50)):
        assert torch.equal(draw(seeded(2)), draw(seeded(2)))
        assert not torch.equal(draw(seeded(2)), draw(seeded(3)))
        assert torch.equal(state, torch.get_rng_state())
        torch.manual_seed(5)
        first = draw(None)
        torch.manual_seed(5)
        assert torch.equal(first, draw(None))
        torch.set_rng_state(state)
    together = ORACLE.sample_posterior(x, t, seeded(2))
    for i in range(5):  # the same noise, with the t of image i for all
        every = ORACLE.sample_posterior(x, full_timesteps(int(t[i]), x), seeded(2))
        torch.testing.assert_close(together[i], every[i])


def test_components_are_chosen_by_their_weights(monkeypatch):
    probabilities = torch.tensor([0.0, 0.2, 0.0, 0.79, 0.01, 0.0], dtype=DOUBLE)
    chosen = choose(probabilities[:, None].expand(-1, 200_000), seeded(25))
    counts = torch.bincount(chosen, minlength=6).double()
    error = (200_000 * probabilities * (1 - probabilities)).sqrt()  # 0 for those without weight
    assert ((counts - 200_000 * probabilities).abs() <= ERROR_BARS * error).all()
    # Nor is a component without weight chosen by the smallest number that torch.rand returns; and where rounding left
    # the sum below 1, the largest one chooses the last component.
    extremes = torch.tensor([0.0, 1 - 1e-16], dtype=DOUBLE)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: extremes)
    assert choose(torch.tensor([[0.0, 0.5], [1.0, 0.4999]], dtype=DOUBLE), None).tolist() == [1, 1]


def test_a_component_without_weight_has_no_say():
    with_it = GaussianMixtureOracle(SHORT, [[-0.5], [0.2], [0.9]], [0.1, 0.2, 0.3], [0.4, 0.0, 0.6])
    without = GaussianMixtureOracle(SHORT, [[-0.5], [0.9]], [0.1, 0.3], [0.4, 0.6])
    x = torch.linspace(-2, 2, 7, dtype=DOUBLE).view(-1, 1, 1, 1).requires_grad_()
    t = full_timesteps(2, x)
    torch.testing.assert_close(with_it.expected_x0(x, t), without.expected_x0(x, t))
    torch.testing.assert_close(with_it.score(x, t), without.score(x, t))
    (gradient,) = torch.autograd.grad(with_it.expected_x0(x, t).sum(), x)
    assert gradient.isfinite().all()


def test_three_ways_to_write_a_covariance():
    means, x = randn(2, 2, dtype=DOUBLE), randn(5, 1, 1, 2, seed=22, dtype=DOUBLE)
    t = torch.arange(1, 6)
    even, uneven = torch.tensor([[[0.3, 0.3], [0.05, 0.05]], [[0.3, 0.01], [0.05, 0.2]]], dtype=DOUBLE)
    for forms in ((even, even[:, 0], torch.diag_embed(even)), (uneven, torch.diag_embed(uneven))):
        one, *others = (GaussianMixtureOracle(SHORT, means, form) for form in forms)
        for other in others:
            torch.testing.assert_close(other.expected_x0(x, t), one.expected_x0(x, t))
            torch.testing.assert_close(other.log_density(x, t), one.log_density(x, t))
    assert one.weights.tolist() == [0.5, 0.5]
    assert one.shape == (1, 1, 2)


def test_rounding_of_a_covariance_or_a_weight_is_no_fault():
    covariance = torch.tensor([[[1.0, 0.3], [0.3 + 1e-7, 1.0]]])
    oracle = GaussianMixtureOracle(SHORT, [[0.0, 0.0]], covariance, [1 + 1e-7])
    torch.testing.assert_close(oracle.marginal(0)[2].float(), covariance)
    assert oracle.weights.tolist() == [1.0]


# Classes

CLASSED = GaussianMixtureOracle(SHORT, MEANS, COVARIANCES, WEIGHTS, classes=[1, 0, 1], shape=(3, 1, 1))
OF_CLASS = {0: [1], 1: [0, 2]}


def only(label: int) -> GaussianMixtureOracle:
    """The mixture of one class."""
    own = OF_CLASS[label]
    return GaussianMixtureOracle(
        SHORT, MEANS[own], COVARIANCES[own], WEIGHTS[own] / WEIGHTS[own].sum(), shape=(3, 1, 1)
    )


@pytest.mark.parametrize("t", [1, 3, 5])
def test_a_class_is_the_mixture_of_its_components(t):
    x = randn(6, 3, 1, 1, seed=3, dtype=DOUBLE)
    at, labels = full_timesteps(t, x), torch.tensor([0, 1, 2, 1, 0, 2])
    assert (CLASSED.num_classes, CLASSED.null_label, ORACLE.num_classes) == (2, 2, 3)
    density, score = CLASSED.log_density(x, at, labels), CLASSED.score(x, at, labels)
    predicted = CLASSED.predict(x, at, labels)
    for i, label in enumerate(labels.tolist()):
        oracle, one, s = only(label) if label < 2 else ORACLE, x[i : i + 1], at[i : i + 1]
        torch.testing.assert_close(density[i : i + 1], oracle.log_density(one, s))
        torch.testing.assert_close(score[i : i + 1], oracle.score(one, s))
        torch.testing.assert_close(predicted.x0[i : i + 1], oracle.predict(one, s).x0)
        torch.testing.assert_close(predicted.score[i : i + 1], oracle.score(one, s))
    torch.testing.assert_close(CLASSED.predict(x, at).x0, ORACLE.predict(x, at).x0)
    # Bayes' rule.
    log_prior = torch.tensor([0.5, 0.5], dtype=DOUBLE).log()
    joint = torch.stack([only(y).log_density(x, at) for y in (0, 1)], 1) + log_prior
    torch.testing.assert_close(CLASSED.class_log_probabilities(x, at), joint.log_softmax(1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x, t: CLASSED.predict(x, t, [0, 3]),
            "must lie in 0 … 1, or be 2 for none, but got .* 0 to 3",
        ),
        (lambda x, t: CLASSED.score(x, t, [0, -1]), "or be 2 for none, but got values from -1 to 0"),
        (lambda x, t: CLASSED.predict(x, t, [0]), "one whole number per image"),
        (lambda x, t: EmpiricalOracle(SHORT, x).predict(x, t, [0, 1]), "oracle knows no classes, so labels"),
    ],
)
def test_labels_that_are_no_classes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, 3, 1, 1), torch.tensor([1, 5]))


# A measurement


def test_a_measured_mixture_is_its_posterior():
    """log p(x | y) and log p(x) + log p(y | x) differ by one number, log p(y), at every x."""
    matrix, value, variance = randn(2, 3, seed=7, dtype=DOUBLE), randn(2, seed=8, dtype=DOUBLE), 0.3
    posterior = CLASSED.measured(matrix.numpy(), value.tolist(), variance)
    x = randn(40, 3, 1, 1, seed=9, dtype=DOUBLE)
    noise = MultivariateNormal(torch.zeros(2, dtype=DOUBLE), variance * torch.eye(2, dtype=DOUBLE))
    joint = ORACLE.log_likelihood(x) + noise.log_prob(value - x.flatten(1) @ matrix.T)
    evidence = joint - posterior.log_likelihood(x)
    covariances = matrix @ COVARIANCES @ matrix.T + variance * torch.eye(2, dtype=DOUBLE)
    wanted = mixture(WEIGHTS, MEANS @ matrix.T, covariances).log_prob(value)
    torch.testing.assert_close(evidence, wanted.expand(40))
    assert (posterior.shape, posterior.classes.tolist()) == ((3, 1, 1), [1, 0, 1])


@pytest.mark.parametrize(
    ("matrix", "value", "variance", "message"),
    [
        (
            [[1.0, 0.0]],
            [0.5],
            0.1,
            r"of shape \(1, 3\) and a value of shape \(1,\), .* got \(1, 2\) and \(1,\)",
        ),
        ([[1.0, 0.0, 0.0]], [0.5, 0.1], 0.1, r"a matrix of shape \(2, 3\)"),
        ([[1.0, 0.0, 0.0]], 0.5, 0.1, r"a matrix of shape \(M, 3\)"),
        ([[1.0, 0.0, math.nan]], [0.5], 0.1, "of finite numbers"),
        ([[1.0, 0.0, 0.0]], [0.5], 0.0, "variance must be a number above 0, but got 0.0"),
    ],
)
def test_what_is_no_measurement_is_refused(matrix, value, variance, message):
    with pytest.raises(ValueError, match=message):
        CLASSED.measured(matrix, value, variance)
