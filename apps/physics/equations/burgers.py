"""Viscous Burgers on a periodic line, u_t + u u_x = nu u_xx + F sin(2 pi m x / L): pseudo-spectral, dealiased."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from farfield.apps.physics.case import Case, Field, in_memory
from farfield.apps.physics.equations.settings import Advance, choice, frame_times, grid, number, whole
from farfield.apps.physics.equations.stepping import lawson4
from farfield.apps.physics.mesh import grid_cells
from farfield.apps.training import UserError

Complex = NDArray[np.complex128]
# Share of a cell that the fastest point crosses in a step.
CFL = 0.4
# More than this share of the amplitude in the last tenth of the wavenumbers kept: the shocks are not resolved.
TAIL = 1e-4


def burgers(
    *,
    rng: np.random.Generator,
    advance: Advance,
    length: float,
    cells: int,
    duration: float,
    frames: int,
    viscosity: float,
    initial: str,
    modes: int,
    amplitude: float,
    forcing: float,
    forcing_mode: int,
) -> Case:
    """One run; the settings are those of recipes/physics/equation/burgers.yaml.

    Returns: Field u (m s-1).
    Raises: UserError: a setting is out of its range; the grid does not resolve the shocks.
    Complexity: O(steps N log N).
    """
    side, n = number("length", length, 0, above=True), whole("cells", cells, 8)
    nu = number("viscosity", viscosity, 0, above=True)
    times = frame_times(duration, frames)
    nodes = grid((side,), (n,), periodic=True)
    k = 2 * np.pi * np.arange(n // 2 + 1) / side
    decay = np.asarray(-nu * k**2, dtype=np.float64)
    kept = np.arange(n // 2 + 1) <= (n - 1) // 3
    start = _initial(
        choice("initial", initial, ("random", "sine")), rng, nodes[:, 0] / side, whole("modes", modes, 1, n // 6)
    )
    push = number("forcing", forcing) * np.sin(
        2 * np.pi * whole("forcing_mode", forcing_mode, 1, n // 6) * nodes[:, 0] / side
    )
    source = fft.rfft(push) * kept
    w = fft.rfft(number("amplitude", amplitude) * start) * kept

    def change(w: Complex) -> Complex:
        u = fft.irfft(w, n)
        return np.asarray(source - 0.5j * k * kept * fft.rfft(u**2))

    u = np.empty((len(times), n, 1))
    for i, t in enumerate(times):
        if i:
            interval = float(t - times[i - 1])
            fastest = np.abs(u[i - 1]).max() + np.abs(push).max() * interval
            steps = max(1, int(np.ceil(interval * fastest / (CFL * side / n))))
            w = lawson4(w, decay, change, interval / steps, steps)
        u[i, :, 0] = fft.irfft(w, n)
        _resolved(w, kept, n, float(t))
        advance((i + 1) / len(times))
    fields = {"u": Field("u", "m s-1", 1, "velocity")}
    values = {"u": u}
    if push.any():
        fields["forcing"] = Field("forcing", "m s-2", 1, "forcing")
        values["forcing"] = np.broadcast_to(push[None, :, None], u.shape)
    return Case(
        name="burgers",
        nodes=nodes,
        cells=grid_cells((n,)),
        times=times,
        fields=fields,
        reader=in_memory(values),
        units={"x": "m", "t": "s"},
        period=(side,),
    )


def _initial(kind: str, rng: np.random.Generator, x: Any, modes: int) -> Any:
    if kind == "sine":
        return np.sin(2 * np.pi * modes * x)
    k = np.arange(1, modes + 1)
    phase = rng.uniform(0, 2 * np.pi, modes)
    found = (rng.standard_normal(modes) / k * np.sin(2 * np.pi * k * x[:, None] + phase)).sum(axis=1)
    return found / np.abs(found).max()


def _resolved(w: Complex, kept: NDArray[np.bool_], n: int, t: float) -> None:
    size = np.abs(w[kept])
    tail = size[int(0.9 * len(size)) :].max(initial=0)
    if not np.isfinite(size).all() or tail > TAIL * size.max(initial=0) > 0:
        raise UserError(
            f"equation.cells={n}: the shocks at t = {t:g} s are thinner than the grid resolves (the last wavenumbers"
            f" hold {tail / size.max():.1g} of the first); take more cells, or more viscosity"
        )
