"""Models in other types of numbers: float64 by default, weights in half precision, and answers that are no numbers."""

import copy
import json

import pytest
import torch

from ddpm import (
    EmpiricalOracle,
    GaussianDiffusion,
    LatentDiffusion,
    NoiseSchedule,
    SmallAutoencoder,
    Unet,
    flow_bits_per_dim,
    latent_scale,
    load_diffusers_unet,
    load_pretrained,
    save_diffusers_unet,
    stratified_timesteps,
)
from ddpm.data import digits
from ddpm.editing import interpolate
from ddpm.evaluation.features import extractor, features_of
from ddpm.evaluation.report import report_on_samples
from ddpm.likelihood import vlb_terms
from tests.networks import BETAS, SMALL_UNET, UNET_OPTIONS, Pointwise, diffusion_of, drawn, randn, seeded
from tests.runs import trained, weights

NETWORKS = ("plain", "all", "learned sinusoidal", "random Fourier")
X, T = randn(2, 1, 8, 8), torch.tensor([1, 50])


def model(network="plain", **options) -> GaussianDiffusion:
    unet = drawn(Unet(**(SMALL_UNET | UNET_OPTIONS[network])), 0.1)
    return GaussianDiffusion(unet, image_size=8, timesteps=50, sampling_timesteps=3, **options)


def asked(diffusion) -> dict:
    return {"labels": torch.tensor([0, 2])} if diffusion.network.num_classes else {}


# torch's default


@pytest.fixture
def _double_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.usefixtures("_double_by_default")
def test_models_work_where_the_default_is_float64(network):
    ours = model(network)
    assert {weight.dtype for weight in ours.parameters()} == {torch.float64}
    loss = ours(torch.rand(2, 1, 8, 8), **asked(ours))
    loss.backward()
    assert loss.isfinite()
    assert ours.sample(2, seeds=[0, 1], **asked(ours)).isfinite().all()
    assert ours.sample(2, 50, generator=seeded(0), **asked(ours)).isfinite().all()
    assert ours.interpolate(X, X, 3, **asked(ours)).isfinite().all()
    pixels = torch.ones(2, 1, 8, 8)
    assert vlb_terms(ours, pixels, timesteps_per_image=2, **asked(ours)).total.isfinite().all()


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.usefixtures("_double_by_default")
def test_latent_models_work_where_the_default_is_float64(kind, tmp_path):
    autoencoder, images = SmallAutoencoder(1, 2, dim=8).to(kind), torch.rand(20, 1, 8, 8)
    mean, deviation = latent_scale(autoencoder, images)
    network = Unet(**(SMALL_UNET | {"channels": 2}))
    options = {"image_size": 8, "timesteps": 30, "mean": mean, "deviation": deviation}
    run = trained(tmp_path, LatentDiffusion(network, autoencoder, **options), images)
    assert run.ema_model.sample(2, 3).isfinite().all()
    assert load_pretrained(tmp_path, autoencoder=autoencoder).sample(2, 3).isfinite().all()


def test_what_is_loaded_and_drawn_does_not_depend_on_the_default(tmp_path):
    save_diffusers_unet(drawn(Unet(**SMALL_UNET), 0.1), tmp_path)

    def everything():
        oracle = EmpiricalOracle(NoiseSchedule.from_name("cosine", 10), X.sin())
        return [
            load_pretrained("digits").sample(2, 3, seeds=[0, 1]),
            load_pretrained("digits").sample(2, 3, generator=seeded(0)),
            load_diffusers_unet(tmp_path).last.weight.detach(),
            oracle.predict(X, torch.tensor([1, 5])).x0,
            features_of(randn(2, 1, 28, 28), extractor("classifier")),
            interpolate(diffusion_of(), X[..., :4, :4], X[..., :4, :4], 3, generator=seeded(0)),
        ]

    expected = everything()
    torch.set_default_dtype(torch.float64)
    try:
        got = everything()
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


@pytest.mark.usefixtures("_double_by_default")
def test_a_run_trains_and_its_model_loads_where_the_default_is_float64(tmp_path):
    run = trained(tmp_path, model(), digits())
    assert weights(run.diffusion).dtype == torch.float64
    loaded = load_pretrained(tmp_path)
    assert weights(loaded).dtype == torch.float32
    torch.testing.assert_close(weights(loaded).double(), weights(run.ema_model), rtol=1e-6, atol=1e-6)


# torch's default device


LABELS, WHITE, IMAGES = torch.tensor([0, 2]), torch.ones(2, 1, 8, 8), randn(8, 1, 8, 8).sigmoid()
PAIRS = [(image.numpy(), 0) for image in IMAGES]
BOUND = {"labels": LABELS, "seeds": [0, 1]}
ELSEWHERE = {
    "loss": lambda ours, _: ours.loss(X, generator=seeded(0), labels=LABELS),
    "seeds": lambda ours, _: ours.sample(2, 3, seeds=[0, 1], labels=LABELS),
    "ancestral": lambda ours, _: ours.sample(2, 50, generator=seeded(0), labels=LABELS),
    "flow": lambda ours, _: flow_bits_per_dim(ours, WHITE, 3, labels=LABELS, generator=seeded(0)).mean,
    "all steps": lambda ours, _: vlb_terms(ours, WHITE, **BOUND).total,
    "some steps": lambda ours, _: vlb_terms(ours, WHITE, **BOUND, timesteps_per_image=2).total,
    "stratified": lambda *_: stratified_timesteps(4, 50, generator=seeded(0)),
    "training": lambda ours, folder: weights(trained(folder, ours, PAIRS).ema_model),
    "two processes": lambda ours, folder: weights(trained(folder, ours, PAIRS, num_workers=1).ema_model),
    "evaluation": lambda *_: IMAGES * report_on_samples(IMAGES, 1 - IMAGES, [IMAGES]).halves,
    "saving": lambda ours, folder: ours.save_pretrained(folder) or T,
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_a_model_does_on_the_cpu_does_not_depend_on_the_default_device(tmp_path, name):
    """On "meta" nothing can be computed: whatever ends up there raises, as it would on a GPU beside a CPU."""
    expected = ELSEWHERE[name](model("classes"), tmp_path / "one")
    ours = model("classes")
    with torch.device("meta"):
        got = ELSEWHERE[name](ours, tmp_path / "other")
    assert torch.equal(got, expected)


@pytest.mark.parametrize("betas", BETAS)
def test_a_whole_model_is_made_on_the_default_device_but_for_its_exact_tables(betas):
    with torch.device("meta"):
        ours = GaussianDiffusion(Unet(**SMALL_UNET), image_size=8, beta_schedule=betas)
        assert BETAS[betas](50).device.type == "cpu"
    assert {x.device.type for x in (*ours.parameters(), *ours.buffers(), ours.schedule.sigma)} == {"meta"}
    assert torch.equal(ours.schedule.exact_log_snr, NoiseSchedule.from_name(betas, 1000).exact_log_snr)


# Half precision

HALVES = {torch.bfloat16: 2**-7, torch.float16: 2**-9}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", HALVES)
def test_weights_in_half_precision_answer_as_those_of_float32_do(network, kind):
    """As far as their own rounding: neither t nor the noise in x_1 is rounded, by which answers would be lost."""
    ours = model(network)
    half = copy.deepcopy(ours).to(kind)
    assert {weight.dtype for weight in half.parameters()} == {kind}
    assert {table.dtype for table in half.buffers()} == {torch.float32}
    for table, other in zip(ours.buffers(), half.buffers(), strict=True):
        assert torch.equal(table, other)
    with torch.no_grad():
        for weight, exact in zip(half.parameters(), ours.parameters(), strict=True):
            exact.copy_(weight)
        for t in (1, 25, 50):
            at = torch.full((2,), t)
            expected, got = (one.predict(X, at, **asked(ours)).noise for one in (ours, half))
            assert got.dtype == torch.float32
            error = (got - expected).square().mean().sqrt() / expected.square().mean().sqrt()
            assert 0 < error < HALVES[kind]


@pytest.mark.parametrize("kind", [*HALVES, torch.float64])
def test_the_model_of_digits_draws_its_pictures_in_other_types(kind):
    expected, got = load_pretrained("digits"), load_pretrained("digits").to(kind)
    images = [one.sample(2, 20, seeds=[0, 1]).double() for one in (expected, got)]
    assert (images[0] - images[1]).abs().max() < 0.03  # eight grey levels


@pytest.mark.parametrize("kind", HALVES)
def test_half_precision_and_back_leaves_the_tables_as_they_were(kind):
    there_and_back = NoiseSchedule.from_name("linear", 1000).to(kind).float()
    for table, other in zip(
        there_and_back.buffers(), NoiseSchedule.from_name("linear", 1000).buffers(), strict=True
    ):
        assert torch.equal(table, other)
    assert NoiseSchedule.from_name("linear", 10 * 5).double().beta.dtype == torch.float64


# Answers that are no numbers


class Spoilt(Pointwise):
    """Some answers are no numbers: those to the second image, from t = 20 down."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x_t, t, labels=None):
        output = super().forward(x_t, t, labels)
        wrong = (t <= 20) & (torch.arange(len(t)) == 1)
        return torch.where(wrong.view(-1, 1, 1, 1), self.value, output)


WAYS = {
    "ancestral": lambda ours: ours.sample(3),
    "ddim": lambda ours: ours.sample(3, 5),
    "seeds": lambda ours: ours.sample(3, 5, seeds=[1, 2, 3]),
    "heun": lambda ours: ours.sample(3, 5, sampler="heun"),
    "dpm++": lambda ours: ours.sample(3, 5, sampler="dpm++"),
    "noisy ddim": lambda ours: ours.sample(3, 5, eta=1.0),
    "interpolate": lambda ours: ours.interpolate(*randn(2, 3, 1, 4, 4), 30),
    "editing": lambda ours: interpolate(ours, *randn(2, 3, 1, 4, 4), 30),
}


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v", "pred_flow"])
@pytest.mark.parametrize("way", WAYS)
def test_pictures_that_are_no_numbers_are_never_handed_out(way, objective, value):
    """Nor is infinity, clipped, taken for black or white."""
    ours = diffusion_of(Spoilt(value), objective=objective)
    with pytest.raises(
        FloatingPointError, match=r"^1 of 3 images are not finite \(NaN\): .* earlier checkpoint"
    ):
        WAYS[way](ours)
    assert ours.training


def test_a_prediction_clips_what_is_large_and_keeps_what_is_no_number():
    ours = diffusion_of(Spoilt(torch.inf))
    x0 = ours.predict(randn(3, 1, 4, 4) * 10, torch.tensor([5, 5, 5]), clip_x0=True).x0
    assert x0[[0, 2]].abs().max() == 1
    assert x0[1].isnan().all()


def test_config_of_a_model_in_half_precision_is_that_of_the_model():
    assert json.dumps(model().half().config) == json.dumps(model().config)
