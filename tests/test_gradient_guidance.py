"""`ddpm.gradient_guidance` where log p(y | x_t), or the whole posterior, is known exactly."""

from functools import partial

import pytest
import torch
from torch import nn

from ddpm import (
    ClassifierGuidance,
    GaussianDiffusion,
    GaussianMixtureOracle,
    NoiseSchedule,
    ReconstructionGuidance,
    Unet,
    ancestral,
    ddim,
    dpm_solver_pp,
    flow_log_density,
    heun,
)
from ddpm.prediction import full_timesteps
from ddpm.reverse_process import OptimalVariance
from tests.networks import (
    SMALL_UNET,
    Classed,
    GaussianDenoiser,
    Pointwise,
    diffusion_of,
    drawn,
    randn,
    schedule_64,
    seeded,
)

DOUBLE = torch.float64
SCHEDULE = schedule_64("cosine", 40)
# Five components in two dimensions, of three classes.
CLASSES = [0, 1, 1, 2, 0]
ROOTS = 0.3 * randn(5, 2, 2, seed=2, dtype=DOUBLE)
ORACLE = GaussianMixtureOracle(
    SCHEDULE,
    0.8 * randn(5, 2, seed=1, dtype=DOUBLE),
    ROOTS @ ROOTS.mT + 0.02 * torch.eye(2, dtype=DOUBLE),
    [0.1, 0.2, 0.3, 0.25, 0.15],
    classes=CLASSES,
)
X, LABELS = randn(12, 1, 1, 2, seed=3, dtype=DOUBLE), torch.arange(12) % 3
WALKS = {
    "ancestral": ancestral,
    "ddim": partial(ddim, steps=5, eta=0.5),
    "heun": partial(heun, steps=5),
    "dpm++": partial(dpm_solver_pp, steps=5),
}


def gradient_of(function):
    """∇ of a log-density at X, by autograd."""
    x = X.clone().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


# Guidance on a mixture, against autograd of log p


def test_a_conditional_model_can_be_guided_as_well():
    at = full_timesteps(15, X)
    guided = ClassifierGuidance(ORACLE, ORACLE.class_log_probabilities, 2.0, conditional=True)
    wanted = gradient_of(lambda x: 3 * ORACLE.log_density(x, at, LABELS) - 2 * ORACLE.log_density(x, at))
    torch.testing.assert_close(guided.predict(X, at, LABELS).score, wanted, rtol=1e-8, atol=1e-8)


def test_classifier_guidance_moves_the_mean_of_a_step_as_algorithm_1_does_up_to_the_variance():
    """Dhariwal & Nichol 2021: μ + s Σ ∇ log p(y | x_t); in its place of Σ stands β_t/√α_t."""
    for t in (2, 15, 40):
        at = full_timesteps(t, X)
        gradient = gradient_of(lambda x, at=at: ORACLE.log_density(x, at, LABELS) - ORACLE.log_density(x, at))
        guided = ClassifierGuidance(ORACLE, ORACLE.class_log_probabilities, 1.7)
        moved = SCHEDULE.posterior_mean(guided.predict(X, at, LABELS).x0, X, at)
        mean = SCHEDULE.posterior_mean(ORACLE.predict(X, at).x0, X, at)
        factor = SCHEDULE.beta[t] / SCHEDULE.alpha[t].sqrt()
        torch.testing.assert_close(moved, mean + 1.7 * factor * gradient, rtol=1e-8, atol=1e-8)


class NoisyClassifier(nn.Module):
    """Logits with a look at whether they were asked for in training mode."""

    def __init__(self):
        super().__init__()
        self.layer, self.modes = nn.Linear(16, 3), []

    def forward(self, x_t, t):
        self.modes.append(self.training)
        return self.layer(x_t.flatten(1)) * t[:, None].to(x_t.dtype).log()


@pytest.mark.parametrize("name", WALKS)
@pytest.mark.parametrize("network", [{}, {"learned_variance": True, "self_condition": True}])
def test_every_sampler_takes_a_classifier_and_a_measurement(name, network):
    torch.manual_seed(0)
    diffusion, classifier = diffusion_of(Classed(**network), timesteps=20), NoisyClassifier()
    known = torch.tensor([True, False, True, False])
    value = torch.full((2, 1, 4, 2), 0.5)
    guides = [
        partial(ClassifierGuidance, classifier=classifier, scale=3.0),
        lambda model: ReconstructionGuidance(model, lambda x: x[..., known], value, scale=2.0),
    ]
    for guide in guides:
        drawn = [
            diffusion.sample(
                2,
                None if name == "ancestral" else 5,
                sampler=name,
                labels=[0, 2],
                guidance=guide,
                seeds=[1, 2],
            )
            for _ in range(2)
        ]
        assert torch.equal(*drawn)
        assert bool(((drawn[0] >= 0) & (drawn[0] <= 1)).all())
        assert not drawn[0].requires_grad
        assert all(weight.grad is None for weight in classifier.parameters())
    assert {*classifier.modes} == {False}
    assert diffusion.training
    assert classifier.training


# Inference mode

UNET = drawn(Unet(**SMALL_UNET, num_classes=3, self_condition=True, learned_variance=True), 0.1)
SMALL = GaussianDiffusion(UNET, image_size=4, timesteps=20, sampling_timesteps=3)
CHOSEN, CLASSIFIER, HALF = {"labels": torch.tensor([0, 2])}, NoisyClassifier(), torch.zeros(2, 1, 4, 2)
GUIDES = {
    "classifier": partial(ClassifierGuidance, classifier=CLASSIFIER, conditional=True),
    "measurement": partial(ReconstructionGuidance, measure=lambda x: x[..., :2], value=HALF),
}
NEED_GRADIENTS = {
    **{
        name: lambda guide=guide: SMALL.sample(2, **CHOSEN, seeds=[1, 2], guidance=guide)
        for name, guide in GUIDES.items()
    },
    "density": lambda: flow_log_density(SMALL, randn(2, 1, 4, 4), 3, **CHOSEN).log_density,
    "variance": lambda: OptimalVariance(ORACLE)(X[:2] + 0, torch.tensor([1, 9]), None),
}


@pytest.mark.parametrize("name", NEED_GRADIENTS)
def test_what_needs_gradients_has_them_in_inference_mode(name):
    expected = NEED_GRADIENTS[name]()
    with torch.inference_mode():
        found = NEED_GRADIENTS[name]()
        assert torch.equal(found, expected)
        assert not found.requires_grad


# A measurement of a Gaussian

PIXELS = torch.arange(6, dtype=DOUBLE)
MEAN = 0.4 * torch.sin(PIXELS)
COVARIANCE = 0.3 * 0.8 ** (PIXELS[:, None] - PIXELS).abs()
KNOWN = torch.tensor([True, False, False, True, False, False])
MATRIX, VALUE, NOISE = torch.eye(6, dtype=DOUBLE)[KNOWN], torch.tensor([0.9, -0.5], dtype=DOUBLE), 0.05


def prior(timesteps):
    return GaussianMixtureOracle(NoiseSchedule.from_name("cosine", timesteps), MEAN[None], COVARIANCE[None])


def guided_by_measurement(oracle, count, scale):
    value = VALUE.expand(count, 1, 1, 2)
    return ReconstructionGuidance(oracle, lambda x: x[..., KNOWN], value, variance=NOISE, scale=scale)


def test_the_guided_prediction_is_the_formula_written_out():
    """E[x_0 | x_t] = m + G (x_t − √ᾱ m): the gradient of the misfit is −Gᵀ Aᵀ (y − A x̂_0)."""
    oracle, x = prior(40), randn(4, 1, 1, 6, dtype=DOUBLE)
    for t, scale in ((1, 1.0), (20, 2.5), (40, 1.0)):
        kept = oracle.schedule.exact_alpha_bar[t]
        gain = (
            kept.sqrt() * COVARIANCE @ (kept * COVARIANCE + (1 - kept) * torch.eye(6, dtype=DOUBLE)).inverse()
        )
        x0 = MEAN + (x.flatten(1) - kept.sqrt() * MEAN) @ gain.T
        pull = (VALUE - x0 @ MATRIX.T) @ MATRIX @ gain
        spread = NOISE + (1 - kept) / kept  # of y around A x̂_0, as they have it
        score = scale * pull / spread
        wanted = x0 + (1 - kept) / kept.sqrt() * score
        got = guided_by_measurement(oracle, 4, scale).predict(x, full_timesteps(t, x))
        torch.testing.assert_close(got.x0.flatten(1), wanted, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(got.signal * got.x0 + got.sigma * got.noise, x)


def test_without_noise_it_is_the_factor_of_the_paper():
    """x̂_0 − s √ᾱ/2 ∇‖y − x̂_0‖² for one pixel, whose denoiser has a known slope."""
    exact, x = GaussianDenoiser(SCHEDULE, 0.2, 0.5), randn(3, 1, 1, 1, dtype=DOUBLE)
    value = torch.full_like(x, 0.7)
    for t in (1, 20, 40):
        own = exact.predict(x, full_timesteps(t, x)).x0
        got = ReconstructionGuidance(exact, lambda x: x, value, scale=3.0).predict(x, full_timesteps(t, x)).x0
        slope, signal = exact.gain(t), SCHEDULE.exact_alpha_bar[t].sqrt()
        torch.testing.assert_close(got, own + 3.0 * signal / 2 * 2 * (value - own) * slope)


def samples(denoiser, count=4000):
    """Exact draws' worth of error bars: mean and standard deviations of ancestral samples, and the errors of both."""
    x = randn(count, 1, 1, 6, seed=4, dtype=DOUBLE)
    *_, state = ancestral(denoiser, x, clip_x0=False, generator=seeded(5))
    out = state.x.flatten(1)
    spread = out.std(0)
    return out.mean(0), spread, spread / count**0.5, spread / (2 * count) ** 0.5


def test_how_far_reconstruction_guidance_is_from_the_exact_posterior():
    """The exact oracle of the posterior reaches it; the guided one lies where the comments say.

    Distances are in standard deviations of the posterior; five error bars of 4,000 samples are 0.08 of them.
    """
    oracle = prior(100)
    exact = oracle.measured(MATRIX, VALUE, NOISE)
    mean, deviation = exact.means[0], exact.marginal(0)[2][0].diagonal().sqrt()
    got, spread, error, _ = samples(exact)
    assert ((got - mean).abs() < 5 * error + 0.02 * deviation).all()
    # The step's fixed variance is too small for a short chain, by a few per cent of the deviation.
    assert ((spread / deviation - 1).abs() < 0.15).all()
    off, wide = {}, {}
    for scale in (1.0, 2.0, 4.0):
        got, spread, error, of_spread = samples(guided_by_measurement(oracle, 4000, scale))
        assert (error < 0.025 * deviation).all()
        off[scale], wide[scale] = ((got - mean) / deviation)[KNOWN], spread / deviation
        assert (5 * of_spread / deviation < 0.08).all()
    # For s = 1 between prior and posterior, and too wide everywhere.
    towards_prior = ((MEAN - mean) / deviation)[KNOWN].sign()
    assert (off[1.0] * towards_prior > 0.3).all()
    assert (off[1.0].abs() < (MEAN - mean).abs()[KNOWN] / deviation[KNOWN]).all()
    assert (wide[1.0] > 1.05).all()
    # For s = 2 nearer, and what was measured too narrow; for s = 4 beyond it, and narrower still.
    assert off[2.0].abs().max() < off[1.0].abs().max()
    assert (wide[2.0][KNOWN] < 0.85).all()
    assert (off[4.0] * towards_prior < 0).all()
    assert (wide[4.0][KNOWN] < wide[2.0][KNOWN]).all()


# Refusals

NETWORKS = [Classed(), Pointwise()]
MODEL, PLAIN = (diffusion_of(network, timesteps=20) for network in NETWORKS)
PICTURES, T = torch.zeros(2, 1, 4, 4), torch.tensor([1, 20])
SHAPES = r"measure gives shape \(2, 1, 4, 2\) for these images, but value has shape \(2, 1, 4, 4\)"


@pytest.mark.parametrize(
    ("error", "guide", "arguments", "message"),
    [
        (TypeError, ClassifierGuidance, (3,), r"called as classifier\(x_t, t\), but got 3"),
        (ValueError, ClassifierGuidance, (len, "2"), "scale must be a number, but got '2'"),
        (ValueError, partial(ClassifierGuidance, conditional=1), (len,), "conditional must be True or False"),
        (TypeError, ReconstructionGuidance, (MATRIX, PICTURES), "measure must be a function"),
        (TypeError, ReconstructionGuidance, (abs, [0.1]), "value must be a tensor"),
        (
            ValueError,
            partial(ReconstructionGuidance, variance=-1),
            (abs, PICTURES),
            "variance must be a number at l",
        ),
    ],
)
def test_what_does_not_fit_is_refused(error, guide, arguments, message):
    with pytest.raises(error, match=message):
        guide(MODEL, *arguments)
    with pytest.raises(TypeError, match="a model with `schedule`"):
        guide(NETWORKS[0], abs, PICTURES)


@pytest.mark.parametrize(
    ("guided", "labels", "message"),
    [
        (ClassifierGuidance(MODEL, len), None, "leads towards a class: give labels"),
        (
            ClassifierGuidance(MODEL, lambda x, _: x),
            [0, 1],
            r"must return a tensor of shape \(2, K\), but returned .* and shape \(2, 1, 4, 4\)",
        ),
        (ClassifierGuidance(MODEL, lambda x, _: (x,)), [0, 1], r"shape \(2, K\), but returned \(tensor"),
        (
            ClassifierGuidance(MODEL, lambda x, _: x.flatten(1)[:, :2]),
            [0, 2],
            r"labels must lie in \[0, 1\], but ranges from 0 to 2; the classifier has no more classes",
        ),
        (
            ClassifierGuidance(MODEL, lambda x, _: x.detach().flatten(1)),
            [0, 1],
            "the classifier returned numbers that autograd cannot follow back to x_t: leave torch.no_grad",
        ),
        (ReconstructionGuidance(MODEL, lambda x: x[..., :2], PICTURES), None, SHAPES),
    ],
)
def test_what_does_not_fit_is_refused_before_a_network_is_asked(guided, labels, message):
    with pytest.raises(ValueError, match=message):
        guided.predict(PICTURES, T, labels)
    assert [network.calls for network in NETWORKS] == [[], []]


def test_a_measurement_that_autograd_cannot_follow_is_refused():
    guided = ReconstructionGuidance(diffusion_of(Pointwise(), timesteps=20), lambda x: x.detach(), PICTURES)
    with pytest.raises(ValueError, match="measure returned numbers that autograd cannot follow back to x_t"):
        guided.predict(PICTURES, T)
