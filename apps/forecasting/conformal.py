"""Intervals from the errors that were made: conformal scores by horizon, static or adapted online.

Shapes: T past forecasts, H horizon, A miss rates. A score is |y - y_hat|, in the units in which the model computes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from farfield.apps.forecasting.bank import Array

RATES = np.array([0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
"""Miss rates that are adapted; those between are interpolated."""
# At horizon h a miss adds STEP / sqrt(h) (1 - rate) to the log of the width, a hit takes STEP / sqrt(h) rate from it.
STEP = 0.1
# Scores of one horizon from which its quantiles are its own; below, the horizons share theirs.
OWN = 100
MOST_SCORES = 2000
# Widths stay within this factor of the static ones.
WIDEST = 20.0


def steps(horizon: int) -> Array:
    """Size of the online step by horizon (H,): a miss is known h values late, and misses of neighbours are one miss."""
    return np.asarray(STEP / np.sqrt(np.arange(1, horizon + 1)))


def score_quantile(scores: Array, rates: Array) -> Array:
    """Split-conformal quantile: the ceil((n + 1)(1 - rate))-th smallest of n scores, the largest where n is too small.

    Args:
        scores: (n,), without NaN.
        rates: Miss rates (A,).
    Returns: (A,); 0 without scores.
    Source: Vovk et al. 2005; Lei et al. 2018, split conformal prediction.
    """
    n = len(scores)
    if n == 0:
        return np.zeros(len(rates))
    rank = np.clip(np.ceil((n + 1) * (1 - np.asarray(rates)) - 1e-9).astype(int), 1, n)
    return np.asarray(np.sort(scores)[rank - 1])


@dataclass
class Conformal:
    """Half-widths of intervals by horizon and miss rate, moved by every forecast whose horizon has completed.

    width[h, a] = static[h, a] exp(shift[h, a]);  shift += steps[h] (missed - a) when y_{t+h} is known: over a long
    time the misses are the share a, whatever the series does. A forecast whose time has not come teaches nothing.

    Args:
        static: Half-widths of split-conformal intervals (H, A).
        shift: Log of what the widths are multiplied by (H, A).
        pending: Forecasts still waited for, the one made at clock t in row t mod H (H, H); NaN where none was made.
        issued: Their half-widths (H, H, A).
        clock: Values observed.

    Source: Gibbs & Candes 2021, adaptive conformal inference; Angelopoulos et al. 2023, steps on the quantile itself.
    """

    static: Array
    shift: Array
    pending: Array
    issued: Array
    clock: int = 0

    @classmethod
    def of(cls, scores: Array) -> Conformal:
        """From scores of past honest forecasts, NaN where unknown (T, H)."""
        horizon = scores.shape[1]
        return cls(
            static_widths(scores),
            np.zeros((horizon, len(RATES))),
            np.full((horizon, horizon), np.nan),
            np.zeros((horizon, horizon, len(RATES))),
        )

    def widths(self, horizon: int, rates: Array, *, adaptive: bool = True) -> Array:
        """Half-widths (horizon, len(rates)), below the least of RATES as there.

        Past the horizon of the scores they grow with the root of the time.
        """
        known = len(self.static)
        width = self.half() if adaptive else self.static
        # At a rate of 1 an interval is its middle.
        nodes = np.append(RATES, 1.0)
        found = np.stack([np.interp(rates, nodes, np.append(row, 0.0)) for row in width])
        steps = np.arange(horizon)
        growth = np.sqrt(np.maximum(1.0, (steps + 1) / known))
        return np.asarray(found[np.minimum(steps, known - 1)] * growth[:, None])

    def observe(self, value: float) -> None:
        """One value came: every forecast of it that was made is judged; NaN judges none. O(H A)."""
        horizon = len(self.static)
        if np.isfinite(value):
            ages = np.arange(horizon)
            rows = (self.clock - ages) % horizon
            made = self.pending[rows, ages]
            missed = np.abs(value - made)[:, None] > self.issued[rows, ages]
            moved = self.shift + np.where(np.isfinite(made)[:, None], steps(horizon)[:, None] * (missed - RATES), 0.0)
            self.shift = np.clip(moved, -np.log(WIDEST), np.log(WIDEST))
        self.clock += 1
        self.pending[self.clock % horizon] = np.nan

    def issue(self, forecast: Array) -> None:
        """Takes the forecast made now (H,): it is judged step by step as values come."""
        self.pending[self.clock % len(self.static)] = forecast
        self.issued[self.clock % len(self.static)] = self.half()

    def half(self) -> Array:
        """Adapted half-widths (H, A), not wider for a more tolerant rate."""
        return np.asarray(np.minimum.accumulate(self.static * np.exp(self.shift), axis=1))


def static_widths(scores: Array) -> Array:
    """Half-widths by horizon and RATES (H, A) from scores (T, H), NaN where unknown.

    A horizon with fewer than OWN scores borrows the shape of the others': all are divided by their horizon's root mean
    square, pooled, and multiplied by it.
    """
    scores = scores[-MOST_SCORES:]
    horizon = scores.shape[1]
    counts = np.isfinite(scores).sum(0)
    if not counts.any():
        return np.zeros((horizon, len(RATES)))
    squares = np.nansum(scores**2, 0) / np.maximum(counts, 1)
    # Far horizons are seen least often: where none was seen the last known error grows with the root of the time.
    scale = np.zeros(horizon)
    for h in range(horizon):
        scale[h] = np.sqrt(squares[h]) if counts[h] else scale[h - 1] * np.sqrt((h + 1) / max(h, 1))
    pooled = (scores / np.where(scale > 0, scale, 1.0))[np.isfinite(scores)]
    shared = score_quantile(pooled, RATES)
    rows = [
        score_quantile(scores[np.isfinite(scores[:, h]), h], RATES) if counts[h] >= OWN else scale[h] * shared
        for h in range(horizon)
    ]
    return np.stack(rows)


@dataclass(frozen=True)
class Intervals:
    """What intervals are worth.

    Args:
        coverage: Share of values inside, by horizon (H,).
        width: Mean width, by horizon (H,).
        crps: Mean over all forecasts, from the pinball losses of RATES: twice their mean over all levels.
    """

    coverage: Array
    width: Array
    crps: float
