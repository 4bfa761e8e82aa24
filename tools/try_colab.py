"""Execute the chapters as Colab would: the notebooks made for it, an empty folder, the wheel and nothing else of ours.

    make colab wheel
    PYTHON tools/try_colab.py [NAME ...]

PYTHON stands for the environment that is tried. It has what Colab ships (torch, the requirements of the package and of
its extra `book`) but not the package itself, which the first code cell installs and which is taken off again after each
notebook. What differs from Colab is that the folder is not /content, and that the module by which a cell knows Colab is
empty.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

BUILD = Path(__file__).resolve().parents[1] / "_build"
PACKAGES = ("torch", "torchvision", "numpy", "matplotlib", "pillow", "scikit-learn", "accelerate")
COLAB = """import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
sys.modules["google.colab"] = module_from_spec(ModuleSpec("google.colab", None))"""
UNINSTALL = [sys.executable, "-m", "pip", "uninstall", "--quiet", "--yes"]
_COLOURS = re.compile(r"\x1b\[[\d;]*m")
TIME_LIMIT = 600  # seconds for one cell
LINES = 15  # of an error


def execute(path: Path, content: Path) -> str:
    """Run one notebook in a fresh kernel within `content`; returns what went wrong, or nothing."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("/content", str(content))
    notebook.cells.insert(0, nbformat.v4.new_code_cell(COLAB))
    resources = {"metadata": {"path": str(content)}}
    client = NotebookClient(notebook, timeout=TIME_LIMIT, kernel_name="python3", resources=resources)
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        return "\n" + "\n".join(_COLOURS.sub("", str(error)).splitlines()[-LINES:])
    return ""


def main() -> None:
    """Try them all, and end with 1 where one fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="chapters, such as 07-training; else all")
    names = parser.parse_args().names
    notebooks = sorted((BUILD / "colab" / "chapters").glob("*.ipynb"))
    wheel = next((BUILD / "wheel").glob("out_of_the_snow-*.whl"), None)
    if wheel is None or not notebooks:
        sys.exit("There is nothing to try yet: make colab wheel")
    if unknown := sorted(set(names) - {path.stem for path in notebooks}):
        sys.exit(f"No chapter is called {', '.join(unknown)}.")
    if importlib.util.find_spec("ddpm"):
        sys.exit(
            f"{sys.executable} has the package already: uninstall it there (pip uninstall out-of-the-snow)"
        )
    print(sys.version.split()[0], *(f"{name} {metadata.version(name)}" for name in PACKAGES), flush=True)
    failed = []
    for path in notebooks:
        if names and path.stem not in names:
            continue
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as content:
            (Path(content) / wheel.name).symlink_to(wheel)
            problem = execute(path, Path(content))
        print(f"{path.stem:<24} {time.perf_counter() - start:6.1f} s  {problem or 'ok'}", flush=True)
        failed += [path.stem] if problem else []
        subprocess.run([*UNINSTALL, "out-of-the-snow"], check=True)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
