"""Denoising diffusion models, derived, executed and tested: the package of the book *Out of the Snow*.

Everything plugs together through three small contracts.

1. **Schedule.** `NoiseSchedule` holds tables of length T+1, indexed by the paper's t: t = 0 is clean data and
   t = 1 … T are the noise levels, so `schedule.alpha_bar[t]` is ᾱ_t on the page.
2. **Network.** `network(x_t, t, labels=None)` maps images of shape (B, C, H, W), in the [-1, 1] scale, and levels of
   shape (B,) in 1 … T to a tensor of the images' shape. It has an attribute `channels`. If it has an attribute
   `self_condition` that is true, it also takes `x_self_cond`, its previous estimate of x_0. If it has
   `learned_variance`, its output has as many channels again, for the variance of the step back.
3. **Diffusion.** `GaussianDiffusion(network, …)` joins a network, a schedule and an objective. Its
   `predict(x_t, t)` returns noise, x0, v and score, which always agree. Samplers and likelihoods use only
   `.schedule` and `.predict`, so an exact denoiser can stand where the network stands.

Images handed to `diffusion(images)` or to the `Trainer`, and those that `diffusion.sample()` returns, are in [0, 1];
everything named by the maths works in [-1, 1].
"""

from ddpm.checkpoint import DamagedCheckpointError, load_pretrained, save_pretrained
from ddpm.diffusion import GaussianDiffusion, Prediction, to_image_scale, to_model_scale
from ddpm.interop import load_diffusers_unet, save_diffusers_unet, to_diffusers
from ddpm.oracle import EmpiricalOracle, GaussianMixtureOracle
from ddpm.samplers import State, ancestral, ddim, timestep_grid
from ddpm.schedule import NoiseSchedule, cosine_betas, linear_betas, sigmoid_betas
from ddpm.training import Trainer
from ddpm.unet import Unet
from ddpm.weighting import P2, MinSNR, spread_levels

__version__ = "0.1.0"

__all__ = [
    "P2",
    "DamagedCheckpointError",
    "EmpiricalOracle",
    "GaussianDiffusion",
    "GaussianMixtureOracle",
    "MinSNR",
    "NoiseSchedule",
    "Prediction",
    "State",
    "Trainer",
    "Unet",
    "ancestral",
    "cosine_betas",
    "ddim",
    "linear_betas",
    "load_diffusers_unet",
    "load_pretrained",
    "save_diffusers_unet",
    "save_pretrained",
    "sigmoid_betas",
    "spread_levels",
    "timestep_grid",
    "to_diffusers",
    "to_image_scale",
    "to_model_scale",
]
