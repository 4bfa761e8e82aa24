"""A browser for every test of this folder, and a word at the end where there was none."""

from tests.chromium import chromium, pytest_sessionfinish  # noqa: F401 (a fixture and a hook)
