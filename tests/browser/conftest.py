"""A browser for every test of this folder, a page with a panel, and a word at the end where there was no browser."""

from tests.browser.panels import folder, show  # noqa: F401 (fixtures)
from tests.chromium import chromium, pytest_sessionfinish  # noqa: F401 (a fixture and a hook)
