"""What the verbs share: settings to plans, results to paths, rows that are noted as they are made."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from farfield.apps.forecasting.bank import Array, Index
from farfield.apps.forecasting.rolling import Rolled, Score, gathered, roll_row
from farfield.apps.forecasting.series import Plan
from farfield.apps.forecasting.sizes import season_of, whole
from farfield.apps.forecasting.statistical import ROWS
from farfield.apps.forecasting.table import Table
from farfield.apps.training.device import check_precision, resolve_device
from farfield.apps.training.errors import UserError


def plan_of(table: Table, horizon: int, season: int | None, **settings: Any) -> Plan:
    """The plan of a table, defaults filled in from its length and frequency.

    Raises: UserError: horizon or season do not fit the series.
    """
    values = table.target.to_numpy(np.float64)
    whole("horizon", horizon, 1)
    if season is not None:
        whole("season", season, 1, "; 1 is no season")
    if settings["logarithm"] is None:
        settings["logarithm"] = "auto"
    found = season if season is not None else season_of(table.frequency, values)
    settings["device"] = resolve_device(settings["device"]).type
    check_precision(settings["precision"], resolve_device(settings["device"]))
    return Plan(horizon=horizon, season=max(1, min(found, len(values) // 2)), **settings)


def result_path(out: str | None, default: Path) -> Path:
    """The file to write, looked at before the work begins.

    Raises: UserError: a folder has that name, or nothing can be written there.
    """
    path = default if out is None else Path(str(out))
    if path.is_dir():
        raise UserError(f"out={out}: that is a folder, a file is accepted; choose another name")
    above = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not os.access(above, os.W_OK) or not (above.is_dir() or above == path):
        raise UserError(f"out={out}: nothing can be written in {above}; choose another place")
    return path


def row_names(rows: Sequence[str] | None) -> list[str]:
    """Rows asked for, all of them where None.

    Raises: UserError: one that does not exist.
    """
    names = list(ROWS) if rows is None else list(rows)
    if unknown := [name for name in names if name not in ROWS]:
        raise UserError(f"rows: {unknown[0]} is unknown; accepted: {', '.join(ROWS)}")
    return names


class RowNotes:
    """Forecasts of the rows, noted one by one: an interrupted backtest goes on with the origins not yet made.

    Args:
        run_folder: Where they lie.
        y: The series.
        question: What else decides the numbers.
    """

    def __init__(self, run_folder: Path, y: Array, question: str) -> None:
        digest = hashlib.sha256(y.tobytes() + question.encode()).hexdigest()[:16]
        self.path = run_folder / f"rows-{digest}.jsonl"
        self._done: dict[str, dict[int, tuple[Array, float]]] = {}
        for line in self.path.read_bytes().split(b"\n") if self.path.exists() else []:
            try:
                said = json.loads(line)
            except ValueError:
                # The last line of a killed run is torn: its origin is made again.
                continue
            values = np.array([np.nan if v is None else v for v in said["forecast"]])
            self._done.setdefault(said["row"], {})[said["origin"]] = (values, said["seconds"])

    def rolled(
        self,
        name: str,
        y: Array,
        season: int,
        origins: Index,
        truth: Array,
        window: int | None,
        on_origin: Callable[[], None],
    ) -> Rolled:
        """A row at every origin, those noted before taken as they are."""
        done = self._done.setdefault(name, {})
        todo = [int(o) for o in origins if int(o) not in done]
        torn = self.path.exists() and self.path.stat().st_size and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" if torn else "")
            for origin, said, seconds in roll_row(name, y, season, truth.shape[1], todo, window):
                done[origin] = (said, seconds)
                values = [float(v) if np.isfinite(v) else None for v in said]
                file.write(json.dumps({"row": name, "origin": origin, "forecast": values, "seconds": seconds}) + "\n")
                file.flush()
                on_origin()
        return gathered(done, origins, truth)


def score_rows(scores: dict[str, Score]) -> list[tuple[str, ...]]:
    """Table rows: method, MASE, CRPS, seconds an origin; the best MASE is marked."""
    best = min((s.mase for s in scores.values() if np.isfinite(s.mase)), default=np.nan)
    return [
        (
            name,
            f"{s.mase:.3f}{' *' if s.mase == best else ''}" if np.isfinite(s.mase) else "no model",
            f"{s.crps:.3f}" if np.isfinite(s.crps) else "",
            f"{s.seconds:.4f}",
        )
        for name, s in scores.items()
    ]


SCORE_HEAD = ("", "MASE", "CRPS", "seconds an origin")


def verdict(scores: dict[str, Score], ours: str) -> str:
    """One honest sentence: which rows the model beats, and which it does not."""
    others = {name: s.mase for name, s in scores.items() if name != ours and np.isfinite(s.mase)}
    mine = scores[ours].mase
    beaten = ", ".join(name for name, value in others.items() if mine < value)
    lost = ", ".join(name for name, value in others.items() if mine >= value)
    said = [f"it beats {beaten}" if beaten else "", f"it does not beat {lost}" if lost else ""]
    return f"The model's MASE is {mine:.3f} over {scores[ours].origins} origins: {'; '.join(filter(None, said))}."


def future_index(index: pd.Index, frequency: str | None, horizon: int) -> pd.Index:
    """The time points of the next steps."""
    if frequency is None:
        step = index[-1] - index[-2] if len(index) > 1 else 1
        return pd.RangeIndex(index[-1] + step, index[-1] + step * (horizon + 1), step)
    return pd.date_range(index[-1], periods=horizon + 1, freq=frequency)[1:]
