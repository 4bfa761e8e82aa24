"""What the exact denoisers share, and that of a finite data set against brute force."""

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ddpm import EmpiricalOracle, GaussianMixtureOracle, NoiseSchedule
from ddpm.prediction import full_timesteps
from tests.networks import randn, schedule_64, seeded

BETAS = [0.02, 0.1, 0.3, 0.5, 0.7]
SHORT = NoiseSchedule(BETAS, dtype=torch.float64)
ALPHA_BAR = torch.tensor([math.prod(1 - beta for beta in BETAS[:t]) for t in range(6)], dtype=torch.float64)
IMAGES = torch.rand(23, 2, 3, 4, generator=seeded(30), dtype=torch.float64) * 2 - 1
T = torch.tensor([1, 2, 2, 3, 4, 5, 5])
NOISE = randn(7, 2, 3, 4, seed=31, dtype=torch.float64)
X = ALPHA_BAR[T].sqrt().view(-1, 1, 1, 1) * IMAGES[:7] + (1 - ALPHA_BAR[T]).sqrt().view(-1, 1, 1, 1) * NOISE
KINDS = ["mixture", "empirical"]


def make(kind: str, schedule=SHORT, dtype=torch.float64, variance=0.2, chunk_size=5):
    """An oracle of these images: each a point, or a Gaussian."""
    if kind == "empirical":
        return EmpiricalOracle(schedule, IMAGES, dtype=dtype, chunk_size=chunk_size)
    variances = torch.full((len(IMAGES),), variance)
    return GaussianMixtureOracle(schedule, IMAGES.flatten(1), variances, shape=(2, 3, 4), dtype=dtype)


# All oracles


@pytest.mark.parametrize("clip_x0", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_predict_is_the_expected_image_in_coordinates_that_agree(kind, clip_x0):
    oracle, x = make(kind, variance=2.0), 3 * X
    x0, prediction = oracle.expected_x0(x, T), oracle.predict(x, T, clip_x0=clip_x0)
    torch.testing.assert_close(prediction.x0, x0.clamp(-1, 1) if clip_x0 else x0)
    signal, sigma = (value.sqrt().view(-1, 1, 1, 1) for value in (ALPHA_BAR[T], 1 - ALPHA_BAR[T]))
    torch.testing.assert_close(signal * prediction.x0 + sigma * prediction.noise, x)
    torch.testing.assert_close(signal * prediction.noise - sigma * prediction.x0, prediction.v)
    torch.testing.assert_close(prediction.score, -prediction.noise / sigma)
    if not clip_x0:  # Tweedie: the mixture computes its score without E[x_0 | x_t]
        torch.testing.assert_close(prediction.score, oracle.score(x, T))
    elif kind == "mixture":
        assert x0.abs().max() > 1, "nothing to clip"


@pytest.mark.parametrize("kind", KINDS)
def test_t_may_differ_within_a_batch(kind):
    oracle = make(kind)
    for i in range(7):
        one = slice(i, i + 1)
        torch.testing.assert_close(oracle.predict(X, T).x0[one], oracle.predict(X[one], T[one]).x0)
        torch.testing.assert_close(oracle.predict(X, T).noise[one], oracle.predict(X[one], T[one]).noise)
        torch.testing.assert_close(oracle.log_density(X, T)[one], oracle.log_density(X[one], T[one]))


@pytest.mark.parametrize("computed", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_images_come_back_in_their_own_type(kind, computed):
    oracle, exact = make(kind, dtype=computed), make(kind)
    for given in (torch.float32, torch.float64):
        belief = oracle.predict(X.to(given), T)
        for value in (belief.x0, belief.noise, belief.v, belief.score, oracle.score(X.to(given), T)):
            assert value.dtype == given
        torch.testing.assert_close(belief.x0.double(), exact.predict(X, T).x0, rtol=1e-4, atol=1e-5)
        assert oracle.log_density(X.to(given), T).dtype == computed
    assert exact.predict(X[:0], T[:0]).x0.shape == (0, 2, 3, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_little_noise_in_float32(kind):
    """1 − ᾱ = 1e-6 has one digit left if ᾱ is rounded to float32 before the subtraction."""
    schedule, values = NoiseSchedule([1e-6], dtype=torch.float64), torch.tensor([0.0, 0.002])
    x, t = torch.tensor([0.0005]).view(1, 1, 1, 1), torch.tensor([1])
    rounded, exact = (
        EmpiricalOracle(schedule, values.view(2, 1, 1, 1), dtype=dtype)
        if kind == "empirical"
        else GaussianMixtureOracle(schedule, values[:, None], [1e-7, 1e-7], dtype=dtype)
        for dtype in (torch.float32, torch.float64)
    )
    torch.testing.assert_close(rounded.log_density(x, t).double(), exact.log_density(x, t), rtol=0, atol=1e-4)
    torch.testing.assert_close(rounded.expected_x0(x, t), exact.expected_x0(x, t), rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_predict_keeps_its_digits_where_there_is_little_noise(kind):
    schedule = NoiseSchedule([1e-6], dtype=torch.float64)
    rounded, exact = (make(kind, schedule, dtype, 1e-7) for dtype in (torch.float32, torch.float64))
    x, t = (IMAGES[:1] + 1e-3 * NOISE[:1]).float(), torch.tensor([1])
    for given, oracle, tolerance in ((x, rounded, 1e-3), (x, exact, 1e-6), (x.double(), rounded, 1e-3)):
        want, got = exact.predict(x.double(), t), oracle.predict(given, t)
        torch.testing.assert_close(got.noise.double(), want.noise, rtol=0, atol=tolerance)
    # In double precision the coordinates agree in all digits, whatever x_0 was computed in.
    torch.testing.assert_close(got.signal * got.x0 + got.sigma * got.noise, x.double(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_underflows(kind, dtype):
    """At T = 1000 the ends of the cosine schedule, images far from all data, and weights below exp(−1e6)."""
    oracle = make(kind, schedule_64("cosine", 1000), dtype, 1e-8)
    data = IMAGES[:9].to(dtype)
    for t in (1, 2, 500, 999, 1000):
        for scale in (0.0, 1.0, 100.0):
            x = (data + scale * randn(9, 2, 3, 4, seed=35, dtype=dtype)).requires_grad_()
            at = full_timesteps(t, x)
            belief = oracle.predict(x, at)
            (gradient,) = torch.autograd.grad(belief.x0.sum(), x, retain_graph=True)
            values = (belief.x0, belief.noise, belief.v, belief.score, oracle.log_density(x, at), gradient)
            assert all(value.isfinite().all() for value in values)
            assert kind == "mixture" or belief.x0.abs().max() <= 1 + 1e-5  # an average of images
    seen = oracle.predict(oracle.schedule.sqrt_alpha_bar[1].to(dtype) * data, full_timesteps(1, data)).x0
    torch.testing.assert_close(seen, data, rtol=0, atol=1e-5)  # at t = 1 there is no doubt
    everything = oracle.expected_x0(data, full_timesteps(1000, data)) - IMAGES.mean(0)
    assert everything.abs().max() < 0.02  # at T nothing is known but the average


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind):
    oracle = make(kind)
    x, t = X[2:6].clone().requires_grad_(), T[2:6]
    (gradient,) = torch.autograd.grad(oracle.log_density(x, t).sum(), x)
    torch.testing.assert_close(oracle.score(x, t), gradient)
    assert torch.autograd.gradcheck(lambda x: oracle.expected_x0(x, t), (x,))
    assert torch.autograd.gradcheck(lambda x: oracle.score(x, t), (x,))


CALLS = ["predict", "expected_x0", "score", "log_density"]


@pytest.mark.parametrize(
    ("kind", "call"),
    [(kind, call) for kind in KINDS for call in CALLS]
    + [("mixture", "sample_posterior"), ("mixture", "responsibilities"), ("empirical", "weights")],
)
def test_calls_refuse_what_does_not_fit(kind, call):
    """Scores and densities of a mixture exist at t = 0 as well."""
    ask = getattr(make(kind), call)
    lowest = 0 if kind == "mixture" and call in ("score", "log_density", "responsibilities") else 1
    ask(X[:2], torch.tensor([lowest, 5]))
    for x, t, message in (
        (X[:2], torch.tensor([lowest - 1, 3]), f"t must lie in {lowest} … 5"),
        (X[:2], torch.tensor([3, 6]), f"t must lie in {lowest} … 5"),
        (X[:2, :, :, :3], T[:2], r"x_t must be .*of shape \(B, 2, 3, 4\)"),
    ):
        with pytest.raises(ValueError, match=message):
            ask(x, t)
    knows = {"mixture": r"one whole number per image, shape \(7,\)", "empirical": "knows no classes"}
    with pytest.raises(ValueError, match=knows[kind]):
        make(kind).predict(X, T, torch.zeros(7))


# A finite data set


@pytest.mark.parametrize("chunk_size", [1, 3, 8, 22, 23, 1000])
def test_empirical_against_brute_force(chunk_size):
    """Weights (B, N) and log-density (B,), pair by pair, by torch's own Gaussian."""
    oracle, images = make("empirical", chunk_size=chunk_size), IMAGES.flatten(1)
    signal, sigma = ALPHA_BAR[T].sqrt()[:, None, None], (1 - ALPHA_BAR[T]).sqrt()[:, None, None]
    logs = torch.distributions.Normal(signal * images, sigma).log_prob(X.flatten(1)[:, None]).sum(2)
    weights = logs.softmax(1)
    assert weights[-1].max() < 0.9, "at the end several images count"
    torch.testing.assert_close(oracle.weights(X, T), weights)
    torch.testing.assert_close(oracle.expected_x0(X, T), (weights @ images).view_as(X))
    torch.testing.assert_close(oracle.log_density(X, T), logs.logsumexp(1) - math.log(23))
    in_float32 = make("empirical", dtype=torch.float32, chunk_size=chunk_size).expected_x0(X, T)
    torch.testing.assert_close(in_float32, oracle.expected_x0(X, T), rtol=0, atol=1e-4)


def test_memory_grows_with_the_chunk_and_not_with_the_data_set():
    """1,000 images of 12 values in chunks of 10 for a batch of 8: nothing larger is ever made."""

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            out = function(*arguments, **(options or {}))
            largest.append(out.numel() if isinstance(out, Tensor) else 0)
            return out

    oracle = EmpiricalOracle(SHORT, torch.rand(1000, 1, 3, 4, generator=seeded(0)), chunk_size=10)
    x, t, largest = torch.zeros(8, 1, 3, 4), torch.tensor([1, 2, 3, 4, 5, 1, 2, 3]), []
    with Largest():
        oracle.predict(x, t)
    assert 96 <= max(largest) <= 120
    with Largest():
        oracle.log_density(x, t)
    assert max(largest) <= 8 * 1000 / 10
