"""Heat and damped waves on a rectangle, exactly in time: every sine (or cosine) mode has a closed form.

    heat   u_t = D lap u + F s(x) cos(2 pi f t)
    wave   u_tt + g u_t = c^2 lap u + F s(x) cos(2 pi f t)

The initial state is interpolated by its modes on the grid; from there no error is made but rounding, at any time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from farfield.apps.physics.case import Case, Field, Quantity, in_memory
from farfield.apps.physics.equations.settings import (
    Advance,
    choice,
    frame_times,
    grid,
    initial_shape,
    number,
    numbers,
    whole,
)
from farfield.apps.physics.mesh import grid_cells
from farfield.apps.training import UserError

Array = NDArray[np.float64]
INITIAL = ("random", "bump", "mode")


class Modes:
    """Product modes of a rectangle, as values on its grid and back.

    Args:
        length: Sides (m).
        cells: Cells of the grid along each.
        boundary: fixed (sines, zero at the ends) or insulated (cosines, no flux through the ends).
    """

    def __init__(self, length: tuple[float, float], cells: tuple[int, int], boundary: str) -> None:
        self.length, self.cells, self.fixed = length, cells, boundary == "fixed"
        first = 1 if self.fixed else 0
        k = [np.pi * np.arange(first, n + 1 - first) / side for side, n in zip(length, cells, strict=True)]
        # Square of the wavenumber (1/m^2) of each mode.
        self.square = k[0][:, None] ** 2 + k[1][None] ** 2

    def forward(self, values: Array) -> Array:
        """Weights of the modes from values (..., N)."""
        square = values.reshape(*values.shape[:-1], self.cells[0] + 1, self.cells[1] + 1)
        if self.fixed:
            return np.asarray(fft.dstn(square[..., 1:-1, 1:-1], type=1, axes=(-2, -1), norm="forward"))
        return np.asarray(fft.dctn(square, type=1, axes=(-2, -1), norm="forward"))

    def backward(self, weights: Array) -> Array:
        """Values (..., N) from weights of the modes."""
        if self.fixed:
            inner = fft.idstn(weights, type=1, axes=(-2, -1), norm="forward")
            square = np.zeros((*weights.shape[:-2], self.cells[0] + 1, self.cells[1] + 1))
            square[..., 1:-1, 1:-1] = inner
        else:
            square = fft.idctn(weights, type=1, axes=(-2, -1), norm="forward")
        return np.asarray(square.reshape(*weights.shape[:-2], -1))


def heat_weights(start: Array, push: Array, rate: Array, frequency: float, t: float) -> Array:
    """c' = -rate c + push cos(2 pi f t), solved: weights at time t."""
    decay = np.exp(-rate * t)
    if frequency == 0:
        # (1 - exp(-rate t)) / rate without loss for slow modes, t for one that does not decay.
        slow = np.where(rate == 0, t, -np.expm1(-rate * t) / np.where(rate == 0, 1, rate))
        return start * decay + push * slow
    turn = 2j * np.pi * frequency
    return np.asarray(start * decay + push * ((np.exp(turn * t) - decay) / (rate + turn)).real)


def wave_weights(
    start: Array, speed: Array, push: Array, square: Array, damping: float, frequency: float, t: float
) -> tuple[Array, Array]:
    """c'' + g c' = -square c + push cos(2 pi f t), solved: weights and their rates of change at time t.

    Raises: UserError: an undamped mode is pushed at its own frequency and grows without bound.
    """
    turn = 2j * np.pi * frequency
    stiffness = square + turn**2 + damping * turn
    pushed = push != 0
    if (np.abs(stiffness)[pushed] < 1e-6 * square[pushed]).any():
        raise UserError(
            f"equation.forcing_frequency={frequency}: an undamped mode has that frequency and would grow without bound;"
            " take another one, or damping"
        )
    response = np.where(pushed, push, 0) / np.where(pushed, stiffness, 1)
    held = response * np.exp(turn * t)
    free, moving = start - response.real, speed - (turn * response).real
    root = np.sqrt(damping**2 / 4 - square + 0j)
    fast, slow = np.exp((root - damping / 2) * t), np.exp((-root - damping / 2) * t)
    small = np.abs(root * t) < 1e-4
    # sinh(root t) / root, by its series where the two exponentials nearly cancel.
    ratio = np.where(
        small,
        np.exp(-damping * t / 2) * t * (1 + (root * t) ** 2 / 6),
        (fast - slow) / (2 * np.where(small, 1, root)),
    ).real
    even = ((fast + slow) / 2).real + damping / 2 * ratio
    u = free * even + moving * ratio + held.real
    v = -square * free * ratio + moving * (even - damping * ratio) + (turn * held).real
    return u, v


def wave_energy(modes: Modes, u: Array, v: Array, speed: float) -> Array:
    """Half the integral of v^2 + c^2 |grad u|^2 (m^4 s^-2) for displacements and velocities (..., N)."""
    area = np.prod(modes.length)
    kinetic = (modes.forward(v) ** 2).sum(axis=(-2, -1))
    elastic = (modes.square * modes.forward(u) ** 2).sum(axis=(-2, -1))
    # With this normalisation a sine mode of weight w has the values 4 w sin sin, of mean square 4 w^2.
    return np.asarray(area / 2 * 4 * (kinetic + speed**2 * elastic))


def heat(
    *,
    rng: np.random.Generator,
    advance: Advance,
    length: list[float],
    cells: list[int],
    duration: float,
    frames: int,
    diffusivity: float,
    boundary: str,
    boundary_value: float,
    initial: str,
    modes: int,
    amplitude: float,
    forcing: float,
    forcing_mode: int,
    forcing_frequency: float,
) -> Case:
    """One run of the heat equation; the settings are those of recipes/physics/equation/heat.yaml.

    Returns: Field u (K), and `forcing` (K s-1) where there is one.
    Raises: UserError: a setting is out of its range.
    Complexity: O(frames N log N).
    """
    space, nodes, times = _space(length, cells, boundary, duration, frames)
    rate = number("diffusivity", diffusivity, 0) * space.square
    shape = _initial(initial, rng, nodes, space, modes)
    # Held at one value, the boundary is a shift of the whole field; insulated, it has no value.
    shift = number("boundary_value", boundary_value) if space.fixed else 0.0
    start = space.forward(number("amplitude", amplitude) * shape)
    source, frequency = _source(nodes, space, forcing, forcing_mode, forcing_frequency)
    push = space.forward(source)
    u = np.empty((len(times), len(nodes), 1))
    for i, t in enumerate(times):
        u[i, :, 0] = shift + space.backward(heat_weights(start, push, rate, frequency, t))
        advance((i + 1) / len(times))
    fields = {"u": Field("u", "K", 1, "temperature")}
    return _case("heat", space, nodes, times, fields, {"u": u}, source, frequency, "K s-1")


def wave(
    *,
    rng: np.random.Generator,
    advance: Advance,
    length: list[float],
    cells: list[int],
    duration: float,
    frames: int,
    speed: float,
    damping: float,
    boundary: str,
    initial: str,
    modes: int,
    amplitude: float,
    forcing: float,
    forcing_mode: int,
    forcing_frequency: float,
) -> Case:
    """One run of the damped wave equation, released at rest; the settings are those of equation/wave.yaml.

    Returns: Fields u (m) and v = u_t (m s-1), `forcing` (m s-2) where there is one; energy_drift among the results: the
        greatest relative change of the energy, which is rounding alone without damping and forcing.
    Raises: UserError: a setting is out of its range; an undamped mode is pushed at its own frequency.
    Complexity: O(frames N log N).
    """
    space, nodes, times = _space(length, cells, boundary, duration, frames)
    c, g = number("speed", speed, 0, above=True), number("damping", damping, 0)
    start = space.forward(number("amplitude", amplitude) * _initial(initial, rng, nodes, space, modes))
    source, frequency = _source(nodes, space, forcing, forcing_mode, forcing_frequency)
    push = space.forward(source)
    values = {name: np.empty((len(times), len(nodes), 1)) for name in "uv"}
    for i, t in enumerate(times):
        weights = wave_weights(start, np.zeros_like(start), push, c**2 * space.square, g, frequency, t)
        for name, w in zip("uv", weights, strict=True):
            values[name][i, :, 0] = space.backward(w)
        advance((i + 1) / len(times))
    fields = {"u": Field("u", "m", 1, "displacement"), "v": Field("v", "m s-1", 1, "velocity")}
    results = {}
    if space.fixed:
        energy = wave_energy(space, values["u"][..., 0], values["v"][..., 0], c)
        if energy[0] > 0:
            results["energy_drift"] = Quantity(float(np.abs(energy / energy[0] - 1).max()), "1")
    return _case("wave", space, nodes, times, fields, values, source, frequency, "m s-2", results)


def _space(
    length: list[float], cells: list[int], boundary: str, duration: float, frames: int
) -> tuple[Modes, Array, Array]:
    sides = numbers("length", length, 2, 0, above=True)
    counts = tuple(whole("cells", int(n) if n == int(n) else n, 2, 8192) for n in numbers("cells", cells, 2))
    space = Modes((sides[0], sides[1]), (counts[0], counts[1]), choice("boundary", boundary, ("fixed", "insulated")))
    return space, grid(space.length, space.cells), frame_times(duration, frames)


def _initial(kind: str, rng: np.random.Generator, nodes: Array, space: Modes, modes: Any) -> Array:
    count = whole("modes", modes, 1, min(space.cells) - 1)
    wave = "sin" if space.fixed else "cos"
    return initial_shape(choice("initial", kind, INITIAL), rng, nodes, space.length, count, wave)


def _source(nodes: Array, space: Modes, forcing: Any, mode: Any, frequency: Any) -> tuple[Array, float]:
    """F s(x) on the nodes and f."""
    function = np.sin if space.fixed else np.cos
    phase = whole("forcing_mode", mode, 1, min(space.cells) - 1) * np.pi * nodes / np.array(space.length)
    source = number("forcing", forcing) * np.prod(function(phase), axis=1)
    return source, number("forcing_frequency", frequency, 0)


def _case(
    name: str,
    space: Modes,
    nodes: Array,
    times: Array,
    fields: dict[str, Field],
    values: dict[str, Array],
    source: Array,
    frequency: float,
    units: str,
    results: dict[str, Quantity] | None = None,
) -> Case:
    if source.any():
        fields["forcing"] = Field("forcing", units, 1, "forcing")
        values["forcing"] = (np.cos(2 * np.pi * frequency * times)[:, None] * source)[..., None]
    last = np.array(space.length)
    sides = {"left": nodes[:, 0] == 0, "right": nodes[:, 0] == last[0], "bottom": nodes[:, 1] == 0}
    sides["top"] = nodes[:, 1] == last[1]
    return Case(
        name=name,
        nodes=nodes,
        cells=grid_cells((space.cells[0] + 1, space.cells[1] + 1)),
        times=times,
        fields=fields,
        reader=in_memory(values),
        units={"x": "m", "t": "s"},
        boundary={side: np.flatnonzero(on) for side, on in sides.items()},
        results=results or {},
    )
