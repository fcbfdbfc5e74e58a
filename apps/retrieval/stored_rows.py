"""Rows of a matrix in a file, read when they are asked for: what builds an index over them holds a block at a time."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from farfield.apps.retrieval.exact import Rows, Vectors


class StoredRows:
    """A float32 matrix (n, d) in a file, of which slices and single rows are read into memory.

    Args:
        path: The file, row after row.
        d: Width of a row.
    """

    def __init__(self, path: Path, d: int) -> None:
        self._file = os.open(path, os.O_RDONLY)
        self._row = 4 * d
        self.shape = (os.fstat(self._file).st_size // self._row, d)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Rows) -> Vectors:
        """Rows [begin, end), or those of a vector of numbers in its order."""
        if isinstance(rows, slice):
            begin, end, _ = rows.indices(len(self))
            return self._read(begin, end)
        made = np.empty((len(rows), self.shape[1]), np.float32)
        for one, row in zip(made, rows.tolist(), strict=True):
            one[:] = self._read(row, row + 1)
        return made

    def _read(self, begin: int, end: int) -> Vectors:
        raw = os.pread(self._file, (end - begin) * self._row, begin * self._row)
        return np.frombuffer(raw, np.float32).reshape(-1, self.shape[1])
