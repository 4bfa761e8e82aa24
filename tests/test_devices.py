"""The method on a GPU, without one: nothing is left on the CPU, nothing waits for the GPU but what is named here."""

import itertools
from typing import get_args

import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from ddpm import (
    EDM,
    P2,
    ClassifierFreeGuidance,
    ClassifierGuidance,
    GaussianDiffusion,
    MinSNR,
    ReconstructionGuidance,
    Unet,
    ancestral,
    ddim,
    dpm_solver_pp,
    encode,
    heun,
)
from ddpm.editing import inpaint, interpolate_latents
from ddpm.grids import Spacing
from ddpm.likelihood import vlb_terms
from tests.fake_gpu import RoundTripError, fake_gpu, move, real, wants_a_driver
from tests.networks import SMALL_UNET, UNET_OPTIONS

pytestmark = pytest.mark.skipif(
    torch.__version__.startswith("2.6.") and wants_a_driver(),
    reason="torch 2.6 for CUDA cannot index a fake tensor of a GPU without a driver",
)
OBJECTIVES = ("pred_noise", "pred_x0", "pred_v", "pred_flow")
WEIGHTINGS = [None, MinSNR(), P2(), EDM()]
# Once a batch the finished pictures are looked at, for a NaN: 0 of them have one.
FINISHED = {"check_finite": 0}


def model(network="plain", kind=torch.float32, **options) -> GaussianDiffusion:
    """On the GPU; to be made within `fake_gpu`."""
    shape = {"image_size": 8, "timesteps": 20, "sampling_timesteps": 3}
    with real():
        built = GaussianDiffusion(Unet(**(SMALL_UNET | UNET_OPTIONS[network])), **(shape | options)).to(kind)
    return move(built)


def inputs(diffusion) -> dict[str, torch.Tensor | None]:
    """Images, noise, timesteps, and labels for a network that takes them, on the GPU."""
    x, t = torch.empty(2, 1, 8, 8, device="cuda"), torch.ones(2, dtype=torch.long, device="cuda")
    labels = t if diffusion.network.num_classes else None
    return {"x": x, "t": t, "labels": labels, "previous": x if diffusion.self_condition else None}


@pytest.mark.parametrize("network", UNET_OPTIONS)
def test_network_and_predictions(network):
    with fake_gpu():
        ours = model(network)
        x, t, labels, previous = inputs(ours).values()
        assert ours.network(x, t, labels, previous).device == x.device
        for clip, objective in itertools.product((False, True), OBJECTIVES):
            ours.objective = objective
            prediction = ours.predict(x, t, labels, clip_x0=clip, x_self_cond=previous)
            for part in (prediction.noise, prediction.x0, prediction.v, prediction.flow, prediction.score):
                assert (part.device, part.dtype, part.shape) == (x.device, torch.float32, x.shape)


def is_loss(loss, x):
    return (loss.device, loss.dtype, loss.shape) == (x.device, torch.float32, ()) and loss.requires_grad


@pytest.mark.parametrize("network", UNET_OPTIONS)
def test_losses_of_every_network(network):
    with fake_gpu():
        ours = model(network, loss_weighting=EDM())
        x, t, labels, _ = inputs(ours).values()
        mask = {"self_condition_mask": t > 1} if ours.self_condition else {}
        mask |= {"label_mask": t > 1} if ours.null_label else {}
        assert is_loss(ours(x, labels), x)
        assert is_loss(ours.loss(x, t, x, labels, **mask), x)
        assert is_loss(ours.loss(x, labels=labels, generator=torch.Generator()), x)


def test_every_loss():
    with fake_gpu():
        ours = model()
        x, t, *_ = inputs(ours).values()
        every = itertools.product(OBJECTIVES, ("l1", "l2"), WEIGHTINGS)
        for ours.objective, ours.loss_type, ours.loss_weighting in every:
            assert is_loss(ours.loss(x, t, x), x)


def test_transitions():
    with fake_gpu():
        ours = model()
        x, t, *_ = inputs(ours).values()
        found = [
            ours.q_sample(x, t, x),
            *ours.q_posterior(x, x, t),
            *ours.p_mean_variance(x, t),
            ours.p_sample(x, t),
        ]
        changes = (ours.predict_start_from_noise, ours.predict_noise_from_start, ours.predict_start_from_v)
        found += [change(x, t, x) for change in (*changes, ours.predict_v)]
        assert {part.device for part in found} == {x.device}


@pytest.mark.parametrize("network", UNET_OPTIONS)
def test_every_sampler_waits_for_nothing_until_the_pictures_are_finished(network):
    with fake_gpu() as watch:
        ours = model(network, timesteps=6)
        x, _, labels, _ = inputs(ours).values()
        one, each = torch.Generator(), [torch.Generator(), torch.Generator()]
        words = ["fixed_small", "fixed_large"] + (["learned"] if ours.learned_variance else [])
        walks = [ancestral(ours, x, start=2, variance=word, labels=labels, generator=each) for word in words]
        walks += [ddim(ours, x, 2, eta=eta, labels=labels, generator=one) for eta in (0.0, 1.0)]
        walks += [ddim(ours, x, [6, 2, 0], clip_x0=False, labels=labels, eta=0.5)]
        # Solvers and grids know nothing of the network.
        if network in ("plain", "all"):
            grids = list(zip((True, False, True, False), get_args(Spacing), strict=True))
            walks += [
                walk(ours, x, 3, spacing=spacing, labels=labels, clip_x0=clip)
                for walk in (ddim, heun, dpm_solver_pp, encode)
                for clip, spacing in grids
            ]
        for walk in walks:
            assert {part.device for state in walk for part in (state.x, state.x0)} == {x.device}
        watch.allowed = dict(FINISHED)
        drawn = [
            ours.sample(2, 2, labels=labels, **source)
            for source in ({}, {"seeds": [1, 2]}, {"generator": one})
        ]
        if network in ("plain", "all"):
            drawn += [ours.sample(2, 4, sampler=name, labels=labels) for name in ("heun", "dpm++")]
            drawn += [ours.sample(2, 6, labels=labels), ours.interpolate(x, x, 2, labels=labels)]
        assert {images.device for images in drawn} == {x.device}
        assert watch.waits == ["check_finite"] * len(drawn)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("network", UNET_OPTIONS)
def test_autocast(network, kind, monkeypatch):
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    with fake_gpu(**FINISHED), torch.autocast("cuda", kind):
        ours = model(network)
        x, t, labels, previous = inputs(ours).values()
        assert ours.network(x, t, labels, previous).dtype == kind
        assert ours.predict(x, t, labels).x0.dtype == torch.float32
        assert ours.loss(x, t, x, labels).dtype == torch.float32
        assert ours.sample(2, labels=labels).dtype == torch.float32


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision(kind):
    with fake_gpu(**FINISHED):
        ours = model("all", kind)
        x, t, labels, previous = inputs(ours).values()
        assert {weight.dtype for weight in ours.parameters()} == {kind}
        assert ours.network(x, t, labels, previous).dtype == kind
        assert {table.dtype for table in ours.buffers()} == {torch.float32}
        assert ours.sample(2, labels=labels).dtype == torch.float32


WRONG = {
    "images": lambda ours, _x, y, _t: ours(y),
    "x0": lambda ours, x, y, t: ours.loss(y, t, x),
    "noise": lambda ours, x, y, t: ours.loss(x, t, y),
    "x_t": lambda ours, _, y, t: ours.predict(y, t),
    "x_self_cond": lambda ours, x, y, t: ours.predict(x, t, x_self_cond=y),
    "x_start": lambda ours, x, y, t: ours.q_sample(y, t, x),
    "x1": lambda ours, x, y, _: ours.interpolate(y, x),
    "x2": lambda ours, x, y, _: ours.interpolate(x, y),
}


@pytest.mark.parametrize("name", WRONG)
def test_images_on_another_device_are_refused_with_what_to_write(name):
    with fake_gpu():
        ours = model("self-conditioned")
        x, t, *_ = inputs(ours).values()
        there = torch.empty(2, 1, 8, 8)
        message = (
            rf"^{name} is on cpu and the model on cuda:0; write {name}\.to\('cuda:0'\), or move the model$"
        )
        with pytest.raises(ValueError, match=message):
            WRONG[name](ours, x, there, t)


def test_timesteps_labels_and_masks_are_moved():
    with fake_gpu(**FINISHED):
        ours = model("all")
        x, *_ = inputs(ours).values()
        t, mask = torch.ones(2, dtype=torch.long), torch.ones(2, dtype=torch.bool)
        assert ours.predict(x, t, t).x0.device == x.device
        assert ours.loss(x, t, x, t, self_condition_mask=mask).device == x.device
        assert ours.sample(2, labels=t).device == x.device
        assert ours.p_sample(x, t, t).device == x.device


@pytest.mark.parametrize("options", [{}, {"learned_variance": True, "self_condition": True}])
def test_guidance_waits_for_nothing_but_for_a_limited_interval(options, monkeypatch):
    monkeypatch.setitem(UNET_OPTIONS, "guided", UNET_OPTIONS["label dropout"] | options)
    # The way back through a classifier or a network wants a driver.
    monkeypatch.setattr(torch.autograd, "grad", lambda _, x: (torch.zeros_like(x),))
    with fake_gpu() as watch:
        ours = model("guided")
        x, t, labels, _ = inputs(ours).values()
        free = [ClassifierFreeGuidance(ours, scale, rescale=0.5) for scale in (0, 1, 2.5)]
        free.append(ClassifierGuidance(ours, lambda x, t: x.flatten(1)[:, :3] * t[:, None], 2.0))
        free.append(ReconstructionGuidance(ours, lambda x: x[..., :2], x[..., :2], variance=0.1))
        for guided in free:
            for walk in (
                ancestral(guided, x, start=3, labels=labels),
                *(walk(guided, x, 3, labels=labels) for walk in (ddim, heun, dpm_solver_pp)),
            ):
                assert {part.device for state in walk for part in (state.x, state.x0)} == {x.device}
        assert watch.waits == []
        watch.allowed = dict(FINISHED)
        assert ours.sample(2, labels=labels, guidance=2.0).device == x.device
        inpainted = inpaint(ours, x, torch.ones(8, 8, dtype=torch.bool), labels=labels, resamplings=2)
        between = interpolate_latents(ours, x, x, 2, 0.3, labels=labels)
        assert {images.device for images in (inpainted, between)} == {x.device}
        watch.allowed, watch.waits = {"predict": 1}, []
        guided = ClassifierFreeGuidance(ours, 2.0, interval=(3, 10))
        assert guided.predict(x, t, labels).x0.device == x.device
        assert watch.waits == ["predict"]


# What waits, and has to: it is said where it is documented, and here.


def test_a_rule_or_a_table_of_ones_own_is_looked_at():
    with fake_gpu(check_log_variance=True) as watch:
        ours = model()
        x, *_ = inputs(ours).values()
        rule = ancestral(ours, x, variance=lambda x_t, *_: torch.zeros_like(x_t), start=3)
        assert len(list(rule)) == 3
        assert watch.waits == ["check_log_variance"] * 3
        watch.allowed, watch.waits = {"_log_variance_table": True}, []
        table = torch.ones(21, device="cuda")
        assert len(list(ancestral(ours, x, variance=table, start=3))) == 3
        assert watch.waits == ["_log_variance_table"]


@pytest.mark.parametrize("network", ["plain", "classes", "learned variance"])
def test_a_likelihood_waits_for_the_8bit_check_and_for_its_result(network):
    """Before the first network call, and once for each batch."""
    with fake_gpu(check_8bit=0, _check_data=1, _batch_terms=0, check_log_variance=1) as watch:
        ours = model(network, timesteps=3)
        x, _, labels, _ = inputs(ours).values()
        bound = vlb_terms(ours, x, labels=labels, batch_size=1, seeds=[1, 2])
        assert bound.total.shape == (2,)
        looks = [name for name in watch.waits if name != "check_log_variance"]
        assert looks == ["_check_data", "check_8bit", *["_batch_terms"] * 4]
        # Two timesteps and the decoder, in each of two batches.
        assert watch.waits.count("check_log_variance") == 6


# The watch itself


ROUND_TRIPS = {
    "item": lambda x: x.sum().item(),
    "int": lambda x: int(x.sum()),
    "if": lambda x: 1 if (x > 0).all() else 0,
    "tolist": lambda x: x.flatten().tolist(),
    "cpu": lambda x: x.cpu(),
    "selection": lambda x: x[x > 0],
    "nonzero": lambda x: x.nonzero(),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_the_watch_sees_what_waits(name):
    with fake_gpu() as watch:
        x = torch.empty(2, 3, device="cuda")
        with pytest.raises((RoundTripError, DynamicOutputShapeException)):
            ROUND_TRIPS[name](x)
        assert watch.waits == []


def test_a_tensor_left_behind_raises():
    with fake_gpu():
        ours = model()
        x, t, *_ = inputs(ours).values()
        ours.schedule.sigma = torch.ones(21)
        with pytest.raises((RuntimeError, AssertionError, ValueError)):
            ours.q_sample(x, t, x)
