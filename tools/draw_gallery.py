"""Draw the picture of the README: eight digits forming out of noise.

python tools/draw_gallery.py
"""

from pathlib import Path

import torch

from ddpm import ancestral, load_pretrained
from ddpm.book.figures import image_strip
from ddpm.support.randomness import image_generators, randn

PICTURE = Path(__file__).parents[1] / "chapters" / "images" / "snow-to-digits.png"
SHOWN = [1000, 800, 650, 550, 450, 350, 250, 120, 0]
SEEDS = range(8)  # the first eight, not chosen


def chains() -> list[torch.Tensor]:
    """The shown states of one run for each seed, shape (9, 1, 8, 8) in [-1, 1]."""
    diffusion = load_pretrained("digits")
    generators = image_generators(len(SEEDS), seeds=SEEDS)
    x = randn((len(SEEDS), *diffusion.image_shape), generators, diffusion.device)
    states = {1000: x} | {state.t: state.x for state in ancestral(diffusion, x, generator=generators)}
    return list(torch.stack([states[t] for t in SHOWN], dim=1))


def main() -> None:
    """Sample with the shipped model and save the strip."""
    torch.set_num_threads(1)  # the same rounding everywhere
    rows = chains()
    PICTURE.parent.mkdir(exist_ok=True)
    figure = image_strip(rows, [f"t = {t}" for t in SHOWN], value_range=(-1, 1), scale=0.7)
    figure.savefig(PICTURE, bbox_inches="tight", metadata={"Software": None})


if __name__ == "__main__":
    main()
