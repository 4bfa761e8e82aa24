"""`ddpm.prediction`: four coordinates that always agree, and modes that come back."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from ddpm import Unet
from ddpm.prediction import evaluating, training_target, x0_from_score
from tests.networks import (
    BETAS,
    SMALL_UNET,
    Constant,
    Pointwise,
    diffusion_of,
    drawn,
    exact_diffusion_of,
    randn,
)

OBJECTIVES = ("pred_noise", "pred_x0", "pred_v", "pred_flow")


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", list(BETAS))
def test_predict_keeps_its_coordinates_in_agreement(name, objective, clip):
    """x_t = √ᾱ x_0 + σ ε, v = √ᾱ ε − σ x_0, score = −ε/σ at every t, clipped or not, whatever the network predicts."""
    T = 100
    answer = randn(T, 1, 3, 3, seed=2, dtype=torch.float64)
    diffusion = exact_diffusion_of(Constant(answer), name, T, objective=objective)
    x_t = randn(T, 1, 3, 3, dtype=torch.float64)
    prediction = diffusion.predict(x_t, torch.arange(1, T + 1), clip_x0=clip)

    alpha_bar = diffusion.schedule.exact_alpha_bar[1:].view(-1, 1, 1, 1)
    root, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    unclipped = {
        "pred_noise": (x_t - sigma * answer) / root,
        "pred_x0": answer,
        "pred_v": root * x_t - sigma * answer,
        "pred_flow": (x_t - sigma * answer) / (root + sigma),
    }[objective]
    assert (unclipped.abs() > 1).any(), "nothing to clip"
    close = {"rtol": 1e-8, "atol": 1e-8}
    torch.testing.assert_close(prediction.x0, unclipped.clamp(-1, 1) if clip else unclipped, **close)
    torch.testing.assert_close(root * prediction.x0 + sigma * prediction.noise, x_t, **close)
    torch.testing.assert_close(root * prediction.noise - sigma * prediction.x0, prediction.v, **close)
    torch.testing.assert_close(prediction.noise - prediction.x0, prediction.flow, **close)
    torch.testing.assert_close(-prediction.noise / sigma, prediction.score, **close)
    again = x0_from_score(x_t, prediction.score, root, sigma)
    torch.testing.assert_close(again, prediction.x0, **close)
    # The network is trained for what it is taken to have said.
    target = training_target(objective, unclipped, (x_t - root * unclipped) / sigma, root, sigma)
    torch.testing.assert_close(target, answer, **close)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_predict_stays_in_float32_under_autocast(objective):
    """A network that answers in bfloat16 must not drag the sampler's state down with it."""

    class InHalf(Pointwise):
        def forward(self, x_t, t, labels=None):
            return super().forward(x_t, t, labels).bfloat16()

    prediction = diffusion_of(InHalf(), objective=objective).predict(randn(2, 1, 4, 4), torch.tensor([3, 30]))
    for name in ("x0", "noise", "v", "flow", "score"):
        assert getattr(prediction, name).dtype == torch.float32, name


@pytest.mark.parametrize("fails", [False, True])
def test_evaluating_puts_every_mode_back(fails):
    """Also after an error; a part that was in evaluation mode stays so."""
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout().eval())
    try:
        with evaluating(model):
            assert [module.training for module in model.modules()] == [False] * 3
            if fails:
                raise RuntimeError("out of ideas")
    except RuntimeError:
        assert fails
    assert [module.training for module in model.modules()] == [True, True, False]
    with evaluating(object()):
        pass


def test_threads_that_sample_one_model_stay_in_evaluation_mode_until_the_last_is_done():
    """The second begins before the first has done; dropout would change what it draws."""
    network = drawn(Unet(**SMALL_UNET, dropout=0.5), std=0.1)
    diffusion, begun, done = diffusion_of(network).train(), threading.Event(), threading.Event()
    expected = diffusion.sample(1, 3, seeds=[7])

    def wait(*_):
        if threading.current_thread().name.startswith("second"):
            begun.set()
            assert done.wait(60)
        else:
            assert begun.wait(60)

    def second():
        assert entered.wait(60)
        return diffusion.sample(1, 3, seeds=[7])

    entered = threading.Event()
    network.register_forward_pre_hook(lambda *_: entered.set())
    network.register_forward_hook(wait)
    with ThreadPoolExecutor(1, "second") as pool:
        later = pool.submit(second)
        first = diffusion.sample(1, 3, seeds=[7])
        assert not any(part.training for part in diffusion.modules())
        done.set()
    assert torch.equal(first, expected)
    assert torch.equal(later.result(), expected)
    assert all(part.training for part in diffusion.modules())


def test_sample_evaluates_the_model_within_a_wrapper_that_is_no_module():
    diffusion = diffusion_of(network := Pointwise())
    diffusion.sample(
        1, 3, guidance=lambda model: SimpleNamespace(schedule=model.schedule, predict=model.predict)
    )
    assert {training for training, _ in network.modes} == {False}
    assert diffusion.training
