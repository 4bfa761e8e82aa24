"""Latent diffusion: with autoencoders that lose nothing, so that every answer is known."""

import copy
import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from ddpm import (
    ClassifierFreeGuidance,
    ClassifierGuidance,
    GaussianDiffusion,
    LatentDiffusion,
    ReconstructionGuidance,
    SmallAutoencoder,
    Unet,
    latent_scale,
    load_pretrained,
)
from ddpm.io.checkpoint import list_checkpoints, read_checkpoint
from ddpm.samplers import ddim
from tests import runs
from tests.networks import SMALL_UNET, randn, seeded
from tests.runs import pictures, saved_files, trained, trainer, weights


class Folded(nn.Module):
    """Every 2×2 pixels become four channels, times a number: nothing is lost."""

    def __init__(self, channels=1, gain=3.0):
        super().__init__()
        self.channels, self.gain = channels, nn.Parameter(torch.tensor(gain))

    def encode(self, x):
        return F.pixel_unshuffle(x, 2) * self.gain

    def decode(self, z):
        return F.pixel_shuffle(z / self.gain, 2)


class Exact(nn.Module):
    """The exact answer for x_0 ~ N(0, I): E[x_0 | x_t] = √ᾱ_t x_t."""

    def __init__(self, channels):
        super().__init__()
        self.channels, self.table = channels, None

    def forward(self, x_t, t, labels=None):  # noqa: ARG002
        return x_t if self.table is None else self.table[t].view(-1, 1, 1, 1) * x_t


def unet(channels=4, **options):
    torch.manual_seed(0)
    network = Unet(**(SMALL_UNET | {"channels": channels} | options))
    nn.init.normal_(network.last.weight, std=0.1)
    return network


def latent(channels=1, **options):
    defaults = {"image_size": 8, "timesteps": 30, "beta_schedule": "cosine", "objective": "pred_v"}
    defaults |= {"mean": 0.2, "deviation": 1.5}
    return LatentDiffusion(unet(4 * channels), Folded(channels), **(defaults | options))


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=seeded(seed))


def test_images_come_back():
    ours, images = latent(), uniform(5, 1, 8, 8)
    x0 = ours.to_x0(images)
    assert x0.shape == (5, 4, 4, 4) == (5, *ours.x_shape)
    torch.testing.assert_close(x0, (F.pixel_unshuffle(2 * images - 1, 2) * 3 - 0.2) / 1.5)
    torch.testing.assert_close(ours.to_images(x0), images)


def test_latent_scale_leaves_mean_zero_and_deviation_one():
    images = uniform(200, 1, 8, 8) * torch.tensor([0.2, 0.9]).repeat(4)  # columns of two widths
    mean, deviation = latent_scale(Folded(), images)
    assert mean.shape == deviation.shape == (4, 1, 1)
    x0 = latent(mean=mean, deviation=deviation).to_x0(images)
    torch.testing.assert_close(x0.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(x0.std((0, 2, 3)), torch.ones(4), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="a channel of the code is the same for all images"):
        latent_scale(Folded(), torch.zeros(3, 1, 8, 8))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]|\[0, 1\]"):
        latent_scale(Folded(), images * 3)


def test_loss_is_that_of_the_codes():
    ours, images = latent(), uniform(6, 1, 8, 8)
    plain = GaussianDiffusion(
        ours.network, image_size=4, timesteps=30, beta_schedule="cosine", objective="pred_v"
    )
    t, noise = torch.arange(1, 7), randn(6, 4, 4, 4)
    x0 = ours.to_x0(images)
    assert torch.equal(ours.loss(x0, t, noise), plain.loss(x0, t, noise))
    torch.manual_seed(1)
    got = ours(images)
    torch.manual_seed(1)
    assert torch.equal(got, plain.loss(x0))


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "heun", "dpm++"])
def test_samples_have_the_mean_and_the_deviation_of_the_images(sampler):
    """Of a Gaussian law, by the exact denoiser of its codes; with x_0 clipped, the deviation would be lower."""
    network, folded = Exact(4), Folded()
    options = {"image_size": 4, "timesteps": 100, "beta_schedule": "cosine", "objective": "pred_x0"}
    ours = LatentDiffusion(network, folded, mean=0.6, deviation=0.15, **options)
    network.table = ours.schedule.sqrt_alpha_bar
    steps = None if sampler == "ancestral" else 50
    images = ours.sample(2000, steps, sampler=sampler, generator=seeded(1))
    assert images.shape == (2000, 1, 4, 4)
    # A code of 0.6 is a pixel of 0.2 in [-1, 1], which is 0.6 in [0, 1]; 0.15 is 0.05 there, and 0.025 here.
    assert images.mean().item() == pytest.approx(0.6, abs=0.001)
    assert images.std().item() == pytest.approx(0.025, rel=0.03)


def test_nothing_is_clipped():
    ours = latent()
    x_t, t = 4 * randn(3, 4, 4, 4), torch.tensor([1, 10, 20])
    assert torch.equal(ours.predict(x_t, t, clip_x0=True).x0, ours.predict(x_t, t).x0)
    assert ours.predict(x_t, t).x0.abs().max() > 2
    *_, state = ddim(ours, x_t, 5)
    *_, unclipped = ddim(ours, x_t, 5, clip_x0=False)
    assert torch.equal(state.x, unclipped.x)


def test_guidance_does_not_clip_either():
    network = unet(4, num_classes=3, label_dropout=0.5)
    ours = LatentDiffusion(network, Folded(), image_size=8, timesteps=30, deviation=0.1)
    images = ours.sample(2, 5, labels=torch.tensor([0, 1]), guidance=3.0, generator=seeded(0))
    x = ours.to_x0(images)
    assert x.abs().max() > 1.5


GUIDED = {
    "classifier-free": lambda model: ClassifierFreeGuidance(model, 2.0),
    "classifier": lambda model: ClassifierGuidance(model, lambda x, t: x.flatten(1)[:, :3] / t[:, None]),
    "reconstruction": lambda model: ReconstructionGuidance(
        model, lambda x: x[:, :1], torch.zeros(2, 1, 4, 4)
    ),
    "twice": lambda model: ClassifierFreeGuidance(ClassifierFreeGuidance(model, 2.0), 1.5),
}


@pytest.mark.parametrize("name", GUIDED)
def test_guided_codes_are_not_clipped_where_a_sampler_would(name):
    ours = latent()
    ours.network = unet(4, num_classes=3, label_dropout=0.5)
    given = {"x_t": 4 * randn(2, 4, 4, 4), "t": torch.tensor([1, 20]), "labels": torch.tensor([0, 1])}
    clipped, free = (GUIDED[name](ours).predict(**given, clip_x0=clip).x0 for clip in (True, False))
    assert torch.equal(clipped, free)
    assert free.abs().max() > 2


KINDS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize(("own", "its"), [*itertools.product(KINDS, KINDS)])
def test_model_autoencoder_and_images_may_be_of_different_types(own, its):
    torch.manual_seed(0)
    autoencoder, images = SmallAutoencoder(1, 4, dim=8), uniform(5, 1, 8, 8)
    mean, deviation = latent_scale(autoencoder, images)
    codes = autoencoder.encode(2 * images - 1)
    ours = LatentDiffusion(unet(), autoencoder.to(its), image_size=8, timesteps=30).to(own)
    for kind in KINDS:
        x0 = ours.to_x0(images.to(kind))
        torch.testing.assert_close(x0, codes.to(x0), rtol=0.05, atol=0.05)
        assert ours(images.to(kind)).isfinite()
        for found, expected in zip(
            latent_scale(autoencoder, images.to(kind)), (mean, deviation), strict=True
        ):
            torch.testing.assert_close(found, expected.to(kind), rtol=0.05, atol=0.05)
    assert ours.sample(2, 3).dtype == (torch.float64 if own == torch.float64 else torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours.float().sample(2, 3).dtype == torch.float32


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_copy_in_half_precision_rounds_nothing_that_others_need(kind):
    ours = latent(mean=0.123456789, deviation=1.23456789)
    ours.autoencoder.gain.fill_(1 / 3)
    half = copy.deepcopy(ours).to(kind)
    assert half.network.last.weight.dtype == kind
    assert torch.equal(ours.autoencoder.gain, torch.tensor(1 / 3))
    assert half.config == ours.config


def test_trainer_trains_saves_and_resumes_the_network_alone(tmp_path):
    data = TensorDataset(uniform(20, 1, 8, 8))
    ours = trained(tmp_path / "whole", latent(), data)
    gain = ours.diffusion.autoencoder.gain
    assert gain.item() == 3.0
    assert gain.grad is None
    assert ours.ema_model.autoencoder is ours.diffusion.autoencoder
    assert not ours.diffusion.autoencoder.training
    saved = read_checkpoint(list_checkpoints(tmp_path / "whole")[-1])
    assert saved.tensors["model"].keys() == ours.diffusion.network.state_dict().keys()
    assert not torch.equal(weights(ours.diffusion.network), weights(latent().network))
    trained(tmp_path / "parts", latent(), data, train_num_steps=2)
    trainer(tmp_path / "parts", latent(), data).resume()
    assert saved_files(tmp_path / "whole") == saved_files(tmp_path / "parts")
    with pytest.raises(ValueError, match=r"another model: latent_deviation was \[1.5\] and is \[2.0\]"):
        trainer(tmp_path / "whole", latent(deviation=2.0), data).load()


def test_it_is_loaded_and_saved_with_an_autoencoder(tmp_path):
    mean, deviation = torch.rand(2, 4, 1, 1, generator=seeded(3)) + 0.5
    ours = trained(
        tmp_path / "run", latent(mean=mean, deviation=deviation), TensorDataset(uniform(20, 1, 8, 8))
    )
    loaded = load_pretrained(tmp_path / "run", autoencoder=Folded())
    assert isinstance(loaded, LatentDiffusion)
    assert loaded.config == ours.ema_model.config
    samples = ours.ema_model.sample(2, 3, seeds=[1, 2])
    assert torch.equal(loaded.sample(2, 3, seeds=[1, 2]), samples)
    loaded.save_pretrained(tmp_path / "model")
    again = LatentDiffusion.from_pretrained(tmp_path / "model", autoencoder=Folded())
    assert torch.equal(again.sample(2, 3, seeds=[1, 2]), samples)
    with pytest.raises(ValueError, match="give the autoencoder that it was trained with"):
        load_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="autoencoder is for a LatentDiffusion, and this model is none"):
        load_pretrained("digits", autoencoder=Folded())


def test_a_folder_of_pictures_is_prepared_as_images(tmp_path):
    ours = trained(tmp_path / "run", latent(3), str(pictures(tmp_path / "pictures", 9)), train_num_steps=1)
    assert ours.data.image_shape == (3, 8, 8)


def test_copies_share_the_autoencoder_and_keep_it_frozen():
    ours = latent()
    twin = copy.deepcopy(ours).train()
    assert twin.autoencoder is ours.autoencoder
    assert twin.network is not ours.network
    assert not twin.autoencoder.training
    assert not any(weight.requires_grad for weight in twin.autoencoder.parameters())


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"the network takes 2 channel.*build it with channels=4"):
        LatentDiffusion(unet(2), Folded(), image_size=8)
    with pytest.raises(ValueError, match="learned_variance is for images of 8 bits"):
        LatentDiffusion(unet(4, learned_variance=True), Folded(), image_size=8)
    with pytest.raises(ValueError, match="deviation must be above 0"):
        latent(deviation=0.0)
    for other in (nn.Linear(1, 1), runs.model()):
        with pytest.raises(
            TypeError, match=r"`channels`, `encode` and `decode`, but got a .* load_autoencoder"
        ):
            LatentDiffusion(unet(4), other, image_size=8)
        assert other.training
        assert all(weight.requires_grad for weight in other.parameters())
    with pytest.raises(ValueError, match="mean must be one finite number, or 4"):
        latent(mean=torch.zeros(3))


@pytest.mark.parametrize(
    ("direction", "changed", "message"),
    [
        (
            "encode",
            lambda z: (z, z),
            r"`encode` .* a tensor of four dimensions, but that of this Folded .* \(tensor",
        ),
        ("encode", lambda z: {"latent_dist": z}, r"`encode` .* returned \{'latent_dist'"),
        ("encode", lambda z: SimpleNamespace(mean=z), r"`encode` .* returned namespace\("),
        (
            "encode",
            lambda z: z.flatten(1),
            r"`encode` .* returned torch.Tensor of .* and shape \([12], 64\); give",
        ),
        ("decode", lambda x: [x], r"`decode` of an autoencoder must return a tensor"),
        ("decode", lambda x: x[..., :6], r"images of \(1, 8, 6\) of the codes of those of \(1, 8, 8\)"),
        (
            "decode",
            lambda x: x.expand(-1, 3, -1, -1),
            r"images of \(3, 8, 8\) .* its `channels` must be those",
        ),
    ],
)
def test_an_autoencoder_that_gives_something_else_is_refused_when_the_model_is_made(
    monkeypatch, direction, changed, message
):
    folded, answer = Folded(), getattr(Folded, direction)
    monkeypatch.setattr(Folded, direction, lambda self, x: changed(answer(self, x)))
    with pytest.raises((TypeError, ValueError), match=message):
        LatentDiffusion(unet(4), folded, image_size=8)
    if direction == "encode":
        with pytest.raises(TypeError, match=message):
            latent_scale(folded, uniform(2, 1, 8, 8))
    assert folded.training
    assert folded.gain.requires_grad


# The autoencoder of our own


def test_small_autoencoder_learns_to_give_back():
    torch.manual_seed(0)
    ours = SmallAutoencoder(dim=16)
    images = (
        uniform(64, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
    )  # four even tiles of 4×4 pixels
    optimizer = torch.optim.Adam(ours.parameters(), 3e-3)
    before = ours(images).item()
    for _ in range(150):
        optimizer.zero_grad()
        ours(images).backward()
        optimizer.step()
    assert ours(images).item() < 0.1 * before
    x = 2 * images - 1
    assert ours(images).item() == pytest.approx(
        ((ours.decode(ours.encode(x)) - x) ** 2).mean().item(), rel=1e-5
    )


@pytest.mark.parametrize(("depth", "side"), [(1, 4), (2, 2), (3, 1)])
def test_small_autoencoder_halves_as_often_as_told(depth, side):
    ours = SmallAutoencoder(3, 5, dim=8, downsamplings=depth)
    code = ours.encode(randn(2, 3, 8, 8))
    assert code.shape == (2, 5, side, side)
    assert ours.decode(code).shape == (2, 3, 8, 8)
    with pytest.raises(ValueError, match=rf"divisible by {2**depth}, but got \(2, 3, 8, 9\)"):
        ours.encode(randn(2, 3, 8, 9))
