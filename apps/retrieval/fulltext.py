"""Words: a text as a query of FTS5, its ranking, and the window that holds most of the words."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence

# Letters, digits and what combines with them: what FTS5's unicode61 keeps.
WORD = re.compile(r"[^\W_]+")
# A query as long as a document costs as much as it has different words; the rarest decide anyway.
MAX_WORDS = 1024


def words(text: str) -> list[str]:
    """Different words of a text in their order, lower case, at most 1,024."""
    found: dict[str, None] = {}
    for match in WORD.finditer(text):
        found[match.group().lower()] = None
        if len(found) == MAX_WORDS:
            break
    return list(found)


def expression(text: str) -> str:
    """FTS5 expression that finds any of the words; empty where there is none. Nothing of the text acts as syntax."""
    return " OR ".join(f'"{word}"' for word in words(text))


def ranked(
    connection: sqlite3.Connection, text: str, k: int, selected: Sequence[int] | None = None
) -> list[tuple[int, float]]:
    """Numbers of the best k documents and their BM25 (k1 = 1.2, b = 0.75), best first.

    Args:
        selected: Numbers of the documents that may be in it; None is all.
    """
    asked = expression(text)
    if not asked:
        return []
    only, values = "", [asked]
    if selected is not None:
        connection.execute("CREATE TEMP TABLE IF NOT EXISTS selected (doc INTEGER PRIMARY KEY)")
        connection.execute("DELETE FROM selected")
        connection.executemany("INSERT INTO selected VALUES (?)", ((int(doc),) for doc in selected))
        only = " AND rowid IN (SELECT doc FROM selected)"
    query = f"SELECT rowid, -rank FROM fulltext WHERE fulltext MATCH ?{only} ORDER BY rank, rowid LIMIT ?"
    return [(int(doc), float(score)) for doc, score in connection.execute(query, [*values, k])]


def best_window(text: str, windows: Sequence[tuple[int, int]], query: str) -> int:
    """Number of the window with most different words of the query; the first of equals."""
    asked = set(words(query))
    counts = [len(asked & {m.group().lower() for m in WORD.finditer(text, a, b)}) for a, b in windows]
    return counts.index(max(counts))
