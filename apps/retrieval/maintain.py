"""What keeps an index quick: merges, builds, compaction; and copies and moves to another encoder.

All of it leaves the index as it was until one transaction at the end; one process at a time does it.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from farfield.apps.retrieval.ann import choose, one_thread
from farfield.apps.retrieval.collection import MERGE_AT, Collection, digest_of, vector_rows
from farfield.apps.retrieval.exact import Rows
from farfield.apps.retrieval.loading import checked
from farfield.apps.retrieval.postings import tidy
from farfield.apps.retrieval.segment import FOLDER, ROWS, Block, Segment, write
from farfield.apps.retrieval.store import FILE, Store, insert_vectors
from farfield.apps.training.atomic import atomic_folder, remove_leftovers
from farfield.apps.training.errors import UserError

if TYPE_CHECKING:
    from farfield.apps.retrieval.encoder import Encoder
    from farfield.apps.retrieval.view import View

LOCK = "maintenance.lock"
# A segment up to this many times as large as what is merged already is merged with it.
GROWTH = 2
# Documents, and vectors of them, read at once from the store.
BATCH = 256
# Documents that a migration encodes in one transaction.
ENCODED = 16
Progress = Callable[[int, int], None]


@contextmanager
def alone(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold the right to rewrite segments; the hold ends with the block, or with the process however it ends.

    Raises: UserError: another process holds it.
    """
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    end = time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise UserError(
                        f"another process rewrites segments of {folder}; wait for it and try again"
                    ) from None
                time.sleep(0.05)
        yield
    finally:
        os.close(handle)


def merge(collection: Collection, progress: Progress | None = None) -> None:
    """Make a segment of the vectors in memory and of segments that are not much larger.

    Complexity: A vector is rewritten O(log n) times while an index grows to n. Memory: that of `ann.build`.
    """
    with alone(collection.folder, patience=60.0):
        collection.refresh()
        clean(collection.store)
        names, delta, taken = _taken(collection.view())
        if not delta and len(names) < 2:
            return
        if names and choose(collection.store.meta("kind"), taken) != "flat":
            # That takes its time: what is in memory goes to disk before, and so does what comes meanwhile.
            names += _flushed(collection)
            _rewrite(collection, names, None, _flushing(collection, progress), delta=False)
        else:
            _rewrite(collection, names, None, progress)


def _taken(view: View) -> tuple[list[str], int, int]:
    """Segments that are not much larger than what is merged already, vectors in memory, and those of both."""
    delta = taken = view.parts[-1].n
    names: list[str] = []
    for segment in sorted((part for part in view.parts if isinstance(part, Segment)), key=lambda part: part.n):
        if segment.n > GROWTH * taken:
            break
        taken += segment.n
        names.append(segment.name)
    return names, delta, taken


def build(collection: Collection, kind: str | None = None, progress: Progress | None = None) -> None:
    """Make one segment of all vectors; a kind that is given becomes the index's own."""
    with alone(collection.folder, patience=60.0):
        view = collection.refresh()
        clean(collection.store)
        if kind is not None:
            with collection.store.writing() as db:
                db.execute("UPDATE meta SET value = ? WHERE key = 'kind'", [kind])
        _rewrite(collection, [name for name, _ in view.segments], kind, progress)


def compact(collection: Collection, progress: Progress | None = None) -> None:
    """`build`, then drop vectors of encoders that do not serve, and give free space back to the disk.

    Raises: UserError: a migration is under way.
    """
    store = collection.store
    if store.meta("next") is not None:
        raise UserError(f"{store.folder}: a migration is under way; finish it (action=migrate), then compact")
    build(collection, progress=progress)
    with alone(store.folder, patience=60.0):
        with store.writing() as db:
            encoder = db.execute("SELECT value FROM meta WHERE key = 'encoder'").fetchone()[0]
            for table in ("vectors", "segments", "encoders"):
                db.execute(f"DELETE FROM {table} WHERE encoder <> ?", [encoder])
        tidy(store, whole=True)
        with store.guarded():
            store.db.execute("VACUUM")
            store.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        clean(store)
    collection.refresh()


def snapshot(store: Store, target: Path) -> None:
    """A copy of this moment in a new folder; segments share their blocks with the index where the disk can.

    Raises: UserError: the folder is there already, or the disk is full.
    """
    if target.exists():
        raise UserError(f"out={target}: that is there already; name a new folder")
    try:
        with alone(store.folder, patience=60.0), atomic_folder(target) as temporary:
            with closing(sqlite3.connect(temporary / FILE)) as copy, store.guarded():
                store.db.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")
                names = [name for (name,) in copy.execute("SELECT name FROM segments")]
            for name in names:
                shutil.copytree(store.folder / FOLDER / name, temporary / FOLDER / name, copy_function=_linked)
    except OSError as error:
        raise UserError(f"out={target}: {error}; nothing was left there. Free space, or choose another disk") from error


def migrate(
    collection: Collection,
    encoder: Encoder,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> None:
    """Move the index to another encoder while the old one serves; call it again after an interruption.

    Writes of a process that knows both go to both, those of others are caught up with; the switch is the transaction
    that finds no document without a vector. The old vectors stay until `compact`: moving back encodes what came since.
    """
    store, digest = collection.store, digest_of(encoder)
    collection.know(encoder)
    with alone(store.folder, patience=60.0):
        with store.writing() as db:
            row = (digest, encoder.d, json.dumps(dict(encoder.fingerprint)), json.dumps(dict(settings or {})))
            db.execute("INSERT OR IGNORE INTO encoders (digest, d, fingerprint, settings) VALUES (?, ?, ?, ?)", row)
            number = int(db.execute("SELECT encoder FROM encoders WHERE digest = ?", [digest]).fetchone()[0])
            serving = db.execute("SELECT value FROM meta WHERE key = 'encoder'").fetchone()[0]
            db.execute("INSERT OR REPLACE INTO meta VALUES ('next', ?)", [number if number != serving else None])
        if number == serving:
            return
        clean(store)
        _encode_missing(collection, number, encoder, progress)
        old = [name for (name,) in store.db.execute("SELECT name FROM segments WHERE encoder = ?", [number])]
        with store.reading() as db:
            docs = np.array([d for (d,) in db.execute("SELECT doc FROM documents ORDER BY doc")], np.int64)
            high = int(db.execute("SELECT coalesce(max(vector), 0) FROM vectors").fetchone()[0])
        made = _made(store, number, docs, store.meta("kind"), progress)
        with collection.prepared(made):
            while not _switched(store, number, made, high, old):
                _encode_missing(collection, number, encoder, progress)
            collection.refresh()
        clean(store)


def _switched(store: Store, number: int, made: tuple[str, str] | None, high: int, old: Sequence[str]) -> bool:
    """Let another encoder serve, unless a document has no vector of it."""
    with store.writing() as db:
        if db.execute(f"SELECT EXISTS ({MISSING})", [number, 0]).fetchone()[0]:
            return False
        for name in old:
            db.execute("DELETE FROM segments WHERE name = ?", [name])
        if made is not None:
            db.execute("INSERT INTO segments VALUES (?, ?, ?, ?)", [made[0], number, high, made[1]])
        db.execute("UPDATE meta SET value = ? WHERE key = 'encoder'", [number])
        db.execute("DELETE FROM meta WHERE key = 'next'")
    return True


MISSING = (
    "SELECT doc, text FROM documents AS d WHERE NOT EXISTS"
    " (SELECT 1 FROM vectors AS v WHERE v.doc = d.doc AND v.encoder = ?) AND doc > ? ORDER BY doc"
)


def _encode_missing(collection: Collection, number: int, encoder: Encoder, progress: Progress | None) -> None:
    """Vectors of all documents that have none of an encoder, some documents a transaction."""
    store = collection.store
    policy, last, done = store.meta("policy"), 0, 0
    total = len(collection)
    while True:
        rows = store.db.execute(f"{MISSING} LIMIT {ENCODED}", [number, last]).fetchall()
        if not rows:
            return
        encoded = encoder.encode([text for _, text in rows], policy=policy)
        with store.writing() as db:
            for (doc, _), vectors in zip(rows, encoded, strict=True):
                there = db.execute("SELECT 1 FROM documents WHERE doc = ?", [doc]).fetchone()
                query = "SELECT 1 FROM vectors WHERE doc = ? AND encoder = ?"
                if there and db.execute(query, [doc, number]).fetchone() is None:
                    insert_vectors(db, doc, number, vector_rows(vectors))
        last, done = rows[-1][0], done + len(rows)
        if progress is not None:
            progress(min(done, total), total)


@contextmanager
def quietly() -> Iterator[None]:
    """What runs inside takes one thread, also in BLAS: searches would wait for products that share its threads."""
    with threadpool_limits(1, "blas"), one_thread():
        yield


def _give_back() -> None:
    """Memory that threads have freed, to the system: glibc keeps it for their next, which are other threads."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _flushed(collection: Collection) -> list[str]:
    """The vectors in memory as a flat segment, which takes a moment; its name, or nothing where none is left."""
    base = _base(collection.refresh(), [], delta=True)
    made = _made(collection.store, base.encoder, base.docs, "flat", None)
    if made is None:
        return []
    _publish(collection, base, made, [])
    _give_back()
    return [made[0]]


def _flushing(collection: Collection, progress: Progress | None) -> Progress:
    """Looks after the vectors in memory whenever it is told how far a merge is."""
    most = collection.merge_at or MERGE_AT

    def told(done: int, total: int) -> None:
        delta, live = collection.view().parts[-1], collection.view().lives[-1]
        if delta.n >= most and (live is None or live.count >= most):
            _flushed(collection)
        if progress is not None:
            progress(done, total)

    return told


def _rewrite(
    collection: Collection, names: list[str], kind: str | None, progress: Progress | None, *, delta: bool = True
) -> None:
    """One segment in the place of some, and of the delta unless that stays, from the store's own vectors."""
    base, store = _base(collection.view(), names, delta), collection.store
    made = _made(store, base.encoder, base.docs, kind or store.meta("kind"), progress)
    _publish(collection, base, made, names)
    clean(store)
    _give_back()


class _Base(NamedTuple):
    """What a new segment is made from: no view, whose vectors in memory would be kept as long."""

    encoder: int
    docs: Rows
    kept: list[Segment]
    high: int | None
    last_tombstone: int


def _base(view: View, names: Sequence[str], delta: bool) -> _Base:
    """Documents of some segments, and of the delta where that is wanted."""
    segments = [part for part in view.parts if isinstance(part, Segment)]
    docs = [segment.docs for segment in segments if segment.name in names]
    docs += [view.parts[-1].docs] if delta else []
    kept = [segment for segment in segments if segment.name not in names]
    # Without the delta it is no newer than the newest of them: others may come meanwhile.
    return _Base(
        view.encoder, np.unique(np.concatenate(docs)), kept, view.last_vector if delta else None, view.last_tombstone
    )


def _publish(collection: Collection, base: _Base, made: tuple[str, str] | None, names: Sequence[str]) -> None:
    """List a new segment in the place of some."""
    store = collection.store
    with collection.prepared(made) as segment:
        opened = base.kept if segment is None else [*base.kept, segment]
        gone = _forgotten(store, names, opened, base.last_tombstone)
        with store.writing() as db:
            if db.execute("SELECT value FROM meta WHERE key = 'encoder'").fetchone()[0] != base.encoder:
                raise UserError(f"{store.folder}: the encoder changed meanwhile; try again")
            highs = dict(db.execute("SELECT name, high FROM segments").fetchall())
            high = max(highs[name] for name in names) if base.high is None else base.high
            for name in names:
                db.execute("DELETE FROM segments WHERE name = ?", [name])
            if made is not None:
                db.execute("INSERT INTO segments VALUES (?, ?, ?, ?)", [made[0], base.encoder, high, made[1]])
            db.executemany("DELETE FROM tombstones WHERE seq = ?", gone)
        collection.refresh()


def _made(store: Store, encoder: int, docs: Rows, kind: str, progress: Progress | None) -> tuple[str, str] | None:
    """A new segment of documents, or None when none of them is left."""
    digest, d = store.db.execute("SELECT digest, d FROM encoders WHERE encoder = ?", [encoder]).fetchone()
    blocks = _blocks(store, encoder, docs, d, progress)
    first = next(blocks, None)
    if first is None:
        return None

    def every() -> Iterator[Block]:
        yield first
        yield from blocks

    with store.guarded():
        return write(store.folder, every(), d=d, encoder=digest, kind=kind, progress=progress)


def _blocks(store: Store, encoder: int, docs: Rows, d: int, progress: Progress | None) -> Iterator[Block]:
    """Vectors of documents in the order of (document, window); those deleted meanwhile are left out."""
    query = (
        "SELECT doc, window, start, stop, crc, data FROM vectors"
        " WHERE doc BETWEEN ? AND ? AND encoder = ? ORDER BY doc, window"
    )
    for begin in range(0, len(docs), BATCH):
        wanted = docs[begin : begin + BATCH]
        cursor = store.db.execute(query, [int(wanted[0]), int(wanted[-1]), encoder])
        while rows := cursor.fetchmany(BATCH):
            inside = np.isin(np.array([row[0] for row in rows], np.int64), wanted)
            rows = [row for row, there in zip(rows, inside, strict=True) if there]
            if rows:
                yield checked(store, rows, d)
        if progress is not None:
            progress(0, len(docs))


def _forgotten(store: Store, dropped: Sequence[str], opened: Sequence[Segment], last: int) -> list[tuple[int]]:
    """Tombstones up to one whose documents will be in no segment; later ones may be in the segment just written.

    Args:
        dropped: Segments that are about to go.
        opened: Those that are open, among them the one about to come.
    """
    rows = store.db.execute("SELECT seq, doc FROM tombstones WHERE seq <= ?", [last]).fetchall()
    if not rows:
        return []
    held = [segment.docs for segment in opened]
    known = {*dropped, *(segment.name for segment in opened)}
    for (name,) in store.db.execute("SELECT name FROM segments").fetchall():
        if name not in known:
            held.append(np.fromfile(store.folder / FOLDER / name / ROWS, np.int64).reshape(-1, 2)[:, 0])
    seqs, dead = np.array(rows, np.int64).T
    there = np.zeros(len(dead), np.bool_)
    for docs in held:
        there |= docs[np.minimum(docs.searchsorted(dead), len(docs) - 1)] == dead
    return [(int(seq),) for seq in seqs[~there]]


def clean(store: Store) -> list[Path]:
    """Remove what a killed process left, and segments that nothing lists; only inside `alone`."""
    folder = store.folder / FOLDER
    if not folder.is_dir():
        return []
    removed = remove_leftovers(folder)
    listed = {name for (name,) in store.db.execute("SELECT name FROM segments")}
    for path in folder.iterdir():
        if path.name not in listed:
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path)
    return removed


def _linked(source: str, target: str) -> str:
    """A hard link: files of segments never change. A copy where the disk has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
