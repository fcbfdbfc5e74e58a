"""The truth of an index: one SQLite file with documents, metadata, windows, vectors and words.

Names: n vectors, d their width. A document has a number (`doc`) that is never given twice; a vector has one (`vector`)
that grows with time. Windows of a document are counted from 0.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from farfield.apps.retrieval import postings
from farfield.apps.retrieval.document import Document
from farfield.apps.retrieval.wal import damaged_frame
from farfield.apps.training.atomic import atomic_file
from farfield.apps.training.errors import UserError

log = logging.getLogger(__name__)
Vectors = NDArray[np.float32]
FILE = "store.sqlite"
FORMAT = 2
# Windows that are none: the vector of the whole text, and the only vector of a text that is one window.
WHOLE, SOLE = -1, -2
# Parameters of one statement.
PARAMETERS = 500
# Seconds that a writer waits for another process.
PATIENCE = 60.0
SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "CREATE TABLE encoders (encoder INTEGER PRIMARY KEY AUTOINCREMENT, digest TEXT NOT NULL UNIQUE, d INTEGER NOT NULL,"
    " fingerprint TEXT NOT NULL, settings TEXT NOT NULL)",
    "CREATE TABLE documents (doc INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, digest BLOB NOT NULL,"
    " n_tokens INTEGER NOT NULL, truncated INTEGER NOT NULL, added REAL NOT NULL, source TEXT NOT NULL,"
    " title TEXT NOT NULL, metadata TEXT NOT NULL, text TEXT NOT NULL)",
    "CREATE TABLE metadata (key TEXT NOT NULL, value NOT NULL, doc INTEGER NOT NULL, PRIMARY KEY (key, value, doc))"
    " WITHOUT ROWID",
    "CREATE INDEX metadata_of ON metadata (doc)",
    "CREATE TABLE vectors (vector INTEGER PRIMARY KEY AUTOINCREMENT, encoder INTEGER NOT NULL, doc INTEGER NOT NULL,"
    " window INTEGER NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL, crc INTEGER NOT NULL,"
    " data BLOB NOT NULL)",
    "CREATE UNIQUE INDEX vectors_of ON vectors (doc, encoder, window, start, stop)",
    "CREATE TABLE tombstones (seq INTEGER PRIMARY KEY AUTOINCREMENT, doc INTEGER NOT NULL)",
    "CREATE TABLE segments (name TEXT PRIMARY KEY, encoder INTEGER NOT NULL, high INTEGER NOT NULL,"
    " digest TEXT NOT NULL) WITHOUT ROWID",
    *postings.SCHEMA,
)


class Damaged(UserError):
    """A file of an index is not what was written; the message names it and the repair."""


class Unavailable(UserError):
    """The disk is full or someone else holds the store; what was acknowledged stands, the call may succeed later."""


class Row(NamedTuple):
    """A vector of a document: window -1 is the whole text, start and stop are its characters."""

    window: int
    start: int
    stop: int
    data: Vectors


class Record(NamedTuple):
    """A document as the store keeps it."""

    doc: int
    document: Document
    digest: bytes
    n_tokens: int
    truncated: bool


class Store:
    """Connections to store.sqlite, one a thread; every write is one transaction that is on disk when it returns.

    Args:
        folder: Folder of the index.
    Raises: UserError: there is no index; Damaged: its head or log is not what was written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / FILE
        self._local = threading.local()
        self._all: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._write = threading.Lock()
        if not self.file.is_file():
            raise UserError(f"{folder} holds no index ({FILE} is not in it); farfield retrieval ingest makes one")
        if (frame := damaged_frame(folder / f"{FILE}-wal")) is not None:
            raise Damaged(
                f"{self.file}-wal: the checksum of frame {frame} is wrong and commits lie behind it: they are lost with"
                f" it. farfield retrieval index index={folder} action=repair keeps what is before it; then ingest again"
            )
        with self.guarded():
            if self.meta("format") == 1:
                self._upgrade()
            if self.meta("format") != FORMAT:
                raise UserError(
                    f"{self.file}: format {self.meta('format')} came, format {FORMAT} is accepted: ingest the documents"
                    " into a new folder"
                )

    @classmethod
    def create(cls, folder: Path, encoder: tuple[str, int, str, str], **meta: Any) -> Store:
        """A new store with one encoder (digest, d, fingerprint, settings); it is there whole or not at all.

        Raises: UserError: the folder holds one already, or cannot be written to.
        """
        if (folder / FILE).exists():
            raise UserError(f"{folder} holds an index already; open it, or choose another folder")
        try:
            with atomic_file(folder / FILE) as temporary, closing(sqlite3.connect(temporary)) as db:
                # Five vectors of 768 numbers fill such a page; one leaves a quarter of the usual one empty.
                db.execute("PRAGMA page_size = 16384")
                for statement in SCHEMA:
                    db.execute(statement)
                values = {"format": FORMAT, "version": 0, "encoder": 1, **postings.COUNTERS, **meta}
                db.execute("INSERT INTO encoders VALUES (1, ?, ?, ?, ?)", encoder)
                db.executemany("INSERT INTO meta VALUES (?, ?)", list(values.items()))
                db.commit()
        except (OSError, sqlite3.OperationalError) as error:
            raise UserError(
                f"no index can be made in {folder} ({error}); free space, or choose another place"
            ) from error
        return cls(folder)

    @property
    def db(self) -> sqlite3.Connection:
        """This thread's connection."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self.file, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            # One a thread; the system keeps pages too.
            connection.execute("PRAGMA cache_size = -4096")
            connection.execute("PRAGMA mmap_size = 0")
            self._local.connection = connection
            with self._lock:
                self._all.append(connection)
        return connection

    def release(self) -> None:
        """Close this thread's connection: for a thread that ends."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            del self._local.connection
            with self._lock:
                self._all.remove(connection)
            connection.close()

    def close(self) -> None:
        """Close the connections of all threads; the last one to close moves the log into the file."""
        with self._lock:
            for connection in self._all:
                connection.close()
            self._all.clear()
        self._local = threading.local()

    def _upgrade(self) -> None:
        """Format 1 had its words in a table of FTS5: they are read again, in one transaction."""
        log.warning("%s: of an older format; its words are read again", self.file)
        with self.writing() as db:
            if self.meta("format") == 1:
                for statement in postings.SCHEMA:
                    db.execute(statement)
                postings.rebuild(db)
                db.execute("DROP TABLE fulltext")
                db.execute("UPDATE meta SET value = ? WHERE key = 'format'", [FORMAT])

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that no other writer shares: all of it is on disk after the block, or nothing.

        Raises: UserError: the disk is full or another process holds the index; what was acknowledged before stands.
        """
        with self._write, self.guarded():
            db = self.db
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("UPDATE meta SET value = value + 1 WHERE key = 'version'")
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A block whose statements all see one state."""
        with self.guarded():
            db = self.db
            db.execute("BEGIN")
            try:
                yield db
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """SQLite's errors that a user can do something about, in words."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            # Python's own error of a text that is no UTF-8 has no code.
            undecodable = code == 0 and "Could not decode" in str(error)
            if undecodable or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise Damaged(
                    f"{self.file}: {error}; farfield retrieval index index={self.folder} action=verify says what is"
                    " damaged, action=repair saves what can be read"
                ) from error
            if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                raise Unavailable(
                    f"{self.file}: {error}; nothing of this write was stored, everything before it is. Free space on"
                    " the disk and write again"
                ) from error
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
                raise Unavailable(
                    f"{self.file}: {error}; end the process that writes there, or check the rights"
                ) from error
            raise

    def meta(self, key: str) -> Any:
        """A value of the index as a whole: format, version, encoder, next; None where it is not set."""
        row = self.db.execute("SELECT value FROM meta WHERE key = ?", [key]).fetchone()
        return None if row is None else row[0]

    def get(self, id: str) -> Record | None:
        """A document by its id."""
        with self.guarded():
            row = self.db.execute(f"SELECT {RECORD} FROM documents WHERE id = ?", [id]).fetchone()
        return None if row is None else record(row)

    def records(self, docs: Sequence[int]) -> dict[int, Record]:
        """Documents by number; those that are gone are left out."""
        found: dict[int, Record] = {}
        with self.guarded():
            for begin in range(0, len(docs), PARAMETERS):
                some = [int(doc) for doc in docs[begin : begin + PARAMETERS]]
                query = f"SELECT {RECORD} FROM documents WHERE doc IN ({', '.join('?' * len(some))})"
                found |= {row[0]: record(row) for row in self.db.execute(query, some)}
        return found

    def spans(self, windows: Sequence[tuple[int, int]], encoder: int) -> dict[int, tuple[int, int]]:
        """By document, the characters of its given window (document, window); those that are gone are left out."""
        found: dict[int, tuple[int, int]] = {}
        for begin in range(0, len(windows), PARAMETERS // 2):
            some = windows[begin : begin + PARAMETERS // 2]
            # CROSS JOIN keeps this order; the index holds all that is asked for, so that no vector is read.
            query = (
                f"WITH wanted (doc, window) AS (VALUES {', '.join(['(?, ?)'] * len(some))})"
                " SELECT v.doc, v.start, v.stop FROM wanted w"
                " CROSS JOIN vectors v ON v.doc = w.doc AND v.encoder = ? AND v.window = w.window"
            )
            values = [*(int(number) for pair in some for number in pair), encoder]
            found |= {doc: (start, stop) for doc, start, stop in self.db.execute(query, values)}
        return found

    def windows(self, docs: Sequence[int], encoder: int) -> dict[int, list[tuple[int, int]]]:
        """By document, the characters of its windows in their order; those that are gone are left out."""
        # The index holds all that is asked for, so that no vector is read.
        query = "SELECT start, stop FROM vectors WHERE doc = ? AND encoder = ? AND window <> ? ORDER BY window"
        found = {doc: self.db.execute(query, [int(doc), encoder, WHOLE]).fetchall() for doc in docs}
        return {doc: spans for doc, spans in found.items() if spans}

    def digests(self, ids: Sequence[str]) -> dict[str, bytes]:
        """Digests of those documents that are there, by id."""
        found = {}
        with self.guarded():
            for id in ids:
                row = self.db.execute("SELECT digest FROM documents WHERE id = ?", [id]).fetchone()
                if row is not None:
                    found[id] = bytes(row[0])
        return found


RECORD = "doc, id, digest, n_tokens, truncated, source, title, metadata, text"


def record(row: Sequence[Any]) -> Record:
    """A row of RECORD as a document; what the store holds was checked when it came in."""
    doc, id, digest, n_tokens, truncated, source, title, metadata, text = row
    document = Document.__new__(Document)
    for name, value in (("id", id), ("text", text), ("title", title), ("source", source)):
        object.__setattr__(document, name, value)
    try:
        object.__setattr__(document, "metadata", dict(json.loads(metadata)))
    except (ValueError, TypeError) as error:
        raise Damaged(
            f"document {id!r}: its metadata are damaged ({error}); farfield retrieval index action=repair makes it"
            " readable, then ingest it again"
        ) from error
    return Record(doc, document, bytes(digest), n_tokens, bool(truncated))


def insert(
    db: sqlite3.Connection, document: Document, n_tokens: int, truncated: bool, vectors: dict[int, list[Row]]
) -> int:
    """Write a document with its vectors, by encoder, inside a transaction; one of the same id is replaced."""
    doc = insert_unworded(db, document, n_tokens, truncated, vectors)
    postings.add(db, {doc: postings.count(document.title, document.text)})
    return doc


def insert_unworded(
    db: sqlite3.Connection, document: Document, n_tokens: int, truncated: bool, vectors: dict[int, list[Row]]
) -> int:
    """`insert` without the words: `postings.add` of many documents at once is quicker."""
    remove(db, document.id)
    made = db.execute(
        "INSERT INTO documents (id, digest, n_tokens, truncated, added, source, title, metadata, text)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            document.id,
            document.digest,
            n_tokens,
            truncated,
            time.time(),
            document.source,
            document.title,
            document.metadata_json,
            document.text,
        ],
    )
    doc = int(made.lastrowid or 0)
    db.executemany("INSERT INTO metadata VALUES (?, ?, ?)", ((k, v, doc) for k, v in metadata_rows(document.metadata)))
    for encoder, rows in vectors.items():
        insert_vectors(db, doc, encoder, rows)
    return doc


def insert_vectors(db: sqlite3.Connection, doc: int, encoder: int, rows: Sequence[Row]) -> None:
    """Write the vectors of a document inside a transaction."""
    made = ((encoder, doc, r.window, r.start, r.stop, *packed(r, doc)) for r in rows)
    db.executemany(
        "INSERT INTO vectors (encoder, doc, window, start, stop, crc, data) VALUES (?, ?, ?, ?, ?, ?, ?)", made
    )


def remove(db: sqlite3.Connection, id: str) -> bool:
    """Delete a document and all that belongs to it inside a transaction; False where there is none."""
    row = db.execute("SELECT doc FROM documents WHERE id = ?", [id]).fetchone()
    if row is None:
        return False
    doc = int(row[0])
    postings.remove(db, doc)
    for table in ("metadata", "vectors", "documents"):
        db.execute(f"DELETE FROM {table} WHERE doc = ?", [doc])
    db.execute("INSERT INTO tombstones (doc) VALUES (?)", [doc])
    return True


def metadata_rows(metadata: Any) -> list[tuple[str, Any]]:
    """Name and value of everything that a filter can ask for; null is absence, a list is each of its entries."""
    rows: dict[tuple[str, str, Any], None] = {}
    for key, value in metadata.items():
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if one is not None:
                # 1, 1.0 and true are one value to SQLite.
                rows[(key, "text" if isinstance(one, str) else "number", one)] = None
    return [(key, one) for key, _, one in rows]


def packed(row: Row, doc: int) -> tuple[int, bytes]:
    """Checksum and bytes of a vector; whose it is and where its text lies go into the checksum."""
    raw = np.ascontiguousarray(row.data, np.float32).tobytes()
    return zlib.crc32(raw, _seed(doc, row.window, row.start, row.stop)), raw


def unpacked(raw: bytes, crc: int, doc: int, window: int, start: int, stop: int, d: int) -> Vectors | None:
    """The vector; None where its bytes are not what was written."""
    if len(raw) != 4 * d or zlib.crc32(raw, _seed(doc, window, start, stop)) != crc:
        return None
    return np.frombuffer(raw, np.float32)


def _seed(*whose: int) -> int:
    return zlib.crc32(repr(whose).encode())
