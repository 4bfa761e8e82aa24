"""The dark twins of the figures: readable ink, photographs as they are, one of the two on a page at a time."""

from pathlib import Path

import numpy as np
import pytest
from bs4 import BeautifulSoup
from dark_figures import PHOTOGRAPH, dark_twin, with_twin
from matplotlib.colors import to_rgb
from PIL import Image

from ddpm.book.figures.style import PALETTE

DARK = np.array([0x12, 0x12, 0x12]) / 255  # the page


def luminance(colour: np.ndarray) -> float:
    """Relative luminance, WCAG 2.2."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: np.ndarray, other: np.ndarray) -> float:
    """Contrast of two colours, WCAG 2.2."""
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def on_dark(colour: tuple[float, ...], opacity: int = 255) -> np.ndarray:
    """What a colour of a figure looks like on the dark page."""
    pixel = np.array([[[*(round(255 * part) for part in colour), opacity]]], np.uint8)
    red, green, blue, alpha = dark_twin(pixel)[0, 0] / 255
    return alpha * np.array([red, green, blue]) + (1 - alpha) * DARK


def hue(colour: np.ndarray) -> float:
    """The angle of a colour in the plane of equal lightness."""
    red, green, blue = colour
    return float(np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue))


def test_white_is_the_page_and_black_is_light() -> None:
    assert (on_dark((1, 1, 1)) == DARK).all()
    assert contrast(on_dark((0, 0, 0)), DARK) > 12


@pytest.mark.parametrize("name", PALETTE[:6])
def test_lines_keep_their_hue_and_can_be_seen(name: str) -> None:
    colour = np.array(to_rgb(name))
    seen = on_dark(tuple(colour))
    assert contrast(seen, DARK) >= 3  # WCAG 2.2, 1.4.11
    assert abs(np.exp(1j * hue(seen)) - np.exp(1j * hue(colour))) < 0.2


def test_greys_are_turned_round_and_keep_their_order() -> None:
    greys = [luminance(on_dark((grey, grey, grey))) for grey in np.linspace(0, 1, 12)]
    assert greys == sorted(greys, reverse=True)


def test_photographs_are_left_as_they_are() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 4), np.uint8)
    pixels[..., 3] = PHOTOGRAPH
    twin = dark_twin(pixels)
    assert (twin[..., :3] == pixels[..., :3]).all()
    assert (twin[..., 3] == 255).all()


def test_a_tag_becomes_two() -> None:
    both = with_twin('<img alt="A cat." src="../_images/cat.png" />', "cat", (20, 10))
    light, dark = BeautifulSoup(both, "html.parser").find_all("img")
    assert (light["src"], dark["src"]) == ("../_images/cat.png", "../_images/cat-dark.png")
    assert (light["class"], dark["class"]) == (["on-white"], ["on-dark", "dark-light"])
    assert {(tag["alt"], tag["loading"], tag["width"], tag["height"]) for tag in (light, dark)} == {
        ("A cat.", "lazy", "20", "10")
    }


def test_every_figure_of_every_chapter_has_its_twin(html: Path, chapters: dict[str, BeautifulSoup]) -> None:
    figures = [
        (page, tag) for page in chapters.values() for tag in page.select('article img[src*="_images/"]')
    ]
    assert figures
    alone = [tag for _, tag in figures if not {"on-white", "on-dark", "dark-light"} & set(tag["class"])]
    assert not alone
    for _, tag in figures:
        if "on-dark" in tag["class"]:
            dark = np.asarray(Image.open(html / "_images" / Path(str(tag["src"])).name))
            light = Image.open(html / "_images" / Path(str(tag["src"])).name.replace("-dark.png", ".png"))
            assert dark.shape[:2] == light.size[::-1]
            assert (dark[..., 3] < 128).mean() > 0.05  # the card is gone
