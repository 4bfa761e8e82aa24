"""Execute the chapters from top to bottom and store them in normal form, or check that they are so stored.

    python tools/execute_notebooks.py [NAME ...]               execute, normalise, print the wall time of each
    python tools/execute_notebooks.py --normalise [NAME ...]   normalise only, the outputs are kept
    python tools/execute_notebooks.py --check [NAME ...]       change nothing; fail where a rule is broken

A NAME is a chapter's file name without its ending, such as ``07-training``; without a name, all
chapters. They are executed two at a time with one thread each, as `make chapters` does to compare their outputs. The
normal form and the rules are those of notebook_form.py.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from notebook_form import KERNELSPEC, check, normalise, read, serialise

CHAPTERS = Path(__file__).resolve().parents[1] / "chapters"
TIME_LIMIT = 180  # seconds for one notebook on two cores


@dataclass(frozen=True)
class Execution:
    """One run of a notebook: its name, its wall time in seconds, and what went wrong, if anything did."""

    name: str
    seconds: float
    problem: str

    def __str__(self) -> str:
        """One line for the terminal."""
        return f"{self.name:<24} {self.seconds:6.1f} s  {self.problem or 'ok'}"


def execute(path: Path) -> Execution:
    """Run one notebook in a fresh kernel; store it in normal form if all its cells ran."""
    notebook = read(path)
    client = NotebookClient(
        notebook,
        timeout=TIME_LIMIT,
        kernel_name=KERNELSPEC["name"],
        store_widget_state=True,
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
    )
    start = time.perf_counter()
    try:
        # A backend that the caller has chosen would keep the figures out of the notebook.
        others = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
        client.execute(env=others | {"OMP_NUM_THREADS": "1"})
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        return Execution(path.stem, time.perf_counter() - start, f"FAILED, not stored\n{error}")
    seconds = time.perf_counter() - start
    path.write_text(serialise(normalise(notebook)), encoding="utf-8")
    return Execution(
        path.stem, seconds, f"TOO SLOW, the limit is {TIME_LIMIT} s" if seconds > TIME_LIMIT else ""
    )


def chosen(names: list[str]) -> list[Path]:
    """The notebooks of the given names, or all; an unknown name ends the program with the list of names."""
    paths = {path.stem: path for path in sorted(CHAPTERS.glob("*.ipynb"))}
    stems = [Path(name).stem if name.endswith(".ipynb") else name for name in names]
    unknown = [stem for stem in stems if stem not in paths]
    if unknown:
        sys.exit(f"No chapter is called {', '.join(unknown)}. There are: {', '.join(paths) or 'none'}.")
    return [paths[stem] for stem in stems] or list(paths.values())


def run_check(paths: list[Path]) -> int:
    """Print every broken rule; return the exit status."""
    problems = [f"chapters/{path.name}: {problem}" for path in paths for problem in check(path)]
    print("\n".join(problems) or f"{len(paths)} chapters are executed, in normal form and within the limits.")
    return 1 if problems else 0


def run_normalise(paths: list[Path]) -> int:
    """Rewrite each notebook in normal form."""
    for path in paths:
        path.write_text(serialise(normalise(read(path))), encoding="utf-8")
    return 0


def run_execute(paths: list[Path]) -> int:
    """Execute the notebooks two at a time and print the time of each; return the exit status."""
    start, executions = time.perf_counter(), []
    with ProcessPoolExecutor(2) as pool:
        for execution in pool.map(execute, paths):
            executions.append(execution)
            print(execution, flush=True)
    print(f"{'all together':<24} {time.perf_counter() - start:6.1f} s")
    return 1 if any(execution.problem for execution in executions) else 0


def main() -> int:
    """Parse the command line and do what it asks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="a chapter, such as 07-training (default: all)"
    )
    parser.add_argument("--check", dest="run", action="store_const", const=run_check, help="change nothing")
    parser.add_argument(
        "--normalise", dest="run", action="store_const", const=run_normalise, help="do not execute"
    )
    parser.set_defaults(run=run_execute)
    arguments = parser.parse_args()
    return arguments.run(chosen(arguments.names))


if __name__ == "__main__":
    sys.exit(main())
