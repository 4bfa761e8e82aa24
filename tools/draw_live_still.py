"""Draw what the panel of the front page shows where no script runs: the snow of its seed, and the digit made of it.

python tools/draw_live_still.py
"""

from pathlib import Path

import torch
from export_live_model import live_model, snow
from PIL import Image
from torch import Tensor

from ddpm.samplers import ddim
from ddpm.scales import to_image_scale

STILLS = Path(__file__).parents[1] / "chapters" / "images"
SEED, STEPS = 1, 50
SCALE = 20  # pixels of the picture to one of the model


def first_and_last(seed: int = SEED, steps: int = STEPS) -> Tensor:
    """x_T and x_0 of DDIM without noise, shape (2, 1, 8, 8), in grey levels 0 … 255."""
    diffusion = live_model("digits")
    x = snow(seed, (1, *diffusion.image_shape))
    *_, last = ddim(diffusion, x, steps)
    return (to_image_scale(torch.cat([x, last.x])) * 255).round().byte()


def main() -> None:
    """Save both side by side."""
    torch.set_num_threads(1)  # the same rounding everywhere
    pictures = first_and_last()
    side = pictures.shape[-1]
    sheet = Image.new("LA", (SCALE * (2 * side + 1), SCALE * side))
    for i, picture in enumerate(pictures):
        grey = Image.fromarray(picture[0].numpy()).resize(
            (SCALE * side, SCALE * side), Image.Resampling.NEAREST
        )
        sheet.paste(grey.convert("LA"), (i * SCALE * (side + 1), 0))
    sheet.save(STILLS / "live-digits.png", optimize=True)


if __name__ == "__main__":
    main()
