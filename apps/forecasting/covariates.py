"""The linear effect of covariates that are known ahead: a regression of innovations on innovations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from farfield.apps.forecasting.bank import Array, Smoothers, smooth, smoothing_grid

# A covariate stays when its squared t value is above this and above the logarithm of the number of values (BIC).
LEAST_T2 = 4.0
ROUNDS = 2


@dataclass(frozen=True)
class Effect:
    """beta . (x - centre) / spread.

    Args:
        beta: 0 for a covariate that the series does not answer to (K,).
        centre, spread: Of each covariate; spread 1 for a constant one (K,).
    """

    beta: Array
    centre: Array
    spread: Array

    @property
    def inputs(self) -> int:
        """K."""
        return len(self.beta)

    def standardise(self, x: Array) -> Array:
        """(n, K) -> (n, K)."""
        return np.asarray((x - self.centre) / self.spread)

    def of(self, x: Array) -> Array:
        """(n, K) -> (n,)."""
        return np.asarray(self.standardise(x) @ self.beta)


def fit_effect(z: Array, x: Array, season: int) -> Effect:
    """Effects by generalised least squares: one exponential smoother, the best for z, whitens z and every covariate.

    Smoothing is linear: the one-step errors of z - x beta are those of z minus beta times those of x. Columns that do
    not pay for themselves (BIC) are dropped one after the other.

    Args:
        z: Standardised series, NaN where missing (n,).
        x: Covariates without NaN (n, K).
        season: Observations of a period.
    Complexity: O(n K) a round.
    """
    n, inputs = x.shape
    centre, spread = x.mean(0) if n else np.zeros(inputs), x.std(0) if n else np.ones(inputs)
    spread = np.where(spread > 1e-12 * np.maximum(1.0, np.abs(centre)), spread, 1.0)
    beta = np.zeros(inputs)
    if not inputs or np.isfinite(z).sum() < 10 + 2 * inputs:
        return Effect(beta, centre, spread)
    u = (x - centre) / spread
    gains = smoothing_grid(season)
    none = np.array([], dtype=np.int64)
    for _ in range(ROUNDS):
        _, _, errors = smooth(z - u @ beta, Smoothers.begin(z, season, gains), none, 1)
        best = gains[[int(np.argmin(errors))]]
        start = 2 * season + 2
        left = _innovations(z, season, best)[start:]
        along = np.stack([_innovations(column, season, best)[start:] for column in u.T], 1)
        known = np.isfinite(left)
        beta = _selected(along[known], left[known])
    return Effect(beta, centre, spread)


def _innovations(z: Array, season: int, gains: Array) -> Array:
    """One-step errors of one smoother (n,), NaN where the value is missing."""
    smoother = Smoothers.begin(z, season, gains)
    return np.array([value - smoother.read(value)[0] for value in z])


def _selected(u: Array, e: Array) -> Array:
    """Least squares with backward elimination; a column without spread has no effect."""
    kept = [j for j in range(u.shape[1]) if np.std(u[:, j]) > 1e-9]
    beta = np.zeros(u.shape[1])
    limit = max(LEAST_T2, float(np.log(max(len(e), 2))))
    while kept and len(e) > len(kept) + 2:
        columns = u[:, kept]
        inverse = np.linalg.pinv(columns.T @ columns)
        found = inverse @ (columns.T @ e)
        left = e - columns @ found
        variance = max(float(left @ left) / (len(e) - len(kept)), 1e-300)
        t2 = found**2 / np.maximum(np.diag(inverse) * variance, 1e-300)
        if t2.min() > limit:
            beta[kept] = found
            return beta
        kept.pop(int(np.argmin(t2)))
    return beta
