"""A segment: vectors of many documents in a folder that never changes, with the checksum of each file.

Rows are in the order of (document, window). Files: rows.i64 (n, 2) document and window; vectors.f32 (n, d), or inside
index.faiss for hnsw; index.faiss for all kinds but flat, with lists.bin for ivf-flat and ivf-pq; scan.faiss, a byte a
number, for flat of some size; manifest.json. Format 1 had no lists.bin, its lists were in index.faiss, and no
scan.faiss; it is still read.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farfield.apps.retrieval import ann
from farfield.apps.retrieval.exact import Chosen, DeviceScan, Live, Rows, Vectors
from farfield.apps.retrieval.paced_file import PacedFile
from farfield.apps.retrieval.quick_scan import QuickScan
from farfield.apps.retrieval.quick_scan import build as build_scan
from farfield.apps.retrieval.store import Damaged
from farfield.apps.retrieval.stored_rows import StoredRows
from farfield.apps.training.atomic import atomic_folder
from farfield.apps.training.errors import UserError

FOLDER = "segments"
MANIFEST, VECTORS, ROWS, INDEX, SCAN = "manifest.json", "vectors.f32", "rows.i64", "index.faiss", "scan.faiss"
FORMAT, READ = 2, (1, 2)
# Larger files are compared with their checksum by action=verify only, so that opening stays quick.
CHECKED_AT_OPENING = 2**28
Block = tuple[NDArray[np.int64], NDArray[np.int64], Vectors]


def write(
    folder: Path, blocks: Iterable[Block], *, d: int, encoder: str, kind: str, seed: int = 0, progress: Any = None
) -> tuple[str, str]:
    """Write a segment into `folder/segments/`.

    Args:
        blocks: (documents, windows, vectors) in rising order of (document, window); only one is in memory at a time.
        d: Width of a vector.
        encoder: Digest of the encoder's fingerprint.
        kind: auto, flat, hnsw, ivf-flat, ivf-pq.
        progress: Called with rows done and all rows.
    Returns: Name and the digest of its manifest. It is on disk whole, or an exception left nothing.
    Raises: UserError: the disk is full.
    """
    name = f"{encoder[:8]}-{secrets.token_hex(6)}"
    try:
        with atomic_folder(folder / FOLDER / name) as temporary:
            rows = 0
            with PacedFile(temporary / VECTORS) as data, PacedFile(temporary / ROWS) as numbers:
                for docs, windows, vectors in blocks:
                    rows += len(docs)
                    data.write(np.asarray(vectors, np.float32))
                    numbers.write(np.stack([docs, windows], axis=1).astype(np.int64))
            params: Mapping[str, float] | None
            kind = ann.choose(kind, rows)
            stored = StoredRows(temporary / VECTORS, d)
            if kind == "flat":
                params = build_scan(stored, temporary / SCAN)
            else:
                params = ann.build(kind, stored, temporary / INDEX, seed=seed, progress=progress)
            if kind == "hnsw":
                (temporary / VECTORS).unlink()
            about = {"format": FORMAT, "encoder": encoder, "kind": kind, "rows": rows, "d": d, "params": params or {}}
            files = {
                path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
                for path in sorted(temporary.iterdir())
            }
            text = json.dumps({**about, "files": files}, indent=1) + "\n"
            (temporary / MANIFEST).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{folder / FOLDER / name}: {error}; the index is as it was. Free space and write again"
        ) from error
    except RuntimeError as error:
        # FAISS reports a failed write as a RuntimeError.
        raise UserError(f"{folder / FOLDER / name}: {error}; the index is as it was") from error
    return name, hashlib.sha256(text.encode()).hexdigest()


class Segment:
    """An opened segment; safe in many threads.

    Args:
        path: Its folder.
        digest: SHA-256 of its manifest, as the store knows it.
        device: Where a scan of everything runs: cpu, or a torch device with a GPU.
    Raises: Damaged: a file is missing, shorter or longer, or differs from its checksum.
    """

    def __init__(self, path: Path, digest: str, device: str = "cpu") -> None:
        self.path = path
        self.name = path.name
        about = manifest(path, digest)
        self.kind: str = about["kind"]
        self.n, self.d = int(about["rows"]), int(about["d"])
        for name, facts in about["files"].items():
            check_file(path / name, facts, whole=facts["bytes"] <= CHECKED_AT_OPENING)
        numbers = np.memmap(path / ROWS, np.int64, "r", shape=(self.n, 2))
        self.docs: Rows = np.ascontiguousarray(numbers[:, 0])
        self.windows: Rows = np.ascontiguousarray(numbers[:, 1])
        self._ann: Any = None
        if self.kind != "flat":
            self._ann = ann.Ann.open(self.kind, path / INDEX, about["params"])
        if self.kind == "hnsw":
            self.vectors: Vectors = self._ann.vectors
        else:
            # A plain view of the map: each index of a memmap costs microseconds.
            self.vectors = np.asarray(np.memmap(path / VECTORS, np.float32, "r", shape=(self.n, self.d)))
        self._device = None if device == "cpu" else DeviceScan(self.vectors, device)
        self._scan: QuickScan | None = None
        if device == "cpu" and self.kind == "flat":
            scan = path / SCAN if SCAN in about["files"] else None
            self._scan = QuickScan(self.vectors, scan, about["params"] or None)

    def propose(self, queries: Vectors, k: int, live: Live | Chosen | None, share: float) -> Rows:
        """At least k rows a query that are probably its best; see `Ann.propose`."""
        if self._device is not None:
            on_device: Rows = self._device(queries, k, live)[1]
            return on_device
        if self._scan is not None:
            return self._scan(queries, k, live)
        proposed: Rows = self._ann.propose(queries, k, live, share)
        return proposed

    def rows_of_one(self, doc: int) -> range:
        """Rows of a document."""
        left = int(self.docs.searchsorted(doc))
        right = left
        while right < self.n and self.docs[right] == doc:
            right += 1
        return range(left, right)

    def rows_of(self, docs: Rows) -> Rows:
        """Rows of documents, in rising order; docs has to be sorted."""
        left, right = np.searchsorted(self.docs, docs, "left"), np.searchsorted(self.docs, docs, "right")
        counts = right - left
        if not counts.sum():
            return np.empty(0, np.int64)
        starts = np.repeat(left - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
        rows: Rows = np.arange(counts.sum()) + starts
        return rows


def manifest(path: Path, digest: str) -> dict[str, Any]:
    """A segment's manifest.

    Raises: Damaged: it is missing or not the one that the store knows.
    """
    file = path / MANIFEST
    try:
        data = file.read_bytes()
    except OSError as error:
        raise damaged(file, f"cannot be read ({error.strerror})") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise damaged(file, "differs from its checksum")
    about: dict[str, Any] = json.loads(data)
    if about["format"] not in READ:
        read = " and ".join(str(one) for one in READ)
        raise UserError(f"{file}: format {about['format']} came, formats {read} are accepted; build the index again")
    return about


def check_file(path: Path, facts: dict[str, Any], *, whole: bool) -> None:
    """Raises Damaged unless the file has its size and, where whole, its checksum."""
    try:
        size = path.stat().st_size
        if size != facts["bytes"]:
            raise damaged(path, f"has {size} bytes, {facts['bytes']} were written")
        if whole and sha256(path) != facts["sha256"]:
            raise damaged(path, "differs from its checksum")
    except OSError as error:
        raise damaged(path, f"cannot be read ({error.strerror})") from error


def damaged(path: Path, what: str) -> Damaged:
    """The error that names a damaged file and its repair."""
    index = path.parent.parent.parent
    return Damaged(
        f"{path}: {what}; farfield retrieval index index={index} action=repair builds it again from the stored vectors"
    )


def sha256(path: Path) -> str:
    """Digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(2**20):
            digest.update(data)
    return digest.hexdigest()
