"""Places and times from a CSV file, and what a field says there."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from farfield.apps.physics.field import Field
from farfield.apps.training import UserError
from farfield.core_ops.errors import DomainError

Array = NDArray[np.float64]
AXES = "xyz"


@dataclass(frozen=True)
class Points:
    """Q places, and a time for each.

    Args:
        places: (Q, d). times: (Q,); None where the file has no column t.
        others: Further columns, which come back in the answers.
        lines: Of the file (Q,), for messages.
    """

    places: Array
    times: Array | None
    others: dict[str, list[str]]
    lines: NDArray[np.int64]

    def at(self, times: Array) -> Points:
        """Every place at every one of the times, time by time."""
        n, s = len(self.places), len(times)
        others = {name: values * s for name, values in self.others.items()}
        return Points(np.tile(self.places, (s, 1)), np.repeat(times, n), others, np.tile(self.lines, s))


def read_points(path: Path, axes: int) -> Points:
    """A CSV file with columns x, y, z as far as the field has them, and t or not; units may follow: "x (m)".

    Raises: UserError: it cannot be read, lacks a column, or a line holds something that is no number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [(n, row) for n, row in enumerate(csv.reader(file, skipinitialspace=True), start=1) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"points={path}: cannot be read as CSV ({error})") from error
    if len(rows) < 2:
        raise UserError(f"points={path}: holds no points; a first line {','.join(AXES[:axes])},t and a line each are")
    head = [name.strip() for name in rows[0][1]]
    bare = [name.partition(" (")[0].strip() for name in head]
    wanted = [*AXES[:axes], *(["t"] if "t" in bare else [])]
    for name in wanted:
        if bare.count(name) != 1:
            raise UserError(
                f"points={path}: its columns are {', '.join(head)}; {', '.join(AXES[:axes])} once each, and t where"
                " every place has a time of its own, are accepted"
            )
    found = np.empty((len(rows) - 1, len(wanted)))
    columns = [bare.index(name) for name in wanted]
    for k, (line, row) in enumerate(rows[1:]):
        try:
            if len(row) != len(head):
                raise ValueError(f"{len(row)} values for {len(head)} columns")
            found[k] = [float(row[c]) for c in columns]
            if not np.isfinite(found[k]).all():
                raise ValueError("a value is not finite")
        except ValueError as error:
            raise UserError(f"points={path}, line {line}: {error}; numbers are accepted") from None
    others = {name: [row[c] for _, row in rows[1:]] for c, name in enumerate(head) if bare[c] not in (*AXES, "t")}
    lines = np.array([line for line, _ in rows[1:]], np.int64)
    return Points(found[:, :axes], found[:, axes] if len(wanted) > axes else None, others, lines)


@dataclass(frozen=True)
class Answers:
    """What a field says at points.

    Args:
        points: With times.
        columns: Values (Q,) and units by name: components, derivatives, errors.
        trusted: (Q,), where the field tells; None where it cannot.
    """

    points: Points
    columns: dict[str, tuple[Array, str | None]]
    trusted: NDArray[np.bool_] | None


def answer(field: Field, points: Points, derivatives: Sequence[str], outside: str) -> Answers:
    """Values, derivatives and errors at all points.

    Args:
        derivatives: "u:x", "u:xy", "v:t": a component and the axes along which it is differentiated.
        outside: error, or nan for places and times that the field does not reach.
    Raises: UserError: a point outside, an unknown derivative.
    """
    if outside not in ("error", "nan"):
        raise UserError(f"outside={outside}: error, nan are accepted")
    if points.times is None:
        raise UserError("points have no column t: give the times, times=[0.5]")
    x, t = torch.from_numpy(points.places), torch.from_numpy(points.times)
    inside = field.space.contains(x) & (t >= field.time.start) & (t <= field.time.end)
    if outside == "error":
        _refuse(field, points, inside.numpy())
    x, t, keep = x[inside], t[inside], inside.numpy()

    def whole(values: torch.Tensor) -> Array:
        out = np.full(len(keep), np.nan)
        out[keep] = values.double().numpy()
        return out

    columns: dict[str, tuple[Array, str | None]] = {}
    found = field(x, t)
    for k, name in enumerate(field.names):
        columns[name] = (whole(found[:, k]), field.units.get(name))
    for word in derivatives:
        name, orders, times, units = parsed(field, word)
        columns[word] = (whole(field(x, t, orders, times)[:, field.names.index(name)]), units)
    trusted = None
    if field.estimates:
        errors = field.error(x, t)
        for k, name in enumerate(field.names):
            columns[f"{name} error"] = (whole(errors[:, k]), field.units.get(name))
        if field.tolerance is not None:
            trusted = np.zeros(len(keep), bool)
            trusted[keep] = (errors <= field.tolerance).all(1).numpy()
    return Answers(points, columns, trusted)


def parsed(field: Field, word: str) -> tuple[str, tuple[int, ...], int, str | None]:
    """A derivative's component, its orders along the axes and in time, and its units.

    Raises: UserError: there is no such component or axis.
    """
    name, colon, along = word.partition(":")
    axes = AXES[: field.space.dimensions]
    if name not in field.names or not colon or not along or set(along) - set(axes) - {"t"}:
        raise UserError(
            f"derivatives=[{word}]: a component ({', '.join(field.names)}), a colon and axes ({', '.join(axes)}, t) are"
            f" accepted: {field.names[0]}:x, {field.names[0]}:xx, {field.names[0]}:t"
        )
    orders = tuple(along.count(axis) for axis in axes)
    if max(orders) > 2 or along.count("t") > 2:
        raise UserError(f"derivatives=[{word}]: an axis twice at most is accepted")
    parts = [field.units.get(name) or ""]
    for unit, count in ((field.units.get("x"), sum(orders)), (field.units.get("t"), along.count("t"))):
        parts += [f"{unit}-{count}"] if unit not in (None, "1") and count else []
    return name, orders, along.count("t"), " ".join(p for p in parts if p and p != "1") or None


def _refuse(field: Field, points: Points, inside: NDArray[np.bool_]) -> None:
    if inside.all():
        return
    first = int(np.flatnonzero(~inside)[0])
    assert points.times is not None
    try:
        field.space.check(torch.from_numpy(points.places[first : first + 1]))
        time = points.times[first]
        reason = f"its time {time:g} is outside of [{field.time.start:g}, {field.time.end:g}]"
    except DomainError as error:
        reason = str(error).partition("; drop")[0].replace("1 of 1 points lie", "it lies")
        reason = reason.replace(", the first, number 0, at", ", at")
    raise UserError(
        f"points: {(~inside).sum():,} of {len(inside):,} lie where the field is not known; the first, of line"
        f" {points.lines[first]}: {reason}. Drop them, or outside=nan leaves their values out"
    )
