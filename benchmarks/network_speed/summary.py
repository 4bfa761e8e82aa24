"""What the measurements come to: medians and spreads, ratios, one report."""

import contextlib
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.network_speed.jobs import (
    IMPLEMENTATIONS,
    KEY,
    MODES,
    NETWORKS,
    PEERS,
    PRECISIONS,
    TASKS,
    YARDSTICKS,
    Figures,
)

# What decides how fast a processor multiplies.
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "sve", "bf16")


def summary(values: Sequence[float], digits: int = 3) -> Figures:
    """Median and spread."""
    spread = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, digits) for name, value in spread.items()}


def summarised(lines: Sequence[Figures]) -> Figures:
    """What the lines of the log come to: `networks`, the rates of the `yardsticks` by precision, and `rows`."""
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
    beside = {key[1:-1]: found for key, found in by_key.items() if named[key]["kind"] == "yardsticks"}
    rows = [
        row(named[key], found, networks, beside[key[1:-1]])
        for key, found in by_key.items()
        if named[key]["kind"] == "step"
    ]
    rates = {
        precision: {
            name: summary([line[f"{name}_gflops"] for line in found])
            for name in YARDSTICKS
            if (found := [line for key, lines in beside.items() if key[-1] == precision for line in lines])
        }
        for precision in PRECISIONS
    }
    return {
        "yardsticks": {key: by_name for key, by_name in rates.items() if by_name},
        "networks": networks,
        "rows": rows,
    }


def row(key: Figures, found: Sequence[Figures], networks: Figures, beside: Sequence[Figures]) -> Figures:
    """The figures of one key from those of its rounds and the rates of the yardsticks next to it."""
    in_order = sorted(found, key=lambda line: line["round"])
    rates = [line["images_per_second"] for line in in_order]
    flops = networks[key["network"]][key["implementation"]]["flops"][key["task"]]
    gflops = statistics.median(rates) * flops / 1e9
    shares = {
        f"share_of_{name}": round(gflops / statistics.median(line[f"{name}_gflops"] for line in beside), 3)
        for name in YARDSTICKS
    }
    return (
        {name: key[name] for name in KEY}
        | shares
        | {
            "images_per_second": summary(rates),
            "each_round": [round(value, 3) for value in rates],
            "gflops": round(gflops, 1),
            "peak_memory_mib": round(statistics.median(line["peak_memory_mib"] for line in found)),
            "first_call_seconds": round(max(line["first_call_seconds"] for line in found), 1),
        }
    )


def ratios(report: Figures) -> list[Figures]:
    """Ours against the faster of the peers, wherever both were measured.

    That is eager against eager and compiled against compiled, and further: ours eager against the peers compiled, and
    ours in bf16 against the peers as they are by default, eager in float32.
    """
    ours = [row for row in report["rows"] if row["implementation"] == "ours"]
    found = []
    for mine in ours:
        against = [(mine["mode"], mine["precision"])]
        against += [("compiled", mine["precision"])] if mine["mode"] == "eager" else []
        against += [("eager", "float32")] if mine["precision"] == "bf16" else []
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
        # More digits than the tables show, which would round them twice.
        "at_equal_flops": summary(each, digits=6),
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
        "yardsticks": old.get("yardsticks", {}) | new["yardsticks"],
        "networks": old.get("networks", {}) | new["networks"],
        "rows": sorted(kept + new["rows"], key=place),
    }
    return report | {"ratios": ratios(report)}


def place(row: Figures) -> tuple[int, ...]:
    """Where a row stands in the tables."""
    names = (tuple(NETWORKS), TASKS, MODES, PRECISIONS, IMPLEMENTATIONS)
    keys = ("network", "task", "mode", "precision", "implementation")
    network, task, *rest = (known.index(row[key]) for known, key in zip(names, keys, strict=True))
    return (network, task, row["batch"], *rest)


def machine(threads: int, device: str) -> Figures:
    """What the figures depend on besides the code."""
    processor, sets = platform.processor() or platform.machine(), []
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.split(": ")[1] for line in lines if line.startswith("model name")), processor)
        flags = next((line.split() for line in lines if line.startswith("flags")), [])
        sets = [name for name in INSTRUCTION_SETS if name in flags]
    packages = ("torch", "diffusers", "denoising_diffusion_pytorch")
    described = {
        "cpu": processor,
        "instruction_sets": sets,
        "threads": threads,
        "python": platform.python_version(),
    }
    described |= {package: version(package) for package in packages}
    return described | ({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {})
