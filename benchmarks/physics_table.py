"""Prints the tables of apps/physics/README.md from the rows of bench_graphsplinenets.

python -m benchmarks.physics_table --machine h200
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness import ROOT, read_rows
from benchmarks.physics_study import EQUATIONS

WORD = "graphsplinenets"
SOLVER = "farfield-solver-cpu"
# Rows of a table, in their order.
NAMES = {
    "farfield-adaptive": "GraphSplineNets, adaptive",
    "farfield-uniform": "GraphSplineNets, uniform",
    "farfield-post-hoc": "splines afterwards (post-hoc)",
    "farfield-full": "every node and frame (full)",
    "farfield-full-longer": "full, one seed, trained longer",
    "neuraloperator-fno": "FNO (neuraloperator)",
    "persistence": "persistence",
}


@dataclass
class Entry:
    """One network or grid on one equation and split.

    Args:
        error: Relative L2, mean of seeds and runs. ms: p20, p50, p80. metrics: Everything else by name.
    """

    equation: str
    provider: str
    split: str
    nodes: int
    steps: int
    error: float | None = None
    ms: tuple[float, float, float] | None = None
    metrics: dict[str, float] = field(default_factory=dict)


def entries(records: Iterable[Mapping[str, str]]) -> list[Entry]:
    """Rows of the CSV put together by network, split and size."""
    found: dict[tuple[str, str], Entry] = {}
    for r in records:
        at = dict(pair.split("=") for pair in r["shape"].split())
        key = (r["provider"], r["shape"])
        new = Entry(at["equation"], r["provider"], at["split"], int(at["nodes"]), int(at["steps"]))
        entry = found.setdefault(key, new)
        if r["metric"]:
            entry.metrics[r["metric"]] = float(r["value"])
            continue
        entry.error = float(r["rel_err"]) if r["rel_err"] else entry.error
        if r["p50_ms"]:
            # Rows that were rebuilt from a log have the median alone.
            entry.ms = (
                float(r["p20_ms"] or r["p50_ms"]),
                float(r["p50_ms"]),
                float(r["p80_ms"] or r["p50_ms"]),
            )
    return list(found.values())


def errors(every: list[Entry]) -> Iterator[str]:
    """Errors and times of unseen runs, between the parameters trained on and beyond them."""
    names = ("equation", "network", "nodes", "steps", "error (%)", "beyond (%)", "ms", "200 steps (%)", "growth")
    yield "| " + " | ".join([*names, "trained (s, steps)"]) + " |"
    yield "|" + "---|" * (len(names) + 1)
    for e in _networks(every):
        beyond = _other(every, e, "extrapolate")
        far, growth = e.metrics.get("relative_l2_200"), e.metrics.get("growth_200")
        cells = [e.equation, NAMES[e.provider], f"{e.nodes:,}" if e.nodes else "", str(e.steps or "")]
        cells += [_percent(e), _percent(beyond), _time(e), f"{far:.1%}"[:-1] if far else ""]
        cells.append(f"{growth:.2f}" if growth else "")
        trained = (e.metrics.get("train_s"), e.metrics.get("train_steps"))
        cells.append(f"{trained[0]:.0f}, {trained[1]:,.0f}" if trained[0] and trained[1] else "")
        yield "| " + " | ".join(cells) + " |"


def wakes(every: list[Entry]) -> Iterator[str]:
    """Errors of drag, lift and frequency in the channel."""
    yield "| runs | network | nodes | drag (%) | lift (%) | frequency (%) | ms |"
    yield "|---|---|---|---|---|---|---|"
    for split in ("test", "extrapolate"):
        for e in [e for e in every if e.equation == "channel" and e.split == split and "drag_mean_error" in e.metrics]:
            cells = [split, NAMES.get(e.provider, "solver, one CPU core"), f"{e.nodes:,}" if e.nodes else ""]
            for name in ("drag_mean", "lift_max", "wake_frequency"):
                cells.append(_spread(e.metrics, f"{name}_error"))
            yield "| " + " | ".join([*cells, _time(e)]) + " |"


def solvers(every: list[Entry]) -> Iterator[str]:
    """The simulator at the error, and at the time, of adaptive GraphSplineNets."""
    yield "| equation | network | solver at its error: nodes, error, ms | solver in its time: nodes, error, ms |"
    yield "|---|---|---|---|"
    for e in _networks(every):
        if e.provider != "farfield-adaptive" or e.error is None or e.ms is None:
            continue
        grids = [s for s in every if s.provider == SOLVER and s.equation == e.equation and s.error is not None and s.ms]
        enough = [s for s in grids if (s.error or 0) <= e.error]
        quick = [s for s in grids if s.ms and s.ms[1] <= e.ms[1]]
        equal = min(enough, key=lambda s: s.ms[1] if s.ms else 0.0, default=None)
        fast = min(quick, key=lambda s: s.error or 0.0, default=None)
        yield f"| {e.equation} | {_percent(e)} %, {_time(e)} ms | {_grid(equal)} | {_grid(fast)} |"


def _networks(every: list[Entry]) -> Iterator[Entry]:
    for equation in EQUATIONS:
        for provider in NAMES:
            yield from (e for e in every if (e.equation, e.provider, e.split) == (equation, provider, "test"))


def _other(every: list[Entry], like: Entry, split: str) -> Entry | None:
    size = (like.equation, like.provider, like.nodes, like.steps)
    return next((e for e in every if e.split == split and (e.equation, e.provider, e.nodes, e.steps) == size), None)


def _percent(entry: Entry | None) -> str:
    if entry is None or entry.error is None:
        return ""
    return _spread(entry.metrics | {"relative_l2": entry.error}, "relative_l2")


def _spread(metrics: Mapping[str, float], name: str) -> str:
    if name not in metrics:
        return ""
    value, low, high = (metrics.get(f"{name}{word}") for word in ("", "_least", "_greatest"))
    said = f"{100 * float(value or 0):.3g}"
    return said if low is None or high is None or low == high else f"{said} ({100 * low:.3g} to {100 * high:.3g})"


def _time(entry: Entry) -> str:
    if entry.ms is None:
        return ""
    low, middle, high = entry.ms
    return f"{middle:.3g}" if high - low < 0.01 * middle else f"{middle:.3g} ({low:.3g} to {high:.3g})"


def _grid(entry: Entry | None) -> str:
    return "none" if entry is None else f"{entry.nodes:,}, {_percent(entry)} %, {_time(entry)}"


def main() -> None:
    """All tables, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--machine", default="h200")
    asked = parser.parse_args()
    every = [e for m in (asked.machine, "cpu") for e in entries(read_rows(asked.results / m / f"{WORD}.csv"))]
    for table in (errors, wakes, solvers):
        print("\n".join(table(every)), end="\n\n")


if __name__ == "__main__":
    main()
