"""The command's words, on any code page and into any pipe."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.cli.small_runs import ENVIRONMENT, SMALL

COMMANDS = ("train", "resume", "sample", "evaluate", "export", "info")
EVERYTHING = """
import json, sys
from ddpm.cli import app, main
for call, words in json.loads(sys.argv[1]):
    try:
        (app if call == "app" else main)(words)
    except SystemExit as end:
        print("rc", ascii([call, *words]), end.code or 0)
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437", "cp932"])
def test_every_help_and_description_prints_on_every_code_page(finished, tmp_path, encoding):
    """As the application or by main, as a program may call either."""
    words = [[call, [command, "--help"]] for command in COMMANDS for call in ("app", "main")]
    words += [["main", ["info", str(finished)]], ["main", ["info", "nowhere…"]], ["main", ["--help"]]]
    environment = ENVIRONMENT | {"PYTHONIOENCODING": encoding}
    command = [sys.executable, "-c", EVERYTHING, json.dumps(words)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, check=False)
    out = done.stdout.decode(encoding)
    assert done.returncode == 0, done.stderr[-1000:]
    assert b"Traceback" not in done.stderr
    codes = re.findall(r"^rc (.*) (\d)\r?$", out, re.MULTILINE)
    assert len(codes) == len(words)
    failed = [said for said, code in codes if code != "0"]
    assert len(failed) == 1
    assert "nowhere" in failed[0]


PIPES = [  # words, what reads them
    ("info {run}", "head -n 1"),
    ("info {run}", "true"),
    ("--help", "true"),
    ("train --help", "true"),
    ("train digits --dry-run", "true"),
    ("sample {run} -n 1 --out {here}/x.png", "true"),
    ("nonsense 2>&1", "true"),
]


@pytest.mark.parametrize(("words", "reader"), PIPES)
def test_no_command_ends_in_an_error_because_its_reader_has_read_enough(finished, tmp_path, words, reader):
    line = words.format(run=finished, here=tmp_path)
    command = f"{{ {sys.executable} -m ddpm {line}; echo rc $? >&2; }} | {reader}"
    done = subprocess.run(
        ["bash", "-c", command], env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    said = [text for text in done.stderr.splitlines() if not text.startswith("rc")]
    assert f"rc {2 if words.startswith('nonsense') else 0}\n" in done.stderr
    assert said == []


def test_a_run_trains_on_when_nobody_reads_what_it_says(tmp_path):
    """Both of its streams end in a pipe that is closed before it begins."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "ddpm", "train", "digits", "--out", "run", *SMALL]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=tmp_path, stdout=writing, stderr=writing, check=False)
    os.close(writing)
    assert done.returncode == 0
    assert (tmp_path / "run/checkpoints/step-00000004").is_dir()


def test_what_cannot_be_written_to_a_full_disk_is_an_error(finished):
    full = "/dev/full"
    if not os.path.exists(full):  # noqa: PTH110
        pytest.skip(f"this system has no {full}")
    with open(full, "w") as stream:  # noqa: PTH123
        command = [sys.executable, "-m", "ddpm", "info", str(finished)]
        done = subprocess.run(
            command, env=ENVIRONMENT, stdout=stream, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "error: No space left on device\n"
