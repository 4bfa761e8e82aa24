"""What was measured by network_speed.py: summed up, set beside each other, as tables and as a picture."""

import contextlib
import itertools
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
README = HERE / "README.md"
PICTURE = HERE.parent / "chapters" / "images" / "network-speed.svg"
IMPLEMENTATIONS = ("ours", "diffusers", "denoising-diffusion-pytorch")
PEERS = IMPLEMENTATIONS[1:]
MODES, PRECISIONS, TASKS = ("eager", "compiled"), ("float32", "bf16"), ("train", "evaluate")
KEY = ("network", "task", "batch", "mode", "precision", "implementation")
TASK_NAMES = {"train": "training", "evaluate": "network calls"}
NETWORKS = ("small", "paper")  # in the order in which they are shown

Figures = dict[str, Any]


def summary(values: Sequence[float], digits: int = 3) -> Figures:
    """Median and spread."""
    spread = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, digits) for name, value in spread.items()}


def summarised(lines: Sequence[Figures]) -> Figures:
    """What the lines of the log come to: `networks`, `matmul_gflops` by precision, and `rows`."""
    by_key: dict[tuple[Any, ...], list[Figures]] = {}
    for line in lines:
        if "error" not in line:
            by_key.setdefault(tuple(line["key"]), []).append(line)
    named: dict[tuple[Any, ...], Figures] = {
        key: dict(zip(("kind", *KEY), key, strict=True)) for key in by_key
    }
    networks = {
        named[key]["network"]: {name: found[-1][name] for name in IMPLEMENTATIONS}
        for key, found in by_key.items()
        if named[key]["kind"] == "count"
    }
    products = {
        key[1:-1]: [line["gflops"] for line in found]
        for key, found in by_key.items()
        if named[key]["kind"] == "matmul"
    }
    rows = [
        row(named[key], found, networks, statistics.median(products[key[1:-1]]))
        for key, found in by_key.items()
        if named[key]["kind"] == "step"
    ]
    by_precision = {
        precision: [rate for key, rates in products.items() if key[-1] == precision for rate in rates]
        for precision in PRECISIONS
    }
    matmul = {precision: summary(rates) for precision, rates in by_precision.items() if rates}
    return {"matmul_gflops": matmul, "networks": networks, "rows": rows}


def row(key: Figures, found: Sequence[Figures], networks: Figures, product: float) -> Figures:
    """The figures of one key from those of its rounds and the rate of the matrices beside it in GFLOP/s."""
    in_order = sorted(found, key=lambda line: line["round"])
    rates = [line["images_per_second"] for line in in_order]
    flops = networks[key["network"]][key["implementation"]]["flops"][key["task"]]
    gflops = statistics.median(rates) * flops / 1e9
    return {name: key[name] for name in KEY} | {
        "images_per_second": summary(rates),
        "each_round": [round(value, 3) for value in rates],
        "gflops": round(gflops, 1),
        "share_of_matmul": round(gflops / product, 3),
        "peak_memory_mib": round(statistics.median(line["peak_memory_mib"] for line in found)),
        "first_call_seconds": round(max(line["first_call_seconds"] for line in found), 1),
    }


def ratios(report: Figures) -> list[Figures]:
    """Ours against the faster of the peers, wherever both were measured.

    That is eager against eager and compiled against compiled, and further: ours eager against the peers compiled, and
    ours compiled in bf16 against the peers as they are by default, eager in float32.
    """
    ours = [row for row in report["rows"] if row["implementation"] == "ours"]
    found = []
    for mine in ours:
        against = [(mine["mode"], mine["precision"])]
        against += [("compiled", mine["precision"])] if mine["mode"] == "eager" else []
        against += [("eager", "float32")] if against == [("compiled", "bf16")] else []
        for mode, precision in against:
            same = {name: mine[name] for name in ("network", "task", "batch")}
            same |= {"mode": mode, "precision": precision}
            theirs = [
                row
                for row in report["rows"]
                if row["implementation"] in PEERS and same.items() <= row.items()
            ]
            if theirs:
                found.append(ratio(mine, theirs, report["networks"][mine["network"]]))
    return found


def ratio(mine: Figures, theirs: Sequence[Figures], network: Figures) -> Figures:
    """Ours against the peer that is faster for its FLOPs."""
    fastest = max(theirs, key=lambda row: row["gflops"])
    flops = {name: network[name]["flops"][mine["task"]] for name in IMPLEMENTATIONS}
    scale = flops["ours"] / flops[fastest["implementation"]]
    pairs = zip(mine["each_round"], fastest["each_round"], strict=False)
    each = [scale * ours / their for ours, their in pairs]
    medians = [row["images_per_second"]["median"] for row in (mine, fastest)]
    return {name: mine[name] for name in KEY[:-1]} | {
        "against": fastest["implementation"],
        "its_mode": fastest["mode"],
        "its_precision": fastest["precision"],
        "at_equal_flops": summary(each),
        "images_per_second": round(medians[0] / medians[1], 2),
        "peak_memory": round(
            mine["peak_memory_mib"] / max(1, min(row["peak_memory_mib"] for row in theirs)), 2
        ),
    }


def merged(old: Figures, new: Figures) -> Figures:
    """The new figures, and the old ones that were not measured again."""
    measured = {tuple(row[name] for name in KEY) for row in new["rows"]}
    kept = [row for row in old.get("rows", []) if tuple(row[name] for name in KEY) not in measured]
    commands = [*old.get("command", "").split(" && "), new["command"]]
    report = new | {
        "command": " && ".join(dict.fromkeys(filter(None, commands))),
        "matmul_gflops": old.get("matmul_gflops", {}) | new["matmul_gflops"],
        "networks": old.get("networks", {}) | new["networks"],
        "rows": sorted(kept + new["rows"], key=place),
    }
    return report | {"ratios": ratios(report)}


def place(row: Figures) -> tuple[int, ...]:
    """Where a row stands in the tables."""
    names = (NETWORKS, TASKS, MODES, PRECISIONS, IMPLEMENTATIONS)
    keys = ("network", "task", "mode", "precision", "implementation")
    network, task, *rest = (known.index(row[key]) for known, key in zip(names, keys, strict=True))
    return (network, task, row["batch"], *rest)


def machine(threads: int, device: str) -> Figures:
    """What the figures depend on beside the code."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.split(": ")[1] for line in lines if line.startswith("model name")), processor)
    packages = ("torch", "diffusers", "denoising_diffusion_pytorch")
    described = {"cpu": processor, "threads": threads, "python": platform.python_version()}
    described |= {package: version(package) for package in packages}
    return described | ({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {})


# Tables and the picture


def tables(report: Figures) -> str:
    """The report in Markdown: the networks, the ratios, the rates."""
    described = report["machine"]
    threads = f"{described['threads']} thread{'s' if described['threads'] > 1 else ''}"
    where = f"{described.get('gpu', described['cpu'])}, {threads}"
    packages = ("torch", "diffusers", "denoising_diffusion_pytorch", "python")
    versions = ", ".join(f"{name.replace('_', '-')} {described[name]}" for name in packages)
    product = ", ".join(
        f"{rate['median']:,.0f} GFLOP/s in {precision} ({rate['min']:,.0f} to {rate['max']:,.0f})"
        for precision, rate in report["matmul_gflops"].items()
    )
    return "\n\n".join(
        [
            f"    {report['command']}",
            f"{where}; {versions}. The matrix product: {product}.",
            table(
                ("network", "", "parameters", "GFLOP per call", "per training image"), network_cells(report)
            ),
            "Ours against the peer that is faster for its FLOPs: rates at equal FLOPs, with the range over the rounds;"
            " images per second as they are; peak memory against the peer that needs less.",
            table(
                ("network", "batch", "ours", "against", "at equal FLOPs", "images/s", "memory"),
                ratio_cells(report),
            ),
            "All rates: the median over the rounds and their range, and the peak of memory above what the process had"
            " with its packages loaded.",
            table(
                ("network", "batch", "", "", "images/s", "GFLOP/s", "of the product", "memory", "first call"),
                rate_cells(report),
            ),
        ]
    )


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *lines))


def network_cells(report: Figures) -> list[list[str]]:
    """Lines of the table of networks."""
    return [
        [
            network,
            name,
            f"{figures['parameters']:,}",
            f"{figures['flops']['evaluate'] / 1e9:.2f}",
            f"{figures['flops']['train'] / 1e9:.2f}",
        ]
        for network, by_name in report["networks"].items()
        for name, figures in by_name.items()
    ]


def ratio_cells(report: Figures) -> list[list[str]]:
    """Lines of the table of ratios."""
    return [
        [
            f"{line['network']}, {TASK_NAMES[line['task']]}",
            str(line["batch"]),
            f"{line['mode']}, {line['precision']}",
            f"{line['against']}, {line['its_mode']}, {line['its_precision']}",
            "**{median:.2f}** ({min:.2f} to {max:.2f})".format(**line["at_equal_flops"]),
            f"{line['images_per_second']:.2f}",
            f"{line['peak_memory']:.2f}",
        ]
        for line in report["ratios"]
    ]


def rate_cells(report: Figures) -> list[list[str]]:
    """Lines of the table of rates."""
    return [
        [
            f"{line['network']}, {TASK_NAMES[line['task']]}",
            str(line["batch"]),
            f"{line['mode']}, {line['precision']}",
            line["implementation"],
            "{median} ({min} to {max})".format(**{k: rate(v) for k, v in line["images_per_second"].items()}),
            f"{line['gflops']:,.0f}",
            f"{line['share_of_matmul']:.0%}",
            f"{line['peak_memory_mib']:,} MiB",
            f"{line['first_call_seconds']:.0f} s",
        ]
        for line in report["rows"]
    ]


def rate(value: float) -> str:
    """Three digits of a rate, or all of a larger one."""
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"


def write_tables(report: Figures, device: str) -> None:
    """Put the tables into the README, between their marks, or at its end if it has none."""
    text = README.read_text(encoding="utf-8")
    first, last = f"<!-- network speed, {device} -->", f"<!-- end of network speed, {device} -->"
    if first not in text:
        text = f"{text.rstrip()}\n\n{first}\n{last}\n"
    before, rest = text.split(first)
    after = rest.split(last)[1]
    README.write_text(f"{before}{first}\n\n{tables(report)}\n\n{last}{after}", encoding="utf-8")


def draw(report: Figures) -> None:
    """The picture: what share of the matrix product each reaches, with its images per second."""
    import matplotlib.pyplot as plt

    from ddpm.book.figures.style import WIDTH, styled

    networks = [name for name in NETWORKS if any(row["network"] == name for row in report["rows"])]

    def panels() -> Any:
        figure, grid = plt.subplots(
            len(networks), 2, figsize=(WIDTH, 2.9 * len(networks)), sharex=True, sharey=True, squeeze=False
        )
        for (line, network), (column, task) in itertools.product(enumerate(networks), enumerate(TASKS)):
            rows = [row for row in report["rows"] if (row["network"], row["task"]) == (network, task)]
            batch = min((row["batch"] for row in rows), default=0)
            draw_bars(grid[line, column], [row for row in rows if row["batch"] == batch])
            grid[line, column].set_title(f"{network}: {TASK_NAMES[task]}")
        for axes in grid[-1]:
            axes.set_xlabel("% of a matrix product")
        handles, names = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=len(names))
        return figure

    PICTURE.parent.mkdir(exist_ok=True)
    with plt.rc_context({"svg.hashsalt": "network-speed"}):  # the same file from the same figures
        styled(panels)().savefig(PICTURE, bbox_inches="tight", metadata={"Date": None})


def draw_bars(axes: Any, rows: Sequence[Figures]) -> None:
    """Two bars for each implementation, one for each mode; the number at its end is images per second."""
    from ddpm.book.figures.style import BLUE, LETTERS, ORANGE

    for offset, (mode, colour, hatch) in enumerate((("eager", BLUE, ""), ("compiled", ORANGE, "//"))):
        chosen = [row for row in rows if row["mode"] == mode and row["precision"] == "float32"]
        heights = [IMPLEMENTATIONS.index(row["implementation"]) + 0.38 * (offset - 0.5) for row in chosen]
        shares = [100 * row["share_of_matmul"] for row in chosen]
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
