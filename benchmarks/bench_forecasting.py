"""Breadth of SpaceTimeForecaster: rolling origins on series of 60 to 8,000 values beside simple and neural methods.

python -m benchmarks.bench_forecasting [--quick]; words: breadth, covariates, updates, coverage, airline.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from benchmarks.forecasting_series import Series, folder, series
from benchmarks.harness import Bench, Row, main, shape
from benchmarks.peers import neural
from farfield.apps.forecasting.bank import Array, Index, windows_at
from farfield.apps.forecasting.conformal import RATES
from farfield.apps.forecasting.rolling import Schedule, coverage, roll
from farfield.apps.forecasting.series import Plan, SeriesModel
from farfield.apps.forecasting.sizes import lag_of
from farfield.apps.forecasting.stack import targets_at
from farfield.apps.forecasting.statistical import LONGEST_SEASON, MOST_VALUES, ROWS, crps_between, naive_scale

OURS = "farfield"
ORIGINS = 6
SEED = 0
Said = tuple[Array, float, "tuple[Array, Array] | None"]


def cases(bench: Bench) -> Iterator[Row]:
    """All parts, or those named in FARFIELD_BENCH_PARTS (comma-separated)."""
    parts: dict[str, Callable[[Bench], Iterator[Row]]] = {
        "airline": airline,
        "breadth": breadth,
        "covariates": covariates,
        "updates": updates,
        "coverage": interval_coverage,
    }
    chosen = os.environ.get("FARFIELD_BENCH_PARTS", ",".join(parts)).split(",")
    for name in chosen:
        yield from parts[name](bench)


def breadth(bench: Bench) -> Iterator[Row]:
    """MASE, CRPS over MASE's unit and seconds a fit of every method on every series, then mean ranks."""
    python = neural.available()
    if python is None:
        print("NOT RUN: DLinear and NHITS. Install neuralforecast, or name a Python with it in FARFIELD_PEERS_PYTHON.")
    table: dict[str, dict[str, float]] = {}
    names = ["airline", "nile"] if bench.quick else None
    for one in series(names):
        origins = _origins(one)
        scores = _rolled(one, origins)
        if python is not None:
            scores |= _neural(one, origins, python)
        for method, (mase, crps, seconds) in scores.items():
            table.setdefault(method, {})[one.name] = mase
            sizes = shape(series=one.name, n=len(one.values), m=one.season, H=one.horizon)
            yield bench.row("forecasting", method, "", sizes, "fp64", metric="mase", value=mase)
            if np.isfinite(crps):
                yield bench.row("forecasting", method, "", sizes, "fp64", metric="crps", value=crps)
            yield bench.row("forecasting", method, "", sizes, "fp64", metric="fit_s", value=seconds)
    frame = pd.DataFrame(table).dropna(axis=1)
    ranks = frame.rank(axis=1).mean()
    means = np.exp(np.log(frame.clip(lower=1e-3)).mean())
    for method in frame.columns:
        sizes = shape(series="all", count=len(frame))
        yield bench.row("forecasting", method, "", sizes, "fp64", metric="mean_rank", value=float(ranks[method]))
        yield bench.row("forecasting", method, "", sizes, "fp64", metric="geometric_mase", value=float(means[method]))


def _origins(one: Series) -> Index:
    step = max(1, one.horizon // 2)
    return np.array([len(one.values) - one.horizon - step * i - 1 for i in range(ORIGINS)][::-1])


def _rolled(one: Series, origins: Index) -> dict[str, tuple[float, float, float]]:
    """Every method refitted at every origin: MASE, scaled CRPS, seconds a fit."""
    methods: dict[str, Callable[[Array, int, int], Said]] = {OURS: _ours, "farfield stack alone": _stack_alone}
    methods |= {name: _row(name) for name in ("last value", "seasonal naive", "ridge on lags")}
    methods |= {name: _with_intervals(name) for name in ("AutoETS", "AutoARIMA", "AutoTheta")}
    methods["LightGBM lags"] = _lightgbm
    truth = targets_at(one.values, origins, one.horizon)
    found = {}
    for name, method in methods.items():
        errors, scores, seconds = [], [], 0.0
        for origin, came in zip(origins, truth, strict=True):
            past = one.values[: origin + 1]
            unit = naive_scale(past, one.season)
            said, took, ends = method(past, one.horizon, one.season)
            errors.append(float(np.abs(came - said).mean()) / unit)
            seconds += took
            if ends is not None:
                scores.append(crps_between(came, said, *ends) / unit)
        found[name] = (float(np.mean(errors)), float(np.mean(scores)) if scores else np.nan, seconds / len(origins))
    return found


def _ours(past: Array, horizon: int, season: int, **settings: bool) -> Said:
    began = time.perf_counter()
    model = SeriesModel.fit(past, None, Plan(horizon=horizon, season=season, seed=SEED, **settings))
    said = model.forecast(horizon)
    took = time.perf_counter() - began
    return said, took, model.forecast_intervals(horizon, None, RATES)


def _stack_alone(past: Array, horizon: int, season: int) -> Said:
    return _ours(past, horizon, season, use_network=False)


def _row(name: str) -> Callable[[Array, int, int], Said]:
    def run(past: Array, horizon: int, season: int) -> Said:
        began = time.perf_counter()
        said = ROWS[name](past, horizon, season)
        return said, time.perf_counter() - began, None

    return run


def _with_intervals(kind: str) -> Callable[[Array, int, int], Said]:
    """A method of statsforecast with its own intervals by RATES."""

    def run(past: Array, horizon: int, season: int) -> Said:
        from statsforecast import models

        if kind != "AutoTheta" and season > LONGEST_SEASON:
            season = 1
        levels = [round(100 * (1 - rate)) for rate in RATES]
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said = getattr(models, kind)(season_length=season).forecast(past[-MOST_VALUES:], horizon, level=levels)
        took = time.perf_counter() - began
        below, above = (np.stack([np.asarray(said[f"{end}-{level}"]) for level in levels], 1) for end in ("lo", "hi"))
        return np.asarray(said["mean"]), took, (below, above)

    return run


def _lightgbm(past: Array, horizon: int, season: int) -> Said:
    """One model of all horizons: lags minus the last value and the step, on the value minus the last."""
    from lightgbm import LGBMRegressor

    began = time.perf_counter()
    lag = lag_of(len(past), season, horizon)
    origins = np.arange(lag - 1, len(past) - horizon)[-2000:]
    windows, truth = windows_at(past, origins, lag), targets_at(past, origins, horizon)
    steps = np.arange(horizon)

    def features(rows: Array) -> Array:
        return np.column_stack([np.repeat(rows - rows[:, -1:], horizon, 0), np.tile(steps, len(rows))])

    model = LGBMRegressor(n_estimators=200, learning_rate=0.05, min_child_samples=10, verbose=-1, seed=SEED, n_jobs=1)
    model.fit(features(windows), (truth - windows[:, -1:]).ravel())
    now = windows_at(past, np.array([len(past) - 1]), lag)
    said = past[-1] + np.asarray(model.predict(features(now)))
    return said, time.perf_counter() - began, None


def _neural(one: Series, origins: Index, python: str) -> dict[str, tuple[float, float, float]]:
    question = {
        "values": one.values.tolist(),
        "season": one.season,
        "horizon": one.horizon,
        "origins": origins.tolist(),
        "seed": SEED,
    }
    truth = targets_at(one.values, origins, one.horizon)
    units = np.array([naive_scale(one.values[: o + 1], one.season) for o in origins])
    found = {}
    for name, said in neural.ask(python, question).items():
        error = np.abs(truth - np.array(said["forecasts"])).mean(1) / units
        found[f"{name} (fitted once)"] = (float(error.mean()), np.nan, float(said["seconds"]))
    return found


def airline(bench: Bench) -> Iterator[Row]:
    """Seconds of a default fit, the sktime class included."""
    from sktime.datasets import load_airline

    from farfield.apps.forecasting.forecaster import SpaceTimeForecaster

    y = load_airline()
    SpaceTimeForecaster(random_state=SEED).fit(y.iloc[:60], fh=[1])
    for _ in range(1 if bench.quick else 3):
        began = time.perf_counter()
        SpaceTimeForecaster(random_state=SEED).fit(y, fh=range(1, 13)).predict()
        took = time.perf_counter() - began
        yield bench.row("forecasting", OURS, "", shape(series="airline", H=12), "fp64", metric="fit_s", value=took)


def covariates(bench: Bench) -> Iterator[Row]:
    """MASE of a series with a planted effect, with and without X, and of one with an irrelevant X."""
    runs = 2 if bench.quick else 10
    found: dict[str, list[float]] = {}
    for seed in range(runs):
        random = np.random.default_rng(seed)
        n, horizon = 240, 12
        x = random.standard_normal((n, 1))
        noise = np.zeros(n)
        for t in range(1, n):
            noise[t] = 0.7 * noise[t - 1] + 0.5 * random.standard_normal()
        base = 10 + 2 * np.sin(2 * np.pi * np.arange(n) / 12) + noise
        plan = Plan(horizon=horizon, season=12, seed=SEED)
        for name, y, given in (
            ("planted, X given", base + 1.5 * x[:, 0], x),
            ("planted, X withheld", base + 1.5 * x[:, 0], None),
            ("irrelevant, X given", base, x),
            ("irrelevant, X withheld", base, None),
        ):
            rolled = roll(y, given, plan, Schedule(n - 3 * horizon, horizon, refit=horizon))
            unit = naive_scale(y[: n - 3 * horizon], 12)
            found.setdefault(name, []).append(float(np.abs(rolled.truth - rolled.forecasts).mean()) / unit)
    for name, values in found.items():
        sizes = shape(case=name.replace(", ", "_").replace(" ", "_"), n=240, runs=runs)
        yield bench.row("forecasting", OURS, "", sizes, "fp64", metric="mase", value=float(np.mean(values)))


def updates(bench: Bench) -> Iterator[Row]:
    """Seconds of 1,000 origins: reading value by value against refitting AutoETS."""
    (one,) = series(["co2"])
    count = 50 if bench.quick else 1000
    horizon, season = 12, 52
    y = one.values
    plan = Plan(horizon=horizon, season=season, seed=SEED)
    first = len(y) - horizon - count + 1
    rolled = roll(y, None, plan, Schedule(first))
    refits = np.unique(np.linspace(0, len(rolled.origins) - 1, 5 if bench.quick else 20).astype(int))
    began = time.perf_counter()
    said = np.stack([ROWS["AutoETS"](y[: rolled.origins[i] + 1], horizon, season) for i in refits])
    each = (time.perf_counter() - began) / len(refits)
    unit = naive_scale(y[:first], season)
    sizes = shape(series="co2", origins=count, H=horizon)
    values = {
        (OURS, "fit_s"): rolled.fit_seconds,
        (OURS, "update_s"): rolled.update_seconds,
        (OURS, "predict_s"): rolled.predict_seconds,
        (OURS, "mase"): float(np.abs(rolled.truth - rolled.forecasts).mean()) / unit,
        ("AutoETS, from 20 refits", "all_refits_s"): each * count,
        ("AutoETS, from 20 refits", "mase"): float(np.abs(rolled.truth[refits] - said).mean()) / unit,
    }
    for (provider, metric), value in values.items():
        yield bench.row("forecasting", provider, "", sizes, "fp64", metric=metric, value=value)


def interval_coverage(bench: Bench) -> Iterator[Row]:
    """Share of ETT's test values inside 90% intervals, adaptive and static, fitted on the 12 months of training."""
    for name in ("ETTh1",) if bench.quick else ("ETTh1", "ETTh2"):
        path = folder() / f"{name}.csv.gz"
        if not path.is_file():
            print(f"NOT RUN: {name}, {path} is not there")
            continue
        y = pd.read_csv(path)["OT"].to_numpy(np.float64)[:14_400]
        for horizon in (96,) if bench.quick else (96, 720):
            # Fitted on training and validation months; every test window is an origin, read value by value.
            plan = Plan(horizon=horizon, season=24, lag=336, use_network=False, logarithm=False, seed=SEED)
            rolled = roll(y, None, plan, Schedule(11_520, 1))
            spread = y[:8640].std()
            at = {"1": 0, "H/2": horizon // 2 - 1, "H": horizon - 1}
            sizes = shape(series=name, H=horizon, windows=len(rolled.origins))
            for kind, found in coverage(rolled).items():
                values = {f"coverage_h={label}": float(found.coverage[i]) for label, i in at.items()}
                values |= {"coverage_all": float(found.coverage.mean())}
                values |= {"width": float(found.width.mean() / spread), "crps": float(found.crps / spread)}
                for metric, value in values.items():
                    yield bench.row("forecasting", f"{OURS}-{kind}", "", sizes, "fp64", metric=metric, value=value)


if __name__ == "__main__":
    main("forecasting", cases)
