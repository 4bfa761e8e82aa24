"""How long until a program has begun? Whole processes: Python, torch, this package, and the command's first words.

    python -m benchmarks.startup

Each command runs in turn, round after round; the median counts. What ends in an error is meant to: a refusal should
not take longer than help. The figures go to startup.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.network_speed.summary import machine
from benchmarks.network_speed.tables import table

RESULTS = Path(__file__).with_suffix(".json")
ROUNDS = 5
PYTHON = {
    "python -c pass": "pass",
    "import torch": "import torch",
    "import ddpm": "import ddpm",
    "from ddpm import Unet": "from ddpm import Unet",
}
COMMANDS = (
    "--help",
    "--version",
    "train nothing-such",
    "train digits --set network.dropot=1",
    "sample nothing-such",
)
CASES = {name: ["-c", code] for name, code in PYTHON.items()} | {
    f"ddpm {words}": ["-m", "ddpm", *words.split()] for words in COMMANDS
}


def seconds(arguments: list[str]) -> float:
    """The time of one whole process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
    return time.perf_counter() - started


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(options.rounds):
        for name, arguments in CASES.items():
            times[name].append(seconds(arguments))
    rows = {
        name: {"median": round(statistics.median(taken), 3), "all": [round(one, 3) for one in taken]}
        for name, taken in times.items()
    }
    torch_alone = rows["import torch"]["median"]
    print(
        table(
            ["process", "seconds", "of import torch"],
            [
                [name, f"{row['median']:.2f}", f"{row['median'] / torch_alone:.2f}"]
                for name, row in rows.items()
            ],
        )
    )
    here = machine(os.cpu_count() or 1, "cpu")
    command = "python -m benchmarks.startup"
    report = {"command": command, "rounds": options.rounds, "machine": here, "seconds": rows}
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
