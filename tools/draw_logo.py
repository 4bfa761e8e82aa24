"""Draw the book's logo: a cat's head in square pixels, clean on the right, snow on the left.

Each pixel is sqrt(alpha_bar) * cat + sqrt(1 - alpha_bar) * noise, where alpha_bar rises from 0 at
the left edge to 1: the forward process of the book, read from right to left. The three files that
it writes are committed.

Usage: python tools/draw_logo.py [FOLDER]     (default _assets)
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

CAT = """
....................
......#..........#..
......##........##..
......###......###..
......############..
.....##############.
.....##############.
.....###..####..###.
.....###..####..###.
.....##############.
.....##############.
.....######..######.
......##.######.##..
......###......###..
........########....
....................
"""
INK = {"logo-light.svg": "#14324f", "logo-dark.svg": "#d7e6f5"}
FAVICON_STYLE = "<style>path{fill:#14324f}@media(prefers-color-scheme:dark){path{fill:#d7e6f5}}</style>"


def noisy_cat(seed: int = 7) -> np.ndarray:
    """The logo's pixels: shape (16, 20), 0 for background and 1 for full ink, in steps of 1/8."""
    cat = np.array([[1.0 if mark == "#" else -1.0 for mark in row] for row in CAT.split()])
    alpha_bar = np.clip(np.linspace(0.0, 1.8, cat.shape[1]), 0.0, 1.0) ** 1.5
    noise = np.random.default_rng(seed).standard_normal(cat.shape)
    picture = np.sqrt(alpha_bar) * cat + np.sqrt(1 - alpha_bar) * noise
    return np.round(np.clip((picture + 1) / 2, 0, 1) * 8) / 8


def svg(pixels: np.ndarray, style: str) -> str:
    """One path for each ink strength, each pixel a unit square."""
    rows, columns = pixels.shape
    paths = []
    for strength in np.unique(pixels[pixels > 0]):
        squares = "".join(f"M{column} {row}h1v1h-1z" for row, column in np.argwhere(pixels == strength))
        paths.append(f'<path opacity="{strength:g}" d="{squares}"/>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {columns} {rows}" role="img" '
        f'aria-label="A cat made of pixels, dissolving into snow" shape-rendering="crispEdges">'
        f"{style}{''.join(paths)}</svg>\n"
    )


def main(folder: Path) -> None:
    """Write the two logos and the favicon."""
    pixels = noisy_cat()
    for name, ink in INK.items():
        (folder / name).write_text(svg(pixels, f"<style>path{{fill:{ink}}}</style>"), encoding="utf-8")
    (folder / "favicon.svg").write_text(svg(pixels, FAVICON_STYLE), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "_assets")
