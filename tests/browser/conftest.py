"""A browser for every test of this folder."""

from tests.chromium import chromium  # noqa: F401 (a fixture)
