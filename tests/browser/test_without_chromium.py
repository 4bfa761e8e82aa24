"""Where there is no browser: what is tried to get one, what the tests say, and that a server does not pass over it."""

import os
import shutil
import subprocess
import sys

import pytest
from book_numbers import ROOT

from tests import chromium as module

# One in the place of a browser that cannot run, as Ubuntu's package that asks for a snap.
STUB = "#!/bin/sh\necho 'requires the snap' >&2\nexit 1\n"


@pytest.mark.parametrize(
    ("ci", "required"),
    [(None, False), ("", False), ("0", False), ("False", False), ("true", True), ("1", True)],
)
def test_browser_is_required_on_a_server(ci, required, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    if ci is not None:
        monkeypatch.setenv("CI", ci)
    assert module.required() == required


@pytest.mark.parametrize(("ci", "status", "workers"), [("", 0, "0"), ("", 0, "2"), ("true", 1, "2")])
def test_checks_are_left_out_with_one_plain_line_and_fail_on_a_server(ci, status, workers, tmp_path):
    """As in this folder, where the only Chromium is one that does not start."""
    stub = tmp_path / "bin" / "chromium"
    stub.parent.mkdir()
    stub.write_text(STUB)
    stub.chmod(0o755)
    shutil.copy(ROOT / "tests" / "browser" / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]")
    (tmp_path / "test_page.py").write_text("def test_a(chromium): pass\ndef test_b(chromium): pass")
    own = {
        "PATH": str(stub.parent),
        "PLAYWRIGHT_BROWSERS_PATH": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tools")]),
        "CI": ci,
    }
    command = [sys.executable, "-m", "pytest", "-ra", "-n", workers, "test_page.py"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | own, capture_output=True, text=True)
    said = f"2 checks in a browser were left out: {module.NONE}; {module.ADVICE}."
    assert done.returncode == status
    assert (done.stdout.splitlines()[-1] == said) == (status == 0)
    assert f"{module.NONE}; {module.ADVICE}" in done.stdout


DEBIAN = ["apt-get update", "apt-get install chromium", "playwright --with-deps"]


@pytest.mark.parametrize(
    ("root", "system", "tried"),
    [
        (True, "debian", DEBIAN),
        (False, "debian", ["playwright"]),
        (True, "ubuntu", ["playwright --with-deps"]),
        (False, "ubuntu", ["playwright"]),
        (True, "fedora", ["playwright"]),
        (False, "darwin", ["playwright"]),
        (False, "win32", ["playwright"]),
    ],
)
@pytest.mark.parametrize("after", [0, 1, 2])
def test_browser_is_got_by_the_first_way_that_works(root, system, tried, after, monkeypatch):
    """`after`: how many ways are tried until one leads to a browser; with 0 none ever does."""
    ran, looks = [], []

    def note(command, **_):
        words = ("apt-get", "playwright", "update", "install", "chromium", "--with-deps")
        found = [word for word in words if word in command]
        ran.append(" ".join(found).replace("playwright install chromium", "playwright"))
        return subprocess.CompletedProcess(command, 1)

    def starts():
        looks.append(len(ran))
        return len(looks) == after

    monkeypatch.setattr(module.os, "geteuid", lambda: 0 if root else 1000, raising=False)
    monkeypatch.setattr(module, "system", lambda: system)
    monkeypatch.setattr(module.subprocess, "run", note)
    monkeypatch.setattr(module, "starts", starts)
    ways = len(module.ways(root=root, system=system))
    assert module.get() == (0 < after <= ways)
    assert ran == (tried[:2] if tried == DEBIAN and after == 1 else tried)


@pytest.mark.parametrize(
    "trouble", [FileNotFoundError("no apt-get"), subprocess.TimeoutExpired("apt-get", 900)]
)
def test_a_way_that_is_not_there_is_passed_over(trouble, monkeypatch):
    def refuse(*_, **__):
        raise trouble

    monkeypatch.setattr(module.subprocess, "run", refuse)
    monkeypatch.setattr(module, "starts", lambda: False)
    assert module.get() is False


@pytest.mark.parametrize(
    ("starts", "got", "ci", "tried", "word"),
    [
        (True, True, "true", False, None),
        (False, True, "true", True, None),
        (False, False, "", True, None),
        (False, False, "true", True, "with CI set that is a failure"),
    ],
)
def test_make_browser_gets_one_and_fails_only_on_a_server(starts, got, ci, tried, word, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "starts", lambda: starts)
    monkeypatch.setattr(module, "get", lambda: asked.append(1) or got)
    monkeypatch.setenv("CI", ci)
    if word is None:
        module.main()
    else:
        with pytest.raises(SystemExit, match=word):
            module.main()
    assert bool(asked) == tried
