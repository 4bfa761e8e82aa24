"""`ddpm.loss` against NumPy; the part for a learned variance is checked in `test_learned_variance`."""

import numpy as np
import pytest
import torch

from ddpm import NoiseSchedule
from ddpm.loss import simple_loss
from tests.networks import BETAS, diffusion_of, randn


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
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
    error = output - {"pred_noise": e, "pred_x0": x, "pred_v": v}[objective]
    distance = np.abs(error) if loss_type == "l1" else error**2
    assert diffusion.loss(x0, t, noise).item() == pytest.approx(distance.mean(), rel=1e-5)


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
