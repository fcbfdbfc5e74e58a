"""`farfield forecasting fit`: a forecaster of one column of a CSV file, with what it is worth beside simple rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from farfield.apps.forecasting.backtest import OURS, run
from farfield.apps.forecasting.figures import error_figure, forecast_figure, pole_figure
from farfield.apps.forecasting.forecaster import SpaceTimeForecaster
from farfield.apps.forecasting.rolling import Schedule, Score, score
from farfield.apps.forecasting.series import Plan, SeriesModel
from farfield.apps.forecasting.settings import (
    SCORE_HEAD,
    plan_of,
    result_path,
    row_names,
    score_rows,
    verdict,
)
from farfield.apps.forecasting.sizes import whole
from farfield.apps.forecasting.stack import poles_of
from farfield.apps.forecasting.table import Table, read_table
from farfield.apps.training.report import print_table, write_report

COVERAGES = (0.5, 0.8, 0.95)
# Share of the series whose end is used to compare; the fit that is written reads all of it.
COMPARED = 0.25


def fit(
    *,
    run_folder: Path,
    data: str,
    target: str | None,
    horizon: int,
    time: str | None,
    covariates: list[str],
    frequency: str | None,
    duplicates: str,
    season: int | None,
    rows: list[str] | None,
    compare: int,
    network: bool,
    lag: int | None,
    epochs: int | None,
    logarithm: bool | str | None,
    out: str | None,
    device: str,
    precision: str,
    seed: int,
    resume: str | None,
) -> Path:
    """Fit on the whole series and write the forecaster; before that, compare on its last quarter.

    Args:
        run_folder: Where report.html goes.
        data, target, time, covariates, frequency, duplicates: As of `read_table`.
        horizon: Steps that are trained for and calibrated; `predict` may ask for more.
        season: Observations of a period; None finds it.
        rows: Simple methods to compare with; None is all of them.
        compare: Origins in the last quarter at which model and rows forecast; 0 compares nothing.
        network, lag, epochs, logarithm: As of `SpaceTimeForecaster`.
        out: File to write; None is forecaster.zip in the run folder.
        device, precision: Of the network's training.
        seed: The same seed gives the same bits.
        resume: Run folder to continue.
    Returns: The file written.
    Raises: UserError: a file or setting is wrong.
    """
    names = row_names(rows)
    whole("compare", compare, 0, ", 0 compares nothing")
    path = result_path(out, run_folder / "forecaster.zip")
    table = read_table(data, target, time=time, covariates=covariates, frequency=frequency, duplicates=duplicates)
    for note in table.notes:
        print(note)
    plan = plan_of(
        table,
        horizon,
        season,
        lag=lag,
        use_network=network,
        epochs=epochs,
        logarithm=logarithm,
        seed=seed,
        device=device,
        precision=precision,
    )
    scores = _compare(table, plan, names, compare, run_folder)
    forecaster = SpaceTimeForecaster(
        horizon=horizon,
        season=plan.season,
        lag=lag,
        network=network,
        epochs=epochs,
        logarithm=plan.logarithm,
        random_state=seed,
        device=plan.device,
    ).set_config(remember_data=False)
    covariate_frame = table.covariates
    forecaster.fit(table.target, X=covariate_frame, fh=range(1, horizon + 1))
    forecaster.save(path)
    model: SeriesModel = forecaster.model_
    parts = describe(model)
    for line in parts:
        print(line)
    _report(run_folder / "report.html", table, forecaster, scores, parts)
    print(f"forecaster: {path}\nreport: {run_folder / 'report.html'}")
    return path


def _compare(table: Table, plan: Plan, names: list[str], compare: int, run_folder: Path) -> dict[str, Score]:
    """Model (fitted once) and rows (refitted) at the same origins of the last quarter."""
    y = table.target.to_numpy(np.float64)
    first = max(4, int(len(y) * (1 - COMPARED)))
    room = len(y) - plan.horizon - first + 1
    if compare < 1 or room < 1:
        print("too short to compare: no forecast fits into the last quarter" if compare else "nothing compared")
        return {}
    x = None
    if table.covariates is not None:
        x = np.asarray(table.covariates.ffill().bfill(), dtype=np.float64)
    rolled, others = run(y, x, plan, Schedule(first, max(1, room // compare)), names, None, run_folder)
    scores = {OURS: score(rolled, y, plan.season)}
    scores |= {name: score(row, y, plan.season) for name, row in others.items()}
    print_table(SCORE_HEAD, score_rows(scores))
    print(verdict(scores, OURS))
    return scores


def describe(model: SeriesModel) -> list[str]:
    """What was fitted, in sentences."""
    plan, stack = model.plan, model.stack
    kept = len(stack.smoothers.gains)
    lines = [
        f"period {plan.season}, {'logarithm' if model.scale.logarithm else 'values as they are'}; the stack weighs"
        f" {kept} exponential smoothers ({stack.weights[:kept].sum():.0%}) and {len(stack.taps)} autoregressions"
    ]
    if model.network is None:
        lines.append("the network adds nothing here that later windows bear out: the stack forecasts alone")
    else:
        lines.append(f"the network (lag {plan.lag}) counts {model.network.strength:.0%}, the stack the rest")
    if model.effect.inputs:
        used = int(np.count_nonzero(model.effect.beta))
        lines.append(f"{used} of {model.effect.inputs} covariates have an effect")
    return lines


def _report(
    path: Path, table: Table, forecaster: SpaceTimeForecaster, scores: dict[str, Score], parts: list[str]
) -> None:
    model: SeriesModel = forecaster.model_
    horizon = model.plan.horizon
    figures = {}
    ahead = np.tile(model.effect.centre, (horizon, 1)) if model.effect.inputs else None
    intervals = {}
    for coverage in COVERAGES:
        below, above = model.forecast_intervals(horizon, ahead, np.array([1 - coverage]))
        intervals[coverage] = (below[:, 0], above[:, 0])
    values = pd.Series(model.forecast(horizon, ahead), forecaster.fh.to_absolute_index(forecaster.cutoff))
    shown = max(4 * model.plan.season, 5 * horizon, 60)
    usual = "; covariates at their means" if model.effect.inputs else ""
    figures[f"The series, {horizon} steps ahead, and conformal intervals{usual}."] = forecast_figure(
        table.target, values, intervals, shown
    )
    if scores:
        figures["Scaled absolute error by horizon, last quarter."] = error_figure(
            {name: s.by_horizon for name, s in scores.items()}
        )
    systems = poles_of(model.stack)
    if systems:
        weights = model.stack.weights[len(model.stack.smoothers.gains) :]
        labels = [f"{w:.0%} of the stack" for w in weights]
        figures["Poles of the autoregressions in the stack; on the circle a trend or a season persists."] = pole_figure(
            systems, labels
        )
    said = [verdict(scores, OURS)] if scores else []
    tables = {"Last quarter, model fitted once, rows refitted": (SCORE_HEAD, score_rows(scores))} if scores else {}
    write_report(path, f"Forecaster of {table.target.name}", [*said, *parts, *table.notes], tables, figures)
