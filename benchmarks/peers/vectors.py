"""Full text of SQLite, and LanceDB, over the same documents and vectors: one interface.

A peer keeps windows with their document and a number from 0 to 99, and answers with documents: best first.
"""

from __future__ import annotations

import importlib.util
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farfield.apps.retrieval.bm25 import words

Vectors = NDArray[np.float32]
# Windows that a peer without groups is asked for, to have ten documents among them.
WINDOWS = 400


class FullText:
    """FTS5 alone: BM25, no vectors."""

    name = "sqlite-fts5"

    def __init__(self, folder: Path, d: int) -> None:
        self.db = sqlite3.connect(folder / "text.sqlite")
        self.db.executescript(
            "PRAGMA journal_mode=WAL; CREATE TABLE documents (doc INTEGER PRIMARY KEY, id TEXT, part INTEGER);"
            "CREATE INDEX parts ON documents (part); CREATE VIRTUAL TABLE texts USING fts5 (text)"
        )

    def add(self, ids: Sequence[str], texts: Sequence[str], parts: Sequence[int], windows: Sequence[Vectors]) -> None:
        """Documents in one transaction."""
        with self.db:
            for i, (id, text, part) in enumerate(zip(ids, texts, parts, strict=True), 1):
                self.db.execute("INSERT INTO documents VALUES (?, ?, ?)", (i, id, part))
                self.db.execute("INSERT INTO texts (rowid, text) VALUES (?, ?)", (i, text))

    def search(self, text: str, vector: Vectors, part: int | None) -> list[str]:
        """Ids of the best ten documents."""
        asked = " OR ".join(f'"{w}"' for w in dict.fromkeys(words(text)))
        only, values = (
            ("", []) if part is None else (" AND rowid IN (SELECT doc FROM documents WHERE part = ?)", [part])
        )
        inside = f"SELECT rowid FROM texts WHERE texts MATCH ?{only} ORDER BY rank LIMIT 10"
        found = self.db.execute(inside, [asked, *values]).fetchall()
        return [self.db.execute("SELECT id FROM documents WHERE doc = ?", row).fetchone()[0] for row in found]

    def close(self) -> None:
        """Close the file."""
        self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.db.close()


class Lance:
    """LanceDB: exact search of the windows (no index at this size), the documents of the best 400 of them."""

    name = "lancedb"

    def __init__(self, folder: Path, d: int) -> None:
        import lancedb

        self.db = lancedb.connect(str(folder))
        self.table: Any = None

    def add(self, ids: Sequence[str], texts: Sequence[str], parts: Sequence[int], windows: Sequence[Vectors]) -> None:
        """Documents and their windows; the text stands in a table of its own."""
        rows = [
            {"vector": vector, "id": id, "part": part}
            for id, part, vectors in zip(ids, parts, windows, strict=True)
            for vector in vectors
        ]
        self.db.create_table("texts", [{"id": id, "text": t} for id, t in zip(ids, texts, strict=True)])
        self.table = self.db.create_table("windows", rows)

    def search(self, text: str, vector: Vectors, part: int | None) -> list[str]:
        """Ids of the best ten documents."""
        query = self.table.search(vector).distance_type("dot").select(["id", "_distance"]).limit(WINDOWS)
        if part is not None:
            query = query.where(f"part = {part}", prefilter=True)
        found = query.to_arrow().column("id").to_pylist()
        return list(dict.fromkeys(found))[:10]

    def close(self) -> None:
        """Nothing is left open."""


PEERS: Mapping[str, Any] = {"sqlite3": FullText, "lancedb": Lance}


def installed() -> list[Any]:
    """The peers whose packages are here."""
    return [peer for module, peer in PEERS.items() if importlib.util.find_spec(module) is not None]
