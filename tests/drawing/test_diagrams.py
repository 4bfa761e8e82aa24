"""Diagrams: arrows, ellipses and boxes stand where the theory puts them."""

import math

import matplotlib as mpl
import numpy as np
import pytest
import torch

from ddpm import Unet
from ddpm.book import figures
from ddpm.book.figures.style import BLUE
from ddpm.book.layer_costs import layer_costs


def ledger(mults):
    """What a U-Net of these resolutions consists of."""
    with torch.device("meta"):
        network = Unet(8, dim_mults=mults, channels=1, num_res_blocks=1)
    return layer_costs(network, 16)


def arrows(axes):
    return [text for text in axes.texts if getattr(text, "arrow_patch", None) is not None]


def test_ellipses_lie_one_and_two_standard_deviations_from_the_mean():
    mean, covariance = torch.tensor([1.0, -2.0]), torch.tensor([[2.0, -0.9], [-0.9, 0.7]])
    cloud = torch.randn(20, 2)
    axes = figures.ellipses({"a": (mean, covariance)}, points=cloud, xlabel="x", ylabel="y").axes[0]
    dots, *lines = axes.lines
    assert np.allclose(np.asarray(dots.get_xydata()), cloud)
    inverse = torch.linalg.inv(covariance).numpy()
    for line, distance in zip(lines, (1, 2), strict=True):
        apart = np.asarray(line.get_xydata()) - mean.numpy()
        assert np.allclose(((apart @ inverse) * apart).sum(1), distance**2, atol=1e-5)
        assert np.ptp(apart[:, 0]) == pytest.approx(2 * distance * 2**0.5, rel=1e-3)
    assert axes.get_aspect() == 1


def test_three_coordinates_puts_x_t_on_the_circle_and_v_across_it():
    angles = {0: 0.0, 250: 0.6, 1000: 1.5}
    axes = figures.three_coordinates(angles, 250).axes[0]
    dots = [line.get_xydata()[0].tolist() for line in axes.lines if line.get_marker() == "o"]
    assert dots == [[math.cos(angle), math.sin(angle)] for angle in angles.values()]
    heads = [arrow.xy for arrow in arrows(axes)]
    assert heads == [(1, 0), (0, 1), *(pytest.approx(end) for end in (dots[1], (-dots[1][1], dots[1][0])))]
    named = {text.get_text(): text.xy for text in axes.texts if hasattr(text, "xy") and text.get_text()}
    assert list(named) == ["$x_0$", "$\\varepsilon$", "$x_{250}$", "$v$"]
    assert list(named.values()) == heads
    assert {"0", "1000"} <= {text.get_text() for text in axes.texts}


def test_schedule_view_marks_the_chosen_curve_and_shows_the_picture():
    curves = {"a": torch.linspace(9, -9, 50), "b": torch.linspace(5, -5, 20)}
    picture = torch.tensor([[[-1.0, 1.0]]])
    axes, frame = figures.schedule_view(curves, "b", 5, picture, value_range=(-1, 1)).axes
    first, second, mark, _ = axes.lines
    for line, values in ((first, curves["a"]), (second, curves["b"])):
        assert np.allclose(line.get_ydata(), values)
        assert np.allclose(line.get_xdata(), np.arange(1, len(values) + 1) / len(values))
    assert [line.get_color() == BLUE for line in (first, second)] == [False, True]
    assert mark.get_xydata()[0] == pytest.approx([5 / 20, curves["b"][4].item()])
    assert frame.images[0].get_array()[0, :, 0].tolist() == [0, 255]
    assert frame.get_title() == "$t = 5$ of $20$"
    # The clean end has an infinite log SNR: it has a place, and no mark.
    clean = figures.schedule_view(curves, "b", 0, picture, value_range=(-1, 1)).axes[0]
    assert len(clean.lines) == 3


@pytest.mark.parametrize("mults", [(1,), (1, 2), (1, 2, 4)])
def test_unet_map_shows_every_part_of_the_network_in_its_row(mults):
    costs = ledger(mults)
    axes = figures.unet_map(costs).axes[0]
    drawn = [cost for cost in costs if cost.kind not in ("embedding", "norm")]
    boxes = [patch for patch in axes.patches if isinstance(patch, mpl.patches.Rectangle)]
    assert [text.get_text() for text in axes.texts if text.get_text()] == [
        str(cost.channels) for cost in drawn
    ]
    heights = [16 // 2**row for row in range(len(mults))]
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"{h}×{h}" for h in heights]
    for box, cost in zip(boxes, drawn, strict=True):
        assert box.get_y() + box.get_height() / 2 == pytest.approx(-heights.index(cost.height))
        assert ("attention" in box.get_label()) == ("attention" in cost.kind)
    starts = [box.get_x() for box in boxes]
    assert starts == sorted(starts)
    # No arrow crosses a box on its way: it runs over its own row, and the boxes in between stand lower.
    tops = [box.get_y() + box.get_height() for box in boxes]
    for line in axes.lines:
        left, right = line.get_xdata()[[0, -1]]
        assert line.get_ydata()[1] > max(tops[left : right + 1])
        assert line.get_ydata()[[0, -1]].tolist() == pytest.approx([tops[left], tops[right]])


@pytest.mark.parametrize(("mults", "blocks"), [((1,), 1), ((1, 2), 1), ((1, 2, 2, 2), 2)])
def test_unet_map_has_an_arrow_for_every_bridge_between_the_parts_that_it_joins(mults, blocks):
    with torch.device("meta"):
        network = Unet(8, dim_mults=mults, channels=1, num_res_blocks=blocks)
    costs = layer_costs(network, 16)
    drawn = [cost for cost in costs if cost.kind not in ("embedding", "norm")]
    left = [k for k, cost in enumerate(drawn) if cost.name.startswith(("first", "down"))]
    right = [k for k, cost in enumerate(drawn) if cost.name.startswith("up") and "stage" in cost.kind]
    axes = figures.unet_map(costs).axes[0]
    assert [(line.get_xdata()[0], line.get_xdata()[-1]) for line in axes.lines] == list(
        zip(reversed(left), right, strict=True)
    )
    assert len(axes.lines) == len(mults) * (blocks + 1)
    for line in axes.lines:
        start, end = (drawn[k] for k in line.get_xdata()[[0, -1]])
        assert start.height == end.height
        below = drawn[line.get_xdata()[-1] - 1].channels
        assert network.get_submodule(end.name).block.norm1.num_channels == below + start.channels
