"""What a search sees: segments, masks and delta of one moment, never changed after it is made.

Shapes: m queries, d width, k results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from farfield.apps.retrieval.exact import Chosen, Rows, Vectors
from farfield.apps.retrieval.store import SOLE, WHOLE

# Selected vectors up to which all of them are scanned exactly.
EXACT_BELOW = 5_000
# Proposals of more than this share of the vectors, or for more than this share of the documents, cost more than a look
# at all of them: one of 208 among 15,768 took 13 ms, that look 3.
WORTHWHILE, WORTHWHILE_DOCUMENTS = 1 / 128, 1 / 8
# Rows that say how many windows a document has.
SAMPLE = 1024
# Scores that are held at once.
SCORES_AT_ONCE = 2**24
# Decimals to which scores of documents are told apart; float32 products of other shapes differ in the eighth.
DECIMALS = 6
# Filters whose masks are kept.
KEPT = 16
BY = ("best", "window", "whole")


class Part(Protocol):
    """A segment or the delta: rows of a document lie together."""

    @property
    def n(self) -> int: ...
    @property
    def docs(self) -> Rows: ...
    @property
    def windows(self) -> Rows: ...
    @property
    def vectors(self) -> Vectors: ...
    def propose(self, queries: Vectors, k: int, live: Chosen | None, share: float) -> Rows: ...
    def rows_of(self, docs: Rows) -> Rows: ...
    def rows_of_one(self, doc: int) -> range: ...


@dataclass(frozen=True)
class Found:
    """A document of an answer: its score, the cosine of its whole vector, its best window and that one's cosine."""

    doc: int
    score: float
    whole_score: float | None
    window: int
    window_score: float | None


class Place(NamedTuple):
    """A document of a ranking and the part that holds it."""

    doc: int
    part: int


@dataclass(frozen=True)
class View:
    """One state of an index.

    Args:
        version: Of the store.
        encoder: Number of the encoder that serves.
        digest: Of its fingerprint.
        parts: Segments, then the delta.
        lives: Live rows of each part; None is all.
        segments: Names and digests of the segments, as the store lists them.
        last_vector, last_tombstone: What of the store is in it.
    """

    version: int
    encoder: int
    digest: str
    parts: tuple[Part, ...]
    lives: tuple[Chosen | None, ...]
    segments: tuple[tuple[str, str], ...]
    all_segments: tuple[str, ...]
    last_vector: int
    last_tombstone: int
    _masks: dict[tuple[str, str | None], tuple[Chosen | None, ...]] = field(default_factory=dict)
    _filters: dict[str, Rows] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Live vectors."""
        return sum(_count(part, live) for part, live in zip(self.parts, self.lives, strict=True))

    def search(
        self, queries: Vectors, k: int, by: str = "best", docs: Rows | None = None, named: str | None = None
    ) -> list[list[Found]]:
        """The k best documents of each query, a document by the best of its vectors.

        Args: As of `rank`.
        Complexity: That of `rank`, then O(vectors of the documents found) exact products.
        """
        # A few more than k, for scores that round alike.
        every = self.rank(queries, k + 2, by, docs, named)
        return [self.score(query, places, by)[:k] for query, places in zip(queries, every, strict=True)]

    def rank(
        self,
        queries: Vectors,
        k: int,
        by: str = "best",
        docs: Rows | None = None,
        named: str | None = None,
        enough: int | None = None,
    ) -> list[list[Place]]:
        """Where the k best documents of each query are, best first; equal ones by number.

        Args:
            queries: (m, d) of unit length.
            by: best (whole or window), window, or whole: which vectors count.
            docs: Sorted numbers of the documents that may be in the answer; None is all.
            named: The filter that chose docs, where its mask may be kept for the next query.
            enough: Documents that do where more would take a look at every vector; None is k.
        Complexity: A proposal of each part; where windows of few documents fill the proposals, O(vectors d).
        """
        lives = self._selected(by, docs, named)
        counts = [_count(part, live) for part, live in zip(self.parts, lives, strict=True)]
        most = max(counts, default=0)
        answers: list[list[Place]] = [[] for _ in queries]
        asked = list(range(len(queries)))
        there = float(np.dot(counts, self._shares))
        few = (docs is not None and sum(counts) <= EXACT_BELOW) or k > WORTHWHILE_DOCUMENTS * there
        alone = all(share == 1 for share, count in zip(self._shares, counts, strict=True) if count)
        for wanted, least in ((k if alone else 2 * k + 8, k), (16 * k + 64, enough or k)):
            if few or wanted > WORTHWHILE * most:
                break
            found = self._proposed(queries[asked], wanted, k, lives, counts)
            for at, places in zip(asked, found, strict=True):
                answers[at] = places
            asked = [at for at, places in zip(asked, found, strict=True) if len(places) < least]
            if not asked:
                return answers
        step = max(1, SCORES_AT_ONCE // max(most, 1))
        for begin in range(0, len(asked), step):
            some = asked[begin : begin + step]
            for at, places in zip(some, self._scanned(queries[some], k, lives, counts), strict=True):
                answers[at] = places
        return answers

    def score(self, query: Vectors, places: Sequence[Place], by: str = "best") -> list[Found]:
        """Exact scores of documents, best first; those that a part does not hold are left out."""
        found: list[Found] = []
        for p, (part, live) in enumerate(zip(self.parts, self.lives, strict=True)):
            ranges = [part.rows_of_one(place.doc) for place in places if place.part == p]
            if ranges:
                rows = np.concatenate([np.arange(one.start, one.stop) for one in ranges])
                found += _scored(query, part, rows if live is None else rows[live.mask[rows]], by)
        return sorted(found, key=lambda one: (-one.score, one.doc))

    def place(self, doc: int) -> Place | None:
        """Where a document is."""
        for p, (part, live) in enumerate(zip(self.parts, self.lives, strict=True)):
            rows = part.rows_of_one(doc)
            if len(rows) and (live is None or live.mask[rows[0]]):
                return Place(doc, p)
        return None

    @cached_property
    def _shares(self) -> list[float]:
        """Documents a row of each part, by its beginning."""
        heads = [part.docs[:SAMPLE] for part in self.parts]
        return [np.count_nonzero(np.diff(head, prepend=-1)) / max(len(head), 1) for head in heads]

    def _proposed(
        self, queries: Vectors, wanted: int, k: int, lives: Sequence[Chosen | None], counts: Sequence[int]
    ) -> list[list[Place]]:
        """The k best documents of the vectors that the parts propose."""
        found: list[list[tuple[Vectors, Rows, int]]] = [[] for _ in queries]
        for p, (part, live, count) in enumerate(zip(self.parts, lives, counts, strict=True)):
            if count:
                rows = part.propose(queries, wanted, live, count / part.n)
                for mine, query, rows_of_query in zip(found, queries, rows, strict=True):
                    inside = rows_of_query[rows_of_query >= 0]
                    mine.append((_products(part.vectors[inside], query), part.docs[inside], p))
        return [_places(parts, k) for parts in found]

    def _scanned(
        self, queries: Vectors, k: int, lives: Sequence[Chosen | None], counts: Sequence[int]
    ) -> list[list[Place]]:
        """The k best documents by a look at every vector."""
        found: list[list[tuple[Vectors, Rows, int]]] = [[] for _ in queries]
        for p, (part, live, count) in enumerate(zip(self.parts, lives, counts, strict=True)):
            if not count:
                continue
            docs = part.docs if live is None else part.docs[live.rows]
            starts = np.flatnonzero(np.concatenate([[True], docs[1:] != docs[:-1]]))
            vectors = part.vectors if live is None else part.vectors[live.rows]
            products = _products(vectors, queries[0])[None] if len(queries) == 1 else queries @ vectors.T
            best = np.maximum.reduceat(products, starts, axis=1)
            for mine, scores in zip(found, best, strict=True):
                at = np.argpartition(-scores, k - 1)[:k] if len(scores) > 2 * k else np.arange(len(scores))
                mine.append((scores[at], docs[starts[at]], p))
        return [_places(parts, k) for parts in found]

    def chosen(self, named: str, choose: Callable[[], Rows | None]) -> Rows | None:
        """Documents of a filter, asked for once; choose returns None where its answer is of another version."""
        if named not in self._filters:
            docs = choose()
            if docs is None:
                return None
            if len(self._filters) >= KEPT:
                self._filters.pop(next(iter(self._filters)), None)
            self._filters[named] = docs
        return self._filters[named]

    def _selected(self, by: str, docs: Rows | None, named: str | None) -> tuple[Chosen | None, ...]:
        """Rows that may be proposed; None is all."""
        if by == "best" and docs is None:
            return self.lives
        keep = docs is None or named is not None
        if keep and (masks := self._masks.get((by, named))) is not None:
            return masks
        lives: list[Chosen | None] = []
        for part, live in zip(self.parts, self.lives, strict=True):
            mask = np.ones(part.n, np.bool_) if live is None else live.mask
            if by != "best":
                mask = mask & ((part.windows == SOLE) | ((part.windows == WHOLE) == (by == "whole")))
            if docs is not None:
                named_rows = np.zeros(part.n, np.bool_)
                named_rows[part.rows_of(docs)] = True
                mask = mask & named_rows
            lives.append(None if mask.all() else Chosen(mask))
        if keep:
            if len(self._masks) >= KEPT:
                self._masks.pop(next(iter(self._masks)), None)
            self._masks[(by, named)] = tuple(lives)
        return tuple(lives)


def _count(part: Part, live: Chosen | None) -> int:
    return part.n if live is None else live.count


def _products(vectors: Vectors, query: Vectors) -> Vectors:
    """Products (n,) of rows with a query, each in one way: a vector has the same score in whichever part it lies.

    They are summed in the caller's thread: a product of BLAS waits for its other threads, which readers share.
    """
    return np.asarray(np.einsum("nd,d->n", vectors, query), np.float32)


def _scored(query: Vectors, part: Part, rows: Rows, by: str) -> list[Found]:
    """Exact scores of the documents that some rows of a part are of."""
    scores = _products(part.vectors[rows], query).tolist()
    wholes: dict[int, float] = {}
    best: dict[int, tuple[float, int]] = {}
    docs, windows = part.docs[rows].tolist(), part.windows[rows].tolist()
    for doc, window, score in zip(docs, windows, scores, strict=True):
        if window in (WHOLE, SOLE):
            wholes[doc] = score
        if window != WHOLE and (doc not in best or score > best[doc][0]):
            best[doc] = score, window
    found = []
    for doc in dict.fromkeys(docs):
        whole, (inside, window) = wholes.get(doc), best.get(doc, (None, WHOLE))
        ranks = {"best": (whole, inside), "window": (inside,), "whole": (whole,)}[by]
        found.append(Found(doc, max(s for s in ranks if s is not None), whole, window, inside))
    return found


def _places(parts: Sequence[tuple[Vectors, Rows, int]], k: int) -> list[Place]:
    """The k best documents of scored vectors (scores, documents, part), each once; equal scores by number."""
    if not parts:
        return []
    scores = np.round(np.concatenate([s for s, _, _ in parts]), DECIMALS)
    docs = np.concatenate([d for _, d, _ in parts])
    order = np.lexsort((docs, -scores))
    of = np.repeat([p for _, _, p in parts], [len(d) for _, d, _ in parts])
    places: dict[int, Place] = {}
    for doc, p in zip(docs[order].tolist(), of[order].tolist(), strict=True):
        if doc not in places:
            places[doc] = Place(doc, p)
            if len(places) == k:
                break
    return list(places.values())
