"""What a search sees: segments, masks and delta of one moment, never changed after it is made.

Shapes: m queries, d width, k results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import numpy as np

from farfield.apps.retrieval.exact import Live, Rows, Vectors, scan
from farfield.apps.retrieval.store import SOLE, WHOLE

# Selected vectors up to which all of them are scanned exactly.
EXACT_BELOW = 20_000
# Filters whose masks are kept.
KEPT = 16
BY = ("best", "window", "whole")


class Part(Protocol):
    """A segment or the delta."""

    @property
    def n(self) -> int: ...
    @property
    def docs(self) -> Rows: ...
    @property
    def windows(self) -> Rows: ...
    @property
    def vectors(self) -> Vectors: ...
    def propose(self, queries: Vectors, k: int, live: Live | None, share: float) -> Rows: ...
    def rows_of(self, docs: Rows) -> Rows: ...
    def rows_of_one(self, doc: int) -> Sequence[int]: ...


@dataclass(frozen=True)
class Found:
    """A document of an answer: its score, the cosine of its whole vector, its best window and that one's cosine."""

    doc: int
    score: float
    whole_score: float | None
    window: int
    window_score: float | None


@dataclass(frozen=True)
class View:
    """One state of an index.

    Args:
        version: Of the store.
        encoder: Number of the encoder that serves.
        digest: Of its fingerprint.
        parts: Segments, then the delta.
        lives: Mask of live rows of each part; None is all.
        segments: Names and digests of the segments, as the store lists them.
        last_vector, last_tombstone: What of the store is in it.
    """

    version: int
    encoder: int
    digest: str
    parts: tuple[Part, ...]
    lives: tuple[Live | None, ...]
    segments: tuple[tuple[str, str], ...]
    all_segments: tuple[str, ...]
    last_vector: int
    last_tombstone: int
    _masks: dict[tuple[str, str | None], tuple[Live | None, ...]] = field(default_factory=dict)
    _filters: dict[str, Rows] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Live vectors."""
        return sum(
            part.n if live is None else int(live.sum()) for part, live in zip(self.parts, self.lives, strict=True)
        )

    def search(
        self, queries: Vectors, k: int, by: str = "best", docs: Rows | None = None, named: str | None = None
    ) -> list[list[Found]]:
        """The k best documents of each query, a document by the best of its vectors.

        Args:
            queries: (m, d) of unit length.
            by: best (whole or window), window, or whole: which vectors count.
            docs: Sorted numbers of the documents that may be in the answer; None is all.
            named: The filter that chose docs, where its mask may be kept for the next query.
        Complexity: A proposal of each part, then O(vectors of the documents found) exact products.
        """
        lives = self._selected(by, docs, named)
        counts = [part.n if live is None else int(live.sum()) for part, live in zip(self.parts, lives, strict=True)]
        answers: list[list[Found]] = [[] for _ in queries]
        exact = docs is not None and sum(counts) <= EXACT_BELOW
        asked = list(range(len(queries)))
        most = max(counts, default=0)
        # Windows of few documents can fill the proposals: then more are asked for, in the end all.
        for wanted in (2 * k + 8, 16 * k + 64, most):
            found = self._candidates(queries[asked], wanted, lives, counts, exact or wanted == most)
            again = []
            for at, docs_found in zip(asked, found, strict=True):
                if len(docs_found) < k and wanted < most:
                    again.append(at)
                else:
                    answers[at] = self._scored(queries[at], docs_found, k, by)
            asked = again
            if not asked:
                break
        return answers

    def score(self, query: Vectors, docs: Sequence[int]) -> dict[int, Found]:
        """Exact scores of given documents."""
        found = self._scored(query, dict.fromkeys(docs, -1), len(docs), "best")
        return {one.doc: one for one in found}

    def _candidates(
        self, queries: Vectors, wanted: int, lives: Sequence[Live | None], counts: Sequence[int], exact: bool
    ) -> list[dict[int, int]]:
        """Documents of each query and the part that holds them."""
        found: list[list[tuple[Vectors, Rows, int]]] = [[] for _ in queries]
        for p, (part, live, count) in enumerate(zip(self.parts, lives, counts, strict=True)):
            if not count:
                continue
            if exact:
                chosen = None if live is None else np.flatnonzero(live)
                rows = scan(part.vectors, queries, wanted, rows=chosen)[1]
            else:
                rows = part.propose(queries, wanted, live, count / part.n)
            for q, mine in enumerate(rows):
                mine = mine[mine >= 0]
                found[q].append((part.vectors[mine] @ queries[q], part.docs[mine], p))
        answers: list[dict[int, int]] = [{} for _ in queries]
        for answer, parts in zip(answers, found, strict=True):
            if not parts:
                continue
            scores = np.concatenate([s for s, _, _ in parts])
            docs = np.concatenate([d for _, d, _ in parts])
            places = np.concatenate([np.full(len(d), p) for _, d, p in parts])
            order = np.lexsort((docs, -scores))
            for doc, place in zip(docs[order].tolist(), places[order].tolist(), strict=True):
                answer.setdefault(doc, place)
        return answers

    def _scored(self, query: Vectors, docs: dict[int, int], k: int, by: str) -> list[Found]:
        """Exact scores of the first documents, the best k in order; a few more than k, for scores that round alike."""
        found = []
        for doc, p in islice(docs.items(), k + 2):
            one = self._score_in(query, doc, range(len(self.parts)) if p < 0 else (p,), by)
            if one is not None:
                found.append(one)
        return sorted(found, key=lambda one: (-one.score, one.doc))[:k]

    def _score_in(self, query: Vectors, doc: int, parts: Sequence[int], by: str) -> Found | None:
        for p in parts:
            part, live = self.parts[p], self.lives[p]
            rows = part.rows_of_one(doc)
            if not len(rows) or (live is not None and not live[rows[0]]):
                continue
            # A product of fixed shape: the same vector has the same score in whichever part it lies.
            scores = [float(np.dot(part.vectors[row], query)) for row in rows]
            windows = [int(part.windows[row]) for row in rows]
            whole = next((s for s, w in zip(scores, windows, strict=True) if w in (WHOLE, SOLE)), None)
            inside = [(s, w) for s, w in zip(scores, windows, strict=True) if w != WHOLE]
            score, window = max(inside, key=lambda pair: pair[0], default=(None, WHOLE))
            ranks = {"best": (whole, score), "window": (score,), "whole": (whole,)}[by]
            return Found(doc, max(s for s in ranks if s is not None), whole, window, score)
        return None

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

    def _selected(self, by: str, docs: Rows | None, named: str | None) -> tuple[Live | None, ...]:
        """Masks of the rows that may be proposed."""
        keep = docs is None or named is not None
        if keep and (masks := self._masks.get((by, named))) is not None:
            return masks
        lives: list[Live | None] = []
        for part, live in zip(self.parts, self.lives, strict=True):
            if by != "best":
                kind = (part.windows == SOLE) | ((part.windows == WHOLE) == (by == "whole"))
                live = kind if live is None else live & kind
            if docs is not None:
                mask = np.zeros(part.n, np.bool_)
                mask[part.rows_of(docs)] = True
                live = mask if live is None else live & mask
            lives.append(live)
        if keep:
            if len(self._masks) >= KEPT:
                self._masks.pop(next(iter(self._masks)), None)
            self._masks[(by, named)] = tuple(lives)
        return tuple(lives)
