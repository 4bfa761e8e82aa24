"""A `DDPMPipeline` of diffusers against the model that is loaded from its folder, and the folder that ours writes.

Their tables are float32, so a whole chain is compared on short ones, where the rounding has no time to grow.
"""

import json

import pytest
import torch
from safetensors.torch import load_file

from ddpm import (
    GaussianDiffusion,
    LatentDiffusion,
    NoiseSchedule,
    SmallAutoencoder,
    load_diffusers_pipeline,
    save_diffusers_pipeline,
)
from ddpm.samplers import ancestral
from ddpm.support import randomness
from tests.io.test_diffusers import SMALL, small
from tests.networks import seeded
from tests.peers.test_diffusers_unet import peer

REASON = "diffusers is not installed; it comes with the extra `peers`: pip install -e '.[peers]'"
pytest.importorskip("diffusers", reason=REASON)

from diffusers import DDPMPipeline, DDPMScheduler  # noqa: E402
from diffusers.schedulers import scheduling_ddpm  # noqa: E402

UNLABELLED = SMALL | {"num_class_embeds": None, "sample_size": 8}
T = 40


def pipeline(config=UNLABELLED, **scheduler):
    return DDPMPipeline(peer(config), DDPMScheduler(**{"num_train_timesteps": T} | scheduler))


def model(**options):
    arguments = {"image_size": (8, 12), "timesteps": T} | options
    learned = arguments.pop("learned_variance", False)
    return GaussianDiffusion(small(num_classes=None, learned_variance=learned), **arguments)


def chains(theirs, ours, monkeypatch):
    """Their last image and ours, in [-1, 1], from the same noise."""
    generator = seeded(5)
    shape = (2, ours.channels, *ours.image_size)
    x = randomness.randn(shape, generator, "cpu")
    *_, state = ancestral(ours, x, variance=ours.variance, generator=generator)
    generator = seeded(5)
    x = randomness.randn(shape, generator, "cpu")
    monkeypatch.setattr(
        scheduling_ddpm, "randn_tensor", lambda shape, **_: randomness.randn(tuple(shape), generator, "cpu")
    )
    theirs.scheduler.set_timesteps(T)
    with torch.no_grad():
        for t in theirs.scheduler.timesteps:
            x = theirs.scheduler.step(theirs.unet(x, t).sample, t, x).prev_sample
    return x, state.x


SCHEDULERS = {
    "as it comes": {},
    "fixed_large": {"variance_type": "fixed_large"},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "scaled linear": {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195},
    "its own": {"trained_betas": [0.01 + 0.01 * t for t in range(T)]},
    "x0": {"prediction_type": "sample"},
    "v": {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"},
}


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
def test_a_loaded_pipeline_draws_what_theirs_draws(scheduler, tmp_path, monkeypatch):
    theirs = pipeline(**scheduler)
    theirs.save_pretrained(tmp_path)
    ours = load_diffusers_pipeline(tmp_path)
    assert ours.image_size == (8, 8)
    assert not ours.training
    expected, got = chains(theirs, ours, monkeypatch)
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-3)


def test_sample_takes_the_variance_that_the_scheduler_says(tmp_path):
    """Which shows in the samples; and `sample` can still be told another."""
    pipeline(variance_type="fixed_large").save_pretrained(tmp_path)
    ours = load_diffusers_pipeline(tmp_path)
    large, small_ = (ours.sample(1, seeds=[1], variance=word) for word in ("fixed_large", "fixed_small"))
    assert torch.equal(ours.sample(1, seeds=[1]), large)
    assert (large - small_).abs().max() > 1e-3


SAVED = {
    "linear": {},
    "fixed_large": {"variance": "fixed_large"},
    "cosine": {"beta_schedule": "cosine"},
    "sigmoid": {"beta_schedule": "sigmoid"},
    "log-snr": {"beta_schedule": "log-snr"},
    "x0": {"objective": "pred_x0"},
    "v": {"objective": "pred_v"},
    "learned variance": {"learned_variance": True},
}


@pytest.mark.parametrize("options", SAVED.values(), ids=SAVED)
def test_a_saved_pipeline_draws_what_ours_draws_and_comes_back(options, tmp_path, monkeypatch):
    ours = model(**options)
    save_diffusers_pipeline(ours, tmp_path / "made")
    theirs = DDPMPipeline.from_pretrained(tmp_path / "made")
    expected, got = chains(theirs, ours, monkeypatch)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-3)
    pictures = theirs(batch_size=1, num_inference_steps=T, output_type="np").images
    assert pictures.shape == (1, 8, 12, 1)
    back = load_diffusers_pipeline(tmp_path / "made")
    assert back.config == ours.config | {"variance": back.variance}
    assert back.variance == (None if ours.learned_variance else ours.variance or "fixed_small")
    for name, tensor in ours.network.state_dict().items():
        torch.testing.assert_close(back.network.state_dict()[name], tensor, rtol=0, atol=1e-6)


def test_a_schedule_of_ones_own_comes_back_exactly(tmp_path):
    ours = model()
    ours.schedule = NoiseSchedule([0.3, 0.2, 0.1, 0.5])
    save_diffusers_pipeline(ours, tmp_path)
    back = load_diffusers_pipeline(tmp_path)
    torch.testing.assert_close(
        back.schedule.exact_alpha_bar, ours.schedule.exact_alpha_bar, rtol=1e-12, atol=0
    )


def test_files_side_by_side_as_the_paper_s_networks_were_published(tmp_path):
    pipeline(variance_type="fixed_large").save_pretrained(tmp_path)
    for part in ("unet", "scheduler"):
        for file in (tmp_path / part).iterdir():
            file.rename(tmp_path / file.name)
        (tmp_path / part).rmdir()
    assert load_diffusers_pipeline(tmp_path).variance == "fixed_large"


def test_a_network_that_does_not_say_its_size_has_to_be_told(tmp_path):
    pipeline(UNLABELLED | {"sample_size": None}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no sample_size: say image_size="):
        load_diffusers_pipeline(tmp_path)
    assert load_diffusers_pipeline(tmp_path, image_size=16, sampling_timesteps=5).image_size == (16, 16)


WRONG = {
    "clip_sample": ({"clip_sample": False}, "clip_sample is False but must be True"),
    "thresholding": ({"thresholding": True}, "thresholding is True"),
    "zero signal": ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr is True"),
    "variance": ({"variance_type": "learned"}, "variance_type is 'learned' but must be 'fixed_small' or"),
    "schedule": ({"beta_schedule": "sigmoid"}, "beta_schedule is 'sigmoid'"),
}


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG)
def test_load_refuses_a_scheduler_that_does_something_else(options, message, tmp_path):
    pipeline(**options).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_diffusers_pipeline(tmp_path)


def test_load_refuses_another_class_and_a_folder_without_scheduler(tmp_path):
    pipeline().save_pretrained(tmp_path)
    file = tmp_path / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"_class_name": "DDIMScheduler"}))
    with pytest.raises(ValueError, match="it is a DDIMScheduler, not a DDPMScheduler"):
        load_diffusers_pipeline(tmp_path)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"scheduler_config\.json, neither itself nor in a subfolder"):
        load_diffusers_pipeline(tmp_path)


REFUSED = {
    "labels": (lambda: GaussianDiffusion(small(), image_size=8), "draws without labels"),
    "codes": (
        lambda: LatentDiffusion(small(num_classes=None), SmallAutoencoder(1, 1), image_size=8),
        "and this model draws codes",
    ),
    "flow": (lambda: model(objective="pred_flow"), "a DDPMScheduler has no 'pred_flow'"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_save_refuses_what_a_pipeline_is_not_and_leaves_nothing(make, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_diffusers_pipeline(make(), tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_weights_are_those_of_save_diffusers_unet(tmp_path):
    ours = model()
    save_diffusers_pipeline(ours, tmp_path)
    saved = load_file(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    assert sum(tensor.numel() for tensor in saved.values()) == sum(p.numel() for p in ours.parameters())
