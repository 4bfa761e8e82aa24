"""`ddpm.diffusion`: what its parts do not know: drawing, self-conditioning, sampling, modes, and the door."""

import copy
import itertools
import json
import sys
from functools import partial
from typing import get_args

import numpy as np
import pytest
import torch

import ddpm
from ddpm import (
    GaussianDiffusion,
    MinSNR,
    Unet,
    ancestral,
    ddim,
    dpm_solver_pp,
    heun,
    to_image_scale,
    to_model_scale,
)
from ddpm.grids import Spacing
from tests.networks import (
    BETAS,
    Constant,
    Pointwise,
    SelfConditioned,
    diffusion_of,
    drawn,
    labels_told,
    randn,
    seeded,
)

approx = pytest.approx
SMALL = {"dim": 8, "dim_mults": (1, 2), "channels": 1, "resnet_block_groups": 4}
X, X0, NOISE = torch.zeros(2, 1, 4, 4), randn(4, 1, 4, 4), randn(4, 1, 4, 4, seed=1)
MASK = torch.tensor([True, False, True, False])


# Construction


def test_defaults_are_the_papers():
    diffusion = GaussianDiffusion(Pointwise(), image_size=32)
    assert diffusion.schedule.timesteps == diffusion.sampling_timesteps == 1000
    assert (diffusion.objective, diffusion.loss_type, diffusion.loss_weighting) == ("pred_noise", "l2", None)
    assert torch.equal(diffusion.schedule.beta[1:], BETAS["linear"](1000).float())
    assert diffusion.ddim_sampling_eta == 0
    assert diffusion_of(timesteps=20).beta_schedule == "cosine"
    assert diffusion_of(timesteps=21).beta_schedule == "linear"


@pytest.mark.parametrize("name", list(BETAS))
def test_config_builds_a_twin(name):
    options = {"image_size": [4, 6], "timesteps": 30, "sampling_timesteps": 3, "ddim_sampling_eta": 0.5}
    options |= {"loss_type": "l1", "objective": "pred_v", "beta_schedule": name}
    options |= {"sampler": "dpm++", "spacing": "quadratic", "variance": "fixed_large"}
    config = {**options, "loss_weighting": {"name": "MinSNR", "gamma": 2.0}, "class_names": None}
    diffusion = GaussianDiffusion(Pointwise(), **options, loss_weighting=MinSNR(2.0))
    diffusion.sampling_timesteps, diffusion.ddim_sampling_eta = np.int64(3), torch.tensor(0.5)
    assert diffusion.config == json.loads(json.dumps(diffusion.config)) == config
    assert torch.equal(diffusion.schedule.beta[1:], BETAS[name](30).float())
    assert diffusion.image_shape == (1, 4, 6)
    assert diffusion.device == torch.device("cpu")


def test_save_pretrained_and_from_pretrained_are_the_packages(tmp_path, monkeypatch):
    diffusion = GaussianDiffusion(drawn(Unet(**SMALL), 0.2), image_size=8, timesteps=30)
    diffusion.save_pretrained(tmp_path / "model")
    again = GaussianDiffusion.from_pretrained(tmp_path / "model")
    assert again.config == diffusion.config
    assert torch.equal(again.network.last.weight, diffusion.network.last.weight)
    monkeypatch.setattr(ddpm, "load_pretrained", lambda *names, **options: (names, options))
    assert GaussianDiffusion.from_pretrained("digits", weights="model") == (("digits",), {"weights": "model"})
    assert GaussianDiffusion.from_pretrained("digits") == (("digits",), {})


# The network behind `predict` and `loss`


@pytest.mark.parametrize(("kind", "calls"), [(Pointwise, 1), (SelfConditioned, 2)])
def test_another_form_of_the_network_is_called_in_its_place(kind, calls):
    """In `predict` and in both calls of the loss; the network itself is left alone."""
    diffusion, other, t = diffusion_of(kind()), kind(), torch.tensor([1, 2, 3, 40])
    diffusion.loss(X0, t, NOISE, network=other)
    assert len(other.calls) == calls
    diffusion.predict(X0, t, network=other)
    assert len(other.calls) == calls + 1
    assert diffusion.network.calls == []


def test_loss_and_predict_refuse_an_output_of_another_shape():
    """PyTorch would only warn, and train on broadcast nonsense."""

    class OneChannel(Pointwise):
        def forward(self, x_t, t, labels=None):
            return super().forward(x_t, t, labels)[:, :1]

    diffusion = diffusion_of(OneChannel(channels=3))
    for call in (diffusion.loss, diffusion.predict):
        with pytest.raises(ValueError, match=r"must return shape \(2, 3, 4, 4\), but returned \(2, 1, 4"):
            call(torch.zeros(2, 3, 4, 4), torch.tensor([1, 2]))


# The loss


def test_loss_weights_every_image_before_the_mean():
    """Two images whose errors and weights differ a lot: the mean of products is not the product of means."""
    diffusion = diffusion_of(Constant(0.0), loss_weighting=lambda _schedule, t, _objective: t.float())
    noise = torch.tensor([1.0, 10.0]).sqrt().view(2, 1, 1, 1).expand(2, 1, 4, 4)
    assert diffusion.loss(X, torch.tensor([50, 2]), noise).item() == approx((50 * 1 + 2 * 10) / 2, rel=1e-6)


@pytest.mark.parametrize("kind", [Pointwise, SelfConditioned])
def test_loss_draws_timesteps_noise_and_mask_in_this_order(kind):
    """Timesteps uniform in 1 … T; a network without self-conditioning flips no coin."""
    diffusion, used, expected = diffusion_of(kind()), seeded(3), seeded(3)
    x0 = randn(200, 1, 4, 4)
    drawn = diffusion.loss(x0, generator=used)
    t = torch.randint(1, 51, (200,), generator=expected)
    noise, options = torch.randn(200, 1, 4, 4, generator=expected), {}
    if diffusion.self_condition:
        options["self_condition_mask"] = torch.randint(0, 2, (200,), generator=expected).bool()
    assert torch.equal(drawn, diffusion.loss(x0, t, noise, **options))
    assert torch.equal(used.get_state(), expected.get_state())


def test_forward_takes_images_in_0_1():
    """`diffusion(images)` is `loss` of the rescaled images, with t and ε from the global source."""
    diffusion, images = diffusion_of(), torch.rand(5, 1, 4, 4, generator=seeded(0))

    def drawn(loss, *arguments):
        torch.manual_seed(7)
        return loss(*arguments)

    assert torch.equal(drawn(diffusion, images), drawn(diffusion.loss, 2 * images - 1))
    assert drawn(diffusion, images).shape == ()
    assert not torch.equal(drawn(diffusion, images), drawn(diffusion, images, torch.arange(5)))


def test_scales_undo_each_other_and_clip():
    images = torch.linspace(0, 1, 101)
    assert to_model_scale(images).aminmax() == (-1, 1)
    torch.testing.assert_close(to_image_scale(to_model_scale(images)), images, rtol=0, atol=1e-7)
    assert to_image_scale(torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0])).tolist() == [0, 0, 0.5, 1, 1]


# Self-conditioning


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v", "pred_flow"])
def test_loss_hands_the_first_prediction_to_the_images_of_the_mask(objective):
    """It is x_0 of the first answer, clipped, computed without gradients; the others get zeros."""
    diffusion = diffusion_of(SelfConditioned(), objective=objective)
    t, labels = torch.tensor([1, 20, 40, 50]), torch.tensor([0, 1, 2, 0])
    loss = diffusion.loss(X0, t, NOISE, labels, self_condition_mask=MASK)
    (nothing, given), modes = diffusion.network.estimates, diffusion.network.modes
    assert nothing is None
    assert modes == [(True, False), (True, True)]
    assert not given.requires_grad
    x_t = diffusion.q_sample(X0, t, NOISE)
    predicted = diffusion.predict(x_t, t, labels).x0.detach()
    assert (predicted.abs() > 1).any(), "nothing to clip"
    assert torch.equal(given, predicted.clamp(-1, 1) * MASK.view(-1, 1, 1, 1))
    # The loss is that of the second answer alone, and so is its gradient.
    answer = diffusion.network(x_t, t, labels, given)
    targets = {"pred_noise": NOISE, "pred_x0": X0, "pred_flow": NOISE - X0}
    target = targets.get(objective, diffusion.predict_v(X0, t, NOISE))
    expected = (answer - target).square().mean()
    assert loss.item() == approx(expected.item(), rel=1e-6)
    got, wanted = (torch.autograd.grad(one, diffusion.network.weight)[0].item() for one in (loss, expected))
    assert got == approx(wanted, rel=1e-5)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_loss_trains_every_weight_of_a_self_conditioned_unet(precision):
    """Also under autocast, where some versions of torch would keep what the first pass cast, without gradients."""
    diffusion = GaussianDiffusion(drawn(Unet(**SMALL, self_condition=True), 0.2), image_size=8, timesteps=50)
    x0, t = randn(4, 1, 8, 8).clamp(-1, 1), torch.tensor([5, 20, 40, 50])
    with torch.autocast("cpu", torch.bfloat16, enabled=precision != torch.float32):
        loss = diffusion.loss(x0, t, randn(4, 1, 8, 8, seed=1), self_condition_mask=MASK)
    assert loss.dtype == torch.float32
    loss.backward()
    for name, parameter in diffusion.network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


# Sampling


@pytest.mark.parametrize(
    ("sampler", "steps", "calls"),
    [(None, None, 30), (None, 30, 30), ("ancestral", 30, 30), (None, 7, 7), (None, 1, 1), ("ddim", 30, 30)],
)
def test_sample_over_all_timesteps_is_ancestral_and_over_fewer_is_ddim(sampler, steps, calls):
    """If nothing else is said."""
    diffusion = diffusion_of(timesteps=30, beta_schedule="cosine", ddim_sampling_eta=0.3)
    images = diffusion.sample(3, steps, sampler=sampler, generator=seeded(4))
    assert len(diffusion.network.calls) == calls
    generator = seeded(4)
    x = torch.randn(3, 1, 4, 4, generator=generator)
    walk = partial(ddim, steps=calls, eta=0.3) if calls < 30 or sampler == "ddim" else ancestral
    *_, last = walk(diffusion, x, generator=generator)
    assert torch.equal(images, to_image_scale(last.x))


def test_sample_takes_its_defaults_from_construction():
    diffusion = diffusion_of(Pointwise(channels=2), timesteps=30, sampling_timesteps=6, image_size=(3, 5))
    assert diffusion.sample().shape == (16, 2, 3, 5)
    assert len(diffusion.network.calls) == 6
    assert diffusion.network.modes == [(False, False)] * 6
    assert diffusion.network.training


SPACED = {"spacing": "quadratic"}
CHOICES = [
    # at construction, in the call, what then runs
    ({}, {"sampler": "heun"}, partial(heun, steps=30)),
    ({}, {"sampler": "dpm++", "sampling_timesteps": 7}, partial(dpm_solver_pp, steps=7)),
    ({}, {"sampling_timesteps": 7, **SPACED}, partial(ddim, steps=7, **SPACED)),
    ({}, {"eta": 0.4}, partial(ddim, steps=30, eta=0.4)),
    ({}, {"variance": "fixed_large"}, partial(ancestral, variance="fixed_large")),
    ({}, {"variance": torch.full((31,), 0.2)}, partial(ancestral, variance=torch.full((31,), 0.2))),
    ({"sampler": "dpm++", "sampling_timesteps": 5}, {}, partial(dpm_solver_pp, steps=5)),
    ({"sampler": "dpm++", "sampling_timesteps": 5}, {"sampler": "ancestral"}, ancestral),
    ({"sampler": "ancestral", **SPACED}, {}, ancestral),
    ({"sampling_timesteps": 5, **SPACED}, {}, partial(ddim, steps=5, **SPACED)),
    ({"ddim_sampling_eta": 0.4, **SPACED}, {"sampler": "heun"}, partial(heun, steps=30, **SPACED)),
    (SPACED, {"sampling_timesteps": 5, "spacing": "log-snr"}, partial(ddim, steps=5, spacing="log-snr")),
]


@pytest.mark.parametrize(("own", "given", "walk"), CHOICES)
def test_sample_runs_what_the_call_says_and_else_what_the_model_says(own, given, walk):
    diffusion = diffusion_of(timesteps=30, beta_schedule="cosine", **own)
    images, generator = diffusion.sample(3, generator=seeded(4), **given), seeded(4)
    *_, last = walk(diffusion, torch.randn(3, 1, 4, 4, generator=generator), generator=generator)
    assert torch.equal(images, to_image_scale(last.x))


def test_the_spacings_and_variances_are_not_one_and_the_same():
    diffusion = diffusion_of(timesteps=30)
    spaced = [diffusion.sample(1, 7, spacing=spacing, seeds=[1]) for spacing in get_args(Spacing)]
    noised = [diffusion.sample(1, variance=name, seeds=[1]) for name in ("fixed_small", "fixed_large")]
    for one, other in itertools.combinations(spaced, 2):
        assert (one - other).abs().max() > 1e-3
    assert (noised[0] - noised[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("sampler", "steps"),
    [("ancestral", 1000), *itertools.product(["ddim", "heun", "dpm++"], [1, 2, 3, 10, 97, 1000])],
)
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_every_sampler_takes_any_number_of_steps(name, sampler, steps):
    """Finite, in range, and the same for any batch; a network that answers too loudly makes clipping work."""
    options = {} if sampler == "ancestral" else {"spacing": "log-snr"}
    diffusion = diffusion_of(Pointwise(scale=3.0), timesteps=1000, beta_schedule=name, objective="pred_v")
    images = diffusion.sample(3, steps, sampler=sampler, seeds=[1, 2, 3], **options)
    assert len(diffusion.network.calls) == (2 * steps - 1 if sampler == "heun" else steps)
    assert images.isfinite().all()
    assert (images >= 0).all()
    assert (images <= 1).all()
    assert images.std() > 0.01
    again = [diffusion.sample(1, steps, sampler=sampler, seeds=[seed], **options) for seed in (3, 1)]
    assert torch.equal(torch.cat(again), images[[2, 0]])


@pytest.mark.parametrize("kind", [Pointwise, SelfConditioned])
@pytest.mark.parametrize("steps", [30, 7])
def test_sample_depends_on_an_images_own_seed_and_label_alone(steps, kind):
    """Bit for bit with a network that mixes nothing; the seed's place in the batch does not matter either."""
    diffusion = diffusion_of(kind(), timesteps=30, beta_schedule="cosine", ddim_sampling_eta=1.0)
    before = torch.get_rng_state()
    together = diffusion.sample(3, steps, seeds=[11, 12, 13])
    for i, seed in enumerate([11, 12, 13]):
        assert torch.equal(diffusion.sample(1, steps, seeds=[seed])[0], together[i])
    assert torch.equal(diffusion.sample(2, steps, seeds=[13, 11]), together[[2, 0]])
    labelled = diffusion.sample(3, steps, seeds=[11, 12, 13], labels=torch.tensor([0, 1, 0]))
    assert torch.equal(labelled[[0, 2]], together[[0, 2]])
    assert not torch.equal(labelled[1], together[1])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("sampler", "steps"), [("ancestral", 30), ("ddim", 7)])
@pytest.mark.parametrize("given", [[2, 0, 1], np.array([2, 0, 1], dtype=np.uint8), torch.tensor([2, 0, 1])])
def test_sample_converts_labels_once(monkeypatch, sampler, steps, given):
    """All steps get one and the same tensor: on an accelerator, a list at every step would be a copy at every step."""
    diffusion = diffusion_of(timesteps=30, beta_schedule="cosine")
    told = labels_told(monkeypatch, diffusion)
    diffusion.sample(3, steps, sampler=sampler, labels=given)
    assert len(told) == steps
    assert all(labels is told[0] for labels in told)
    assert told[0].dtype == torch.int64
    assert told[0].tolist() == [2, 0, 1]


def test_sample_shows_progress_only_when_asked(capsys):
    diffusion_of().sample(1, 4)
    assert capsys.readouterr().err == ""
    diffusion_of().sample(1, 4, progress=True)
    assert "4/4" in capsys.readouterr().err


class Log:
    """Stands for standard error, as in programs that send what is written there to their log."""

    def write(self, _):
        pass


@pytest.mark.parametrize("console", [None, Log(), "closed"])
@pytest.mark.parametrize("progress", [True, False])
def test_sample_does_without_a_console(monkeypatch, tmp_path, console, progress):
    """As in a program without a window, which has no streams."""
    expected = diffusion_of().sample(1, 4, seeds=[1])
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    with (tmp_path / "gone").open("w") as closed:
        monkeypatch.setattr(sys, "stderr", closed if console == "closed" else console)
    assert torch.equal(diffusion_of().sample(1, 4, seeds=[1], progress=progress), expected)


# The module


def test_double_precision_all_the_way():
    diffusion = GaussianDiffusion(drawn(Unet(**SMALL), 0.2), image_size=8, timesteps=30).double()
    diffusion(torch.rand(2, 1, 8, 8, dtype=torch.float64)).backward()
    assert diffusion.network.last.weight.grad.dtype == torch.float64
    assert diffusion.sample(2, 3).dtype == torch.float64


def test_state_dict_holds_the_networks_weights_and_nothing_else():
    first = GaussianDiffusion(drawn(Unet(**SMALL), 0.2), image_size=8, timesteps=30)
    second = GaussianDiffusion(Unet(**SMALL), image_size=8, timesteps=30)
    assert all(name.startswith("network.") for name in first.state_dict())
    second.load_state_dict(first.state_dict())
    x, t = randn(2, 1, 8, 8), torch.tensor([3, 30])
    assert torch.equal(first.predict(x, t).x0, second.predict(x, t).x0)
    assert torch.equal(first.predict(x, t).x0, copy.deepcopy(first).predict(x, t).x0)
