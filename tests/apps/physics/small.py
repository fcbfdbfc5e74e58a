"""Small runs for the physics tests: settings as the recipes have them, a case by hand, equations solved at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from farfield.apps.cli.compose import composed
from farfield.apps.physics.case import Case, Field, Quantity, in_memory
from farfield.apps.physics.equations import EQUATIONS
from farfield.apps.physics.mesh import grid_cells
from farfield.apps.physics.simulate import simulate


def settings(verb: str, *words: str, **values: Any) -> dict[str, Any]:
    """Settings of a verb as the command line would compose them, some replaced."""
    return composed("physics", verb, [*words, *(["data=given"] if verb == "describe" else [])]) | values


def solve(kind: str, seed: int = 0, **values: Any) -> Case:
    """One run of an equation with the first value of every list of its recipe, some settings replaced."""
    equation = settings("simulate", f"equation={kind}")["equation"]
    equation.pop("kind")
    for name in EQUATIONS[kind].swept:
        equation[name] = equation[name][0]
    assert set(values) <= set(equation)
    return EQUATIONS[kind].solver()(rng=np.random.default_rng(seed), advance=lambda share: None, **(equation | values))


def simulated(folder: Path, *words: str, **values: Any) -> Path:
    """The folder of files of a simulation."""
    folder.mkdir(parents=True, exist_ok=True)
    return simulate(run_folder=folder, **settings("simulate", *words, **values))


def square_case(n: int = 4, frames: int = 3, **changes: Any) -> Case:
    """u = x + 2y + t, vector w = (x, t) on a grid of n x n cells of the unit square."""
    axis = np.linspace(0, 1, n + 1)
    nodes = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    times = np.linspace(0, 1, frames)
    u = (nodes[:, 0] + 2 * nodes[:, 1])[None, :, None] + times[:, None, None]
    w = np.stack(np.broadcast_arrays(nodes[None, :, 0], times[:, None]), axis=-1)
    given = {
        "name": "square",
        "nodes": nodes,
        "cells": grid_cells((n + 1, n + 1)),
        "times": times,
        "fields": {"u": Field("u", "K", 1, "temperature"), "w": Field("w", "m s-1", 2)},
        "reader": in_memory({"u": u, "w": w}),
        "units": {"x": "m", "t": "s"},
        "static": {"nu": Quantity(0.01, "m2 s-1")},
        "signals": {"lid": (times**2, "m s-1")},
        "results": {"drag": Quantity(1.5, "1")},
        "history": {"lift": (-times, "1")},
        "boundary": {"left": np.flatnonzero(nodes[:, 0] == 0)},
        "origin": {"split": "test"},
    }
    return Case(**(given | changes))


def same(a: Case, b: Case, tolerance: float = 0.0) -> None:
    """Two cases hold the same, names and origin aside."""
    np.testing.assert_array_equal(a.nodes, b.nodes)
    np.testing.assert_array_equal(a.times, b.times)
    assert {k: v.tolist() for k, v in a.cells.items()} == {k: v.tolist() for k, v in b.cells.items()}
    assert {k: v.tolist() for k, v in a.boundary.items()} == {k: v.tolist() for k, v in b.boundary.items()}
    assert {n: (f.units, f.components) for n, f in a.fields.items()} == {
        n: (f.units, f.components) for n, f in b.fields.items()
    }
    for name in a.fields:
        np.testing.assert_allclose(a.read(name), b.read(name), rtol=0, atol=tolerance)
        np.testing.assert_allclose(a.read(name, 1, 2), b.read(name, 1, 2), rtol=0, atol=tolerance)
    assert (a.static, a.results, a.period) == (b.static, b.results, b.period)
    for one, two in ((a.signals, b.signals), (a.history, b.history)):
        assert {n: (v.tolist(), u) for n, (v, u) in one.items()} == {n: (v.tolist(), u) for n, (v, u) in two.items()}
