"""`ddpm` against denoising-diffusion-pytorch (lucidrains), the implementation that most others started from.

Their t is ours minus 1, and their network is called as `model(x, t, x_self_cond)`. Both packages keep float32 tables
that were computed in float64, so that all comparisons can be made as shipped, with one exception
(`test_rounded_ends_of_their_sigmoid`).
"""

import numpy as np
import pytest
import torch
from torch import nn

from ddpm import GaussianDiffusion, MinSNR, Unet, ddim, sigmoid_betas, to_model_scale
from tests.peers.network import Mixing

REASON = (
    "denoising-diffusion-pytorch is not installed; it comes with the extra `peers`: pip install -e '.[peers]'"
)
pytest.importorskip("denoising_diffusion_pytorch", reason=REASON)

from denoising_diffusion_pytorch import GaussianDiffusion as TheirDiffusion  # noqa: E402
from denoising_diffusion_pytorch.denoising_diffusion_pytorch import sigmoid_beta_schedule  # noqa: E402

NAMES = ("linear", "cosine", "sigmoid")
OBJECTIVES = ("pred_noise", "pred_x0", "pred_v")
# The ends of their sigmoid as they are by default, but of a type that torch.tensor does not round to float32.
EXACT_ENDS = {"start": np.float64(-3), "end": np.float64(3)}


class InTheirIndex(nn.Module):
    """Our network behind their interface."""

    self_condition = False

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.channels = self.out_dim = network.channels
        self.asked = []

    def forward(self, x, t, x_self_cond=None):
        assert x_self_cond is None
        self.asked.append(int(t[0]) + 1)
        return self.network(x, t + 1)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small_unet():
    """A U-Net whose every weight was drawn, since a fresh one answers 0."""
    network = Unet(8, dim_mults=(1, 2), channels=2, resnet_block_groups=4, num_res_blocks=1).eval()
    generator = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.2, generator=generator)
    return network


def pair(network, *, name="linear", objective="pred_noise", timesteps=1000, weighting=None, **options):
    """The same diffusion twice: ours and theirs, around one network."""
    shared = {"image_size": 8, "timesteps": timesteps, "objective": objective, "beta_schedule": name}
    ours = GaussianDiffusion(network, loss_weighting=weighting, **shared)
    ends = {"schedule_fn_kwargs": EXACT_ENDS} if name == "sigmoid" else {}
    return ours, TheirDiffusion(InTheirIndex(network), **shared, **ends, **options)


def losses(ours, theirs, x0, t, noise):
    """Both losses for the same images, levels and noise."""
    return ours.loss(x0, t, noise), theirs.p_losses(x0, t - 1, noise=noise.clone())


# Tables


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("timesteps", [50, 1000])
def test_tables_agree(name, timesteps):
    """Every table that both have; relative to 1e-5, since several span many powers of ten."""
    ours, theirs = pair(Mixing(), name=name, timesteps=timesteps)
    same = {
        "beta": theirs.betas,
        "alpha_bar": theirs.alphas_cumprod,
        "sqrt_alpha_bar": theirs.sqrt_alphas_cumprod,
        "sigma": theirs.sqrt_one_minus_alphas_cumprod,
        "posterior_variance": theirs.posterior_variance,
        "posterior_mean_coef_x0": theirs.posterior_mean_coef1,
        "posterior_mean_coef_xt": theirs.posterior_mean_coef2,
    }
    for table, their_table in same.items():
        torch.testing.assert_close(
            getattr(ours.schedule, table)[1:], their_table, rtol=1e-5, atol=0, msg=table
        )
    log_variance = theirs.posterior_log_variance_clipped
    torch.testing.assert_close(
        ours.schedule.posterior_log_variance_clipped[2:], log_variance[1:], rtol=1e-5, atol=0
    )


def test_rounded_ends_of_their_sigmoid():
    """Theirs is wrong: the curve is in float64, its two ends in float32, and near T, where they cancel, it shows.

    The β before last is 1.3e-5 off for 1000 steps. With the ends in float64 all β agree.
    """
    ours = sigmoid_betas(1000)
    assert (sigmoid_beta_schedule(1000) / ours - 1).abs().max() > 1e-5
    torch.testing.assert_close(sigmoid_beta_schedule(1000, **EXACT_ENDS), ours, rtol=1e-10, atol=0)


def test_clamped_variance_at_the_first_step():
    """Another convention: log β̃_1 is −46 (β̃_1 clamped to 1e-20) and costs a likelihood up to 50 bits a pixel."""
    ours, theirs = pair(Mixing())
    assert theirs.posterior_log_variance_clipped[0].item() == pytest.approx(-46.05, abs=0.01)
    assert ours.schedule.posterior_log_variance_clipped[1] == ours.schedule.posterior_log_variance_clipped[2]


def test_a_linear_schedule_that_is_too_short():
    """Theirs is wrong: with 10 steps the rescaled β reach 2 and half the tables are silently not numbers."""
    theirs = TheirDiffusion(InTheirIndex(Mixing()), image_size=8, timesteps=10, beta_schedule="linear")
    assert theirs.betas.max() == 2
    assert theirs.sqrt_alphas_cumprod.isnan().any()
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        GaussianDiffusion(Mixing(), image_size=8, timesteps=10, beta_schedule="linear")


# The loss

SNR_WEIGHTS = pytest.mark.parametrize("gamma", [1.0, 5.0])


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", NAMES)
@SNR_WEIGHTS
def test_loss_agrees(name, objective, gamma):
    """The same U-Net, noise and t, with Min-SNR weights; t from one end to the other, a different one per image."""
    ours, theirs = pair(
        small_unet(),
        name=name,
        objective=objective,
        weighting=MinSNR(gamma),
        min_snr_loss_weight=True,
        min_snr_gamma=gamma,
    )
    x0, noise = randn(12, 2, 8, 8).clamp(-1, 1), randn(12, 2, 8, 8, seed=1)
    t = torch.tensor([1, 2, 3, 10, 50, 100, 200, 400, 600, 800, 999, 1000])
    with torch.no_grad():
        together = losses(ours, theirs, x0, t, noise)
        torch.testing.assert_close(*together, rtol=1e-5, atol=0)
        # One by one as well: in a mean of twelve, the smallest could hide.
        for i in range(len(t)):
            alone = slice(i, i + 1)
            torch.testing.assert_close(
                *losses(ours, theirs, x0[alone], t[alone], noise[alone]), rtol=1e-5, atol=0
            )


def test_gradients_agree():
    network = small_unet()
    ours, theirs = pair(network, objective="pred_v", weighting=MinSNR(), min_snr_loss_weight=True)
    x0, noise, t = (
        randn(4, 2, 8, 8).clamp(-1, 1),
        randn(4, 2, 8, 8, seed=1),
        torch.tensor([1, 300, 700, 1000]),
    )
    weights = list(network.parameters())
    gradients = [torch.autograd.grad(loss, weights) for loss in losses(ours, theirs, x0, t, noise)]
    for mine, their in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-4, atol=1e-5 * their.abs().max().item())


def test_loss_of_the_noise_agrees_without_weights():
    """L_simple: for `pred_noise` no weights means no weights in both."""
    ours, theirs = pair(small_unet())
    x0, noise, t = (
        randn(4, 2, 8, 8).clamp(-1, 1),
        randn(4, 2, 8, 8, seed=1),
        torch.tensor([1, 300, 700, 1000]),
    )
    with torch.no_grad():
        torch.testing.assert_close(*losses(ours, theirs, x0, t, noise), rtol=1e-5, atol=0)


@pytest.mark.parametrize("objective", ["pred_x0", "pred_v"])
def test_their_loss_without_weights_is_weighted(objective):
    """Another convention: theirs is always L_simple of the noise, which is SNR times the error of x_0.

    Ours without a weighting is the plain error of what the network predicts. Min-SNR without a ceiling is theirs.
    """
    network = small_unet()
    x0, noise, t = (
        randn(4, 2, 8, 8).clamp(-1, 1),
        randn(4, 2, 8, 8, seed=1),
        torch.tensor([1, 300, 700, 1000]),
    )
    plain, theirs = pair(network, objective=objective)
    uncapped, _ = pair(network, objective=objective, weighting=MinSNR(float("inf")))
    with torch.no_grad():
        our_loss, their_loss = losses(plain, theirs, x0, t, noise)
        torch.testing.assert_close(uncapped.loss(x0, t, noise), their_loss, rtol=1e-5, atol=0)
    assert abs(their_loss / our_loss - 1) > 0.1


def test_no_absolute_error():
    """They had `loss_type`, and took it out; ours keeps "l1" beside "l2"."""
    with pytest.raises(TypeError, match="loss_type"):
        TheirDiffusion(InTheirIndex(Mixing()), image_size=8, loss_type="l1")
    assert GaussianDiffusion(Mixing(), image_size=8, loss_type="l1").loss_type == "l1"


def test_images_are_scaled_alike():
    """From the door: images in [0, 1], with the levels and the noise that both draw from one seed."""
    ours, theirs = pair(small_unet())
    images = torch.rand(4, 2, 8, 8, generator=torch.Generator().manual_seed(3))
    t = torch.tensor([1, 300, 700, 1000])
    with torch.no_grad():
        torch.manual_seed(0)
        their_loss = theirs(images, times=t - 1)
        torch.manual_seed(0)
        our_loss = ours.loss(to_model_scale(images), t)
    torch.testing.assert_close(our_loss, their_loss, rtol=1e-5, atol=0)


# Sampling


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_trajectories_agree(objective, eta):
    """As shipped, in float32, all 50 states: both clip x_0 and re-derive the noise from it."""
    ours, theirs = pair(
        Mixing(), objective=objective, sampling_timesteps=50, ddim_sampling_eta=eta, auto_normalize=False
    )
    torch.manual_seed(11)
    their_states = theirs.ddim_sample((2, 2, 8, 8), return_all_timesteps=True).unbind(1)
    torch.manual_seed(11)
    x_T = torch.randn(2, 2, 8, 8)
    states = list(ddim(ours, x_T, [*theirs.model.asked, 0], eta=eta))
    assert theirs.model.asked == list(range(1000, 0, -20))
    for state, their_state in zip(states, their_states[1:], strict=True):
        torch.testing.assert_close(state.x, their_state, rtol=0, atol=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_ancestral_step_agrees(objective):
    ours, theirs = pair(Mixing(), objective=objective)
    for t in (1, 2, 3, 10, 100, 500, 999, 1000):
        x_t = randn(2, 2, 8, 8, seed=t)
        torch.manual_seed(t)
        their_step, _ = theirs.p_sample(x_t, t - 1)
        torch.manual_seed(t)
        our_step = ours.p_sample(x_t, torch.full((2,), t))
        torch.testing.assert_close(our_step, their_step, rtol=0, atol=1e-5)
