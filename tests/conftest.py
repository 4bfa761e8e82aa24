"""Settings that all tests share."""

from hypothesis import settings

# The same examples on every machine and in every run; timing is no reason to fail on a shared computer.
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("repeatable")
