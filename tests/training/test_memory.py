"""Freed memory is kept where it can be, and nowhere against the user's word."""

import platform
import subprocess
import sys

import pytest

from ddpm.training import memory

GLIBC = platform.libc_ver()[0] == "glibc"
# Page faults of ten times six tensors of 16 MiB, once as many have been, in a process that kept nothing before. How
# much glibc keeps by itself depends on what lies behind the tensors.
FAULTS = """
import ctypes, resource, torch
from ddpm.training.memory import keep_freed_memory
ctypes.CDLL(None).mallopt(-1, 0)
def write():
    [torch.ones(2**22) for _ in range(6)]
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
if {keep}:
    assert keep_freed_memory()
for _ in range(10):
    write()
before = faults()
for _ in range(10):
    write()
print(faults() - before)
"""


def _faults(keep: bool) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS.format(keep=keep)], capture_output=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not GLIBC, reason="for glibc alone")
def test_keep_freed_memory_spares_the_page_faults_of_large_tensors(monkeypatch):
    for name in ("MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)
    assert _faults(keep=True) * 10 < _faults(keep=False)


@pytest.mark.parametrize(
    ("environment", "chosen"),
    [
        ({}, False),
        ({"PATH": "/usr/bin"}, False),
        ({"MALLOC_TRIM_THRESHOLD_": "100000"}, True),
        ({"MALLOC_ARENA_MAX": "1"}, True),
        ({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=128"}, True),
        ({"GLIBC_TUNABLES": "glibc.rtld.optional_static_tls=512"}, False),
        ({"LD_PRELOAD": "/usr/lib/libjemalloc.so.2"}, True),
        ({"LD_PRELOAD": "/usr/lib/libtcmalloc.so.4"}, True),
        ({"LD_PRELOAD": "/usr/lib/libiomp5.so"}, False),
    ],
)
def test_chosen_elsewhere(environment, chosen):
    assert memory.chosen_elsewhere(environment) is chosen


@pytest.mark.parametrize(
    ("library", "environment"), [("", {}), ("musl", {}), ("glibc", {"MALLOC_TRIM_THRESHOLD_": "0"})]
)
def test_keep_freed_memory_leaves_other_allocators_alone(monkeypatch, library, environment):
    monkeypatch.setattr(platform, "libc_ver", lambda: (library, ""))
    monkeypatch.setattr(memory.os, "environ", environment)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: pytest.fail("asked the allocator"))
    assert not memory.keep_freed_memory()
