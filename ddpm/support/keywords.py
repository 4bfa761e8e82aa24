"""Keywords that a class does not have: what to write in place of those of other packages, and of misspelt ones.

"The ports" are denoising-diffusion-mindspore, which this package replaces, and denoising-diffusion-pytorch before it.
"""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import ParamSpec

P = ParamSpec("P")

_OWN_NOISE = "is not built in; noise of your own goes into diffusion.loss(x0, noise=…), in a loop of your own"
# What the ports' classes took, and what to write here.
DIFFUSION: dict[str, str] = {
    "model": "give the network first, GaussianDiffusion(network, …)",
    "auto_normalize": "images in [0, 1] are scaled at the door, and diffusion.loss takes scaled ones; leave it out",
    "schedule_fn_kwargs": "set a schedule afterwards, diffusion.schedule = NoiseSchedule(cosine_betas(1000, offset=…))",
    "offset_noise_strength": f"offset noise {_OWN_NOISE}; leave it out",
    "immiscible": f"a choice of noise for each image {_OWN_NOISE}; leave it out",
    "min_snr_loss_weight": "write loss_weighting=ddpm.MinSNR() instead",
    "min_snr_gamma": "write loss_weighting=ddpm.MinSNR(gamma=…) instead",
    "p2_loss_weight_gamma": "write loss_weighting=ddpm.P2(gamma=…, k=…) instead",
    "p2_loss_weight_k": "write loss_weighting=ddpm.P2(gamma=…, k=…) instead",
}
UNET: dict[str, str] = {
    "flash_attn": "torch takes the fastest kernel that there is; leave it out",
    "full_attn": "write attention_resolutions=…, the down-sampling factors at which to attend, instead",
    "attn_heads": "attention has one head, as in the paper; leave it out",
    "attn_dim_head": "attention has one head, as in the paper; leave it out",
    "sinusoidal_pos_emb_theta": "the waves that embed t are those of the paper; leave it out",
}


def refuse_unknown_keywords(
    owner: str, given: Iterable[str], known: Iterable[str], instead: Mapping[str, str]
) -> None:
    """A TypeError says what to write in place of a keyword of the ports, or of a misspelt one."""
    known = list(known)
    for word in [word for word in given if word not in known]:
        like = difflib.get_close_matches(word, known, n=1)
        usual = f"did you mean {like[0]}?" if like else f"help({owner}) lists what it has"
        raise TypeError(f"{owner} has no {word!r}: {instead.get(word, usual)}")


def known_keywords(instead: Mapping[str, str]) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """For an `__init__`: the same, which refuses unknown keywords with advice; its signature stays as it is."""

    def decorated(init: Callable[P, None]) -> Callable[P, None]:
        known = list(inspect.signature(init).parameters)

        @functools.wraps(init)
        def checked(*args: P.args, **named: P.kwargs) -> None:
            refuse_unknown_keywords(type(args[0]).__name__, named, known, instead)
            init(*args, **named)

        return checked

    return decorated
