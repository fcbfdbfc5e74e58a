"""An encoder for a service: queries of many clients in one batch, never behind a document.

Each of its two models has one thread of its own: torch keeps a team of threads for every thread that calls it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

import numpy as np

from farfield.apps.training.errors import UserError

if TYPE_CHECKING:
    from farfield.apps.retrieval.encoder import Encoder, Encoding, Fingerprint, Policy, Vectors


class Unloadable(UserError):
    """The encoder of the index cannot be loaded here; the reason names folders, which is nothing for clients."""


# Tokens of one batch of queries, padding counted.
BATCH_TOKENS = 8192
Job = tuple[list[str], int, "Future[Vectors]"]
Call = tuple[Callable[[], "list[Encoding]"], "Future[list[Encoding]]"]


class ServingEncoder:
    """Two encoders of one fingerprint: one for documents, one whose only caller is the thread that batches queries.

    Args:
        queries: Encodes queries.
        documents: Encodes documents; another object, so that a long document holds up no query.
    """

    def __init__(self, queries: Encoder, documents: Encoder) -> None:
        self._queries, self._documents = queries, documents
        self.d, self.max_tokens = queries.d, queries.max_tokens
        self.fingerprint: Fingerprint = queries.fingerprint
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        works = {"queries": self._work, "documents": self._encode}
        self._threads = [threading.Thread(target=work, name=name, daemon=True) for name, work in works.items()]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the threads after what waits."""
        self._jobs.put(None)
        self._calls.put(None)
        for thread in self._threads:
            thread.join()

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
        """One vector a query, computed together with those of other callers."""
        longest = max((self.max_tokens if len(text) > 4 * self.max_tokens else len(text) for text in texts), default=0)
        job: Future[Vectors] = Future()
        self._jobs.put((list(texts), longest * len(texts), job))
        return job.result()

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        return self._documents.count_tokens(texts)

    def _encode(self) -> None:
        while (one := self._calls.get()) is not None:
            call, done = one
            try:
                done.set_result(call())
            except Exception as error:
                done.set_exception(error)

    def _work(self) -> None:
        while (first := self._jobs.get()) is not None:
            batch, tokens, last = [first], first[1], False
            while tokens < BATCH_TOKENS and not self._jobs.empty():
                job = self._jobs.get()
                if job is None:
                    last = True
                    break
                batch.append(job)
                tokens += job[1]
            self._answer(batch)
            if last:
                return

    def _answer(self, batch: list[Job]) -> None:
        try:
            vectors = self._queries.encode_queries([text for texts, _, _ in batch for text in texts], policy="truncate")
        except Exception as error:
            for _, _, job in batch:
                job.set_exception(error)
            return
        ends = np.cumsum([len(texts) for texts, _, _ in batch])
        for (_, _, job), part in zip(batch, np.split(vectors, ends[:-1]), strict=True):
            job.set_result(part)
