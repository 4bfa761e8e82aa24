"""`ddpm.loss` against NumPy; the part for a learned variance is checked in `test_learned_variance`."""

import numpy as np
import pytest
import torch

from ddpm import NoiseSchedule, Unet
from ddpm.loss import simple_loss
from tests.networks import BETAS, SMALL_UNET, Classed, diffusion_of, drawn, randn, seeded


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v", "pred_flow"])
@pytest.mark.parametrize("loss_type", ["l1", "l2"])
def test_loss_is_the_mean_distance_to_the_target(objective, loss_type):
    """With the target written out from α's own definition."""
    diffusion = diffusion_of(objective=objective, loss_type=loss_type, beta_schedule="cosine")
    x0, noise, t = randn(6, 1, 4, 4), randn(6, 1, 4, 4, seed=1), torch.tensor([1, 2, 10, 25, 49, 50])
    alpha_bar = np.cumprod(1 - BETAS["cosine"](50).numpy())[t.numpy() - 1].reshape(-1, 1, 1, 1)
    x, e = x0.numpy().astype(float), noise.numpy().astype(float)
    x_t = np.sqrt(alpha_bar) * x + np.sqrt(1 - alpha_bar) * e
    v = np.sqrt(alpha_bar) * e - np.sqrt(1 - alpha_bar) * x
    # What `Pointwise` answers.
    output = np.sin(0.7 * x_t) + 0.01 * np.log(t.numpy()).reshape(-1, 1, 1, 1)
    error = output - {"pred_noise": e, "pred_x0": x, "pred_v": v, "pred_flow": e - x}[objective]
    distance = np.abs(error) if loss_type == "l1" else error**2
    assert diffusion.loss(x0, t, noise).item() == pytest.approx(distance.mean(), rel=1e-5)


def test_torch_func_takes_the_gradient_of_each_image():
    """By vmap, as those do who ask which image taught the network what."""
    loss = torch.nn.Module()
    loss.model = diffusion_of(drawn(Unet(**SMALL_UNET, num_classes=3, attention_resolutions=()), 0.1))
    loss.forward = lambda *one: loss.model.loss(*(x[None] for x in one))
    images = randn(2, 1, 4, 4), torch.tensor([1, 50]), randn(2, 1, 4, 4, seed=1), torch.tensor([0, 2])
    weights = {name: x.detach() for name, x in loss.named_parameters()}
    gradient = torch.func.grad(lambda weights, *one: torch.func.functional_call(loss, weights, one))
    got = torch.func.vmap(gradient, (None, 0, 0, 0, 0))(weights, *images)
    for place, one in enumerate(zip(*images, strict=True)):
        torch.testing.assert_close({name: x[place] for name, x in got.items()}, gradient(weights, *one))


@pytest.mark.parametrize(
    ("output_type", "image_type", "loss_type"),
    [
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float32, torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.float16, torch.float16, torch.float32),
        (torch.float32, torch.float64, torch.float64),
        (torch.float64, torch.float64, torch.float64),
    ],
)
@pytest.mark.parametrize(("distance", "power"), [("l1", 1), ("l2", 2)])
def test_simple_loss_is_one_number_per_image_in_full_precision(
    output_type, image_type, loss_type, distance, power
):
    output = torch.tensor([[0.5, 1.5], [3.0, 3.0]]).view(2, 1, 1, 2).to(output_type).requires_grad_()
    schedule, noise = NoiseSchedule(BETAS["cosine"](50)), torch.full((2, 1, 1, 2), 0.001, dtype=image_type)
    loss = simple_loss(schedule, "pred_noise", noise, torch.tensor([3, 4]), noise, output, loss_type=distance)
    assert loss.dtype == loss_type
    e = noise[0, 0, 0, 0].double()  # 0.001, as near as its type comes
    expected = torch.stack([((0.5 - e) ** power + (1.5 - e) ** power) / 2, (3 - e) ** power])
    torch.testing.assert_close(
        loss.double(), expected, rtol=1e-13 if loss_type == torch.float64 else 1e-6, atol=0
    )
    loss.sum().backward()
    assert output.grad.dtype == output_type


# Label dropout

X, NOISE, T, LABELS = randn(4, 1, 4, 4), randn(4, 1, 4, 4, seed=1), torch.tensor([1, 2, 25, 50]), [0, 1, 2, 0]


def test_the_mask_says_which_labels_are_seen():
    diffusion = diffusion_of(Classed())
    losses = [
        diffusion.loss(X, T, NOISE, labels, label_mask=mask)
        for labels, mask in ((LABELS, [True, False, True, False]), ([0, 3, 2, 3], [True] * 4), (None, None))
    ]
    assert diffusion.network.labels == [[0, 3, 2, 3], [0, 3, 2, 3], [3, 3, 3, 3]]
    assert losses[0] == losses[1] != losses[2]


def test_labels_are_hidden_one_by_one_in_training_alone():
    """By the generator, after t and noise: without dropout it draws what it drew before."""
    diffusion, x = diffusion_of(Classed()), randn(2000, 1, 1, 1)
    diffusion.train().loss(x, labels=[1] * 2000, generator=seeded(3))
    (seen,) = diffusion.network.labels
    hidden = torch.tensor(seen) == 3
    assert abs(int(hidden.sum()) - 500) < 5 * 375**0.5  # five standard deviations
    assert {*seen} == {1, 3}
    source = seeded(3)
    torch.randint(1, 51, (2000,), generator=source), torch.randn(x.shape, generator=source)
    assert torch.equal(hidden, torch.rand(2000, generator=source) < 0.25)
    diffusion.eval().loss(x, labels=[1] * 2000)
    assert {*diffusion.network.labels[1]} == {1}


def test_the_first_prediction_of_self_conditioning_sees_the_same_labels():
    diffusion = diffusion_of(Classed(self_condition=True))
    diffusion.train().loss(X, T, NOISE, LABELS)
    first, second = diffusion.network.labels
    assert first == second
