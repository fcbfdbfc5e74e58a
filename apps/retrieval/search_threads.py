"""The threads of a service that answer searches: few, because threads that wait for Python's lock slow all others down.

Queries that wait are encoded together. The thread that did so answers the first of them itself, so that one client pays
for one hand-over only; the others are for whoever is free.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from farfield.apps.retrieval.serving_encoder import ServingEncoder

if TYPE_CHECKING:
    from farfield.apps.retrieval.collection import Collection
    from farfield.apps.retrieval.encoder import Vectors

log = logging.getLogger(__name__)
# Half of the machine: the other half encodes what is written.
THREADS = min(8, max(2, (os.cpu_count() or 2) // 2))
# Characters of one batch of queries, padding counted: it has no more tokens than that.
BATCH_CHARACTERS = 8192


class Search(NamedTuple):
    """What is asked for, as of `Collection.search`."""

    query: str
    k: int
    mode: str
    by: str
    filters: dict[str, Any]


class _Job(NamedTuple):
    search: Search
    done: Future[bytes]


class SearchThreads:
    """Threads that start when they are needed, and end with the last reference to this, or `close`.

    Args:
        collection: Where is searched; queries are encoded together where its encoder is a `ServingEncoder`.
    """

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._pool = ThreadPoolExecutor(THREADS, "search")
        self._waiting: deque[_Job] = deque()
        self._encoding = threading.Lock()

    def ask(self, search: Search) -> Future[bytes]:
        """Its answer as JSON, later; a search that is cancelled before its turn is never made."""
        job = _Job(search, Future())
        if search.mode == "bm25":
            self._pool.submit(self._begin, job)
        else:
            self._waiting.append(job)
            self._pool.submit(self._encode)
        return job.done

    def close(self) -> None:
        """Wait for what is being answered: nobody may read an index that is closed."""
        self._pool.shutdown(cancel_futures=True)

    def _begin(self, job: _Job) -> None:
        if job.done.set_running_or_notify_cancel():
            self._answer(job)

    def _encode(self) -> None:
        # Whoever encodes looks again for what waits: nobody has to wait for that.
        if not self._encoding.acquire(blocking=False):
            return
        try:
            batch = self._batch()
            encoder, vectors = self._encoded([job.search.query for job in batch])
        finally:
            self._encoding.release()
        for i, job in enumerate(batch[1:], 1):
            self._pool.submit(self._answer, job, encoder, None if vectors is None else vectors[i])
        if self._waiting:
            self._pool.submit(self._encode)
        if batch:
            self._answer(batch[0], encoder, None if vectors is None else vectors[0])

    def _batch(self) -> list[_Job]:
        """Jobs that wait, at least one if there is one, as many as fill a batch."""
        batch: list[_Job] = []
        longest = 0
        while self._waiting and longest * len(batch) < BATCH_CHARACTERS:
            job = self._waiting.popleft()
            if job.done.set_running_or_notify_cancel():
                batch.append(job)
                longest = max(longest, len(job.search.query))
        return batch

    def _encoded(self, queries: list[str]) -> tuple[ServingEncoder | None, Vectors | None]:
        """The encoder that serves and its vectors of queries; none where each has to say by itself what is wrong."""
        try:
            if queries and isinstance(encoder := self._collection.encoder, ServingEncoder):
                return encoder, encoder.encode_queries(queries)
        except Exception as error:
            # One query may be to blame: each is encoded, and refused, alone.
            log.debug("%d queries were not encoded together: %s", len(queries), error)
        return None, None

    def _answer(self, job: _Job, encoder: ServingEncoder | None = None, vector: Vectors | None = None) -> None:
        query, k, mode, by, filters = job.search
        known = nullcontext() if encoder is None or vector is None else encoder.knowing(query, vector)
        try:
            with known:
                hits = self._collection.search(query, k, mode=mode, by=by, filters=filters)
            job.done.set_result(_json({"hits": hits, "mode": mode, "by": by}))
        except Exception as error:
            job.done.set_exception(error)


def _json(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer, default=vars, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
