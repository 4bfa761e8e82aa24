"""Figures: what is on the canvas, read back from the drawn pixels and artists, is what was handed in."""

import io
import itertools

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from ddpm import Unet
from ddpm.book import figures
from ddpm.book.layer_costs import layer_costs

mpl.use("agg")
GRID = torch.linspace(-4, 4, 401)
NORMAL = torch.exp(-(GRID**2) / 2) / (2 * torch.pi) ** 0.5


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def draw(figure):
    """The figure's pixels, shape (H, W, 3), uint8."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def boxes(figure, texts):
    """Where these texts stand on the drawn figure, in screen pixels."""
    figure.canvas.draw()
    return [text.get_window_extent() for text in texts]


def shown(canvas, corner, size, shape):
    """The colours at the centres of an image's pixels: `size` screen pixels from `corner` on, `shape` image pixels."""
    (x, y), (height, width), (rows, columns) = corner, size, shape
    row_centres = y + ((np.arange(rows) + 0.5) * height / rows).astype(int)
    column_centres = x + ((np.arange(columns) + 0.5) * width / columns).astype(int)
    return canvas[row_centres[:, None], column_centres]


def ledger(sizes):
    """What a U-Net of these levels consists of."""
    with torch.device("meta"):
        network = Unet(8, dim_mults=sizes, channels=1, num_res_blocks=1)
    return layer_costs(network, 16)


def every_kind():
    """One figure of each kind, with a name."""
    x = torch.arange(1, 11)
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return {
        "image_grid": lambda: figures.image_grid(images, titles=range(6)),
        "image_strip": lambda: figures.image_strip(
            [images, images], list("abcdef"), row_labels=["up", "down"]
        ),
        "compare_grids": lambda: figures.compare_grids(images, images),
        "curves": lambda: figures.curves(x, {"one": x, "two": x**2}, xlabel="x", ylabel="y"),
        "learning_curve": lambda: figures.learning_curve(x, 1 / x, smoothed=3),
        "trajectories": lambda: figures.trajectories(x, torch.randn(5, 10)),
        "density_ridge": lambda: figures.density_ridge(GRID, {0: NORMAL, 9: NORMAL}, reference=NORMAL),
        "density_evolution": lambda: figures.density_evolution(x, GRID, NORMAL.expand(10, -1)),
        "histogram": lambda: figures.histogram_with_density(torch.randn(99), GRID, {"normal": NORMAL}),
        "bar_chart": lambda: figures.bar_chart(1 / x, xlabel="t", ylabel="bits"),
        "ellipses": lambda: figures.ellipses(
            {"one": (torch.zeros(2), torch.eye(2))}, points=torch.randn(50, 2), xlabel="x", ylabel="y"
        ),
        "signed_map": lambda: figures.signed_map(torch.randn(10, 6), xlabel="t", ylabel="feature"),
        "heat_maps": lambda: figures.heat_maps({"one": images[0, 0], "two": images[1, 0]}, label="size"),
        "grouped_bars": lambda: figures.grouped_bars({"one": x, "two": x}, list("abcdefghij"), ylabel="%"),
        "runs_with_bars": lambda: figures.runs_with_bars({"one": x, "two": 2 * x}, ylabel="loss"),
        "unet_map": lambda: figures.unet_map(ledger((1, 2, 4))),
    }


@pytest.mark.parametrize("kind", every_kind())
def test_every_figure_is_white_light_as_wide_as_a_page_and_leaves_the_settings_alone(kind):
    before = dict(mpl.rcParams)
    figure = every_kind()[kind]()
    assert isinstance(figure, Figure)
    assert dict(mpl.rcParams) == before
    assert figure.get_facecolor() == (1, 1, 1, 1)
    assert figure.get_size_inches()[0] <= figures.WIDTH + 0.01
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=figure.dpi, bbox_inches="tight")
    assert len(file.getvalue()) < 150_000
    texts = [
        text for axes in figure.axes for text in (*axes.texts, axes.xaxis.label, *axes.get_xticklabels())
    ]
    assert all(text.get_fontsize() >= 9 for text in texts)


def test_lines_differ_in_colour_and_in_dashes():
    assert len(set(figures.PALETTE)) == len(set(figures.DASHES)) == len(set(figures.MARKERS)) == 7
    figure = figures.curves(GRID, {str(k): k * GRID for k in range(7)}, xlabel="x", ylabel="y", markers=True)
    lines = figure.axes[0].lines
    assert len({line.get_color() for line in lines}) == 7
    assert len({str(line._unscaled_dash_pattern) for line in lines}) == 7
    assert len({line.get_marker() for line in lines}) == 7


# Images


@pytest.mark.parametrize("count", [1, 3, 8, 9, 17])
def test_image_grid_shows_every_pixel_in_reading_order(count):
    images = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    figure = figures.image_grid(images)
    canvas = draw(figure)
    columns = count if count <= 8 else int(np.ceil(np.sqrt(count)))
    sheet = figures.lay_out(images, [divmod(index, columns) for index in range(count)])
    for image, corner in zip(images, sheet.corners, strict=True):
        pixels = shown(canvas, corner, (sheet.height, sheet.width), (8, 8))
        assert np.abs(pixels - 255 * image[0, :, :, None].numpy()).max() <= 1
    assert sheet.width == sheet.height
    order = [(y, x) for x, y in sheet.corners]
    assert order == sorted(order)
    assert len({x for x, _ in sheet.corners}) == columns


def test_colour_images_keep_their_colours_to_one_of_64_levels():
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    canvas = draw(figures.image_grid(image))
    pixels = shown(canvas, (0, 0), canvas.shape[:2], (16, 16))
    assert np.abs(pixels / 255 - image[0].permute(1, 2, 0).numpy()).max() <= 0.5 / 63 + 1 / 255


def test_no_image_pixel_is_blurred():
    """A chessboard has no grey on the canvas, at any size that is a whole magnification."""
    board = (torch.arange(12)[:, None] + torch.arange(12)) % 2
    for count in (1, 2, 5, 40):
        canvas = draw(figures.image_grid(board.float().expand(count, 1, 12, 12)))
        assert set(np.unique(canvas)) <= {0, 255}


def test_large_images_are_averaged_not_picked():
    board = (torch.arange(2000)[:, None] + torch.arange(2000)) % 2
    canvas = draw(figures.image_grid(board.float().expand(1, 1, 2000, 2000)))
    assert canvas.shape[0] < 300
    assert np.abs(canvas[5:-5, 5:-5].astype(float) - 127.5).max() < 4


def test_value_range_says_what_is_black_and_what_is_white():
    image = torch.tensor([[-1.0, 0.0], [1.0, 7.0]]).view(1, 1, 2, 2)
    canvas = draw(figures.image_grid(image, value_range=(-1, 1)))
    assert shown(canvas, (0, 0), canvas.shape[:2], (2, 2))[..., 0].tolist() == [[0, 128], [255, 255]]


@pytest.mark.parametrize("titles", [["0", "1", "2"], ["a long title of an image", "short", "x"]])
def test_titles_stand_above_their_images_and_do_not_touch(titles):
    figure = figures.image_grid(torch.zeros(3, 1, 8, 8), titles=titles)
    texts = figure.axes[0].texts
    assert [text.get_text() for text in texts] == titles
    height, width = draw(figure).shape[:2]
    for left, right in itertools.pairwise(boxes(figure, texts)):
        assert left.x1 < right.x0
    for box in boxes(figure, texts):
        assert box.x0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
        assert height - box.y0 < figures.LINE * figure.dpi + 1  # where the images begin


def test_strip_puts_rows_below_each_other_with_labels():
    levels = torch.linspace(0, 1, 6).view(2, 3, 1, 1, 1).expand(2, 3, 1, 8, 8)
    figure = figures.image_strip(levels, ["t = 0", "t = 1", "t = 2"], row_labels=["cat", "flower"])
    canvas = draw(figure)
    axes = figure.axes[0]
    by_text = {text.get_text(): box for text, box in zip(axes.texts, boxes(figure, axes.texts), strict=True)}
    cat, flower = by_text["cat"], by_text["flower"]
    assert cat.y0 > flower.y1
    assert axes.texts[3].get_rotation() == 90
    for row, box in enumerate((cat, flower)):
        for column in range(3):
            heading = by_text[f"t = {column}"]
            x, y = (heading.x0 + heading.x1) / 2, canvas.shape[0] - (box.y0 + box.y1) / 2
            assert abs(int(canvas[int(y), int(x), 0]) - 255 * (3 * row + column) / 5) <= 1
    as_list = figures.image_strip(list(levels), ["t = 0", "t = 1", "t = 2"], row_labels=["cat", "flower"])
    assert np.array_equal(draw(as_list), canvas)


def test_a_single_row_needs_no_row_label():
    figure = figures.image_strip(torch.zeros(4, 3, 8, 8), range(4))
    assert [text.get_text() for text in figure.axes[0].texts] == ["0", "1", "2", "3"]


def test_compared_grids_stand_left_and_right_under_their_titles():
    figure = figures.compare_grids(
        torch.zeros(9, 1, 8, 8), torch.full((7, 1, 8, 8), 0.5), ("black", "grey"), columns=3
    )
    texts = figure.axes[0].texts
    titles = dict(zip([text.get_text() for text in texts], boxes(figure, texts), strict=True))
    below_titles = draw(figure)[int(figures.LINE * figure.dpi) + 5 :, :, 0]
    black, grey = (np.flatnonzero((below_titles == level).any(0)) for level in (0, 128))
    assert black.max() < grey.min() - 10  # screen pixels
    assert len(np.unique(below_titles)) == 3
    for title, columns in ((titles["black"], black), (titles["grey"], grey)):
        assert (title.x0 + title.x1) / 2 == pytest.approx((columns.min() + columns.max()) / 2, abs=2)


@pytest.mark.parametrize("images", [torch.zeros(8, 8), torch.zeros(2, 2, 8, 8), torch.zeros(0, 1, 8, 8)])
def test_images_of_a_wrong_shape(images):
    with pytest.raises(ValueError, match=r"images must have shape \(N, C, H, W\) with C = 1 or 3"):
        figures.image_grid(images)


def test_labels_that_do_not_fit_the_images():
    images = torch.zeros(3, 1, 8, 8)
    with pytest.raises(ValueError, match="3 images need as many titles, but got 2"):
        figures.image_grid(images, titles=["a", "b"])
    with pytest.raises(ValueError, match=r"2 labels need rows of 2 images, but got rows of \[3\]"):
        figures.image_strip(images, ["a", "b"])
    with pytest.raises(ValueError, match="1 rows need as many row_labels, but got 2"):
        figures.image_strip(images, ["a", "b", "c"], row_labels=["x", "y"])


# Lines


def test_curves_draw_what_they_are_given():
    ys = {"square": GRID**2, "cube": (GRID**3).requires_grad_()}
    figure = figures.curves(GRID, ys, xlabel="x", ylabel="y", ylim=(-5, 5))
    axes = figure.axes[0]
    for line, (name, y) in zip(axes.lines, ys.items(), strict=True):
        assert line.get_label() == name
        assert np.allclose(line.get_xydata(), torch.stack([GRID, y.detach()], -1))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["square", "cube"]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_ylim()) == ("x", "y", (-5, 5))


def test_few_points_on_a_logarithmic_axis_are_ticked_themselves():
    figure = figures.curves([10, 50, 250], {"a": [3, 2, 1]}, xlabel="x", ylabel="y", logx=True, markers=True)
    figure.canvas.draw()
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["10", "50", "250"]


@pytest.mark.parametrize("logy", [False, True])
def test_labels_at_line_ends_keep_apart_and_near_their_lines(logy):
    ends = {"low": 1.0, "middle": 1.01, "near": 1.02, "high": 5.0}
    ys = {name: 1 + (end - 1) * torch.linspace(0, 1, 9) for name, end in ends.items()}
    figure = figures.curves(range(9), ys, xlabel="x", ylabel="y", direct_labels=True, logy=logy)
    axes = figure.axes[0]
    assert axes.get_legend() is None
    placed = dict(zip([text.get_text() for text in axes.texts], boxes(figure, axes.texts), strict=True))
    for below, above in itertools.pairwise(ends):
        assert placed[below].y1 <= placed[above].y0 + 1
    high = axes.transData.transform((8, 5.0))
    assert abs((placed["high"].y0 + placed["high"].y1) / 2 - high[1]) < 5
    assert placed["high"].x0 > high[0]
    assert [text.get_color() for text in axes.texts] == [line.get_color() for line in axes.lines]


def test_learning_curve_smooths_with_a_centred_mean():
    losses = torch.rand(200, generator=torch.Generator().manual_seed(3)) + 0.5
    figure = figures.learning_curve(torch.arange(200) * 10, losses, smoothed=21)
    raw, mean = figure.axes[0].lines
    assert np.allclose(raw.get_ydata(), losses)
    assert len(mean.get_xdata()) == 180
    assert mean.get_xdata()[40] == 500  # step 50 · 10 is the middle of losses 40 … 60
    assert mean.get_ydata()[40] == pytest.approx(losses[40:61].mean().item())
    assert figure.axes[0].get_yscale() == "log"
    for window in (0, 201):
        with pytest.raises(ValueError, match=r"smoothed must lie in 1 … 200"):
            figures.learning_curve(torch.arange(200), losses, smoothed=window)


def test_trajectories_draw_every_path_and_highlight_the_first():
    paths = torch.randn(20, 50, generator=torch.Generator().manual_seed(4))
    axes = figures.trajectories(torch.arange(50), paths, highlight=2).axes[0]
    drawn = np.stack([line.get_ydata() for line in axes.lines])
    assert np.allclose(drawn, torch.cat([paths[2:], paths[:2]]))
    widths = [line.get_linewidth() for line in axes.lines]
    assert max(widths[:18]) < min(widths[18:])


# Densities and bars


def test_ridges_share_one_scale_and_go_downwards():
    narrow = NORMAL.max() * 2 * torch.exp(-2 * GRID**2)
    figure = figures.density_ridge(GRID, {0: narrow, 500: NORMAL}, reference=NORMAL)
    axes = figure.axes[0]
    upper, lower, reference = (line.get_ydata() for line in axes.lines)
    assert np.allclose(upper - upper[0], narrow - narrow[0], atol=1e-6)
    assert np.allclose(lower - lower[0], NORMAL - NORMAL[0], atol=1e-6)
    assert np.allclose(reference, lower, atol=1e-6)
    assert upper[0] > lower[0]
    figure.canvas.draw()
    assert [label.get_text() for label in axes.get_yticklabels()] == ["t = 0", "t = 500"]


def test_density_evolution_has_time_across_and_values_upwards():
    times = torch.arange(5)
    densities = torch.arange(5 * 401).view(5, 401).float()
    axes = figures.density_evolution(times, GRID, densities, paths=torch.zeros(2, 5)).axes[0]
    mesh = axes.collections[0]
    assert np.array_equal(np.asarray(mesh.get_array()).reshape(401, 5), densities.T)
    assert axes.get_xlim() == pytest.approx((-0.5, 4.5))
    assert len(axes.lines) == 2


def test_histogram_has_the_area_of_the_samples_in_sight():
    samples = torch.cat(
        [torch.randn(900, generator=torch.Generator().manual_seed(5)).clamp(-3, 3), torch.full((100,), 9.0)]
    )
    axes = figures.histogram_with_density(samples, GRID, {"normal": NORMAL}, bins=40).axes[0]
    values, edges, _ = axes.patches[0].get_data()
    assert len(values) == 40
    assert (edges[0], edges[-1]) == (-4, 4)
    assert (values * np.diff(edges)).sum() == pytest.approx(0.9)
    assert np.allclose(axes.lines[0].get_ydata(), NORMAL)


def test_ellipses_lie_one_and_two_standard_deviations_from_the_mean():
    mean, covariance = torch.tensor([1.0, -2.0]), torch.tensor([[2.0, -0.9], [-0.9, 0.7]])
    cloud = torch.randn(20, 2)
    figure = figures.ellipses({"a": (mean, covariance)}, points=cloud, xlabel="x", ylabel="y")
    dots, *lines = figure.axes[0].lines
    assert np.allclose(np.asarray(dots.get_xydata()), cloud)
    inverse = torch.linalg.inv(covariance).numpy()
    for line, distance in zip(lines, (1, 2), strict=True):
        apart = np.asarray(line.get_xydata()) - mean.numpy()
        assert np.allclose(((apart @ inverse) * apart).sum(1), distance**2, atol=1e-5)
        assert np.ptp(apart[:, 0]) == pytest.approx(2 * distance * 2**0.5, rel=1e-3)
    assert figure.axes[0].get_aspect() == 1


@pytest.mark.parametrize("log", [False, True])
def test_bars_reach_their_values(log):
    values = torch.tensor([3.0, 1.0, 0.5, 0.25])
    axes = figures.bar_chart(values, xlabel="t", ylabel="bits", log=log, first=2, highlight={3: "here"}).axes[
        0
    ]
    tops = [bar.get_y() + bar.get_height() for bar in axes.patches]
    middles = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
    assert tops == pytest.approx(values.tolist())
    assert middles == pytest.approx([2, 3, 4, 5])
    assert axes.lines[0].get_xydata().tolist() == [[3, 1]]
    assert axes.texts[0].get_text() == "here"


def test_grouped_bars_add_up():
    values = torch.rand(1000, generator=torch.Generator().manual_seed(6))
    axes = figures.bar_chart(values, xlabel="t", ylabel="bits", group=300).axes[0]
    tops = [bar.get_height() for bar in axes.patches]
    assert tops == pytest.approx([part.sum().item() for part in values.split(300)], rel=1e-5)
    assert [bar.get_width() for bar in axes.patches] == [300, 300, 300, 100]


def test_a_logarithmic_chart_refuses_what_it_cannot_show():
    with pytest.raises(ValueError, match="needs positive values, but the smallest is 0"):
        figures.bar_chart([1.0, 0.0], xlabel="t", ylabel="bits", log=True)


# The network


def test_signed_map_puts_the_first_axis_to_the_right_and_zero_in_white():
    values = torch.zeros(5, 3)
    values[4, 0], values[1, 2] = 0.5, -0.5
    figure = figures.signed_map(values, xlabel="t", ylabel="feature", limit=0.5)
    picture = figure.axes[0].images[0]
    assert np.array_equal(picture.get_array(), values.T)
    colours = picture.to_rgba(picture.get_array())
    assert np.allclose(colours[0, 0], 1, atol=0.01)
    assert np.allclose(colours[0, 4], mpl.colors.to_rgba(figures.VERMILION), atol=0.01)
    assert np.allclose(colours[2, 1], mpl.colors.to_rgba(figures.BLUE), atol=0.01)
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("t", "feature")


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
    half_way = mpl.colors.LogNorm(1e-6, 1)(1e-3)
    assert half_way == pytest.approx(first.norm(1e-3))


@pytest.mark.parametrize("values", [torch.zeros(2, 2), torch.tensor([[1.0, -1e-9]])])
def test_heat_maps_refuse_what_has_no_logarithm(values):
    with pytest.raises(ValueError, match="none below zero, and not all of them zero"):
        figures.heat_maps({"one": values}, label="size")


def test_grouped_bars_stand_beside_each_other_over_their_category():
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


def test_runs_are_dots_and_their_bar_is_the_mean_and_its_standard_error():
    axes = figures.runs_with_bars({"a": [1.0, 2.0, 6.0], "b": [5.0, 5.0]}, ylabel="loss").axes[0]
    dots = [line for line in axes.lines if len(line.get_xdata()) > 1 and line.get_marker() in figures.MARKERS]
    assert [line.get_ydata().tolist() for line in dots[:1]] == [[1, 2, 6]]
    ends = [container.lines[2][0].get_segments()[0][:, 1] for container in axes.containers]
    spread = np.std([1, 2, 6], ddof=1) / 3**0.5
    assert ends[0] == pytest.approx([3 - spread, 3 + spread])
    assert ends[1] == pytest.approx([5, 5])
    with pytest.raises(ValueError, match="needs at least two runs, but 'b' has 1"):
        figures.runs_with_bars({"a": [1.0, 2.0], "b": [1.0]}, ylabel="loss")


@pytest.mark.parametrize("sizes", [(1,), (1, 2), (1, 2, 4)])
def test_the_u_shows_every_part_of_the_network_in_its_row(sizes):
    costs = ledger(sizes)
    axes = figures.unet_map(costs).axes[0]
    drawn = [cost for cost in costs if cost.kind not in ("embedding", "norm")]
    boxes = [patch for patch in axes.patches if isinstance(patch, mpl.patches.Rectangle)]
    channels = [text.get_text() for text in axes.texts if text.get_text()]
    assert channels == [str(cost.channels) for cost in drawn]
    heights = [16 // 2**row for row in range(len(sizes))]
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"{h}×{h}" for h in heights]
    for box, cost in zip(boxes, drawn, strict=True):
        assert box.get_y() + box.get_height() / 2 == pytest.approx(-heights.index(cost.height))
    starts = [box.get_x() for box in boxes]
    assert starts == sorted(starts)
    arrows = [text for text in axes.texts if getattr(text, "arrow_patch", None) is not None]
    assert len(arrows) == len(sizes) - 1
    for (
        arrow
    ) in arrows:  # from the left arm's last box of a row to the right arm's first, with nothing in between
        between = [box for box in boxes if arrow.xyann[0] < box.get_x() + 0.44 < arrow.xy[0]]
        assert between
        assert all(abs(box.get_y() + 0.34 - arrow.xy[1]) > 0.5 for box in between)


def test_the_u_needs_a_ledger():
    with pytest.raises(ValueError, match="without any map of an image"):
        figures.unet_map(ledger((1,))[:1])
