"""A bank of linear state spaces with fixed or recursively fitted poles: what a short series can be forecast with.

Shapes: T origins, K members, H horizon, P taps of an autoregression. The members see the past alone (their forecasts at
origin t use z[0..t]), so that the errors they made on the series itself are honest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.int64]
# Level gain, trend gain, damping of members without a season; a damping of 0 has no trend.
LEVELS = ((0.03, 0.0, 0.0), (0.1, 0.0, 0.0), (0.3, 0.0, 0.0), (0.6, 0.0, 0.0), (1.0, 0.0, 0.0))
TRENDS = (
    *((0.3, 0.05, 0.9), (0.6, 0.1, 0.9), (1.0, 0.2, 0.9), (1.0, 0.5, 0.8)),
    *((0.3, 0.03, 0.98), (0.6, 0.06, 0.98), (1.0, 0.05, 0.98)),
    *((0.5, 0.02, 1.0), (1.0, 0.01, 1.0), (1.0, 0.05, 1.0)),
)
SEASONAL_LEVELS = (0.03, 0.1, 0.3, 0.6, 0.95)
SEASONAL_GAINS = (0.05, 0.25)
# A forecast this many times further out than anything seen belongs to an unstable recursion.
RUNAWAY = 3.0
# Longer lags than this leave a short series too few equations.
LONGEST_AR = 24
FORGETTING = 0.998


def smoothing_grid(season: int) -> Array:
    """Gains of the exponential smoothers (K, 5): level, trend, season, damping, whether there is a season.

    Args:
        season: Observations of a period; 1 is none.
    """
    rows = [(level, trend, 0.0, damping, 0.0) for level, trend, damping in (*LEVELS, *TRENDS)]
    if season > 1:
        for level in SEASONAL_LEVELS:
            for gain in SEASONAL_GAINS:
                seasonal = gain * (1 - level) + 0.02
                rows += [(level, 0.0, seasonal, 0.0, 1.0), (level, 0.1 * level, seasonal, 0.95, 1.0)]
                rows += [(level, 0.03 * level, seasonal, 1.0, 1.0)]
        # The seasonal naive forecast.
        rows.append((0.0, 0.0, 1.0, 0.0, 1.0))
    return np.array(rows)


@dataclass
class Smoothers:
    """Additive exponential smoothing with damped trend and season, K members at once; O(K) a value.

    z_hat = l + phi b + s[t mod m];  l' = l + phi b + a e;  b' = phi b + g e;  s'[t mod m] = s + c e,  e = z - z_hat.

    Args:
        gains: As of `smoothing_grid` (K, 5).
        season: Observations of a period m.
        level, trend: States (K,).
        seasonal: States (K, m).
        clock: Values read so far; says where in the period the next one lies.

    Source: Hyndman et al. 2008, "Forecasting with Exponential Smoothing", innovations state spaces.
    """

    gains: Array
    season: int
    level: Array
    trend: Array
    seasonal: Array
    clock: int = 0

    @classmethod
    def begin(cls, z: Array, season: int, gains: Array) -> Smoothers:
        """States before the first value, from the first two periods; NaN are skipped."""
        head = z[: max(2 * season, 4)]
        level, trend, profile = float(np.nanmean(head)) if np.isfinite(head).any() else 0.0, 0.0, np.zeros(season)
        if season > 1 and len(z) >= 2 * season and np.isfinite(z[: 2 * season]).sum() > season:
            first, second = _mean(z[:season], level), _mean(z[season : 2 * season], level)
            trend = (second - first) / season
            line = first + trend * (np.arange(2 * season) - (season - 1) / 2)
            away = (z[: 2 * season] - line).reshape(2, season)
            counts = np.isfinite(away).sum(0)
            profile = np.nansum(away, 0) / np.maximum(counts, 1)
            level = first - trend * (season - 1) / 2 - trend
        known = z[np.isfinite(z)]
        flat = float(known[0]) if len(known) else 0.0
        seasonal = gains[:, 4] > 0
        return cls(
            gains,
            season,
            np.where(seasonal, level, flat),
            np.where(gains[:, 3] > 0, trend, 0.0),
            np.where(seasonal[:, None], profile[None], 0.0),
        )

    def expected(self) -> Array:
        """What each member expects next (K,)."""
        return np.asarray(self.level + self.gains[:, 3] * self.trend + self.seasonal[:, self.clock % self.season])

    def read(self, value: float) -> Array:
        """Takes one value, NaN where it is missing; returns the expectations before it (K,)."""
        before = self.expected()
        error = value - before if np.isfinite(value) else 0.0
        level, trend, seasonal, damping, _ = self.gains.T
        self.level = self.level + damping * self.trend + level * error
        self.trend = damping * self.trend + trend * error
        self.seasonal[:, self.clock % self.season] += seasonal * error
        self.clock += 1
        return before

    def forecast(self, horizon: int) -> Array:
        """The next values as each member sees them (K, H)."""
        steps = np.arange(horizon)
        sums = np.cumsum(self.gains[:, 3:4] ** (steps + 1), 1)
        return np.asarray(
            self.level[:, None] + self.trend[:, None] * sums + self.seasonal[:, (self.clock + steps) % self.season]
        )

    def keep(self, members: Index) -> Smoothers:
        """Some of the members, with their states."""
        return Smoothers(
            self.gains[members],
            self.season,
            self.level[members].copy(),
            self.trend[members].copy(),
            self.seasonal[members].copy(),
            self.clock,
        )


def smooth(z: Array, smoothers: Smoothers, origins: Index, horizon: int) -> tuple[Array, Array, Array]:
    """Reads a series through the members.

    Args:
        z: Values (n,), NaN where missing; `smoothers` is left in the state after the last one.
        origins: Rising positions t; a forecast at t knows z[: t + 1] (T,).
        horizon: H.
    Returns: forecasts (T, K, H), z with what is missing filled by the members' median expectation (n,), and each
        member's mean absolute one-step error (K,).
    Complexity: O(n K + T K H).
    """
    filled = z.copy()
    found = np.empty((len(origins), len(smoothers.gains), horizon))
    errors = np.zeros(len(smoothers.gains))
    at = 0
    for t, value in enumerate(z):
        before = smoothers.read(value)
        if np.isfinite(value):
            errors += np.abs(value - before)
        else:
            filled[t] = np.median(before)
        while at < len(origins) and origins[at] == t:
            found[at] = smoothers.forecast(horizon)
            at += 1
    return found, filled, errors / max(1, int(np.isfinite(z).sum()))


def ar_grid(season: int, length: int) -> list[tuple[tuple[int, int], tuple[int, ...]]]:
    """Differences (plain, seasonal) and lags of the autoregressions that a series of this length is worth."""
    most = max(1, min(12, length // 8))
    grid: list[tuple[tuple[int, int], tuple[int, ...]]] = [
        ((0, 0), (1, 2)),
        ((0, 0), tuple(range(1, most + 1))),
        ((1, 0), (1,)),
        ((1, 0), tuple(range(1, max(1, min(8, most)) + 1))),
    ]
    if season > 1:
        near = (1, 2, 3, season - 1, season, season + 1)
        long = tuple(range(1, season + 2)) if season <= LONGEST_AR else near
        grid += [((0, 0), long), ((0, 1), (1, 2, season)), ((1, 1), (1, 2, season, season + 1)), ((1, 0), near)]
    # A short season makes some of these one and the same lag.
    clean = [(d, tuple(sorted({lag for lag in lags if lag > 0}))) for d, lags in grid]
    return [(d, lags) for d, lags in dict.fromkeys(clean) if max(lags) + d[0] + d[1] * season < length - 2]


def ar_taps(
    z: Array, missing: NDArray[np.bool_], differences: tuple[int, int], lags: Sequence[int], season: int, origins: Index
) -> Array:
    """Recursive least squares of an autoregression on the differenced series, as taps on the series itself.

    Args:
        z: Values (n,), filled where missing.
        missing: Where a value was not observed: nothing is learnt there (n,).
        differences, lags: (1 - B)^d (1 - B^m)^D and the lags of the regression on the result.
        season: m.
        origins: Positions whose coefficients are returned (T,).
    Returns: taps and a constant (T, P + 1): z[t + 1] is forecast as sum_p taps[p] z[t - p] + taps[P].
    Complexity: O(n p^2) for p lags.
    Source: Ljung & Soderstrom 1983, recursive least squares with forgetting.
    """
    operator = difference_operator(differences, season)
    start = len(operator) - 1
    d = np.convolve(z, operator)[start : len(z)]
    away = np.asarray(lags)
    longest, size = int(away.max()), len(lags) + 1
    # Of what came before the first origin: a forecast there knows no more.
    spread = float(np.std(d[: max(int(origins[0]) + 1 - start, 2)])) or 1.0
    covariance = np.eye(size) / spread**2
    weights = np.zeros(size)
    rows = np.zeros((len(origins), size))
    at = int(np.searchsorted(origins, start))
    for t in range(len(d)):
        if t >= longest and not missing[t + start]:
            x = np.append(d[t - away], spread)
            gained = covariance @ x
            gain = gained / (FORGETTING + x @ gained)
            weights = weights + gain * (d[t] - x @ weights)
            covariance = (covariance - np.outer(gain, gained)) / FORGETTING
        while at < len(origins) and origins[at] == t + start:
            rows[at] = weights
            at += 1
    # A(B) D(B) z = c, written for the newest value.
    regression = np.zeros((len(origins), longest + 1))
    regression[:, 0] = 1.0
    regression[:, away] = -rows[:, :-1]
    full = np.zeros((len(origins), longest + 1 + start))
    for shift, factor in enumerate(operator):
        full[:, shift : shift + longest + 1] += factor * regression
    return np.concatenate([-full[:, 1:], rows[:, -1:] * spread], 1)


def difference_operator(differences: tuple[int, int], season: int) -> Array:
    """Coefficients of (1 - B)^d (1 - B^m)^D, lag 0 first."""
    operator = np.ones(1)
    for count, lag in zip(differences, (1, season), strict=True):
        for _ in range(count):
            factor = np.zeros(lag + 1)
            factor[0], factor[-1] = 1.0, -1.0
            operator = np.convolve(operator, factor)
    return operator


def roll_out(taps: Array, windows: Array, horizon: int, limit: float | Array) -> Array:
    """Iterates autoregressions, each from its own window.

    Args:
        taps: As of `ar_taps` (T, P + 1).
        windows: The last P values before each forecast, oldest first (T, P).
        horizon: H.
        limit: No forecast leaves [-limit, limit]; one number, or (T,).
    Returns: (T, H).
    Complexity: O(T H P).
    """
    size = taps.shape[1] - 1
    # Oldest first, as the windows are.
    reverse = taps[:, size - 1 :: -1] if size else taps[:, :0]
    buffer = np.concatenate([windows, np.zeros((len(taps), horizon))], 1)
    for h in range(horizon):
        new = np.einsum("tp,tp->t", buffer[:, h : h + size], reverse) + taps[:, -1]
        buffer[:, size + h] = np.clip(new, -limit, limit)
    return buffer[:, size:]


def windows_at(z: Array, origins: Index, size: int) -> Array:
    """The `size` values up to each origin, oldest first; what lies before the series is its first value (T, size)."""
    at = origins[:, None] + np.arange(1 - size, 1)[None]
    return np.asarray(z[np.maximum(at, 0)])


def _mean(values: Array, otherwise: float) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else otherwise
