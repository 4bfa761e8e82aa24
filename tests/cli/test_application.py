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


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
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
    ("--help", "true"),
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


WITHOUT_STREAMS = """
import json, pathlib, sys
from ddpm.cli import main
codes = []
for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit as end:
        codes.append(end.code or 0)
pathlib.Path("codes").write_text(repr(codes))
"""


@pytest.mark.skipif(os.name == "nt", reason="needs a shell that closes streams")
@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_every_command_works_without_a_console(run, tmp_path, closed):
    """As in a program without a window: Python has no streams then. The last is refused, as ever."""
    commands = [
        *(["--help"], ["info", run], ["train", "digits", "--dry-run", *SMALL]),
        ["train", "digits", "--out", "new", "--resume", *SMALL],
        ["resume", run, "--train-steps", "5"],
        ["sample", run, "-n", "3", "--out", "samples.png"],
        ["evaluate", run, "-n", "4", "--bound-images", "2", "--timesteps", "2"],
        *(["export", run, "model"], ["info", "nowhere"]),
    ]
    words = json.dumps([[str(word) for word in command] for command in commands])
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", WITHOUT_STREAMS, words]
    subprocess.run(shell, env=ENVIRONMENT, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    assert (tmp_path / "codes").read_text() == repr([0] * 8 + [1])


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
