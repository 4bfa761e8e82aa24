"""Settings that all tests share."""

import signal

from hypothesis import settings

# Where tests are started in the background or by nohup, these are ignored, here and in every child.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The same examples on every machine and in every run; timing is no reason to fail on a shared computer.
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("repeatable")
