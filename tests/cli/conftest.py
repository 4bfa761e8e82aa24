"""The command as a test runs it, and the finished runs that tests share."""

import contextlib
import io
import shutil
import warnings
from pathlib import Path

import pytest

from ddpm.cli import entry
from tests.cli.small_runs import SMALL


@pytest.fixture
def ddpm(monkeypatch, capsys):
    """Runs the command and returns what it wrote to stdout and stderr.

    typer's own CliRunner keeps the two apart in some versions only.
    """
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # put back afterwards

    def run(*arguments, code=0):
        with pytest.raises(SystemExit) as end:
            entry.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert (end.value.code or 0) == code, out + err
        assert "Traceback" not in out + err
        return out, err

    return run


def trained(folder, *options):
    """A finished run of 4 steps."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with pytest.raises(SystemExit) as end:
            entry.main(["train", "digits", "--out", str(folder), *SMALL, *options])
        assert not end.value.code
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished run; tests do not change it."""
    return trained(tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture(scope="session")
def with_classes(tmp_path_factory):
    """A finished run of a model that takes classes, in steps so long that the classes look different."""
    options = ["network.num_classes=10", "training.train_lr=0.1", "training.lr_warmup_steps=0"]
    changes = [word for option in options for word in ("--set", option)]
    return trained(tmp_path_factory.mktemp("classes") / "run", *changes)


@pytest.fixture
def run(finished, tmp_path):
    """A finished run of the test's own."""
    return Path(shutil.copytree(finished, tmp_path / "run"))
