"""The service by its routes: answers as the library gives them, and refusals with their reasons."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from farfield.apps.cli.compose import composed
from farfield.apps.retrieval import opening
from farfield.apps.retrieval.collection import Collection, vector_rows
from farfield.apps.retrieval.document import Document
from farfield.apps.retrieval.search import search as search_verb
from farfield.apps.retrieval.service import service
from farfield.apps.retrieval.service_guard import Meter
from farfield.apps.retrieval.store import insert
from farfield.apps.retrieval.verify import verify
from tests.apps.retrieval.fake_encoder import FakeEncoder
from tests.apps.retrieval.served import LIMITS, write

ROOT = Path(__file__).parents[3]


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


@pytest.mark.slow
def test_openai_s_own_client_gets_its_vectors(client):
    openai = pytest.importorskip("openai")
    asked = openai.OpenAI(base_url="http://testserver/v1", api_key="none", http_client=client, max_retries=0)
    # It asks for base64 unless told otherwise, and decodes it.
    made = asked.embeddings.create(input=["alpha beta", "gamma"], model="togethercomputer/m2-bert-80M-8k-retrieval")
    for one, wanted in zip(made.data, FakeEncoder().encode(["alpha beta", "gamma"]), strict=True):
        np.testing.assert_array_equal(np.array(one.embedding, np.float32), wanted.whole)
    with pytest.raises(openai.UnprocessableEntityError):
        asked.embeddings.create(input=[[1, 2]], model="any")


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
from tests.apps.retrieval.served import LIMITS, write
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
