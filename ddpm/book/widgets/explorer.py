"""The schedule explorer, which computes what it shows and needs a live kernel."""

import base64
import html
import io
import math
import os
import sys
from collections.abc import Callable

import ipywidgets
import matplotlib.pyplot as plt
import torch
from IPython.core.getipython import get_ipython
from matplotlib.figure import Figure
from torch import Tensor

from ddpm.book.figures import schedule_view
from ddpm.likelihood import prior_term
from ddpm.schedule import NoiseSchedule, cosine_betas, linear_betas, sigmoid_betas


def unscaled_linear_betas(timesteps: int) -> Tensor:
    """The mistake that chapter 5b is about: 1e-4 to 0.02 whatever T is; shape (T,)."""
    return torch.linspace(1e-4, 0.02, timesteps, dtype=torch.float64)


EXPLORED: dict[str, Callable[[int], Tensor]] = {
    "linear": linear_betas,
    "linear, not rescaled": unscaled_linear_betas,
    "cosine": cosine_betas,
    "sigmoid": sigmoid_betas,
}
EXPLORED_TIMESTEPS = (25, 50, 100, 200, 300, 500, 1000)


def live_front_end() -> bool:
    """Whether a person sits at this notebook (Jupyter, VS Code or Colab), and not a program that only executes it."""
    if "google.colab" in sys.modules or "JPY_SESSION_NAME" in os.environ:
        return True
    shell = get_ipython()
    return shell is not None and "__vsc_ipynb_file__" in shell.user_ns


def schedule_explorer(picture: Tensor) -> ipywidgets.VBox:
    """Choose a schedule, T and t: see the log-SNR curve (eq:log-snr), the noisy picture and what L_T costs.

    Args:
        picture: the clean picture in [-1, 1], shape (C, H, W), C = 1 (grey) or 3 (RGB).

    Returns:
        A widget, which needs a live kernel to move.

    Raises:
        ValueError: if the picture has a wrong shape or leaves [-1, 1].
    """
    _check_picture(picture)
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0)).to(picture)
    name = ipywidgets.Dropdown(options=list(EXPLORED), description="schedule")
    timesteps = ipywidgets.SelectionSlider(options=EXPLORED_TIMESTEPS, value=1000, description="T")
    percent = ipywidgets.IntSlider(value=30, min=0, max=100, description="t, % of T", continuous_update=False)
    page = ipywidgets.HTML()

    def redraw(_: object = None) -> None:
        t = round(percent.value * timesteps.value / 100)
        page.value = schedule_page(str(name.value), timesteps.value, t, picture, noise)

    for control in (name, timesteps, percent):
        control.observe(redraw, names="value")
    redraw()
    return ipywidgets.VBox([name, timesteps, percent, page])


def schedule_page(name: str, timesteps: int, t: int, picture: Tensor, noise: Tensor) -> str:
    """The drawing of one state of the explorer as HTML, with its numbers in words and as the alternative text."""
    tables = {key: NoiseSchedule(betas(timesteps), dtype=torch.float64) for key, betas in EXPLORED.items()}
    schedule = tables[name]
    x_t = schedule.sqrt_alpha_bar[t] * picture + schedule.sigma[t] * noise
    bits = prior_term(schedule, picture.double()).mean().item() / math.log(2)
    words = html.escape(
        f"{name}, T = {timesteps}, t = {t}: log SNR {schedule.log_snr[t]:.2f}, amplitude left"
        f" {schedule.sqrt_alpha_bar[t]:.4f}; at t = T amplitude left {schedule.sqrt_alpha_bar[-1]:.4f},"
        f" L_T = {bits:.2g} bits per dimension"
    )
    log_snrs = {key: table.log_snr[1:] for key, table in tables.items()}
    drawing = _png(schedule_view(log_snrs, name, t, x_t, value_range=(-1, 1)))
    source = f"data:image/png;base64,{drawing}"
    return f'<img src="{source}" alt="{words}" style="max-width: 100%"><p>{words}</p>'


def _png(figure: Figure) -> str:
    """A figure as PNG in base64; it is closed, so that the notebook does not show it once more."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    return base64.b64encode(buffer.getvalue()).decode()


def _check_picture(picture: Tensor) -> None:
    """Refuse what is not one grey or RGB picture in [-1, 1]."""
    if picture.ndim != 3 or picture.shape[0] not in (1, 3) or picture.numel() == 0:
        raise ValueError(f"picture must have shape (C, H, W) with C = 1 or 3, but got {tuple(picture.shape)}")
    if not (picture.min() >= -1 and picture.max() <= 1):  # so that NaN is refused as well
        raise ValueError(
            f"picture must lie in [-1, 1], but ranges from {picture.min().item():g} to {picture.max().item():g};"
            " an image in [0, 1] needs to_model_scale(image)"
        )
