"""Test errors of the Informer protocol: every experiment of `forecasting evaluate` beside simple forecasts.

On a GPU all experiments run at once, a process each; on a CPU one after another, by default the first alone (minutes a
network). FARFIELD_BENCH_PARTS names others (comma-separated).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import ROOT, Bench, Row, main, shape

EXPERIMENTS = (
    *("etth1-96", "etth1-720", "etth2-96", "etth2-720"),
    *("etth1-720-released", "etth1-720-calendar", "etth2-720-calendar"),
)
METRICS = ("mse", "mae", "validation_mse")
QUICK = ("trainer.epochs=1", "repeats=1", "model.model_dim=4")


def cases(bench: Bench) -> Iterator[Row]:
    """Test MSE and MAE of all windows, validation MSE, seconds of training."""
    usual = EXPERIMENTS if bench.device.type == "cuda" else EXPERIMENTS[:1]
    chosen = os.environ.get("FARFIELD_BENCH_PARTS", ",".join(usual)).split(",")[: 1 if bench.quick else None]
    together = len(chosen) if bench.device.type == "cuda" else 1
    with tempfile.TemporaryDirectory() as work:
        for first in range(0, len(chosen), together):
            some = chosen[first : first + together]
            running = [_start(bench, name, Path(work) / name, together) for name in some]
            for name, process in zip(some, running, strict=True):
                said, _ = process.communicate()
                if process.returncode:
                    raise RuntimeError(f"{name} ended with {process.returncode}:\n{said[-2000:]}")
                yield from rows(bench, name, Path(work) / name)


def _start(bench: Bench, name: str, folder: Path, together: int) -> subprocess.Popen[str]:
    threads = max(1, (os.cpu_count() or 1) // together)
    command = [sys.executable, "-m", "farfield.apps.forecasting", "evaluate", f"experiment={name}"]
    command += [f"device={bench.device.type}", f"out={folder / 'evaluation.json'}"]
    folder.mkdir()
    paths = os.pathsep.join(filter(None, [str(ROOT / ".typing"), os.environ.get("PYTHONPATH", "")]))
    return subprocess.Popen(
        command + (list(QUICK) if bench.quick else []),
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def rows(bench: Bench, name: str, folder: Path) -> Iterator[Row]:
    """The rows of one evaluation.json, and what its networks say of their training."""
    found = json.loads((folder / "evaluation.json").read_text())
    where = shape(experiment=name, L=found["lag"], T=found["horizon"], windows=found["windows"]["test"])
    for row, scores in found["rows"].items():
        provider = row.replace("SpaceTime", "farfield").replace(",", "")
        for metric in METRICS:
            yield bench.row("informer", provider, "", where, "fp32", metric=metric, value=scores[metric])
    for path in sorted(folder.glob("runs/forecasting/evaluate/*/model-*/config.json")):
        facts = json.loads(path.read_text())["facts"]
        provider = f"farfield seed {facts['seed']}"
        for metric, key in (("train_s", "seconds"), ("best_epoch", "epoch")):
            yield bench.row("informer", provider, "", where, "fp32", metric=metric, value=float(facts[key]))


if __name__ == "__main__":
    main("informer", cases)
