"""The book's pictures, in one style: tensors in, a matplotlib figure out."""

from ddpm.book.figures.bars import bar_chart, grouped_bars, runs_with_bars
from ddpm.book.figures.chain import chain
from ddpm.book.figures.clouds import nearer_to, neighbour_balls
from ddpm.book.figures.contours import clouds_over_contours
from ddpm.book.figures.densities import density_panels, histogram_rows, histogram_with_density
from ddpm.book.figures.diagrams import ellipses, schedule_view, three_coordinates
from ddpm.book.figures.images import compare_grids, image_grid, image_strip
from ddpm.book.figures.lines import compared_runs, curves, dot_rows, extrapolation, flow_lines, learning_curve
from ddpm.book.figures.maps import heat_maps, signed_map
from ddpm.book.figures.unet import unet_map

__all__ = [
    "bar_chart",
    "chain",
    "clouds_over_contours",
    "compare_grids",
    "compared_runs",
    "curves",
    "density_panels",
    "dot_rows",
    "ellipses",
    "extrapolation",
    "flow_lines",
    "grouped_bars",
    "heat_maps",
    "histogram_rows",
    "histogram_with_density",
    "image_grid",
    "image_strip",
    "learning_curve",
    "nearer_to",
    "neighbour_balls",
    "runs_with_bars",
    "schedule_view",
    "signed_map",
    "three_coordinates",
    "unet_map",
]
