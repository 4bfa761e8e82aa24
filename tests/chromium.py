"""A real browser for tests, driven by playwright; `python -m tests.chromium` finds one, or gets one where it can."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, Playwright, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ["--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
# The seconds that one command may take.
PATIENCE = 900

NONE = "no Chromium that starts was found"
ADVICE = "to run them, install it (apt install chromium, or .venv/bin/playwright install chromium)"


def required() -> bool:
    """Whether a missing browser is a failure: on a server, where nobody reads that checks were left out."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false", "no")


def launch(playwright: Playwright) -> Browser | None:
    """The first that starts: the system's, else playwright's own; it knows no name but the loopback address."""
    for path in [*map(shutil.which, NAMES), playwright.chromium.executable_path]:
        try:
            if path and Path(path).exists():
                return playwright.chromium.launch(executable_path=path, args=FLAGS)
        except Error as error:  # a stub that asks for a snap, or libraries that are not there
            print(f"{path} does not start: {str(error).splitlines()[0]}", file=sys.stderr)
    return None


def ways(*, root: bool, system: str) -> list[list[list[str]]]:
    """How to get a browser, in the order in which to try them; each way is a list of commands."""
    own = [sys.executable, "-m", "playwright", "install", "chromium"]
    if not (root and system in ("debian", "ubuntu")):
        return [[own]]
    ours = [[*own, "--with-deps"]]
    apt = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]
    install = [*apt, "install", "--yes", "--no-install-recommends", "chromium", "fonts-liberation"]
    # Ubuntu's package of that name only sends for a snap.
    return [[[*apt, "update"], install], ours] if system == "debian" else [ours]


def starts() -> bool:
    """Whether there is a browser that starts."""
    with sync_playwright() as playwright:
        browser = launch(playwright)
        if browser:
            browser.close()
        return browser is not None


def get() -> bool:
    """Get a browser, by the first way that leads to one that starts."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for commands in ways(root=getattr(os, "geteuid", lambda: 1)() == 0, system=system()):
        for command in commands:
            print("No Chromium yet, so:", *command, flush=True)
            try:
                subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, timeout=PATIENCE)
            except (OSError, subprocess.TimeoutExpired) as error:
                print(error)
        if starts():
            return True
    return False


def system() -> str:
    """Such as "debian", "ubuntu", "darwin"."""
    try:
        return platform.freedesktop_os_release()["ID"]
    except OSError:  # not Linux, or one that does not say
        return sys.platform


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser; without one the test is left out, and on a server fails."""
    with sync_playwright() as playwright:
        browser = launch(playwright)
        if browser is None:
            (pytest.fail if required() else pytest.skip)(f"{NONE}; {ADVICE}")
        yield browser
        browser.close()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session):
    """Say last of all how many checks were left out for want of a browser."""
    result = yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter:  # not in the processes that the tests are handed to
        left_out = sum(NONE in str(report.longrepr) for report in reporter.stats.get("skipped", []))
        if left_out:
            reporter.write_line(f"{left_out} checks in a browser were left out: {NONE}; {ADVICE}.")
    return result


def main() -> None:
    """Find a browser or get one; on a reader's own machine the tests say at the end what was left out."""
    if not (starts() or get()) and required():
        sys.exit(f"The checks in a browser cannot run: {NONE}, and with CI set that is a failure; {ADVICE}.")


if __name__ == "__main__":
    main()
