"""Small surrogates for the physics tests: runs in memory, settings of a network that trains in seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from farfield.apps.physics.case import Case, Field, Quantity, in_memory
from farfield.apps.physics.ensemble import Ensemble
from farfield.apps.physics.mesh import grid_cells
from farfield.apps.physics.runs import Runs
from farfield.apps.physics.train import train_runs
from tests.apps.physics.small import solve

MODEL: dict[str, Any] = {
    "cells": 3, "stride": 4, "width": 16, "blocks": 2, "members": 2, "levels": 1, "adapt_space": False,
}  # fmt: skip
TRAINER: dict[str, Any] = {
    "max_steps": 6, "batch": 2, "unroll": [1, 2], "val_every": 3, "checkpoint_every": 3, "log_every": 3,
}  # fmt: skip


def heat_cases(count: int = 4, frames: int = 13, cells: int = 12, **values: Any) -> list[Case]:
    """Runs of the heat equation with smooth starts and two diffusivities; the last one is for validation."""
    given = {"cells": [cells, cells], "frames": frames, "duration": 0.3, "modes": 2, "boundary_value": 0.5} | values
    found = []
    for i in range(count):
        diffusivity = 0.05 * (1 + i % 2)
        case = solve("heat", i, diffusivity=diffusivity, **given)
        split = "valid" if count > 1 and i == count - 1 else "train"
        found.append(
            replace(
                case,
                name=f"run-{i}",
                static={"diffusivity": Quantity(diffusivity, "m2 s-1")},
                origin={"split": split, "equation": "heat"},
            )
        )
    return found


def line_case(slope: float = 0.7, frames: int = 9, n: int = 8) -> Case:
    """u = 1 + 2 x - y + slope t on a square: in the space of every spline."""
    axis = np.linspace(0, 1, n + 1)
    nodes = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    times = np.linspace(0, 1, frames)
    u = (1 + 2 * nodes[:, 0] - nodes[:, 1])[None, :, None] + slope * times[:, None, None]
    rim = {"left": np.flatnonzero(nodes[:, 0] == 0), "right": np.flatnonzero(nodes[:, 0] == 1)}
    return Case(
        name="line",
        nodes=nodes,
        cells=grid_cells((n + 1, n + 1)),
        times=times,
        fields={"u": Field("u", "K", 1)},
        reader=in_memory({"u": u}),
        units={"x": "m", "t": "s"},
        boundary=rim,
        origin={"split": "train"},
    )


def trained(runs: Runs, folder: Path, *, model: Any = None, trainer: Any = None, **values: Any) -> Ensemble:
    """A network that was trained for a moment."""
    return train_runs(
        runs, run_folder=folder, model=MODEL | (model or {}), trainer=TRAINER | (trainer or {}), device="cpu", **values
    )
