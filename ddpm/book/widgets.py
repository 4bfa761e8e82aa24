"""Pictures that move under the reader's hand.

`frame_scrubber` needs no kernel: plain HTML, no library, no network. `schedule_explorer` computes what it shows, so it
needs a live notebook; `live_front_end` tells whether there is one.
"""

import base64
import hashlib
import html
import io
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from string import Template

import ipywidgets
import matplotlib.pyplot as plt
import torch
from IPython.core.getipython import get_ipython
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ddpm.book import figures
from ddpm.likelihood import prior_term
from ddpm.schedule import NoiseSchedule, cosine_betas, linear_betas, sigmoid_betas

GREYS = 64  # levels of a grey frame
COLOURS = 256  # in the palette of a colour frame
SHOWN_WIDTH = 320  # CSS pixels, about the widest picture that fits a phone
MILLISECONDS = 160  # of one frame, while playing

CAPTION = "text-align: center; color: inherit; font-weight: inherit"

# The controls are hidden until the script runs, so that a page without scripts shows the last frame and no dead
# buttons. The script looks for the figure by a key, not by its place: a notebook may run it from anywhere. It marks
# each figure that it has brought to life, so the same frames may stand on a page twice. JupyterLab would take the
# arrow keys away from the slider without `data-lm-suppress-shortcuts`; the class `dark-light` tells the book's theme
# not to dim the picture at night. Motion starts only when asked for, and not where the reader's system is set to
# reduced motion: there the button is absent and the slider remains.
PAGE = Template("""\
<figure class="frame-scrubber" data-frames="$key" style="margin: 1em 0; max-width: 100%">
<img class="dark-light" src="data:image/png;base64,$last_frame" alt="$last_alt" width="$width" height="$height"
 style="display: block; margin: 0 auto; padding: 0; background: none; image-rendering: pixelated;
 max-width: 100%; height: auto">
<div style="display: none; align-items: center; gap: .75em; max-width: ${row_width}px; margin: .5em auto;
 color: inherit">
<button type="button" aria-label="Play the frames" data-lm-suppress-shortcuts="true"
 style="font: inherit; color: inherit; background: none; border: 1px solid currentColor; border-radius: .3em;
 padding: .3em .6em; min-width: 4.2em; cursor: pointer">Play</button>
<input type="range" min="0" max="$last" step="1" value="$last" aria-label="$label" aria-valuetext="$last_label"
 data-lm-suppress-shortcuts="true" style="flex: 1; min-width: 5em; height: 2em; margin: 0; cursor: pointer">
<output aria-hidden="true" style="min-width: ${label_width}ch; font-variant-numeric: tabular-nums">$last_label</output>
</div>
$caption</figure>
<script>
(() => {
  const frames = $frames;
  const labels = $labels, alt = $alt;
  const setUp = figure => {
    figure.dataset.ready = "";
    const [image, controls, button, slider, output] =
      ["img", "div", "button", "input", "output"].map(tag => figure.querySelector(tag));
    let timer = 0;
    const show = index => {
      image.src = "data:image/png;base64," + frames[index];
      image.alt = alt + ": " + labels[index];
      slider.value = index;
      slider.setAttribute("aria-valuetext", labels[index]);
      output.textContent = labels[index];
    };
    const play = on => {
      clearInterval(timer);
      timer = on ? setInterval(next, $milliseconds) : 0;
      button.textContent = on ? "Pause" : "Play";
      button.setAttribute("aria-label", button.textContent + " the frames");
    };
    const next = () => {
      show(Number(slider.value) + 1);
      if (slider.value === slider.max) play(false);
    };
    slider.addEventListener("input", () => { play(false); show(Number(slider.value)); });
    button.addEventListener("click", () => {
      if (!timer && slider.value === slider.max) show(0);
      play(!timer);
    });
    button.hidden = matchMedia("(prefers-reduced-motion: reduce)").matches;
    controls.style.display = "flex";
  };
  document.querySelectorAll('figure[data-frames="$key"]:not([data-ready])').forEach(setUp);
})();
</script>
""")


class FrameScrubber:
    """What `frame_scrubber` makes; a notebook shows it as HTML.

    Attributes:
        page: the HTML.
        summary: what stands for it where there is no HTML.
    """

    def __init__(self, page: str, summary: str) -> None:
        self.page = page
        self.summary = summary

    def _repr_html_(self) -> str:
        return self.page

    def __repr__(self) -> str:
        return self.summary


def frame_scrubber(
    frames: Tensor, labels: Sequence[str], *, alt: str, caption: str | None = None, scale: int | None = None
) -> FrameScrubber:
    """A slider that moves through frames, with a button that plays them; it needs no kernel and works by keyboard.

    Equal input gives equal HTML. The last frame is the one that stands there first, and the only one where no script
    may run, so put the frame that says most at the end. For many pictures in each frame, tile them first with
    `torchvision.utils.make_grid`.

    Args:
        frames: shape (N, C, H, W), C = 1 (grey) or 3 (RGB), N at least 2; values are clipped to [0, 1].
        labels: what each frame is, such as "t = 250": it is shown, read aloud, and ends the alternative text.
        alt: what all frames show, for a reader who cannot see them.
        caption: a line of plain text below.
        scale: CSS pixels to one pixel of a frame; None makes the frame about as wide as a phone.

    Returns:
        An object that a notebook displays as HTML. It weighs at most about 1.4 bytes for each pixel of each frame.

    Raises:
        ValueError: if the shape or the number of labels is wrong, or `alt` is empty.
    """
    check_frames(frames, labels, alt)
    count, _, height, width = frames.shape
    scale = max(1, SHOWN_WIDTH // width) if scale is None else scale
    images = [png(frame) for frame in frames]
    values = {
        "last_frame": images[-1],
        "last_alt": html.escape(f"{alt}: {labels[-1]}"),
        "last_label": html.escape(labels[-1]),
        "last": count - 1,
        "width": scale * width,
        "height": scale * height,
        "row_width": max(scale * width, SHOWN_WIDTH),
        "label": html.escape(f"Frame of: {alt}"),
        "label_width": max(map(len, labels)),
        "caption": ""
        if caption is None
        else f'<figcaption style="{CAPTION}">{html.escape(caption)}</figcaption>\n',
        "frames": json.dumps(images),
        "labels": script_text(list(labels)),
        "alt": script_text(alt),
        "milliseconds": MILLISECONDS,
    }
    # The key tells apart the scrubbers of one page. It comes from the content, so that running a notebook again
    # gives the same HTML.
    key = hashlib.sha256(PAGE.substitute(values, key="").encode()).hexdigest()[:12]
    summary = f"<{count} frames: {labels[0]} … {labels[-1]}>"
    return FrameScrubber(PAGE.substitute(values, key=key), summary)


def png(frame: Tensor) -> str:
    """One image of shape (C, H, W) in [0, 1] as a PNG with a palette, in base64."""
    channels = frame.detach().cpu().float().clamp(0, 1)
    if len(channels) == 1:
        # A ramp of even steps as the palette, so that equal greys are equal in every frame.
        image = Image.fromarray((channels[0] * (GREYS - 1)).round().byte().numpy()).convert("P")
        image.putpalette([round(255 * level / (GREYS - 1)) for level in range(GREYS) for _ in "RGB"])
    else:
        pixels = (channels * 255).round().byte().permute(1, 2, 0).contiguous()
        # The octree keeps rare colours, such as those of a cat's eyes, and is the quickest of Pillow's methods.
        image = Image.fromarray(pixels.numpy()).quantize(COLOURS, Image.Quantize.FASTOCTREE)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def script_text(value: str | list[str]) -> str:
    """The value as JavaScript inside an HTML page, where `</script>` must not appear."""
    return json.dumps(value).replace("<", "\\u003c")


def check_frames(frames: Tensor, labels: Sequence[str], alt: str) -> None:
    """Refuse what cannot be shown as labelled frames with an alternative text."""
    if frames.ndim != 4 or len(frames) < 2 or frames.shape[1] not in (1, 3):
        raise ValueError(
            f"frames must have shape (N, C, H, W) with N >= 2 and C = 1 or 3, but got {tuple(frames.shape)}"
        )
    if len(labels) != len(frames) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"{len(frames)} frames need as many labels, each a string, but got {labels!r}")
    if not alt.strip():
        raise ValueError("alt is empty; say what the frames show, for a reader who cannot see them")


# With a live kernel


def unscaled_linear_betas(timesteps: int) -> Tensor:
    """The mistake that chapter 3 is about: 1e-4 to 0.02 whatever T is; shape (T,)."""
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
    """Choose a schedule, T and a level: see the log-SNR curve (eq:log-snr), the noisy picture and what L_T costs.

    Args:
        picture: the clean picture in [-1, 1], shape (C, H, W), C = 1 (grey) or 3 (RGB).

    Returns:
        A widget, which needs a live kernel to move.

    Raises:
        ValueError: if the picture has a wrong shape or leaves [-1, 1].
    """
    check_picture(picture)
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
    words = (
        f"{name}, T = {timesteps}, t = {t}: log SNR {schedule.log_snr[t]:.2f}, amplitude left"
        f" {schedule.sqrt_alpha_bar[t]:.4f}; at t = T amplitude left {schedule.sqrt_alpha_bar[-1]:.4f},"
        f" L_T = {bits:.2g} bits per dimension"
    )
    curves = {key: table.log_snr[1:] for key, table in tables.items()}
    drawing = figures.schedule_view(curves, name, t, x_t, value_range=(-1, 1))
    source = f"data:image/png;base64,{drawing_png(drawing)}"
    return (
        f'<img src="{source}" alt="{html.escape(words)}" style="max-width: 100%"><p>{html.escape(words)}</p>'
    )


def drawing_png(drawing: Figure) -> str:
    """A figure as PNG in base64; it is closed, so that the notebook does not show it once more."""
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png")
    plt.close(drawing)
    return base64.b64encode(buffer.getvalue()).decode()


def check_picture(picture: Tensor) -> None:
    """Refuse what is not one grey or RGB picture in [-1, 1]."""
    if picture.ndim != 3 or picture.shape[0] not in (1, 3) or picture.numel() == 0:
        raise ValueError(f"picture must have shape (C, H, W) with C = 1 or 3, but got {tuple(picture.shape)}")
    if not (picture.min() >= -1 and picture.max() <= 1):  # so that NaN is refused as well
        raise ValueError(
            f"picture must lie in [-1, 1], but ranges from {picture.min().item():g} to {picture.max().item():g};"
            " an image in [0, 1] needs to_model_scale(image)"
        )
