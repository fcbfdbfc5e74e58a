"""A CSV file is made regular, or its error names the line."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from farfield.apps.forecasting.series import MOST_VALUES
from farfield.apps.forecasting.table import Table, read_table
from farfield.apps.training.errors import UserError


def write(folder: Path, text: str) -> str:
    path = folder / "series.csv"
    path.write_text(text)
    return str(path)


def rows(index: pd.Index, values: object, name: str = "date") -> str:
    return pd.DataFrame({name: index, "y": values}).to_csv(index=False)


def said(table: Table) -> str:
    return "; ".join(table.notes)


@pytest.mark.parametrize(
    "frequency", ["h", "30min", "D", "W-SUN", "MS", "ME", "QS-OCT", "YS-JAN", "B", "15min", "2h", "W-WED"]
)
def test_the_frequency_is_found(tmp_path, frequency):
    index = pd.date_range("2020-03-01", periods=60, freq=frequency)
    table = read_table(write(tmp_path, rows(index, np.arange(60.0))), "y")
    assert list(table.frame.index) == list(index)
    assert table.frame.index.freq is not None
    np.testing.assert_array_equal(table.target, np.arange(60.0))


@pytest.mark.parametrize("frequency", ["h", "D", "MS", "W-SUN", "B"])
def test_gaps_become_missing_values(tmp_path, frequency):
    index = pd.date_range("2020-03-01", periods=60, freq=frequency)
    kept = np.delete(np.arange(60), [10, 11, 30])
    table = read_table(write(tmp_path, rows(index[kept], kept.astype(float))), "y")
    assert list(table.frame.index) == list(index)
    assert list(np.flatnonzero(table.target.isna())) == [10, 11, 30]
    assert "3 times are missing" in said(table)
    assert "3 of 60 values are missing" in said(table)


def test_rows_are_sorted_and_equal_duplicates_dropped(tmp_path):
    index = pd.date_range("2020-03-01", periods=20, freq="D")
    order = [*reversed(range(20)), 3, 3]
    table = read_table(write(tmp_path, rows(index[order], np.arange(20.0)[order])), "y")
    np.testing.assert_array_equal(table.target, np.arange(20.0))
    assert "sorted" in said(table)
    assert "2 rows repeat a time, 2 of them with the same values" in said(table)


@pytest.mark.parametrize(("duplicates", "expected"), [("mean", 5.5), ("first", 3.0), ("last", 8.0)])
def test_times_with_several_values_are_the_users_to_decide(tmp_path, duplicates, expected):
    index = pd.date_range("2020-03-01", periods=20, freq="D")
    text = rows(index, np.arange(20.0)) + "2020-03-04,8.0\n"
    with pytest.raises(UserError, match=r"1 times have several values, 2020-03-04.*duplicates=mean, first or last"):
        read_table(write(tmp_path, text), "y")
    table = read_table(write(tmp_path, text), "y", duplicates=duplicates)
    assert table.target.iloc[3] == expected


def test_time_zones_are_said_and_become_utc(tmp_path):
    index = pd.date_range("2021-03-27", periods=72, freq="h", tz="UTC").tz_convert("Europe/Berlin")
    table = read_table(write(tmp_path, rows(index, np.arange(72.0))), "y")
    assert "time zone: +01:00, +02:00 found, all times in UTC" in said(table)
    assert table.frequency == "h"
    assert not table.target.isna().any()
    assert table.frame.index[0] == pd.Timestamp("2021-03-27")


def test_local_hours_of_a_clock_change_are_duplicates_and_gaps(tmp_path):
    index = pd.date_range("2021-10-30", periods=60, freq="h", tz="Europe/Berlin").tz_localize(None)
    with pytest.raises(UserError, match="several values"):
        read_table(write(tmp_path, rows(index, np.arange(60.0))), "y")


@pytest.mark.parametrize(
    ("stamps", "frequency"),
    [
        ([f"{1970 + i // 4} Q{i % 4 + 1}" for i in range(12)], "QS-OCT"),
        ([f"{1990 + i // 12} {m}" for i, m in enumerate(["Jan", "Feb", "Mar", "Apr", "May", "Jun"] * 1)], "MS"),
        ([str(1900 + i) for i in range(9)], "YS-JAN"),
        ([f"{i + 1:02d}/01/2020" for i in range(9)], "MS"),
    ],
)
def test_many_forms_of_times_are_read(tmp_path, stamps, frequency):
    table = read_table(write(tmp_path, rows(pd.Index(stamps), np.arange(float(len(stamps))))), "y")
    assert len(table.frame) == len(stamps)
    assert table.frequency == frequency or frequency is None


def test_without_times_rows_are_counted(tmp_path):
    table = read_table(write(tmp_path, "y\n1\n2\n\n4\n"), None)
    assert "no column of times" in said(table)
    assert table.frequency is None
    assert isinstance(table.frame.index, pd.RangeIndex)


def test_whole_numbers_count_steps(tmp_path):
    table = read_table(write(tmp_path, "time,y\n0,1\n10,2\n30,4\n"), "y")
    np.testing.assert_array_equal(table.target, [1, 2, np.nan, 4])


def test_an_irregular_index_asks_for_a_frequency(tmp_path):
    random = np.random.default_rng(0)
    index = pd.Timestamp("2020-01-01") + pd.to_timedelta(np.cumsum(random.integers(1, 9000, 200)), unit="s")
    text = rows(index, np.ones(200) + np.arange(200) % 3)
    with pytest.raises(UserError, match=r"irregular.*frequency="):
        read_table(write(tmp_path, text), "y")
    table = read_table(write(tmp_path, text), "y", frequency="6h")
    assert table.frequency == "6h"
    assert "averaged into" in said(table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("date,y\n2020-01-01,1\n2020-01-02,inf\n2020-01-03,3\n", r"line 3: column y is infinite \(1 such rows\)"),
        ("date,y\n2020-01-01,1\n2020-01-02,\n2020-01-03,x7\n", r"line 4: 'x7' in column y is no number"),
        ("date,y\n2020-01-01,\n2020-01-02,\n2020-01-03,\n", "column y has no value in 3 rows"),
        ("date,y\n2020-01-01,1\nsoon,2\n2020-01-03,3\n", r"line 3: 'soon' in column date is no time"),
        ("date,y\n2020-01-01,1\n2020-01-02,2\n", "three are needed"),
        ("date,y\n2020-01-01,1\n2020-01-02,2\n2023-01-01,3\n2029-01-01,4\n", "irregular"),
        ("date,y\n", "a header and no rows"),
        ("", "no CSV file"),
    ],
)
def test_what_cannot_be_used_is_an_error_that_names_the_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_table(write(tmp_path, text), "y")


def test_a_mistyped_column_names_the_nearest(tmp_path):
    path = write(tmp_path, "date,load,price\n2020-01-01,1,2\n2020-01-02,1,2\n2020-01-03,1,2\n")
    with pytest.raises(UserError, match=r"did you mean load\?"):
        read_table(path, "laod")
    with pytest.raises(UserError, match=r"several columns: load, price; name one with target="):
        read_table(path, None)
    with pytest.raises(UserError, match=r"there is no such file"):
        read_table(path + "x", "load")
    with pytest.raises(UserError, match="each column has one part only"):
        read_table(path, "load", covariates=["load"])


def test_constant_columns_and_long_series_are_said(tmp_path):
    index = pd.date_range("1990-01-01", periods=MOST_VALUES + 5, freq="h")
    path = tmp_path / "series.csv.gz"
    path.write_bytes(gzip.compress(rows(index, np.ones(len(index))).encode()))
    table = read_table(str(path), "y")
    assert "y is constant: the forecasts repeat it" in said(table)
    assert f"the newest {MOST_VALUES:,} are modelled" in said(table)


@pytest.mark.slow
def test_ten_million_rows_are_read_and_fitted(tmp_path):
    from farfield.apps.forecasting.series import Plan, SeriesModel

    n = 10_000_000
    stamps = pd.Series(pd.date_range("1990-01-01", periods=n, freq="min").astype("datetime64[s]").astype(str))
    values = pd.Series(10 + np.sin(2 * np.pi * np.arange(n) / 60)).round(4)
    path = tmp_path / "long.csv"
    pd.DataFrame({"time": stamps, "y": values}).to_csv(path, index=False)
    table = read_table(str(path), "y")
    assert len(table.frame) == n
    model = SeriesModel.fit(table.target.to_numpy(), None, Plan(horizon=60, season=60, use_network=False))
    expected = 10 + np.sin(2 * np.pi * (n + np.arange(60)) / 60)
    assert np.abs(model.forecast(60) - expected).max() < 0.05
    assert model.count == n
