"""The service under schemathesis, and under many clients with a checker that knows what it has to answer."""

from __future__ import annotations

import random
import threading
import time
import urllib.error
import urllib.request

import pytest
from hypothesis import HealthCheck, given, settings

from farfield.apps.retrieval.collection import Collection
from farfield.apps.retrieval.service import service
from farfield.apps.retrieval.service_guard import Limits
from farfield.apps.retrieval.verify import differs_from_store, verify
from tests.apps.retrieval.fake_encoder import FakeEncoder
from tests.apps.retrieval.test_service import free_port, post, served

schemathesis = pytest.importorskip("schemathesis")
pytestmark = pytest.mark.slow


def test_no_request_ends_in_a_500(tmp_path):
    limits = Limits(body=2**20, batch=8, tokens=5000, seconds=20.0)
    with Collection.create(tmp_path / "index", FakeEncoder()) as collection:
        schema = schemathesis.openapi.from_asgi("/openapi.json", service(collection, limits))
        routes = [found.ok() for found in schema.get_all_operations()]
        assert len(routes) == 8
        for route in routes:

            @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
            @given(case=route.as_strategy())
            def check(case):
                answer = case.call()
                assert answer.status_code < 500, answer.text
                if answer.status_code >= 400:
                    assert answer.json()["error"]

            check()


@pytest.mark.parametrize(("clients", "seconds"), [(8, 10)])
def test_readers_and_a_writer_get_no_wrong_answer(tmp_path, clients, seconds):
    """A writer puts, replaces and deletes; every reader knows versions that an answer may and may not hold."""
    folder = tmp_path / "index"
    Collection.create(folder, FakeEncoder(), {"path": "minilm"}).close()
    port = free_port()
    process = served(folder, port)
    assert "documents at" in process.stdout.readline()
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
            break
        except OSError:
            time.sleep(0.05)
    # What was acknowledged before a reader asks has to be in its answer, or something newer.
    acknowledged: dict[str, int] = {}
    begun: dict[str, int] = {}
    wrong: list[object] = []
    stop = threading.Event()

    def write() -> None:
        rng = random.Random(0)
        while not stop.is_set():
            id = f"d{rng.randrange(20)}"
            version = begun.get(id, 0) + 1
            begun[id] = version
            text = f"name{id} version{version} " + " ".join(f"w{rng.randrange(40)}" for _ in range(10))
            post(port, "/documents", {"documents": [{"id": id, "text": text, "metadata": {"version": version}}]})
            acknowledged[id] = version
            time.sleep(0.02)

    def read(seed: int) -> None:
        rng = random.Random(seed)
        while not stop.is_set():
            known = dict(acknowledged)
            if not known:
                continue
            id = rng.choice(list(known))
            try:
                hits = post(port, "/search", {"query": f"name{id}", "k": 3, "mode": rng.choice(["bm25", "hybrid"])})[
                    "hits"
                ]
            except (urllib.error.HTTPError, OSError) as error:
                wrong.append(error)
                continue
            mine = [hit for hit in hits if hit["id"] == id]
            if len(mine) != 1 or not known[id] <= mine[0]["metadata"]["version"] <= begun[id]:
                wrong.append((id, known[id], hits))

    threads = [threading.Thread(target=write), *(threading.Thread(target=read, args=(i,)) for i in range(clients))]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    process.terminate()
    process.communicate(timeout=60)
    assert wrong == []
    assert verify(folder) == []
    with Collection.open(folder, FakeEncoder()) as index:
        assert {id: index.get(id).metadata["version"] for id in acknowledged} == begun
        assert differs_from_store(index) == []
