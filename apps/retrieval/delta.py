"""Vectors that are in no segment yet: a flat array in memory that only grows, seen by readers through its length."""

from __future__ import annotations

import numpy as np

from farfield.apps.retrieval.exact import Chosen, Live, Rows, Vectors, scan


class Delta:
    """Rows [0, n) of shared arrays, with a mask of those that are live. What a reader holds never changes.

    Args:
        d: Width of a vector.
        since: Number of a vector in the store: those after it are here.
    """

    def __init__(self, d: int, since: int) -> None:
        self.d = d
        self.since = since
        self.n = 0
        self._vectors: Vectors = np.empty((64, d), np.float32)
        self._docs: Rows = np.empty(64, np.int64)
        self._windows: Rows = np.empty(64, np.int64)
        self._numbers: Rows = np.empty(64, np.int64)
        self.live: Live = np.empty(0, np.bool_)
        self._rising = True

    @property
    def vectors(self) -> Vectors:
        """(n, d)."""
        return self._vectors[: self.n]

    @property
    def docs(self) -> Rows:
        """(n,) document of each row."""
        return self._docs[: self.n]

    @property
    def windows(self) -> Rows:
        """(n,) window of each row."""
        return self._windows[: self.n]

    def grown(self, numbers: Rows, docs: Rows, windows: Rows, vectors: Vectors, dead: Rows) -> Delta:
        """The delta after a write: rows added, those of dead documents masked. Only the newest one may grow.

        Args:
            numbers: Of the new vectors in the store, rising.
        """
        new = Delta.__new__(Delta)
        new.d, new.since, new.n = self.d, self.since, self.n + len(docs)
        room = len(self._docs)
        new._vectors, new._docs, new._windows, new._numbers = self._vectors, self._docs, self._windows, self._numbers
        if new.n > room:
            room = max(new.n, 2 * room)
            new._vectors = np.empty((room, self.d), np.float32)
            new._docs, new._windows, new._numbers = (np.empty(room, np.int64) for _ in range(3))
            new._vectors[: self.n], new._docs[: self.n] = self.vectors, self.docs
            new._windows[: self.n], new._numbers[: self.n] = self.windows, self._numbers[: self.n]
        # A reader of the older one looks at rows below its own n only.
        new._vectors[self.n : new.n], new._docs[self.n : new.n] = vectors, docs
        new._windows[self.n : new.n], new._numbers[self.n : new.n] = windows, numbers
        new._rising = self._rising and bool((np.diff(docs, prepend=self.docs[-1:]) >= 0).all())
        new.live = np.concatenate([self.live, np.ones(len(docs), np.bool_)])
        if len(dead):
            new.live &= ~np.isin(new.docs, dead)
        return new

    def after(self, since: int) -> Delta:
        """Live rows of vectors after a number, in memory of their own: what a merge has left."""
        new = Delta(self.d, since)
        first = int(np.searchsorted(self._numbers[: self.n], since, "right"))
        rows = first + np.flatnonzero(self.live[first:])
        return new.grown(
            self._numbers[rows], self.docs[rows], self.windows[rows], self.vectors[rows], np.empty(0, np.int64)
        )

    def propose(self, queries: Vectors, k: int, live: Live | Chosen | None, share: float) -> Rows:
        """The k best live rows of each query."""
        return scan(self.vectors, queries, k, live=live)[1]

    def rows_of_one(self, doc: int) -> range:
        """Rows of a document, which were written together."""
        if self._rising:
            return range(*(int(at) for at in np.searchsorted(self.docs, (doc, doc + 1))))
        rows = np.flatnonzero(self.docs == doc)
        return range(int(rows[0]), int(rows[-1]) + 1) if len(rows) else range(0)

    def rows_of(self, docs: Rows) -> Rows:
        """Rows of documents, in rising order."""
        return np.flatnonzero(np.isin(self.docs, docs))
