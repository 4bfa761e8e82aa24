"""The diagram of the chain: who is drawn, where, and which way the arrows point."""

import numpy as np
import pytest
import torch
from matplotlib.text import Annotation

from ddpm.book import figures

PICTURES = torch.linspace(-1, 1, 4)[:, None, None, None].expand(4, 1, 8, 8)


def drawn(**options):
    """The diagram's pictures from left to right, its arrows as (from, to), and its words with their places."""
    axes = figures.chain(PICTURES, value_range=(-1, 1), **options).axes[0]
    arrows = [text for text in axes.texts if isinstance(text, Annotation)]
    words = {text.get_text(): text.get_position() for text in axes.texts if text.get_text()}
    return axes.images, [(arrow.xyann[0], arrow.xy[0]) for arrow in arrows], words


def test_chain_runs_from_snow_on_the_left_to_the_picture_on_the_right():
    images, _, words = drawn()
    centres = [sum(image.get_extent()[:2]) / 2 for image in images]
    assert centres == sorted(centres)
    assert [words[name][0] for name in ("$x_T$", "$x_t$", "$x_{t-1}$", "$x_0$")] == centres
    shades = [float(np.asarray(image.get_array()).mean()) for image in images]
    assert shades == sorted(shades)


def test_chain_q_runs_against_p():
    _, ((p_from, p_to), (q_from, q_to)), words = drawn()
    assert p_from < p_to
    assert (q_from, q_to) == (p_to, p_from)
    assert words["$p_\\theta(x_{t-1}\\mid x_t)$"][1] > 1 > 0 > words["$q(x_t\\mid x_{t-1})$"][1]


def test_chain_posterior_looks_at_both_sides_of_x_t_minus_1():
    images, arrows, words = drawn(posterior=True)
    _, t, before, clean = (sum(image.get_extent()[:2]) / 2 for image in images)
    assert arrows[2:] == [(t, before), (clean, before)]
    assert "$q(x_{t-1}\\mid x_t,x_0)$" in words
    assert "$q(x_{t-1}\\mid x_t,x_0)$" not in drawn()[2]


def test_chain_terms_stand_under_what_they_price():
    images, _, words = drawn(terms=("A", "B", "C"))
    last, t, before, clean = (sum(image.get_extent()[:2]) / 2 for image in images)
    assert [words[name][0] for name in "ABC"] == [last, (t + before) / 2, clean]
    assert all(words[name][1] < 0 for name in "ABC")


@pytest.mark.parametrize(
    ("pictures", "terms", "problem"),
    [(PICTURES[:3], (), "3 and 0"), (PICTURES, ("A",), "4 and 1"), (PICTURES[:, 0], (), "shape")],
)
def test_chain_refuses_other_numbers(pictures, terms, problem):
    with pytest.raises(ValueError, match=problem):
        figures.chain(pictures, value_range=(-1, 1), terms=terms)
