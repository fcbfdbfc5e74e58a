"""Which words stand in which documents, kept in SQLite with them, and ranked by BM25.

A run holds the postings of some documents, a row a word: packed pairs (document, occurrences). A write appends a run,
so it touches pages of its own alone; eight runs of like size become one. A deleted document loses its row in `lengths`;
its pairs are passed over from then on, and dropped when their run is merged. A word's postings are those of all runs.
"""

from __future__ import annotations

import hashlib
import math
import sqlite3
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from farfield.apps.retrieval import bm25

if TYPE_CHECKING:
    from farfield.apps.retrieval.store import Store

Docs = NDArray[np.int64]
Pairs = NDArray[np.void]
# As array("I") holds them; format and byte order are those of every machine that torch runs on.
PAIR = np.dtype([("doc", "<u4"), ("tf", "<u4")])
SCHEMA = (
    "CREATE TABLE lengths (doc INTEGER PRIMARY KEY, words INTEGER NOT NULL)",
    "CREATE TABLE runs (run INTEGER PRIMARY KEY AUTOINCREMENT, pairs INTEGER NOT NULL, docs BLOB NOT NULL)",
    "CREATE TABLE postings (run INTEGER NOT NULL, word TEXT NOT NULL, pairs BLOB NOT NULL, PRIMARY KEY (run, word))"
    " WITHOUT ROWID",
)
# Sums over all documents, in `meta`.
COUNTERS = {"documents": 0, "words": 0}
# Runs of like size, a factor of as many between the sizes, that become one.
FAN = 8
# Larger runs are merged in the background, some words a transaction, so that no write waits for them.
MERGED_IN_WRITE = 2**15
WORDS_AT_ONCE = 2048
# Size of a run that is being written, which is like no other.
OPEN = -1
# Pairs of one run where all postings are made again.
PAIRS_AT_ONCE = 2**20
PAIRS_OF = "SELECT word, pairs FROM postings WHERE run IN (SELECT run FROM runs) AND word IN ({})"
# Words of one statement.
WORDS_ASKED = 256
# Words of a query that decide which window of a document is shown.
DECIDING = 16


class Ranked(NamedTuple):
    """Documents with their BM25, best first, and what those of their words that decide are worth.

    Of a query's words the sixteen that are worth most decide, and of these those that are worth more than a tenth of
    the first.
    """

    scores: dict[int, float]
    worth: dict[int, dict[str, float]]


def count(title: str, text: str) -> Counter[str]:
    """The words of a document, those of its title too, and how often each occurs."""
    return bm25.counts(f"{title}\n{text}")


def add(db: sqlite3.Connection, counts: Mapping[int, Counter[str]]) -> None:
    """Write the postings of new documents inside a transaction.

    Args:
        counts: `count` of each document, by its number.
    """
    lengths = [(doc, words.total()) for doc, words in counts.items()]
    db.executemany("INSERT INTO lengths VALUES (?, ?)", lengths)
    _count(db, len(lengths), sum(words for _, words in lengths))
    every = [word for words in counts.values() for word in words]
    if every:
        _insert(db, _new_run(db, len(every), array("I", counts).tobytes()), _by_word(counts, every))
        while (some := _alike(db)) and sum(of for _, of in some) <= MERGED_IN_WRITE:
            _merge(db, [run for run, _ in some])


def _by_word(counts: Mapping[int, Counter[str]], every: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Each word with its packed pairs, words in rising order; `every` are the words of all documents, one by one."""
    words = sorted(set(every))
    places = {word: place for place, word in enumerate(words)}
    of = np.fromiter(map(places.__getitem__, every), np.int64, len(every))
    order = np.argsort(of, kind="stable")
    pairs = np.empty(len(every), PAIR)
    pairs["doc"] = np.repeat(np.fromiter(counts, np.int64), [len(words) for words in counts.values()])[order]
    pairs["tf"] = np.fromiter(chain.from_iterable(words.values() for words in counts.values()), np.int64)[order]
    data = pairs.tobytes()
    ends = (np.cumsum(np.bincount(of)) * PAIR.itemsize).tolist()
    for word, begin, end in zip(words, [0, *ends], ends, strict=False):
        yield word, data[begin:end]


def remove(db: sqlite3.Connection, doc: int) -> None:
    """Take a document out of all rankings inside a transaction."""
    row = db.execute("SELECT words FROM lengths WHERE doc = ?", [doc]).fetchone()
    if row is not None:
        db.execute("DELETE FROM lengths WHERE doc = ?", [doc])
        _count(db, -1, -row[0])


def rebuild(db: sqlite3.Connection) -> None:
    """Make all postings again from the documents, inside a transaction."""
    for table in ("lengths", "runs", "postings"):
        db.execute(f"DELETE FROM {table}")
    db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(COUNTERS.items()))
    counts: dict[int, Counter[str]] = {}
    pairs = 0
    for doc, title, text in db.cursor().execute("SELECT doc, title, text FROM documents ORDER BY doc"):
        counts[doc] = count(title, text)
        # One for the document, which costs room even where it has no words.
        pairs += len(counts[doc]) + 1
        if pairs > PAIRS_AT_ONCE:
            add(db, counts)
            counts, pairs = {}, 0
    add(db, counts)


def tidy(store: Store, *, whole: bool = False) -> None:
    """Merge runs of like size, or all into one: some words a transaction, between which others read and write.

    Only inside `maintain.alone`. A process that is killed leaves an open run, which the next call takes up.
    """
    while some := _untidy(store, whole):
        runs = [run for run, _ in some]
        # Looked for before: a write would wait. What is deleted from now on is dropped by the next merge.
        with store.reading() as db:
            docs, dead = _docs(db, runs), _dead(db, runs)
        with store.writing() as db:
            made = _new_run(db, OPEN, docs.tobytes())
        last: str | None = ""
        size = 0
        while last is not None:
            with store.writing() as db:
                upto = _upto(db, runs, last)
                size += _move(db, runs, made, last, upto, dead)
                last = upto
                if last is None:
                    _close(db, runs, made, docs, dead, size)
        if whole:
            return


class Words:
    """Ranks the documents of a store by BM25; safe in many threads, each with a transaction of its own."""

    def __init__(self) -> None:
        self._lengths = _Lengths(-1, 0, 0, 0, 0, np.full(1, -1, np.int32))

    def ranked(
        self, db: sqlite3.Connection, query: str, k: int, selected: Docs | None = None, *, worth: bool = False
    ) -> Ranked:
        """The k best documents of those that hold a word of the query.

        Args:
            db: A connection inside a transaction: all that is read has to be of one moment.
            query: Text.
            k: Documents wanted.
            selected: Numbers of the documents that may be in it; None is all.
            worth: Whether it is wanted which words a document holds.
        Returns: Documents, equal scores by number.
        Complexity: O(postings of the query's words).
        """
        lengths = self._lengths = _refreshed(db, self._lengths)
        wanted = bm25.query_words(query)
        numbers, pairs = _pairs(db, wanted)
        size = lengths.of(pairs["doc"])
        if (alive := size >= 0).sum() < len(pairs):
            numbers, pairs, size = numbers[alive], pairs[alive], size[alive]
        if not len(pairs):
            return Ranked({}, {})
        df = np.bincount(numbers, minlength=len(wanted))
        rarity = np.array([bm25.rarity(lengths.n, int(of)) for of in df])
        docs, ends = pairs["doc"], np.cumsum(df)
        slow = bm25.slowness(size.astype(np.float64), lengths.total / lengths.n)
        weights = bm25.weights(np.repeat(rarity, df), pairs["tf"].astype(np.float64), slow)
        if selected is not None:
            allowed = np.zeros(len(lengths.words), np.bool_)
            allowed[selected[selected < len(allowed)]] = True
            weights = np.where(allowed[docs], weights, 0.0)
        # Added in the order of the query's words, as `bm25.BM25` does: the sums are the same to the last bit.
        scores = np.bincount(docs, weights)
        best = np.flatnonzero(scores)
        if len(best) > k:
            best = best[scores[best] >= np.partition(scores[best], -k)[-k]]
        best = best[np.lexsort((best, -scores[best]))[:k]]
        held: dict[int, dict[str, float]] = {int(doc): {} for doc in best} if worth else {}
        there = np.flatnonzero(df) if worth else np.empty(0, np.int64)
        deciding = there[np.argsort(-rarity[there], kind="stable")][:DECIDING]
        for number in deciding[rarity[deciding] > rarity[deciding[:1]] / 10].tolist():
            holders = docs[ends[number] - df[number] : ends[number]]
            for doc in best[np.isin(best, holders)].tolist():
                held[doc][wanted[number]] = float(rarity[number])
        return Ranked({int(doc): float(scores[doc]) for doc in best}, held)


def _pairs(db: sqlite3.Connection, words: Sequence[str]) -> tuple[Docs, Pairs]:
    """The postings of words, in their order, and the place of its word for each."""
    found: list[list[bytes]] = [[] for _ in words]
    places = {word: place for place, word in enumerate(words)}
    for begin in range(0, len(words), WORDS_ASKED):
        some = words[begin : begin + WORDS_ASKED]
        for word, data in db.execute(PAIRS_OF.format(", ".join("?" * len(some))), some):
            found[places[word]].append(data)
    joined = [b"".join(parts) for parts in found]
    numbers = np.repeat(np.arange(len(words)), [len(data) // PAIR.itemsize for data in joined])
    return numbers, np.frombuffer(b"".join(joined), PAIR)


def differing(db: sqlite3.Connection) -> Iterator[tuple[int, str]]:
    """Documents (number, id) whose postings are not what their text says; number 0 for what belongs to none.

    Complexity: Reads all texts and all postings once; 16 bytes a document in memory.
    """
    top = int(db.execute("SELECT coalesce(max(doc), 0) FROM documents").fetchone()[0])
    sums = np.zeros(top + 1, np.uint64)
    odd = False
    for word, data in db.cursor().execute("SELECT word, pairs FROM postings WHERE run IN (SELECT run FROM runs)"):
        if len(data) % PAIR.itemsize:
            odd = True
            continue
        pairs = np.frombuffer(data, PAIR)
        pairs = pairs[pairs["doc"] <= top]
        np.add.at(sums, pairs["doc"], np.uint64(_mark(word)) * pairs["tf"].astype(np.uint64))
    lengths: dict[int, int] = dict(db.execute("SELECT doc, words FROM lengths").fetchall())
    documents = words = 0
    for doc, id, title, text in db.cursor().execute("SELECT doc, id, title, text FROM documents ORDER BY doc"):
        counts = count(title, text)
        expected = sum(_mark(word) * times for word, times in counts.items()) % 2**64
        documents, words = documents + 1, words + counts.total()
        if lengths.pop(doc, None) != counts.total() or int(sums[doc]) != expected:
            yield doc, id
    kept = dict(db.execute("SELECT key, value FROM meta WHERE key IN ('documents', 'words')").fetchall())
    if odd or lengths or kept != {"documents": documents, "words": words}:
        yield 0, ""


class _Lengths(NamedTuple):
    """Words of each document of one version of the store, by number; -1 where there is none, and at the end."""

    version: int
    n: int
    total: int
    last: int
    tombstone: int
    words: NDArray[np.int32]

    def of(self, docs: NDArray[np.uint32]) -> NDArray[np.int32]:
        """Words of documents; what came and went between two looks at the store lies beyond the end."""
        return self.words[np.minimum(docs, len(self.words) - 1)]


def _refreshed(db: sqlite3.Connection, old: _Lengths) -> _Lengths:
    """The lengths of now, from older ones where the log of deleted documents still reaches back to these."""
    meta = dict(db.execute("SELECT key, value FROM meta WHERE key IN ('version', 'documents', 'words')").fetchall())
    if meta["version"] == old.version:
        return old
    rows = np.array(db.execute("SELECT doc, words FROM lengths WHERE doc > ?", [old.last]).fetchall(), np.int64)
    gone = np.array(db.execute("SELECT seq, doc FROM tombstones WHERE seq > ?", [old.tombstone]).fetchall(), np.int64)
    rows, gone = rows.reshape(-1, 2), gone.reshape(-1, 2)
    last = int(rows[:, 0].max(initial=old.last))
    words = np.full(last + 2, -1, np.int32)
    words[: len(old.words)] = old.words
    words[rows[:, 0]] = rows[:, 1]
    words[gone[gone[:, 1] <= last, 1]] = -1
    tombstone = int(gone[:, 0].max(initial=old.tombstone))
    new = _Lengths(meta["version"], meta["documents"], meta["words"], last, tombstone, words)
    if old.version >= 0 and int((words >= 0).sum()) != new.n:
        return _refreshed(db, _Lengths(-1, 0, 0, 0, tombstone, np.full(1, -1, np.int32)))
    return new


def _count(db: sqlite3.Connection, documents: int, words: int) -> None:
    db.execute("UPDATE meta SET value = value + ? WHERE key = 'documents'", [documents])
    db.execute("UPDATE meta SET value = value + ? WHERE key = 'words'", [words])


def _new_run(db: sqlite3.Connection, pairs: int, docs: bytes) -> int:
    return int(db.execute("INSERT INTO runs (pairs, docs) VALUES (?, ?)", [pairs, docs]).lastrowid or 0)


def _insert(db: sqlite3.Connection, run: int, rows: Iterable[tuple[str, bytes]]) -> None:
    """Write words with their pairs; the cheapest is the order of the words."""
    db.executemany("INSERT INTO postings VALUES (?, ?, ?)", ((run, word, pairs) for word, pairs in rows))


def _alike(db: sqlite3.Connection) -> list[tuple[int, int]]:
    """Runs (number, pairs) of the smallest size of which there are eight; empty where there is none."""
    sizes: dict[int, list[tuple[int, int]]] = {}
    for run, pairs in db.execute("SELECT run, pairs FROM runs WHERE pairs <> ? ORDER BY run", [OPEN]):
        sizes.setdefault(int(math.log(max(pairs, 1), FAN)), []).append((run, pairs))
    return next((runs for _, runs in sorted(sizes.items()) if len(runs) >= FAN), [])


def _untidy(store: Store, whole: bool) -> list[tuple[int, int]]:
    """Runs (number, pairs) that are to become one."""
    with store.reading() as db:
        if not whole:
            left = [(run, 0) for (run,) in db.execute("SELECT run FROM runs WHERE pairs = ?", [OPEN])]
            return left + _alike(db)
        every = [(int(run), int(pairs)) for run, pairs in db.execute("SELECT run, pairs FROM runs")]
        return every if len(every) > 1 or len(_dead(db, [run for run, _ in every])) else []


def _merge(db: sqlite3.Connection, runs: Sequence[int]) -> None:
    """One run in the place of some, in one transaction."""
    docs, dead = _docs(db, runs), _dead(db, runs)
    made = _new_run(db, OPEN, docs.tobytes())
    _close(db, runs, made, docs, dead, _move(db, runs, made, "", None, dead))


def _docs(db: sqlite3.Connection, runs: Sequence[int]) -> NDArray[np.uint32]:
    """Documents of runs, in rising order."""
    rows = db.execute(f"SELECT docs FROM runs WHERE run IN ({_list(runs)})")
    return np.unique(np.frombuffer(b"".join(docs for (docs,) in rows), "<u4"))


def _dead(db: sqlite3.Connection, runs: Sequence[int]) -> Docs:
    """Documents of runs that are deleted, in rising order."""
    docs = _docs(db, runs).astype(np.int64)
    if not len(docs):
        return docs
    query = "SELECT doc FROM lengths WHERE doc BETWEEN ? AND ?"
    alive = np.fromiter((doc for (doc,) in db.execute(query, [int(docs[0]), int(docs[-1])])), np.int64)
    return np.setdiff1d(docs, alive, assume_unique=True)


def _move(db: sqlite3.Connection, runs: Sequence[int], made: int, after: str, upto: str | None, dead: Docs) -> int:
    """Move the postings of words in (after, upto] into another run, those of dead documents nowhere; returns bytes."""
    where, values = f"run IN ({_list(runs)}) AND word > ?", [after]
    if upto is not None:
        where, values = f"{where} AND word <= ?", [after, upto]
    found: dict[str, list[bytes]] = {}
    for word, data in db.execute(f"SELECT word, pairs FROM postings WHERE {where}", values):
        found.setdefault(word, []).append(data)
    rows = {word: b"".join(parts) for word, parts in found.items()}
    if len(dead):
        gone = np.zeros(int(dead[-1]) + 2, np.bool_)
        gone[dead] = True
        rows = {word: kept for word, data in rows.items() if (kept := _without(data, gone))}
    db.execute(f"DELETE FROM postings WHERE {where}", values)
    _insert(db, made, sorted(rows.items()))
    return sum(map(len, rows.values()))


def _upto(db: sqlite3.Connection, runs: Sequence[int], after: str) -> str | None:
    """A word so far behind another one that no run has more than WORDS_AT_ONCE in between; None is the end."""
    query = "SELECT word FROM postings WHERE run = ? AND word > ? ORDER BY word LIMIT 1 OFFSET ?"
    found = [db.execute(query, [run, after, WORDS_AT_ONCE - 1]).fetchone() for run in runs]
    return min((row[0] for row in found if row is not None), default=None)


def _without(data: bytes, gone: NDArray[np.bool_]) -> bytes:
    pairs = np.frombuffer(data, PAIR)
    kept: bytes = pairs[~gone[np.minimum(pairs["doc"], len(gone) - 1)]].tobytes()
    return kept


def _close(
    db: sqlite3.Connection, runs: Sequence[int], made: int, docs: NDArray[np.uint32], dead: Docs, size: int
) -> None:
    """The new run stands for the others: they are forgotten, its bytes and documents are noted."""
    db.execute(f"DELETE FROM runs WHERE run IN ({_list(runs)})")
    kept = np.setdiff1d(docs, dead).astype("<u4")
    db.execute("UPDATE runs SET pairs = ?, docs = ? WHERE run = ?", [size // PAIR.itemsize, kept.tobytes(), made])


def _list(runs: Sequence[int]) -> str:
    return ", ".join(str(int(run)) for run in runs)


@lru_cache(2**16)
def _mark(word: str) -> int:
    """64 bits of a word."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
