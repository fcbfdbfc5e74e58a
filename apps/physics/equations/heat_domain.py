"""Heat on a rectangle with a round hole and a thin wall: quadratic finite elements, fifth order in time.

    u_t = D lap u + F s(x) cos(2 pi f t),    each part of the boundary insulated, or held at T + S cos(2 pi g t)

What the boundary and the forcing hold up (constant, or swinging with f or g) is solved for directly; what remains
decays, and is advanced by the subdiagonal Pade approximation (2, 3) of the exponential, which damps every fast mode.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import splu

from farfield.apps.physics.case import Case, Field, in_memory
from farfield.apps.physics.equations.domain import Bar, Disk, Domain, triangulate
from farfield.apps.physics.equations.fem_space import Quadratic
from farfield.apps.physics.equations.settings import (
    Advance,
    choice,
    frame_times,
    initial_shape,
    number,
    numbers,
    whole,
)
from farfield.apps.training import UserError

Array = NDArray[np.float64]
# exp(z) = (1 + 2z/5 + z^2/20) / (1 - 3z/5 + 3z^2/20 - z^3/60) + O(z^6)
ABOVE, BELOW = (1 / 20, 2 / 5, 1), (-1 / 60, 3 / 20, -3 / 5, 1)


class Decay:
    """u' = -M^-1 K u on the free unknowns, in steps of dt; one real and one complex factorisation.

    Args:
        mass, stiffness: M and K. dt: Step (s).
    """

    def __init__(self, mass: Any, stiffness: Any, dt: float) -> None:
        poles = np.roots(BELOW)
        rest = np.polyval(ABOVE, poles) / np.polyval(np.polyder(BELOW), poles)
        self.mass = mass
        self.parts = []
        for pole, residue in zip(poles, rest, strict=True):
            # The pole below the axis is the other one's mirror image: twice the real part stands for both.
            if pole.imag > -1e-9:
                pole, weight = (pole.real, residue.real) if abs(pole.imag) < 1e-9 else (pole, 2 * residue)
                self.parts.append((weight, splu((-dt * stiffness - pole * mass).tocsc())))

    def step(self, u: Array) -> Array:
        """The unknowns one dt later."""
        load = self.mass @ u
        return np.asarray(sum((w * lu.solve(load.astype(np.asarray(w).dtype))).real for w, lu in self.parts))


@lru_cache(maxsize=4)
def _space(domain: Domain, size: float, fine: float) -> tuple[Quadratic, Any]:
    nodes, triangles = triangulate(domain, size, fine)
    return Quadratic(domain, nodes, triangles), triangles


def heat_domain(
    *,
    rng: np.random.Generator,
    advance: Advance,
    length: list[float],
    hole_center: list[float],
    hole_radius: float,
    wall_low: list[float] | None,
    wall_high: list[float] | None,
    triangle: float,
    triangle_at_obstacles: float,
    duration: float,
    frames: int,
    steps_per_frame: int,
    diffusivity: float,
    outer: float | str,
    hole: float | str,
    wall: float | str,
    outer_swing: float,
    hole_swing: float,
    wall_swing: float,
    swing_frequency: float,
    initial: str,
    modes: int,
    amplitude: float,
    forcing: float,
    forcing_mode: int,
    forcing_frequency: float,
) -> Case:
    """One run; the settings are those of recipes/physics/equation/heat-domain.yaml.

    Returns: Field u (K) at the vertices, `forcing` (K s-1) where there is one; the signals outer, hole and wall (K) of
        the parts that swing.
    Raises: UserError: a setting is out of its range; a steady source with nothing held at a temperature.
    Complexity: O(N^1.5) to factorise, O(N log N) a step.
    """
    domain = _domain(length, hole_center, hole_radius, wall_low, wall_high)
    space, triangles = _space(
        domain,
        number("triangle", triangle, 0, above=True),
        number("triangle_at_obstacles", triangle_at_obstacles, 0, above=True),
    )
    times = frame_times(duration, frames)
    held = _held(space, {"outer": outer, "hole": hole, "wall": wall})
    swings = {"outer": outer_swing, "hole": hole_swing, "wall": wall_swing}
    swings = {name: s for name, value in swings.items() if (s := number(f"{name}_swing", value)) != 0}
    for name in swings:
        if not set(dofs := _dofs(space, name)) <= set(held) or not dofs:
            raise UserError(
                f"equation.{name}_swing={swings[name]}: the {name} has to be there and held at a temperature"
            )
    turn = number("swing_frequency", swing_frequency, 0, above=bool(swings))
    push = number("forcing", forcing)
    phase = whole("forcing_mode", forcing_mode, 1) * np.pi / np.array(domain.length)

    def source(x: Array) -> Array:
        return np.asarray(push * np.prod(np.sin(phase * x), axis=-1))

    at = np.asarray(space.basis.global_coordinates()).reshape(2, -1).T
    frequency = number("forcing_frequency", forcing_frequency, 0)
    stiffness = number("diffusivity", diffusivity, 0, above=True) * space.stiffness
    level, swing = _held_up(space, stiffness, held, space.integrals(source(at)), frequency)
    sway = _swayed(space, stiffness, held, {k: s for n, s in swings.items() for k in _dofs(space, n)}, turn)
    shape = initial_shape(
        choice("initial", initial, ("random", "bump", "mode")),
        rng,
        space.points,
        domain.length,
        whole("modes", modes, 1, 64),
        "cos",
    )
    free = np.setdiff1d(np.arange(space.size), np.fromiter(held, dtype=np.int64))
    substeps = whole("steps_per_frame", steps_per_frame, 1)
    decay = Decay(space.mass[free][:, free], stiffness[free][:, free], (times[1] - times[0]) / substeps)
    rest = (number("amplitude", amplitude) * shape - level - swing.real - sway.real)[free]
    u = np.empty((len(times), space.vertices, 1))
    for i, t in enumerate(times):
        for _ in range(substeps if i else 0):
            rest = decay.step(rest)
        whole_field = level + (swing * np.exp(2j * np.pi * frequency * t) + sway * np.exp(2j * np.pi * turn * t)).real
        whole_field[free] += rest
        u[i, :, 0] = whole_field[: space.vertices]
        advance((i + 1) / len(times))
    nodes = space.points[: space.vertices]
    fields, values = {"u": Field("u", "K", 1, "temperature")}, {"u": u}
    if push:
        fields["forcing"] = Field("forcing", "K s-1", 1, "forcing")
        values["forcing"] = (np.cos(2 * np.pi * frequency * times)[:, None] * source(nodes))[..., None]
    return Case(
        name="heat-domain",
        nodes=nodes,
        cells={"triangle": triangles},
        times=times,
        fields=fields,
        reader=in_memory(values),
        units={"x": "m", "t": "s"},
        signals={n: (held[_dofs(space, n)[0]] + s * np.cos(2 * np.pi * turn * times), "K") for n, s in swings.items()},
        boundary=domain.boundary(nodes),
    )


def _domain(length: Any, center: Any, radius: Any, low: Any, high: Any) -> Domain:
    sides, middle = numbers("length", length, 2, 0, above=True), numbers("hole_center", center, 2)
    size = number("hole_radius", radius, 0)
    obstacles: list[Disk | Bar] = [Disk("hole", (middle[0], middle[1]), size)] if size else []
    if (low is None) != (high is None):
        raise UserError(f"equation.wall_low={low} wall_high={high}: give both corners of the wall, or null for both")
    if low is not None:
        a, b = numbers("wall_low", low, 2), numbers("wall_high", high, 2)
        if min(b[0] - a[0], b[1] - a[1]) <= 0:
            raise UserError(
                f"equation.wall_low={low} wall_high={high}: the second corner has to lie right of and above the first"
            )
        obstacles.append(Bar("wall", (a[0], a[1]), (b[0], b[1])))
    return Domain((sides[0], sides[1]), tuple(obstacles))


def _held(space: Quadratic, wanted: dict[str, float | str]) -> dict[int, float]:
    """Temperature of every unknown on the boundary that is held at one."""
    held: dict[int, float] = {}
    for name, value in wanted.items():
        if value == "insulated":
            continue
        if isinstance(value, str):
            raise UserError(f"equation.{name}=[{value}]: a temperature or the word insulated is accepted")
        temperature = number(name, value)
        held |= dict.fromkeys(_dofs(space, name), temperature)
    return held


def _dofs(space: Quadratic, name: str) -> list[int]:
    """Unknowns on the outer sides, the hole or the wall."""
    parts = ("left", "right", "bottom", "top") if name == "outer" else (name,)
    return sorted({int(dof) for part in parts for dof in space.parts.get(part, ())})


def _swayed(
    space: Quadratic, stiffness: Any, held: dict[int, float], swings: dict[int, float], frequency: float
) -> NDArray[np.complex128]:
    """The complex amplitude of the field that swinging temperatures on the boundary hold up."""
    sway = np.zeros(space.size, dtype=np.complex128)
    if not swings:
        return sway
    fixed = np.fromiter(held, dtype=np.int64)
    free = np.setdiff1d(np.arange(space.size), fixed)
    sway[fixed] = [swings.get(int(dof), 0.0) for dof in fixed]
    system = (stiffness + 2j * np.pi * frequency * space.mass).tocsr()
    sway[free] = splu(system[free][:, free].tocsc()).solve(-(system[free][:, fixed] @ sway[fixed]))
    return sway


def _held_up(
    space: Quadratic, stiffness: Any, held: dict[int, float], load: Array, frequency: float
) -> tuple[Array, NDArray[np.complex128]]:
    """The constant field that the boundary holds up, and the complex amplitude of the one that the source does."""
    fixed = np.fromiter(held, dtype=np.int64)
    free = np.setdiff1d(np.arange(space.size), fixed)
    level, swing = np.zeros(space.size), np.zeros(space.size, dtype=np.complex128)
    if len(fixed):
        level[fixed] = np.fromiter(held.values(), dtype=np.float64)
        level[free] = splu(stiffness[free][:, free].tocsc()).solve(-(stiffness[free][:, fixed] @ level[fixed]))
    if load.any():
        if frequency == 0 and not len(fixed):
            raise UserError(
                "equation.forcing with every part of the boundary insulated heats without end: hold a part at a"
                " temperature (equation.outer=[0]), or give equation.forcing_frequency"
            )
        system = (stiffness + 2j * np.pi * frequency * space.mass)[free][:, free].tocsc()
        swing[free] = splu(system).solve(load[free].astype(np.complex128))
    return level, swing
