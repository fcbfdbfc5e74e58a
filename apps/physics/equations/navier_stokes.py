"""Incompressible Navier-Stokes on a periodic square: vorticity, pseudo-spectral, dealiased by the two-thirds rule.

    w_t + (U + u) . grad w = nu lap w - a w + curl f,    f = (F sin(2 pi m y / L), 0)

u follows from w through the stream function; U is the mean flow, which the vorticity does not know.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from farfield.apps.physics.case import Case, Field, Quantity, in_memory
from farfield.apps.physics.equations.settings import Advance, choice, frame_times, grid, number, numbers, whole
from farfield.apps.physics.equations.stepping import lawson4
from farfield.apps.physics.mesh import grid_cells
from farfield.apps.training import UserError

Complex = NDArray[np.complex128]
Array = NDArray[np.float64]
CFL = 0.5
# More than this share of the enstrophy in the last tenth of the wavenumbers kept: the eddies are not resolved. Shares
# of 0.001 and 0.005 went with velocities 0.3 % and 3 % off those of twice as many cells (decaying eddies, 64 cells).
TAIL = 2e-3


class Square:
    """Fourier modes of a periodic square with n x n cells and side `length` (m)."""

    def __init__(self, length: float, n: int) -> None:
        self.length, self.n = length, n
        number_ = np.fft.fftfreq(n, 1 / n)
        half = np.arange(n // 2 + 1)
        self.kx, self.ky = 2 * np.pi * number_[:, None] / length, 2 * np.pi * half[None] / length
        self.square = self.kx**2 + self.ky**2
        self.inverse = np.where(self.square == 0, 0, 1 / np.where(self.square == 0, 1, self.square))
        most = (n - 1) // 3
        self.kept = (np.abs(number_[:, None]) <= most) & (half[None] <= most)
        self.shell = np.hypot(number_[:, None], half[None]) / most
        # rfft stores half of the modes: the others count double in sums.
        self.twice = np.where((half == 0) | (2 * half == n), 1, 2)[None]

    def forward(self, values: Array) -> Complex:
        """Weights of the kept modes."""
        return np.asarray(fft.rfft2(values) * self.kept)

    def backward(self, weights: Complex) -> Array:
        """Values on the grid (n, n)."""
        return np.asarray(fft.irfft2(weights, (self.n, self.n)))

    def velocity(self, w: Complex, mean: tuple[float, float]) -> tuple[Array, Array]:
        """Both components of the velocity from the vorticity."""
        u = self.backward(1j * self.ky * self.inverse * w) + mean[0]
        v = self.backward(-1j * self.kx * self.inverse * w) + mean[1]
        return u, v

    def pressure(self, u: Array, v: Array) -> Array:
        """Pressure over density, of mean zero: lap p = -div (u . grad u)."""
        uu, uv, vv = self.forward(u * u), self.forward(u * v), self.forward(v * v)
        return self.backward(-self.inverse * (self.kx**2 * uu + 2 * self.kx * self.ky * uv + self.ky**2 * vv))


def navier_stokes(
    *,
    rng: np.random.Generator,
    advance: Advance,
    length: float,
    cells: int,
    duration: float,
    frames: int,
    viscosity: float,
    density: float,
    initial: str,
    modes: int,
    speed: float,
    mean_flow: list[float],
    forcing: float,
    forcing_mode: int,
    drag: float,
) -> Case:
    """One run; the settings are those of recipes/physics/equation/navier-stokes.yaml.

    Returns: Fields u (m s-1, two components), p (Pa) and vorticity (s-1).
    Raises: UserError: a setting is out of its range; the grid does not resolve the eddies.
    Complexity: O(steps N log N).
    """
    space = Square(number("length", length, 0, above=True), whole("cells", cells, 8, 4096))
    nu, rho = number("viscosity", viscosity, 0, above=True), number("density", density, 0, above=True)
    mean = numbers("mean_flow", mean_flow, 2)
    times = frame_times(duration, frames)
    nodes = grid((space.length,) * 2, (space.n,) * 2, periodic=True)
    y = nodes[:, 1].reshape(space.n, space.n)
    wave = 2 * np.pi * whole("forcing_mode", forcing_mode, 1, space.n // 6) / space.length
    push = number("forcing", forcing)
    source = space.forward(-push * wave * np.cos(wave * y))
    kind = choice("initial", initial, ("random", "taylor-green", "shear"))
    w = space.forward(_initial(kind, rng, space, nodes, whole("modes", modes, 1, space.n // 6)))
    rms = np.sqrt(np.mean(np.square(space.velocity(w, (0.0, 0.0)))) * 2)
    w *= number("speed", speed, 0) / rms
    rate = np.where(space.kept, -nu * space.square - number("drag", drag, 0), 0.0)

    def change(w: Complex) -> Complex:
        u, v = space.velocity(w, (mean[0], mean[1]))
        value = space.backward(w)
        flux = 1j * space.kx * fft.rfft2(u * value) + 1j * space.ky * fft.rfft2(v * value)
        return np.asarray(source - flux * space.kept)

    values = {name: np.empty((len(times), len(nodes), c)) for name, c in (("u", 2), ("p", 1), ("vorticity", 1))}
    fastest = 0.0
    for i, t in enumerate(times):
        if i:
            interval = t - times[i - 1]
            limit = CFL * space.length / space.n / max(fastest + abs(push) * interval, 1e-300)
            steps = max(1, int(np.ceil(interval / limit)))
            w = lawson4(w, rate, change, interval / steps, steps)
            _resolved(w, space, float(t))
        u, v = space.velocity(w, (mean[0], mean[1]))
        fastest = float(np.hypot(u, v).max())
        values["u"][i] = np.stack([u.ravel(), v.ravel()], axis=1)
        values["p"][i, :, 0] = rho * space.pressure(u, v).ravel()
        values["vorticity"][i, :, 0] = space.backward(w).ravel()
        advance((i + 1) / len(times))
    fields = {
        "u": Field("u", "m s-1", 2, "velocity"),
        "p": Field("p", "Pa", 1, "pressure"),
        "vorticity": Field("vorticity", "s-1", 1, "vorticity"),
    }
    if push:
        fields["forcing"] = Field("forcing", "m s-2", 2, "force per mass")
        force = np.stack([push * np.sin(wave * nodes[:, 1]), np.zeros(len(nodes))], axis=1)
        values["forcing"] = np.broadcast_to(force[None], (len(times), *force.shape))
    reynolds = float(speed) * space.length / nu
    return Case(
        name="navier-stokes",
        nodes=nodes,
        cells=grid_cells((space.n, space.n)),
        times=times,
        fields=fields,
        reader=in_memory(values),
        units={"x": "m", "t": "s"},
        period=(space.length, space.length),
        results={"reynolds": Quantity(reynolds, "1")},
    )


def _initial(kind: str, rng: np.random.Generator, space: Square, nodes: Array, modes: int) -> Array:
    """Vorticity (n, n) of any size."""
    phase = 2 * np.pi * nodes.reshape(space.n, space.n, 2) / space.length
    x, y = phase[..., 0], phase[..., 1]
    if kind == "taylor-green":
        return np.asarray(np.sin(modes * x) * np.sin(modes * y))
    if kind == "shear":
        # Two layers that roll up; a random phase of the ripple makes runs differ.
        shift = rng.uniform(0, 2 * np.pi)
        width = 30 / (2 * np.pi)
        layers = 1 / np.cosh(width * (y - np.pi / 2)) ** 2 - 1 / np.cosh(width * (y - 3 * np.pi / 2)) ** 2
        return np.asarray(width * layers + 0.05 * np.cos(modes * x + shift))
    # Wavenumbers around `modes`, energy falling off on both sides; drawn up to three times that whatever the grid, so
    # that a finer one starts from the same flow.
    most = 3 * modes
    drawn = rng.standard_normal((2 * most + 1, most + 1, 2)) @ np.array([1, 1j])
    weights = np.zeros(space.square.shape, dtype=np.complex128)
    reach = min(most, space.n // 3)
    rows = np.arange(-reach, reach + 1)
    weights[rows, : reach + 1] = drawn[rows + most, : reach + 1]
    wave = np.sqrt(space.square) * space.length / (2 * np.pi)
    return space.backward(weights * space.n**2 * space.kept * wave**2 * np.exp(-((wave / modes) ** 2)))


def _resolved(w: Complex, space: Square, t: float) -> None:
    enstrophy = np.abs(w) ** 2 * space.twice
    total = enstrophy.sum()
    tail = enstrophy[(space.shell > 0.9) & space.kept].sum()
    if not np.isfinite(total) or tail > TAIL * total > 0:
        raise UserError(
            f"equation.cells={space.n}: the eddies at t = {t:g} s are smaller than the grid resolves (the last"
            f" wavenumbers hold {tail / total:.1g} of the enstrophy); take more cells, more viscosity or less speed"
        )
