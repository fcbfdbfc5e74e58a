"""From a query to hits: dense, by words, or both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from farfield.apps.retrieval import filters as filtering
from farfield.apps.retrieval.document import Hit, canonical, check_text
from farfield.apps.retrieval.exact import Rows
from farfield.apps.retrieval.metrics import FUSION_WEIGHTS, fuse
from farfield.apps.retrieval.store import Vectors
from farfield.apps.retrieval.view import BY, Found, View
from farfield.apps.retrieval.windows import fullest
from farfield.apps.training.errors import UserError

if TYPE_CHECKING:
    from farfield.apps.retrieval.collection import Collection

MODES = ("dense", "bm25", "hybrid")
MAX_K = 1000
# Documents of each ranking that a hybrid answer is made of, at least.
DEPTH = 100
ATTEMPTS = 4


class Scored(NamedTuple):
    """A document of an answer before its text is read; its window is `found`'s, or that whose words are worth most."""

    doc: int
    score: float
    found: Found | None
    bm25: float | None = None
    worth: Mapping[str, float] = {}


def answer(
    collection: Collection,
    queries: Sequence[str] | Vectors,
    k: int,
    mode: str,
    filters: filtering.Filter | None,
    by: str,
) -> list[list[Hit]]:
    """Hits of each query; see `Collection.search`."""
    for name, value, accepted in (("mode", mode, MODES), ("by", by, BY)):
        if value not in accepted:
            raise UserError(f"{name}={value}: {', '.join(accepted)} are accepted")
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= MAX_K:
        raise UserError(f"k={k}: a whole number from 1 to {MAX_K} is accepted")
    texts = None if isinstance(queries, np.ndarray) else list(queries)
    for text in texts or []:
        check_text("a query", text)
    if texts is None and mode != "dense":
        raise UserError(f"mode={mode} needs the query's text; a vector alone is searched with mode=dense")
    for attempt in range(ATTEMPTS):
        view = collection.view() if attempt == 0 else collection.refresh()
        vectors = None if mode == "bm25" else _vectors(collection, view, queries)
        with collection.store.guarded():
            lists = _ranked(collection, view, texts, vectors, k, mode, filters, by) or [[] for _ in queries]
            hits = [_hits(collection, view, one) for one in lists]
        # A document that was deleted or replaced meanwhile: the newest state has an answer without it.
        if all(len(h) == len(one) for h, one in zip(hits, lists, strict=True)):
            break
    return hits


def _vectors(collection: Collection, view: View, queries: Sequence[str] | Vectors) -> Vectors:
    if isinstance(queries, np.ndarray):
        width = view.parts[-1].vectors.shape[1]
        if queries.ndim != 2 or queries.shape[1] != width or not np.isfinite(queries).all():
            raise UserError(f"query vectors {queries.shape}: (queries, {width}) finite numbers are accepted")
        vectors = queries.astype(np.float32)
    else:
        vectors = collection.encoder_of(view).encode_queries(list(queries))
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)


def _ranked(
    collection: Collection,
    view: View,
    texts: list[str] | None,
    vectors: Vectors | None,
    k: int,
    mode: str,
    filters: filtering.Filter | None,
    by: str,
) -> list[list[Scored]]:
    """Documents of each query; nothing at all where the filter selects none."""
    docs, named = _selected(collection, view, filters)
    depth = k if mode != "hybrid" else max(k, DEPTH)
    if docs is not None and not len(docs):
        return []
    if vectors is not None and (mode == "dense" or texts is None):
        return [
            [Scored(one.doc, one.score, one) for one in found] for found in view.search(vectors, k, by, docs, named)
        ]
    with collection.store.reading() as db:
        every = [collection.words.ranked(db, text, depth, docs, worth=vectors is None) for text in texts or []]
    if vectors is None:
        return [
            [Scored(doc, score, None, score, worth[doc]) for doc, score in scores.items()] for scores, worth in every
        ]
    answers = []
    dense = view.rank(vectors, depth, by, docs, named, enough=k)
    for vector, (by_words, _), ranking in zip(vectors, every, dense, strict=True):
        places = {place.doc: place for place in ranking}
        top = fuse([list(by_words), list(places)], weights=FUSION_WEIGHTS)[:k]
        there = (places.get(doc) or view.place(doc) for doc, _ in top)
        found = {one.doc: one for one in view.score(vector, [place for place in there if place is not None], by)}
        answers.append([Scored(doc, score, found.get(doc), by_words.get(doc)) for doc, score in top])
    return answers


def _selected(collection: Collection, view: View, filters: filtering.Filter | None) -> tuple[Rows | None, str | None]:
    """Numbers of the documents that match, and the filter's name where they are those of the view's own version."""
    if not filters:
        return None, None
    query, values = filtering.sql(filters)
    named = canonical(filters)

    def choose() -> Rows | None:
        found = collection.store.db.execute(query, values).fetchall()
        chosen.append(np.unique(np.array([doc for (doc,) in found], np.int64)))
        return chosen[0] if collection.store.meta("version") == view.version else None

    chosen: list[Rows] = []
    docs = view.chosen(named, choose)
    return (chosen[0], None) if docs is None else (docs, named)


def _hits(collection: Collection, view: View, scored: list[Scored]) -> list[Hit]:
    store = collection.store
    hits = []
    records = store.records([one.doc for one in scored])
    nearest = store.spans([(one.doc, one.found.window) for one in scored if one.found is not None], view.encoder)
    windows = store.windows([one.doc for one in scored if one.found is None], view.encoder)
    for one in scored:
        if one.doc not in records:
            continue
        document = records[one.doc].document
        span = nearest.get(one.doc)
        if inside := windows.get(one.doc):
            span = inside[fullest(document.text, inside, one.worth)]
        start, stop = span or (0, len(document.text))
        hits.append(
            Hit(
                document.id,
                document.title,
                dict(document.metadata),
                document.source,
                one.score,
                one.found.whole_score if one.found else None,
                one.found.window_score if one.found else None,
                one.bm25,
                start,
                stop,
                document.text[start:stop],
            )
        )
    return hits
