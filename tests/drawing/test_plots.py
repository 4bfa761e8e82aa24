"""Curves, densities, bars and maps: what the artists hold is what was handed in."""

import itertools

import matplotlib as mpl
import numpy as np
import pytest
import torch

from ddpm.book import figures
from ddpm.book.figures.style import BLUE, MARKERS, VERMILION
from tests.networks import seeded

GRID = torch.linspace(-4, 4, 401)
NORMAL = torch.exp(-(GRID**2) / 2) / (2 * torch.pi) ** 0.5


# Lines


def test_curves_draw_what_they_are_given():
    ys = {"square": GRID**2, "cube": (GRID**3).requires_grad_()}
    axes = figures.curves(GRID, ys, xlabel="x", ylabel="f", ylim=(-5, 5)).axes[0]
    for line, (name, y) in zip(axes.lines, ys.items(), strict=True):
        assert line.get_label() == name
        assert np.allclose(line.get_xydata(), torch.stack([GRID, y.detach()], -1))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["square", "cube"]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_ylim()) == ("x", "f", (-5, 5))


def test_curves_tick_few_points_on_a_logarithmic_axis():
    figure = figures.curves([10, 50, 250], {"a": [3, 2, 1]}, xlabel="x", ylabel="y", logx=True, markers=True)
    figure.canvas.draw()
    axes = figure.axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["10", "50", "250"]


@pytest.mark.parametrize("logy", [False, True])
def test_labels_at_line_ends_keep_apart_and_near_their_lines(logy):
    ends = {"low": 1.0, "middle": 1.01, "near": 1.02, "high": 5.0}
    ys = {name: 1 + (end - 1) * torch.linspace(0, 1, 9) for name, end in ends.items()}
    figure = figures.curves(range(9), ys, xlabel="x", ylabel="y", direct_labels=True, logy=logy)
    axes = figure.axes[0]
    figure.canvas.draw()
    assert axes.get_legend() is None
    placed = {text.get_text(): text.get_window_extent() for text in axes.texts}
    for below, above in itertools.pairwise(ends):
        assert placed[below].y1 <= placed[above].y0 + 1
    high = axes.transData.transform((8, 5.0))
    assert abs((placed["high"].y0 + placed["high"].y1) / 2 - high[1]) < 5
    assert placed["high"].x0 > high[0]
    assert [text.get_color() for text in axes.texts] == [line.get_color() for line in axes.lines]


def test_learning_curve_smooths_with_a_centred_mean():
    losses = torch.rand(200, generator=seeded(3)) + 0.5
    axes = figures.learning_curve(torch.arange(200) * 10, losses, smoothed=21).axes[0]
    raw, mean = axes.lines
    assert np.allclose(raw.get_ydata(), losses)
    assert len(mean.get_xdata()) == 180
    assert mean.get_xdata()[40] == 500  # step 50 · 10 is the middle of losses 40 … 60
    assert mean.get_ydata()[40] == pytest.approx(losses[40:61].mean().item())
    assert axes.get_yscale() == "log"


def test_learning_curve_draws_each_floor_across_and_names_it():
    losses = torch.linspace(1, 0.5, 60)
    axes = figures.learning_curve(range(60), losses, logy=False, floors={"best": 0.2, "other": 0.3}).axes[0]
    floors = axes.lines[2:]
    assert [set(line.get_ydata()) for line in floors] == [{0.2}, {0.3}]
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 4
    assert [text.get_text() for text in axes.get_legend().get_texts()][2:] == ["best", "other"]
    assert axes.get_ylim()[0] < 0.2


def test_compared_runs_show_means_with_standard_errors_and_single_runs_without():
    runs = torch.tensor([[1.0, 2.0, 4.0], [3.0, 2.0, 8.0], [5.0, 5.0, 6.0]])
    groups = {"exact": {"a": [3.0, 2.0, 1.0], "b": [4.0, 3.0, 2.0]}, "network": {"a": runs, "b": 2 * runs}}
    figure = figures.compared_runs([5, 9, 19], groups, xlabel="calls", ylabel="error")
    axes = figure.axes[0]
    parts = [container.lines for container in axes.containers]
    assert [line.get_ydata().tolist() for line, _, _ in parts[:2]] == list(groups["exact"].values())
    assert [len(bars) for _, _, bars in parts] == [0, 0, 1, 1]
    line, _, (bars,) = parts[2]
    assert line.get_ydata() == pytest.approx(runs.mean(0))
    error = runs.std(0) / 3**0.5
    ends = torch.as_tensor(np.stack(bars.get_segments())[:, :, 1]).float()
    assert torch.allclose(ends, torch.stack([runs.mean(0) - error, runs.mean(0) + error], 1))
    looks = [(line.get_color(), line.get_marker(), line.get_linestyle()) for line, _, _ in parts]
    assert looks[0][:2] == looks[2][:2]
    assert looks[1][:2] == looks[3][:2]
    assert looks[0][:2] != looks[1][:2]
    assert looks[0][2] != looks[2][2]
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["a, exact", "b, exact", "a, network", "b, network"]
    figure.canvas.draw()
    assert [label.get_text() for label in axes.get_xticklabels()] == ["5", "9", "19"]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_compared_runs_of_one_group_are_called_by_their_names_alone():
    figure = figures.compared_runs(
        [5, 9], {"": {"a": [1, 0], "b": [2, -1]}}, xlabel="", ylabel="", logx=False, logy=False
    )
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert (figure.axes[0].get_xscale(), figure.axes[0].get_yscale()) == ("linear", "linear")


def test_dot_rows_stand_below_each_other_over_a_common_axis():
    rows = {"even": [1.0, 2.0, 3.0], "other": torch.tensor([1.5, 2.5])}
    figure = figures.dot_rows(rows, xlabel="place")
    axes = figure.axes[0]
    figure.canvas.draw()
    assert [line.get_xdata().tolist() for line in axes.lines] == [[1, 2, 3], [1.5, 2.5]]
    heights = [axes.transData.transform((0, line.get_ydata()[0]))[1] for line in axes.lines]
    assert heights[0] > heights[1]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(rows)
    assert len({(line.get_color(), line.get_marker()) for line in axes.lines}) == 2


# Densities


def test_histogram_has_the_area_of_the_samples_in_sight():
    samples = torch.cat([torch.randn(900, generator=seeded(5)).clamp(-3, 3), torch.full((100,), 9.0)])
    one = figures.histogram_with_density(samples, GRID, {"normal": NORMAL}, bins=40).axes[0]
    rows = figures.histogram_rows({7: samples, 9: samples}, GRID, {7: NORMAL, 9: 2 * NORMAL}, bins=40).axes
    assert [axes.texts[0].get_text() for axes in rows] == ["t = 7", "t = 9"]
    assert rows[0].get_position().y0 > rows[1].get_position().y0
    for axes, density in zip((one, *rows), (NORMAL, NORMAL, 2 * NORMAL), strict=True):
        values, edges, _ = axes.patches[0].get_data()
        assert len(values) == 40
        assert (edges[0], edges[-1]) == (-4, 4)
        assert (values * np.diff(edges)).sum() == pytest.approx(0.9)
        assert np.allclose(axes.lines[0].get_xydata(), torch.stack([GRID, density], -1))


def test_density_panels_fill_the_first_and_draw_the_others():
    panels = {name: {"a": k * NORMAL, "b": NORMAL**2} for k, name in ((1, "left"), (3, "right"))}
    figure = figures.density_panels(GRID, panels)
    for axes, (title, densities) in zip(figure.axes, panels.items(), strict=True):
        assert axes.get_title() == title
        outline = axes.collections[0].get_paths()[0].vertices
        assert outline[:, 1].max() == pytest.approx(densities["a"].max().item())
        assert np.allclose(axes.lines[0].get_ydata(), densities["b"])
        assert axes.get_ylim()[0] == 0
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


# Bars


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("group", [1, 3])
def test_bar_chart_reaches_its_values_or_sums_of_groups(log, group):
    values, here = torch.tensor([3.0, 1.0, 0.5, 0.25]), {3: "here"}
    options = {"log": log, "first": 2, "group": group, "highlight": here}
    axes = figures.bar_chart(values, xlabel="t", ylabel="y", **options).axes[0]
    sums = [part.sum().item() for part in values.split(group)]
    assert [bar.get_y() + bar.get_height() for bar in axes.patches] == pytest.approx(sums)
    edges = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]
    assert edges == ([(1.5 + k, 2.5 + k) for k in range(4)] if group == 1 else [(1.5, 4.5), (4.5, 5.5)])
    assert axes.lines[0].get_xydata().tolist() == [[3, sums[1 // group]]]
    assert axes.texts[0].get_text() == "here"
    assert axes.get_yscale() == ("log" if log else "linear")


def test_grouped_bars_stand_side_by_side_over_their_category():
    figure = figures.grouped_bars({"a": [1.0, 2, 3], "b": [4.0, 5, 6]}, ["x", "y", "z"], ylabel="%")
    axes = figure.axes[0]
    bars = sorted(axes.patches, key=lambda bar: bar.get_x())
    assert [bar.get_height() for bar in bars] == [1, 4, 2, 5, 3, 6]
    for left, right in itertools.pairwise(bars):
        assert left.get_x() + left.get_width() <= right.get_x() + 1e-9
    middles = [(bars[k].get_x() + bars[k + 1].get_x() + bars[k + 1].get_width()) / 2 for k in (0, 2, 4)]
    assert middles == pytest.approx([0, 1, 2])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "y", "z"]
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in bars}) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_runs_with_bars_shows_each_run_their_mean_and_its_standard_error():
    axes = figures.runs_with_bars({"a": [1.0, 2.0, 6.0], "b": [5.0, 5.0]}, ylabel="loss").axes[0]
    dots = [line for line in axes.lines if len(line.get_xdata()) > 1 and line.get_marker() in MARKERS]
    assert [line.get_ydata().tolist() for line in dots] == [[1, 2, 6], [5, 5]]
    ends = [container.lines[2][0].get_segments()[0][:, 1] for container in axes.containers]
    spread = np.std([1, 2, 6], ddof=1) / 3**0.5
    assert ends[0] == pytest.approx([3 - spread, 3 + spread])
    assert ends[1] == pytest.approx([5, 5])


# Maps


def test_signed_map_puts_the_first_axis_to_the_right_and_zero_in_white():
    values = torch.zeros(5, 3)
    values[4, 0], values[1, 2] = 0.5, -0.5
    axes = figures.signed_map(values, xlabel="t", ylabel="feature", limit=0.5).axes[0]
    picture = axes.images[0]
    assert np.array_equal(picture.get_array(), values.T)
    colours = picture.to_rgba(picture.get_array())
    assert np.allclose(colours[0, 0], 1, atol=0.01)
    assert np.allclose(colours[0, 4], mpl.colors.to_rgba(VERMILION), atol=0.01)
    assert np.allclose(colours[2, 1], mpl.colors.to_rgba(BLUE), atol=0.01)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("t", "feature")


def test_heat_maps_share_a_scale_of_powers_of_ten_and_leave_zero_white():
    one, two = torch.tensor([[1.0, 1e-3], [0.0, 1e-20]]), torch.full((2, 2), 1e-3)
    figure = figures.heat_maps({"one": one, "two": two}, label="size", orders=6)
    first, second = (axes.images[0] for axes in figure.axes[:2])
    assert [axes.get_title() for axes in figure.axes[:2]] == ["one", "two"]
    left, right = (image.to_rgba(image.get_array()) for image in (first, second))
    assert left[1, 0, 3] == 0  # transparent: the page shows through
    assert np.array_equal(left[0, 1], right[0, 0])
    assert left[0, 0, :3].sum() < left[0, 1, :3].sum() < left[1, 1, :3].sum() < 3
    assert first.norm.vmin == pytest.approx(1e-6)
    assert mpl.colors.LogNorm(1e-6, 1)(1e-3) == pytest.approx(first.norm(1e-3))
