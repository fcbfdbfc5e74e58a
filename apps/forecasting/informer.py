"""The Informer protocol: which rows train, select and test, in which units.

Rows of the ETTh files: 12, 4 and 4 months of 30 days; windows of validation and test read their lags from before. The
scaler is the mean and deviation (of n) of the training rows.
"""

from __future__ import annotations

import csv
import gzip
import os
import zlib
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch

from farfield.apps.forecasting.windows import Windows
from farfield.apps.training.errors import UserError

HOURS = 24 * 30
# Months of training, validation and test by what a file's name begins with; rows an hour.
MONTHS = (12, 4, 4)
ROWS_AN_HOUR = {"ETTh": 1, "ETTm": 4}
SHARES = (0.7, 0.2)
YEAR = 365.25 * 24 * 3600
SUFFIXES = (".csv", ".csv.gz")


class Splits(NamedTuple):
    """Windows in standardised units, and the scaler of every target."""

    train: Windows
    validation: Windows
    test: Windows
    mean: np.ndarray
    std: np.ndarray


def borders(name: str, rows: int, lag: int) -> tuple[tuple[int, int], ...]:
    """First and last row (exclusive) of training, validation and test.

    ETTh and ETTm by months; any other file 70%, 10% and 20% of its rows.
    """
    each = next((HOURS * n for prefix, n in ROWS_AN_HOUR.items() if name.startswith(prefix)), None)
    if each is None:
        train, test = int(rows * SHARES[0]), int(rows * SHARES[1])
        return (0, train), (rows - test - (rows - train - test) - lag, rows - test), (rows - test - lag, rows)
    ends = np.cumsum(MONTHS) * each
    if rows < ends[-1]:
        raise UserError(f"{name}: {rows} rows came, the protocol needs {ends[-1]}; give the whole file")
    return (0, int(ends[0])), (int(ends[0]) - lag, int(ends[1])), (int(ends[1]) - lag, int(ends[2]))


def locate(data: str) -> Path:
    """The file that a path means, or a name in the folder of series (FARFIELD_DATA, or ../shared/data beside it all).

    Raises: UserError: there is none.
    """
    if Path(data).is_file():
        return Path(data)
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("FARFIELD_DATA", beside)) / "series"
    for suffix in SUFFIXES:
        if (path := folder / f"{data}{suffix}").is_file():
            return path
    raise UserError(f"data={data}: no such file, and no {data}.csv in {folder}; give a file, or set FARFIELD_DATA")


def calendar_waves(path: Path, waves: int) -> np.ndarray | None:
    """Sine and cosine of the date at 1 to `waves` times a year, (rows, 2 waves), from the first column; None for 0.

    Raises: UserError: a date that is none.
    """
    if not isinstance(waves, int) or waves < 0:
        raise UserError(f"calendar={waves}: a whole number from 0 on is accepted")
    if waves == 0:
        return None
    with _opened(path) as file:
        _, *rows = csv.reader(file)
    try:
        seconds = np.array([datetime.fromisoformat(row[0]).replace(tzinfo=timezone.utc).timestamp() for row in rows])
    except (ValueError, IndexError) as error:
        raise UserError(f"{path}: the first column holds no dates ({error}); take calendar=0") from error
    phase = 2 * np.pi * np.arange(1, waves + 1) * (seconds[:, None] - seconds[0]) / YEAR
    return np.concatenate([np.sin(phase), np.cos(phase)], 1)


def _opened(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def read_columns(path: str | Path, columns: list[str] | None) -> np.ndarray:
    """Columns of a CSV file, plain or gzip, (rows, columns); None is the last one."""
    path = Path(path)
    try:
        with _opened(path) as file:
            head, *rows = csv.reader(file)
    except (OSError, ValueError, EOFError, csv.Error, zlib.error) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error}); give a table with a header, plain or .gz") from error
    wanted = [head[-1]] if columns is None else columns
    if missing := [c for c in wanted if c not in head]:
        raise UserError(f"{path}: no column {missing[0]!r}; it has {', '.join(head)}")
    places = [head.index(c) for c in wanted]
    try:
        values = np.array([[float(row[i]) for i in places] for row in rows])
    except (ValueError, IndexError) as error:
        raise UserError(f"{path}: a value of {', '.join(wanted)} is no number ({error}); correct the file") from error
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(1))[0])
        raise UserError(
            f"{path}, line {row + 2}: {', '.join(wanted)} is missing or infinite; the protocol takes whole series:"
            " correct the file"
        )
    return values


def informer_splits(
    name: str,
    values: np.ndarray,
    lag: int,
    horizon: int,
    *,
    known: np.ndarray | None = None,
    dtype: torch.dtype = torch.float32,
) -> Splits:
    """The protocol's windows of (rows, targets), known covariates (rows, known) as they are.

    Raises: UserError: too few rows for a window.
    """
    parts = borders(name, len(values), lag)
    learnt = values[slice(*parts[0])]
    mean, std = learnt.mean(0), learnt.std(0)
    if (std == 0).any():
        raise UserError(f"{name}: a target is constant in the training rows; nothing can be standardised")
    scaled = (values - mean) / std
    train, validation, test = (
        Windows(scaled[a:b], lag, horizon, known=None if known is None else known[a:b], dtype=dtype) for a, b in parts
    )
    return Splits(train, validation, test, mean, std)
