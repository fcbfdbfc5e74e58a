"""From the store to a view: the first one whole, later ones by what has changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from farfield.apps.retrieval.delta import Delta
from farfield.apps.retrieval.exact import Chosen, Rows, Vectors
from farfield.apps.retrieval.segment import FOLDER, Segment
from farfield.apps.retrieval.store import Damaged, Store, unpacked
from farfield.apps.retrieval.view import Part, View

NUMBERS = "SELECT value FROM meta WHERE key = ?"
VECTORS = "SELECT vector, doc, window, start, stop, crc, data FROM vectors"
# Vectors read at once from the store.
BATCH = 256
# A segment may be merged away between its name being read and its files being opened.
ATTEMPTS = 5


def load_view(store: Store, old: View | None, device: str, ready: Mapping[str, Segment] | None = None) -> View:
    """The store's state of now, with as much as possible of an older view.

    Args:
        ready: Segments by name that are open already.
    Raises: Damaged: a segment or a vector is not what was written.
    """
    for _ in range(ATTEMPTS):
        try:
            return _load(store, old, device, ready or {})
        except _Gone:
            continue
    return _load(store, old, device, ready or {})


class _Gone(Exception):
    """A segment that the store no longer lists."""


def _load(store: Store, old: View | None, device: str, ready: Mapping[str, Segment]) -> View:
    with store.reading() as db:
        version, encoder = (db.execute(NUMBERS, [key]).fetchone()[0] for key in ("version", "encoder"))
        if old is not None and old.version == version:
            return old
        listed = db.execute("SELECT name, digest, encoder, high FROM segments ORDER BY high, name").fetchall()
        names = tuple(name for name, *_ in listed)
        mine = [(name, digest) for name, digest, of, _ in listed if of == encoder]
        high = max((high for *_, of, high in listed if of == encoder), default=0)
        digest, d = db.execute("SELECT digest, d FROM encoders WHERE encoder = ?", [encoder]).fetchone()
        same = old is not None and old.encoder == encoder and old.all_segments == names
        last_tombstone = old.last_tombstone if old is not None and same else 0
        delta, last_vector = Delta(d, high), high
        if old is not None and old.encoder == encoder:
            older = old.parts[-1]
            assert isinstance(older, Delta)
            if same:
                delta, last_vector = older, old.last_vector
            elif older.since <= high:
                # What came while a merge ran is in memory already.
                delta, last_vector = older.after(high), max(high, old.last_vector)
        tombstones = db.execute("SELECT seq, doc FROM tombstones WHERE seq > ?", [last_tombstone]).fetchall()
        numbers, docs, windows, vectors = _new_vectors(store, db, encoder, last_vector, d)
    dead = np.unique(np.array([doc for _, doc in tombstones], np.int64))
    delta = delta.grown(numbers, docs, windows, vectors, dead)
    segments: list[Segment] = []
    lives: list[Chosen | None] = []
    known = {part.name: part for part in (old.parts if old is not None else ()) if isinstance(part, Segment)}
    for i, (name, manifest) in enumerate(mine):
        segment = known.get(name) or ready.get(name) or _opened(store, store.folder / FOLDER / name, manifest, device)
        segments.append(segment)
        lives.append(_masked(old.lives[i] if old is not None and same else None, segment, dead))
    parts: tuple[Part, ...] = (*segments, delta)
    return View(
        version,
        encoder,
        digest,
        parts,
        (*lives, None if delta.live.all() else Chosen(delta.live)),
        tuple(mine),
        names,
        int(numbers[-1]) if len(numbers) else last_vector,
        max((seq for seq, _ in tombstones), default=last_tombstone),
    )


def _opened(store: Store, path: Path, digest: str, device: str) -> Segment:
    try:
        return Segment(path, digest, device)
    except Damaged:
        with store.guarded():
            listed = store.db.execute("SELECT 1 FROM segments WHERE name = ?", [path.name]).fetchone()
        if listed is None:
            raise _Gone from None
        raise


def _masked(live: Chosen | None, segment: Segment, dead: Rows) -> Chosen | None:
    rows = segment.rows_of(dead)
    if not len(rows):
        return live
    mask = np.ones(segment.n, np.bool_) if live is None else live.mask.copy()
    mask[rows] = False
    return Chosen(mask)


def _new_vectors(
    store: Store, db: sqlite3.Connection, encoder: int, after: int, d: int
) -> tuple[Rows, Rows, Rows, Vectors]:
    """Numbers, documents, windows and vectors that came after one, some read at a time."""
    cursor = db.execute(f"{VECTORS} WHERE vector > ? AND encoder = ? ORDER BY vector", [after, encoder])
    numbers: list[Rows] = [np.empty(0, np.int64)]
    found = [checked(store, [], d)]
    while rows := cursor.fetchmany(BATCH):
        numbers.append(np.array([row[0] for row in rows], np.int64))
        found.append(checked(store, [row[1:] for row in rows], d))
    docs, windows, vectors = (np.concatenate(column) for column in zip(*found, strict=True))
    return np.concatenate(numbers), docs, windows, vectors


def checked(store: Store, rows: Sequence[Sequence[object]], d: int) -> tuple[Rows, Rows, Vectors]:
    """Documents, windows and vectors of rows (doc, window, start, stop, crc, data).

    Raises: Damaged: the bytes of one are not what was written.
    """
    vectors = np.empty((len(rows), d), np.float32)
    for i, (doc, window, start, stop, crc, data) in enumerate(rows):
        vector = unpacked(data, crc, doc, window, start, stop, d)  # type: ignore[arg-type]
        if vector is None:
            raise Damaged(
                f"{store.file}: vector of document {doc}, window {window} differs from its checksum;"
                f" farfield retrieval index index={store.folder} action=repair makes it again"
            )
        vectors[i] = vector
    docs = np.array([row[0] for row in rows], np.int64)
    return docs, np.array([row[1] for row in rows], np.int64), vectors
