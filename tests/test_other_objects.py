"""Objects that stand in a wrong place: wrappers, classes, models for networks; each error says what to give."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ddpm import (
    EDM,
    P2,
    ClassifierFreeGuidance,
    GaussianMixtureOracle,
    LatentDiffusion,
    MinSNR,
    NoiseSchedule,
    Unet,
    ddim,
    flow_bits_per_dim,
    flow_log_density,
    latent_scale,
    save_diffusers_pipeline,
    save_pretrained,
    stratified_timesteps,
    to_diffusers,
)
from ddpm.likelihood import vlb_terms
from tests.networks import SMALL_UNET, Classed, Pointwise, diffusion_of
from tests.runs import trainer

X, T = torch.zeros(2, 1, 4, 4), torch.tensor([1, 50])
PLAIN, FREE = diffusion_of(Pointwise()), diffusion_of(Classed())
CLASSED = diffusion_of(Unet(**SMALL_UNET, num_classes=3))
MIXTURE = GaussianMixtureOracle(NoiseSchedule([0.1, 0.2]), [[0.0], [1.0]], [0.1, 0.1])
EACH = [torch.Generator(), torch.Generator()]


class EMA(nn.Module):
    """As that of ema-pytorch holds its average."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.ema_model = model


class Unlabelled(Pointwise):
    def forward(self, x_t, t):
        return super().forward(x_t, t)


class Listing(Pointwise):
    def forward(self, x_t, t, labels=None):
        return [super().forward(x_t, t, labels)]


WRAPPERS = [(nn.DataParallel, "module"), (AveragedModel, "module"), (EMA, "ema_model")]
TAKERS_OF_MODELS = [
    lambda wrapped: trainer("there", wrapped),
    lambda wrapped: save_pretrained(wrapped, "there"),
    lambda wrapped: save_diffusers_pipeline(wrapped, "there"),
    lambda wrapped: next(ddim(wrapped, X, 3)),
    lambda wrapped: ClassifierFreeGuidance(wrapped, 2.0),
]
TAKERS_OF_ONE_GENERATOR = [
    lambda: PLAIN.loss(X, generator=EACH),
    lambda: vlb_terms(PLAIN, X + 1, generator=EACH),
    lambda: flow_log_density(PLAIN, X, 3, probes=1, generator=EACH),
    lambda: flow_bits_per_dim(PLAIN, X + 1, 3, probes=1, generator=EACH),
    lambda: stratified_timesteps(2, 5, generator=EACH),
    lambda: MIXTURE.sample_data(2, EACH),
]


@pytest.mark.parametrize("call", TAKERS_OF_MODELS)
@pytest.mark.parametrize(("wrap", "name"), WRAPPERS)
def test_a_wrapper_of_a_model_is_told_what_to_give(wrap, name, call):
    with pytest.raises(TypeError, match=f"but got a {wrap.__name__}; give its `.{name}`"):
        call(wrap(CLASSED))


@pytest.mark.parametrize(("wrap", "name"), WRAPPERS)
def test_a_wrapper_of_a_network_is_told_what_to_give(wrap, name):
    with pytest.raises(
        ValueError, match=f"a {wrap.__name__}, give its `.{name}`, and train on .* `accelerate l"
    ):
        diffusion_of(wrap(Pointwise()))


@pytest.mark.parametrize("call", TAKERS_OF_ONE_GENERATOR)
def test_one_generator_is_wanted_where_several_are_given(call):
    with pytest.raises(
        TypeError, match=r"a torch.Generator, but got .*; only samplers take one for each image"
    ):
        call()


@pytest.mark.parametrize("kind", [EDM, MinSNR, P2])
def test_a_class_is_no_weighting(kind):
    with pytest.raises(TypeError, match=r"a weighting such as MinSNR\(\), but got <class"):
        diffusion_of(loss_weighting=kind)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: diffusion_of(Unlabelled()),
            r"this Unlabelled takes \(x_t, t\); add an argument labels=None",
        ),
        (lambda: diffusion_of(Listing()).predict(X, T), "a tensor, but returned a list; load_diffusers_unet"),
        (lambda: diffusion_of(Listing()).loss(X, T), "a tensor, but returned a list; load_diffusers_unet"),
        (
            lambda: LatentDiffusion(Pointwise(), PLAIN, image_size=4),
            "a GaussianDiffusion; .* load_autoencoder",
        ),
        (lambda: latent_scale(nn.Identity(), X + 1), "`encode` and `decode`, but got a Identity"),
        (lambda: to_diffusers(nn.DataParallel(CLASSED.network)), "a DataParallel; give its `.module`"),
        (
            lambda: FREE.sample(2, labels=[0, 1], guidance=ClassifierFreeGuidance(FREE, 2.0)),
            "guidance must be a scale, such as 2.0, .* but got a ClassifierFreeGuidance, which is a model already",
        ),
    ],
)
def test_another_object_is_refused_in_words(call, message):
    with pytest.raises(TypeError, match=message):
        call()
