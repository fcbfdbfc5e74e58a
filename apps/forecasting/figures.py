"""What a forecaster has to show: the series with its forecast and intervals, errors by horizon, poles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from farfield.apps.forecasting.bank import Array
from farfield.apps.training.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# Bands are drawn from the widest to the narrowest, each darker.
SHADES = (0.15, 0.25, 0.35)


def forecast_figure(
    history: pd.Series, forecast: pd.Series, intervals: Mapping[float, tuple[Array, Array]], shown: int
) -> Figure:
    """The newest values, the forecast and its intervals.

    Args:
        history: The series; gaps stay gaps.
        forecast: The next values.
        intervals: Coverage to lower and upper ends (H,).
        shown: How many values of the history are drawn.
    """
    figure = _figure(3.6)
    axes = figure.subplots()
    recent = history.iloc[-shown:]
    axes.plot(_axis(recent.index), recent.to_numpy(), linewidth=1, color="0.2", label="known")
    later = _axis(forecast.index)
    for shade, (coverage, (below, above)) in zip(SHADES, sorted(intervals.items(), reverse=True), strict=False):
        axes.fill_between(later, below, above, alpha=shade, color="C0", linewidth=0, label=f"{coverage:.0%} interval")
    axes.plot(later, forecast.to_numpy(), color="C0", linewidth=1.2, label="forecast")
    axes.set_ylabel(str(history.name or "value"))
    axes.legend(fontsize="small", loc="upper left")
    return figure


def past_figure(history: pd.Series, forecasts: Sequence[pd.Series], shown: int) -> Figure:
    """Forecasts of a backtest over the values that came."""
    figure = _figure(3.6)
    axes = figure.subplots()
    recent = history.iloc[-shown:]
    axes.plot(_axis(recent.index), recent.to_numpy(), linewidth=1, color="0.2", label="what came")
    for i, forecast in enumerate(forecasts):
        axes.plot(
            _axis(forecast.index), forecast.to_numpy(), linewidth=1, color="C0", alpha=0.7, label="" if i else "said"
        )
    axes.set_ylabel(str(history.name or "value"))
    axes.legend(fontsize="small", loc="upper left")
    return figure


def error_figure(errors: Mapping[str, Array]) -> Figure:
    """Mean absolute scaled error by horizon, a line a method; the first one is drawn thick."""
    figure = _figure(3.6)
    axes = figure.subplots()
    for i, (name, values) in enumerate(errors.items()):
        steps = np.arange(1, len(values) + 1)
        axes.plot(
            steps, values, label=name, linewidth=1 if i else 2.4, color=f"C{i}", marker="." if len(steps) < 50 else None
        )
    axes.set(xlabel="steps ahead", ylabel="scaled absolute error")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small", ncols=2)
    return figure


def coverage_figure(shares: Mapping[str, Array], wanted: float) -> Figure:
    """Share of values inside their interval by horizon."""
    figure = _figure(3.0)
    axes = figure.subplots()
    for name, values in shares.items():
        axes.plot(np.arange(1, len(values) + 1), values, label=name, linewidth=1.2)
    axes.axhline(wanted, linestyle="--", linewidth=0.8, color="0.3", label="wanted")
    axes.set(xlabel="steps ahead", ylabel=f"inside the {wanted:.0%} interval", ylim=(0, 1.02))
    axes.legend(fontsize="small", loc="lower left")
    return figure


def pole_figure(systems: Sequence[Array], names: Sequence[str]) -> Figure:
    """Poles of autoregressions in the complex plane, with the unit circle.

    Args:
        systems: Companion coefficients of each, oldest lag first (d,).
        names: Labels.
    """
    figure = _figure(4.2, 4.8)
    axes = figure.subplots()
    angle = np.linspace(0, 2 * np.pi, 200)
    axes.plot(np.cos(angle), np.sin(angle), linewidth=0.8, color="0.6")
    for i, (a, name) in enumerate(zip(systems, names, strict=True)):
        found = poles(a)
        axes.plot(
            found[:, 0], found[:, 1], marker="ox+^sdv"[i % 7], linestyle="", color=f"C{i}", markersize=5, label=name
        )
    axes.set(xlabel="real", ylabel="imaginary")
    axes.set_aspect("equal")
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def poles(a: Array) -> Array:
    """Eigenvalues (d, 2), real and imaginary, of the companion matrix of a without its leading zeros."""
    import torch

    from farfield.core_ops import companion_ssm

    used = np.flatnonzero(a)
    if not len(used):
        return np.zeros((0, 2))
    return np.asarray(companion_ssm.poles(torch.from_numpy(a[used[0] :].copy())).numpy())


def _axis(index: pd.Index) -> Any:
    return index.to_timestamp() if hasattr(index, "to_timestamp") else index


def _figure(height: float, width: float = 9) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UserError("figures need the package matplotlib: pip install 'farfield[plots]'") from error
    return Figure(figsize=(width, height), layout="constrained")
