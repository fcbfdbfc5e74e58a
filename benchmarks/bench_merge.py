"""Merges of the retrieval store: when a write is searchable while they run, and the memory they take.

`python -m benchmarks.bench_merge`: 200,000 x 128 (--quick: 20,000), see `merge_study`. A write of 200 documents and a
search that finds the last of them are one time. Memory of a stretch is its peak over what was resident before it.
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

import numpy as np

from benchmarks.harness import ROOT, Bench, Row, Times, main, shape
from benchmarks.merge_study import BATCH, FIELDS

# Vectors from which memory is looked at: before, the process itself is most of it.
FROM = 50_000


def cases(bench: Bench) -> Iterator[Row]:
    """Writes beside merges in the background, then one build of all."""
    n, d = (20_000, 128) if bench.quick else (200_000, 128)
    folder = Path(tempfile.mkdtemp(prefix="bench-merge-"))
    env = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT / ".typing"), str(ROOT)))}
    command = [sys.executable, "-m", "benchmarks.merge_study", str(folder / "index"), str(n), str(d)]
    try:
        done = subprocess.run(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=1800)
    finally:
        shutil.rmtree(folder)
    found = json.loads(done.stdout)
    of = shape(n=n, d=d, batch=BATCH)
    for when, seconds in found["searchable_s"].items():
        if not seconds:
            continue
        took = np.array(seconds) * 1e3
        p20, p50, p80 = (float(p) for p in np.percentile(took, [20, 50, 80]))
        times = Times(p20, p50, p80, peak_bytes=None, rel_err=None, samples_ms=tuple(took))
        yield bench.row("merge", f"farfield-{when}", "fwd", of, "fp32", times=times)
        for name, value in (("p99_ms", np.percentile(took, 99)), ("max_ms", took.max())):
            yield bench.row("merge", f"farfield-{when}", "fwd", of, "fp32", metric=name, value=float(value))
    stretches = {
        "farfield-merging": [m for m in found["merges"] if m["rows"] >= FROM],
        "farfield-build": [found["build"]],
    }
    for provider, memory in stretches.items():
        for name in FIELDS if memory else ():
            ratio = max(one[name] / one[f"{name}_before"] for one in memory)
            yield bench.row("merge", provider, "fwd", of, "fp32", metric=f"peak_over_before_{name}", value=ratio)
    yield bench.row("merge", "farfield-build", "fwd", of, "fp32", metric="seconds", value=found["build"]["seconds"])


if __name__ == "__main__":
    main("merge", cases)
