"""The service by its routes: answers as the library gives them, and refusals with their reasons."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from farfield.apps.cli.compose import composed
from farfield.apps.retrieval import opening
from farfield.apps.retrieval.collection import Collection, vector_rows
from farfield.apps.retrieval.document import Document
from farfield.apps.retrieval.search import search as search_verb
from farfield.apps.retrieval.serve import serve
from farfield.apps.retrieval.service import service
from farfield.apps.retrieval.service_guard import Deadline, Expired, Limits, Meter
from farfield.apps.retrieval.serving_encoder import ServingEncoder
from farfield.apps.retrieval.store import insert
from farfield.apps.retrieval.verify import verify
from farfield.apps.training.errors import UserError
from tests.apps.retrieval.fake_encoder import FakeEncoder

ROOT = Path(__file__).parents[3]
LIMITS = Limits(body=2**20, batch=8, tokens=5000, concurrency=8, seconds=5.0)


@pytest.fixture
def collection(tmp_path):
    with Collection.create(tmp_path / "index", ServingEncoder(FakeEncoder(), FakeEncoder())) as made:
        yield made


@pytest.fixture
def client(collection) -> TestClient:
    return TestClient(service(collection, LIMITS), raise_server_exceptions=True)


def write(client: TestClient, **texts: str):
    documents = [{"id": id, "text": text, "metadata": {"length": len(text)}} for id, text in texts.items()]
    return client.post("/documents", json={"documents": documents})


def test_what_is_written_is_found_as_the_library_finds_it(client, collection):
    answer = write(client, a="alpha beta", b="gamma delta", c="alpha gamma")
    assert answer.json() == {"new": ["a", "b", "c"], "replaced": [], "unchanged": [], "truncated": []}
    for mode in ("hybrid", "dense", "bm25"):
        hits = client.post("/search", json={"query": "alpha", "k": 2, "mode": mode}).json()["hits"]
        assert [(hit["id"], hit["score"]) for hit in hits] == [
            (hit.id, hit.score) for hit in collection.search("alpha", 2, mode=mode)
        ]
    hits = client.post("/search", json={"query": "alpha", "filters": {"length": {"gte": 11}}}).json()["hits"]
    assert {hit["id"] for hit in hits} == {"b", "c"}


@pytest.mark.parametrize("mode", ["hybrid", "dense", "bm25"])
def test_the_command_line_prints_what_the_service_answers(client, collection, tmp_path, monkeypatch, mode):
    monkeypatch.setattr(opening, "load_encoder", lambda *a, **k: FakeEncoder())
    write(client, a="alpha beta", b="gamma delta " * 30, c="alpha gamma")
    out = tmp_path / "hits.jsonl"
    words = [f"index={collection.folder}", "query=alpha gamma", f"mode={mode}", f"out={out}", "encoder=fake"]
    search_verb(run_folder=tmp_path, **composed("retrieval", "search", [*words, "filters=['length>=11']"]))
    body = {"query": "alpha gamma", "mode": mode, "filters": {"length": {"gte": 11}}}
    assert [json.loads(line) for line in out.read_text().splitlines()] == client.post("/search", json=body).json()[
        "hits"
    ]


def test_names_that_clients_make_up_are_counted_together(client):
    for name in ("BREW", "WHEN"):
        assert client.request(name, "/search").status_code == 405
    text = client.get("/metrics").text
    assert 'method="other",route="/search",status="405"} 2' in text
    assert "BREW" not in text


def test_documents_are_read_replaced_and_deleted(client):
    write(client, **{"a/b c": "one"})
    assert client.get("/documents/a/b c").json() == {
        "id": "a/b c",
        "title": "",
        "text": "one",
        "metadata": {"length": 3},
    }
    assert write(client, **{"a/b c": "two"}).json()["replaced"] == ["a/b c"]
    assert client.delete("/documents/a/b c").json() == {"deleted": "a/b c"}
    for answer in (client.get("/documents/a/b c"), client.delete("/documents/a/b c")):
        assert answer.status_code == 404
        assert answer.json()["error_type"] == "not_found"


def test_openai_clients_get_their_vectors(client):
    body = {"input": ["alpha beta", "gamma"], "model": "togethercomputer/m2-bert-80M-32k-retrieval"}
    answer = client.post("/v1/embeddings", json=body).json()
    wanted = FakeEncoder().encode(body["input"])
    assert answer["model"] == body["model"]
    assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    for i, row in enumerate(answer["data"]):
        assert (row["object"], row["index"]) == ("embedding", i)
        np.testing.assert_array_equal(np.array(row["embedding"], np.float32), wanted[i].whole)
    coded = client.post("/v1/embeddings", json={"input": "gamma", "encoding_format": "base64"}).json()["data"][0]
    assert base64.b64decode(coded["embedding"]) == wanted[1].whole.tobytes()
    assert client.post("/v1/embeddings", json={"input": "a", "dimensions": 3}).status_code == 422


def test_tei_clients_get_their_vectors(client):
    answer = client.post("/embed", json={"inputs": "alpha", "truncate": True}).json()
    np.testing.assert_array_equal(np.array(answer[0], np.float32), FakeEncoder().encode(["alpha"])[0].whole)


def test_health_and_metrics_say_what_is_there(client):
    write(client, a="alpha", b="beta")
    assert client.get("/health").json()["documents"] == 2
    text = client.get("/metrics").text
    assert 'farfield_requests_total{method="POST",route="/documents",status="200"} 1' in text
    assert "farfield_documents 2" in text
    assert "farfield_damaged 0" in text
    assert 'farfield_request_seconds_bucket{route="/documents",le="+Inf"} 1' in text


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


def test_a_write_that_is_sent_again_changes_nothing(client, collection):
    assert write(client, a="alpha").json()["new"] == ["a"]
    version = collection.view().version
    assert write(client, a="alpha").json()["unchanged"] == ["a"]
    assert collection.view().version == version


def test_health_says_that_the_encoder_is_being_loaded(collection):
    meter = Meter()
    client = TestClient(service(collection, LIMITS, meter=meter))
    assert (client.get("/health").status_code, client.get("/health").json()["status"]) == (503, "loading")
    answer = client.post("/search", json={"query": "a"})
    assert (answer.status_code, answer.json()["error_type"]) == (503, "loading")
    assert answer.headers["retry-after"] == "1"
    meter.loaded.set()
    assert client.get("/health").json()["status"] == "ok"
    assert client.post("/search", json={"query": "a"}).status_code == 200


def test_health_says_that_a_file_is_damaged_and_names_no_path(client, collection, tmp_path):
    with collection.store.writing() as db:
        vectors = vector_rows(FakeEncoder().encode(["alpha"])[0])
        doc = insert(db, Document("a", "alpha"), 1, False, {1: vectors})
        db.execute("UPDATE vectors SET data = zeroblob(64) WHERE doc = ?", [doc])
    answer = client.post("/search", json={"query": "alpha"})
    assert (answer.status_code, answer.json()["error_type"]) == (503, "damaged")
    health = client.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "damaged")
    assert str(tmp_path) not in health.text + answer.text
    assert "farfield_damaged 1" in client.get("/metrics").text


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


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


SERVE = """
import sys
from pathlib import Path
from farfield.apps.cli.compose import composed
from farfield.apps.retrieval import serve as verb
from tests.apps.retrieval.fake_encoder import FakeEncoder
verb.load_encoder = lambda *a, **k: FakeEncoder()
words = [f"index={sys.argv[1]}", f"port={sys.argv[2]}", *sys.argv[3:]]
verb.serve(run_folder=Path(sys.argv[1]), **composed("retrieval", "serve", words))
"""


def served(folder: Path, port: int, *words: str) -> subprocess.Popen[str]:
    env = os.environ | {"PYTHONPATH": f"{ROOT / '.typing'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SERVE, str(folder), str(port), *words]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def post(port: int, path: str, body: object) -> dict:
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def test_the_verb_serves_and_keeps_what_it_acknowledged_after_kill(tmp_path):
    folder = tmp_path / "index"
    Collection.create(folder, FakeEncoder(), {"path": "minilm"}).close()
    port = free_port()
    process = served(folder, port)
    try:
        assert "0 documents at http://127.0.0.1:" in process.stdout.readline()
        deadline = time.monotonic() + 20
        while True:
            try:
                post(port, "/documents", {"documents": [{"id": "a", "text": "alpha beta"}]})
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert post(port, "/search", {"query": "alpha"})["hits"][0]["id"] == "a"
    finally:
        process.kill()
        process.communicate()
    assert verify(folder) == []
    with Collection.open(folder, FakeEncoder()) as index:
        assert index.get("a").text == "alpha beta"


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
