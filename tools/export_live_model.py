"""Write a shipped model as a script, for the pages that draw with it; the build of the book does so by itself.

    python tools/export_live_model.py digits FOLDER

A page opened from a disk may fetch nothing, but it may load a script. This one puts an object under the model's name
into `liveModels`: the arguments of network and diffusion, the tables of the schedule (tools/live_tables.py), and the
weights, which `_assets/live/network.js` unpacks.
"""

from __future__ import annotations

import argparse
import json
import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from live_tables import base64_of, walking_tables

from ddpm import load_pretrained

if TYPE_CHECKING:
    from torch import Tensor

    from ddpm import GaussianDiffusion

# Bits of a weight's fraction that are written, of the 10 that float16 has. The last ones look random, which no
# compression makes smaller, and a page shall weigh less than 1.5 MB.
FRACTION_BITS = {"digits": 10, "fashion-mnist": 8, "fashion-mnist-classes": 8}
# What the engine knows; anything else would be computed wrongly, so it is refused here.
KNOWN = {
    "self_condition": False,
    "learned_sinusoidal_cond": False,
    "random_fourier_features": False,
}


def rounded(weight: Tensor, bits: int) -> Tensor:
    """The nearest float16 numbers whose fraction ends after `bits` bits, as float32; halves go to the even one."""
    half = weight.to(torch.float16).float()
    # Below the smallest normal number all steps are equal.
    exponent = half.abs().clamp(min=2.0**-14).log2().floor()
    step = torch.exp2(exponent - bits)
    return (half / step).round() * step


def live_model(name: str) -> GaussianDiffusion:
    """The shipped model of this name with the weights that its script holds."""
    diffusion = load_pretrained(name).eval()
    with torch.no_grad():
        for weight in diffusion.network.parameters():
            weight.copy_(rounded(weight, FRACTION_BITS[name]))
    return diffusion


def exported(name: str) -> str:
    """The script of a shipped model."""
    diffusion = live_model(name)
    network: Any = diffusion.network
    config: dict[str, Any] = network.config
    wrong = {option: config[option] for option, value in KNOWN.items() if config[option] != value}
    # Of classes the engine needs one for "no label".
    wrong |= {} if config["num_classes"] is None or config["label_dropout"] else {"label_dropout": 0.0}
    if wrong:
        raise ValueError(f"the engine of the pages knows no network with {wrong}")
    weights = network.state_dict()
    model = {
        "network": config,
        "diffusion": {
            "image_size": list(diffusion.image_size),
            "objective": diffusion.objective,
        },
        "schedule": walking_tables(diffusion.schedule),
        "tensors": [[key, list(value.shape)] for key, value in weights.items()],
        "weights": base64_of(zlib.compress(_planes(list(weights.values())), 9)),
    }
    return f"(globalThis.liveModels ??= {{}})[{json.dumps(name)}] = {json.dumps(model)};\n"


def snow(seed: int, shape: tuple[int, ...]) -> Tensor:
    """The noise that the pages draw from a seed, which is not torch's: mulberry32, then Box and Muller."""

    def uniform() -> float:
        nonlocal state
        state = (state + 0x6D2B79F5) & 0xFFFFFFFF
        z = (state ^ state >> 15) * (1 | state) & 0xFFFFFFFF
        z = (z + ((z ^ z >> 7) * (61 | z) & 0xFFFFFFFF) & 0xFFFFFFFF) ^ z
        return ((z ^ z >> 14) + 0.5) / 2**32

    state, values = seed, []
    while len(values) < math.prod(shape):
        radius, angle = math.sqrt(-2 * math.log(uniform())), 2 * math.pi * uniform()
        values += [radius * math.cos(angle), radius * math.sin(angle)]
    return torch.tensor(values[: math.prod(shape)], dtype=torch.float32).view(shape)


def _planes(weights: list[Tensor]) -> bytes:
    """All high bytes of the float16 numbers, then all low ones: the first are much alike, which compresses better."""
    halves = torch.cat([weight.flatten() for weight in weights]).to(torch.float16).numpy().astype("<f2")
    low, high = halves.view("u1").reshape(-1, 2).T
    return high.tobytes() + low.tobytes()


def main() -> None:
    """Write the script that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=list(FRACTION_BITS))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    path = arguments.folder / f"{arguments.name}.js"
    path.write_text(exported(arguments.name), encoding="utf-8")
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
