"""What one equation has to show beside its errors: forces on the cylinder, nothing through the wall."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.physics_forces import Rim, shedding
from benchmarks.physics_study import settings_of
from farfield.apps.physics.case import Case
from farfield.apps.physics.ensemble import Ensemble
from farfield.apps.physics.runs import Runs


def checks(
    equation: str, cases: Sequence[Case], runs: Runs, network: object, part: Runs, said: Tensor
) -> dict[str, float]:
    """Numbers by name.

    Args:
        cases: All cases; runs: the same in memory. network: An Ensemble, or an Fno.
        part: The unseen runs. said: (R, T, N, C), their prediction by the first seed.
    """
    if equation == "channel":
        return forces([c for c in cases if c.origin["split"] == part.split[0]], said)
    if equation == "heat-domain":
        return leak(runs, network, settings_of(cases[0]))
    return {}


def forces(cases: Sequence[Case], said: Tensor) -> dict[str, float]:
    """Relative errors of mean drag, greatest lift and shedding frequency: mean over runs, against the true fields.

    Forces are integrals over the sides of triangles at the cylinder, of true and predicted fields alike.
    """
    off: dict[str, list[float]] = {"drag_mean": [], "lift_max": [], "frequency": []}
    simulated = []
    for case, values in zip(cases, said.double().numpy(), strict=True):
        settings = settings_of(case)
        center = np.array(settings["center"], dtype=np.float64)
        rim = Rim.of(case.nodes, case.cells["triangle"], case.boundary["cylinder"], center)
        density, speed = float(settings["density"]), float(settings["speed"])  # type: ignore[arg-type]
        across = 2 * float(settings["radius"])  # type: ignore[arg-type]
        viscosity = case.results["viscosity"].value
        dt = float(case.times[1] - case.times[0])

        def of(
            u: np.ndarray,
            p: np.ndarray,
            rim=rim,
            viscosity=viscosity,
            density=density,
            speed=speed,
            across=across,
            dt=dt,
        ):  # type: ignore[no-untyped-def]
            return shedding(rim.force(u, p, viscosity, density), speed, across, density, dt)

        true = of(case.read("u"), case.read("p")[..., 0])
        found = of(values[..., :2], values[..., 2])
        simulated.append(abs(true.drag_mean - case.results["drag_mean"].value) / case.results["drag_mean"].value)
        for name, values_ in off.items():
            want = getattr(true, name)
            values_.append(abs(getattr(found, name) - want) / abs(want) if want else float("nan"))
    rows = {f"{name}_error": float(np.mean(values)) for name, values in off.items()}
    return rows | {"drag_by_sides_error": float(np.mean(simulated))}


def leak(runs: Runs, network: object, settings: dict[str, object]) -> dict[str, float]:
    """Greatest weight that a place beside the middle of the wall gives to a node right behind it."""
    space = network.places.space if isinstance(network, Ensemble) else None
    if space is None:
        return {}
    low, high = np.array(settings["wall_low"], float), np.array(settings["wall_high"], float)
    middle, thick, tall = (low + high) / 2, high[0] - low[0], high[1] - low[1]
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
    return {"leak_through_wall": greatest}
