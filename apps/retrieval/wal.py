"""Damage in SQLite's write-ahead log, which SQLite itself passes over in silence.

SQLite reads a log up to the first frame whose checksum is wrong, as if the rest had never been written. After a crash
that is right: what follows is an unfinished transaction. A damaged byte in the middle looks the same and takes
acknowledged commits with it. A frame that marks a commit, of the same salt, behind a bad frame tells the two apart.
Source: the SQLite file format, section 4 (write-ahead log).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HEADER, FRAME_HEADER = 32, 24
MAGIC = {0x377F0682: "<u4", 0x377F0683: ">u4"}


def damaged_frame(path: Path) -> int | None:
    """Number of the first bad frame that has a commit behind it, 0 for the log's head; None for a sound log.

    Args:
        path: The -wal file; one that is absent or empty is sound.
    Complexity: O(bytes) time; memory is 64 MiB at a time.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return None
    if size < HEADER + FRAME_HEADER:
        return None
    with path.open("rb") as file:
        head = file.read(HEADER)
        words = np.frombuffer(head, ">u4")
        page = int(words[2])
        if int(words[0]) not in MAGIC or not 512 <= page <= 65536 or page & (page - 1):
            return 0
        order = MAGIC[int(words[0])]
        state = _advance(np.zeros(2, np.uint32), _pairs(np.frombuffer(head[:24], np.uint8)[None], order))[0]
        if not np.array_equal(state, words[6:8].astype(np.uint32)):
            return 0
        bad: int | None = None
        number = 0
        chunk = max(1, 2**26 // (page + FRAME_HEADER))
        while data := file.read(chunk * (page + FRAME_HEADER)):
            count = len(data) // (page + FRAME_HEADER)
            frames = np.frombuffer(data, np.uint8, count * (page + FRAME_HEADER)).reshape(count, -1)
            heads = np.ascontiguousarray(frames[:, :FRAME_HEADER]).view(">u4")
            same = (heads[:, 2] == words[4]) & (heads[:, 3] == words[5])
            commit = heads[:, 1] != 0
            if bad is None:
                covered = np.concatenate([frames[:, :8], frames[:, FRAME_HEADER:]], axis=1)
                states = _advance(state, _pairs(covered, order))
                good = same & (states == heads[:, 4:6]).all(axis=1)
                state = states[-1]
                if not good.all():
                    first = int(np.argmin(good))
                    bad = number + first + 1
                    same[: first + 1], commit[:first] = same[: first + 1] & False, False
                    # The bad frame itself counts when its head still says that it ends a transaction.
                    if _ours(heads[first], words) and commit[first]:
                        return bad
            if bad is not None and bool((same & commit).any()):
                return bad
            number += count
        return None


def _ours(head: NDArray[np.uint32], words: NDArray[np.uint32]) -> bool:
    return bool(head[2] == words[4] and head[3] == words[5])


def _pairs(data: NDArray[np.uint8], order: str) -> NDArray[np.uint32]:
    """(frames, pairs, 2) words of each row of bytes."""
    return np.ascontiguousarray(data).view(order).astype(np.uint32).reshape(len(data), -1, 2)


def _advance(state: NDArray[np.uint32], pairs: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Checksum after each row. One pair (x, y) is s' = A s + (x, x + y) with A = [[1, 1], [1, 2]], modulo 2^32."""
    count = pairs.shape[1]
    weights = np.empty((count, 2, 2), np.uint32)
    power = np.eye(2, dtype=np.uint32)
    step = np.array([[1, 1], [1, 2]], np.uint32)
    for i in range(count - 1, -1, -1):
        weights[i] = power
        power = (step @ power).astype(np.uint32)
    x, y = pairs[:, :, 0], pairs[:, :, 0] + pairs[:, :, 1]
    sums = [(x * weights[:, i, 0] + y * weights[:, i, 1]).sum(axis=1, dtype=np.uint32) for i in (0, 1)]
    states = np.empty((len(pairs), 2), np.uint32)
    for row, given in enumerate(zip(*sums, strict=True)):
        state = (power @ state).astype(np.uint32) + np.array(given, np.uint32)
        states[row] = state
    return states
