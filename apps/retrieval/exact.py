"""Inner products with every vector, best first: what all kinds are measured by.

Shapes: n vectors, m queries, d width, k results.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from farfield.apps.retrieval.stored_rows import StoredRows

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]
Live = NDArray[np.bool_]
# Vectors, scores and numbers read from a file that are held at once.
BLOCK, SCORES, NUMBERS = 16_384, 2**17, 2**18
# Queries up to which products are summed in the caller's thread: those of BLAS wait for each other where threads share
# it, also for a merge in the background.
FEW = 4


@dataclass(frozen=True)
class Chosen:
    """Rows that may be found, and what is computed of them once.

    Args:
        mask: (n,).
    """

    mask: Live

    @cached_property
    def count(self) -> int:
        """How many there are."""
        return int(np.count_nonzero(self.mask))

    @cached_property
    def bits(self) -> NDArray[np.uint8]:
        """The mask, a bit a row, lowest first."""
        return np.packbits(self.mask, bitorder="little")

    @cached_property
    def rows(self) -> Rows:
        """Their numbers, rising."""
        return np.flatnonzero(self.mask)


def scan(
    vectors: Vectors | StoredRows,
    queries: Vectors,
    k: int,
    *,
    live: Live | Chosen | None = None,
    rows: Rows | None = None,
) -> tuple[Vectors, Rows]:
    """The k best rows of each query.

    Args:
        vectors: (n, d), in memory, mapped from a file or in one.
        queries: (m, d).
        k: Results; fewer exist where n or the selection is smaller.
        live: (n,) rows that may be found; None is all.
        rows: Only these, in rising order; None is all.
    Returns: Scores and rows (m, k), best first, equal scores by row; row -1 and score -inf where there is no more.
    Complexity: O(m n d) time, O(BLOCK + SCORES + m k) memory beside the vectors.
    """
    live = live.mask if isinstance(live, Chosen) else live
    if rows is not None and live is not None:
        rows = rows[live[rows]]
    total = len(vectors) if rows is None else len(rows)
    scores = np.full((len(queries), 0), -np.inf, np.float32)
    found = np.full((len(queries), 0), -1, np.int64)
    step = max(1, min(BLOCK, max(k, SCORES // max(len(queries), 1))))
    if not isinstance(vectors, np.ndarray):
        step = min(step, at_once(vectors.shape[1]))
    for begin in range(0, total, step):
        end = min(begin + step, total)
        at = np.arange(begin, end) if rows is None else rows[begin:end]
        block = vectors[begin:end] if rows is None else vectors[at]
        new = products(np.asarray(block), queries)
        if live is not None and rows is None:
            new[:, ~live[begin:end]] = -np.inf
        scores, found = best(
            np.concatenate([scores, new], axis=1),
            np.concatenate([found, np.broadcast_to(at, new.shape)], axis=1),
            k,
        )
    return padded(scores, found, k)


def at_once(d: int) -> int:
    """Rows of width d that are read from a file at once."""
    return max(1, NUMBERS // d)


def products(vectors: Vectors, queries: Vectors) -> Vectors:
    """Inner products (m, n)."""
    if 0 < len(queries) <= FEW:
        return np.stack([np.einsum("nd,d->n", vectors, query) for query in queries])
    return np.asarray(queries @ vectors.T)


def best(scores: Vectors, rows: Rows, k: int) -> tuple[Vectors, Rows]:
    """The k best columns of each line in order; equal scores by row number."""
    if scores.shape[1] > 4 * k:
        at = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        scores, rows = np.take_along_axis(scores, at, 1), np.take_along_axis(rows, at, 1)
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    scores, rows = np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
    return scores, np.where(np.isneginf(scores), -1, rows)


def padded(scores: Vectors, rows: Rows, k: int) -> tuple[Vectors, Rows]:
    """As many columns as k; what is missing is row -1, score -inf."""
    short = k - scores.shape[1]
    if short <= 0:
        return scores, rows
    return (
        np.pad(scores, ((0, 0), (0, short)), constant_values=-np.inf),
        np.pad(rows, ((0, 0), (0, short)), constant_values=-1),
    )


class DeviceScan:
    """`scan` by torch with the vectors on a GPU, where faiss-gpu is absent.

    Args:
        vectors: (n, d); copied to the device once.
        device: Name of a torch device.
    """

    def __init__(self, vectors: Vectors, device: str) -> None:
        import torch

        self._torch: Any = torch
        self._vectors = torch.empty(vectors.shape, dtype=torch.float32, device=device)
        for begin in range(0, len(vectors), BLOCK):
            block = torch.from_numpy(np.array(vectors[begin : begin + BLOCK]))
            self._vectors[begin : begin + len(block)] = block

    def __call__(self, queries: Vectors, k: int, live: Live | Chosen | None = None) -> tuple[Vectors, Rows]:
        """The k best rows of each query; fp32 without TF32."""
        torch = self._torch
        live = live.mask if isinstance(live, Chosen) else live
        device = self._vectors.device
        scores = torch.from_numpy(np.ascontiguousarray(queries)).to(device) @ self._vectors.T
        if live is not None:
            scores.masked_fill_(~torch.from_numpy(live).to(device), -torch.inf)
        top, rows = scores.topk(min(k, scores.shape[1]), dim=1)
        found = torch.where(top.isneginf(), -1, rows)
        return padded(top.cpu().numpy(), found.cpu().numpy(), k)
