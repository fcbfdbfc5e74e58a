"""FAISS behind one small interface: build a file over rows, open it mapped, propose rows for queries.

Shapes: n rows, m queries, d width, k proposals.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from farfield.apps.retrieval.exact import Live, Rows, Vectors, scan

# Its stubs know another interface than its Python module has.
faiss: Any = import_module("faiss")
KINDS = ("auto", "flat", "hnsw", "ivf-flat", "ivf-pq")
# Rows up to which a scan of all is quick.
SCAN_ROWS = 10_000
# Share of the true best 10 that a search has to find among other vectors of the index.
RECALL = 0.995
# Queries of a graph lie further out than what it is tuned on.
MARGIN = {"hnsw": 2.0, "ivf-flat": 1.0, "ivf-pq": 1.0}
BLOCK = 16_384
Params = dict[str, int]
Progress = Callable[[int, int], None]


def choose(kind: str, n: int) -> str:
    """The kind for n rows; a named one that needs more rows than there are to train becomes flat."""
    if kind == "auto":
        kind = "flat" if n <= SCAN_ROWS else "hnsw"
    return "flat" if kind != "flat" and n < 1_000 else kind


def build(kind: str, vectors: Vectors, path: Path, *, seed: int = 0, progress: Progress | None = None) -> Params:
    """Write an index over the rows of a matrix.

    Args:
        kind: hnsw, ivf-flat or ivf-pq.
        vectors: (n, d) of unit length, in memory or mapped.
        path: File to write.
        progress: Called with rows done and all rows.
    Returns: How wide to search (nprobe or ef) and how many to re-rank so that recall@10 reaches RECALL.
    """
    n, d = vectors.shape
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(d, 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 100
    else:
        index = _trained_ivf(kind, vectors, seed)
    for begin in range(0, n, BLOCK):
        index.add(np.ascontiguousarray(vectors[begin : begin + BLOCK]))
        if progress is not None:
            progress(min(begin + BLOCK, n), n)
    params = _tuned(kind, index, vectors, seed)
    faiss.write_index(index, str(path))
    return params


def _trained_ivf(kind: str, vectors: Vectors, seed: int) -> Any:
    n, d = vectors.shape
    # Lists by about 4 sqrt(n): finding the nearest and reading them cost alike.
    lists = max(1, min(n // 40, 2 ** round(math.log2(4 * math.sqrt(n)))))
    quantizer = faiss.IndexFlatIP(d)
    if kind == "ivf-flat":
        index = faiss.IndexIVFFlat(quantizer, d, lists, faiss.METRIC_INNER_PRODUCT)
    else:
        index = faiss.IndexIVFPQ(quantizer, d, lists, code_width(d), 8, faiss.METRIC_INNER_PRODUCT)
        index.pq.cp.seed = seed
    index.cp.seed = seed
    index.cp.niter = 8
    # The centres of unit vectors are compared by inner product: they have to be of unit length too.
    index.cp.spherical = True
    wanted = min(n, 40 * lists)
    rng = np.random.default_rng(seed)
    sample = np.sort(rng.choice(n, wanted, replace=False)) if wanted < n else np.arange(n)
    index.train(np.ascontiguousarray(vectors[sample]))
    index.own_fields = True
    quantizer.this.disown()
    return index


def code_width(d: int) -> int:
    """Bytes of a product code: about one for 8 numbers, a divisor of d."""
    return max(m for m in range(1, max(1, d // 8) + 1) if d % m == 0)


def _tuned(kind: str, index: Any, vectors: Vectors, seed: int) -> Params:
    """Smallest width that finds RECALL of the best 10 of vectors of the index itself, and how many to re-rank."""
    n = len(vectors)
    at = np.sort(np.random.default_rng(seed + 1).choice(n, min(n, 256), replace=False))
    k = min(10, n - 1)
    near = scan(vectors, np.ascontiguousarray(vectors[at]), k + 1)[1][:, -1]
    # Between a vector and its tenth neighbour: where queries lie. A vector of the index is found too easily.
    queries = vectors[at] + vectors[near]
    queries /= np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-9)
    true = scan(vectors, queries, k)[1]
    ann = Ann(kind, index, {})
    params: Params = {"width": ann.widest, "depth": 256 if kind == "ivf-pq" else k}
    width = 1 if kind != "hnsw" else 16
    while width < params["width"]:
        ann.params = {**params, "width": width}
        if _recall(ann.reranked(vectors, queries, k), true) >= RECALL:
            return {**params, "width": min(params["width"], math.ceil(width * MARGIN[kind]))}
        width = math.ceil(width * 1.4)
    return params


def _recall(found: Rows, true: Rows) -> float:
    lines = zip(found.tolist(), true.tolist(), strict=True)
    return float(np.mean([len(set(f) & set(t)) / len(t) for f, t in lines]))


class Ann:
    """An index that proposes rows. Safe in many threads: nothing of a search is kept in it.

    Args:
        kind: hnsw, ivf-flat or ivf-pq.
        index: The FAISS index.
        params: width (nprobe or ef) and depth (rows to re-rank), as `build` returned them.
    """

    def __init__(self, kind: str, index: Any, params: Params) -> None:
        self.kind = kind
        self.index = index
        self.params = params

    @classmethod
    def open(cls, kind: str, path: Path, params: Params) -> Ann:
        """Map a file: lists stay on disk until a search reads them."""
        flag = faiss.IO_FLAG_MMAP_IFC if kind == "hnsw" else faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY
        index = faiss.read_index(str(path), flag)
        if kind != "hnsw":
            lists = faiss.downcast_InvertedLists(index.invlists)
            # Threads that read ahead cost more than a search that finds its lists in memory.
            if hasattr(lists, "prefetch_nthread"):
                lists.prefetch_nthread = 0
        return cls(kind, index, params)

    @property
    def vectors(self) -> Vectors:
        """The rows themselves, (n, d), as an hnsw index holds them; a view that lives as long as the index."""
        storage = faiss.downcast_index(self.index.storage)
        view = faiss.rev_swig_ptr(storage.get_xb(), self.index.ntotal * self.index.d)
        return np.asarray(view).reshape(self.index.ntotal, self.index.d)

    @property
    def widest(self) -> int:
        """The width that looks at everything, or at as much as pays."""
        return 2048 if self.kind == "hnsw" else int(self.index.nlist)

    def propose(self, queries: Vectors, k: int, live: Live | None = None, share: float = 1.0) -> Rows:
        """Rows that are probably among the k best.

        Args:
            queries: (m, d).
            k: How many are wanted in the end; more are proposed where the kind's own scores are rough.
            live: (n,) rows that may be found; None is all.
            share: Of the rows that are live: the fewer, the wider the search.
        Returns: (m, >= k) row numbers, -1 where there is no more.
        """
        wanted = min(max(k, self.params["depth"]) if self.kind == "ivf-pq" else k, self.index.ntotal)
        width = self.params["width"]
        # Near rows that are live lie further out, in more lists.
        width = min(self.widest, math.ceil(width / math.sqrt(max(share, 1e-4))))
        selector = None
        if live is not None:
            bits = np.packbits(live, bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)
        if self.kind == "hnsw":
            params = faiss.SearchParametersHNSW(efSearch=max(width, wanted), sel=selector)
        else:
            params = faiss.SearchParametersIVF(nprobe=width, sel=selector)
        _, rows = self.index.search(np.ascontiguousarray(queries), wanted, params=params)
        return np.asarray(rows, np.int64)

    def reranked(self, vectors: Vectors, queries: Vectors, k: int) -> Rows:
        """The k best of the proposals by their true inner products."""
        proposed = self.propose(queries, k)
        scores = np.einsum("md,mpd->mp", queries, vectors[np.maximum(proposed, 0)])
        scores[proposed < 0] = -np.inf
        order = np.argsort(-scores, axis=1)[:, :k]
        return np.take_along_axis(proposed, order, 1)
