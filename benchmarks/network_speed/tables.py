"""The report in Markdown, printed and put into the README."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.network_speed.jobs import Figures

README = Path(__file__).parents[1] / "README.md"
TASK_NAMES = {"train": "training", "evaluate": "network calls"}
YARDSTICK_NAMES = {"matmul": "the matrix product", "convolution": "the 1×1 convolution"}


def tables(report: Figures) -> str:
    """The report in Markdown: the networks, the ratios, the rates."""
    described = report["machine"]
    threads = f"{described['threads']} thread{'s' if described['threads'] > 1 else ''}"
    sets = ", ".join(described["instruction_sets"])
    where = f"{described.get('gpu', described['cpu'] + f' ({sets})')}, {threads}"
    packages = ("torch", "diffusers", "denoising_diffusion_pytorch", "python")
    versions = ", ".join(f"{name.replace('_', '-')} {described[name]}" for name in packages)
    yardsticks = "; ".join(
        f"{YARDSTICK_NAMES[name]} in {precision} {found['median']:,.0f} GFLOP/s"
        f" ({found['min']:,.0f} to {found['max']:,.0f})"
        for precision, by_name in report["yardsticks"].items()
        for name, found in by_name.items()
    )
    return "\n\n".join(
        [
            f"    {report['command']}",
            f"{where}; {versions}. The yardsticks: {yardsticks}.",
            table(
                ("network", "", "parameters", "GFLOP per call", "per training image"), network_cells(report)
            ),
            "Ours against the peer that is faster for its FLOPs: rates at equal FLOPs, the median and range of the"
            " rounds' ratios; images per second as they are, the ratio of the medians; peak memory against the peer"
            " that needs less.",
            table(
                ("network", "batch", "ours", "against", "at equal FLOPs", "images/s", "memory"),
                ratio_cells(report),
            ),
            "All rates: the median over the rounds and their range, and the peak of memory above what the process had"
            " with its packages loaded.",
            table(
                (
                    "network",
                    "batch",
                    "",
                    "",
                    "images/s",
                    "GFLOP/s",
                    "of the convolution",
                    "of the product",
                    "memory",
                    "first call",
                ),
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
            f"{line['share_of_convolution']:.0%}",
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
