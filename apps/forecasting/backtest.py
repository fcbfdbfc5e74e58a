"""`farfield forecasting backtest`: forecasts from many past origins, each from what was known then."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from farfield.apps.forecasting.bank import Array
from farfield.apps.forecasting.figures import coverage_figure, error_figure, past_figure
from farfield.apps.forecasting.rolling import LEVEL, Rolled, Schedule, Score, coverage, roll, score, spread
from farfield.apps.forecasting.series import Plan
from farfield.apps.forecasting.settings import (
    SCORE_HEAD,
    RowNotes,
    plan_of,
    result_path,
    row_names,
    score_rows,
    verdict,
)
from farfield.apps.forecasting.sizes import whole
from farfield.apps.forecasting.table import Table, read_table
from farfield.apps.training import UserError, atomic_write
from farfield.apps.training.report import print_table, write_report

OURS = "SpaceTimeForecaster"
MODES = ("expanding", "sliding")
# Forecasts that the figure shows.
DRAWN = 12


def backtest(
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
    mode: str,
    first: int | float,
    step: int,
    refit: int,
    window: int | None,
    rows: list[str] | None,
    compare: int | None,
    network: bool,
    lag: int | None,
    epochs: int | None,
    logarithm: bool | str | None,
    out: str | None,
    device: str,
    precision: str,
    seed: int,
    resume: str | None,
) -> dict[str, Score]:
    """Print errors of the model and of the rows at the same past origins, and the coverage of the intervals.

    Args:
        run_folder: Where report.html and the rows' forecasts go; an interrupted run goes on from them.
        data, target, time, covariates, frequency, duplicates: As of `read_table`. Covariates count as known ahead.
        horizon: Steps of each forecast.
        season: Observations of a period; None finds it.
        mode: expanding (a fit takes all values before its origin) or sliding (the newest `window`).
        first: Values before the first origin; below 1 a share of the series.
        step: Values between origins.
        refit: Values between fits of the model; 0 fits once, then values are read in O(1) of the series' length.
        window: Values of a fit where mode is sliding.
        rows: Simple methods beside it, refitted at each origin; None is all of them.
        compare: Origins at which they are run, evenly spread; None is all origins.
        network, lag, epochs, logarithm: As of `SpaceTimeForecaster`.
        out: CSV of all forecasts; None is backtest.csv in the run folder.
        device, precision: Of the network's training.
        seed: As everywhere.
        resume: Run folder to continue.
    Returns: Scores by method, all at the origins of the rows.
    Raises: UserError: a file or setting is wrong.
    """
    if mode not in MODES:
        raise UserError(f"mode={mode}: {', '.join(MODES)} are accepted")
    if (mode == "sliding") != (window is not None):
        raise UserError(f"mode={mode} window={window}: sliding needs window=, a number of values; expanding takes none")
    names = row_names(rows)
    if compare is not None:
        whole("compare", compare, 1, ", null compares at all origins")
    target_file = result_path(out, run_folder / "backtest.csv")
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
    y = table.target.to_numpy(np.float64)
    begin = round(first * len(y)) if isinstance(first, float) and first < 1 else int(first)
    schedule = Schedule(begin, step, refit, window)
    x = None if table.covariates is None else _complete(table.covariates)
    rolled, others = run(y, x, plan, schedule, names, compare, run_folder)
    chosen = spread(rolled.origins, compare)
    scores = {OURS: score(rolled, y, plan.season, chosen)} | {
        name: score(row, y, plan.season) for name, row in others.items()
    }
    _write_csv(target_file, table, rolled)
    _tell(rolled, scores, plan, run_folder, table)
    return scores


def run(
    y: Array, x: Array | None, plan: Plan, schedule: Schedule, names: list[str], compare: int | None, run_folder: Path
) -> tuple[Rolled, dict[str, Rolled]]:
    """The model at all origins and the rows at some, under a progress bar."""
    origins = schedule.origins(len(y), plan.horizon)
    chosen = spread(origins, compare)
    with progress("backtest", len(origins) + len(chosen) * len(names)) as advance:
        rolled = roll(y, x, plan, schedule, lambda done: advance())
        # Origins without a value to compare with say nothing.
        question = f"{plan.horizon} {plan.season} {schedule.window}"
        notes = RowNotes(run_folder, y, question)
        others = {
            name: notes.rolled(
                name, y, plan.season, rolled.origins[chosen], rolled.truth[chosen], schedule.window, advance
            )
            for name in names
        }
    return rolled, others


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar with time left on standard error; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def coverage_rows(rolled: Rolled) -> list[tuple[str, ...]]:
    """Table rows: share inside at h = 1, H/2, H and over all, mean width, CRPS; adaptive beside static."""
    horizon = rolled.truth.shape[1]
    at = (0, (horizon + 1) // 2 - 1, horizon - 1)
    return [
        (
            name,
            *(f"{found.coverage[i]:.1%}" for i in at),
            f"{found.coverage.mean():.1%}",
            f"{found.width.mean():.4g}",
            f"{found.crps:.4g}",
        )
        for name, found in coverage(rolled).items()
    ]


COVERAGE_HEAD = (f"{1 - LEVEL:.0%} intervals: inside", "h = 1", "h = H/2", "h = H", "all h", "mean width", "CRPS")


def _tell(rolled: Rolled, scores: dict[str, Score], plan: Plan, run_folder: Path, table: Table) -> None:
    timing = (
        f"{len(rolled.origins):,} origins: {rolled.fits} fits {rolled.fit_seconds:.2f} s, updates"
        f" {rolled.update_seconds:.2f} s, forecasts {rolled.predict_seconds:.2f} s"
    )
    said = verdict(scores, OURS) if len(scores) > 1 else ""
    print_table(SCORE_HEAD, score_rows(scores))
    print_table(COVERAGE_HEAD, coverage_rows(rolled))
    print(timing)
    if said:
        print(said)
    shares = {name: found.coverage for name, found in coverage(rolled).items()}
    pick = spread(rolled.origins, DRAWN)
    forecasts = [
        pd.Series(rolled.forecasts[i], table.frame.index[rolled.origins[i] + 1 : rolled.origins[i] + 1 + plan.horizon])
        for i in pick
    ]
    figures = {
        "Scaled absolute error by horizon.": error_figure({name: s.by_horizon for name, s in scores.items()}),
        "Share of the values inside their interval, by horizon.": coverage_figure(shares, 1 - LEVEL),
        f"Forecasts from {len(pick)} of the origins.": past_figure(
            table.target, forecasts, len(table.target) - int(rolled.origins[0]) + plan.horizon
        ),
    }
    tables = {
        "The model and the rows, at the same origins": (SCORE_HEAD, score_rows(scores)),
        "Intervals, at all origins": (COVERAGE_HEAD, coverage_rows(rolled)),
    }
    report = run_folder / "report.html"
    write_report(
        report, f"Backtest of {table.target.name}", [*filter(None, [said, timing]), *table.notes], tables, figures
    )
    summary = {name: {"mase": s.mase, "crps": None if np.isnan(s.crps) else s.crps} for name, s in scores.items()}
    atomic_write(run_folder / "backtest.json", json.dumps(summary, indent=1) + "\n")
    print(f"report: {report}")


def _write_csv(path: Path, table: Table, rolled: Rolled) -> None:
    """A line a forecast value: origin, time, step, forecast, truth, ends of the 90% interval."""
    from farfield.apps.forecasting.conformal import RATES

    at = int(np.argmin(np.abs(RATES - LEVEL)))
    horizon = rolled.truth.shape[1]
    positions = rolled.origins[:, None] + 1 + np.arange(horizon)
    index = table.frame.index
    assert rolled.below is not None
    assert rolled.above is not None
    frame = pd.DataFrame(
        {
            "origin": np.repeat(index[rolled.origins], horizon),
            "time": index[positions.ravel()],
            "step": np.tile(np.arange(1, horizon + 1), len(rolled.origins)),
            "forecast": rolled.forecasts.ravel(),
            "truth": rolled.truth.ravel(),
            "lower_90": rolled.below[..., at].ravel(),
            "upper_90": rolled.above[..., at].ravel(),
        }
    )
    atomic_write(path, frame.to_csv(index=False, float_format="%.8g"))


def _complete(frame: pd.DataFrame) -> Array:
    """Covariates without gaps: the value before, at the head the first one."""
    return np.asarray(frame.ffill().bfill(), dtype=np.float64)
