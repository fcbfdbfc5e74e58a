"""A merge into lists takes its time: what is written, deleted and asked meanwhile, and what a kill leaves of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from farfield.apps.retrieval import ann, maintain
from farfield.apps.retrieval.collection import Collection
from farfield.apps.retrieval.document import Document
from farfield.apps.retrieval.encoder import Encoding
from farfield.apps.retrieval.segment import FOLDER
from farfield.apps.retrieval.verify import differs_from_store, verify
from tests.apps.retrieval.fake_encoder import FakeEncoder

D = 16
SPANS = np.array([[0, 4]])


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collection]:
    """Segments of 3,000 and 1,500 rows and a delta of 1,000; from 4,000 rows on lists are made."""
    monkeypatch.setattr(ann, "SCAN_ROWS", 4_000)
    with Collection.create(tmp_path / "index", FakeEncoder(d=D), merge_at=None) as made:
        put(made, 0, 3_000)
        maintain.merge(made)
        put(made, 3_000, 1_000)
        maintain._flushed(made)
        put(made, 4_000, 1_000)
        yield made


def vector(i: int) -> np.ndarray:
    x = np.random.default_rng(i).standard_normal(D).astype(np.float32)
    return x / np.linalg.norm(x)


def put(index: Collection, first: int, count: int) -> None:
    rows = range(first, first + count)
    documents = [Document(f"d{i}", f"text {i}") for i in rows]
    index.put(documents, [Encoding(vector(i), vector(i)[None], SPANS, 1, False) for i in rows])


def sizes(index: Collection) -> list[tuple[str, int]]:
    return [(part.kind, part.n) for part in index.view().parts[:-1]]


def meanwhile(index: Collection) -> tuple[list[int], Callable[[int, int], None]]:
    """Writes 200 documents and deletes an old one and a new one whenever a merge says how far it is, ten times."""
    written = [5_000]

    def told(done: int, total: int) -> None:
        if written[0] < 7_000:
            put(index, written[0], 200)
            index.delete([f"d{written[0] - 4_500}", f"d{written[0] + 7}"])
            written[0] += 200
            last = index.search(vector(written[0] - 1), 1)[0]
            assert last.id == f"d{written[0] - 1}"
            assert last.score == pytest.approx(1, abs=1e-6)

    return written, told


def holds_what_was_written(index: Collection) -> None:
    gone = {i - 4_500 for i in range(5_000, 7_000, 200)} | {i + 7 for i in range(5_000, 7_000, 200)}
    assert len(index) == 7_000 - len(gone)
    assert differs_from_store(index) == []
    for i in (0, 2_999, 3_500, 4_999, 5_006, 6_999, *gone):
        hit = index.search(vector(i), 1)[0]
        assert (hit.id == f"d{i}") == (i not in gone)


def test_writes_beside_a_merge_into_lists_go_to_disk_and_stay(index: Collection) -> None:
    index.merge_at = 500
    written, told = meanwhile(index)
    maintain.merge(index, told)
    assert written == [7_000]
    listed = [n for kind, n in sizes(index) if kind == "ivf-pq"]
    # Some were deleted before they were read.
    assert len(listed) == 1
    assert 4_990 <= listed[0] <= 5_000
    # Nothing but what came after the last look lies in memory.
    assert index.view().parts[-1].n < 500 + 200
    assert sum(kind == "flat" for kind, _ in sizes(index)) >= 3
    holds_what_was_written(index)
    maintain.merge(index)
    holds_what_was_written(index)
    maintain.build(index)
    assert len(sizes(index)) == 1
    holds_what_was_written(index)
    assert index.store.db.execute("SELECT count(*) FROM tombstones").fetchone()[0] == 0
    assert verify(index.folder) == []


def test_a_merge_into_lists_that_is_killed_has_lost_nothing_of_what_came_meanwhile(index: Collection) -> None:
    index.merge_at = 500
    written, told = meanwhile(index)

    def killed(done: int, total: int) -> None:
        told(done, total)
        if written[0] == 7_000:
            raise KeyboardInterrupt

    before = sizes(index)
    with pytest.raises(KeyboardInterrupt):
        maintain.merge(index, killed)
    assert len(sizes(index)) > len(before)
    with Collection.open(index.folder, FakeEncoder(d=D), merge_at=None) as again:
        holds_what_was_written(again)
        maintain.merge(again)
        holds_what_was_written(again)
    assert verify(index.folder) == []
    assert len(list((index.folder / FOLDER).iterdir())) == len(sizes(index))


def test_a_view_that_is_older_than_a_merge_still_answers(index: Collection) -> None:
    view = index.view()
    maintain.merge(index)
    assert [size[0] for size in sizes(index)] == ["ivf-pq"]
    places = view.search(vector(4_321)[None], 1)[0]
    assert places[0].score == pytest.approx(1, abs=1e-6)


def test_the_delta_after_a_merge_is_the_one_that_is_read_again(index: Collection) -> None:
    index.merge_at = 10**6
    _, told = meanwhile(index)
    maintain.merge(index, told)
    carried = index.view().parts[-1]
    with Collection.open(index.folder, FakeEncoder(d=D), merge_at=None) as again:
        read = again.view().parts[-1]
        live = carried.live if hasattr(carried, "live") else np.ones(carried.n, np.bool_)
        assert np.array_equal(carried.docs[live], read.docs)
        assert np.array_equal(carried.vectors[live], read.vectors)
        assert again.view().last_vector == index.view().last_vector
