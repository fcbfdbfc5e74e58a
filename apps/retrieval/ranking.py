"""Rankings of all documents of a task by each way of search: the rows of the evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from farfield.apps.retrieval.bm25 import BM25
from farfield.apps.retrieval.encoder import Encoding, Vectors
from farfield.apps.retrieval.metrics import fuse

# Places of a ranking that are kept: those that metrics and fusion see.
DEPTH = 100
QUERIES_AT_ONCE = 256

# Numbers of documents, best first.
Ranking = list[int]


def top(scores: NDArray[np.floating], depth: int = DEPTH, above: float | None = None) -> Ranking:
    """Numbers of the best scores, best first; equal scores keep their order.

    Args:
        scores: Of all documents (n,).
        depth: How many at most.
        above: Leave out scores up to this one; None leaves out none.
    Returns: Numbers of documents.
    """
    order = np.argsort(-scores, kind="stable")[:depth]
    return [int(i) for i in order if above is None or scores[i] > above]


def by_words(queries: Sequence[str], texts: Sequence[str], *, k1: float, b: float, first: int | None) -> list[Ranking]:
    """BM25 of the texts, or of their first characters; a document that shares no word is in no ranking."""
    model = BM25((t[:first] for t in texts), k1=k1, b=b)
    return [top(model.scores(q), above=0.0) for q in queries]


def by_best_window(queries: Vectors, documents: Sequence[Encoding]) -> list[Ranking]:
    """Cosine with the nearest window of a document (chunk-max).

    Complexity: O(queries x windows x d); memory O(QUERIES_AT_ONCE x windows).
    """
    windows = np.concatenate([e.windows for e in documents])
    starts = np.cumsum([0, *(len(e.windows) for e in documents[:-1])])
    return _cosines(queries, windows, starts)


def by_any_vector(queries: Vectors, documents: Sequence[Encoding]) -> list[Ranking]:
    """Cosine with the nearest of a document's windows and its whole vector: what search does unless told otherwise.

    Complexity: as of `by_best_window`.
    """
    vectors = np.concatenate([np.concatenate([e.windows, e.whole[None]]) for e in documents])
    starts = np.cumsum([0, *(len(e.windows) + 1 for e in documents[:-1])])
    return _cosines(queries, vectors, starts)


def by_first_window(queries: Vectors, documents: Sequence[Encoding]) -> list[Ranking]:
    """Cosine with the first window: what an encoder that truncates sees."""
    return _cosines(queries, np.stack([e.windows[0] for e in documents]))


def by_whole(queries: Vectors, documents: Sequence[Encoding]) -> list[Ranking]:
    """Cosine with the one vector of the whole document."""
    return _cosines(queries, np.stack([e.whole for e in documents]))


def hybrid(words: Sequence[Ranking], dense: Sequence[Ranking], k: float, weights: Sequence[float]) -> list[Ranking]:
    """Reciprocal rank fusion of two rankings a query."""
    return [[i for i, _ in fuse(pair, k, weights)][:DEPTH] for pair in zip(words, dense, strict=True)]


def _cosines(queries: Vectors, vectors: Vectors, starts: NDArray[np.int64] | None = None) -> list[Ranking]:
    found: list[Ranking] = []
    for at in range(0, len(queries), QUERIES_AT_ONCE):
        scores = queries[at : at + QUERIES_AT_ONCE] @ vectors.T
        if starts is not None:
            scores = np.maximum.reduceat(scores, starts, axis=1)
        found += [top(row) for row in scores]
    return found
