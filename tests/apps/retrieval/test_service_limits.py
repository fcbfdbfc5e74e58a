"""What the service refuses, and with which reason: sizes, times, numbers, tokens, paths, SQL."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farfield.apps.cli.compose import composed
from farfield.apps.retrieval.collection import Collection
from farfield.apps.retrieval.document import Document
from farfield.apps.retrieval.serve import serve
from farfield.apps.retrieval.service import service
from farfield.apps.retrieval.service_guard import Deadline, Expired, Limits
from farfield.apps.retrieval.serving_encoder import Unloadable
from farfield.apps.training.errors import UserError
from tests.apps.retrieval.fake_encoder import FakeEncoder
from tests.apps.retrieval.served import LIMITS, write


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        ("/search", {"query": "a", "k": 0}, 422, "body.k"),
        ("/search", {"query": "a", "mod": "dense"}, 422, "body.mod"),
        ("/search", {"query": "a", "filters": {"x": {"like": 1}}}, 422, "eq, ne, in"),
        ("/search", {"query": "a" * 10_000_000}, 413, "at most"),
        ("/search", {"query": "a " * 6000}, 422, "6000 tokens came"),
        ("/documents", {"documents": []}, 422, "body.documents"),
        ("/documents", {"documents": [{"id": "a\u0000", "text": "b"}]}, 422, "control characters"),
        ("/documents", {"documents": [{"id": str(i), "text": "b"} for i in range(9)]}, 413, "at most 8"),
        ("/embed", {"inputs": ["a"] * 9}, 413, "at most 8"),
        ("/v1/embeddings", {"input": [1, 2]}, 422, "token ids came"),
        ("/v1/embeddings", {"input": [[1], [2, 3]]}, 422, "a text or a list of texts is accepted"),
        ("/v1/embeddings", {"input": [1.5]}, 422, "body.input"),
        ("/v1/embeddings", {"input": ["a"] * 9}, 413, "at most 8"),
        ("/documents", {"documents": [{"id": "a", "source": "/etc/passwd"}]}, 422, "body.documents.0.text"),
        ("/documents", {"documents": [{"id": "a", "text": "b", "source": "/etc/passwd"}]}, 422, "documents.0.source"),
        ("/documents", {"documents": [{"path": "/etc/passwd"}]}, 422, "documents.0.path"),
        ("/documents", {"data": "/etc"}, 422, "body.data"),
        ("/nowhere", {}, 404, "Not Found"),
    ],
)
def test_a_refusal_is_json_with_its_reason(client, path, body, status, reason):
    answer = client.post(path, json=body)
    assert answer.status_code == status
    assert reason in answer.json()["error"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"query": "\\ud800"}', b'{"query": NaN}', b'{"query":' + b"[" * 50_000, b"\xff\xfe"]
)
def test_a_body_that_is_no_request_is_refused(client, content):
    answer = client.post("/search", content=content, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]


def test_a_body_without_a_length_is_cut_off(client):
    answer = client.post("/search", content=(b"x" * 2**17 for _ in range(20)))
    assert answer.status_code == 413


def test_a_token_is_asked_for_and_never_shown(collection):
    client = TestClient(service(collection, LIMITS, token="secret"))
    assert client.post("/search", json={"query": "a"}).status_code == 401
    assert client.get("/metrics").status_code == 401
    assert client.get("/openapi.json").status_code == 401
    assert client.post("/search", json={"query": "a"}, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert client.post("/search", json={"query": "a"}, headers={"Authorization": "Bearer secret"}).status_code == 200
    assert client.get("/health").status_code == 200


def test_a_path_is_text_like_any_other(client):
    write(client, **{"../../etc/passwd": "/etc/passwd file:///etc/passwd"})
    assert client.get("/documents/..%2F..%2Fetc%2Fpasswd").json()["text"] == "/etc/passwd file:///etc/passwd"
    assert client.get("/documents/%2Fetc%2Fpasswd").status_code == 404


@pytest.mark.parametrize("evil", ["'; DROP TABLE documents; --", '" OR "1"="1', "x') OR 1=1 --", '" NEAR * AND -'])
def test_sql_is_text_like_any_other(client, collection, evil):
    write(client, a="alpha", b="beta")
    one = {"id": evil, "text": evil, "metadata": {evil: evil}}
    assert client.post("/documents", json={"documents": [one]}).json()["new"] == [evil]
    for body in ({"filters": {evil: evil}}, {"filters": {evil: {"gte": evil}}}):
        hits = client.post("/search", json={"query": evil, **body}).json()["hits"]
        assert [hit["id"] for hit in hits] == [evil]
    assert collection.delete([evil]) == 1
    assert len(collection) == 2


@pytest.mark.parametrize(
    "text", ["\0" * 10_000_000, "\U0001f600" * 2_500_000, "a" * 10_000_000], ids=["NUL", "face", "a"]
)
def test_ten_megabytes_are_one_text(collection, text):
    client = TestClient(service(collection, Limits(body=2**27, tokens=10**7)))
    data = json.dumps({"documents": [{"id": "a", "text": text}]}, ensure_ascii=False).encode()
    answer = client.post("/documents", content=data, headers={"content-type": "application/json"})
    assert answer.json()["new"] == ["a"]
    assert client.get("/documents/a").json()["text"] == text
    assert client.post("/search", json={"query": text[:100]}).json()["hits"][0]["id"] == "a"


def test_an_encoder_that_cannot_be_loaded_is_said_without_its_folder(tmp_path):
    def load(settings):
        raise Unloadable("encoder=/secret/folder: there is none")

    Collection.create(tmp_path / "index", FakeEncoder()).close()
    with Collection.open(tmp_path / "index", load=load) as moved, Collection.open(tmp_path / "index") as without:
        for collection in (moved, without):
            answer = TestClient(service(collection, LIMITS)).post("/search", json={"query": "a"})
            assert (answer.status_code, answer.json()["error_type"]) == (503, "unavailable")
            assert "/" not in answer.json()["error"]


def test_one_request_too_many_is_refused(tmp_path):
    begun, free = threading.Event(), threading.Event()

    class Held(FakeEncoder):
        def encode(self, texts, **how):
            begun.set()
            assert free.wait(20)
            return super().encode(texts, **how)

    with Collection.create(tmp_path / "index", Held()) as collection:
        client = TestClient(service(collection, Limits(concurrency=1)))
        first = threading.Thread(target=write, args=(client,), kwargs={"a": "alpha"})
        first.start()
        assert begun.wait(20)
        answer = client.get("/documents/a")
        assert (answer.status_code, answer.json()["error_type"]) == (429, "overloaded")
        assert answer.headers["retry-after"] == "1"
        free.set()
        first.join()
        assert client.get("/documents/a").json()["text"] == "alpha"
        assert 'route="refused",status="429"} 1' in client.get("/metrics").text


def test_too_many_at_once_and_too_slow_are_said(tmp_path):
    class Slow(FakeEncoder):
        def encode(self, texts, **how):
            time.sleep(0.8)
            return super().encode(texts, **how)

    limits = Limits(concurrency=2, seconds=0.3)
    with Collection.create(tmp_path / "index", Slow()) as collection:
        client = TestClient(service(collection, limits))
        answers: list[int] = []
        calls = [
            threading.Thread(target=lambda i=i: answers.append(write(client, **{f"d{i}": "a"}).status_code))
            for i in range(5)
        ]
        for call in calls:
            call.start()
        for call in calls:
            call.join()
        assert sorted(set(answers)) in ([429, 503], [503])
        assert client.get("/health").status_code == 200
        assert len(collection) == 0
        time.sleep(2)
        # What was refused is not stored later either.
        assert len(collection) == 0


def test_a_search_past_its_time_is_refused_at_once_and_the_next_is_answered(tmp_path):
    free = threading.Event()

    class Held(FakeEncoder):
        def encode_queries(self, texts, **how):
            assert free.wait(20)
            return super().encode_queries(texts, **how)

    with Collection.create(tmp_path / "index", Held()) as collection:
        collection.add([Document("a", "alpha")])
        with TestClient(service(collection, Limits(seconds=0.3))) as client:
            for _ in range(3):
                answer = client.post("/search", json={"query": "alpha"})
                assert (answer.status_code, answer.json()["error_type"]) == (503, "timeout")
            free.set()
            assert client.post("/search", json={"query": "alpha"}).json()["hits"][0]["id"] == "a"


def test_a_write_past_its_time_that_commits_already_is_answered(collection):
    begun, writing = threading.Event(), collection.store.writing

    @contextmanager
    def slow():
        with writing() as db:
            yield db
            begun.set()
            time.sleep(0.6)

    collection.store.writing = slow
    client = TestClient(service(collection, Limits(seconds=0.3)))
    assert write(client, a="alpha").json()["new"] == ["a"]
    assert begun.is_set()
    assert client.delete("/documents/a").json() == {"deleted": "a"}
    assert len(collection) == 0


def test_a_deadline_is_settled_once():
    late, early = Deadline(), Deadline()
    late.check(False)
    assert late.expire()
    with pytest.raises(Expired):
        late.check(True)
    early.check(True)
    assert not early.expire()
    early.check(False)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(id=st.text(max_size=20), text=st.text(max_size=200), metadata=json_values, filters=json_values, query=st.text())
def test_no_text_id_or_filter_ends_in_a_500(client, id, text, metadata, filters, query):
    def send(path: str, body: object) -> int:
        data = json.dumps(body).encode()
        return client.post(path, content=data, headers={"content-type": "application/json"}).status_code

    assert send("/documents", {"documents": [{"id": id, "text": text, "metadata": metadata}]}) in (200, 422)
    assert send("/search", {"query": query, "filters": filters}) in (200, 422)
    assert send("/search", {"query": text, "mode": "bm25"}) in (200, 422)


def test_the_page_runs_its_own_script_only(client):
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in answer.text.replace("http-equiv", "")
    assert "innerHTML" not in answer.text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"host": "0.0.0.0"}, "set FARFIELD_TOKEN to a secret first"),
        ({"host": "example.org"}, "set FARFIELD_TOKEN to a secret first"),
        ({"limits": {"bodi": 1}}, "limits.bodi: body, batch, tokens"),
        ({"limits": {"body": 0}}, "limits.body=0: a number above 0"),
    ],
)
def test_a_wrong_setting_is_said_before_anything_is_opened(tmp_path, monkeypatch, values, message):
    monkeypatch.delenv("FARFIELD_TOKEN", raising=False)
    words = composed("retrieval", "serve", [f"index={tmp_path}"])
    with pytest.raises(UserError, match=message):
        serve(run_folder=tmp_path, **(words | values))
