"""The Informer protocol: which rows train, select and test, in which units.

Rows of the ETTh files: 12, 4 and 4 months of 30 days; windows of validation and test read their lags from before. The
scaler is the mean and deviation (of n) of the training rows.
"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from farfield.apps.forecasting.windows import Windows
from farfield.apps.training.errors import UserError

HOURS = 24 * 30
# Months of training, validation and test by what a file's name begins with; rows an hour.
MONTHS = (12, 4, 4)
ROWS_AN_HOUR = {"ETTh": 1, "ETTm": 4}
SHARES = (0.7, 0.2)
TARGETS = {"ETT": "OT"}


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


def read_columns(path: str | Path, columns: list[str] | None) -> np.ndarray:
    """Columns of a CSV file, plain or gzip, (rows, columns); None is the last one."""
    path = Path(path)
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8", newline="") as file:
            head, *rows = csv.reader(file)
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error}); give a table with a header, plain or .gz") from error
    wanted = [head[-1]] if columns is None else columns
    if missing := [c for c in wanted if c not in head]:
        raise UserError(f"{path}: no column {missing[0]!r}; it has {', '.join(head)}")
    places = [head.index(c) for c in wanted]
    try:
        return np.array([[float(row[i]) for i in places] for row in rows])
    except (ValueError, IndexError) as error:
        raise UserError(f"{path}: a value of {', '.join(wanted)} is no number ({error}); correct the file") from error


def informer_splits(
    name: str, values: np.ndarray, lag: int, horizon: int, dtype: torch.dtype = torch.float32
) -> Splits:
    """The protocol's windows of (rows, targets).

    Raises: UserError: too few rows for a window.
    """
    parts = borders(name, len(values), lag)
    train = values[slice(*parts[0])]
    mean, std = train.mean(0), train.std(0)
    if (std == 0).any():
        raise UserError(f"{name}: a target is constant in the training rows; nothing can be standardised")
    scaled = (values - mean) / std
    windows = [Windows(scaled[begin:end], lag, horizon, dtype=dtype) for begin, end in parts]
    return Splits(*windows, mean, std)
