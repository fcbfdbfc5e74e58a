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


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the allocator is not glibc's"
)
def test_freed_memory_is_kept_while_it_is_open_and_given_back_at_the_end():
    env = os.environ | {"PYTHONPATH": f"{ROOT / '.typing'}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", FAULTS], env=env, capture_output=True, text=True, check=True)
    kept, again = map(int, done.stdout.split())
    # Ten times 16 MB in pages of 4 KiB are 40,960 of them.
    assert kept < 400
    assert again > kept
