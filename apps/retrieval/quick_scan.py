"""Exact search that reads a byte for each number: a rough scan proposes, a bound of its error proves the answer.

Shapes: n vectors, m queries, d width, k results.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from farfield.apps.retrieval.ann import one_thread
from farfield.apps.retrieval.exact import Chosen, Live, Rows, Vectors, padded, scan

# Its stubs know another interface than its Python module has.
faiss: Any = import_module("faiss")
BLOCK = 1024
# Below this many numbers a product of all is as quick.
SMALL = 2**20
# From this many queries on one matrix product of all is as quick.
MANY = 8
# Proposals beyond k of the first and the second try.
SPARE = (64, 1024)
# Roundings of sums of d products in single precision, far above what they are for unit vectors of d to 4,096.
ROUNDING = 1e-5


class QuickScan:
    """The k best rows of each query, the same that `scan` finds, from vectors and their copy in bytes.

    With x' = round(s x) / s and q' alike, |q.x - q'.x'| <= |q - q'| |x| + |q'| |x - x'|. The exact k-th score of the
    proposals has to exceed the last rough score by that bound: no other row can be among the k best then. Where it does
    not, more are proposed, in the end all.

    Args:
        vectors: (n, d), at most of unit length.
    """

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors
        n, d = vectors.shape
        self._codes: Any = None
        if n * d < SMALL:
            return
        largest = max(float(np.abs(vectors[begin : begin + BLOCK]).max()) for begin in range(0, n, BLOCK))
        self._scale = 127.0 / max(largest, 1e-9)
        self._length = self._error = 0.0
        self._codes = faiss.IndexScalarQuantizer(
            d, faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT
        )
        for begin in range(0, n, BLOCK):
            block = np.asarray(vectors[begin : begin + BLOCK], np.float32)
            rough = np.rint(block * self._scale).astype(np.float32)
            self._codes.add(rough)
            self._length = max(self._length, _longest(block))
            self._error = max(self._error, _longest(block - rough / self._scale))

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


def _longest(vectors: Vectors) -> float:
    """The largest length of a row, or the length of a vector."""
    return float(np.linalg.norm(vectors.astype(np.float64), axis=-1).max())
