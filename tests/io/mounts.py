"""Small and read-only disks, where the system lets a test mount them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def run_on_disk(folder: Path, options: str, script: str) -> str:
    """What a Python program prints with a disk of its own mounted at `folder`; skips the test where that is forbidden.

    Args:
        folder: where to mount.
        options: of the mount, such as "size=200k" or "ro".
        script: the program.
    """
    if not shutil.which("unshare"):
        pytest.skip("this system has no unshare(1)")
    command = f"mount -t tmpfs -o {options} tmpfs '{folder}' && exec '{sys.executable}' -"
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", command],
        input=script,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[2],
    )
    if any(line.startswith(("mount:", "unshare:")) for line in done.stderr.splitlines()):
        pytest.skip("this system does not let the tests mount a disk")
    assert done.returncode == 0, done.stderr
    return done.stdout
