"""What all figures have in common."""

import io

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from ddpm import Unet
from ddpm.book import figures
from ddpm.book.figures import style
from ddpm.book.figures.card import PHOTOGRAPH
from ddpm.book.layer_costs import layer_costs

X, GRID = torch.arange(1, 11), torch.linspace(-4, 4, 401)
IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
CIRCLE = {"one": (torch.zeros(2), torch.eye(2))}
LEDGER = layer_costs(Unet(8, dim_mults=(1, 2, 4), channels=1, num_res_blocks=1), 16)
ARGUMENTS = {
    "bar_chart": ((1 / X,), {"xlabel": "t", "ylabel": "bits", "log": True, "highlight": {2: "here"}}),
    "chain": ((IMAGES[:4],), {"value_range": (0, 1), "terms": ("one", "two", "three"), "posterior": True}),
    "clouds_over_contours": (
        ({"one": (torch.randn(9, 2), torch.rand(5, 5))}, torch.linspace(-1, 1, 5)),
        {"names": ("drawn", "exact")},
    ),
    "compare_grids": ((IMAGES, IMAGES), {}),
    "compared_runs": (
        (X, {"a": {"one": X}, "b": {"one": torch.rand(3, 10)}}),
        {"xlabel": "x", "ylabel": "y"},
    ),
    "curves": ((X, {"one": X, "two": X**2}), {"xlabel": "x", "ylabel": "y"}),
    "density_panels": ((GRID, {"p": {"a": GRID**2, "b": GRID}, "q": {"a": GRID**2, "b": GRID}}), {}),
    "dot_rows": (({"one": X, "two": X**2},), {"xlabel": "x"}),
    "ellipses": ((CIRCLE,), {"points": torch.randn(50, 2), "xlabel": "x", "ylabel": "y"}),
    "extrapolation": (
        ([10, 20], {"one": ([2.0, 1.0], [0.2, 0.1])}, {"one": (0.0, 20.0)}),
        {"xlabel": "n", "ylabel": "score"},
    ),
    "flow_lines": (
        ({"one": (X, torch.rand(10, 3)), "two": (2 * X, torch.rand(10, 3))},),
        {"xlabel": "x", "ylabel": "z"},
    ),
    "grouped_bars": (({"one": X, "two": X}, list("abcdefghij")), {"ylabel": "%"}),
    "heat_maps": (({"one": IMAGES[0, 0], "two": IMAGES[1, 0]},), {"label": "size"}),
    "histogram_rows": (({1: torch.randn(99)}, GRID, {1: GRID**2}), {}),
    "histogram_with_density": ((torch.randn(99), GRID, {"parabola": GRID**2}), {}),
    "image_grid": ((IMAGES,), {"titles": range(6)}),
    "image_strip": (([IMAGES, IMAGES], list("abcdef")), {"row_labels": ["up", "down"]}),
    "learning_curve": ((X, 1 / X), {"smoothed": 3}),
    "nearer_to": (({"one": (X, 2 * X), "two": (X, X)},), {"xlabel": "x", "ylabel": "y"}),
    "neighbour_balls": (({"one": (torch.randn(9, 2), torch.rand(9), torch.randn(9, 2))},), {}),
    "runs_with_bars": (({"one": X, "two": 2 * X},), {"ylabel": "loss"}),
    "schedule_view": (({"one": -X.double()}, "one", 3, IMAGES[0]), {"value_range": (0, 1)}),
    "signed_map": ((torch.randn(10, 6),), {"xlabel": "t", "ylabel": "feature"}),
    "three_coordinates": (({0: 0.0, 250: 0.6, 1000: 1.5}, 250), {}),
    "unet_map": ((LEDGER,), {}),
}


WITH_PHOTOGRAPHS = ("chain", "compare_grids", "image_grid", "image_strip", "schedule_view")


@pytest.mark.parametrize("name", figures.__all__)
def test_every_figure_is_on_white_small_as_wide_as_a_page_and_leaves_the_settings_alone(name):
    mpl.rcdefaults()  # whatever ran before
    before = dict(mpl.rcParams)
    arguments, options = ARGUMENTS[name]
    figure = getattr(figures, name)(*arguments, **options)
    assert isinstance(figure, Figure)
    assert dict(mpl.rcParams) == before
    assert figure.get_size_inches()[0] <= style.WIDTH + 0.01
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=figure.dpi, bbox_inches="tight")
    assert len(file.getvalue()) < 150_000
    pixels = np.asarray(Image.open(file).convert("RGBA"))
    # Around a sheet there may be nothing; what is drawn on is white, and only photographs are not quite opaque.
    drawn = pixels[pixels[..., 3] > 0]
    assert (drawn == 255).all(-1).mean() > (0 if name in WITH_PHOTOGRAPHS else 0.2)
    assert set(np.unique(drawn[:, 3])) == ({PHOTOGRAPH, 255} if name in WITH_PHOTOGRAPHS else {255})
    texts = [
        text for axes in figure.axes for text in (*axes.texts, axes.xaxis.label, *axes.get_xticklabels())
    ]
    assert all(text.get_fontsize() >= 9 for text in texts)


def test_curves_differ_in_colour_in_dashes_and_in_marks():
    ys = {str(k): k * GRID for k in range(7)}
    lines = figures.curves(GRID, ys, xlabel="x", ylabel="y", markers=True).axes[0].lines
    for looks in (
        {line.get_color() for line in lines},
        {str(line._unscaled_dash_pattern) for line in lines},
        {line.get_marker() for line in lines},
    ):
        assert len(looks) == 7
