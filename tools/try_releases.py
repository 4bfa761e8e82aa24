"""Run the unit tests with the oldest releases that pyproject.toml allows, or with the newest; needs uv.

pip install uv; python tools/try_releases.py oldest [what pytest is to run]
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESOLUTIONS = {"oldest": "lowest-direct", "newest": "highest"}
UNIT_TESTS = ["tests", "--ignore", "tests/book", "--ignore", "tests/browser"]
SETTINGS = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "HF_HUB_OFFLINE": "1"}  # as in the Makefile
_FLOOR = re.compile(r"([\w.-]+)>=([\w.]+)(?:,.*)?")


def floors(project: Mapping) -> dict[str, str]:
    """The oldest release of each package that pyproject.toml allows.

    Raises:
        ValueError: A requirement has no floor.
    """
    found = {}
    for requirement in chain(project["dependencies"], *project["optional-dependencies"].values()):
        match = _FLOOR.fullmatch(requirement)
        if match is None:
            raise ValueError(f"pyproject.toml asks for {requirement!r}; write a floor, name>=version")
        found[match[1]] = match[2]
    return found


def unreached(allowed: Mapping[str, str], chosen: Mapping[str, str]) -> list[str]:
    """The floors that nobody can have, because another package asks for more; 2.0 and 2.0.0 are the same."""
    plain = re.compile(r"(\.0)+$")
    return [
        f"{name}>={version} to {chosen[name]}"
        for name, version in allowed.items()
        if plain.sub("", version) != plain.sub("", chosen[name])
    ]


def run(*command: str | Path) -> None:
    """Run a command in the repository's root, and end with it where it fails."""
    done = subprocess.run(command, cwd=ROOT, env=os.environ | SETTINGS)
    if done.returncode:
        sys.exit(done.returncode)


def resolve(uv: str, which: str, target: Path) -> None:
    """Choose a release of everything, write them to `target`, and tell those that pyproject.toml names."""
    target.unlink(missing_ok=True)  # uv keeps what an earlier file says
    options = [
        "--all-extras",
        "--resolution",
        RESOLUTIONS[which],
        "--prerelease",
        "disallow",
        "--python",
        sys.executable,
    ]
    form = ["--quiet", "--no-header", "--no-annotate", "--no-emit-index-url"]
    run(uv, "pip", "compile", "pyproject.toml", *options, *form, "--output-file", target)
    pins = (line.split(" ;")[0].strip() for line in target.read_text(encoding="utf-8").splitlines())
    chosen = dict(pin.split("==") for pin in pins if "==" in pin)
    allowed = floors(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])
    print(*(f"{name}=={chosen[name]}" for name in allowed), flush=True)
    if which == "oldest" and (wrong := unreached(allowed, chosen)):
        sys.exit(f"pyproject.toml allows what other packages rule out; raise {'; '.join(wrong)}.")


def main() -> None:
    """Resolve, install, test; the environment stays for a closer look."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", choices=RESOLUTIONS)
    parser.add_argument("tests", nargs="*", default=UNIT_TESTS)
    arguments = parser.parse_args()
    uv = shutil.which("uv")
    if uv is None:
        sys.exit("uv is missing: pip install uv, then run this again.")
    environment = ROOT / "_build" / "releases" / arguments.which
    python, pins = environment / "bin" / "python", environment / "requirements.txt"
    run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, environment)
    resolve(uv, arguments.which, pins)
    run(uv, "pip", "install", "--quiet", "--python", python, "--requirement", pins)
    run(uv, "pip", "install", "--quiet", "--python", python, "--no-deps", "--editable", ".")
    run(python, "-m", "pytest", "-n", "2", "--dist", "worksteal", *arguments.tests)


if __name__ == "__main__":
    main()
