"""Merges of the retrieval store: when a write is searchable while they run, and the memory they take.

`python -m benchmarks.bench_merge`: 200,000 x 128 (--quick: 20,000), see `merge_study`; then half as many, 1,000 a
second while merges run; then half as many beside two processes that keep two cores busy. A write of 200 documents and
a search that finds the last of them are one time.

Memory of a stretch is its peak over what was resident right before it, in a process that holds nothing but an index:
VmRSS counts everything, also libraries and what searches have read of mapped files; RssAnon what no file stands behind,
most of it (40 MB) Python, numpy and FAISS themselves. Vectors that come meanwhile count into the peak; how many came in
the worst stretch is said.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import ROOT, Bench, Row, Times, main, shape
from benchmarks.merge_study import BATCH, FIELDS

# Vectors from which memory is looked at: before, the process itself is most of it.
FROM = 50_000
# Processes that do nothing but work.
BUSY = 2
# Documents a second of a writer that is not the only work of a machine.
RATE = 1000


def cases(bench: Bench) -> Iterator[Row]:
    """Writes beside merges in the background, then one build of all; then beside other work."""
    n, d = (20_000, 128) if bench.quick else (200_000, 128)
    yield from rows(bench, n, d, "farfield", studied(n, d))
    yield from rows(bench, n // 2, d, f"farfield-at-{RATE}-a-second", studied(n // 2, d, RATE))
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(BUSY)]
    try:
        found = studied(n // 2, d)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    yield from rows(bench, n // 2, d, f"farfield-beside-{BUSY}-busy", found)


def studied(n: int, d: int, rate: float = 0) -> dict[str, Any]:
    """What `merge_study` measures, in a process of its own."""
    folder = Path(tempfile.mkdtemp(prefix="bench-merge-"))
    env = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT / ".typing"), str(ROOT)))}
    command = [sys.executable, "-m", "benchmarks.merge_study", str(folder / "index"), str(n), str(d), str(rate)]
    try:
        done = subprocess.run(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=1800)
    finally:
        shutil.rmtree(folder)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def rows(bench: Bench, n: int, d: int, whose: str, found: dict[str, Any]) -> Iterator[Row]:
    """Times until a write is searchable, and memory by stretches."""
    of = shape(n=n, d=d, batch=BATCH)
    for when, seconds in found["searchable_s"].items():
        if not seconds:
            continue
        took = np.array(seconds) * 1e3
        p20, p50, p80 = (float(p) for p in np.percentile(took, [20, 50, 80]))
        times = Times(p20, p50, p80, peak_bytes=None, rel_err=None, samples_ms=tuple(took))
        yield bench.row("merge", f"{whose}-{when}", "fwd", of, "fp32", times=times)
        for name, value in (("p99_ms", np.percentile(took, 99)), ("max_ms", took.max())):
            yield bench.row("merge", f"{whose}-{when}", "fwd", of, "fp32", metric=name, value=float(value))
    stretches = {
        f"{whose}-merging": [m for m in found["merges"] if m["rows"] >= FROM],
        f"{whose}-build": [found["build"]],
    }
    for provider, memory in stretches.items():
        for name in FIELDS if memory else ():
            worst = max(memory, key=lambda one: float(one[name] / one[f"{name}_before"]))
            ratio = worst[name] / worst[f"{name}_before"]
            yield bench.row("merge", provider, "fwd", of, "fp32", metric=f"peak_over_before_{name}", value=ratio)
            if worst["came"]:
                metric = f"vectors_that_came_meanwhile_{name}"
                yield bench.row("merge", provider, "fwd", of, "fp32", metric=metric, value=worst["came"])
    yield bench.row("merge", f"{whose}-build", "fwd", of, "fp32", metric="seconds", value=found["build"]["seconds"])


if __name__ == "__main__":
    main("merge", cases)
