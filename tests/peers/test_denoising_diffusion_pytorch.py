"""`ddpm` against denoising-diffusion-pytorch (lucidrains), the implementation that most others started from.

Their t is ours minus 1, and their network is called as `model(x, t, x_self_cond)`. Both packages keep float32 tables
that were computed in float64, so that all comparisons can be made as shipped, but for the ends of their sigmoid, which
are rounded to float32 (`EXACT_ENDS`), and log β̃_1, which is −46 with them and a matter of convention.
"""

import inspect

import numpy as np
import pytest
import torch
from torch import nn

from ddpm import GaussianDiffusion, MinSNR, Trainer, Unet, ddim
from tests.networks import drawn, randn
from tests.peers.network import Mixing

REASON = (
    "denoising-diffusion-pytorch is not installed; it comes with the extra `peers`: pip install -e '.[peers]'"
)
pytest.importorskip("denoising_diffusion_pytorch", reason=REASON)

import denoising_diffusion_pytorch as peer  # noqa: E402
from denoising_diffusion_pytorch import GaussianDiffusion as TheirDiffusion  # noqa: E402

NAMES = ("linear", "cosine", "sigmoid")
OBJECTIVES = ("pred_noise", "pred_x0", "pred_v")
# The ends of their sigmoid as they are by default, but of a type that torch.tensor does not round to float32.
EXACT_ENDS = {"start": np.float64(-3), "end": np.float64(3)}
# By the names of our tables.
TABLES = {
    "beta": "betas",
    "alpha_bar": "alphas_cumprod",
    "sqrt_alpha_bar": "sqrt_alphas_cumprod",
    "sigma": "sqrt_one_minus_alphas_cumprod",
    "posterior_variance": "posterior_variance",
    "posterior_mean_coef_x0": "posterior_mean_coef1",
    "posterior_mean_coef_xt": "posterior_mean_coef2",
    "posterior_log_variance_clipped": "posterior_log_variance_clipped",
}


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


def pair(network, *, name="linear", objective="pred_noise", timesteps=1000, weighting=None, **options):
    """The same diffusion twice: ours and theirs, around one network."""
    shared = {"image_size": 8, "timesteps": timesteps, "objective": objective, "beta_schedule": name}
    ours = GaussianDiffusion(network, loss_weighting=weighting, **shared)
    ends = {"schedule_fn_kwargs": EXACT_ENDS} if name == "sigmoid" else {}
    return ours, TheirDiffusion(InTheirIndex(network), **shared, **ends, **options)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("timesteps", [50, 1000])
def test_tables_agree(name, timesteps):
    """Every table that both have; relative to 1e-5, since several span many powers of ten."""
    ours, theirs = pair(Mixing(), name=name, timesteps=timesteps)
    for table, their_name in TABLES.items():
        first = 1 if "log" in table else 0
        got, expected = getattr(ours.schedule, table)[1 + first :], getattr(theirs, their_name)[first:]
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=0, msg=table)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gamma", [1.0, 5.0, None])
def test_loss_agrees(name, objective, gamma):
    """The same U-Net, noise and t, from one end to the other, a different one per image.

    Theirs without Min-SNR weights is always L_simple of the noise, which is SNR times the error of x_0: Min-SNR without
    a ceiling. For `pred_noise` that is no weight at all.
    """
    network = drawn(Unet(8, dim_mults=(1, 2), channels=2, resnet_block_groups=4, num_res_blocks=1), 0.2)
    weighting = MinSNR(gamma or float("inf"))
    weighting = None if gamma is None and objective == "pred_noise" else weighting
    theirs_weigh = {"min_snr_loss_weight": True, "min_snr_gamma": gamma} if gamma else {}
    ours, theirs = pair(network, name=name, objective=objective, weighting=weighting, **theirs_weigh)
    x0, noise = randn(12, 2, 8, 8).clamp(-1, 1), randn(12, 2, 8, 8, seed=1)
    t = torch.tensor([1, 2, 3, 10, 50, 100, 200, 400, 600, 800, 999, 1000])
    # One by one as well: in a mean of twelve, the smallest could hide.
    for some in (slice(None), *(slice(i, i + 1) for i in range(len(t)))):
        with torch.no_grad():
            got = ours.loss(x0[some], t[some], noise[some])
            expected = theirs.p_losses(x0[some], t[some] - 1, noise=noise[some].clone())
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=0)


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


@pytest.mark.parametrize("kind", [GaussianDiffusion, Unet, Trainer])
def test_their_words_are_ours_or_refused_with_what_to_write(kind):
    theirs = inspect.signature(getattr(peer, kind.__name__)).parameters.keys()
    unknown = theirs - inspect.signature(kind).parameters.keys()
    assert unknown
    for word in unknown:
        with pytest.raises(TypeError, match=rf"{kind.__name__} has no '{word}': (?!help\()(?!did you mean)"):
            kind(None, None, **{word: None})
