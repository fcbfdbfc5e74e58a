"""`farfield physics describe`: what is in the files, and what is wrong with them, before anything is trained."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from farfield.apps.physics.case import Case, problems
from farfield.apps.physics.cases import Wanted, described
from farfield.apps.physics.progress import progress_bar
from farfield.apps.training import UserError, atomic_write


@dataclass
class Range:
    """Least, greatest and mean value of a field over all runs, and how many are missing; taken chunk by chunk."""

    units: str | None
    components: int
    low: float = math.inf
    high: float = -math.inf
    total: float = 0.0
    count: int = 0
    missing: int = 0

    def add(self, values: Any) -> None:
        """Takes in some values; those that are no numbers are counted."""
        good = np.isfinite(values)
        self.missing += int((~good).sum())
        if good.any():
            self.low = min(self.low, float(values[good].min()))
            self.high = max(self.high, float(values[good].max()))
            self.total += float(values[good].sum(dtype=np.float64))
            self.count += int(good.sum())

    def record(self) -> dict[str, Any]:
        """As JSON and the table have it."""
        mean = self.total / self.count if self.count else None
        low, high = (self.low, self.high) if self.count else (None, None)
        return {
            "units": self.units,
            "components": self.components,
            "min": low,
            "mean": mean,
            "max": high,
            "missing": self.missing,
            "values": self.missing + self.count,
        }


def describe(
    *,
    run_folder: Path,
    data: str | list[str],
    fields: list[str] | None,
    static: list[str] | None,
    units: list[str],
    boundary: str | None,
    select: list[str],
    parts: str,
    missing: str,
    out: str | None,
    device: str,
    precision: str,
    seed: int,
    resume: str | None,
) -> dict[str, Any]:
    """Print fields, units, steps, ranges and missing values, then whatever keeps the data from being learnt from.

    Args:
        run_folder: Where the description goes.
        data: A path, a pattern or a list of them.
        fields, static, units, boundary, select, parts, missing: As of `Wanted`.
        out: JSON file to write; None is description.json in the run folder.
        device, precision, seed, resume: As everywhere; nothing is computed on a device or drawn at random.
    Returns: The description, as in the JSON file.
    Raises: UserError: nothing matches, or a file cannot be read.
    """
    wanted = Wanted.of(fields, static, units, boundary, select, parts, missing)
    target = run_folder / "description.json" if out is None else Path(str(out))
    if target.is_dir():
        raise UserError(f"out={out}: that is a folder, a file is accepted")
    cases = described(data, wanted)
    ranges = _ranges(cases)
    wrong = {case.name: texts for case in cases if (texts := problems(case))}
    shared = Counter(name for case in cases for name in case.fields)
    rare = [name for name, count in shared.items() if count < len(cases)]
    found: dict[str, Any] = {
        "runs": len(cases),
        "splits": dict(Counter(c.origin["split"] for c in cases if "split" in c.origin)),
        "mesh": _mesh(cases),
        "times": _times(cases),
        "fields": {name: r.record() for name, r in ranges.items()},
        "static": _static(cases),
        "boundary": _boundary(cases),
        "origin": {k: v for k, v in cases[0].origin.items() if k in ("equation", "calendar", "first_time")},
        "notes": [note for case in cases for note in case.notes],
        "problems": _problems(wrong, ranges, rare, missing),
    }
    atomic_write(target, json.dumps(found, indent=1) + "\n")
    _print(found)
    print(f"{target}: {len(cases)} runs, {len(found['problems'])} problems")
    return found


def _ranges(cases: list[Case]) -> dict[str, Range]:
    ranges: dict[str, Range] = {}
    with progress_bar("describe", len(cases), "runs") as at:
        for i, case in enumerate(cases):
            for name, field in case.fields.items():
                known = ranges.setdefault(name, Range(field.units, field.components))
                for first, values in case.chunks(name):
                    known.add(values)
                    at(i + 0.999 * (first + len(values)) / max(1, len(case.times)))
    return ranges


def _mesh(cases: list[Case]) -> dict[str, Any]:
    nodes = [len(case.nodes) for case in cases]
    kinds = sorted({kind for case in cases for kind in case.cells})
    count = {kind: [len(case.cells.get(kind, ())) for case in cases] for kind in kinds}
    low = np.min([np.nanmin(case.nodes, axis=0) for case in cases if len(case.nodes)], axis=0)
    high = np.max([np.nanmax(case.nodes, axis=0) for case in cases if len(case.nodes)], axis=0)
    same = all(c.nodes.shape == cases[0].nodes.shape and np.array_equal(c.nodes, cases[0].nodes) for c in cases[1:])
    return {
        "dimensions": cases[0].nodes.shape[1],
        "nodes": [min(nodes), max(nodes)],
        "cells": {kind: [min(v), max(v)] for kind, v in count.items()},
        "low": low.tolist(),
        "high": high.tolist(),
        "units": cases[0].units.get("x"),
        "period": list(cases[0].period),
        "meshes": "the same in all runs" if same else "different",
    }


def _times(cases: list[Case]) -> dict[str, Any]:
    steps = np.concatenate([np.diff(case.times) for case in cases])
    even = len(steps) > 0 and float(np.ptp(steps)) <= 1e-6 * float(np.abs(steps).max())
    return {
        "frames": [min(len(c.times) for c in cases), max(len(c.times) for c in cases)],
        "first": min((float(c.times[0]) for c in cases if len(c.times)), default=None),
        "last": max((float(c.times[-1]) for c in cases if len(c.times)), default=None),
        "step": [float(steps.min()), float(steps.max())] if len(steps) else None,
        "even": even,
        "units": cases[0].units.get("t"),
    }


def _static(cases: list[Case]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in sorted({name for case in cases for name in case.static}):
        values = [case.static[name].value for case in cases if name in case.static]
        units = next(case.static[name].units for case in cases if name in case.static)
        found[name] = {"units": units, "min": min(values), "max": max(values), "distinct": len(set(values))}
    return found


def _boundary(cases: list[Case]) -> dict[str, list[int]]:
    tags = sorted({tag for case in cases for tag in case.boundary})
    counts = {tag: [len(case.boundary.get(tag, ())) for case in cases] for tag in tags}
    return {tag: [min(c), max(c)] for tag, c in counts.items()}


def _problems(wrong: dict[str, list[str]], ranges: dict[str, Range], rare: list[str], missing: str) -> list[str]:
    """Each problem once, with the first run that has it and how many do."""
    by_text: dict[str, list[str]] = {}
    for name, texts in wrong.items():
        for text in texts:
            by_text.setdefault(text, []).append(name)
    found = [f"{n[0]}{f' and {len(n) - 1} more runs' if len(n) > 1 else ''}: {text}" for text, n in by_text.items()]
    found += [f"not every run has the field {name}; choose those that all have: fields=[...]" for name in rare]
    for name, r in ranges.items():
        if r.missing and missing == "error":
            share = r.missing / (r.missing + r.count)
            found.append(f"{name}: {r.missing:,} values ({share:.2%}) are missing; missing=drop leaves their nodes out")
    return found


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()

    def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
        if rows:
            drawn = Table(*head)
            for row in rows:
                drawn.add_row(*row)
            console.print(drawn)

    mesh, times = found["mesh"], found["times"]
    box = " x ".join(f"[{_n(a)}, {_n(b)}]" for a, b in zip(mesh["low"], mesh["high"], strict=True))
    cells = ", ".join(f"{_span(v)} {kind}" for kind, v in mesh["cells"].items()) or "none"
    rows = [
        ("runs", f"{found['runs']}" + "".join(f", {n} {name}" for name, n in found["splits"].items())),
        ("nodes", f"{_span(mesh['nodes'])} in {mesh['dimensions']}-D, meshes {mesh['meshes']}"),
        ("cells", cells),
        ("positions", f"{box} {_u(mesh['units'])}" + _period(mesh["period"])),
        (
            "times",
            f"{_span(times['frames'])} frames from {_n(times['first'])} to {_n(times['last'])} {_u(times['units'])},"
            f" {_step(times)}",
        ),
        *((name, value) for name, value in found["origin"].items()),
    ]
    table(("data", ""), rows)
    head: tuple[str, ...] = ("field", "units", "components", "min", "mean", "max", "missing")
    table(
        head,
        [
            (name, _u(r["units"]), str(r["components"]), _n(r["min"]), _n(r["mean"]), _n(r["max"]), f"{r['missing']:,}")
            for name, r in found["fields"].items()
        ],
    )
    head = ("parameter", "units", "min", "max", "distinct values")
    table(
        head,
        [(name, _u(r["units"]), _n(r["min"]), _n(r["max"]), str(r["distinct"])) for name, r in found["static"].items()],
    )
    table(("boundary", "nodes"), [(tag, _span(v)) for tag, v in found["boundary"].items()])
    for note in found["notes"][:10]:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    for problem in found["problems"]:
        console.print(f"problem: {problem}", markup=False, soft_wrap=True)


def _n(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _u(units: str | None) -> str:
    return units or "(no units)"


def _span(values: list[Any]) -> str:
    low, high = (f"{v:,}" if isinstance(v, int) else _n(v) for v in values)
    return low if low == high else f"{low} to {high}"


def _step(times: dict[str, Any]) -> str:
    if times["step"] is None:
        return "one each"
    return f"{'step' if times['even'] else 'uneven steps,'} {_span(times['step'])}"


def _period(period: list[float | None]) -> str:
    around = [f"{axis} wraps around after {_n(p)}" for axis, p in zip("xyz", period, strict=False) if p]
    return f" ({', '.join(around)})" if around else ""
