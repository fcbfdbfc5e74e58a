"""Fourth-order steps for w' = rate w + change(w), the stiff linear part exact (Lawson 1967, integrating factors)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Complex = NDArray[np.complex128]
Array = NDArray[np.float64]


def lawson4(w: Complex, rate: Array, change: Callable[[Complex], Complex], dt: float, steps: int) -> Complex:
    """Takes so many steps of dt; the classical Runge-Kutta scheme on exp(-rate t) w.

    Args:
        w: Fourier weights. rate: Of each, 1/s, not positive. change: The rest of w'.
    """
    half = np.exp(rate * dt / 2)
    full = half**2
    for _ in range(steps):
        a = change(w)
        b = change(half * (w + dt / 2 * a))
        c = change(half * w + dt / 2 * b)
        d = change(full * w + dt * half * c)
        w = full * w + dt / 6 * (full * a + 2 * half * (b + c) + d)
    return w
