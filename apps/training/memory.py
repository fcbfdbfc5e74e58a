"""Memory that a step of training, or a request, frees stays with the process for the next one."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Numbers of mallopt's parameters in glibc.
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
# The largest threshold that glibc takes: tensors up to it come from the heap.
LARGEST = 32 << 20
# Freed memory that stays mapped while training, and at other times.
WHILE, AFTER = 1 << 30, 2 * LARGEST


@contextmanager
def kept_memory(*, one_heap: bool = False) -> Iterator[None]:
    """glibc hands large freed tensors back to the system, and every step pays for 40,000 page faults to get them again.

    While this is open they stay; at its end they go. Without glibc nothing happens.

    Args:
        one_heap: Threads that start from now on share the heap of the first one, for good: heaps of their own are given
            back in pieces of 64 MB whatever is kept.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "malloc_trim"):
        yield
        return
    if one_heap:
        libc.mallopt(ARENA_MAX, 1)
    libc.mallopt(MMAP_THRESHOLD, LARGEST)
    libc.mallopt(TRIM_THRESHOLD, WHILE)
    try:
        yield
    finally:
        libc.mallopt(TRIM_THRESHOLD, AFTER)
        libc.malloc_trim(0)
