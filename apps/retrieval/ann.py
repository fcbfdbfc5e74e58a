"""FAISS behind one small interface: build a file over rows, open it mapped, propose rows for queries.

Shapes: n rows, m queries, d width, k proposals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from farfield.apps.retrieval import clustering
from farfield.apps.retrieval.exact import Chosen, Live, Rows, Vectors, scan
from farfield.apps.retrieval.stored_rows import StoredRows

# Its stubs know another interface than its Python module has.
faiss: Any = import_module("faiss")
KINDS = ("auto", "flat", "hnsw", "ivf-flat", "ivf-pq")
# Rows up to which an exact scan takes a millisecond or two.
SCAN_ROWS = 50_000
# Rows below which there is nothing to train on.
TRAINED_ROWS = 1_000
# Share of the true best 10 that a search has to find of queries that are the sum of two vectors of the index. Such a
# query lies between clusters as a real one does: both need about as many lists for a recall.
RECALL = 0.98
TUNED_ON, SCANNED = 256, 64
# Rows to re-rank, and how near to the recall of all rows the first that is taken comes.
DEPTHS = (48, 96, 192, 384, 768)
NEARLY = 0.004
# Rows that the directions, the centres (each) and the codes are made from.
DIRECTIONS_FROM, CENTRE_FROM, CODES_FROM = 16_384, 40, 16_384
# 4-bit codes of a row of ivf-pq, at most; the widest reduction has two numbers a code.
CODES = 128
BLOCK = 16_384
Params = dict[str, int]
Progress = Callable[[int, int], None]


@contextmanager
def one_thread(only: bool = True) -> Iterator[None]:
    """One query is searched by its own thread: waiting for others costs more than they save where many readers ask."""
    before = faiss.omp_get_max_threads()
    if only:
        faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def choose(kind: str, n: int) -> str:
    """The kind for n rows; a named one that needs more rows than there are to train becomes flat."""
    if kind == "auto":
        kind = "flat" if n <= SCAN_ROWS else "ivf-pq"
    return "flat" if kind != "flat" and n < TRAINED_ROWS else kind


def build(
    kind: str, vectors: Vectors | StoredRows, path: Path, *, seed: int = 0, progress: Progress | None = None
) -> Params:
    """Write an index over the rows of a matrix.

    Args:
        kind: hnsw, ivf-flat or ivf-pq.
        vectors: (n, d) of unit length, in memory or in a file.
        path: File to write.
        progress: Called with rows done and all rows.
    Returns: How wide to search (nprobe or ef) and how many to re-rank so that recall@10 reaches RECALL.
    """
    n, d = vectors.shape
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(d, 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 100
    else:
        index = _trained_lists(kind, vectors, seed)
    for begin in range(0, n, BLOCK):
        _add(kind, index, np.ascontiguousarray(vectors[begin : begin + BLOCK]))
        if progress is not None:
            progress(min(begin + BLOCK, n), n)
    params = _tuned(kind, index, vectors, seed)
    faiss.write_index(index, str(path))
    return params


def _trained_lists(kind: str, vectors: Vectors | StoredRows, seed: int) -> Any:
    """An empty index of lists: ivf-flat over the vectors, ivf-pq over their first directions in codes of 4 bits."""
    n, d = vectors.shape
    # Lists by about 4 sqrt(n): finding the nearest and reading them cost alike.
    lists = max(1, min(n // CENTRE_FROM, 2 ** round(math.log2(4 * math.sqrt(n)))))
    rng = np.random.default_rng(seed)
    if kind == "ivf-flat":
        centres = _centres(_some(vectors, CENTRE_FROM * lists, rng), lists, seed)
        index = faiss.IndexIVFFlat(centres, d, lists, faiss.METRIC_INNER_PRODUCT)
        _owned(index, centres)
        return index
    turn = clustering.reduction(_some(vectors, DIRECTIONS_FROM, rng), seed)
    r = turn.shape[1]
    sample = _some(vectors, CENTRE_FROM * lists, rng, turn)
    codes = max(m for m in range(1, min(r, CODES) + 1) if r % m == 0)
    centres = _centres(sample, lists, seed)
    index = faiss.IndexIVFPQFastScan(centres, r, lists, codes, 4, faiss.METRIC_INNER_PRODUCT)
    _owned(index, centres)
    index.pq.cp.seed, index.pq.cp.niter = seed, 12
    index.train(sample[:CODES_FROM])
    front = faiss.LinearTransform(d, r, False)
    faiss.copy_array_to_vector(np.ascontiguousarray(turn.T).ravel(), front.A)
    front.is_trained = True
    both = faiss.IndexPreTransform(front, index)
    _owned(both, front, index)
    return both


def _owned(whole: Any, *parts: Any) -> None:
    """Let an index free its parts, and Python's objects of them no more."""
    whole.own_fields = True
    for part in parts:
        part.this.disown()


def _centres(sample: Vectors, lists: int, seed: int) -> Any:
    quantizer = faiss.IndexFlatIP(sample.shape[1])
    quantizer.add(clustering.centres(sample, min(lists, len(sample)), seed))
    return quantizer


def _some(vectors: Vectors | StoredRows, wanted: int, rng: np.random.Generator, turn: Vectors | None = None) -> Vectors:
    """Rows by chance, in an order by chance; turned and reduced where a matrix (d, r) is given."""
    n = len(vectors)
    rows = np.sort(rng.choice(n, wanted, replace=False)) if wanted < n else np.arange(n)
    made = np.empty((len(rows), vectors.shape[1] if turn is None else turn.shape[1]), np.float32)
    for begin in range(0, len(rows), BLOCK):
        block = vectors[rows[begin : begin + BLOCK]]
        made[begin : begin + BLOCK] = block if turn is None else block @ turn
    rng.shuffle(made)
    return made


def _add(kind: str, index: Any, block: Vectors) -> None:
    """Append rows."""
    if kind == "ivf-flat":
        # Its own product of all rows with all centres is several times slower than numpy's.
        centres = index.quantizer.reconstruct_n(0, index.nlist)
        own = clustering.nearest(block, centres)
        index.add_core(len(block), faiss.swig_ptr(block), None, faiss.swig_ptr(own))
    else:
        index.add(block)


def _tuned(kind: str, index: Any, vectors: Vectors | StoredRows, seed: int) -> Params:
    """Smallest width that finds RECALL of the best 10 of sums of two vectors, and how many to re-rank."""
    n = len(vectors)
    at = np.random.default_rng(seed + 1).integers(0, n, (2, TUNED_ON))
    queries = vectors[at[0]] + vectors[at[1]]
    queries /= np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-9)
    k = min(10, n)
    # Some at once: the scores of a step are held as often as a sort needs them.
    true = np.concatenate([scan(vectors, queries[i : i + SCANNED], k)[1] for i in range(0, TUNED_ON, SCANNED)])
    ann = Ann(kind, index, {})

    def recall(width: int, depth: int) -> float:
        ann.params = {"width": width, "depth": depth}
        # Their exact scores put the true best among the proposals first.
        proposed = ann.propose(queries, k)
        return float((true[:, :, None] == proposed[:, None, :]).any(axis=2).mean())

    depth = k
    if kind == "ivf-pq":
        most = recall(ann.widest, DEPTHS[-1])
        depth = next(one for one in DEPTHS if one == DEPTHS[-1] or recall(ann.widest, one) >= most - NEARLY)
    width = 1 if kind != "hnsw" else 16
    while width < ann.widest:
        if recall(width, depth) >= RECALL:
            return {"width": width, "depth": depth}
        width = math.ceil(width * 1.3)
    return {"width": ann.widest, "depth": depth}


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
            lists = faiss.downcast_InvertedLists(faiss.extract_index_ivf(index).invlists)
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
        return 2048 if self.kind == "hnsw" else int(faiss.extract_index_ivf(self.index).nlist)

    def propose(self, queries: Vectors, k: int, live: Live | Chosen | None = None, share: float = 1.0) -> Rows:
        """Rows that are probably among the k best.

        Args:
            queries: (m, d).
            k: How many are wanted in the end; more are proposed where the kind's own scores are rough.
            live: (n,) rows that may be found; None is all.
            share: Of the rows that are live: the fewer, the wider the search.
        Returns: (m, >= k) row numbers, -1 where there is no more.
        """
        wanted = min(max(2 * k, self.params["depth"]) if self.kind == "ivf-pq" else k, self.index.ntotal)
        width = self.params["width"]
        # Near rows that are live lie further out, in more lists.
        width = min(self.widest, math.ceil(width / math.sqrt(max(share, 1e-4))))
        selector = None
        if live is not None:
            bits = live.bits if isinstance(live, Chosen) else np.packbits(live, bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)
        if self.kind == "hnsw":
            params = faiss.SearchParametersHNSW(efSearch=max(width, wanted), sel=selector)
        else:
            params = faiss.SearchParametersIVF(nprobe=width, sel=selector)
        with one_thread(len(queries) == 1):
            _, rows = self.index.search(np.ascontiguousarray(queries), wanted, params=params)
        return np.asarray(rows, np.int64)
