"""A dark twin of each figure: white card to nothing, black ink to light, colours by their hue, photographs as they are.

A photograph's pixels carry the opacity 254 (ddpm/book/figures/card.py). A page shows the one or the other by its theme;
the twin is fetched only where it is shown. Pictures of class ``dark-light`` have none.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from sphinx.application import Sphinx

PHOTOGRAPH = 254
# Pale fills are as far from a dark page as dark ones from a white page only if the scale is stretched there.
STRETCH = 0.7
BRIGHTEST = 0.92
PICTURE = re.compile(r'<img [^>]*?src="([^"]+/_images/|_images/)([^"]+)\.png"[^>]*>')


def dark_twin(pixels: np.ndarray) -> np.ndarray:
    """The figure for a dark page, as RGBA bytes; `pixels` are those of the figure for a white one, RGBA bytes as well.

    A colour keeps its hue and changes its lightness l (in HSL) to (1 − l)^STRETCH; then as much of it is made
    transparent as leaves it unchanged in front of black.
    """
    values = pixels.astype(np.float64) / 255
    ink = values[..., :3] * values[..., 3:] + 1 - values[..., 3:]  # in front of white
    high, low = ink.max(-1, keepdims=True), ink.min(-1, keepdims=True)
    lightness = (high + low) / 2
    turned = BRIGHTEST * (1 - lightness) ** STRETCH
    reach = np.minimum(lightness, 1 - lightness)
    colour = turned + (ink - lightness) * np.minimum(turned, 1 - turned) / np.maximum(reach, 1e-9)
    opacity = colour.max(-1, keepdims=True)
    colour = np.where(opacity > 0, colour / np.maximum(opacity, 1e-9), 0)
    twin = np.concatenate([colour, opacity], axis=-1)
    photograph = pixels[..., 3:] == PHOTOGRAPH
    opaque = np.concatenate([values[..., :3], np.ones_like(opacity)], axis=-1)
    return np.round(np.where(photograph, opaque, twin) * 255).clip(0, 255).astype(np.uint8)


def with_twin(tag: str, name: str, size: tuple[int, int]) -> str:
    """The tag of a figure, which now knows its size, and that of its twin."""
    width, height = size
    known = "" if " width=" in tag or " style=" in tag else f' width="{width}" height="{height}"'
    tag = re.sub(r' loading="[^"]*"', "", tag)
    classes = re.search(r' class="([^"]*)"', tag)
    others = f"{classes.group(1)} " if classes else ""
    tag = re.sub(r' class="[^"]*"', "", tag)

    def shown(tag: str, theme: str) -> str:
        return tag.replace("<img ", f'<img loading="lazy"{known} class="{others}{theme}" ', 1)

    twin = tag.replace(f"{name}.png", f"{name}-dark.png")
    # The theme leaves pictures of class dark-light alone; with its own only-dark it would hide the caption.
    return shown(tag, "on-white") + shown(twin, "on-dark dark-light")


def add_twins(app: Sphinx, exception: Exception | None) -> None:
    """Write the twins beside the figures, and show them on the pages that the build has written."""
    if exception or app.builder.format != "html":
        return
    folder = Path(app.outdir) / "_images"

    def replaced(match: re.Match[str]) -> str:
        tag, name = match.group(), unquote(html.unescape(match.group(2)))
        if re.search(r"dark-light|on-white", tag):
            return tag if " loading=" in tag else tag.replace("<img ", '<img loading="lazy" ', 1)
        with Image.open(folder / f"{name}.png") as picture:
            twin = folder / f"{name}-dark.png"
            if not twin.exists() or twin.stat().st_mtime < (folder / f"{name}.png").stat().st_mtime:
                Image.fromarray(dark_twin(np.asarray(picture.convert("RGBA")))).save(twin)
            return with_twin(tag, match.group(2), picture.size)

    for path in Path(app.outdir).rglob("*.html"):
        if "_static" not in path.parts:
            page = path.read_text(encoding="utf-8")
            path.write_text(PICTURE.sub(replaced, page), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("build-finished", add_twins)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
