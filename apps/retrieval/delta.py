"""Vectors that are in no segment yet: a flat array in memory that only grows, seen by readers through its length."""

from __future__ import annotations

from copy import copy

import numpy as np

from farfield.apps.retrieval.exact import Chosen, Live, Rows, Vectors, scan

# Bytes of vectors that there is room for at first; those without vectors cost nothing, as the system gives memory
# when it is written to.
ROOM = 2**25


class Delta:
    """Rows [begin, end) of shared arrays, with a mask of those that are live. What a reader holds never changes.

    Args:
        d: Width of a vector.
        since: Number of a vector in the store: those after it are here.
        room: Rows that fit before the arrays are made anew.
    """

    def __init__(self, d: int, since: int, room: int = 0) -> None:
        self.d = d
        self.since = since
        self._begin = self._end = 0
        room = room or max(64, ROOM // (4 * d))
        self._vectors: Vectors = np.empty((room, d), np.float32)
        self._docs, self._windows, self._numbers = (np.empty(room, np.int64) for _ in range(3))
        self.live: Live = np.empty(0, np.bool_)
        self._rising = True

    @property
    def n(self) -> int:
        """Rows."""
        return self._end - self._begin

    @property
    def vectors(self) -> Vectors:
        """(n, d)."""
        return self._vectors[self._begin : self._end]

    @property
    def docs(self) -> Rows:
        """(n,) document of each row."""
        return self._docs[self._begin : self._end]

    @property
    def windows(self) -> Rows:
        """(n,) window of each row."""
        return self._windows[self._begin : self._end]

    @property
    def numbers(self) -> Rows:
        """(n,) number of each row in the store, rising."""
        return self._numbers[self._begin : self._end]

    def grown(self, numbers: Rows, docs: Rows, windows: Rows, vectors: Vectors, dead: Rows) -> Delta:
        """The delta after a write: rows added, those of dead documents masked. Only the newest one may grow.

        Args:
            numbers: Of the new vectors in the store, rising.
        """
        new = self if self._end + len(docs) <= len(self._docs) else self._copy(2 * (self.n + len(docs)))
        # A reader of the older one looks at rows before its own end only.
        new = new._part(new._begin, new._end + len(docs))
        new.vectors[self.n :], new.docs[self.n :] = vectors, docs
        new.windows[self.n :], new.numbers[self.n :] = windows, numbers
        new._rising = self._rising and bool((np.diff(docs, prepend=self.docs[-1:]) >= 0).all())
        new.live = np.concatenate([self.live, np.ones(len(docs), np.bool_)])
        if len(dead):
            new.live &= ~np.isin(new.docs, dead)
        return new

    def after(self, since: int) -> Delta:
        """Rows of vectors after a number: what a merge has left."""
        first = int(np.searchsorted(self.numbers, since, "right"))
        new = self._part(self._begin + first, self._end)
        new.since, new.live = since, self.live[first:]
        # What lies before them is kept in memory as long as it is the smaller part.
        return new if new._begin <= new.n else new._copy(0)

    def _part(self, begin: int, end: int) -> Delta:
        new = copy(self)
        new._begin, new._end = begin, end
        return new

    def _copy(self, room: int) -> Delta:
        """The same rows at the beginning of other arrays."""
        new = Delta(self.d, self.since, max(room, ROOM // (4 * self.d), self.n))
        new._end, new.live, new._rising = self.n, self.live, self._rising
        new.vectors[:], new.docs[:] = self.vectors, self.docs
        new.windows[:], new.numbers[:] = self.windows, self.numbers
        return new

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
