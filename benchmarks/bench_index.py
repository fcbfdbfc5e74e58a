"""The retrieval index against an exact scan: recall, time of a query, filters, building, opening, bytes.

`python -m benchmarks.bench_index` (1,000,000 x 768; --quick: 20,000 x 64). RETRIEVAL_ROWS sets another number of rows,
RETRIEVAL_KINDS the kinds (hnsw,ivf-flat,ivf-pq). Every document is one vector, queries come from the same generator.
"""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Bench, Row, Times, main, shape
from farfield.apps.retrieval import maintain
from farfield.apps.retrieval.collection import Collection
from farfield.apps.retrieval.document import Document
from farfield.apps.retrieval.encoder import Encoding
from farfield.apps.retrieval.exact import scan
from farfield.apps.retrieval.segment import Segment

K = 10
# Parts of the whole that a filter leaves.
SELECTED = {"10%": 10, "1%": 100, "0.1%": 1000}
CENTRES, LATENT = 2000, 32
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


def filled(folder: Path, n: int, d: int) -> Collection:
    """An index of n documents, each with one vector and the fields that filters ask for."""
    index = Collection.create(folder, Given(d), kind="flat", merge_at=None)  # type: ignore[arg-type]
    number = 0
    offsets = np.zeros((1, 2), np.int64)
    for block in clusters(n, d, seed=1):
        documents = []
        for i in range(number, number + len(block)):
            documents.append(Document(f"d{i}", "", metadata={name: i % every == 0 for name, every in SELECTED.items()}))
        index.put(documents, [Encoding(v, v[None], offsets, 1, False) for v in block])
        number += len(block)
    return index


def cases(bench: Bench) -> Iterator[Row]:
    """Fill, build each kind, open it, ask it."""
    n = int(os.environ.get("RETRIEVAL_ROWS", 20_000 if bench.quick else 1_000_000))
    d = 64 if bench.quick else 768
    kinds = os.environ.get("RETRIEVAL_KINDS", "hnsw,ivf-pq").split(",")
    queries = np.concatenate(list(clusters(500, d, seed=2)))
    folder = Path(tempfile.mkdtemp(prefix="bench-index-", dir=os.environ.get("RETRIEVAL_FOLDER")))
    try:
        began = time.perf_counter()
        filled(folder / "index", n, d).close()
        yield _value(bench, "store", n, d, "vectors/s", n / (time.perf_counter() - began))
        for kind in kinds:
            yield from _kind(bench, folder / "index", kind, n, d, queries)
    finally:
        shutil.rmtree(folder)


def _kind(bench: Bench, folder: Path, kind: str, n: int, d: int, queries: Vectors) -> Iterator[Row]:
    with Collection.open(folder, merge_at=None) as index:
        began = time.perf_counter()
        maintain.build(index, kind)
        yield _value(bench, kind, n, d, "build_s", time.perf_counter() - began)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        yield _value(bench, kind, n, d, "peak_bytes_build", peak)
    size = sum(path.stat().st_size for path in (folder / "segments").rglob("*") if path.is_file())
    yield _value(bench, kind, n, d, "segment_bytes/vector", size / n)
    yield _value(bench, kind, n, d, "store_bytes/vector", (folder / "store.sqlite").stat().st_size / n)
    began = time.perf_counter()
    with Collection.open(folder, merge_at=None) as index:
        yield _value(bench, kind, n, d, "open_s", time.perf_counter() - began)
        part = index.view().parts[0]
        assert isinstance(part, Segment)
        docs = part.docs
        # The store numbers documents from 1 in the order they came.
        for name, every in {"all": 1, **SELECTED}.items():
            chosen = np.flatnonzero((docs - 1) % every == 0)
            true = docs[scan(part.vectors, queries, K, rows=None if every == 1 else chosen)[1]]
            filters = None if every == 1 else {name: True}
            index.search(queries[0], K, filters=filters)
            found, took = [], []
            for query in queries:
                start = time.perf_counter()
                hits = index.search(query, K, filters=filters)
                took.append((time.perf_counter() - start) * 1e3)
                found.append({int(hit.id[1:]) + 1 for hit in hits})
            recall = float(np.mean([len(f & set(t)) / K for f, t in zip(found, true.tolist(), strict=True)]))
            p20, p50, p80 = np.percentile(took, [20, 50, 80])
            times = Times(float(p20), float(p50), float(p80), peak_bytes=None, rel_err=None, samples_ms=tuple(took))
            of, provider = shape(n=n, d=d, k=K, filter=name), f"farfield-{kind}"
            yield bench.row("index", provider, "fwd", of, "fp32", times=times, metric="recall@10", value=recall)
            p99 = float(np.percentile(took, 99))
            yield bench.row("index", provider, "fwd", of, "fp32", metric="p99_ms", value=p99)


def _value(bench: Bench, kind: str, n: int, d: int, metric: str, value: float) -> Row:
    return bench.row("index", f"farfield-{kind}", "fwd", shape(n=n, d=d), "fp32", metric=metric, value=value)


if __name__ == "__main__":
    main("index", cases)
