"""Few threads answer many searches: each its own, encoded together, and none for the fault of another."""

from __future__ import annotations

import json
import threading

import pytest

from farfield.apps.retrieval import search_threads
from farfield.apps.retrieval.collection import Collection
from farfield.apps.retrieval.document import Document
from farfield.apps.retrieval.search_threads import Search, SearchThreads
from farfield.apps.retrieval.serving_encoder import ServingEncoder
from farfield.apps.training.errors import UserError
from tests.apps.retrieval.fake_encoder import FakeEncoder

DOCUMENTS = [Document(f"d{i}", f"name{i} alpha beta") for i in range(40)]
PATIENCE = 20


class Gated(FakeEncoder):
    """Holds its first batch until it is let go; refuses queries with the word bad."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[str]] = []
        self.begun, self.free = threading.Event(), threading.Event()

    def encode_queries(self, texts, **how):
        self.batches.append(list(texts))
        self.begun.set()
        assert self.free.wait(PATIENCE)
        if any("bad" in text for text in texts):
            raise UserError("bad came")
        return super().encode_queries(texts, **how)


@pytest.fixture
def gated():
    return Gated()


@pytest.fixture
def index(tmp_path, gated):
    with Collection.create(tmp_path / "index", ServingEncoder(gated, FakeEncoder())) as made:
        made.add(DOCUMENTS)
        yield made


def search(query: str, mode: str = "hybrid") -> Search:
    return Search(query, 3, mode, "best", {})


def first(answer: bytes) -> str:
    return json.loads(answer)["hits"][0]["id"]


def test_queries_that_wait_are_encoded_together_and_each_gets_its_own_answer(index, gated):
    searches = SearchThreads(index)
    answers = [searches.ask(search("name0"))]
    assert gated.begun.wait(PATIENCE)
    answers += [searches.ask(search(f"name{i}", "dense" if i % 2 else "hybrid")) for i in range(1, 40)]
    gated.free.set()
    found = [first(answer.result(PATIENCE)) for answer in answers]
    assert gated.batches == [["name0"], [f"name{i}" for i in range(1, 40)]]
    wanted = [index.search(f"name{i}", 3, mode="dense" if i % 2 else "hybrid")[0].id for i in range(40)]
    assert found == wanted
    assert len(set(found)) > 20


def test_an_answer_is_the_library_s(index, gated):
    gated.free.set()
    for mode in ("hybrid", "dense", "bm25"):
        answer = json.loads(SearchThreads(index).ask(search("name7 alpha", mode)).result(PATIENCE))
        hits = index.search("name7 alpha", 3, mode=mode)
        assert answer == {"hits": [vars(hit) for hit in hits], "mode": mode, "by": "best"}


def test_words_do_not_wait_for_the_encoder(index, gated):
    searches = SearchThreads(index)
    held = searches.ask(search("name1"))
    assert gated.begun.wait(PATIENCE)
    # As many as there are threads: none of them may stand still for its turn to encode.
    waiting = [searches.ask(search("name2")) for _ in range(search_threads.THREADS)]
    assert first(searches.ask(search("name3", "bm25")).result(PATIENCE)) == "d3"
    assert not held.done()
    gated.free.set()
    assert [first(one.result(PATIENCE)) for one in (held, *waiting)] == ["d1"] + ["d2"] * len(waiting)


def test_a_query_that_is_refused_spoils_no_other(index, gated):
    searches = SearchThreads(index)
    answers = [searches.ask(search("name0"))]
    assert gated.begun.wait(PATIENCE)
    answers += [searches.ask(search(query)) for query in ("name1", "bad", "name2")]
    gated.free.set()
    with pytest.raises(UserError, match="bad came"):
        answers.pop(2).result(PATIENCE)
    assert [first(answer.result(PATIENCE)) for answer in answers] == ["d0", "d1", "d2"]


def test_a_search_that_is_cancelled_while_it_waits_is_never_made(index, gated):
    searches = SearchThreads(index)
    answers = [searches.ask(search("name0"))]
    assert gated.begun.wait(PATIENCE)
    answers += [searches.ask(search("name1")), searches.ask(search("name2"))]
    assert answers.pop(1).cancel()
    gated.free.set()
    assert [first(answer.result(PATIENCE)) for answer in answers] == ["d0", "d2"]
    assert gated.batches == [["name0"], ["name2"]]


def test_long_queries_fill_a_batch(index, gated, monkeypatch):
    monkeypatch.setattr(search_threads, "BATCH_CHARACTERS", 20)
    searches = SearchThreads(index)
    answers = [searches.ask(search("name0"))]
    assert gated.begun.wait(PATIENCE)
    answers += [searches.ask(search(f"name{i}")) for i in range(1, 12)]
    gated.free.set()
    assert [first(answer.result(PATIENCE)) for answer in answers] == [f"d{i}" for i in range(12)]
    assert max(map(len, gated.batches)) == 4


def test_what_another_encoder_made_of_a_query_is_not_taken(tmp_path):
    encoder = ServingEncoder(FakeEncoder(), FakeEncoder())
    other = ServingEncoder(FakeEncoder(salt="other"), FakeEncoder(salt="other"))
    vector = encoder.encode_queries(["alpha"])[0]
    with encoder.knowing("alpha", vector + 1):
        assert (encoder.encode_queries(["alpha"])[0] == vector + 1).all()
        assert (encoder.encode_queries(["beta"]) == FakeEncoder().encode_queries(["beta"])).all()
        assert (other.encode_queries(["alpha"]) == FakeEncoder(salt="other").encode_queries(["alpha"])).all()
    assert (encoder.encode_queries(["alpha"])[0] == vector).all()
    encoder.close()
    other.close()
