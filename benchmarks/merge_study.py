"""What a merge costs those who search and write meanwhile, as a JSON line.

`python -m benchmarks.merge_study FOLDER N D RATE` is a process of its own, without torch: what it holds is the index.
Documents of one vector come in batches of 200 as fast as they are written, beside a merge RATE a second where that is
above 0; after each batch its last document is searched for. Segments are merged in the background, and in the end all
of them are built into one. Memory is read every few milliseconds.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from farfield.apps.retrieval import maintain
from farfield.apps.retrieval.collection import Collection
from farfield.apps.retrieval.document import Document
from farfield.apps.retrieval.encoder import Encoding

Vectors = NDArray[np.float32]
BATCH = 200
FIELDS = ("VmRSS", "RssAnon")


class Given:
    """An encoder that is not asked: vectors come with the documents."""

    def __init__(self, d: int) -> None:
        self.d, self.max_tokens = d, 1
        self.fingerprint: dict[str, str | int | bool] = {"kind": "given", "d": d}


@dataclass
class Memory:
    """Resident bytes, read by a thread: right before each stretch of work and at their highest in it.

    Args:
        busy: Is it under way?
        rows: Vectors of the index: those at its begin, and those that came in it, are noted with each stretch.
    """

    busy: Callable[[], bool]
    rows: Callable[[], int]
    stretches: list[dict[str, int]] = field(default_factory=list)
    stop: bool = False

    def watch(self) -> None:
        """Read until stopped."""
        before, inside = resident(), False
        while not self.stop:
            now = resident()
            if not self.busy():
                before, inside = now, False
            elif not inside:
                start = {f"{name}_before": value for name, value in before.items()}
                self.stretches.append({"rows": self.rows(), "came": 0, **start, **now})
                inside = True
            else:
                peak = self.stretches[-1]
                peak.update({name: max(value, peak[name]) for name, value in now.items()})
                peak["came"] = self.rows() - peak["rows"]
            time.sleep(0.002)


def resident() -> dict[str, int]:
    """Bytes of this process in memory: all, and those that no file stands behind."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) * 1024 for name in FIELDS}


@contextmanager
def watched(busy: Callable[[], bool], rows: Callable[[], int]) -> Iterator[list[dict[str, int]]]:
    """What memory does while something is under way."""
    memory = Memory(busy, rows)
    thread = threading.Thread(target=memory.watch)
    thread.start()
    try:
        yield memory.stretches
    finally:
        memory.stop = True
        thread.join()


def vectors(rows: range, d: int) -> Vectors:
    """Overlapping clusters of unit length, the same whenever they are asked for."""
    centres = np.random.default_rng(0).standard_normal((500, d), np.float32)
    rng = np.random.default_rng([1, rows.start])
    made = centres[rng.integers(len(centres), size=len(rows))] + rng.standard_normal((len(rows), d), np.float32)
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), np.float32)


def study(folder: Path, n: int, d: int, rate: float) -> dict[str, object]:
    """Writes and searches beside merges, then one build of all.

    Args:
        rate: Documents a second beside a merge, at most; 0 is as fast as they are written.
    """
    took: dict[str, list[float]] = {"idle": [], "merging": []}
    spans = np.array([[0, 8]], np.int64)
    index = Collection.create(folder, Given(d))  # type: ignore[arg-type]
    written = 0
    with watched(index._merging.locked, lambda: written) as merges:
        for begin in range(0, n, BATCH):
            rows = range(begin, min(begin + BATCH, n))
            given = vectors(rows, d)
            documents = [Document(f"d{i}", f"d{i:07d}") for i in rows]
            made = [Encoding(row, row[None], spans, 1, False) for row in given]
            busy, began = index._merging.locked(), time.perf_counter()
            index.put(documents, made)
            found = index.search(given[-1], 1)
            seconds = time.perf_counter() - began
            if found[0].id != documents[-1].id:
                raise RuntimeError(f"{documents[-1].id} was written and {found[0].id} found")
            written = rows.stop
            busy = busy or index._merging.locked()
            took["merging" if busy else "idle"].append(seconds)
            if busy and rate:
                time.sleep(max(0.0, BATCH / rate - seconds))
        index.close()
    building = False
    with Collection.open(folder, Given(d), merge_at=None) as index:  # type: ignore[arg-type]
        # As after a day of searches: everything that is mapped has been read.
        for part in index.view().parts:
            float(np.asarray(part.vectors).sum())
        with watched(lambda: building, lambda: n) as builds:
            time.sleep(0.1)
            building, began = True, time.perf_counter()
            maintain.build(index)
            seconds, building = time.perf_counter() - began, False
    return {"searchable_s": took, "merges": merges, "build": {"seconds": seconds, **builds[0]}}


if __name__ == "__main__":
    print(json.dumps(study(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))))
