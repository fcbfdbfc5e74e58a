"""What one equation has to show beside its errors: forces on the cylinder, held values, nothing through the wall.

Shapes: K seeds, R runs, T frames, N nodes, C components.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.physics_forces import Rim, shedding
from benchmarks.physics_study import settings_of
from farfield.apps.physics.case import Case
from farfield.apps.physics.ensemble import Ensemble
from farfield.apps.physics.equations.channel import Wake
from farfield.apps.physics.mesh import edges

# What is compared of the forces, by the name of the metric.
FORCES = {"drag_mean": "drag_mean", "lift_max": "lift_max", "wake_frequency": "frequency"}


def wakes(case: Case, values: Tensor) -> Wake:
    """Drag, lift and frequency of fields (T, N, 3): integrals over the sides of triangles at the cylinder."""
    settings = settings_of(case)
    center = np.array(settings["center"], dtype=np.float64)
    rim = Rim.of(case.nodes, case.cells["triangle"], case.boundary["cylinder"], center)
    density, speed = float(settings["density"]), float(settings["speed"])  # type: ignore[arg-type]
    across = 2 * float(settings["radius"])  # type: ignore[arg-type]
    found = values.double().numpy()
    force = rim.force(found[..., :2], found[..., 2], case.results["viscosity"].value, density)
    return shedding(force, speed, across, density, float(case.times[1] - case.times[0]))


def force_errors(cases: Sequence[Case], truth: Tensor, said: Sequence[Tensor]) -> dict[str, float]:
    """Relative errors of mean drag, greatest lift and shedding frequency: mean over runs, by seed together.

    Args:
        cases: One a run. truth: (R, T, N, C). said: K times (R, T, N, C).
    Returns: The mean of the seeds by name, and its least and greatest; drag_by_sides_error is what the integral over
        the sides of triangles makes of the true fields, against the simulator's own drag.
    """
    true = [wakes(case, values) for case, values in zip(cases, truth, strict=True)]
    own = [case.results["drag_mean"].value for case in cases]
    sides = np.mean([abs(t.drag_mean - o) / o for t, o in zip(true, own, strict=True)])
    rows = {"drag_by_sides_error": float(sides)}
    found = [[wakes(case, values) for case, values in zip(cases, one, strict=True)] for one in said]
    for metric, name in FORCES.items():
        errors = []
        for seed in found:
            pairs = [(getattr(f, name), getattr(t, name)) for f, t in zip(seed, true, strict=True)]
            # A steady wake has no frequency to miss.
            errors.append(float(np.mean([abs(f - t) / abs(t) for f, t in pairs if t] or [np.nan])))
        spread = {"": np.mean(errors), "_least": min(errors), "_greatest": max(errors)}
        rows |= {f"{metric}_error{word}": float(value) for word, value in spread.items()}
    return rows


def walls(network: object, settings: Mapping[str, object]) -> dict[str, float]:
    """Whether anything passes the thin wall: by the spline, and by edges of the graph.

    Returns: leak_through_wall: the greatest weight that a place beside the middle of the wall gives to a node right
        behind it. edges_through_wall: edges of the graph whose straight line crosses the middle third of the wall;
        near its ends, neighbours along the mesh hear each other round the tip.
    """
    if not isinstance(network, Ensemble):
        return {}
    low, high = np.array(settings["wall_low"], float), np.array(settings["wall_high"], float)
    places = network.places.nodes
    graph = network.net.graph.to(torch.device("cpu"))
    target, source = np.divmod(np.flatnonzero(graph.mask.numpy().ravel()), graph.degree)
    source = graph.source.numpy()[target * graph.degree + source]
    middle = (low + high) / 2
    rows = {"edges_through_wall": float(crossings(places[source], places[target], low, high))}
    space = network.places.space
    if space is None:
        return rows
    thick, tall = high[0] - low[0], high[1] - low[1]
    y = torch.linspace(float(middle[1] - tall / 6), float(middle[1] + tall / 6), 41, dtype=torch.float64)
    greatest = 0.0
    for side in (-1, 1):
        beside = torch.stack([torch.full_like(y, float(middle[0] + side * (thick / 2 + 1e-6))), y], dim=1)
        nodes = space.nodes
        behind = side * (nodes[:, 0] - float(middle[0])) < 0
        behind &= (nodes[:, 1] > low[1] + tall / 3) & (nodes[:, 1] < high[1] - tall / 3)
        behind &= (nodes[:, 0] - float(middle[0])).abs() < 0.15
        weights = space.matrix(beside)[:, behind]
        greatest = max(greatest, float(weights.abs().max()) if behind.any() else 0.0)
    return rows | {"leak_through_wall": greatest}


def crossings(a: np.ndarray, b: np.ndarray, low: np.ndarray, high: np.ndarray) -> int:
    """Lines a b that cross the middle third of an upright wall."""
    x, third = (low[0] + high[0]) / 2, (high[1] - low[1]) / 3
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (x - a[:, 0]) / (b[:, 0] - a[:, 0])
        y = a[:, 1] + share * (b[:, 1] - a[:, 1])
    return int(((share > 0) & (share < 1) & (y > low[1] + third) & (y < high[1] - third)).sum())


def held_error(network: Ensemble, case: Case) -> float:
    """Greatest difference of a predicted field from held values on the boundary, in units of the field.

    At the nodes of the data that are held, and between two of them where both have the same value; at frames and
    between them. The field is what `query` answers from, nothing of it is overwritten.
    """
    like = network.like
    if not like.held.any():
        return 0.0
    field = network.predict(case, device="cpu")
    truth = np.concatenate([case.read(name, 0, 1)[0] for name, _ in like.fields], axis=-1)
    times = torch.linspace(float(case.times[0]), float(case.times[-1]), 7, dtype=torch.float64)
    pairs = edges(case.cells)
    rim = np.zeros(len(case.nodes), bool)
    for part in case.boundary.values():
        rim[part] = True
    worst = 0.0
    for c in range(like.held.shape[1]):
        held = like.held[:, c]
        if not held.any():
            continue
        at = np.flatnonzero(held)
        both = pairs[held[pairs].all(axis=1) & rim[pairs].all(axis=1)]
        both = both[np.abs(truth[both[:, 0], c] - truth[both[:, 1], c]) < 1e-12]
        middles = case.nodes[both].mean(axis=1)
        points = torch.from_numpy(np.concatenate([case.nodes[at], middles]))
        want = torch.from_numpy(np.concatenate([truth[at, c], truth[both[:, 0], c]]))
        # An edge between two held nodes may cut a corner of an obstacle.
        inside = field.space.contains(points)
        said = field.frames(points[inside], times)[..., c]
        worst = max(worst, float((said - want[inside]).abs().max()))
    return worst
