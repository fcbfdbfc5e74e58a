"""The units in which a series is modelled: centred, spread 1, perhaps its logarithm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from farfield.apps.forecasting.bank import Array
from farfield.apps.training.errors import UserError

# Beyond this many spreads from the centre, exp of a forecast says nothing any more.
FARTHEST = 50.0


@dataclass(frozen=True)
class Scale:
    """z = (g(y) - centre) / spread, g the logarithm or nothing.

    Args:
        logarithm: g is the logarithm.
        centre, spread: Mean and standard deviation of g(y); a constant series has spread 1.
    """

    logarithm: bool
    centre: float
    spread: float

    @classmethod
    def of(cls, y: Array, logarithm: bool) -> Scale:
        """From the known values of a series (n,)."""
        known = y[np.isfinite(y)]
        g = np.log(known) if logarithm else known
        spread = float(np.std(g))
        constant = spread <= 1e-12 * max(1.0, float(np.max(np.abs(g))))
        return cls(logarithm, float(np.mean(g)), 1.0 if constant else spread)

    @classmethod
    def candidates(cls, y: Array, logarithm: bool | str) -> list[Scale]:
        """Those to try: "auto" tries the logarithm too where every known value is above 0.

        Raises: UserError: the logarithm of a value <= 0 is asked for.
        """
        positive = bool(np.nanmin(y) > 0)
        if logarithm == "auto":
            return [cls.of(y, False)] + ([cls.of(y, True)] if positive else [])
        if logarithm and not positive:
            raise UserError(
                f"logarithm=True: the series has a value of {np.nanmin(y):g}, only those above 0 have one; take auto or"
                " False"
            )
        return [cls.of(y, bool(logarithm))]

    def forward(self, y: Array) -> Array:
        """Values to standardised ones; NaN stays, and is what a value <= 0 becomes under a logarithm."""
        if not self.logarithm:
            return np.asarray((y - self.centre) / self.spread)
        g = np.log(np.where(y > 0, y, np.nan))
        return np.asarray((g - self.centre) / self.spread)

    def backward(self, z: Array) -> Array:
        """Standardised values back."""
        if not self.logarithm:
            return np.asarray(z * self.spread + self.centre)
        return np.asarray(np.exp(np.clip(z, -FARTHEST, FARTHEST) * self.spread + self.centre))
