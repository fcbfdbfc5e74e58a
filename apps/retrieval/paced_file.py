"""A file that reaches the disk as it grows: one sync of all of it at the end would keep others' commits waiting."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Bytes between two syncs.
SYNCED = 2**24


class PacedFile:
    """A new file that arrays are appended to; a context manager.

    Args:
        path: Where.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._waiting = 0

    def __enter__(self) -> PacedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, data: NDArray[Any]) -> None:
        """Append the bytes of an array."""
        data = np.ascontiguousarray(data)
        self._file.write(data.data)
        self._waiting += data.nbytes
        if self._waiting >= SYNCED:
            self._file.flush()
            os.fdatasync(self._file.fileno())
            self._waiting = 0
