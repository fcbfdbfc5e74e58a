"""A backtest sees no future and drops no origin; the rows beside the model are what they say."""

from __future__ import annotations

import numpy as np
import pytest

from farfield.apps.forecasting.conformal import RATES
from farfield.apps.forecasting.rolling import Schedule, coverage, roll, score, spread
from farfield.apps.forecasting.series import Plan, SeriesModel
from farfield.apps.forecasting.settings import RowNotes
from farfield.apps.forecasting.statistical import ROWS, crps_between, last_value, naive_scale, ridge, seasonal_naive
from farfield.apps.training.errors import UserError

PLAN = Plan(horizon=5, season=6, use_network=False)


def series(n: int = 120) -> np.ndarray:
    t = np.arange(n)
    return 10 + 2 * np.sin(2 * np.pi * t / 6) + 0.3 * np.random.default_rng(0).standard_normal(n)


@pytest.mark.parametrize(
    "schedule",
    [Schedule(60), Schedule(60, 7), Schedule(60, 3, refit=9), Schedule(60, 4, refit=4, window=50)],
)
def test_no_forecast_knows_what_came_after_its_origin(schedule):
    y = series()
    changed = y.copy()
    changed[90:] += 100
    one, two = roll(y, None, PLAN, schedule), roll(changed, None, PLAN, schedule)
    before = one.origins < 90
    assert before.any()
    assert (~before).any()
    np.testing.assert_array_equal(one.forecasts[before], two.forecasts[before])
    np.testing.assert_array_equal(one.above[before], two.above[before])
    assert np.abs(one.forecasts[~before] - two.forecasts[~before]).max() > 1


@pytest.mark.parametrize(("first", "step"), [(60, 1), (61, 7), (115, 1), (60, 100)])
def test_every_origin_that_fits_is_forecast(first, step):
    rolled = roll(series(), None, PLAN, Schedule(first, step))
    assert list(rolled.origins) == list(range(first - 1, 115, step))
    assert np.isfinite(rolled.forecasts).all()
    assert np.isfinite(rolled.truth).all()
    np.testing.assert_array_equal(rolled.truth[-1], series()[rolled.origins[-1] + 1 : rolled.origins[-1] + 6])


def test_a_refit_is_a_fit_of_what_is_known():
    y = series()
    rolled = roll(y, None, PLAN, Schedule(60, 10, refit=10, window=40))
    assert rolled.fits == len(rolled.origins)
    for origin, said in zip(rolled.origins, rolled.forecasts, strict=True):
        expected = SeriesModel.fit(y[origin + 1 - 40 : origin + 1], None, PLAN).forecast(5)
        np.testing.assert_array_equal(said, expected)


def test_covariates_ahead_are_those_of_the_steps():
    random = np.random.default_rng(1)
    x = random.standard_normal((160, 1))
    y = 5 + 3 * x[:, 0] + 0.1 * random.standard_normal(160)
    rolled = roll(y, x, PLAN, Schedule(100))
    assert np.abs(rolled.truth - rolled.forecasts).mean() < 0.3


@pytest.mark.parametrize("numbers", [(116,), (3,), (60, 0), (60, 1, -1), (60, 1, 0, 2), (60, 1, 0, "x")])
def test_a_schedule_without_an_origin_is_refused(numbers):
    with pytest.raises(UserError, match="accepted"):
        roll(series(), None, PLAN, Schedule(*numbers))


def test_rows_are_what_their_names_say():
    y = np.array([1.0, 2.0, 3.0, 4.0, np.nan, 6.0])
    np.testing.assert_array_equal(last_value(y, 3, 1), [6, 6, 6])
    np.testing.assert_array_equal(seasonal_naive(y, 5, 3), [4, 5, 6, 4, 5])
    line = np.arange(100.0)
    np.testing.assert_allclose(ridge(line, 3, 1), [100, 101, 102], atol=1.5)
    assert naive_scale(np.arange(10.0), 3) == 3
    assert naive_scale(np.ones(10), 3) == 1


@pytest.mark.parametrize("name", ["AutoETS", pytest.param("AutoARIMA", marks=pytest.mark.slow), "Theta"])
def test_statistical_rows_forecast_a_season(name):
    pytest.importorskip("statsforecast")
    said = ROWS[name](series(), 6, 6)
    np.testing.assert_allclose(said, 10 + 2 * np.sin(2 * np.pi * (120 + np.arange(6)) / 6), atol=0.8)


def test_scores_and_coverage_count_known_values_only():
    y = series()
    y[100] = np.nan
    rolled = roll(y, None, PLAN, Schedule(60))
    whole = score(rolled, y, 6)
    known = np.isfinite(rolled.truth)
    errors = np.abs(rolled.truth - rolled.forecasts)
    assert np.isfinite(whole.mase)
    assert whole.origins == len(rolled.origins)
    assert abs(whole.mase * naive_scale(y[:60], 6) / np.mean(errors[known]) - 1) < 0.1
    for found in coverage(rolled).values():
        assert (found.coverage > 0.6).all()
        assert (found.width > 0).all()
        assert 0.3 < found.crps / np.mean(errors[known]) < 1


def test_crps_of_points_is_the_absolute_error():
    truth, middle = np.array([1.0, np.nan, 4.0]), np.array([0.0, 0.0, 1.0])
    ends = np.repeat(middle[:, None], len(RATES), 1)
    np.testing.assert_allclose(crps_between(truth, middle, ends, ends), 2.0)


def test_rows_noted_are_not_made_again(tmp_path, monkeypatch):
    y = series()
    origins = np.array([80, 90, 100])
    truth = np.zeros((3, 5))
    calls = []
    monkeypatch.setitem(ROWS, "last value", lambda *a: calls.append(1) or last_value(*a))
    first = RowNotes(tmp_path, y, "q").rolled("last value", y, 6, origins[:2], truth[:2], None, lambda: None)
    (path,) = tmp_path.glob("rows-*.jsonl")
    path.write_bytes(path.read_bytes()[:-9])
    again = RowNotes(tmp_path, y, "q").rolled("last value", y, 6, origins, truth, None, lambda: None)
    assert len(calls) == 4
    np.testing.assert_array_equal(again.forecasts[:2], first.forecasts)
    RowNotes(tmp_path, y, "q").rolled("last value", y, 6, origins, truth, None, lambda: None)
    assert len(calls) == 4
    RowNotes(tmp_path, y + 1, "q").rolled("last value", y, 6, origins, truth, None, lambda: None)
    assert len(calls) == 7


def test_origins_are_spread_evenly():
    assert list(spread(np.arange(100), 3)) == [0, 49, 99]
    assert len(spread(np.arange(5), None)) == len(spread(np.arange(5), 9)) == 5
