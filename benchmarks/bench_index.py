"""The retrieval index against an exact scan: recall, time of a query, filters, building, opening, bytes.

`python -m benchmarks.bench_index` (1,000,000 x 768 overlapping clusters, then every window of shared/data by MiniLM;
--quick: 20,000 x 64 alone). RETRIEVAL_ROWS sets another number of clusters' rows (0: none), RETRIEVAL_KINDS the kinds
(auto,ivf-flat,hnsw). RETRIEVAL_FOLDER is kept, and what is filled or built there already is not made again: then
opening and queries are timed alone (RETRIEVAL_REBUILD: indexes are built again). RETRIEVAL_CACHE holds the windows'
vectors; without it they are encoded.
"""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Bench, Row, Times, main, shape
from farfield.apps.retrieval import ann, loco, maintain
from farfield.apps.retrieval.cache import cache_folder, encode_cached, encode_queries_cached
from farfield.apps.retrieval.collection import Collection
from farfield.apps.retrieval.document import Document
from farfield.apps.retrieval.encoder import Encoding, load_encoder
from farfield.apps.retrieval.exact import scan
from farfield.apps.retrieval.segment import Segment

K = 10
# Parts of the whole that a filter leaves.
SELECTED = {"10%": 10, "1%": 100, "0.1%": 1000}
CENTRES, LATENT = 2000, 32
# Queries of these seeds were not looked at while anything was chosen.
QUERIES, QUERY_SEED, ORDER_SEED = 500, 404, 505
BLOCK = 16_384
Vectors = NDArray[np.float32]


class Given:
    """An encoder that was never asked: the vectors are given."""

    max_tokens = 1

    def __init__(self, d: int) -> None:
        self.d = d
        self.fingerprint: dict[str, str | int | bool] = {"kind": "overlapping clusters", "d": d}


def clusters(n: int, d: int, seed: int) -> Iterator[Vectors]:
    """Blocks of n unit vectors: 2,000 normal clusters that overlap, in 32 dimensions of falling weight, with noise.

    x = (c_j + 0.8 z) diag(i^-1/2) W + 0.2 |x| e, where c, z, e, W are normal and j is uniform; then x / |x|.
    """
    fixed = np.random.default_rng(0)
    spread = fixed.standard_normal((LATENT, d)) * (np.arange(1, LATENT + 1) ** -0.5)[:, None] / np.sqrt(d)
    centres = fixed.standard_normal((CENTRES, LATENT), np.float32)
    for begin in range(0, n, BLOCK):
        rng, m = np.random.default_rng([seed, begin]), min(BLOCK, n - begin)
        z = centres[rng.integers(0, CENTRES, m)] + 0.8 * rng.standard_normal((m, LATENT), np.float32)
        x = z @ spread.astype(np.float32)
        length = np.linalg.norm(x, axis=1, keepdims=True)
        x += 0.2 * length * rng.standard_normal((m, d), np.float32) / np.sqrt(d)
        yield x / np.linalg.norm(x, axis=1, keepdims=True)


def filled(folder: Path, d: int, blocks: Iterator[Vectors], texts: Sequence[str] | None = None) -> None:
    """An index with a document for each vector and the fields that filters ask for; the documents may have texts."""
    with Collection.create(folder, Given(d), kind="flat", merge_at=None) as index:
        number = 0
        for block in blocks:
            documents = []
            for i in range(number, number + len(block)):
                fields = {name: i % every == 0 for name, every in SELECTED.items()}
                documents.append(Document(f"d{i}", texts[i] if texts else "", metadata=fields))
            ends = [[[0, len(document.text)]] for document in documents]
            index.put(
                documents, [Encoding(v, v[None], np.array(e), 1, False) for v, e in zip(block, ends, strict=True)]
            )
            number += len(block)


def windows() -> tuple[Vectors, list[str], Vectors]:
    """Every window of the documents of shared/data with its text, and queries of its tasks in an order by chance."""
    folder, root, encoder = (
        cache_folder(os.environ.get("RETRIEVAL_CACHE")),
        loco.data_root(None),
        load_encoder("minilm"),
    )
    tasks = [loco.load(root, name) for name in loco.found(root)]
    texts = list(dict.fromkeys(text for task in tasks for text in task.documents.values()))
    encoded = encode_cached(encoder, texts, folder, policy="chunk")
    pieces = [text[a:b] for text, one in zip(texts, encoded, strict=True) for a, b in one.offsets]
    asked = list(dict.fromkeys(query.text for task in tasks for query in task.queries))
    order = np.random.default_rng(ORDER_SEED).permutation(len(asked))[:QUERIES]
    queries = encode_queries_cached(encoder, [asked[i] for i in order], folder)
    return np.concatenate([one.windows for one in encoded]), pieces, queries


def cases(bench: Bench) -> Iterator[Row]:
    """Fill, build each kind, open it, ask it."""
    n = int(os.environ.get("RETRIEVAL_ROWS", 20_000 if bench.quick else 1_000_000))
    d = 64 if bench.quick else 768
    kept = os.environ.get("RETRIEVAL_FOLDER")
    folder = Path(kept) if kept else Path(tempfile.mkdtemp(prefix="bench-index-"))
    try:
        if n:
            queries = np.concatenate(list(clusters(QUERIES, d, seed=QUERY_SEED)))
            yield from _index(bench, folder / "clusters", "clusters", clusters(n, d, seed=1), None, n, queries)
        if not bench.quick:
            vectors, texts, queries = windows()
            blocks = (vectors[at : at + BLOCK] for at in range(0, len(vectors), BLOCK))
            yield from _index(bench, folder / "windows", "windows", blocks, texts, len(vectors), queries)
    finally:
        if not kept:
            shutil.rmtree(folder)


def _index(
    bench: Bench, folder: Path, data: str, blocks: Iterator[Vectors], texts: list[str] | None, n: int, queries: Vectors
) -> Iterator[Row]:
    d = queries.shape[1]
    if not folder.is_dir():
        began = time.perf_counter()
        filled(folder, d, blocks, texts)
        yield _value(bench, "store", data, n, d, "vectors/s", n / (time.perf_counter() - began))
    for kind in os.environ.get("RETRIEVAL_KINDS", "auto").split(","):
        yield from _kind(bench, folder, data, ann.choose(kind, n), n, d, queries)


def _kind(bench: Bench, folder: Path, data: str, kind: str, n: int, d: int, queries: Vectors) -> Iterator[Row]:
    with Collection.open(folder, merge_at=None) as index:
        part = index.view().parts[0]
        there = (
            isinstance(part, Segment) and part.kind == kind and part.n == n and "RETRIEVAL_REBUILD" not in os.environ
        )
        if not there:
            began, busy = time.perf_counter(), time.process_time()
            maintain.build(index, kind)
            yield _value(bench, kind, data, n, d, "build_s", time.perf_counter() - began)
            # Where other work runs beside it: the time that both cores need is at least half of this.
            yield _value(bench, kind, data, n, d, "build_cpu_s", time.process_time() - busy)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            yield _value(bench, kind, data, n, d, "peak_bytes_build", peak)
    size = sum(path.stat().st_size for path in (folder / "segments").rglob("*") if path.is_file())
    yield _value(bench, kind, data, n, d, "segment_bytes/vector", size / n)
    yield _value(bench, kind, data, n, d, "store_bytes/vector", (folder / "store.sqlite").stat().st_size / n)
    began = time.perf_counter()
    with Collection.open(folder, merge_at=None) as index:
        yield _value(bench, kind, data, n, d, "open_s", time.perf_counter() - began)
        for name, every in {"all": 1, **SELECTED}.items():
            yield from _asked(bench, index, f"farfield-{kind}", data, name, every, queries)


def _asked(
    bench: Bench, index: Collection, provider: str, data: str, name: str, every: int, queries: Vectors
) -> Iterator[Row]:
    """Recall and times of queries, one after the other, of which a filter leaves one document in `every`."""
    part = index.view().parts[0]
    # The store numbers documents from 1 in the order they came.
    chosen = None if every == 1 else np.flatnonzero((part.docs - 1) % every == 0)
    true = part.docs[scan(part.vectors, queries, min(K, part.n if chosen is None else len(chosen)), rows=chosen)[1]]
    filters = None if every == 1 else {name: True}
    index.search(queries[0], K, filters=filters)
    found, took = [], []
    for query in queries:
        start = time.perf_counter()
        hits = index.search(query, K, filters=filters)
        took.append((time.perf_counter() - start) * 1e3)
        found.append({int(hit.id[1:]) + 1 for hit in hits})
    recall = float(np.mean([len(f & set(t)) / len(t) for f, t in zip(found, true.tolist(), strict=True)]))
    p20, p50, p80, p99 = (float(p) for p in np.percentile(took, [20, 50, 80, 99]))
    times = Times(p20, p50, p80, peak_bytes=None, rel_err=None, samples_ms=tuple(took))
    of = shape(data=data, n=part.n, d=queries.shape[1], k=K, filter=name)
    yield bench.row("index", provider, "fwd", of, "fp32", times=times, metric="recall@10", value=recall)
    yield bench.row("index", provider, "fwd", of, "fp32", metric="p99_ms", value=p99)


def _value(bench: Bench, kind: str, data: str, n: int, d: int, metric: str, value: float) -> Row:
    return bench.row("index", f"farfield-{kind}", "fwd", shape(data=data, n=n, d=d), "fp32", metric=metric, value=value)


if __name__ == "__main__":
    main("index", cases)
