"""The retrieval service: what HTTP adds to a search, and many clients beside a writer.

`python -m benchmarks.bench_service` (32 clients, 60 s, a writer at 50 documents/s, MiniLM; --quick: 8 clients, 5 s).
Every answer is checked: it has to hold the document that was asked for, in a version that was written by then.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Bench, Row, Times, main, shape
from farfield.apps.retrieval.collection import Collection
from farfield.apps.retrieval.document import Document
from farfield.apps.retrieval.encoder import load_encoder
from farfield.apps.retrieval.opening import encoder_settings

DOCUMENTS = 200
WRITES_PER_SECOND = 50
QUERIES = 100


def text(number: int, version: int) -> str:
    """A short text whose name no other has."""
    rng = np.random.default_rng([number, version])
    return f"name{number} version{version} " + " ".join(f"word{i}" for i in rng.integers(0, 500, 20))


class Client:
    """One kept connection."""

    def __init__(self, port: int) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=60)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """An answer; anything but 200 is an error."""
        self._connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        data: dict[str, Any] = json.loads(answer.read())
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {data}")
        return data


def cases(bench: Bench) -> Iterator[Row]:
    """One client beside the library; many clients beside a writer."""
    folder = Path(tempfile.mkdtemp(prefix="bench-service-"))
    settings = encoder_settings(None, None, 0)
    encoder = load_encoder(**settings, device="cpu")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    with Collection.create(folder / "index", encoder, settings) as index:
        index.add([Document(f"d{i}", text(i, 0), metadata={"version": 0}) for i in range(DOCUMENTS)])
        alone = {mode: _times(lambda q, mode=mode: index.search(q, mode=mode)) for mode in ("bm25", "dense", "hybrid")}
    command = [sys.executable, "-m", "farfield.apps.retrieval", "serve", f"index={folder / 'index'}", f"port={port}"]
    process = subprocess.Popen([*command, "device=cpu"], cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        _wait(port)
        client = Client(port)
        for mode, took in alone.items():
            over = _times(lambda q, mode=mode: client.post("/search", {"query": q, "mode": mode}))
            of = shape(n=DOCUMENTS, clients=1, mode=mode)
            added = float(np.median(over) - np.median(took))
            yield bench.row("service", "farfield-http", "fwd", of, "fp32", times=_summary(over))
            yield bench.row("service", "farfield-http", "fwd", of, "fp32", metric="added_ms", value=added)
        yield from _crowd(bench, port)
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(folder)


def _crowd(bench: Bench, port: int) -> Iterator[Row]:
    clients, seconds = (8, 5.0) if bench.quick else (32, 60.0)
    written, begun = dict.fromkeys(range(DOCUMENTS), 0), dict.fromkeys(range(DOCUMENTS), 0)
    took: list[float] = []
    wrong: list[object] = []
    end = time.perf_counter() + seconds

    def write() -> None:
        client, number = Client(port), 0
        following = time.perf_counter()
        while time.perf_counter() < end:
            at = number % DOCUMENTS
            begun[at] += 1
            body = {"id": f"d{at}", "text": text(at, begun[at]), "metadata": {"version": begun[at]}}
            try:
                client.post("/documents", {"documents": [body]})
                written[at] = begun[at]
            except (OSError, RuntimeError) as error:
                wrong.append(error)
            number += 1
            following += 1 / WRITES_PER_SECOND
            time.sleep(max(0.0, following - time.perf_counter()))

    def read(seed: int) -> None:
        client, rng = Client(port), np.random.default_rng(seed)
        while time.perf_counter() < end:
            at = int(rng.integers(DOCUMENTS))
            least, began = written[at], time.perf_counter()
            try:
                hits = client.post("/search", {"query": f"name{at}", "k": 3})["hits"]
            except (OSError, RuntimeError) as error:
                wrong.append(error)
                continue
            took.append((time.perf_counter() - began) * 1e3)
            versions = [hit["metadata"]["version"] for hit in hits if hit["id"] == f"d{at}"]
            if len(versions) != 1 or not least <= versions[0] <= begun[at]:
                wrong.append((at, least, versions))

    threads = [threading.Thread(target=write), *(threading.Thread(target=read, args=(i,)) for i in range(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client = Client(port)
    lost = sum(
        client.post("/search", {"query": f"name{at}", "mode": "bm25"})["hits"][0]["metadata"]["version"] != version
        for at, version in written.items()
    )
    of = shape(n=DOCUMENTS, clients=clients, mode="hybrid", writer=WRITES_PER_SECOND, seconds=int(seconds))
    yield bench.row("service", "farfield-http", "fwd", of, "fp32", times=_summary(took))
    for metric, value in (
        ("p99_ms", float(np.percentile(took, 99))),
        ("searches/s", len(took) / seconds),
        ("writes/s", sum(written.values()) / seconds),
        ("wrong_answers", float(len(wrong))),
        ("lost_writes", float(lost)),
    ):
        yield bench.row("service", "farfield-http", "fwd", of, "fp32", metric=metric, value=value)


def _times(search: Any) -> list[float]:
    took = []
    for i in range(QUERIES + 5):
        began = time.perf_counter()
        search(f"name{i} word{i}")
        took.append((time.perf_counter() - began) * 1e3)
    return took[5:]


def _summary(took: list[float]) -> Times:
    p20, p50, p80 = (float(p) for p in np.percentile(took, [20, 50, 80]))
    return Times(p20, p50, p80, peak_bytes=None, rel_err=None, samples_ms=tuple(took))


def _wait(port: int) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    main("service", cases)
