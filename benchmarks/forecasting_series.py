"""Series that sktime and statsmodels bundle, and two of FARFIELD_DATA: name, values, period, horizon."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
SKTIME, STATSMODELS, SHARED = "sktime.datasets", "statsmodels.datasets", ""


class Series(NamedTuple):
    """Values without gaps, observations of a period, steps to forecast."""

    name: str
    values: np.ndarray
    season: int
    horizon: int


def _column(name: str | int) -> Callable[[pd.DataFrame], pd.Series]:
    return lambda frame: frame[name] if isinstance(name, str) else frame.iloc[:, name]


def _rows_of_months(frame: pd.DataFrame) -> pd.Series:
    return pd.Series(frame.iloc[:, 1:].to_numpy(float).ravel())


# name, package or "" for FARFIELD_DATA, file, column, period, horizon
SOURCES: list[tuple[str, str, str, Callable[[pd.DataFrame], pd.Series], int, int]] = [
    ("airline", SKTIME, "data/Airline/Airline.csv", _column("Passengers"), 12, 12),
    ("lynx", SKTIME, "data/Lynx/Lynx.csv", _column(1), 1, 6),
    ("pbs", SKTIME, "data/PBS_dataset/PBS_dataset.csv", _column("Scripts"), 12, 12),
    ("us_consumption", SKTIME, "data/Uschange/Uschange.csv", _column("Consumption"), 4, 8),
    ("us_unemployment", SKTIME, "data/Uschange/Uschange.csv", _column("Unemployment"), 4, 8),
    ("seatbelts", SKTIME, "data/seatbelts/seatbelts.csv", _column("KSI"), 12, 12),
    ("solar", SKTIME, "data/solar/solar.csv", _column("solar_gen"), 48, 48),
    ("co2", STATSMODELS, "co2/co2.csv", _column("co2"), 52, 52),
    ("elnino", STATSMODELS, "elnino/elnino.csv", _rows_of_months, 12, 12),
    ("sunspots", STATSMODELS, "sunspots/sunspots.csv", _column("SUNACTIVITY"), 1, 6),
    ("nile", STATSMODELS, "nile/nile.csv", _column("volume"), 1, 6),
    ("elec_equip", STATSMODELS, "elec_equip/elec_equip.csv", _column(1), 12, 12),
    ("real_gdp", STATSMODELS, "macrodata/macrodata.csv", _column("realgdp"), 4, 8),
    ("inflation", STATSMODELS, "macrodata/macrodata.csv", _column("infl"), 4, 8),
    ("treasury_bills", STATSMODELS, "macrodata/macrodata.csv", _column("tbilrate"), 4, 8),
    ("german_interest", STATSMODELS, "interest_inflation/E6.csv", _column("R"), 4, 8),
    ("exchange_rate", SHARED, "exchange_rate.csv", _column("OT"), 5, 30),
    ("illness", SHARED, "national_illness.csv", _column("% WEIGHTED ILI"), 52, 24),
]


def folder() -> Path:
    """Where FARFIELD_DATA is, its default beside the repository."""
    return Path(os.environ.get("FARFIELD_DATA", ROOT.parent / "shared" / "data")) / "series"


def series(names: list[str] | None = None) -> Iterator[Series]:
    """Those that are there; the name of each that is not is printed."""
    for name, package, file, column, season, horizon in SOURCES:
        if names is not None and name not in names:
            continue
        path = files(package).joinpath(file) if package else folder() / file
        if not path.is_file():
            print(f"NOT RUN: {name}, {path} is not there")
            continue
        values = pd.to_numeric(column(pd.read_csv(str(path))), errors="coerce").interpolate()
        yield Series(name, values.to_numpy(np.float64), season, horizon)
