"""The bank's members weighted by the errors that they made on the series itself: the linear skip of the forecaster."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from farfield.apps.forecasting.bank import (
    RUNAWAY,
    Array,
    Index,
    Smoothers,
    ar_grid,
    ar_taps,
    roll_out,
    smooth,
    smoothing_grid,
    windows_at,
)

# Errors at more origins than this tell the weights nothing new.
MOST_ORIGINS = 400
# Weight of a member's own squared error that is added to the members' covariance: keeps similar members together.
SHRINKAGE = 0.1


@dataclass
class Stack:
    """Weighted members with their states, in standardised units.

    Args:
        smoothers: The exponential smoothers that have a weight.
        taps: Autoregressions that have a weight (A, P + 1).
        weights: Of smoothers, then autoregressions; not negative, of sum 1.
        recent: The newest values, filled where missing, oldest first; at least P of them.
        limit: No member's forecast leaves [-limit, limit].
    """

    smoothers: Smoothers
    taps: Array
    weights: Array
    recent: Array
    limit: float

    def forecast(self, horizon: int) -> Array:
        """(H,)."""
        size = self.taps.shape[1] - 1
        window = np.broadcast_to(self.recent[len(self.recent) - size :], (len(self.taps), size))
        members = [self.smoothers.forecast(horizon), roll_out(self.taps, window, horizon, self.limit)]
        return np.asarray(self.weights @ np.concatenate(members))

    def read(self, value: float) -> float:
        """Takes one value; returns it, or what is put in its place where it is missing.

        Complexity: O(K + P) where it is not missing.
        """
        filled = value if np.isfinite(value) else float(self.forecast(1)[0])
        self.smoothers.read(value)
        self.recent[:-1] = self.recent[1:]
        self.recent[-1] = filled
        return filled


@dataclass
class Trial:
    """What a stack said at past origins.

    Args:
        origins: Positions (T,).
        forecasts: Of a stack whose weights come from the earlier origins, [:cut]: honest from `cut` on (T, H).
        truth: NaN past the end of the series and where missing (T, H).
        cut: First origin that the weights of `forecasts` did not see.
    """

    origins: Index
    forecasts: Array
    truth: Array
    cut: int


@dataclass(frozen=True)
class Bank:
    """All members on one series, before they are weighted.

    Args:
        origins: (T,).
        forecasts: (T, K, H).
        truth: (T, H).
        filled: The series without gaps (n,).
        smoothers: In the state after the last value.
        taps: Of each autoregression at each origin, the last one at the end of the series: A arrays (T, P_a + 1).
    """

    origins: Index
    forecasts: Array
    truth: Array
    filled: Array
    smoothers: Smoothers
    taps: list[Array] = field(repr=False)
    limit: float = np.inf


def run_bank(z: Array, season: int, horizon: int, origins: Index | None = None) -> Bank:
    """Runs every member over a series.

    Args:
        z: Standardised values, NaN where missing (n,).
        season: Observations of a period.
        horizon: H.
        origins: Where forecasts are wanted; the last one has to be n - 1. None: up to MOST_ORIGINS of the last
            three quarters.
    """
    last = len(z) - 1
    if origins is None:
        first = min(last, max(2 * season, 8, len(z) // 4))
        origins = np.unique(np.linspace(first, last, min(MOST_ORIGINS, last - first + 1)).astype(np.int64))
    smoothers = Smoothers.begin(z, season, smoothing_grid(season))
    smoothed, filled, _ = smooth(z, smoothers, origins, horizon)
    largest = RUNAWAY * np.maximum.accumulate(np.maximum(np.abs(filled), 1.0))
    members, taps = [smoothed], []
    for differences, lags in ar_grid(season, len(z)):
        found = ar_taps(filled, ~np.isfinite(z), differences, lags, season, origins)
        windows = windows_at(filled, origins, found.shape[1] - 1)
        members.append(roll_out(found, windows, horizon, largest[origins])[:, None])
        taps.append(found)
    truth = targets_at(z, origins, horizon)
    return Bank(origins, np.concatenate(members, 1), truth, filled, smoothers, taps, float(largest[-1]))


def weigh(bank: Bank) -> tuple[Stack, Trial]:
    """Weights the members by their errors at all origins; a trial shows what weights from the earlier ones do later."""
    known = len(bank.origins) - 1
    if known < 1:
        # One origin has nothing after it to be judged by: all members alike.
        even = np.full(bank.forecasts.shape[1], 1 / bank.forecasts.shape[1])
        said = np.einsum("tkh,k->th", bank.forecasts, even)
        return stack_of(bank, even), Trial(bank.origins, said, bank.truth, 0)
    cut = max(1, int(known * 0.6))
    early = _weights(bank.forecasts[:cut], _before(bank.truth[:cut], bank.origins[:cut], bank.origins[cut]))
    trial = Trial(bank.origins, np.einsum("tkh,k->th", bank.forecasts, early), bank.truth, cut)
    return stack_of(bank, _weights(bank.forecasts[:-1], bank.truth[:-1])), trial


def stack_of(bank: Bank, weights: Array) -> Stack:
    """The members that have a weight, as they stand at the end of the series."""
    count = len(bank.smoothers.gains)
    smoothers = np.flatnonzero(weights[:count])
    chosen = np.flatnonzero(weights[count:])
    longest = max((bank.taps[i].shape[1] - 1 for i in chosen), default=1)
    taps = np.zeros((len(chosen), longest + 1))
    for row, i in enumerate(chosen):
        size = bank.taps[i].shape[1] - 1
        taps[row, :size], taps[row, -1] = bank.taps[i][-1, :-1], bank.taps[i][-1, -1]
    recent = windows_at(bank.filled, bank.origins[-1:], longest)[0]
    kept = np.concatenate([weights[smoothers], weights[count + chosen]])
    return Stack(bank.smoothers.keep(smoothers), taps, kept, recent, bank.limit)


def replay(z: Array, stack: Stack, origins: Index, horizon: int) -> Array:
    """What the finished stack says at past origins; its autoregressions have learnt from what came after (T, H)."""
    smoothers = Smoothers.begin(z, stack.smoothers.season, stack.smoothers.gains)
    found, filled, _ = smooth(z, smoothers, origins, horizon)
    members = [found]
    for taps in stack.taps:
        windows = windows_at(filled, origins, len(taps) - 1)
        members.append(roll_out(np.tile(taps, (len(origins), 1)), windows, horizon, stack.limit)[:, None])
    return np.asarray(np.einsum("tkh,k->th", np.concatenate(members, 1), stack.weights))


def targets_at(z: Array, origins: Index, horizon: int) -> Array:
    """What followed each origin, NaN past the end (T, H)."""
    padded = np.concatenate([z, np.full(horizon, np.nan)])
    return np.asarray(padded[origins[:, None] + 1 + np.arange(horizon)])


def poles_of(stack: Stack) -> list[Array]:
    """Companion coefficients of each autoregression, oldest lag first: what `core_ops.companion_ssm.poles` takes."""
    return [taps[-2::-1].copy() for taps in stack.taps]


def copy_of(stack: Stack) -> Stack:
    """An independent copy: reading into it leaves the original as it is."""
    members: Index = np.arange(len(stack.smoothers.gains))
    return replace(stack, smoothers=stack.smoothers.keep(members), recent=stack.recent.copy())


def _before(truth: Array, origins: Index, end: np.int64) -> Array:
    """Targets that lie after `end` are not known there: NaN."""
    later = origins[:, None] + 1 + np.arange(truth.shape[1]) > end
    return np.where(later, np.nan, truth)


def _weights(forecasts: Array, truth: Array) -> Array:
    """min_w w' C w + SHRINKAGE w' diag(C) w, w >= 0, sum w = 1: C the members' error covariance over all horizons.

    Args:
        forecasts: (T, K, H).
        truth: (T, H), NaN where unknown.
    """
    from scipy.optimize import nnls

    known = np.isfinite(truth)
    members = forecasts.shape[1]
    if not known.any():
        return np.full(members, 1 / members)
    errors = np.where(known[:, None], forecasts - np.where(known, truth, 0.0)[:, None], 0.0)
    counts = np.maximum(known.sum(0), 1)
    # A far horizon has larger errors, not a larger say.
    typical = np.sqrt(np.median((errors**2).sum(0) / counts, axis=0))
    errors /= np.where(typical > 1e-9, typical, 1.0)
    flat = errors.transpose(1, 0, 2).reshape(members, -1)
    covariance = flat @ flat.T / known.sum()
    covariance += SHRINKAGE * np.diag(np.diag(covariance))
    total = float(np.trace(covariance))
    if total <= 1e-12:
        return np.full(members, 1 / members)
    root = np.linalg.cholesky(covariance + 1e-10 * total * np.eye(members))
    heavy = 100 * np.sqrt(total)
    found, _ = nnls(np.vstack([root.T, np.full(members, heavy)]), np.append(np.zeros(members), heavy))
    weights = np.where(found > 0.01 * found.max(), found, 0.0)
    return np.asarray(weights / weights.sum())
