"""The simulators themselves on coarser grids, from the same start: error at all nodes of the fine one, and seconds.

Shapes: T frames, N nodes of the fine mesh, n of the coarse one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.physics_study import generator_of, grid_shape, settings_of
from farfield.apps.physics.case import Case
from farfield.apps.physics.equations import EQUATIONS
from farfield.apps.physics.irregular import Irregular
from farfield.apps.training import UserError

Array = NDArray[np.float64]
# Settings of each grid, the coarsest first.
LEVELS: dict[str, list[dict[str, Any]]] = {
    "heat": [{"cells": [n, n]} for n in (6, 8, 12, 16, 24)],
    "wave": [{"cells": [n, n]} for n in (6, 8, 12, 16, 24)],
    "navier-stokes": [{"cells": n} for n in (20, 24, 28, 32)],
    "heat-domain": [
        {"triangle": size, "triangle_at_obstacles": near, "steps_per_frame": 1}
        for size, near in ((0.1, 0.05), (0.06, 0.03), (0.045, 0.022))
    ],
    "channel": [
        {"triangle": size, "triangle_at_obstacles": near} for size, near in ((0.09, 0.03), (0.06, 0.02), (0.04, 0.015))
    ],
}


@dataclass(frozen=True)
class Solved:
    """One run on one grid: the coarse run, seconds, values at the fine nodes (T, N, C).

    The seconds are the solver's alone; of a flow that settles before its first frame, the share after that.
    """

    case: Case
    seconds: float
    values: Array


def solve(fine: Case, equation: str, level: dict[str, Any], fields: list[str]) -> Solved | None:
    """The run again on another grid; None where the solver refuses the grid as too coarse."""
    settings = settings_of(fine) | level
    if "cells" in level and np.any(np.array(level["cells"]) > np.array(settings_of(fine)["cells"])):
        return None
    solver = EQUATIONS[equation].solver()

    def run(more: dict[str, Any], frames: int | None = None) -> Case:
        few = {} if frames is None else {"frames": frames}
        found: Case = solver(rng=generator_of(fine), advance=lambda share: None, **(settings | more | few))
        return found

    try:
        # Random shapes are scaled by their greatest value on the grid: the start is made that of the fine one.
        more = {} if equation == "channel" else _start(fine, run)
        began = time.perf_counter()
        case = run(more)
        took = time.perf_counter() - began
        if settle := float(settings.get("spin_up", 0.0)):  # type: ignore[arg-type]
            took *= float(settings["duration"]) / (settle + float(settings["duration"]))  # type: ignore[arg-type]
    except UserError:
        return None
    values = np.empty((0, 0, 0)) if equation == "channel" else _carried(case, fine, fields)
    return Solved(case, took, values)


def _start(fine: Case, run: Callable[..., Case]) -> dict[str, Any]:
    """The amplitude (or speed) with which the coarse run begins as the fine one does."""
    coarse = run({}, 2)
    name = "speed" if "vorticity" in coarse.fields else "amplitude"
    settings = settings_of(fine)
    base = float(settings.get("boundary_value", 0.0)) if "cells" in settings else 0.0  # type: ignore[arg-type]
    there = _carried(coarse, fine, ["u"])[0] - base
    true = fine.read("u", 0, 1)[0] - base
    free = np.ones(len(true), bool)
    for part in fine.boundary.values():
        free[part] = False
    ratio = float((there[free] * true[free]).sum() / (there[free] ** 2).sum())
    return {name: float(settings[name]) * ratio}  # type: ignore[arg-type]


def _carried(case: Case, fine: Case, fields: list[str]) -> Array:
    """Values of the coarse run at the fine nodes (T, N, C), as smoothly as its method allows."""
    values = np.concatenate([case.read(name) for name in fields], axis=-1)
    shape = grid_shape(case.nodes)
    if shape is None:
        return _by_triangles(case, fine, values)
    target = grid_shape(fine.nodes)
    assert target is not None
    square = values.reshape(len(values), *shape, -1)
    return _by_waves(square, target) if case.period[0] else _by_splines(square, shape, target)


def _by_waves(square: Array, target: tuple[int, int]) -> Array:
    from scipy.signal import resample

    wide = resample(resample(square, target[0], axis=1), target[1], axis=2)
    return np.asarray(wide.reshape(len(square), -1, square.shape[-1]))


def _by_splines(square: Array, shape: tuple[int, int], target: tuple[int, int]) -> Array:
    from scipy.interpolate import make_interp_spline

    for axis in (1, 2):
        n, m = shape[axis - 1], target[axis - 1]
        spline = make_interp_spline(np.linspace(0, 1, n), square, k=min(5, (n - 1) // 2 * 2 - 1), axis=axis)
        square = spline(np.linspace(0, 1, m))
    return np.asarray(square.reshape(len(square), -1, square.shape[-1]))


def _by_triangles(case: Case, fine: Case, values: Array) -> Array:
    from scipy.spatial import cKDTree

    space = Irregular(case.nodes, case.cells, case.boundary)
    points = torch.from_numpy(fine.nodes)
    inside = space.contains(points).numpy()
    found = values[:, cKDTree(case.nodes).query(fine.nodes)[1]]
    flat = torch.from_numpy(values)
    found[:, inside] = space.evaluate(flat, points[torch.from_numpy(inside)]).numpy()
    return np.asarray(found)
