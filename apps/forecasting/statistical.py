"""The rows beside the model: what a forecast has to beat before it is worth anything."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from farfield.apps.forecasting.bank import Array, windows_at
from farfield.apps.forecasting.conformal import RATES
from farfield.apps.forecasting.sizes import lag_of
from farfield.apps.forecasting.stack import targets_at
from farfield.apps.training.errors import UserError

Forecast = Callable[[Array, int, int], Array]
# Seasons above this are not fitted by AutoETS and AutoARIMA (they take minutes or refuse): those rows run without one.
LONGEST_SEASON = 24
# What a refit reads at most.
MOST_VALUES = 2_000
PENALTY = 1.0


def last_value(y: Array, horizon: int, season: int) -> Array:
    """The last known value, again and again."""
    return np.full(horizon, filled(y)[-1])


def seasonal_naive(y: Array, horizon: int, season: int) -> Array:
    """The last period, again and again."""
    return np.resize(filled(y)[-season:], horizon)


def ridge(y: Array, horizon: int, season: int) -> Array:
    """Ridge regression of the next steps on the lags, the last value subtracted from both."""
    z = filled(y)
    lag = lag_of(len(z), season, horizon)
    origins = np.arange(lag - 1, len(z) - horizon)
    if len(origins) < 5:
        return last_value(y, horizon, season)
    windows, truth = windows_at(z, origins, lag), targets_at(z, origins, horizon)
    x, target = windows - windows[:, -1:], truth - windows[:, -1:]
    gram = x.T @ x
    weight = np.linalg.solve(gram + (PENALTY * np.trace(gram) / lag + 1e-12) * np.eye(lag), x.T @ target)
    now = windows_at(z, np.array([len(z) - 1]), lag)[0]
    return np.asarray(now[-1] + (now - now[-1]) @ weight)


def _statsforecast(name: str) -> Forecast:
    def forecast(y: Array, horizon: int, season: int) -> Array:
        models = _models()
        if name != "AutoTheta" and season > LONGEST_SEASON:
            season = 1
        z = filled(y)[-MOST_VALUES:]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return np.asarray(getattr(models, name)(season_length=season).forecast(z, horizon)["mean"], np.float64)
            except (ValueError, ZeroDivisionError, IndexError, FloatingPointError, np.linalg.LinAlgError) as error:
                # It has no model for this series (too short, constant): its row says so.
                raise NoForecast(f"{name}: {error}") from error

    return forecast


class NoForecast(RuntimeError):
    """A row's method has no model for a series."""


ROWS: dict[str, Forecast] = {
    "last value": last_value,
    "seasonal naive": seasonal_naive,
    "ridge on lags": ridge,
    "AutoETS": _statsforecast("AutoETS"),
    "AutoARIMA": _statsforecast("AutoARIMA"),
    "Theta": _statsforecast("AutoTheta"),
}


def filled(y: Array) -> Array:
    """Gaps filled by straight lines: the rows take no missing values."""
    known = np.flatnonzero(np.isfinite(y))
    return np.asarray(np.interp(np.arange(len(y)), known, y[known])) if len(known) < len(y) else y


def naive_scale(y: Array, season: int) -> float:
    """Mean absolute seasonal difference of the past: MASE's unit; without one the last-value difference, then 1."""
    for step in dict.fromkeys((season, 1)):
        differences = np.abs(y[step:] - y[:-step])
        known = differences[np.isfinite(differences)]
        if len(known) and known.mean() > 0:
            return float(known.mean())
    return 1.0


def crps_between(truth: Array, middle: Array, below: Array, above: Array) -> float:
    """Mean CRPS from the ends of intervals by RATES (H, A) and their median (H,); NaN values are left out.

    Both quantiles of the interval of miss rate a have their pinball loss; CRPS is the integral of the sum over a in
    (0, 1), by the trapezoidal rule.
    """
    known = np.isfinite(truth)
    if not known.any():
        return float("nan")
    y, low, high = truth[known, None], below[known], above[known]
    lower = np.where(y < low, (1 - RATES / 2) * (low - y), RATES / 2 * (y - low))
    upper = np.where(y > high, (1 - RATES / 2) * (y - high), RATES / 2 * (high - y))
    cost = lower + upper
    cost = np.concatenate([cost[:, :1], cost, np.abs(y - middle[known, None])], 1)
    nodes = np.concatenate([[0.0], RATES, [1.0]])
    return float(((cost[:, 1:] + cost[:, :-1]) / 2 * np.diff(nodes)).sum(1).mean())


def _models() -> object:
    try:
        import statsforecast.models as models
    except ModuleNotFoundError as error:
        raise UserError("these rows need the package statsforecast: pip install 'farfield[forecasting]'") from error
    return models
