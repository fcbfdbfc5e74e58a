"""Defaults that follow from a series: its period, and how much of it a forecast looks at."""

from __future__ import annotations

import re

import numpy as np

from farfield.apps.forecasting.bank import Array
from farfield.apps.training.errors import UserError

# Observations of the period that a frequency is known for: a year of months, a day of hours, ...
SEASONS = {
    **{"Y": 1, "A": 1, "Q": 4, "M": 12, "W": 52, "B": 5, "D": 7, "H": 24, "T": 60, "MIN": 60, "S": 60},
    **{"YE": 1, "YS": 1, "QE": 4, "QS": 4, "ME": 12, "MS": 12, "BME": 12, "BMS": 12, "SME": 24, "SMS": 24},
}
DAY = {"H": 24, "T": 1440, "MIN": 1440, "S": 86_400}
# A period found in the numbers alone needs this autocorrelation and this many repetitions.
CLEAR, REPEATS = 0.4, 3


def whole(name: str, value: object, least: int, also: str = "") -> None:
    """Lets whole numbers from `least` on pass.

    Raises: UserError: anything else; `also` says what more is accepted.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise UserError(f"{name}={value}: a whole number from {least} on is accepted{also}")


def season_of(frequency: str | None, values: Array) -> int:
    """Observations of a period: from the frequency ("MS", "h", "30min", ...), without one from the autocorrelation.

    Args:
        frequency: A pandas alias; None where the index has none.
        values: The series (n,).
    Returns: 1 where there is none, or where the series does not show it twice.
    """
    season = _named(frequency) if frequency else _correlated(values)
    return season if len(values) >= 2 * season + 2 else 1


def lag_of(length: int, season: int, horizon: int) -> int:
    """Values that one forecast looks at: three periods or two horizons, at most a third of the series and 336."""
    wanted = max(3 * season, 2 * horizon, 12)
    return int(max(1, min(wanted, length // 3, 336)))


def model_of(length: int) -> dict[str, int | float]:
    """Sizes of the network that so many values can feed."""
    if length < 500:
        return {"model_dim": 16, "kernel_dim": 8, "n_blocks": 1, "n_kernels": 4, "dropout": 0.1}
    return {"model_dim": 32, "kernel_dim": 16, "n_blocks": 1, "n_kernels": 8, "dropout": 0.2}


def _named(frequency: str) -> int:
    """30min is 48 a day, 2h is 12, 2MS is 6 a year; a period that does not divide is no season."""
    match = re.fullmatch(r"(\d*)([A-Za-z]+)(?:-[A-Za-z0-9-]+)?", frequency.strip())
    if match is None:
        return 1
    multiple, unit = int(match[1] or 1), match[2].upper()
    if unit in DAY and (multiple > 1 or unit == "H"):
        return DAY[unit] // multiple if DAY[unit] % multiple == 0 and DAY[unit] // multiple <= 288 else 1
    season = SEASONS.get(unit, 1)
    return season // multiple if season % multiple == 0 else 1


def _correlated(values: Array) -> int:
    """The first clear peak of the autocorrelation of the series without its line."""
    known = np.isfinite(values)
    n = len(values)
    if known.sum() < 4 * REPEATS or n > 100_000:
        return 1
    time = np.arange(n)
    line = np.polynomial.polynomial.polyfit(time[known], values[known], 1)
    z = np.where(known, values - np.polynomial.polynomial.polyval(time, line), 0.0)
    power = float(z @ z)
    if power <= 1e-12 * max(1.0, float(np.nanmax(np.abs(values)) ** 2)) * n:
        return 1
    longest = min(n // REPEATS, 400)
    spectrum = np.abs(np.fft.rfft(z, 2 * n)) ** 2
    correlation = np.fft.irfft(spectrum, 2 * n)[: longest + 2] / power
    peaks = [
        lag
        for lag in range(2, longest + 1)
        if correlation[lag] > CLEAR and correlation[lag - 1] < correlation[lag] >= correlation[lag + 1]
    ]
    return max(peaks, key=lambda lag: correlation[lag]) if peaks else 1
