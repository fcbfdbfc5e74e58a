"""The lists of an IVF index in a file that is mapped, written some at a time: never are all of them in memory.

The file: the codes of each list, then its rows as int64, both filled up to whole blocks; at its end a table (c, 3) of
uint64: rows of a list, rows with those that fill up, and where it begins. FAISS looks into it by OnDiskInvertedLists.
Shapes: n rows, c lists, w bytes of a code.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farfield.apps.retrieval.exact import Rows
from farfield.apps.retrieval.paced_file import PacedFile

# Its stubs know another interface than its Python module has.
faiss: Any = import_module("faiss")
Codes = NDArray[np.uint8]
# Codes [begin, end) of the rows in their order.
Read = Callable[[int, int], Codes]
# Rows of a block of FAISS's fast scan, and the order of half of them in it.
FAST = 32
ORDER = np.arange(16).reshape(2, 8).T.ravel()
# Bytes of codes that are in memory at once, unless this many looks at all of them are too few.
AT_ONCE, LOOKS = 2**20, 16


def write(path: Path, read: Read, own: NDArray[np.int32], c: int, w: int, *, fast: bool) -> None:
    """Write the lists of an index.

    Args:
        path: File to write.
        read: Codes (end - begin, w) of rows.
        own: (n,) the list of each row.
        c: How many lists.
        w: Bytes of a code.
        fast: Codes of 4 bits lie as the fast scan reads them; otherwise one after another.
    Complexity: O(LOOKS n w) bytes are read, O(n) and max(AT_ONCE, n w / LOOKS) bytes are in memory.
    """
    block = FAST if fast else 1
    sizes = np.bincount(own, minlength=c)
    rooms = -(-sizes // block) * block
    begins = np.cumsum(rooms * (w + 8)) - rooms * (w + 8)
    at_once = max(AT_ONCE, len(own) * w // LOOKS) // w
    ends = np.cumsum(sizes)
    with PacedFile(path) as file:
        first = 0
        while first < c:
            before = int(ends[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(ends, before + at_once, "right")))
            rows, codes = _gathered(read, own, first, last, w)
            for one in range(first, last):
                mine = slice(int(ends[one] - sizes[one]) - before, int(ends[one]) - before)
                ids = np.zeros(rooms[one], np.int64)
                ids[: sizes[one]] = rows[mine]
                file.write(fast_blocks(codes[mine]) if fast else codes[mine])
                file.write(ids)
            first = last
        file.write(np.stack([sizes, rooms, begins], axis=1).astype(np.uint64))


def attach(index: Any, path: Path) -> None:
    """Give an IVF index, which has none, the lists of a file; they stay on disk until a search reads them."""
    end = path.stat().st_size
    table = np.fromfile(path, np.uint64, offset=end - 24 * index.nlist)
    lists = faiss.OnDiskInvertedLists(index.nlist, index.code_size, str(path))
    lists.read_only, lists.totsize = True, end
    faiss.memcpy(lists.lists.data(), faiss.swig_ptr(table), table.nbytes)
    lists.do_mmap()
    # Threads that read ahead cost more than a search that finds its lists in memory.
    lists.prefetch_nthread = 0
    index.replace_invlists(lists, True)
    lists.this.disown()


def fast_blocks(codes: Codes) -> Codes:
    """Codes (n, w) of 4 bits in the blocks of FAISS's fast scan: of each byte of 32 rows first the lower halves, then
    the upper ones, rows 16 apart in one byte."""
    n, w = codes.shape
    room = -(-n // FAST) * FAST
    filled = np.zeros((room, w), np.uint8)
    filled[:n] = codes
    columns = filled.reshape(-1, 2, 16, w)[:, :, ORDER].transpose(0, 3, 1, 2)
    low, high = columns & 15, columns >> 4
    halves = np.stack([low[:, :, 0] | low[:, :, 1] << 4, high[:, :, 0] | high[:, :, 1] << 4], axis=2)
    return np.ascontiguousarray(halves).reshape(room, w)


def _gathered(read: Read, own: NDArray[np.int32], first: int, last: int, w: int) -> tuple[Rows, Codes]:
    """Rows of some lists and their codes, list after list, in each by row."""
    rows: list[Rows] = []
    codes: list[Codes] = []
    step = max(1, AT_ONCE // w)
    for begin in range(0, len(own), step):
        mine = own[begin : begin + step]
        inside = np.flatnonzero((mine >= first) & (mine < last))
        if len(inside):
            rows.append(begin + inside)
            codes.append(read(begin, min(begin + step, len(own)))[inside])
    if not rows:
        return np.empty(0, np.int64), np.empty((0, w), np.uint8)
    every = np.concatenate(rows)
    order = np.argsort(own[every], kind="stable")
    return every[order], np.concatenate(codes)[order]
