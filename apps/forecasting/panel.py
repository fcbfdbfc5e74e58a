"""One network for many series: trained on the windows of a panel, used on series that it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from farfield.apps.forecasting.bank import Array, Index, windows_at
from farfield.apps.forecasting.scale import Scale
from farfield.apps.forecasting.series import MOST_WINDOWS, Plan
from farfield.apps.forecasting.sizes import lag_of, model_of
from farfield.apps.forecasting.spacetime import SpaceTime
from farfield.apps.forecasting.stack import targets_at
from farfield.apps.training.errors import UserError

if TYPE_CHECKING:
    from farfield.apps.forecasting.network import Examples


def pretrain_network(series: Sequence[Array], covariates: Sequence[Array] | None, plan: Plan) -> SpaceTime:
    """A network of all series, each standardised by itself; the last 30% of each choose the epoch.

    Args:
        series: Values, NaN where missing.
        covariates: (n, K) beside each.
        plan: Horizon, season, sizes, seed; the lag follows from the median length where it is None.
    Raises: UserError: no window of lag and horizon fits into any series.
    """
    from farfield.apps.forecasting.network import FEWEST_LATER, Examples, train_on

    lengths = [len(values) for values in series]
    lag = plan.lag or lag_of(int(np.median(lengths)), plan.season, plan.horizon)
    each = max(8, MOST_WINDOWS // len(series))
    early, late = [], []
    for i, values in enumerate(series):
        if not np.isfinite(values).any() or len(values) < lag + plan.horizon:
            continue
        # All in logarithms or none: the network cannot tell which series is which.
        z = Scale.of(values, plan.logarithm is True and bool(np.nanmin(values) > 0)).forward(values)
        filled = _carried(z)
        count = min(each, len(z) - lag + 1)
        origins = np.unique(np.linspace(lag - 1, len(z) - 1, count).astype(np.int64))
        truth = targets_at(z, origins, plan.horizon)
        known = None
        if covariates is not None:
            x = covariates[i]
            spread = np.where(x.std(0) > 0, x.std(0), 1.0)
            padded = np.concatenate([(x - x.mean(0)) / spread, np.full((plan.horizon, x.shape[1]), np.nan)])
            known = padded[origins[:, None] + np.arange(1 - lag, plan.horizon + 1)]
        examples = Examples(windows_at(filled, origins, lag), truth, np.zeros_like(truth), origins, known)
        rows, later = examples.split()
        early.append((examples, rows))
        late.append((examples, later))
    windows, validation = _joined(early), _joined(late)
    if windows is None or len(windows.windows) < 1:
        raise UserError(
            f"no window of lag={lag} and horizon={plan.horizon} fits into the series ({min(lengths)} to {max(lengths)}"
            " values): take a shorter lag or horizon"
        )
    if validation is None or len(validation.windows) < FEWEST_LATER:
        validation = windows
    everything = [np.arange(len(e.windows)) for e in (windows, validation)]
    plan = replace(plan, sizes=plan.sizes or dict(model_of(sum(lengths))))
    return train_on(windows.panel(everything[0]), validation.panel(everything[1]), plan)


def _joined(parts: list[tuple[Examples, Index]]) -> Examples | None:
    """Rows of several series, one below the other."""
    from farfield.apps.forecasting.network import Examples

    if not parts:
        return None
    first = parts[0][0]
    joined = [np.concatenate([getattr(e, name)[rows] for e, rows in parts]) for name in ("windows", "truth", "stack")]
    origins = np.concatenate([e.origins[rows] for e, rows in parts])
    known = None if first.known is None else np.concatenate([e.known[rows] for e, rows in parts if e.known is not None])
    return Examples(joined[0], joined[1], joined[2], origins, known)


def _carried(z: Array) -> Array:
    """Gaps filled with the value before them, the head with the first known one."""
    known = np.flatnonzero(np.isfinite(z))
    before = np.maximum.accumulate(np.where(np.isfinite(z), np.arange(len(z)), -1))
    return np.asarray(z[np.where(before >= 0, before, known[0])])
