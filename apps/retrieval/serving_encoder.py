"""An encoder for a service: queries of many clients in one batch, never behind a document.

Documents have one thread of their own: torch keeps a team of threads for every thread that calls it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from farfield.apps.training.errors import UserError

if TYPE_CHECKING:
    from farfield.apps.retrieval.encoder import Encoder, Encoding, Fingerprint, Policy, Vectors


class Unloadable(UserError):
    """The encoder of the index cannot be loaded here; the reason names folders, which is nothing for clients."""


Call = tuple[Callable[[], "list[Encoding]"], "Future[list[Encoding]]"]


class ServingEncoder:
    """Two encoders of one fingerprint: one for documents, called by a thread of its own, and one for queries.

    Args:
        queries: Encodes queries, for the few threads that answer searches.
        documents: Encodes documents; another object, so that a long document holds up no query.
    """

    def __init__(self, queries: Encoder, documents: Encoder) -> None:
        self._queries, self._documents = queries, documents
        self.d, self.max_tokens = queries.d, queries.max_tokens
        self.fingerprint: Fingerprint = queries.fingerprint
        self._known = threading.local()
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="documents", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread after what waits."""
        self._calls.put(None)
        self._thread.join()

    def encode(
        self, texts: Sequence[str], *, policy: Policy = "chunk", progress: Callable[[int, int], None] | None = None
    ) -> list[Encoding]:
        """Encodings of documents; progress is also called when their turn comes."""

        def call() -> list[Encoding]:
            if progress is not None:
                progress(0, 0)
            return self._documents.encode(texts, policy=policy, progress=progress)

        done: Future[list[Encoding]] = Future()
        self._calls.put((call, done))
        return done.result()

    def encode_queries(self, texts: Sequence[str], *, policy: Policy = "warn") -> Vectors:
        """One vector a query; a query too long is cut."""
        pair: tuple[str, Vectors] | None = getattr(self._known, "pair", None)
        if pair is not None and list(texts) == [pair[0]]:
            return np.asarray(pair[1][None])
        return self._queries.encode_queries(texts, policy="truncate")

    @contextmanager
    def knowing(self, query: str, vector: Vectors) -> Iterator[None]:
        """In this thread and as long as it is open, a query is not encoded again."""
        self._known.pair = query, vector
        try:
            yield
        finally:
            del self._known.pair

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        return self._documents.count_tokens(texts)

    def _work(self) -> None:
        while (one := self._calls.get()) is not None:
            call, done = one
            try:
                done.set_result(call())
            except Exception as error:
                done.set_exception(error)
