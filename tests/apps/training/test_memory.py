"""What is freed is not asked of the system again, on glibc; elsewhere nothing happens."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

FAULTS = """
import resource
from farfield.apps.training.memory import kept_memory

SIZE = 16 << 20

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        b"1" * SIZE
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with kept_memory():
    b"1" * SIZE
    print(faults())
    held = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
# What was kept has gone: it is asked for again.
b"1" * SIZE
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - held)
"""


# Each thread frees more than a heap of its own would hold.
THREAD = """
import resource, threading
from farfield.apps.training.memory import kept_memory

def rounds():
    for _ in range(10):
        blocks = [b"1" * (16 << 20) for _ in range(6)]
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

faults = []
with kept_memory(one_heap=True):
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        thread = threading.Thread(target=rounds)
        thread.start()
        thread.join()
print(*faults)
"""
glibc = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the allocator is not glibc's"
)


def printed(program: str) -> list[int]:
    env = os.environ | {"PYTHONPATH": f"{ROOT / '.typing'}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    return [int(number) for number in done.stdout.split()]


@glibc
def test_freed_memory_is_kept_while_it_is_open_and_given_back_at_the_end():
    kept, again = printed(FAULTS)
    # Ten times 16 MB in pages of 4 KiB are 40,960 of them.
    assert kept < 400
    assert again > kept


@glibc
def test_threads_share_what_is_kept():
    first, second = printed(THREAD)
    # Six times 16 MB in pages of 4 KiB are 24,576; two of the ten rounds are there at once.
    assert first < 3 * 24_576
    assert second < 400
