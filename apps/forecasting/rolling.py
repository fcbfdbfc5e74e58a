"""Rolling origins: what the model and the simple rows would have said, each time from what was known then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from farfield.apps.forecasting.bank import Array, Index
from farfield.apps.forecasting.conformal import RATES, Intervals
from farfield.apps.forecasting.series import Plan, SeriesModel
from farfield.apps.forecasting.sizes import whole
from farfield.apps.forecasting.stack import targets_at
from farfield.apps.forecasting.statistical import ROWS, NoForecast, crps_between, naive_scale
from farfield.apps.training.errors import UserError

LEVEL = 0.1


@dataclass(frozen=True)
class Schedule:
    """When forecasts are made.

    Args:
        first: Values known at the first origin.
        step: Values between origins.
        refit: Values between fits; 0 fits once. Between fits the model only reads.
        window: Newest values of a fit; None takes all there are (expanding).
    """

    first: int
    step: int = 1
    refit: int = 0
    window: int | None = None

    def __post_init__(self) -> None:
        """Refuses what is no schedule."""
        whole("step", self.step, 1)
        whole("refit", self.refit, 0)
        if self.window is not None:
            whole("window", self.window, 4)

    def origins(self, length: int, horizon: int) -> Index:
        """Positions of the newest known value; the last forecast ends with the series."""
        return np.arange(self.first - 1, length - horizon, self.step)


@dataclass(frozen=True)
class Rolled:
    """Forecasts of one method (T, H), their truth, and what they took.

    Args:
        origins: (T,).
        forecasts, truth: (T, H); truth is NaN where missing.
        below, above: Ends of the adaptive intervals by RATES (T, H, A); None for a row.
        static_below, static_above: Of the split-conformal ones.
        fits: How often it was fitted.
        fit_seconds, update_seconds, predict_seconds: In all.
    """

    origins: Index
    forecasts: Array
    truth: Array
    below: Array | None = None
    above: Array | None = None
    static_below: Array | None = None
    static_above: Array | None = None
    fits: int = 0
    fit_seconds: float = 0.0
    update_seconds: float = 0.0
    predict_seconds: float = 0.0


def roll(
    y: Array,
    x: Array | None,
    plan: Plan,
    schedule: Schedule,
    on_origin: Callable[[int], None] | None = None,
) -> Rolled:
    """The model at every origin: fitted where the schedule says so, reading value by value between.

    Args:
        y: The whole series (n,); at an origin t nothing after y[t] is read.
        x: Covariates (n, K), known ahead.
        on_origin: Called with the number of origins done.
    Raises: UserError: no origin fits.
    """
    horizon = plan.horizon
    origins = _checked(schedule, len(y), plan)
    shape = (len(origins), horizon)
    forecasts = np.empty(shape)
    ends = [np.empty((*shape, len(RATES))) for _ in range(4)]
    took = np.zeros(3)
    model: SeriesModel | None = None
    fitted = fits = 0
    position = origins[0]
    for i, origin in enumerate(origins):
        due = model is None or (schedule.refit and origin - fitted >= schedule.refit)
        began = time.perf_counter()
        if due:
            start = 0 if schedule.window is None else max(0, origin + 1 - schedule.window)
            model = SeriesModel.fit(y[start : origin + 1], None if x is None else x[start : origin + 1], plan)
            fitted, fits = origin, fits + 1
        else:
            assert model is not None
            for t in range(position + 1, origin + 1):
                model.read(y[t], None if x is None else x[t])
        position = origin
        took[0 if due else 1] += time.perf_counter() - began
        began = time.perf_counter()
        ahead = None if x is None else x[origin + 1 : origin + 1 + horizon]
        forecasts[i] = model.forecast(horizon, ahead)
        took[2] += time.perf_counter() - began
        ends[0][i], ends[1][i] = model.forecast_intervals(horizon, ahead, RATES, adaptive=True)
        ends[2][i], ends[3][i] = model.forecast_intervals(horizon, ahead, RATES, adaptive=False)
        if on_origin is not None:
            on_origin(i + 1)
    below, above, static_below, static_above = ends
    return Rolled(
        origins,
        forecasts,
        targets_at(y, origins, horizon),
        below,
        above,
        static_below,
        static_above,
        fits,
        fit_seconds=float(took[0]),
        update_seconds=float(took[1]),
        predict_seconds=float(took[2]),
    )


def roll_row(
    name: str, y: Array, season: int, horizon: int, origins: Iterable[int], window: int | None = None
) -> Iterable[tuple[int, Array, float]]:
    """A row of `ROWS`, refitted at each origin: (origin, forecast (H,), seconds); NaN where it has no model."""
    for origin in origins:
        began = time.perf_counter()
        start = 0 if window is None else max(0, origin + 1 - window)
        try:
            said = ROWS[name](y[start : origin + 1], horizon, season)
        except NoForecast:
            said = np.full(horizon, np.nan)
        yield int(origin), said, time.perf_counter() - began


@dataclass(frozen=True)
class Score:
    """Of one method over origins.

    Args:
        mase: Mean absolute error over the mean absolute seasonal difference of the past.
        crps: Over the same unit; NaN for a row without intervals.
        by_horizon: Mean absolute error over that unit (H,).
        origins: How many.
        seconds: For each origin, fit and updates included.
    """

    mase: float
    crps: float
    by_horizon: Array
    origins: int
    seconds: float


def score(rolled: Rolled, y: Array, season: int, chosen: Index | None = None) -> Score:
    """Errors at all origins, or at those of these numbers."""
    rows = np.arange(len(rolled.origins)) if chosen is None else chosen
    units = np.array([naive_scale(y[: o + 1], season) for o in rolled.origins[rows]])
    error = np.abs(rolled.truth[rows] - rolled.forecasts[rows]) / units[:, None]
    crps = float("nan")
    if rolled.below is not None and rolled.above is not None:
        said = [
            crps_between(rolled.truth[r], rolled.forecasts[r], rolled.below[r], rolled.above[r]) / unit
            for r, unit in zip(rows, units, strict=True)
        ]
        crps = float(np.nanmean(said))
    seconds = (rolled.fit_seconds + rolled.update_seconds + rolled.predict_seconds) / max(1, len(rolled.origins))
    return Score(float(np.nanmean(error)), crps, np.nanmean(error, 0), len(rows), seconds)


def coverage(rolled: Rolled, rate: float = LEVEL) -> dict[str, Intervals]:
    """What adaptive and static intervals are worth; CRPS in the series' units."""
    at = int(np.argmin(np.abs(RATES - rate)))
    ends = {
        "adaptive": (rolled.below, rolled.above),
        "static": (rolled.static_below, rolled.static_above),
    }
    found = {}
    known = np.isfinite(rolled.truth)
    counts = np.maximum(known.sum(0), 1)
    for name, (below, above) in ends.items():
        if below is None or above is None:
            continue
        inside = (rolled.truth >= below[..., at]) & (rolled.truth <= above[..., at]) & known
        width = np.where(known, above[..., at] - below[..., at], 0.0)
        levels = (ends.reshape(-1, len(RATES)) for ends in (below, above))
        crps = crps_between(rolled.truth.ravel(), rolled.forecasts.ravel(), *levels)
        found[name] = Intervals(inside.sum(0) / counts, width.sum(0) / counts, crps)
    return found


def spread(origins: Index, count: int | None) -> Index:
    """Numbers of `count` origins, evenly among all; None is all of them."""
    if count is None or count >= len(origins):
        return np.arange(len(origins))
    return np.unique(np.linspace(0, len(origins) - 1, count).astype(np.int64))


def gathered(found: Mapping[int, tuple[Array, float]], origins: Index, truth: Array) -> Rolled:
    """A row's forecasts by origin as one result."""
    said = np.stack([found[int(o)][0] for o in origins])
    return Rolled(origins, said, truth, fits=len(origins), fit_seconds=sum(found[int(o)][1] for o in origins))


def _checked(schedule: Schedule, length: int, plan: Plan) -> Index:
    """The origins of a schedule, none of them refused."""
    origins = schedule.origins(length, plan.horizon)
    if schedule.first < 4 or not len(origins):
        raise UserError(
            f"no origin fits: {length} values, {schedule.first} before the first forecast, horizon={plan.horizon}; at"
            " least 4 before it and the horizon behind it are accepted"
        )
    return origins
