"""The picture of the rates on a CPU, which the README shows."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.network_speed.jobs import IMPLEMENTATIONS, MODES, NETWORKS, TASKS, Figures
from benchmarks.network_speed.tables import TASK_NAMES

PICTURE = Path(__file__).parents[2] / "chapters" / "images" / "network-speed.svg"


def draw(report: Figures) -> None:
    """The picture: what share of the 1×1 convolution's rate each reaches, with its images per second."""
    import matplotlib.pyplot as plt

    from ddpm.book.figures.style import WIDTH, styled

    modes = [mode for mode in MODES if any(row["mode"] == mode for row in report["rows"])]
    networks = [name for name in NETWORKS if any(row["network"] == name for row in report["rows"])]

    def panels() -> Any:
        figure, grid = plt.subplots(
            len(networks), 2, figsize=(WIDTH, 2.9 * len(networks)), sharex=True, sharey=True, squeeze=False
        )
        for (line, network), (column, task) in itertools.product(enumerate(networks), enumerate(TASKS)):
            rows = [row for row in report["rows"] if (row["network"], row["task"]) == (network, task)]
            batch = min((row["batch"] for row in rows), default=0)
            draw_bars(grid[line, column], [row for row in rows if row["batch"] == batch], modes)
            grid[line, column].set_title(f"{network}: {TASK_NAMES[task]}")
        for axes in grid[-1]:
            axes.set_xlabel("% of a 1×1 convolution")
        if len(modes) > 1:
            handles, names = grid[0, 0].get_legend_handles_labels()
            figure.legend(handles, names, loc="outside upper center", ncols=len(names))
        return figure

    PICTURE.parent.mkdir(exist_ok=True)
    with plt.rc_context({"svg.hashsalt": "network-speed"}):  # the same file from the same figures
        styled(panels)().savefig(PICTURE, bbox_inches="tight", metadata={"Date": None})


def draw_bars(axes: Any, rows: Sequence[Figures], modes: Sequence[str]) -> None:
    """A bar for each implementation and mode, in float32; the number at its end is images per second."""
    from ddpm.book.figures.style import BLUE, LETTERS, ORANGE

    looks = {"eager": (BLUE, ""), "compiled": (ORANGE, "//")}
    for offset, mode in enumerate(modes):
        colour, hatch = looks[mode]
        chosen = [row for row in rows if row["mode"] == mode and row["precision"] == "float32"]
        heights = [
            IMPLEMENTATIONS.index(row["implementation"]) + 0.38 * (offset - (len(modes) - 1) / 2)
            for row in chosen
        ]
        shares = [100 * row["share_of_convolution"] for row in chosen]
        medians = [row["images_per_second"]["median"] for row in chosen]
        spread = [
            [
                s * abs(row["images_per_second"][end] / m - 1)
                for row, s, m in zip(chosen, shares, medians, strict=True)
            ]
            for end in ("min", "max")
        ]
        axes.barh(
            heights, shares, 0.36, xerr=spread, color=colour, hatch=hatch, edgecolor="white", label=mode
        )
        for height, share, high, rate in zip(heights, shares, spread[1], medians, strict=True):
            axes.text(share + high + 2, height, f"{rate:.3g}/s", va="center", size=LETTERS - 2)
    names = [name.replace("-", "-\n") for name in IMPLEMENTATIONS]
    axes.set_yticks(range(len(names)), names)
    axes.set(xlim=(0, 125), xticks=(0, 50, 100), ylim=(len(names) - 0.5, -0.5))
    axes.grid(visible=False, axis="y")
