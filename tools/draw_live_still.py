"""Draw what the panels of the pages show where no script runs, from the same snow: one picture for each kind of panel.

python tools/draw_live_still.py
"""

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from export_live_model import live_model, snow
from live_tables import MIXTURES, mixture_schedule
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ddpm import ClassifierFreeGuidance, GaussianMixtureOracle, NoiseSchedule
from ddpm.book.figures import schedule_view
from ddpm.book.figures.style import BLUE, VERMILION
from ddpm.book.photographs import cat_photograph
from ddpm.book.widgets import EXPLORED
from ddpm.prediction import full_timesteps
from ddpm.samplers import ddim
from ddpm.support.scales import to_image_scale, to_model_scale

STILLS = Path(__file__).parents[1] / "chapters" / "images"
SEED, STEPS = 1, 50
SCALE = 20  # pixels of the picture to one of the model
POINTS, EDGE, STOPPED_AT = 80, 3.2, 100


def first_and_last(seed: int = SEED, steps: int = STEPS) -> Tensor:
    """x_T and x_0 of DDIM without noise, shape (2, 1, 8, 8), in grey levels 0 … 255."""
    diffusion = live_model("digits")
    x = snow(seed, (1, *diffusion.image_shape))
    *_, last = ddim(diffusion, x, steps)
    return (to_image_scale(torch.cat([x, last.x])) * 255).round().byte()


def shirt() -> Tensor:
    """x_T and x_0 of class 0 with guidance 2 in 20 steps of DDIM, shape (2, 1, 28, 28), in grey levels 0 … 255."""
    diffusion = ClassifierFreeGuidance(live_model("fashion-mnist-classes"), 2)
    x = snow(SEED, (1, 1, 28, 28))
    *_, last = ddim(diffusion, x, 20, labels=torch.tensor([0]))
    return (to_image_scale(torch.cat([x, last.x])) * 255).round().byte()


def side_by_side(pictures: Tensor, scale: int) -> Image.Image:
    """Snow and the picture made of it, with `scale` pixels to one of the model."""
    side = pictures.shape[-1]
    sheet = Image.new("LA", (scale * (2 * side + 1), scale * side))
    for i, picture in enumerate(pictures):
        grey = Image.fromarray(picture[0].numpy()).resize(
            (scale * side, scale * side), Image.Resampling.NEAREST
        )
        sheet.paste(grey.convert("LA"), (i * scale * (side + 1), 0))
    return sheet


def mixture() -> Image.Image:
    """Points on their way to the ring, over the density of the noisy data at the timestep that they have reached."""
    oracle = GaussianMixtureOracle(mixture_schedule(), *MIXTURES["ring"])
    start = snow(SEED, (POINTS, 1, 1, 2))
    walked = [state for state in ddim(oracle, start, STEPS, clip_x0=False) if state.t >= STOPPED_AT]
    path = torch.stack([start, *(state.x for state in walked)]).view(-1, POINTS, 2)
    line = torch.linspace(-EDGE, EDGE, 161)
    plane = torch.cartesian_prod(line, line).view(-1, 1, 1, 2)
    density = oracle.log_density(plane, full_timesteps(STOPPED_AT, plane)).exp().view(161, 161).T
    figure = plt.figure(figsize=(4, 4), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-EDGE, EDGE), ylim=(-EDGE, EDGE), xticks=[], yticks=[])
    shade = np.zeros((161, 161, 4))
    shade[..., :3] = [int(BLUE[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    shade[..., 3] = 0.86 * (density / density.max()).sqrt()
    axes.imshow(shade, extent=(-EDGE, EDGE, -EDGE, EDGE), origin="lower")
    axes.plot(path[..., 0], path[..., 1], color="grey", linewidth=0.8)
    axes.plot(*path[-1].T, "o", color=VERMILION, markersize=4)
    return _image(figure)


def schedule() -> Image.Image:
    """The linear schedule at 0.3 T, with the cat at that level: the panel before it is touched."""
    tables = {name: NoiseSchedule(betas(1000), dtype=torch.float64) for name, betas in EXPLORED.items()}
    cat, linear = to_model_scale(cat_photograph()), tables["linear"]
    noisy = linear.sqrt_alpha_bar[300] * cat + linear.sigma[300] * snow(1, (3, 64, 64))
    log_snrs = {name: table.log_snr[1:] for name, table in tables.items()}
    return _image(schedule_view(log_snrs, "linear", 300, noisy, value_range=(-1, 1)))


def _image(figure: Figure) -> Image.Image:
    """A figure as a picture in few colours; the figure is closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.05)
    plt.close(figure)
    return Image.open(buffer).convert("RGB").quantize(128)


DRAWN: dict[str, Callable[[], Image.Image]] = {
    "live-digits": lambda: side_by_side(first_and_last(), SCALE),
    "live-guidance": lambda: side_by_side(shirt(), 6),
    "live-mixture": mixture,
    "live-schedule": schedule,
}


def main() -> None:
    """Save them all."""
    torch.set_num_threads(1)  # the same rounding everywhere
    for name, drawn in DRAWN.items():
        drawn().save(STILLS / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
