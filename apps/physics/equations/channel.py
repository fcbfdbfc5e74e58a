"""Incompressible flow through a channel past a cylinder: Taylor-Hood elements, pressure and velocity solved together.

    u_t + (u . grad) u = nu lap u - grad p,    div u = 0,    parabolic inflow left, no stress right, no slip elsewhere

Second order in time: backward differences, convection extrapolated, so that one factorisation serves every step.
The default geometry is that of Schaefer and Turek 1996, "Benchmark computations of laminar flow around a cylinder",
doi:10.1007/978-3-322-89849-4_39. At Re = 100 (its case 2D-2) they give a greatest drag of 3.22 to 3.24, a greatest lift
of 0.99 to 1.01 and a Strouhal number of 0.295 to 0.305.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu

from farfield.apps.physics.case import Case, Field, Quantity, in_memory
from farfield.apps.physics.equations.domain import Disk, Domain, triangulate
from farfield.apps.physics.equations.fem_space import Quadratic
from farfield.apps.physics.equations.settings import Advance, frame_times, number, numbers
from farfield.apps.training import UserError

Array = NDArray[np.float64]
Index = NDArray[np.int64]
# Share of half a triangle that the fastest inflow crosses in a step: beyond about twice this, steps grow without bound.
CFL = 0.25
# By the states known: weights of du/dt * dt for the new state and those before it, and of the convection ahead.
SCHEMES: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {
    1: ((1, -1), (1,)),
    2: ((3 / 2, -2, 1 / 2), (2, -1)),
}
ORDER = 2
# How often the longest safe step is halved when it was not safe.
HALVINGS = 3
# A lift that swings by less than this share of the drag is that of a steady wake.
STEADY = 1e-3


class Wake(NamedTuple):
    """What the forces of a run say: coefficients, and the shedding frequency (Hz), 0 where the wake is steady."""

    drag_mean: float
    drag_max: float
    lift_max: float
    frequency: float


class Flow:
    """Velocity (2, P) and pressure (Q,) in steps of dt.

    Args:
        space: Quadratic velocities, linear pressures.
        viscosity: nu (m2 s-1). dt: Step (s).
        inflow: Velocity at the left side, as a function of y.
    """

    def __init__(self, space: Quadratic, viscosity: float, dt: float, inflow: Any) -> None:
        self.space, self.dt = space, dt
        self.size = space.size
        self.diffusion = viscosity * space.stiffness
        # Minus the divergence of a velocity, seen by every pressure: also the transpose of the pressure's force.
        self.pull = [-space.pair(space.linear_value, d) for d in (space.x, space.y)]
        walls = np.unique(np.concatenate([dofs for part, dofs in space.parts.items() if part != "right"]))
        self.fixed = np.concatenate([walls, self.size + walls])
        entering = np.setdiff1d(space.parts["left"], np.concatenate([space.parts["bottom"], space.parts["top"]]))
        self.held = np.zeros(2 * self.size)
        self.held[entering] = inflow(space.points[entering, 1])
        count = 2 * self.size + self.pull[0].shape[0]
        self.free = np.setdiff1d(np.arange(count), self.fixed)
        self._solvers: dict[float, Any] = {}

    def steady_stokes(self, share: float) -> tuple[Array, Array]:
        """The flow without inertia: where a run starts from."""
        return self._solve(0.0, np.zeros((2, self.size)), share)

    def convection(self, u: Array) -> Array:
        """Integrals of (u . grad) u with every function, (2, P)."""
        ux, uy = (self.space.value @ c for c in u)
        return np.stack([self.space.integrals(ux * (self.space.x @ c) + uy * (self.space.y @ c)) for c in u])

    def step(self, states: Sequence[Array], pushes: Sequence[Array], share: float) -> tuple[Array, Array]:
        """Velocity and pressure one dt later, from the last velocities and their convection, the latest first.

        Args:
            share: Of the inflow that enters then.
        """
        (first, *rest), ahead = SCHEMES[len(states)]
        load = self._load(np.asarray(-sum(c * u for c, u in zip(rest, states, strict=True)) / self.dt))
        return self._solve(first / self.dt, load - sum(c * f for c, f in zip(ahead, pushes, strict=True)), share)

    def rate(self, states: Sequence[Array]) -> Array:
        """du/dt at the latest of some velocities, the latest first."""
        terms = zip(SCHEMES[len(states) - 1][0], states, strict=True)
        return np.asarray(sum(c * u for c, u in terms) / self.dt)

    def residual(self, rate: Array, push: Array, u: Array, p: Array, nodes: Index) -> tuple[float, float]:
        """Force of the fluid on a part of the boundary per density and depth (m3 s-2): the momentum left over."""
        inside = self._load(rate) + push + np.stack([self.diffusion @ c for c in u])
        inside += np.stack([d.T @ p for d in self.pull])
        return float(-inside[0, nodes].sum()), float(-inside[1, nodes].sum())

    def _load(self, u: Array) -> Array:
        return np.stack([self.space.mass @ c for c in u])

    def _solve(self, shift: float, load: Array, share: float) -> tuple[Array, Array]:
        if shift not in self._solvers:
            block = shift * self.space.mass + self.diffusion
            x, y = self.pull
            matrix = sparse.bmat([[block, None, x.T], [None, block, y.T], [x, y, None]], "csr")
            options = {"SymmetricMode": True}
            inner = matrix[self.free][:, self.free].tocsc()
            lu = splu(inner, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.01, options=options)
            self._solvers[shift] = (lu, (matrix[:, : 2 * self.size] @ self.held)[self.free])
        lu, lifted = self._solvers[shift]
        right = np.zeros(2 * self.size + self.pull[0].shape[0])
        right[: 2 * self.size] = load.ravel()
        found = np.zeros(len(right))
        found[self.free] = lu.solve(right[self.free] - share * lifted)
        found[: 2 * self.size] += share * self.held
        return found[: 2 * self.size].reshape(2, -1), found[2 * self.size :]


@lru_cache(maxsize=4)
def _space(domain: Domain, size: float, fine: float) -> tuple[Quadratic, Any]:
    nodes, triangles = triangulate(domain, size, fine)
    return Quadratic(domain, nodes, triangles), triangles


def channel(
    *,
    rng: np.random.Generator,
    advance: Advance,
    length: list[float],
    center: list[float],
    radius: float,
    triangle: float,
    triangle_at_obstacles: float,
    spin_up: float,
    duration: float,
    frames: int,
    time_step: float | None,
    reynolds: float,
    speed: float,
    pulse: float,
    period: float,
    density: float,
    perturbation: float,
) -> Case:
    """One run; the settings are those of recipes/physics/equation/channel.yaml.

    Returns: Fields u (m s-1, two components) and p (Pa) at the vertices; drag and lift coefficients of every frame as
        history, their means and greatest values and the shedding frequency as results; where the inflow pulses, its
        mean speed as the signal inflow, speed (1 + pulse sin(2 pi t / period)).
    Raises: UserError: a setting is out of its range; the time step is too long.
    Complexity: O(N^1.5) to factorise, O(N log N) a step.
    """
    sides, place = numbers("length", length, 2, 0, above=True), numbers("center", center, 2)
    r = number("radius", radius, 0)
    domain = Domain((sides[0], sides[1]), (Disk("cylinder", (place[0], place[1]), r),) if r else ())
    fine = number("triangle_at_obstacles", triangle_at_obstacles, 0, above=True)
    space, triangles = _space(domain, number("triangle", triangle, 0, above=True), fine)
    mean, rho = number("speed", speed, 0, above=True), number("density", density, 0, above=True)
    across = 2 * r if r else sides[1]
    viscosity = mean * across / number("reynolds", reynolds, 0, above=True)
    swing, around = number("pulse", pulse, 0), number("period", period, 0, above=True)
    if swing >= 1:
        raise UserError(f"equation.pulse={pulse}: below 1 is accepted; the inflow must not turn round")

    def share(t: Any) -> Any:
        return 1 + swing * np.sin(2 * np.pi * t / around)

    times = frame_times(duration, frames)
    interval = times[1] - times[0]
    shortest = min(fine, triangle) if r else triangle
    limit = (
        CFL * shortest / 2 / (1.5 * mean * (1 + swing))
        if time_step is None
        else number("time_step", time_step, 0, above=True)
    )
    per_frame = max(1, int(np.ceil(interval / limit - 1e-9)))
    settle = number("spin_up", spin_up, 0)
    ripple = number("perturbation", perturbation, 0) * mean * _ripple(rng, space, sides)
    for attempt in range(HALVINGS if time_step is None else 1):
        parts = per_frame * 2**attempt
        flow = Flow(space, viscosity, interval / parts, lambda y: 6 * mean * y * (sides[1] - y) / sides[1] ** 2)
        marched = _march(flow, ripple, frames, parts, settle, 20 * mean, share, advance)
        if marched is not None:
            break
    else:
        raise UserError(
            f"equation.time_step={time_step}: the flow grew without bound even in steps of {flow.dt:.3g} s; take"
            " shorter ones, or finer triangles"
        )
    values, forces = marched
    values["p"] *= rho
    nodes = space.points[: space.vertices]
    results: dict[str, Quantity] = {}
    history: dict[str, tuple[Array, str | None]] = {}
    if r:
        results, history = _coefficients(forces * 2 / (mean**2 * across), parts, flow.dt, across, mean)
    results["viscosity"] = Quantity(viscosity, "m2 s-1")
    return Case(
        name="channel",
        nodes=nodes,
        cells={"triangle": triangles},
        times=times,
        fields={"u": Field("u", "m s-1", 2, "velocity"), "p": Field("p", "Pa", 1, "pressure")},
        reader=in_memory(values),
        units={"x": "m", "t": "s"},
        results=results,
        history=history,
        signals={"inflow": (mean * share(times), "m s-1")} if swing else {},
        boundary=domain.boundary(nodes),
    )


def _march(
    flow: Flow,
    ripple: Array,
    frames: int,
    parts: int,
    settle: float,
    most: float,
    share: Callable[[float], float],
    advance: Advance,
) -> tuple[dict[str, Array], Array] | None:
    """Fields at the frames, forces (S, 2) of every step since the first; None where the flow grows past `most`.

    Args:
        share: Of the inflow by the time since the first frame.
    """
    space = flow.space
    cylinder = space.parts.get("cylinder")
    values = {"u": np.empty((frames, space.vertices, 2)), "p": np.empty((frames, space.vertices, 1))}
    warm = int(np.ceil(settle / flow.dt - 1e-9))
    total = warm + (frames - 1) * parts
    forces = np.full((total + 1, 2), np.nan)
    u, p = flow.steady_stokes(share(-warm * flow.dt))
    u += ripple
    push = flow.convection(u)
    states, pushes = [u], [push]
    for step in range(total + 1):
        if step:
            u, p = flow.step(states[:ORDER], pushes[:ORDER], share((step - warm) * flow.dt))
            states, push = [u, *states[:ORDER]], flow.convection(u)
            pushes = [push, *pushes[: ORDER - 1]]
            if cylinder is not None:
                forces[step] = flow.residual(flow.rate(states), push, u, p, cylinder)
            if not np.abs(u).max() < most:
                return None
        frame, odd = divmod(step - warm, parts)
        if frame >= 0 and not odd:
            values["u"][frame] = u[:, : space.vertices].T
            values["p"][frame, :, 0] = p
        advance(step / total)
    return values, forces[warm:]


def _ripple(rng: np.random.Generator, space: Quadratic, sides: tuple[float, ...]) -> Array:
    """A small crosswise velocity that starts the shedding; it vanishes on the boundary."""
    k = rng.integers(1, 6)
    phase = np.pi * space.points / np.array(sides)
    bump = np.sin(phase[:, 1]) * np.sin(k * phase[:, 0] + rng.uniform(0, 2 * np.pi)) * np.sin(phase[:, 0])
    found = np.stack([np.zeros(space.size), bump])
    found[:, np.concatenate(list(space.parts.values()))] = 0
    return found


def wake(drag: Array, lift: Array, dt: float) -> Wake:
    """Means, extremes and shedding frequency of a drag and a lift coefficient in steps of dt.

    The frequency is that between the first and the last rise of the lift through its mean.
    """
    swing = lift - lift.mean()
    rises = np.flatnonzero((swing[:-1] < 0) & (swing[1:] >= 0))
    frequency = 0.0
    if len(rises) > 2 and np.ptp(lift) > STEADY * abs(drag.mean()):
        at = rises + swing[rises] / (swing[rises] - swing[rises + 1])
        frequency = (len(at) - 1) / ((at[-1] - at[0]) * dt)
    return Wake(float(drag.mean()), float(drag.max()), float(np.abs(lift).max()), float(frequency))


def _coefficients(
    coefficients: Array, parts: int, dt: float, across: float, mean: float
) -> tuple[dict[str, Quantity], dict[str, tuple[Array, str | None]]]:
    # The start of a run without spin-up has no forces yet.
    coefficients[0] = coefficients[0] if np.isfinite(coefficients[0]).all() else coefficients[1]
    found = wake(coefficients[:, 0], coefficients[:, 1], dt)
    results = {
        "drag_mean": Quantity(found.drag_mean, "1"),
        "drag_max": Quantity(found.drag_max, "1"),
        "lift_max": Quantity(found.lift_max, "1"),
        "wake_frequency": Quantity(found.frequency, "s-1"),
        "strouhal": Quantity(found.frequency * across / mean, "1"),
    }
    frames = coefficients[::parts]
    return results, {"drag": (frames[:, 0], "1"), "lift": (frames[:, 1], "1")}
