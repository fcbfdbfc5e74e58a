"""Is everything what was written? Every file, document and vector against its checksum; and what can be saved."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from farfield.apps.retrieval.document import digest_of
from farfield.apps.retrieval.maintain import alone, build, clean
from farfield.apps.retrieval.postings import differing
from farfield.apps.retrieval.postings import rebuild as rebuild_words
from farfield.apps.retrieval.segment import FOLDER, Segment, check_file, manifest
from farfield.apps.retrieval.store import (
    FILE,
    RECORD,
    SOLE,
    WHOLE,
    Damaged,
    Store,
    insert,
    metadata_rows,
    record,
    unpacked,
)
from farfield.apps.retrieval.wal import damaged_frame
from farfield.apps.training.errors import UserError

if TYPE_CHECKING:
    from farfield.apps.retrieval.collection import Collection
    from farfield.apps.retrieval.encoder import Encoder

VECTOR = "window, start, stop, crc, data"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Damage:
    """Something that is not what was written.

    Args:
        where: The file, and the document where one is meant.
        what: What is wrong.
        kind: file, segment, words, vectors, metadata, document: decides the repair.
        id: Document.
    """

    where: str
    what: str
    kind: str
    id: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def verify(folder: Path, progress: Progress | None = None) -> list[Damage]:
    """All damage of an index: an empty list says that every byte that matters is what was written.

    Complexity: Reads everything once.
    """
    if not (folder / FILE).is_file():
        raise UserError(f"{folder} holds no index ({FILE} is not in it)")
    if (frame := damaged_frame(folder / f"{FILE}-wal")) is not None:
        what = f"the checksum of frame {frame} is wrong and commits lie behind it"
        return [Damage(str(folder / f"{FILE}-wal"), what, "log")]
    file = str(folder / FILE)
    try:
        with closing(Store(folder)) as store, store.guarded():
            # A text with a damaged byte is that document's damage, no end of the reading.
            store.db.text_factory = lambda raw: raw.decode("utf-8", errors="replace")
            found = [
                Damage(file, str(line), "file")
                for (line,) in store.db.execute("PRAGMA integrity_check")
                if line != "ok"
            ]
            return found or [*_documents(store, progress), *_words(store), *_segments(store)]
    except (Damaged, sqlite3.DatabaseError, UnicodeDecodeError) as error:
        return [Damage(file, str(error.__cause__ or error), "file")]


def repair(collection_folder: Path, encoder: Encoder | None = None) -> tuple[list[Damage], list[Damage]]:
    """Mend what can be mended.

    Args:
        collection_folder: The index; nothing else may have it open.
        encoder: Makes vectors again from stored text, where neither the store nor a segment has them.
    Returns: What was mended, and what was not: documents whose text is damaged are to be ingested again.
    """
    folder = collection_folder
    with alone(folder, patience=10.0):
        found = verify(folder)
        kinds = {damage.kind for damage in found}
        if "log" in kinds:
            log = folder / f"{FILE}-wal"
            # SQLite takes the frames before the bad one; the whole log is kept beside for inspection.
            shutil.copy2(log, log.with_name(f"{log.name}.damaged"))
            with closing(sqlite3.connect(folder / FILE)) as db:
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if "file" in kinds:
            _salvage(folder)
        lost = [damage for damage in found if damage.kind == "document"]
        if kinds & {"log", "file"}:
            found += [damage for damage in verify(folder) if damage.kind != "file"]
    if not found:
        return [], []
    left = _mend(folder, found, encoder)
    return [damage for damage in found if damage not in left], left + [d for d in lost if d not in left]


def _documents(store: Store, progress: Progress | None) -> Iterator[Damage]:
    """Texts, metadata and vectors of each document."""
    file = str(store.file)
    encoder = store.meta("encoder")
    d: dict[int, int] = dict(store.db.execute("SELECT encoder, d FROM encoders").fetchall())
    total = store.db.execute("SELECT count(*) FROM documents").fetchone()[0]
    cursor = store.db.cursor()
    for i, (doc, id, digest, title, metadata, text) in enumerate(
        cursor.execute("SELECT doc, id, digest, title, metadata, text FROM documents ORDER BY doc")
    ):
        where = f"{file}: document {id!r}"
        if digest_of(id, title, text, metadata) != bytes(digest):
            yield Damage(where, "text, title or metadata differ from their checksum; ingest it again", "document", id)
            continue
        kept = store.db.execute("SELECT key, value FROM metadata WHERE doc = ?", [doc]).fetchall()
        row = store.db.execute(f"SELECT {RECORD} FROM documents WHERE doc = ?", [doc]).fetchone()
        if set(kept) != set(metadata_rows(record(row).document.metadata)):
            yield Damage(where, "the table of filters differs from its metadata", "metadata", id)
        vectors = store.db.execute(f"SELECT encoder, {VECTOR} FROM vectors WHERE doc = ?", [doc]).fetchall()
        if not {WHOLE, SOLE} & {window for of, window, *_ in vectors if of == encoder}:
            yield Damage(where, "its vectors are missing", "vectors", id)
        for of, window, start, stop, crc, data in vectors:
            if unpacked(data, crc, doc, window, start, stop, d.get(of, 0)) is None:
                yield Damage(where, f"the vector of window {window} differs from its checksum", "vectors", id)
                break
        if progress is not None:
            progress(i + 1, total)
    lone = "SELECT count(*) FROM vectors WHERE doc NOT IN (SELECT doc FROM documents)"
    if count := store.db.execute(lone).fetchone()[0]:
        yield Damage(file, f"{count} vectors belong to no document", "vectors")


def _words(store: Store) -> Iterator[Damage]:
    """Does the table of words hold what the documents say?"""
    for doc, id in differing(store.db):
        where = f"{store.file}: document {id!r}" if doc else str(store.file)
        yield Damage(where, "the tables of words differ from the text", "words")


def _segments(store: Store) -> Iterator[Damage]:
    """Every file of every segment, and its vectors against the store's."""
    listed = store.db.execute("SELECT name, digest, encoder FROM segments").fetchall()
    for name, digest, _ in listed:
        path = store.folder / FOLDER / name
        try:
            for file, facts in manifest(path, digest)["files"].items():
                check_file(path / file, facts, whole=True)
        except Damaged as error:
            yield Damage(str(path), str(error).split(";")[0].removeprefix(f"{path}/"), "segment", name)
    if (store.folder / FOLDER).is_dir():
        for path in sorted((store.folder / FOLDER).iterdir()):
            if path.name not in {name for name, *_ in listed}:
                yield Damage(str(path), "belongs to no segment of the index (left by a killed process)", "leftover")


def differs_from_store(collection: Collection) -> list[str]:
    """Documents whose rows in memory and in segments are not, bit by bit, what the store would rebuild."""
    view, store = collection.refresh(), collection.store
    found: dict[tuple[int, int], Any] = {}
    for part, live in zip(view.parts, view.lives, strict=True):
        rows = np.arange(part.n) if live is None else live.rows
        for row in rows:
            key = (int(part.docs[row]), int(part.windows[row]))
            if key in found:
                return [f"document {key[0]}, window {key[1]} is there twice"]
            found[key] = part.vectors[row].tobytes()
    wanted = {
        (doc, window): data
        for doc, window, data in store.db.execute(
            "SELECT doc, window, data FROM vectors WHERE encoder = ?", [view.encoder]
        )
    }
    return [
        f"document {doc}, window {w}"
        for doc, w in set(found) | set(wanted)
        if found.get((doc, w)) != wanted.get((doc, w))
    ]


def _mend(folder: Path, found: list[Damage], encoder: Encoder | None) -> list[Damage]:
    """Repairs inside a readable store; returns what is left."""
    from farfield.apps.retrieval.collection import Collection

    left: list[Damage] = []
    rebuild = any(damage.kind in ("segment", "file") for damage in found)
    with closing(Store(folder)) as store, alone(folder, patience=10.0):
        for damage in found:
            if damage.kind == "document":
                _mend_document(store, damage.id)
                _mend_metadata(store, damage.id)
                left.append(damage)
            elif damage.kind == "metadata":
                _mend_metadata(store, damage.id)
            elif damage.kind == "vectors" and not _mend_vectors(store, damage.id, encoder):
                left.append(damage)
        if any(damage.kind in ("words", "document") for damage in found):
            with store.writing() as db:
                rebuild_words(db)
        if rebuild:
            with store.writing() as db:
                db.execute("DELETE FROM segments")
        clean(store)
    if rebuild:
        with Collection.open(folder, merge_at=None) as collection:
            build(collection)
    return left


def _mend_document(store: Store, id: str) -> None:
    """Make what is left of a damaged document readable; without a digest the next ingest replaces it."""
    with store.writing() as db:
        query = "SELECT CAST(title AS BLOB), CAST(metadata AS BLOB), CAST(text AS BLOB) FROM documents WHERE id = ?"
        title, metadata, text = (bytes(raw).decode(errors="replace") for raw in db.execute(query, [id]).fetchone())
        try:
            metadata_rows(json.loads(metadata))
        except (ValueError, AttributeError):
            metadata = "{}"
        change = "UPDATE documents SET digest = x'', title = ?, metadata = ?, text = ? WHERE id = ?"
        db.execute(change, [title, metadata, text, id])


def _mend_metadata(store: Store, id: str) -> None:
    with store.writing() as db:
        row = record(db.execute(f"SELECT {RECORD} FROM documents WHERE id = ?", [id]).fetchone())
        db.execute("DELETE FROM metadata WHERE doc = ?", [row.doc])
        rows = [(key, value, row.doc) for key, value in metadata_rows(row.document.metadata)]
        db.executemany("INSERT INTO metadata VALUES (?, ?, ?)", rows)


def _mend_vectors(store: Store, id: str, encoder: Encoder | None) -> bool:
    """Vectors of one document from a sound segment, or from its text."""
    if not id:
        with store.writing() as db:
            db.execute("DELETE FROM vectors WHERE doc NOT IN (SELECT doc FROM documents)")
        return True
    found = store.get(id)
    if found is None:
        return True
    serving = store.meta("encoder")
    digest, d = store.db.execute("SELECT digest, d FROM encoders WHERE encoder = ?", [serving]).fetchone()
    rows = store.db.execute(f"SELECT vector, {VECTOR} FROM vectors WHERE doc = ? AND encoder = ?", [found.doc, serving])
    known = rows.fetchall()
    copies = _copies(store, serving, found.doc)
    mended = []
    for vector, window, start, stop, crc, data in known:
        if unpacked(data, crc, found.doc, window, start, stop, d) is None:
            copy = copies.get(window, b"")
            if unpacked(copy, crc, found.doc, window, start, stop, d) is None:
                break
            mended.append((copy, vector))
    else:
        if {WHOLE, SOLE} & {row[1] for row in known}:
            with store.writing() as db:
                db.executemany("UPDATE vectors SET data = ? WHERE vector = ?", mended)
                db.execute("DELETE FROM vectors WHERE doc = ? AND encoder <> ?", [found.doc, serving])
            return True
    from farfield.apps.retrieval.collection import digest_of as fingerprint_of
    from farfield.apps.retrieval.collection import vector_rows

    if encoder is None or fingerprint_of(encoder) != digest:
        return False
    made = encoder.encode([found.document.text], policy=store.meta("policy"))[0]
    with store.writing() as db:
        # As a new document: a segment may hold rows of the old number.
        insert(db, found.document, made.n_tokens, made.truncated, {serving: vector_rows(made)})
    return True


def _copies(store: Store, encoder: int, doc: int) -> dict[int, bytes]:
    """What sound segments hold of a document."""
    found: dict[int, bytes] = {}
    for name, digest in store.db.execute("SELECT name, digest FROM segments WHERE encoder = ?", [encoder]).fetchall():
        try:
            segment = Segment(store.folder / FOLDER / name, digest)
        except Damaged:
            continue
        for row in segment.rows_of(np.array([doc])):
            found[int(segment.windows[row])] = segment.vectors[row].tobytes()
    return found


def _salvage(folder: Path) -> None:
    """A new store of all that can be read of a damaged one, which is kept beside as store.sqlite.damaged."""
    old = folder / f"{FILE}.damaged"
    for suffix in ("", "-wal"):
        if (path := folder / f"{FILE}{suffix}").exists():
            path.replace(folder / f"{old.name}{suffix}")
    (folder / f"{FILE}-shm").unlink(missing_ok=True)
    with closing(sqlite3.connect(old)) as db:
        db.text_factory = lambda raw: raw.decode("utf-8", errors="replace")
        try:
            meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
            encoders = db.execute("SELECT encoder, digest, d, fingerprint, settings FROM encoders").fetchall()
            serving = next(row for row in encoders if row[0] == meta["encoder"])
        except (sqlite3.DatabaseError, KeyError, StopIteration) as error:
            old.replace(folder / FILE)
            raise UserError(
                f"{folder / FILE}: {error}; its head cannot be read, nothing can be saved from it: put a snapshot in"
                " its place, or ingest again into a new folder"
            ) from error
        with closing(
            Store.create(folder, serving[1:], kind=meta.get("kind", "auto"), policy=meta.get("policy", "chunk"))
        ) as store:
            for doc in _numbers(db):
                _save_one(db, store, doc, serving[0], serving[2])


def _numbers(db: sqlite3.Connection) -> list[int]:
    """Numbers of documents, from whichever table gives most of them."""
    found: set[int] = set()
    for query in (
        "SELECT doc FROM documents NOT INDEXED",
        "SELECT doc FROM documents NOT INDEXED ORDER BY doc DESC",
        "SELECT doc FROM vectors",
    ):
        try:
            for (doc,) in db.execute(query):
                found.add(doc)
        except sqlite3.DatabaseError:
            continue
    return sorted(doc for doc in found if isinstance(doc, int))


def _save_one(db: sqlite3.Connection, store: Store, doc: int, encoder: int, d: int) -> None:
    """A document whose text agrees with its digest, with those of its vectors that agree with theirs."""
    from farfield.apps.retrieval.store import Row

    try:
        row = db.execute(f"SELECT {RECORD} FROM documents NOT INDEXED WHERE doc = ?", [doc]).fetchone()
        if row is None or digest_of(row[1], row[6], row[8], row[7]) != bytes(row[2]):
            return
        saved = record(row)
    except (sqlite3.DatabaseError, TypeError, ValueError, AttributeError):
        return
    rows: list[Row] = []
    try:
        query = f"SELECT {VECTOR} FROM vectors WHERE doc = ? AND encoder = ?"
        for window, start, stop, crc, data in db.execute(query, [doc, encoder]):
            vector = unpacked(data, crc, doc, window, start, stop, d)
            if vector is None:
                rows = []
                break
            rows.append(Row(window, start, stop, vector))
    except (sqlite3.DatabaseError, TypeError):
        rows = []
    with store.writing() as new:
        insert(new, saved.document, saved.n_tokens, saved.truncated, {1: rows} if rows else {})
