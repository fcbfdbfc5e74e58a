"""`farfield physics evaluate`: errors and costs of trained ensembles on whole runs, beside the simplest forecast.

Shapes: R runs, T frames, N nodes, C components.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from farfield.apps.physics.cases import Wanted, open_cases
from farfield.apps.physics.ensemble import Ensemble
from farfield.apps.physics.runs import SPLITS, Runs
from farfield.apps.physics.trust import judged
from farfield.apps.training import UserError, atomic_write

HEAD = ("model", "relative L2", "members", "floor", "last", "drift", "ms", "nodes", "steps")
# Columns for a name on a terminal that has hardly enough for the numbers.
LEAST = 13


def score(prediction: Sequence[Tensor], truth: Sequence[Tensor]) -> dict[str, float]:
    """Errors of rollouts, means over runs; the first frame is given and not counted.

    Args:
        prediction, truth: (T, N, C) of each run, or (R, T, N, C).
    Returns: relative_l2: |error| / |truth| over frames, nodes and components, components in units of their spread;
        relative_l2_last: of the last frame; drift: relative change of the field's size at the last frame.
    """
    scale, mean = scale_of(truth)
    rows = []
    for one, other in zip(prediction, truth, strict=True):
        p, t = one.double()[1:] / scale, other.double()[1:] / scale
        size, true = ((x[-1] - mean / scale).norm() for x in (p, t))
        error = (p - t).norm() / t.norm().clamp(min=1e-30)
        last = (p - t)[-1].norm() / t[-1].norm().clamp(min=1e-30)
        rows.append(torch.stack([error, last, size / true.clamp(min=1e-30) - 1]))
    found = torch.stack(rows).mean(0).tolist()
    return dict(zip(("relative_l2", "relative_l2_last", "drift"), found, strict=True))


def scale_of(truth: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Spread (1 where there is none) and mean of every component over all runs, (C,) float64."""
    every = torch.cat([t.double().flatten(0, 1) for t in truth])
    spread = every.std(0)
    return torch.where(spread > 0, spread, 1.0), every.mean(0)


def persistence(runs: Runs) -> Tensor:
    """The first frame for ever, (R, T, N, C)."""
    return runs.values[:, :1].expand_as(runs.values)


def rows_of(
    ensembles: Mapping[str, Ensemble], runs: Runs, device: str, split: str, *, timed: bool
) -> list[dict[str, Any]]:
    """One row an ensemble, and persistence. floor: the error of the ensemble's own splines through the truth.

    Args:
        ensembles: By name. runs: Of one split. timed: Whether a rollout is timed.
    """
    rows = []
    for name, ensemble in ensembles.items():
        members = ensemble.members(runs, device)
        each = [score(runs.on_own(m), runs.truth)["relative_l2"] for m in members]
        row: dict[str, Any] = {"model": name, "split": split, "runs": len(runs)}
        row |= score(runs.on_own(members.mean(0)), runs.truth)
        row |= {"members": each, "nodes": ensemble.nodes, "steps": ensemble.steps}
        row["seconds"] = ensemble.seconds(runs, device) if timed else None
        if ensemble.factor is not None and ensemble.tolerance is not None:
            row["trust"] = trust_of(ensemble, members, runs)
        if ensemble.places.space is not None:
            row["floor"] = score(runs.on_own(ensemble.projected(runs)), runs.truth)["relative_l2"]
        rows.append(row)
    still = {
        "model": "persistence",
        "split": split,
        "runs": len(runs),
        **score(runs.on_own(persistence(runs)), runs.truth),
    }
    rows.append(still | {"members": [], "nodes": len(runs.nodes), "steps": 0, "seconds": None, "trust": None})
    return rows


def trust_of(ensemble: Ensemble, members: Tensor, runs: Runs) -> dict[str, float | None]:
    """What the ensemble's own estimates of its error are worth on runs; None where there is nothing to tell.

    Args:
        members: (K, R, T, N, C).
    """
    assert ensemble.factor is not None
    assert ensemble.tolerance is not None
    each = [torch.stack(m) for m in zip(*(runs.on_own(m) for m in members), strict=True)]
    own = runs.own or (None,) * len(runs)
    shared = ~torch.from_numpy(runs.held).any(1)
    free = [shared if o is None else ~o.held.any(1) for o in own]
    found = judged(each, runs.truth, free, ensemble.factor, ensemble.tolerance, scale_of(runs.truth)[0])
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def evaluate(
    *,
    run_folder: Path,
    checkpoint: str | list[str],
    data: str | list[str],
    split: list[str] | None,
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
) -> list[dict[str, Any]]:
    """Errors, times, nodes and steps of one or more trained ensembles; several are the dial of error against cost.

    Args:
        run_folder: Where the table goes as JSON.
        checkpoint: Folders that train wrote; a list makes one table.
        data: Runs; those of the splits are looked at.
        split: valid, test, extrapolate, train; None is all but train that there are, or all runs where none is named.
        units, boundary, select, parts, missing: As of `Wanted`.
        out: JSON file; None is scores.json in the run folder.
        device, precision, seed, resume: As everywhere; precision must be fp32.
    Returns: The rows.
    Raises: UserError: files or settings are wrong.
    """
    if precision != "fp32":
        raise UserError(f"precision={precision}: fp32 is accepted by evaluate")
    folders = [checkpoint] if isinstance(checkpoint, str) else list(checkpoint)
    ensembles = {_name(folder, folders): Ensemble.load(folder) for folder in folders}
    first = next(iter(ensembles.values())).like
    fields = [n for n, _ in first.fields]
    wanted = Wanted.of([*fields, *first.input_names], None, units, boundary, select, parts, missing)
    cases = open_cases(data, wanted)
    runs = Runs.of(cases, like=first, seed=seed, times=first.times)
    for note in runs.notes:
        print(note, file=sys.stderr)
    wants = split or [s for s in SPLITS[1:] if runs.has(s)] or ["train"]
    rows = []
    for name in wants:
        rows += rows_of(ensembles, runs.part(name), device, name, timed=True)
    atomic_write(run_folder / "scores.json" if out is None else Path(str(out)), json.dumps(rows, indent=1) + "\n")
    print_rows(rows)
    return rows


def _name(folder: str, folders: Sequence[str]) -> str:
    """The shortest end of a path that tells it from the others."""
    parts = [p for p in Path(folder).parts if p != "model"]
    others = [[p for p in Path(f).parts if p != "model"] for f in folders if f != folder]
    for count in range(1, len(parts) + 1):
        if all(parts[-count:] != o[-count:] for o in others):
            return "/".join(parts[-count:])
    return folder


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """A table for each split, the error of the members' mean beside half the range of their own."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    for split in dict.fromkeys(row["split"] for row in rows):
        mine = [row for row in rows if row["split"] == split]
        title = f"{split}: {mine[0]['runs']} runs"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0, pad_edge=False)
        for i, name in enumerate(HEAD):
            # Numbers stay whole; a name too long for the terminal goes on in the next line.
            table.add_column(name, justify="right" if i else "left", overflow="fold", no_wrap=i > 0)
        for row in mine:
            table.add_row(*cells_of(row))
        columns = zip(HEAD[1:], *(cells_of(row)[1:] for row in mine), strict=True)
        console = Console()
        console.width = max(console.width, LEAST + sum(1 + max(map(len, column)) for column in columns))
        console.print(table)
        for row in mine:
            if row.get("trust"):
                console.print(told(row), highlight=False, soft_wrap=True)


def told(row: Mapping[str, Any]) -> str:
    """What a row says of its own estimates of the error."""
    trust = row["trust"]
    said = f"{row['model']}: errors stay below their estimates at {trust['covered']:.1%} of all places and times"
    said += f" ({trust['covered_worst']:.1%} in the worst run); {trust['trusted']:.1%} are trusted"
    parts = [("there", trust["trusted_error"]), ("elsewhere", trust["untrusted_error"])]
    errors = ", ".join(f"{e:.3g} {where}" for where, e in parts if e is not None)
    return f"{said}; relative error {errors}"


def cells_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Texts of one row, as HEAD names them."""
    members = row["members"]
    over = f"± {(max(members) - min(members)) / 2:.2g}" if members else ""
    milliseconds = "" if row["seconds"] is None else f"{1e3 * row['seconds']:.3g}"
    floor = f"{row['floor']:.3g}" if "floor" in row else ""
    errors = f"{row['relative_l2']:.3g}", over, floor, f"{row['relative_l2_last']:.3g}", f"{row['drift']:+.1%}"
    return row["model"], *errors, milliseconds, f"{row['nodes']:,}", str(row["steps"])
