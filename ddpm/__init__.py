"""Denoising diffusion models, derived, executed and tested: the package of the book *Out of the Snow*.

Everything plugs together through three small contracts.

1. **Schedule.** `NoiseSchedule` holds tables of length T+1, indexed by the paper's t: t = 0 is clean data and
   t = 1 … T are the noise levels, so `schedule.alpha_bar[t]` is ᾱ_t on the page.
2. **Network.** `network(x_t, t, labels=None)` maps images of shape (B, C, H, W), in the [-1, 1] scale, and timesteps of
   shape (B,) in 1 … T to a tensor of the images' shape. It has an attribute `channels`. If it has an attribute
   `self_condition` that is true, it also takes `x_self_cond`, its previous estimate of x_0. If it has
   `learned_variance`, its output has as many channels again, for the variance of the step back.
3. **Diffusion.** `GaussianDiffusion(network, …)` joins a network, a schedule and an objective. Its
   `predict(x_t, t)` returns noise, x0, v, flow and score, which always agree. Samplers and likelihoods need only
   `.schedule` and `.predict`, so an exact denoiser can stand where the network stands.

Images handed to `diffusion(images)` or to the `Trainer`, and those that `diffusion.sample()` returns, are in [0, 1];
everything named by the maths works in [-1, 1].

The public names stand in `__init__.pyi`; each is imported when it is first used.
"""

import importlib.util
from typing import Any

import lazy_loader

from ddpm.version import __version__ as __version__

_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    """A public name, or a module, as in `ddpm.data.digits()`."""
    if name in __all__ or importlib.util.find_spec(f"ddpm.{name}") is None:
        return _public(name)
    return importlib.import_module(f"ddpm.{name}")
