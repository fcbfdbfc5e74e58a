"""What lists are made of: the directions that hold most of some vectors, and centres among them.

Shapes: n vectors, d width, r reduced width, c centres.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from farfield.apps.retrieval.exact import Rows, Vectors, at_once
from farfield.apps.retrieval.stored_rows import StoredRows

# Products that are held at once, and the fewest rows that make them.
PRODUCTS, LEAST_ROWS = 2**18, 256
# Rounds of k-means; later ones move few vectors.
ROUNDS = 8
# Share of the squared length that reduced vectors keep, the step of their width and its bounds.
KEPT, STEP, LEAST, MOST = 0.85, 32, 64, 256


def reduction(blocks: Iterable[Vectors], d: int, seed: int) -> Vectors:
    """The first principal directions, turned at random so that all reduced numbers vary alike.

    Args:
        blocks: Vectors (n, d), some at a time.
    Returns: (d, r) with orthonormal columns; r keeps at least KEPT of the squared length where MOST allows.
    Complexity: O(n d^2 + d^3) time, O(d^2) memory beside a block.
    """
    moments = np.zeros((d, d))
    for block in blocks:
        moments += block.T @ block
    values, directions = np.linalg.eigh(moments)
    kept = np.cumsum(values[::-1]) / max(float(values.sum()), 1e-30)
    wanted = int(np.searchsorted(kept, KEPT)) + 1
    r = min(max(LEAST, -(-wanted // STEP) * STEP), MOST, d)
    turn, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((r, r)))
    return np.ascontiguousarray(directions[:, ::-1][:, :r] @ turn, np.float32)


def centres(sample: Vectors | StoredRows, c: int, seed: int, between: Callable[[], None] | None = None) -> Vectors:
    """Directions of unit length by k-means: each vector counts for the one that it has the largest product with.

    Args:
        sample: (n, d), n >= c; in a file, some of it is read at a time.
        c: How many.
        between: Called after each block.
    Returns: (c, d). One that nothing belongs to becomes a vector of the sample.
    Complexity: O(n c d) a round.
    """
    step = at_once(sample.shape[1])
    rng = np.random.default_rng(seed)
    made = _unit(sample[np.sort(rng.choice(len(sample), c, replace=False))])
    for _ in range(ROUNDS):
        sums, counts = np.zeros_like(made), np.zeros(c, np.int64)
        for begin in range(0, len(sample), step):
            block = sample[begin : begin + step]
            own = nearest(block, made)
            order = np.argsort(own, kind="stable")
            taken, starts, times = np.unique(own[order], return_index=True, return_counts=True)
            sums[taken] += np.add.reduceat(block[order], starts, axis=0)
            counts[taken] += times
            if between is not None:
                between()
        empty = np.flatnonzero(counts == 0)
        sums[empty] = sample[rng.choice(len(sample), len(empty))]
        made = _unit(sums)
    return made


def nearest(vectors: Vectors, made: Vectors) -> Rows:
    """The centre (n,) of the largest product with each vector."""
    step = max(LEAST_ROWS, PRODUCTS // len(made))
    products = np.empty((min(step, len(vectors)), len(made)), np.float32)
    own = np.empty(len(vectors), np.int64)
    for begin in range(0, len(vectors), step):
        block = vectors[begin : begin + step]
        np.matmul(block, made.T, out=products[: len(block)])
        np.argmax(products[: len(block)], axis=1, out=own[begin : begin + step])
    return own


def _unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9), np.float32)
