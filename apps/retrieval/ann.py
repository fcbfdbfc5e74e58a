"""FAISS behind one small interface: build a file over rows, open it mapped, propose rows for queries.

Shapes: n rows, m queries, d width, k proposals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farfield.apps.retrieval import clustering, inverted_lists
from farfield.apps.retrieval.exact import Chosen, Live, Rows, Vectors, at_once, scan
from farfield.apps.retrieval.paced_file import PacedFile
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
# What the second vector of a sum counts for in a graph, and how much more it has to find. Between far vectors it finds
# little: for .98 MiniLM's windows want a width of 128 for real queries, above 2,048 for x + y, 242 for x + y / 2; the
# same for clusters: 48, 84, 37.
SECOND, MORE = {"hnsw": 0.5}, {"hnsw": 0.005}
TUNED_ON, SEARCHED = 256, 32
# Rows to re-rank, and how near to the recall of all rows the first that is taken comes.
DEPTHS = (48, 72, 96, 144, 192, 288, 384, 768)
NEARLY = 0.004
# Rows that the directions, the centres (each) and the codes are made from.
DIRECTIONS_FROM, CENTRE_FROM, CODES_FROM = 16_384, 40, 4_096
# 4-bit codes of a row of ivf-pq, at most; the widest reduction has two numbers a code.
CODES = 128
BLOCK = 16_384
# Files beside the index: its lists, and what is gone when it is written.
LISTS, SAMPLE, SPOOL = "lists.bin", "sample.tmp", "codes.tmp"
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


def build(kind: str, vectors: StoredRows, path: Path, *, seed: int = 0, progress: Progress | None = None) -> Params:
    """Write an index over the rows of a matrix, its lists beside it.

    Args:
        kind: hnsw, ivf-flat or ivf-pq.
        vectors: (n, d) of unit length, in a file.
        path: File to write.
        progress: Called often with rows done, 0 before the first, and all rows.
    Returns: How wide to search (nprobe or ef) and how many to re-rank so that recall@10 reaches RECALL.
    Complexity: ivf-pq holds O(n + lists d) bytes and some MB; ivf-flat n d / 4 bytes, hnsw all of its index.
    """
    n, d = vectors.shape
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(d, 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 100
        for begin in range(0, n, BLOCK):
            index.add(vectors[begin : begin + BLOCK])
            if progress is not None:
                progress(min(begin + BLOCK, n), n)
        faiss.write_index(index, str(path))
        return _tuned(Ann(kind, index, {}), vectors, seed)
    index, turn = _trained_lists(kind, vectors, path.parent, seed, progress)
    _write_lists(index, turn, vectors, path.parent, progress)
    faiss.extract_index_ivf(index).ntotal = index.ntotal = n
    faiss.write_index(index, str(path))
    return _tuned(Ann.open(kind, path, {}), vectors, seed, progress)


def _trained_lists(
    kind: str, vectors: StoredRows, folder: Path, seed: int, progress: Progress | None
) -> tuple[Any, Vectors | None]:
    """An empty index of lists: ivf-flat over the vectors, ivf-pq over their first directions, by a matrix (d, r), in
    codes of 4 bits."""
    n, d = vectors.shape
    # Lists by about 4 sqrt(n): finding the nearest and reading them cost alike.
    lists = max(1, min(n // CENTRE_FROM, 2 ** round(math.log2(4 * math.sqrt(n)))))
    rng = np.random.default_rng(seed)
    between = None if progress is None else partial(progress, 0, n)
    if kind == "ivf-flat":
        centres = _centres(_sample(vectors, CENTRE_FROM * lists, rng, folder), lists, seed, between)
        index = faiss.IndexIVFFlat(centres, d, lists, faiss.METRIC_INNER_PRODUCT)
        _owned(index, centres)
        return index, None
    turn = clustering.reduction(_blocks(vectors, _chosen(n, DIRECTIONS_FROM, rng)), d, seed)
    r = turn.shape[1]
    sample = _sample(vectors, CENTRE_FROM * lists, rng, folder, turn)
    codes = max(m for m in range(1, min(r, CODES) + 1) if r % m == 0)
    centres = _centres(sample, lists, seed, between)
    index = faiss.IndexIVFPQFastScan(centres, r, lists, codes, 4, faiss.METRIC_INNER_PRODUCT)
    _owned(index, centres)
    index.by_residual = False
    index.pq.cp.seed, index.pq.cp.niter = seed, 12
    # Its threads wait for each other after every few microseconds of work: two take ten times as long as one.
    with one_thread():
        index.train(sample[_chosen(len(sample), CODES_FROM, rng)])
    front = faiss.LinearTransform(d, r, False)
    faiss.copy_array_to_vector(np.ascontiguousarray(turn.T).ravel(), front.A)
    front.is_trained = True
    both = faiss.IndexPreTransform(front, index)
    _owned(both, front, index)
    return both, turn


def _write_lists(
    index: Any, turn: Vectors | None, vectors: StoredRows, folder: Path, progress: Progress | None
) -> None:
    """The lists of all rows: first each row's list and codes, a file of codes in between, then list after list."""
    n, d = vectors.shape
    inner = faiss.downcast_index(index.index) if turn is not None else index
    centres = inner.quantizer.reconstruct_n(0, inner.nlist)
    own = np.empty(n, np.int32)
    spool = folder / SPOOL
    w = inner.code_size
    with PacedFile(spool) as codes:
        for begin in range(0, n, step := at_once(d)):
            block = vectors[begin : begin + step]
            block = block if turn is None else block @ turn
            own[begin : begin + step] = clustering.nearest(block, centres)
            if turn is not None:
                codes.write(inner.pq.compute_codes(block))
            if progress is not None:
                progress(min(begin + step, n), n)

    def read(begin: int, end: int) -> NDArray[np.uint8]:
        if turn is None:
            return vectors[begin:end].view(np.uint8)
        return np.fromfile(spool, np.uint8, (end - begin) * w, offset=begin * w).reshape(-1, w)

    inverted_lists.write(folder / LISTS, read, own, inner.nlist, w, fast=turn is not None)
    spool.unlink()


def _owned(whole: Any, *parts: Any) -> None:
    """Let an index free its parts, and Python's objects of them no more."""
    whole.own_fields = True
    for part in parts:
        part.this.disown()


def _centres(sample: StoredRows, lists: int, seed: int, between: Callable[[], None] | None) -> Any:
    quantizer = faiss.IndexFlatIP(sample.shape[1])
    quantizer.add(clustering.centres(sample, min(lists, len(sample)), seed, between))
    return quantizer


def _chosen(n: int, wanted: int, rng: np.random.Generator) -> Rows:
    """Rows by chance, in rising order; all where no more are there."""
    return np.sort(rng.choice(n, wanted, replace=False)) if wanted < n else np.arange(n)


def _blocks(vectors: StoredRows, rows: Rows) -> Iterator[Vectors]:
    step = at_once(vectors.shape[1])
    return (vectors[rows[begin : begin + step]] for begin in range(0, len(rows), step))


def _sample(
    vectors: StoredRows, wanted: int, rng: np.random.Generator, folder: Path, turn: Vectors | None = None
) -> StoredRows:
    """Rows by chance, reduced where a matrix (d, r) is given, in a file that is gone when they are."""
    path = folder / SAMPLE
    with path.open("wb") as file:
        for block in _blocks(vectors, _chosen(len(vectors), wanted, rng)):
            file.write(np.ascontiguousarray(block if turn is None else block @ turn).data)
    sample = StoredRows(path, vectors.shape[1] if turn is None else turn.shape[1])
    path.unlink()
    return sample


def _tuned(ann: Ann, vectors: StoredRows, seed: int, progress: Progress | None = None) -> Params:
    """Smallest width that finds RECALL of the best 10 of sums of two vectors, and how many to re-rank."""
    n = len(vectors)
    at = np.random.default_rng(seed + 1).integers(0, n, (2, TUNED_ON))
    queries = vectors[at[0]] + np.float32(SECOND.get(ann.kind, 1.0)) * vectors[at[1]]
    queries /= np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-9)
    k = min(10, n)
    true = scan(vectors, queries, k)[1]

    def recall(width: int, depth: int) -> float:
        ann.params = {"width": width, "depth": depth}
        if progress is not None:
            progress(n, n)
        # Their exact scores put the true best among the proposals first.
        steps = range(0, TUNED_ON, SEARCHED)
        found = (
            (true[i : i + SEARCHED, :, None] == ann.propose(queries[i : i + SEARCHED], k)[:, None, :]).any(axis=2)
            for i in steps
        )
        return float(np.mean([one.mean() for one in found]))

    depth = k
    if ann.kind == "ivf-pq":
        most = recall(ann.widest, DEPTHS[-1])
        depth = next(one for one in DEPTHS if one == DEPTHS[-1] or recall(ann.widest, one) >= most - NEARLY)
    width = 1 if ann.kind != "hnsw" else 16
    while width < ann.widest:
        if recall(width, depth) >= RECALL + MORE.get(ann.kind, 0.0):
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
        if kind == "hnsw":
            return cls(kind, faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC), params)
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        if path.with_name(LISTS).exists():
            inverted_lists.attach(faiss.extract_index_ivf(index), path.with_name(LISTS))
        else:
            # Segments of format 1 have them inside.
            lists = faiss.downcast_InvertedLists(faiss.extract_index_ivf(index).invlists)
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
        # Near rows that are live lie further out, in more lists; a graph meets as many of the others on its way.
        share = max(share, 1e-4)
        width = min(self.widest, math.ceil(width / (share if self.kind == "hnsw" else math.sqrt(share))))
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
