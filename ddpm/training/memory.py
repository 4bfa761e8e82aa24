"""Freed memory that a process keeps for its next allocation, where the C library would give it back each time.

glibc gives back what is free at its heap's end beyond twice the largest block that it has seen freed, so that the
outputs of large layers may be faulted in anew in every call, page by page. Larger batches pay more for it.
"""

import ctypes
import os
import platform
from collections.abc import Mapping

# mallopt's numbers, of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The most that glibc takes on a 64-bit system: larger blocks go on coming from the system.
_LARGEST_BLOCK = 32 * 2**20
# Bytes free at the heap's end beyond which it shrinks.
_KEPT = 256 * 2**20


def chosen_elsewhere(environment: Mapping[str, str]) -> bool:
    """Whether the user has told the allocator what to do, or taken another one."""
    own = any(name.startswith("MALLOC_") for name in environment)
    return (
        own
        or "malloc" in environment.get("GLIBC_TUNABLES", "")
        or "malloc" in environment.get("LD_PRELOAD", "")
    )


def keep_freed_memory() -> bool:
    """Let this process keep up to 256 MiB of freed memory, and say whether that was done.

    It is done for glibc alone, and not where the environment says something else. It lasts as long as the process.
    """
    if platform.libc_ver()[0] != "glibc" or chosen_elsewhere(os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT))
