"""What lists are made of: the directions that hold most of some vectors, and centres among them.

Shapes: n vectors, d width, r reduced width, c centres.
"""

from __future__ import annotations

import numpy as np

from farfield.apps.retrieval.exact import Rows, Vectors

BLOCK = 8192
# Products that are held at once, and the fewest rows that make them.
PRODUCTS, LEAST_ROWS = 2**22, 256
# Rounds of k-means; later ones move few vectors.
ROUNDS = 8
# Share of the squared length that reduced vectors keep, the step of their width and its bounds.
KEPT, STEP, LEAST, MOST = 0.85, 32, 64, 256


def reduction(sample: Vectors, seed: int) -> Vectors:
    """The first principal directions, turned at random so that all reduced numbers vary alike.

    Args:
        sample: (n, d).
    Returns: (d, r) with orthonormal columns; r keeps at least KEPT of the squared length where MOST allows.
    Complexity: O(n d^2 + d^3).
    """
    d = sample.shape[1]
    values, directions = np.linalg.eigh((sample.T @ sample).astype(np.float64))
    kept = np.cumsum(values[::-1]) / max(float(values.sum()), 1e-30)
    wanted = int(np.searchsorted(kept, KEPT)) + 1
    r = min(max(LEAST, -(-wanted // STEP) * STEP), MOST, d)
    turn, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((r, r)))
    return np.ascontiguousarray(directions[:, ::-1][:, :r] @ turn, np.float32)


def centres(sample: Vectors, c: int, seed: int) -> Vectors:
    """Directions of unit length by k-means: each vector counts for the one that it has the largest product with.

    Args:
        sample: (n, d), n >= c.
        c: How many.
    Returns: (c, d). One that nothing belongs to becomes a vector of the sample.
    Complexity: O(n c d) a round.
    """
    rng = np.random.default_rng(seed)
    made = _unit(sample[np.sort(rng.choice(len(sample), c, replace=False))])
    for _ in range(ROUNDS):
        sums, counts = np.zeros_like(made), np.zeros(c, np.int64)
        for begin in range(0, len(sample), BLOCK):
            block = sample[begin : begin + BLOCK]
            own = nearest(block, made)
            order = np.argsort(own, kind="stable")
            taken, starts, times = np.unique(own[order], return_index=True, return_counts=True)
            sums[taken] += np.add.reduceat(block[order], starts, axis=0)
            counts[taken] += times
        empty = np.flatnonzero(counts == 0)
        sums[empty] = sample[rng.choice(len(sample), len(empty))]
        made = _unit(sums)
    return made


def nearest(vectors: Vectors, made: Vectors) -> Rows:
    """The centre (n,) of the largest product with each vector."""
    step = max(LEAST_ROWS, min(BLOCK, PRODUCTS // len(made)))
    blocks = [np.argmax(vectors[at : at + step] @ made.T, axis=1) for at in range(0, len(vectors), step)]
    return np.concatenate(blocks) if blocks else np.empty(0, np.int64)


def _unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9), np.float32)
