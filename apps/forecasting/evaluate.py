"""`farfield forecasting evaluate`: the Informer protocol, all test windows, simple forecasts beside the network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from farfield.apps.forecasting import checkpoint as stored
from farfield.apps.forecasting.baselines import (
    baseline_errors,
    fit_ridge,
    initialise,
    last_value,
    seasonal_naive,
)  # fmt: skip
from farfield.apps.forecasting.config import SpaceTimeConfig
from farfield.apps.forecasting.informer import Splits, calendar_waves, informer_splits, locate, read_columns
from farfield.apps.forecasting.optimise import Epoch, errors, train
from farfield.apps.forecasting.sizes import whole
from farfield.apps.forecasting.spacetime import SpaceTime
from farfield.apps.forecasting.windows import Batch
from farfield.apps.training import UserError, atomic_write
from farfield.apps.training.device import resolve_device

TRAINER = (
    *("epochs", "batch_size", "lr", "patience", "seconds", "weight_decay", "weights", "average", "skip_lr", "warmup"),
)


class Score(NamedTuple):
    """Errors over all test windows in standardised units, and the validation error that chose the row's settings."""

    mse: float
    mae: float
    validation_mse: float


def evaluate(
    *,
    run_folder: Path,
    data: str,
    target: str | list[str] | None,
    lag: int,
    horizon: int,
    calendar: int,
    season: int,
    model: dict[str, Any],
    trainer: dict[str, Any],
    repeats: int,
    checkpoint: str | None,
    out: str | None,
    device: str,
    precision: str,
    seed: int,
    resume: str | None,
) -> dict[str, Score]:
    """Print one table of test errors: the network, trained or loaded, beside forecasts that cost nothing.

    Args:
        run_folder: Where every trained network goes, model-<seed>; those that are there are not trained again.
        data: CSV file with a header and a `date` column first, or the name of a data set (ETTh1).
        target: Column or columns; None is the last one.
        lag, horizon: Observations read and forecast; a checkpoint says its own.
        calendar: Yearly waves (sine and cosine of the date) given as known covariates; 0 is the protocol's univariate
            setting. Any number adds a row of the ridge regression that is given them too.
        season: Observations of a season, of the seasonal naive forecast.
        model: Fields of `SpaceTimeConfig`.
        trainer: Arguments of `train`.
        repeats: Networks, of seeds seed, seed + 1, ...; the row of the model is their mean, not their ensemble.
        checkpoint: Folder of a trained network to evaluate; None trains.
        out: JSON file to write; None is evaluation.json in the run folder.
        device, precision: As everywhere.
        seed: Of the first network.
        resume: Run folder to continue.
    Returns: Scores by row.
    Raises: UserError: a file or setting is wrong.
    """
    for name, value in (("repeats", repeats), ("lag", lag), ("horizon", horizon), ("season", season)):
        whole(name, value, 1)
    if unknown := sorted(set(trainer) - set(TRAINER)):
        raise UserError(f"trainer.{unknown[0]} is unknown; accepted: {', '.join(TRAINER)}")
    loaded = None if checkpoint is None else stored.load(checkpoint)[0]
    if loaded is not None:
        lag, horizon = loaded.config.lag, loaded.config.horizon
        calendar = loaded.config.known // 2
    path = locate(data)
    columns = [target] if isinstance(target, str) else target
    values = read_columns(path, columns)
    splits = informer_splits(path.name, values, lag, horizon, known=calendar_waves(path, calendar))
    place = resolve_device(device)
    rows = baseline_rows(splits, calendar, season)
    nets = [loaded] if loaded is not None else []
    names = ["checkpoint"] if loaded is not None else [f"seed {seed + i}" for i in range(repeats)]
    for i, name in enumerate(names):
        if loaded is None:
            config = SpaceTimeConfig.of(model, lag=lag, horizon=horizon, targets=values.shape[1], known=2 * calendar)
            nets.append(_trained(run_folder, config, splits, trainer, seed + i, device, precision))
        net = nets[i].to(place)
        test = errors(net, splits.test.to(place), precision=precision)
        rows[f"SpaceTime, {name}"] = Score(*test, errors(net, splits.validation.to(place), precision=precision)[0])
    if len(names) > 1:
        scores = torch.tensor([rows[f"SpaceTime, {name}"] for name in names], dtype=torch.float64)
        rows[f"SpaceTime, mean of {len(names)}"] = Score(*scores.mean(0).tolist())
    result = {
        "data": path.name,
        "lag": lag,
        "horizon": horizon,
        "windows": {"train": len(splits.train), "validation": len(splits.validation), "test": len(splits.test)},
        "rows": {name: score._asdict() for name, score in rows.items()},
    }
    where = Path(out) if out is not None else run_folder / "evaluation.json"
    atomic_write(where, json.dumps(result, indent=1) + "\n")
    _show(path.name, lag, horizon, len(splits.test), rows)
    print(f"{where}")
    return rows


def baseline_rows(splits: Splits, calendar: int, season: int) -> dict[str, Score]:
    """Last value, seasonal naive and ridge regression on all test windows."""
    rows: dict[str, Score] = {}
    train, validation, test = (w.select(known=False) for w in (splits.train, splits.validation, splits.test))
    plain = splits._replace(train=train, validation=validation, test=test)
    ridge = fit_ridge(plain.train, plain.validation)
    forecasts: dict[str, Callable[[Batch], Tensor]] = {
        "last value": last_value,
        f"seasonal naive, {season}": seasonal_naive(season),
        "ridge on lags minus last": ridge,
    }
    for name, forecast in forecasts.items():
        rows[name] = score(forecast, plain)
    if calendar:
        rows["ridge with the calendar"] = score(fit_ridge(splits.train, splits.validation), splits)
    return rows


def score(forecast: Callable[[Batch], Tensor], splits: Splits) -> Score:
    """Errors of a forecast on validation and test."""
    return Score(*baseline_errors(forecast, splits.test), baseline_errors(forecast, splits.validation)[0])


def _trained(
    run_folder: Path,
    config: SpaceTimeConfig,
    splits: Splits,
    trainer: dict[str, Any],
    seed: int,
    device: str,
    precision: str,
) -> SpaceTime:
    folder = run_folder / f"model-{seed}"
    if (folder / stored.CONFIG).is_file():
        net, _ = stored.load(folder)
        if net.config != config:
            raise UserError(f"{folder} holds a network of other settings; take a new run folder")
        return net
    net = SpaceTime.seeded(config, seed)
    if config.linear_skip:
        initialise(net, splits.train, splits.validation)
    settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in trainer.items()}

    def tell(epoch: Epoch) -> None:
        print(f"seed {seed}  epoch {epoch.number}  validation mse {epoch.mse:.5f}  {epoch.seconds:.0f} s", flush=True)

    history = train(
        net, splits.train, splits.validation, seed=seed, device=device, precision=precision, on_epoch=tell, **settings
    )
    facts = {"seed": seed, "validation_mse": history.mse, "epoch": history.best, "seconds": history.seconds}
    stored.save(net, folder, facts)
    return net


def _show(name: str, lag: int, horizon: int, windows: int, rows: dict[str, Score]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("forecast", "test MSE", "test MAE", "validation MSE", title=f"{name}, {lag} lags, {horizon} ahead")
    for row, values in rows.items():
        table.add_row(row, *(f"{v:.4f}" for v in values))
    Console().print(table)
    print(f"{windows:,} test windows, standardised units")
