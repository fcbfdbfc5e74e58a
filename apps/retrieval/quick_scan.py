"""Exact search that reads a byte for each number: a rough scan proposes, a bound of its error proves the answer.

Shapes: n vectors, m queries, d width, k results.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from farfield.apps.retrieval.ann import one_thread
from farfield.apps.retrieval.exact import Chosen, Live, Rows, Vectors, at_once, padded, scan
from farfield.apps.retrieval.paced_file import PacedFile
from farfield.apps.retrieval.stored_rows import StoredRows

# Its stubs know another interface than its Python module has.
faiss: Any = import_module("faiss")
Bounds = dict[str, float]
# Below this many numbers a product of all is as quick.
SMALL = 2**20
# From this many queries on one matrix product of all is as quick.
MANY = 8
# Proposals beyond k of the first and the second try.
SPARE = (48, 1024)
# Roundings of sums of d products in single precision, far above what they are for unit vectors of d to 4,096.
ROUNDING = 1e-5


class QuickScan:
    """The k best rows of each query, the same that `scan` finds, from vectors and their copy in bytes.

    With x' = round(s x) / s and q' alike, |q.x - q'.x'| <= |q - q'| |x| + |q'| |x - x'|. The exact k-th score of the
    proposals has to exceed the last rough score by that bound: no other row can be among the k best then. Where it does
    not, more are proposed, in the end all.

    Args:
        vectors: (n, d), at most of unit length.
        file: Their copy in bytes, which is mapped; None makes it in memory.
        bounds: What `build` returned with that file.
    """

    def __init__(self, vectors: Vectors, file: Path | None = None, bounds: Bounds | None = None) -> None:
        self._vectors = vectors
        self._codes: Any = None
        if file is not None and bounds is not None:
            self._codes = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)
        elif vectors.size >= SMALL:
            self._codes = _empty(vectors.shape[1])
            bounds = _rounded(vectors, lambda rough: self._codes.add(rough.astype(np.float32)))
        if bounds is not None:
            self._scale, self._length, self._error = bounds["scale"], bounds["length"], bounds["error"]

    def __call__(self, queries: Vectors, k: int, live: Live | Chosen | None = None) -> Rows:
        """Rows (m, k), best first, equal scores by row; -1 where there is no more."""
        chosen = Chosen(live) if isinstance(live, np.ndarray) else live
        if self._codes is None or len(queries) >= MANY:
            return scan(self._vectors, queries, k, live=chosen)[1]
        found = [self._one(query, k, chosen) for query in queries]
        return np.stack(found) if found else np.empty((0, k), np.int64)

    def _one(self, query: Vectors, k: int, chosen: Chosen | None) -> Rows:
        scale = 127.0 / max(float(np.abs(query).max()), 1e-9)
        rough = np.rint(query * scale).astype(np.float32)
        error = _longest(query - rough / scale) * self._length + _longest(rough / scale) * self._error + ROUNDING
        params = None
        if chosen is not None:
            selector = faiss.IDSelectorBitmap(chosen.bits)
            params = faiss.SearchParameters(sel=selector)
        for spare in SPARE:
            with one_thread():
                scores, rows = self._codes.search(rough[None], min(k + spare, self._codes.ntotal), params=params)
            mine = rows[0][rows[0] >= 0]
            exact = np.einsum("nd,d->n", self._vectors[mine], query)
            order = np.lexsort((mine, -exact))[:k]
            complete = len(mine) < rows.shape[1] or rows.shape[1] == self._codes.ntotal
            last = float(scores[0, -1]) / (scale * self._scale)
            if complete or (len(order) == k and exact[order[-1]] > last + error):
                found: Rows = padded(exact[order][None], mine[order][None], k)[1][0]
                return found
        found = scan(self._vectors, query[None], k, live=chosen)[1][0]
        return found


def build(vectors: StoredRows, path: Path) -> Bounds | None:
    """Write the copy in bytes of vectors, some at a time, as FAISS writes it; None where they are too few for one."""
    n, d = vectors.shape
    if n * d < SMALL:
        return None
    head = faiss.serialize_index(_empty(d)).tobytes()
    with PacedFile(path) as file:
        # The number of rows stands behind name and width, that of bytes at the end of an empty index.
        head = head[:8] + struct.pack("<Q", n) + head[16:-8] + struct.pack("<Q", n * d)
        file.write(np.frombuffer(head, np.uint8))
        return _rounded(vectors, lambda rough: file.write((rough + 128).astype(np.uint8)))


def _empty(d: int) -> Any:
    return faiss.IndexScalarQuantizer(d, faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT)


def _rounded(vectors: Vectors | StoredRows, add: Callable[[Vectors], None]) -> Bounds:
    """Hand rows on as whole numbers of a byte; returns their scale, the largest length of a row and of its error."""
    n, d = vectors.shape
    step = at_once(d)
    largest = max(float(np.abs(vectors[begin : begin + step]).max()) for begin in range(0, n, step))
    scale = 127.0 / max(largest, 1e-9)
    length = error = 0.0
    for begin in range(0, n, step):
        block = np.asarray(vectors[begin : begin + step], np.float32)
        rough = np.rint(block * scale)
        add(rough)
        length = max(length, _longest(block))
        error = max(error, _longest(block - rough / scale))
    return {"scale": scale, "length": length, "error": error}


def _longest(vectors: Vectors) -> float:
    """The largest length of a row, or the length of a vector."""
    return float(np.linalg.norm(vectors.astype(np.float64), axis=-1).max())
