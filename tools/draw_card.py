"""Draw the picture that a message shows which links to the book: its name over digits forming out of noise.

python tools/draw_card.py
"""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from draw_gallery import chains
from PIL import Image

from ddpm.support.scales import to_image_scale

CARD = Path(__file__).parents[1] / "_assets" / "card.png"
WIDTH, HEIGHT = 1200, 630  # what the Open Graph protocol's readers show uncut
BACKGROUND, INK = "#12161c", "#e8eef5"
ROWS = 3
PIXEL = 14  # pixels of the card to one of the model


def digits() -> Image.Image:
    """Some chains side by side, snow on the left."""
    rows = (to_image_scale(torch.stack(chains()[:ROWS])) * 255).round().byte()[:, :, 0]  # (ROWS, 9, 8, 8)
    gap = 1
    sheet = torch.zeros(ROWS, rows.shape[1], 8 + gap, 8 + gap, dtype=torch.uint8)
    sheet[..., :8, :8] = rows
    flat = sheet.permute(0, 2, 1, 3).reshape(ROWS * (8 + gap), -1)[:-gap, :-gap]
    picture = Image.fromarray(flat.numpy())
    return picture.resize((picture.width * PIXEL, picture.height * PIXEL), Image.Resampling.NEAREST)


def main() -> None:
    """Save the card."""
    torch.set_num_threads(1)  # the same rounding everywhere
    mpl.use("agg")
    figure = plt.figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100, facecolor=BACKGROUND)
    figure.text(0.5, 0.83, "Out of the Snow", color=INK, size=50, ha="center", va="center", weight="bold")
    figure.text(
        0.5,
        0.70,
        "Diffusion models, derived, executed and tested",
        color=INK,
        size=25,
        ha="center",
        va="center",
    )
    picture = digits()
    figure.figimage(np.array(picture.convert("RGB")), (WIDTH - picture.width) // 2, 32)
    figure.savefig(CARD, facecolor=BACKGROUND, metadata={"Software": None})
    Image.open(CARD).convert("RGB").quantize(64).save(CARD, optimize=True)


if __name__ == "__main__":
    main()
