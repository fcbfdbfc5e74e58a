"""The retrieval service: what HTTP adds to a search, and many clients beside a writer, every answer checked.

`python -m benchmarks.bench_service` takes two minutes (32 clients for 60 s, a writer at 50 documents/s, MiniLM);
`--quick` 20 s (8 clients for 5 s). The checker models the store: it knows which versions of a document an answer may
hold, from the last one acknowledged before the question to the last one begun before the answer. At the end the
service is killed, and what is on disk has to be the model's state.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import ROOT, Bench, Row, Times, main, shape
from farfield.apps.retrieval.collection import Collection
from farfield.apps.retrieval.document import Document
from farfield.apps.retrieval.encoder import load_encoder
from farfield.apps.retrieval.opening import encoder_settings
from farfield.apps.retrieval.verify import differs_from_store, verify

DOCUMENTS = 1000
WORDS = ["river", "stone", "bread", "moon", "engine", "music", "forest", "glass", "number", "tiger", "lamp", "cloud"]
WORDS += ["paper", "silver", "garden", "window", "winter", "copper", "ocean", "bridge", "planet", "secret", "answer"]
WRITES_PER_SECOND = 50
# Documents of one request, where the writer is behind.
MOST_AT_ONCE = 50
MODES = ("bm25", "dense", "hybrid")
# Queries of a turn, and turns of library and service one after the other.
QUERIES, TURNS = 20, 6
# Seconds that a request may take, and the start of the service.
PATIENCE, START = 60.0, 180.0


def text(number: int, version: int) -> str:
    """A short text whose name no other has."""
    rng = random.Random(number * 100_003 + version)
    return f"name{number} version{version} " + " ".join(rng.choices(WORDS, k=20))


def written(number: int, version: int) -> dict[str, Any]:
    """A document as it is posted."""
    return {"id": f"d{number}", "text": text(number, version), "metadata": {"version": version}}


class Client:
    """One kept connection, opened again after an error."""

    def __init__(self, port: int) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)

    def ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """An answer.

        Raises: RuntimeError: its status is not 200. OSError, HTTPException: there is none.
        """
        try:
            data = None if body is None else json.dumps(body)
            self._connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            found: dict[str, Any] = json.loads(answer.read())
        except (OSError, HTTPException):
            self._connection.close()
            raise
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {found}")
        return found


@dataclass
class Model:
    """What the store has to hold: all versions of each document in their order, None where it was deleted."""

    states: list[list[int | None]] = field(default_factory=lambda: [[0] for _ in range(DOCUMENTS)])
    acknowledged: list[int] = field(default_factory=lambda: [0] * DOCUMENTS)

    def begin(self, number: int, *, delete: bool) -> int | None:
        """The next state of a document, of which an answer may know from now on."""
        count = len(self.states[number])
        self.states[number].append(None if delete else count)
        return self.states[number][-1]

    def acknowledge(self, number: int) -> None:
        """From now on every answer has to know it."""
        self.acknowledged[number] = len(self.states[number]) - 1

    def check(self, number: int, least: int, hits: list[dict[str, Any]]) -> str | None:
        """What is wrong with an answer to the name of a document, asked when `least` was the state acknowledged."""
        if len({hit["id"] for hit in hits}) != len(hits) or sorted(-hit["score"] for hit in hits) != [
            -hit["score"] for hit in hits
        ]:
            return f"d{number}: a document twice, or out of order: {hits}"
        mine = [hit for hit in hits if hit["id"] == f"d{number}"]
        version = mine[0]["metadata"]["version"] if mine else None
        if version not in self.states[number][least:]:
            return f"d{number}: version {version} was found, {self.states[number][least:]} may be there"
        if mine and (hits[0] is not mine[0] or mine[0]["passage"] != text(number, version)):
            return f"d{number}: not the first, or with another text: {hits}"
        return None


def cases(bench: Bench) -> Iterator[Row]:
    """One client beside the library; many clients beside a writer."""
    folder = Path(tempfile.mkdtemp(prefix="bench-service-"))
    index = folder / "index"
    settings = encoder_settings(None, None, 0)
    encoder = load_encoder(**settings, device="cpu")
    try:
        with Collection.create(index, encoder, settings) as collection:
            collection.add([Document(**written(i, 0)) for i in range(DOCUMENTS)])
            with served(index) as (port, _):
                yield from _one(bench, port, collection)
        with served(index) as (port, process):
            yield from _crowd(bench, port, process, index)
    finally:
        shutil.rmtree(folder)


@contextmanager
def served(index: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The service as its users start it.

    Raises: RuntimeError: it does not answer.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    command = [sys.executable, "-m", "farfield.apps.retrieval", "serve", f"index={index}", f"port={port}", "device=cpu"]
    # The service runs elsewhere than this process: relative paths of imports would not be found there.
    env = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT / ".typing"), str(ROOT)))}
    log = index.parent / "service.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=index.parent, env=env, stdout=out, stderr=out)
    try:
        end = time.monotonic() + START
        while True:
            try:
                if Client(port).ask("GET", "/health")["status"] == "ok":
                    break
            except (OSError, RuntimeError):
                pass
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the service does not answer: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
        yield port, process
    finally:
        process.kill()
        process.wait()


def _one(bench: Bench, port: int, collection: Collection) -> Iterator[Row]:
    """Library and service turn by turn, so that a busy machine slows both alike."""
    client = Client(port)
    for mode in MODES:
        took: dict[str, list[float]] = {"farfield": [], "farfield-http": []}
        calls: dict[str, Callable[[str], object]] = {
            "farfield": lambda query, mode=mode: collection.search(query, mode=mode),
            "farfield-http": lambda query, mode=mode: client.ask("POST", "/search", {"query": query, "mode": mode}),
        }
        for turn in range(2 if bench.quick else TURNS):
            for provider, call in calls.items():
                # Threads of the other process that still wait for work have gone to sleep.
                time.sleep(0.1)
                took[provider] += _times(call, turn)
        of = shape(n=DOCUMENTS, clients=1, mode=mode)
        for provider, times in took.items():
            yield bench.row("service", provider, "fwd", of, "fp32", times=_summary(times))
        added = float(np.median(took["farfield-http"]) - np.median(took["farfield"]))
        yield bench.row("service", "farfield-http", "fwd", of, "fp32", metric="added_ms", value=added)


def _crowd(bench: Bench, port: int, process: subprocess.Popen[bytes], index: Path) -> Iterator[Row]:
    clients, seconds = (8, 5.0) if bench.quick else (32, 60.0)
    model, took, writing, wrong = Model(), list[float](), list[float](), list[object]()
    end = time.perf_counter() + seconds
    threads = [threading.Thread(target=_write, args=(port, model, writing, wrong, end))]
    threads += [threading.Thread(target=_read, args=(port, model, took, wrong, end, i)) for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 2 * PATIENCE)
    if any(thread.is_alive() for thread in threads):
        raise RuntimeError("a request has no answer; what went wrong before: " + "; ".join(map(str, wrong[:5])))
    process.kill()
    process.wait()
    lost = _lost(index, model)
    for one in [*wrong[:5], *lost[:5]]:
        print(f"wrong: {one!s:.500}", flush=True)
    count = sum(len(states) - 1 for states in model.states)
    of = shape(n=DOCUMENTS, clients=clients, mode="hybrid", writer=WRITES_PER_SECOND, seconds=int(seconds))
    yield bench.row("service", "farfield-http", "fwd", of, "fp32", times=_summary(took))
    for metric, value in (
        ("p99_ms", float(np.percentile(took, 99))),
        ("searches/s", len(took) / seconds),
        ("writes/s", count / seconds),
        ("write_p99_ms", float(np.percentile(writing, 99))),
        ("errors_and_wrong_answers", float(len(wrong))),
        ("lost_writes", float(len(lost))),
    ):
        yield bench.row("service", "farfield-http", "fwd", of, "fp32", metric=metric, value=value)


def _write(port: int, model: Model, took: list[float], wrong: list[object], end: float) -> None:
    """Replace, now and then delete: all documents that are due in one request; the last one may begin after the end."""
    client, rng, done = Client(port), random.Random(0), 0
    start = now = time.perf_counter()
    total = round((end - start) * WRITES_PER_SECOND)
    while now < end and done < total:
        now = time.perf_counter()
        due = min(int((now - start) * WRITES_PER_SECOND) + 1, total) - done
        if due < 1:
            time.sleep(0.002)
            continue
        due = min(due, MOST_AT_ONCE)
        numbers = rng.sample(range(DOCUMENTS), due)
        done += due
        gone = numbers.pop() if rng.random() < 0.1 and model.states[numbers[-1]][-1] is not None else None
        try:
            if gone is not None:
                model.begin(gone, delete=True)
                client.ask("DELETE", f"/documents/d{gone}")
                model.acknowledge(gone)
            if numbers:
                bodies = [written(number, int(model.begin(number, delete=False) or 0)) for number in numbers]
                client.ask("POST", "/documents", {"documents": bodies})
                for number in numbers:
                    model.acknowledge(number)
        except (OSError, HTTPException, RuntimeError) as error:
            wrong.append(error)
        took.append((time.perf_counter() - now) * 1e3)


def _read(port: int, model: Model, took: list[float], wrong: list[object], end: float, seed: int) -> None:
    client, rng = Client(port), random.Random(seed + 1)
    while (began := time.perf_counter()) < end:
        number = rng.randrange(DOCUMENTS)
        least = model.acknowledged[number]
        try:
            hits = client.ask("POST", "/search", {"query": f"name{number}", "k": 3})["hits"]
        except (OSError, HTTPException, RuntimeError) as error:
            wrong.append(error)
            continue
        took.append((time.perf_counter() - began) * 1e3)
        if (what := model.check(number, least, hits)) is not None:
            wrong.append(what)


def _lost(index: Path, model: Model) -> list[str]:
    """What a killed service left that is not the last state of the model, in texts or in vectors."""
    lost = [str(damage) for damage in verify(index) if damage.kind != "leftover"]
    with Collection.open(index, merge_at=None) as collection:
        for number, states in enumerate(model.states):
            found = collection.get(f"d{number}")
            wanted = None if states[-1] is None else text(number, states[-1])
            if (None if found is None else found.text) != wanted:
                lost.append(f"d{number}: {found!r:.80} is not {wanted!r:.80}")
        return lost + differs_from_store(collection)


def _times(search: Callable[[str], object], turn: int) -> list[float]:
    took = []
    for i in range(QUERIES + 3):
        began = time.perf_counter()
        search(f"name{i + QUERIES * turn} {WORDS[i % len(WORDS)]}")
        took.append((time.perf_counter() - began) * 1e3)
    return took[3:]


def _summary(took: list[float]) -> Times:
    p20, p50, p80 = (float(p) for p in np.percentile(took, [20, 50, 80]))
    return Times(p20, p50, p80, peak_bytes=None, rel_err=None, samples_ms=tuple(took))


if __name__ == "__main__":
    main("service", cases)
