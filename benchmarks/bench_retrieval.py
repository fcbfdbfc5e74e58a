"""The same documents and vectors in ours, FTS5 and LanceDB: nDCG@10, documents/s, bytes, p99 with a filter.

Vectors come from the cache of `farfield retrieval evaluate` (run that first: encoding takes an hour of one core), so
that no row pays for encoding: neither documents nor queries.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.harness import Bench, Row, Times, main, shape
from benchmarks.peers.vectors import Vectors, installed
from farfield.apps.retrieval import loco, metrics
from farfield.apps.retrieval.cache import cache_folder, encode_cached, encode_queries_cached
from farfield.apps.retrieval.collection import Collection
from farfield.apps.retrieval.document import Document
from farfield.apps.retrieval.encoder import Encoding, Fingerprint, Policy, Progress, load_encoder
from farfield.apps.retrieval.loco import Task
from farfield.apps.retrieval.maintain import build

PARTS = 100
# (corpus, its tasks): tasks of one corpus have the same documents.
CORPORA = {"qmsum": ("qmsum_question", "qmsum_summary"), "pep": ("pep_title", "pep_abstract")}
# Of each task, the same for all.
QUERIES = 150

Search = Callable[[str, Vectors, int | None], list[str]]


@dataclass
class Known:
    """An encoder that looks its queries up."""

    fingerprint: Fingerprint
    d: int
    max_tokens: int
    queries: dict[str, Vectors]

    def encode(
        self, texts: Sequence[str], *, policy: Policy = "chunk", progress: Progress | None = None
    ) -> list[Encoding]:
        """Never: documents come with their vectors."""
        raise NotImplementedError("documents are put with vectors")

    def encode_queries(self, texts: Sequence[str], *, policy: Policy = "warn") -> Vectors:
        """Vectors of known queries."""
        return np.stack([self.queries[t] for t in texts])

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Words, which is near enough for an estimate."""
        return [len(t.split()) for t in texts]


@dataclass
class Corpus:
    """Documents with their encodings, and the queries of all tasks on them."""

    name: str
    tasks: list[Task]
    encodings: list[Encoding]
    encoder: Known

    @property
    def documents(self) -> dict[str, str]:
        """By id."""
        return self.tasks[0].documents


def load(name: str, quick: bool) -> Corpus:
    """A corpus from the files and the cache; quick takes the first documents and queries."""
    model = load_encoder("minilm", device="cpu")
    root = loco.data_root(None)
    tasks = [loco.load(root, task) for task in CORPORA[name]]
    if quick:
        ids = list(tasks[0].documents)[:4]
        tasks = [
            Task(t.name, [q for q in t.queries if q.relevant[0] in ids][:20], {i: t.documents[i] for i in ids}, {})
            for t in tasks
        ]
    encodings = encode_cached(model, list(tasks[0].documents.values()), cache_folder(None), policy="chunk")
    texts = [q.text for t in tasks for q in t.queries]
    vectors = encode_queries_cached(model, texts, cache_folder(None))
    known = Known(model.fingerprint, model.d, model.max_tokens, dict(zip(texts, vectors, strict=True)))
    return Corpus(name, tasks, encodings, known)


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def rows(bench: Bench, corpus: Corpus, providers: dict[str, Search]) -> Iterator[Row]:
    """nDCG@10 of each task and times of a query, without and with a filter that lets one document in a hundred through.

    The same queries go to all providers, turn by turn, so that a busy machine slows all of them alike.
    """
    where = shape(docs=len(corpus.documents), vectors=sum(len(e.windows) for e in corpus.encodings))
    taken: dict[tuple[str, int | None], list[float]] = {(p, part): [] for p in providers for part in (None, 7)}
    for task in corpus.tasks:
        picked = np.random.default_rng(0).permutation(len(task.queries))[:QUERIES]
        worth: dict[str, list[float]] = {provider: [] for provider in providers}
        for query in (task.queries[i] for i in picked):
            for (provider, part), times in taken.items():
                began = time.perf_counter()
                found = providers[provider](query.text, corpus.encoder.queries[query.text], part)
                times.append((time.perf_counter() - began) * 1e3)
                if part is None:
                    worth[provider].append(metrics.ndcg(found, query.relevant))
        for provider, values in worth.items():
            label = f"{where} queries={len(picked)}"
            yield bench.row(task.name, provider, "", label, "fp32", metric="nDCG@10", value=float(np.mean(values)))
    for (provider, part), sample in taken.items():
        p20, p50, p80, p99 = (float(q) for q in np.quantile(sample, (0.2, 0.5, 0.8, 0.99)))
        label = f"{where} queries={len(sample)}" + ("" if part is None else " filter=1%")
        yield bench.row(
            corpus.name,
            provider,
            "",
            label,
            "fp32",
            times=Times(p20, p50, p80, None, None, tuple(sample)),
            metric="p99_ms",
            value=p99,
        )


def searches(collection: Collection) -> dict[str, Search]:
    """Ways of search of our store."""

    def way(mode: str, by: str) -> Search:
        def search(text: str, vector: Vectors, part: int | None) -> list[str]:
            only = None if part is None else {"part": part}
            return [hit.id for hit in collection.search(text, 10, mode=mode, by=by, filters=only)]

        return search

    modes = {
        "hybrid": ("hybrid", "best"),
        "dense": ("dense", "best"),
        "windows": ("dense", "window"),
        "bm25": ("bm25", "best"),
    }
    return {f"farfield-{name}": way(*how) for name, how in modes.items()}


def cases(bench: Bench) -> Iterator[Row]:
    """Ours and every peer that is installed, on QMSum and PEP."""
    for name in CORPORA:
        corpus = load(name, bench.quick)
        ids, texts = list(corpus.documents), list(corpus.documents.values())
        parts = [int(p) for p in np.random.default_rng(1).permutation(len(ids)) % PARTS]
        windows = [e.windows for e in corpus.encodings]
        where = shape(docs=len(ids), vectors=sum(map(len, windows)))
        with tempfile.TemporaryDirectory() as temporary:
            began = time.perf_counter()
            collection = Collection.create(Path(temporary) / "farfield", corpus.encoder)
            documents = [Document(i, t, metadata={"part": p}) for i, t, p in zip(ids, texts, parts, strict=True)]
            for at in range(0, len(documents), 64):
                collection.put(documents[at : at + 64], corpus.encodings[at : at + 64])
            build(collection)
            seconds = {"farfield": time.perf_counter() - began}
            providers = searches(collection)
            stores = []
            for peer in installed():
                (Path(temporary) / peer.name).mkdir()
                began = time.perf_counter()
                store = peer(Path(temporary) / peer.name, corpus.encoder.d)
                store.add(ids, texts, parts, windows)
                seconds[peer.name] = time.perf_counter() - began
                providers[peer.name] = store.search
                stores.append(store)
            yield from rows(bench, corpus, providers)
            for store in (collection, *stores):
                store.close()
            for provider, took in seconds.items():
                size = size_of(Path(temporary) / provider)
                for metric, value in (("documents/s", len(ids) / took), ("bytes", float(size))):
                    yield bench.row(corpus.name, provider, "", where, "fp32", metric=metric, value=value)


if __name__ == "__main__":
    main("retrieval", cases)
