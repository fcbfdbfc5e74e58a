"""The tables of words: the same scores as BM25 in memory, through merges, kills, damage and older formats."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from farfield.apps.retrieval import maintain, postings
from farfield.apps.retrieval.bm25 import BM25
from farfield.apps.retrieval.collection import Collection
from farfield.apps.retrieval.document import Document
from farfield.apps.retrieval.store import FILE
from farfield.apps.retrieval.verify import repair, verify
from tests.apps.retrieval.fake_encoder import FakeEncoder

rng = random.Random(7)
# Zipf's law, as words are.
VOCABULARY = [f"w{i}" for i in range(400)]
WEIGHTS = [1 / (i + 1) for i in range(400)]


def document(i: int) -> Document:
    text = " ".join(rng.choices(VOCABULARY, WEIGHTS, k=rng.randrange(1, 80)))
    return Document(f"d{i}", text, title=rng.choice(VOCABULARY))


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Collection]:
    with Collection.create(tmp_path / "index", FakeEncoder(), merge_at=None) as made:
        yield made


def runs(index: Collection) -> list[int]:
    return [pairs for (pairs,) in index.store.db.execute("SELECT pairs FROM runs ORDER BY run")]


def agrees(index: Collection, known: dict[str, Document]) -> None:
    ids = list(known)
    model = BM25(f"{known[id].title}\n{known[id].text}" for id in ids)
    for query in ("w0 w1 w2", "w399 w17 w3 w17", "w200", "unknown", " ".join(VOCABULARY)):
        scores = {id: float(score) for id, score in zip(ids, model.scores(query), strict=True) if score > 0}
        hits = index.search(query, 20, mode="bm25")
        assert [hit.score for hit in hits] == sorted(scores.values(), reverse=True)[:20]
        assert all(scores[hit.id] == hit.score for hit in hits)


def test_scores_are_those_of_bm25_to_the_last_bit_through_all_that_changes_an_index(index: Collection) -> None:
    known: dict[str, Document] = {}
    for step in range(60):
        some = [document(rng.randrange(120)) for _ in range(rng.choice([1, 1, 1, 9]))]
        index.add(some)
        known |= {d.id: d for d in some}
        if step % 4 == 3:
            gone = rng.sample(sorted(known), 3)
            index.delete(gone)
            known = {id: d for id, d in known.items() if id not in gone}
        if step % 10 == 9:
            agrees(index, known)
    assert len(runs(index)) < 30
    with maintain.alone(index.folder):
        postings.tidy(index.store, whole=True)
    agrees(index, known)
    lengths = index.store.db.execute("SELECT count(*) FROM lengths WHERE words > 0").fetchone()[0]
    documents = np.unique(
        np.concatenate(
            [np.frombuffer(p, postings.PAIR)["doc"] for (p,) in index.store.db.execute("SELECT pairs FROM postings")]
        )
    )
    # Nothing of deleted documents is left.
    assert (len(runs(index)), len(documents)) == (1, lengths)


def test_a_merge_that_is_killed_between_two_transactions_loses_no_word(
    index: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postings, "MERGED_IN_WRITE", 0)
    monkeypatch.setattr(postings, "WORDS_AT_ONCE", 5)
    known = {d.id: d for d in map(document, range(30))}
    for one in known.values():
        index.add([one])
    move = postings._move
    left = 0

    def killed(*how: object) -> int:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        return move(*how)  # type: ignore[arg-type]

    monkeypatch.setattr(postings, "_move", killed)
    for left in (4, 1, 2, 2):  # noqa: B007
        with pytest.raises(KeyboardInterrupt), maintain.alone(index.folder):
            postings.tidy(index.store)
        assert postings.OPEN in runs(index)
        agrees(index, known)
        index.delete(["d3"])
        known.pop("d3", None)
        agrees(index, known)
    monkeypatch.setattr(postings, "_move", move)
    with maintain.alone(index.folder):
        postings.tidy(index.store)
    assert postings.OPEN not in runs(index)
    assert len(runs(index)) < postings.FAN
    agrees(index, known)
    assert verify(index.folder) == []


def test_deletes_of_another_process_are_seen_after_their_log_is_cleared(index: Collection) -> None:
    known = {d.id: d for d in map(document, range(20))}
    index.add(list(known.values()))
    agrees(index, known)
    with Collection.open(index.folder, FakeEncoder(), merge_at=None) as other:
        other.delete(["d1", "d2"])
        other.add([Document("new", "w0 w1")])
        maintain.build(other)
        assert other.store.db.execute("SELECT count(*) FROM tombstones").fetchone()[0] == 0
    known = {id: d for id, d in known.items() if id not in ("d1", "d2")} | {"new": Document("new", "w0 w1")}
    agrees(index, known)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE postings SET pairs = zeroblob(8) WHERE word = 'w0'",
        "UPDATE postings SET pairs = zeroblob(3) WHERE word = 'w0'",
        "DELETE FROM postings WHERE word = 'w1'",
        "UPDATE lengths SET words = words + 1 WHERE doc = 3",
        "INSERT INTO lengths VALUES (999, 5)",
        "UPDATE meta SET value = 3 WHERE key = 'words'",
        "DELETE FROM runs",
    ],
)
def test_damage_to_the_words_is_named_and_mended(index: Collection, statement: str) -> None:
    known = {d.id: d for d in (document(i) for i in range(10))} | {"both": Document("both", "w0 w1")}
    index.add(list(known.values()))
    index.close()
    with closing(sqlite3.connect(index.folder / FILE)) as db:
        db.execute(statement)
        db.commit()
    assert {damage.kind for damage in verify(index.folder)} == {"words"}
    mended, left = repair(index.folder)
    assert mended
    assert left == []
    assert verify(index.folder) == []
    with Collection.open(index.folder, FakeEncoder(), merge_at=None) as again:
        agrees(again, known)


def test_an_index_of_format_1_is_upgraded_when_it_is_opened(index: Collection) -> None:
    known = {d.id: d for d in map(document, range(30))}
    index.add(list(known.values()))
    index.close()
    with closing(sqlite3.connect(index.folder / FILE)) as db:
        for table in ("lengths", "runs", "postings"):
            db.execute(f"DROP TABLE {table}")
        db.execute("CREATE VIRTUAL TABLE fulltext USING fts5(title, text, content='documents', content_rowid='doc')")
        db.execute("DELETE FROM meta WHERE key IN ('documents', 'words')")
        db.execute("UPDATE meta SET value = 1 WHERE key = 'format'")
        db.commit()
    with Collection.open(index.folder, FakeEncoder(), merge_at=None) as again:
        agrees(again, known)
        again.delete(["d0"])
        known.pop("d0")
        agrees(again, known)
    assert verify(index.folder) == []


def test_a_document_without_words_counts_and_is_found_by_none(index: Collection) -> None:
    index.add([Document("empty", ""), Document("marks", "... !?", title="--"), Document("one", "w0")])
    assert [hit.id for hit in index.search("w0", mode="bm25")] == ["one"]
    assert index.search("...", mode="bm25") == []
    assert index.search("w0", mode="bm25")[0].score == BM25(["", "", "w0"]).scores("w0")[2]
    assert verify(index.folder) == []


def test_texts_without_words_are_made_again_some_at_a_time(index: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have no pairs that would fill a run, and still no more documents are held at once than a run has pairs."""
    index.add([*(Document(f"e{i}", "") for i in range(100)), Document("one", "w0")])
    add, taken = postings.add, []

    def noted(db: sqlite3.Connection, counts: Mapping[int, Counter[str]]) -> None:
        taken.append(len(counts))
        add(db, counts)

    monkeypatch.setattr(postings, "PAIRS_AT_ONCE", 10)
    monkeypatch.setattr(postings, "add", noted)
    with index.store.writing() as db:
        postings.rebuild(db)
    assert sum(taken) == 101
    assert max(taken) <= 11
    assert len(runs(index)) == 1
    assert verify(index.folder) == []
