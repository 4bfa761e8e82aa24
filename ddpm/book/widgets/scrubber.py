"""A slider that moves through frames: HTML with a script of its own, which needs no kernel.

In the template, scrubber.html, the controls are hidden until the script runs, so that a page without scripts shows the
last frame and no dead buttons. The script looks for the figure by a key, not by its place: a notebook may run it from
anywhere. It marks each figure that it has brought to life, so the same frames may stand on a page twice. JupyterLab
would take the arrow keys away from the slider without `data-lm-suppress-shortcuts`; the class `dark-light` tells the
book's theme not to dim the picture at night. Motion starts only when asked for, and not where the reader's system is
set to reduced motion: there the button is absent and the slider remains.
"""

import base64
import hashlib
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from string import Template

from PIL import Image
from torch import Tensor

GREYS = 64  # grey levels of a grey frame
MILLISECONDS = 160  # of one frame, while playing
_COLOURS = 256  # in the palette of a colour frame
_SHOWN_WIDTH = 320  # CSS pixels, about the widest picture that fits a phone
_CAPTION = '<figcaption style="text-align: center; color: inherit; font-weight: inherit">{}</figcaption>\n'
_PAGE = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))


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
    _check_frames(frames, labels, alt)
    count, _, height, width = frames.shape
    scale = max(1, _SHOWN_WIDTH // width) if scale is None else scale
    images = [_png(frame) for frame in frames]
    values = {
        "last_frame": images[-1],
        "last_alt": html.escape(f"{alt}: {labels[-1]}"),
        "last_label": html.escape(labels[-1]),
        "last": count - 1,
        "width": scale * width,
        "height": scale * height,
        "row_width": max(scale * width, _SHOWN_WIDTH),
        "label": html.escape(f"Frame of: {alt}"),
        "label_width": max(map(len, labels)),
        "caption": "" if caption is None else _CAPTION.format(html.escape(caption)),
        "frames": json.dumps(images),
        "labels": _script_text(list(labels)),
        "alt": _script_text(alt),
        "milliseconds": MILLISECONDS,
    }
    # The key tells apart the scrubbers of one page. It comes from the content, so that running a notebook again
    # gives the same HTML.
    key = hashlib.sha256(_PAGE.substitute(values, key="").encode()).hexdigest()[:12]
    summary = f"<{count} frames: {labels[0]} … {labels[-1]}>"
    return FrameScrubber(_PAGE.substitute(values, key=key), summary)


def _png(frame: Tensor) -> str:
    """One image of shape (C, H, W) in [0, 1] as a PNG with a palette, in base64."""
    channels = frame.detach().cpu().float().clamp(0, 1)
    if len(channels) == 1:
        # A ramp of even steps as the palette, so that equal greys are equal in every frame.
        image = Image.fromarray((channels[0] * (GREYS - 1)).round().byte().numpy()).convert("P")
        image.putpalette([round(255 * grey / (GREYS - 1)) for grey in range(GREYS) for _ in "RGB"])
    else:
        pixels = (channels * 255).round().byte().permute(1, 2, 0).contiguous()
        # The octree keeps rare colours, such as those of a cat's eyes, and is the quickest of Pillow's methods.
        image = Image.fromarray(pixels.numpy()).quantize(_COLOURS, Image.Quantize.FASTOCTREE)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _script_text(value: str | list[str]) -> str:
    """The value as JavaScript inside an HTML page, where `</script>` must not appear."""
    return json.dumps(value).replace("<", "\\u003c")


def _check_frames(frames: Tensor, labels: Sequence[str], alt: str) -> None:
    """Refuse what cannot be shown as labelled frames with an alternative text."""
    if frames.ndim != 4 or len(frames) < 2 or frames.shape[1] not in (1, 3):
        raise ValueError(
            f"frames must have shape (N, C, H, W) with N >= 2 and C = 1 or 3, but got {tuple(frames.shape)}"
        )
    if len(labels) != len(frames) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"{len(frames)} frames need as many labels, each a string, but got {labels!r}")
    if not alt.strip():
        raise ValueError("alt is empty; say what the frames show, for a reader who cannot see them")
