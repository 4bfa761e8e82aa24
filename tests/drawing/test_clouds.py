"""Balls, distances, contours and extrapolations: what the artists hold is what was handed in."""

import numpy as np
import pytest
import torch

from ddpm.book import figures


def test_balls_have_their_radii_and_tell_inside_from_outside():
    centres, radii = torch.tensor([[0.0, 0.0], [3.0, 1.0]]), torch.tensor([1.0, 0.5])
    points = torch.tensor([[0.0, 0.9], [3.0, 1.5], [2.0, 0.0]])
    panels = {"one": (centres, radii, points), "two": (points, torch.zeros(3), centres)}
    figure = figures.neighbour_balls(panels, names=("in", "out"))
    figure.canvas.draw()
    assert [axes.get_title() for axes in figure.axes] == ["one", "two"]
    circles = figure.axes[0].patches
    assert [(circle.center, circle.radius) for circle in circles] == [((0, 0), 1), ((3, 1), 0.5)]
    drawn, inside, outside = figure.axes[0].lines
    assert np.allclose(drawn.get_xydata(), centres)
    assert np.allclose(inside.get_xydata(), points[:2])
    assert np.allclose(outside.get_xydata(), points[2:])
    assert len(figure.axes[1].lines[1].get_xdata()) == 0
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["in", "out"]


def test_distances_are_drawn_against_each_other_to_one_scale():
    here, there = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.5])
    figure = figures.nearer_to({"a": (here, there), "b": (there, here)}, xlabel="x", ylabel="y")
    figure.canvas.draw()
    for axes, pair in zip(figure.axes, ((here, there), (there, here)), strict=True):
        assert np.allclose(axes.lines[-1].get_xydata(), torch.stack(pair, -1))
        assert axes.get_xlim() == axes.get_ylim() == pytest.approx((-0.0945, 3.15))
    assert figure.axes[0].get_ylabel() == "y"
    assert figure.get_supxlabel() == "x"


def test_contours_go_round_their_share_of_the_mass():
    side = torch.linspace(-4, 4, 161)
    across, upwards = side, side[:, None]
    density = (-(across**2) / 2 - (upwards - 1) ** 2 / (2 * 0.25)).exp()
    points = torch.tensor([[0.0, 1.0], [-3.0, 2.0]])
    panels = {"one": (points, density), "two": (-points, density)}
    figure = figures.clouds_over_contours(panels, side, names=("drawn", "exact"))
    figure.canvas.draw()
    assert [axes.get_title() for axes in figure.axes] == ["one", "two"]
    for axes, sign in zip(figure.axes, (1, -1), strict=True):
        assert np.allclose(axes.lines[0].get_xydata(), sign * points)
        outer, inner = (path.vertices for path in axes.collections[0].get_paths())
        for contour, share in ((outer, 0.9), (inner, 0.5)):
            radius = np.hypot(contour[:, 0], (contour[:, 1] - 1) / 0.5)
            assert np.allclose(radius, np.sqrt(-2 * np.log(1 - share)), rtol=0.02)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["drawn", "exact"]


def test_extrapolation_reaches_an_infinite_size_at_the_left_edge():
    values = {"a": ([3.0, 2.0], [0.3, 0.1]), "b": ([5.0, 4.0], [0.2, 0.2])}
    lines = {"a": (1.0, 20.0), "b": (3.0, 20.0)}
    figure = figures.extrapolation([10, 20], values, lines, xlabel="n", ylabel="score")
    figure.canvas.draw()
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["∞", "10", "20"]
    assert axes.get_xlim()[0] == 0
    for bars, (name, (heights, errors)) in zip(axes.containers, values.items(), strict=True):
        points, _, (segments,) = bars
        assert bars.get_label() == name
        assert np.allclose(points.get_xydata(), [[0.1, heights[0]], [0.05, heights[1]]])
        lengths = [np.ptp(segment[:, 1]) / 2 for segment in segments.get_segments()]
        assert lengths == pytest.approx(errors)
    straight = [line for line in axes.lines if line.get_xdata()[0] == 0]
    assert [line.get_ydata()[0] for line in straight] == [1, 3]
    assert straight[0].get_ydata()[1] == pytest.approx(1 + 20 * 0.105)
