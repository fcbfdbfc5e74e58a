"""`farfield forecasting predict`: forecasts and intervals of a fitted forecaster, after new values if there are any."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from farfield.apps.forecasting.figures import forecast_figure
from farfield.apps.forecasting.forecaster import SpaceTimeForecaster
from farfield.apps.forecasting.settings import result_path
from farfield.apps.forecasting.sizes import whole
from farfield.apps.forecasting.table import read_table
from farfield.apps.training import UserError, atomic_write
from farfield.apps.training.device import check_precision, resolve_device
from farfield.apps.training.report import print_table, write_report

# Lines of the table on the terminal.
SHOWN = 12


def predict(
    *,
    run_folder: Path,
    checkpoint: str,
    data: str | None,
    target: str | None,
    time: str | None,
    frequency: str | None,
    duplicates: str,
    future: str | None,
    horizon: int | None,
    coverage: list[float],
    out: str | None,
    device: str,
    precision: str,
    seed: int,
    resume: str | None,
) -> Path:
    """Write one line a step: time, forecast, ends of the intervals.

    Args:
        run_folder: Where report.html goes.
        checkpoint: What `fit` wrote: the file, or the run folder that holds it.
        data: Newer values of the series; what the forecaster has seen is passed over. None forecasts from the fit.
        target, time, frequency, duplicates: As of `read_table`, for data and future.
        future: CSV file with times and covariates of the steps ahead, where the forecaster was fitted with some.
        horizon: Steps; None is the fitted one.
        coverage: Of the intervals, each between 0 and 1.
        out: CSV file to write; None is forecast.csv in the run folder.
        device, precision: Noted; a forecast is computed on the CPU in fp32 and float64.
        seed: Noted; nothing is drawn at random.
        resume: Run folder to continue.
    Returns: The file written.
    Raises: UserError: a file or setting is wrong.
    """
    check_precision(precision, resolve_device(device))
    path = result_path(out, run_folder / "forecast.csv")
    if not isinstance(coverage, list) or not all(isinstance(c, int | float) and 0 < c < 1 for c in coverage):
        raise UserError(f"coverage={coverage}: a list of numbers between 0 and 1 is accepted, for example [0.5,0.9]")
    source = Path(checkpoint)
    forecaster = SpaceTimeForecaster.load_from_path(source / "forecaster.zip" if source.is_dir() else source)
    forecaster.set_config(remember_data=False)
    columns = forecaster.columns_ or []
    history = None
    if data is not None:
        table = read_table(data, target, time=time, covariates=columns, frequency=frequency, duplicates=duplicates)
        history = table.target
        if type(table.target.index) is not type(forecaster.last_) and not isinstance(table.target.index, pd.RangeIndex):
            raise UserError(f"data={data}: its times are not of the kind that the forecaster was fitted with")
        newer = table.target[table.target.index > forecaster.last_[0]]
        print(f"{len(newer):,} values after {forecaster.last_[0]} are read")
        if len(newer):
            forecaster.update(
                newer, X=None if not columns else table.frame.loc[newer.index, columns], update_params=False
            )
    steps = forecaster.model_.plan.horizon if horizon is None else horizon
    whole("horizon", steps, 1)
    ahead = None
    if columns:
        if future is None:
            raise UserError(
                f"fitted with the covariates {', '.join(columns)}: give future=, a CSV file of the steps ahead"
            )
        known = read_table(future, columns[0], time=time, covariates=columns[1:], frequency=frequency)
        ahead = known.frame
    frame = _forecast(forecaster, steps, ahead, coverage)
    atomic_write(path, frame.to_csv(index_label="time", float_format="%.8g"))
    rows = [(str(i), *(f"{v:.6g}" for v in row)) for i, row in zip(frame.index, frame.to_numpy(), strict=True)]
    print_table(("time", *frame.columns), rows[:SHOWN])
    if len(rows) > SHOWN:
        print(f"{len(rows) - SHOWN} more in {path}")
    if history is not None:
        ends = {c: (frame[f"lower_{_name(c)}"].to_numpy(), frame[f"upper_{_name(c)}"].to_numpy()) for c in coverage}
        figure = forecast_figure(history, frame["forecast"], ends, max(60, 5 * steps))
        report = run_folder / "report.html"
        write_report(report, f"Forecast of {history.name}", [], {"": (("time", *frame.columns), rows)}, {"": figure})
        print(f"report: {report}")
    print(f"forecast: {path}")
    return path


def _forecast(
    forecaster: SpaceTimeForecaster, steps: int, ahead: pd.DataFrame | None, coverage: list[float]
) -> pd.DataFrame:
    fh = list(range(1, steps + 1))
    columns: dict[str, np.ndarray] = {}
    said = forecaster.predict(fh, X=ahead)
    columns["forecast"] = said.to_numpy().ravel()
    if coverage:
        ends = forecaster.predict_interval(fh, X=ahead, coverage=coverage)
        for c in coverage:
            for end in ("lower", "upper"):
                columns[f"{end}_{_name(c)}"] = ends.xs((c, end), axis=1, level=(1, 2)).to_numpy().ravel()
    return pd.DataFrame(columns, index=said.index)


def _name(coverage: float) -> str:
    """0.9 is 90, 0.975 is 97.5."""
    return f"{100 * coverage:.10g}"
