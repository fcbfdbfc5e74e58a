"""CSV files of time series: what is in them is found, said and made regular, or an error that names the line."""

from __future__ import annotations

import difflib
import re
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from farfield.apps.training.errors import UserError

TIMES = ("date", "time", "datetime", "timestamp", "ds", "day", "week", "month", "quarter", "year", "period", "hour")
DUPLICATES = ("error", "mean", "first", "last")
# sktime ships it: a file that is there without any download.
BUNDLED = {"airline": ("sktime.datasets", "data/Airline/Airline.csv")}
# A regular table is at most so many times longer than the rows that came.
SPARSEST = 20
# Share of all steps that the commonest one has to be.
REGULAR = 0.5
QUARTER = re.compile(r"\s*\d{4}\s*-?\s*[Qq][1-4]\s*")
OFFSET = re.compile(r"(?:Z|[+-]\d{2}:?\d{2})\s*$")


@dataclass(frozen=True)
class Table:
    """A regular table of numbers.

    Args:
        frame: Target first, then covariates; NaN where missing. The index is regular in time, or counts rows.
        frequency: pandas alias; None where rows are counted.
        notes: What was found and what was done about it, a sentence each.
    """

    frame: pd.DataFrame
    frequency: str | None
    notes: list[str] = field(default_factory=list)

    @property
    def target(self) -> pd.Series:
        """The series to forecast."""
        return self.frame.iloc[:, 0]

    @property
    def covariates(self) -> pd.DataFrame | None:
        """The other columns, if any."""
        return self.frame.iloc[:, 1:] if self.frame.shape[1] > 1 else None


def read_table(
    data: str,
    target: str | None,
    *,
    time: str | None = None,
    covariates: Sequence[str] = (),
    frequency: str | None = None,
    duplicates: str = "error",
) -> Table:
    """Reads one target, its covariates and their times.

    Args:
        data: A CSV file, gzip or plain, or the name of a bundled one (airline).
        target: Column to forecast; None where there is one beside the time.
        time: Column of times; None finds it by its name or content, and counts rows where there is none.
        covariates: Columns to give beside it.
        frequency: pandas alias to average the rows into; None finds it.
        duplicates: What to do where one time has several values: error, mean, first, last. Equal rows are one row.
    Raises: UserError: file, column, time, value or step that cannot be used, with its line.
    """
    if duplicates not in DUPLICATES:
        raise UserError(f"duplicates={duplicates}: {', '.join(DUPLICATES)} are accepted")
    path = _locate(data)
    columns = _columns(path)
    time = _time_column(path, columns, time, target)
    if target is None:
        rest = [c for c in columns if c != time and c not in covariates]
        if len(rest) != 1:
            raise UserError(f"{path} has several columns: {', '.join(rest)}; name one with target=")
        target = rest[0]
    wanted = [target, *covariates]
    for name in wanted:
        _known(name, columns, path, "target" if name == target else "covariates")
    if len(set(wanted)) < len(wanted) or time in wanted:
        raise UserError(f"target={target}, time={time}, covariates={list(covariates)}: each column has one part only")
    raw = _read(path, usecols=[*wanted, *([time] if time else [])], low_memory=False)
    if not len(raw):
        raise UserError(f"{path} has a header and no rows: give a file with at least two values")
    frame = pd.DataFrame({name: _numbers(raw[name], path) for name in wanted})
    notes = [f"{len(raw):,} rows of {Path(path).name}, target {target}"]
    alias = None
    if time is None:
        notes.append("no column of times: rows count as equally spaced")
    else:
        frame.index = _times(raw[time], path, notes)
        if isinstance(frame.index, pd.DatetimeIndex):
            frame, alias = _regular(_ordered(frame, duplicates, notes), frequency, notes)
        else:
            frame = _counted(_ordered(frame, duplicates, notes), notes)
    _look(frame, notes)
    return Table(frame, alias, notes)


def _locate(data: str) -> Any:
    if data in BUNDLED and not Path(data).exists():
        package, name = BUNDLED[data]
        return files(package).joinpath(name)
    path = Path(str(data))
    if not path.is_file():
        raise UserError(f"data={data}: there is no such file; give a CSV file, or {', '.join(BUNDLED)}")
    return path


def _columns(path: Any) -> list[str]:
    return [str(c) for c in _read(path, nrows=0).columns]


def _read(path: Any, **how: Any) -> pd.DataFrame:
    try:
        return pd.read_csv(path, encoding_errors="replace", **how)
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} is no CSV file ({str(error).strip()}); give comma-separated text with a header"
        ) from error


def _known(name: str, columns: list[str], path: Any, key: str) -> None:
    if name not in columns:
        near = difflib.get_close_matches(str(name), columns, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{key}={name}: {path} has no such column, it has {', '.join(columns)}{hint}")


def _time_column(path: Any, columns: list[str], time: str | None, target: str | None) -> str | None:
    if time is not None:
        _known(time, columns, path, "time")
        return time
    for name in columns:
        if name.strip().lower().replace("_", "").removesuffix("utc").removesuffix("gmt") in TIMES and name != target:
            return name
    head = _read(path, nrows=50)
    for name in columns:
        if name != target and head[name].dtype.kind in "OTU" and _parsed(head[name].dropna()).notna().mean() > 0.9:
            return name
    return None


def _parsed(text: pd.Series) -> pd.Series:
    """Times, NaT where there is none; 1970 Q1 is the quarter's first day."""
    text = text.astype(str)
    if len(text) and text.head(20).str.fullmatch(QUARTER).all():
        quarters = text.str.upper().str.replace(r"[\s-]", "", regex=True)
        return pd.Series(pd.PeriodIndex(quarters, freq="Q").to_timestamp(), index=text.index)
    with_offset = bool(text.head(1000).str.contains(OFFSET).any()) and bool(text.head(20).str.contains(":").any())
    with warnings.catch_warnings():
        # A form that pandas has no name for is read value by value.
        warnings.simplefilter("ignore", UserWarning)
        try:
            return pd.to_datetime(text, errors="coerce", utc=with_offset)
        except (ValueError, TypeError):
            return pd.to_datetime(text, errors="coerce", utc=True, format="mixed")


def _times(column: pd.Series, path: Any, notes: list[str]) -> pd.Index:
    """Dates, or whole numbers that count steps or name years."""
    if pd.api.types.is_numeric_dtype(column) and column.notna().all() and (column % 1 == 0).all():
        numbers = column.astype("int64")
        if numbers.between(1000, 2999).all():
            return pd.DatetimeIndex(pd.to_datetime(numbers.astype(str), format="%Y"))
        return pd.Index(numbers)
    times = _parsed(column)
    if times.isna().any():
        # Formats may change within a file.
        bad = times.isna()
        again = pd.to_datetime(column[bad].astype(str), errors="coerce", utc=times.dt.tz is not None, format="mixed")
        times = times.where(~bad, again)
    if times.isna().any():
        row = int(np.flatnonzero(times.isna())[0])
        raise UserError(
            f"{path}, line {row + 2}: {column.iloc[row]!r} in column {column.name} is no time; correct it, or name the"
            " column of times with time="
        )
    if times.dt.tz is not None:
        zones = sorted(set(column.astype(str).head(100_000).str.extract(f"({OFFSET.pattern})")[0].dropna()))
        notes.append(f"time zone: {', '.join(zones[:3])} found, all times in UTC")
        times = times.dt.tz_convert("UTC").dt.tz_localize(None)
    return pd.DatetimeIndex(times)


def _numbers(column: pd.Series, path: Any) -> pd.Series:
    values = pd.to_numeric(column, errors="coerce")
    wrong = values.isna() & column.notna()
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"{path}, line {row + 2}: {column.iloc[row]!r} in column {column.name} is no number ({int(wrong.sum())}"
            " such rows); write numbers with a decimal point, and leave empty what is missing"
        )
    values = values.astype("float64")
    if np.isinf(values).any():
        row = int(np.flatnonzero(np.isinf(values))[0])
        raise UserError(
            f"{path}, line {row + 2}: column {column.name} is infinite ({int(np.isinf(values).sum())} such rows);"
            " replace it, or leave empty what is missing"
        )
    if values.isna().all():
        raise UserError(f"{path}: column {column.name} has no value in {len(values):,} rows; choose another one")
    return values


def _ordered(frame: pd.DataFrame, duplicates: str, notes: list[str]) -> pd.DataFrame:
    """Rows in the order of time, one a time."""
    if not frame.index.is_monotonic_increasing:
        frame = frame.sort_index(kind="stable")
        notes.append("rows were not in the order of time: sorted")
    twice = frame.index.duplicated()
    if not twice.any():
        return frame
    named = frame.reset_index(names="time_of_row")
    kept = named[~named.duplicated()].set_index("time_of_row")
    again = kept.index.duplicated()
    notes.append(f"{int(twice.sum()):,} rows repeat a time, {len(frame) - len(kept):,} of them with the same values")
    if not again.any():
        return kept
    if duplicates == "error":
        raise UserError(
            f"{int(again.sum()):,} times have several values, {kept.index[again][0]} is the first; choose with"
            " duplicates=mean, first or last"
        )
    notes.append(f"where the values differ, the {duplicates} is taken")
    grouped = kept.groupby(level=0)
    take: dict[str, Callable[[], pd.DataFrame]] = {"mean": grouped.mean, "first": grouped.first, "last": grouped.last}
    return take[duplicates]()


def _counted(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Rows numbered in steps of the commonest distance, gaps filled with NaN."""
    if len(frame) < 2:
        return frame
    steps = np.diff(frame.index.to_numpy())
    step = int(np.gcd.reduce(steps))
    _check_sparse((frame.index[-1] - frame.index[0]) // step + 1, len(frame), f"steps of {step}")
    whole = pd.RangeIndex(frame.index[0], frame.index[-1] + 1, step)
    _tell_gaps(len(whole) - len(frame), notes)
    regular = frame.reindex(whole)
    return regular.set_axis(pd.RangeIndex(len(regular))) if step != 1 else regular


def _regular(frame: pd.DataFrame, frequency: str | None, notes: list[str]) -> tuple[pd.DataFrame, str]:
    """Rows at every step of the frequency, NaN where there was none."""
    if frequency is not None:
        try:
            averaged = frame.resample(frequency).mean()
        except ValueError as error:
            raise UserError(f"frequency={frequency}: no pandas frequency; for example 30min, h, D, W, MS") from error
        alias = averaged.index.freqstr
        notes.append(f"frequency {alias} as asked: {len(frame):,} rows averaged into {len(averaged):,}")
        return averaged, str(alias)
    if len(frame) < 3:
        raise UserError(f"{len(frame)} rows: three are needed to find the frequency; give more, or frequency=")
    alias = _found_frequency(frame.index)
    whole = pd.date_range(frame.index[0], frame.index[-1], freq=alias)
    missed = ~frame.index.isin(whole)
    if missed.any():
        share = 1 - missed.mean()
        raise UserError(
            f"times are irregular: {share:.0%} of them fit the commonest step ({alias}), {frame.index[missed][0]} does"
            f" not; give frequency= to average the rows into regular steps, for example frequency={alias}"
        )
    notes.append(f"frequency {alias}, {frame.index[0]} to {frame.index[-1]}")
    _tell_gaps(len(whole) - len(frame), notes)
    regular = frame.reindex(whole)
    regular.index.freq = alias
    return regular, alias


def _found_frequency(index: pd.DatetimeIndex) -> str:
    """The alias of a regular index, or of the commonest step of one with gaps."""
    if alias := pd.infer_freq(index):
        return str(alias)
    if (index == index.normalize()).all():
        months = index.year * 12 + index.month
        if (index.day == 1).all() or index.is_month_end.all():
            step = int(np.gcd.reduce(np.diff(months)))
            unit = "MS" if (index.day == 1).all() else "ME"
            return unit if step == 1 else f"{step}{unit}"
    steps = np.diff(index.to_numpy()).astype("timedelta64[ns]").astype("int64")
    values, counts = np.unique(steps, return_counts=True)
    step, share = int(values[counts.argmax()]), float(counts.max() / len(steps))
    day = 86_400 * 10**9
    if step == day and (index.dayofweek < 5).all():
        return "B"
    if share < REGULAR:
        raise UserError(
            f"times are irregular: the commonest step, {pd.Timedelta(step)}, is {share:.0%} of all; give frequency= to"
            " average the rows into regular steps, for example frequency=D"
        )
    _check_sparse((steps.sum() // step) + 1, len(index), str(pd.Timedelta(step)))
    if step == 7 * day:
        return f"W-{index[0].day_name()[:3].upper()}"
    return str(pd.tseries.frequencies.to_offset(pd.Timedelta(step)).freqstr)


def _check_sparse(whole: int, rows: int, step: str) -> None:
    if whole > SPARSEST * max(rows, 50):
        raise UserError(
            f"{rows:,} rows stretch over {whole:,} steps of {step}: almost all is missing; correct the times, or give"
            " frequency="
        )


def _tell_gaps(count: int, notes: list[str]) -> None:
    if count:
        notes.append(f"{count:,} times are missing: they count as missing values")


def _look(frame: pd.DataFrame, notes: list[str]) -> None:
    from farfield.apps.forecasting.series import MOST_VALUES

    target = frame.iloc[:, 0]
    if missing := int(target.isna().sum()):
        notes.append(f"{missing:,} of {len(target):,} values are missing: the states pass over them")
    for name in frame:
        if frame[name].nunique() == 1:
            said = "the forecasts repeat it" if name == target.name else "it has no effect"
            notes.append(f"{name} is constant: {said}")
    if len(target) > MOST_VALUES:
        notes.append(f"{len(target):,} values: the newest {MOST_VALUES:,} are modelled")
