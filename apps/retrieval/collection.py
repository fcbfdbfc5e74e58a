"""An index that is open: add, delete, get, search; one object a process and folder, safe in many threads."""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from farfield.apps.retrieval import postings
from farfield.apps.retrieval.ann import KINDS
from farfield.apps.retrieval.document import Added, Document, Hit
from farfield.apps.retrieval.encoder import TruncatedText, fingerprint_difference, fingerprint_digest
from farfield.apps.retrieval.filters import Filter
from farfield.apps.retrieval.loading import load_view
from farfield.apps.retrieval.postings import Words
from farfield.apps.retrieval.segment import FOLDER, Segment
from farfield.apps.retrieval.store import SOLE, WHOLE, Row, Store, Vectors, insert_unworded, remove
from farfield.apps.retrieval.view import View
from farfield.apps.training.errors import UserError

if TYPE_CHECKING:
    from farfield.apps.retrieval.encoder import Encoder, Encoding

log = logging.getLogger(__name__)
Settings = Mapping[str, Any]
Load = Callable[[dict[str, Any]], "Encoder"]
# Called now and then with False, and with True before the commit: what it raises undoes the call.
Check = Callable[[bool], None]
POLICIES = ("error", "warn", "chunk", "truncate")
# Vectors in memory that become a segment.
MERGE_AT = 4096


class Collection:
    """Documents, their vectors and words in a folder. Use `create` or `open`; it is a context manager.

    Args:
        store: The opened store.
        encoder: Encoder of queries and documents; None where only vectors, words and ids are used.
        load: Makes an encoder from the settings that the index keeps: used when another process has migrated it.
        device: Where exact scans run.
        merge_at: Vectors in memory from which a background merge starts; None never starts one.
    """

    def __init__(
        self,
        store: Store,
        encoder: Encoder | None = None,
        *,
        load: Load | None = None,
        device: str = "cpu",
        merge_at: int | None = MERGE_AT,
    ) -> None:
        self.store = store
        self.folder = store.folder
        self.words = Words()
        self.device = device
        self._load = load
        self._encoders: dict[str, Encoder] = {}
        self.merge_at = merge_at
        self._refreshing = threading.Lock()
        self._ready: dict[str, Segment] = {}
        self._merger: threading.Thread | None = None
        self._merging = threading.Lock()
        self.merge_error: Exception | None = None
        if encoder is not None:
            self.know(encoder)
        self._view = load_view(store, None, device)
        if encoder is not None and self._view.digest not in self._encoders:
            raise _other_encoder(self, encoder)

    @classmethod
    def create(
        cls,
        folder: str | Path,
        encoder: Encoder,
        settings: Settings | None = None,
        *,
        kind: str = "auto",
        policy: str = "chunk",
        **how: Any,
    ) -> Collection:
        """A new index.

        Args:
            folder: Where; it is made.
            encoder: Encoder of its documents and queries.
            settings: What `load` needs to make that encoder again; kept in the index.
            kind: auto, flat, hnsw, ivf-flat, ivf-pq.
            policy: What becomes of texts that are longer than a window: error, warn, chunk, truncate.
            how: As of the class.
        Raises: UserError: there is an index already, or a setting is not accepted.
        """
        for name, value, accepted in (("kind", kind, KINDS), ("policy", policy, POLICIES)):
            if value not in accepted:
                raise UserError(f"{name}={value}: {', '.join(accepted)} are accepted")
        row = (digest_of(encoder), encoder.d, json.dumps(dict(encoder.fingerprint)), json.dumps(dict(settings or {})))
        store = Store.create(Path(folder), encoder=row, kind=kind, policy=policy)
        return cls(store, encoder, **how)

    @classmethod
    def open(cls, folder: str | Path, encoder: Encoder | None = None, **how: Any) -> Collection:
        """An index that is there.

        Raises: UserError: there is none, or it was made by another encoder; Damaged: a file is not what was written.
        """
        return cls(Store(Path(folder)), encoder, **how)

    def __enter__(self) -> Collection:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for a merge that runs, then close all files."""
        merger = self._merger
        if merger is not None and merger is not threading.current_thread():
            merger.join()
        self.store.close()

    def __len__(self) -> int:
        """Documents."""
        with self.store.guarded():
            return int(self.store.meta("documents"))

    def know(self, encoder: Encoder) -> None:
        """Make an encoder usable here: writes go to it too while a migration to it runs."""
        self._encoders[digest_of(encoder)] = encoder

    def view(self) -> View:
        """The newest state that can be had without waiting for a writer."""
        with self.store.guarded():
            behind = self.store.meta("version") != self._view.version
        if behind and self._refreshing.acquire(blocking=False):
            try:
                self._view = load_view(self.store, self._view, self.device, self._ready)
            finally:
                self._refreshing.release()
        return self._view

    def refresh(self) -> View:
        """The state of now: everything that was committed before the call is in it."""
        with self._refreshing:
            self._view = load_view(self.store, self._view, self.device, self._ready)
        return self._view

    @contextmanager
    def prepared(self, made: tuple[str, str] | None) -> Iterator[Segment | None]:
        """A segment (name, digest) that was written, opened before it is listed: nobody waits for that then."""
        segment = None if made is None else Segment(self.folder / FOLDER / made[0], made[1], self.device)
        self._ready = {} if segment is None else {segment.name: segment}
        try:
            yield segment
        finally:
            self._ready = {}

    @property
    def encoder(self) -> Encoder:
        """The encoder that serves.

        Raises: UserError: this process has none, or another one.
        """
        return self.encoder_of(self._view)

    def encoder_of(self, view: View) -> Encoder:
        """The encoder whose vectors a view holds."""
        if view.digest not in self._encoders and self._load is not None:
            query = "SELECT settings FROM encoders WHERE encoder = ?"
            encoder = self._load(json.loads(self.store.db.execute(query, [view.encoder]).fetchone()[0]))
            if digest_of(encoder) != view.digest:
                raise _other_encoder(self, encoder)
            self.know(encoder)
        if view.digest not in self._encoders:
            raise UserError(
                f"{self.folder} was opened without its encoder: give encoder=, the folder of the sentence-transformers"
                " model that made it"
            )
        return self._encoders[view.digest]

    def add(self, documents: Sequence[Document], *, check: Check | None = None) -> Added:
        """Encode documents and write them: on disk and searchable when it returns.

        Args:
            documents: Those with the digest of what is stored are passed over, others replace what has their id; of
                several with one id the last counts.
            check: Called with False between batches of the encoder and with True before the commit: what it raises ends
                the call, and nothing of it is stored.
        Returns: Ids by what was done.
        Raises: UserError: a text is too long under policy=error, or the disk is full; nothing of the call is stored.
        """
        documents = list({document.id: document for document in documents}.values())
        known = self.store.digests([d.id for d in documents])
        changed = [d for d in documents if known.get(d.id) != d.digest]
        unchanged = tuple(d.id for d in documents if known.get(d.id) == d.digest)
        while changed:
            view = self.refresh()
            encoders = {view.encoder: self.encoder_of(view), **self._next_encoder()}
            policy = self.store.meta("policy")
            texts = [d.text for d in changed]
            progress = None if check is None else lambda done, total: check(False)
            try:
                encoded = {n: one.encode(texts, policy=policy, progress=progress) for n, one in encoders.items()}
            except TruncatedText as error:
                raise TruncatedText(f"document {changed[error.index].id!r}: {error}", error.index) from error
            if (done := self._write(changed, encoded, check)) is not None:
                return replace(done, unchanged=unchanged + done.unchanged)
        return Added(unchanged=unchanged)

    def put(self, documents: Sequence[Document], encoded: Sequence[Encoding]) -> Added:
        """Write documents whose vectors were made elsewhere, by the encoder that serves; see `add`."""
        both = {document.id: (document, vectors) for document, vectors in zip(documents, encoded, strict=True)}
        documents = [document for document, _ in both.values()]
        done = None
        while done is None:
            view = self.refresh()
            done = self._write(documents, {view.encoder: [vectors for _, vectors in both.values()]})
        return done

    def delete(self, ids: Sequence[str], *, check: Check | None = None) -> int:
        """Delete documents with all that belongs to them; returns how many there were. check: as of `add`."""
        with self.store.writing() as db:
            count = sum(remove(db, id) for id in dict.fromkeys(ids))
            if check is not None:
                check(True)
        self._written()
        return count

    def get(self, id: str) -> Document | None:
        """A document by its id."""
        found = self.store.get(id)
        return None if found is None else found.document

    def search(
        self,
        query: str | Vectors,
        k: int = 10,
        *,
        mode: str = "hybrid",
        filters: Filter | None = None,
        by: str = "best",
    ) -> list[Hit]:
        """The best k documents, each with its best window.

        Args:
            query: A text, or a vector, which is searched with mode=dense.
            k: 1 to 1,000.
            mode: hybrid (words and cosine by reciprocal rank), dense (cosine), bm25 (words).
            filters: What the metadata has to be, as of `filters`.
            by: Which vectors rank a document: best of all, its windows, or the whole one.
        Raises: UserError: a setting is not accepted, or the encoder is missing.
        """
        queries = query[None] if isinstance(query, np.ndarray) else [query]
        return self.search_many(queries, k, mode=mode, filters=filters, by=by)[0]

    def search_many(
        self,
        queries: Sequence[str] | Vectors,
        k: int = 10,
        *,
        mode: str = "hybrid",
        filters: Filter | None = None,
        by: str = "best",
    ) -> list[list[Hit]]:
        """`search` for many queries at once."""
        from farfield.apps.retrieval.answer import answer

        if isinstance(queries, np.ndarray):
            mode = "dense"
        return answer(self, queries, k, mode, filters, by)

    def _write(
        self, documents: Sequence[Document], encoded: Mapping[int, Sequence[Encoding]], check: Check | None = None
    ) -> Added | None:
        """One transaction; None when the index serves another encoder by now, and nothing was written."""
        first = next(iter(encoded.values()))
        rows = [{number: vector_rows(made[i]) for number, made in encoded.items()} for i in range(len(documents))]
        new: list[str] = []
        replaced: list[str] = []
        unchanged: list[str] = []
        counts = [postings.count(document.title, document.text) for document in documents]
        counted: dict[int, Counter[str]] = {}
        with self.store.writing() as db:
            wanted = db.execute("SELECT value FROM meta WHERE key = 'encoder'").fetchone()[0]
            if wanted not in encoded:
                return None
            for document, made, vectors, words in zip(documents, first, rows, counts, strict=True):
                old = db.execute("SELECT digest FROM documents WHERE id = ?", [document.id]).fetchone()
                if old is not None and bytes(old[0]) == document.digest:
                    unchanged.append(document.id)
                    continue
                doc = insert_unworded(db, document, made.n_tokens, made.truncated, vectors)
                counted[doc] = words
                (new if old is None else replaced).append(document.id)
            postings.add(db, counted)
            if check is not None:
                check(True)
        self._written()
        truncated = tuple(d.id for d, made in zip(documents, first, strict=True) if made.truncated)
        return Added(tuple(new), tuple(replaced), tuple(unchanged), truncated)

    def _next_encoder(self) -> dict[int, Encoder]:
        """The encoder that a migration goes to, by number, when this process has it."""
        query = "SELECT encoder, digest FROM encoders WHERE encoder = (SELECT value FROM meta WHERE key = 'next')"
        row = self.store.db.execute(query).fetchone()
        return {} if row is None or row[1] not in self._encoders else {row[0]: self._encoders[row[1]]}

    def _written(self) -> None:
        view = self.refresh()
        if self.merge_at is not None and view.parts[-1].n >= self.merge_at and self._merging.acquire(blocking=False):
            # The thread of the last merge has let go of the lock: it is ending.
            self._merger = threading.Thread(target=self._merge, name="merge", daemon=True)
            self._merger.start()

    def _merge(self) -> None:
        from farfield.apps.retrieval.maintain import alone, merge, quietly

        try:
            # Everything is read once: no page is worth keeping.
            self.store.db.execute("PRAGMA cache_size = -256")
            with quietly():
                merge(self)
                with alone(self.folder, patience=60.0):
                    postings.tidy(self.store)
            self.merge_error = None
        except (UserError, OSError) as error:
            # Searches go on with what is in memory; the next write tries again.
            self.merge_error = error
            log.warning("the merge in the background failed: %s", error)
        finally:
            self.store.release()
            self._merging.release()


def digest_of(encoder: Encoder) -> str:
    """Digest of an encoder's fingerprint."""
    return fingerprint_digest(encoder.fingerprint)


def vector_rows(encoded: Encoding) -> list[Row]:
    """The whole vector and the windows of a document as rows of unit length.

    Raises: UserError: a vector holds what is no finite number.
    """
    spans = [(int(a), int(b)) for a, b in encoded.offsets]
    if len(spans) == 1 and np.array_equal(encoded.whole, encoded.windows[0]):
        return [Row(SOLE, *spans[0], units(encoded.windows)[0])]
    vectors = units(np.concatenate([encoded.windows, encoded.whole[None]]))
    rows = [Row(i, a, b, vectors[i]) for i, (a, b) in enumerate(spans)]
    rows.append(Row(WHOLE, spans[0][0], spans[-1][1], vectors[-1]))
    return rows


def units(vectors: Vectors) -> Vectors:
    """Rows at length 1; a zero stays zero."""
    if not np.isfinite(vectors).all():
        raise UserError("the encoder made a vector with NaN or infinity; encode in precision=fp32")
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    # What is of unit length already stays as it is, to the last bit.
    norms[(norms == 0) | (np.abs(norms - 1) < 1e-6)] = 1
    return np.asarray(vectors / norms, np.float32)


def _other_encoder(collection: Collection, encoder: Encoder) -> UserError:
    query = "SELECT fingerprint FROM encoders WHERE encoder = (SELECT value FROM meta WHERE key = 'encoder')"
    stored = json.loads(collection.store.db.execute(query).fetchone()[0])
    lines = "; ".join(fingerprint_difference(stored, encoder.fingerprint))
    return UserError(
        f"{collection.folder} was made by another encoder ({lines}): its vectors cannot be compared. Use that encoder,"
        f" or farfield retrieval index index={collection.folder} action=migrate encoder=... while this one serves"
    )
