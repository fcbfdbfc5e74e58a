"""Memory of large results."""

import ctypes
import sys

from torch import Tensor

# From here on ask for 2 MB pages: the first touch of 4 KB pages can cost as much as the computation.
HUGE_BYTES = 1 << 22
MADV_HUGEPAGE = 14


def on_huge_pages(y: Tensor) -> Tensor:
    """Ask Linux for 2 MB pages under a large new CPU tensor; returns it."""
    if y.device.type == "cpu" and sys.platform == "linux" and y.nbytes >= HUGE_BYTES:
        first = -(-y.data_ptr() // 4096) * 4096
        last = (y.data_ptr() + y.nbytes) // 4096 * 4096
        # Advice only: a kernel that refuses it leaves ordinary pages.
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), MADV_HUGEPAGE)
    return y
