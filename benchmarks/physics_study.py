"""Runs of the tables of physics: made by `farfield physics simulate study=...`, judged run by run.

Shapes: R runs, T frames, N nodes, C components.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import ROOT
from farfield.apps.cli.compose import composed
from farfield.apps.physics.case import Case
from farfield.apps.physics.cases import Wanted, open_cases
from farfield.apps.physics.simulate import simulate

EQUATIONS = ("heat", "wave", "navier-stokes", "heat-domain", "channel")
# What is learnt of each; the rest of a run's fields follows from these.
FIELDS = {"heat": ["u"], "wave": ["u", "v"], "navier-stokes": ["u"], "heat-domain": ["u"], "channel": ["u", "p"]}
# Fewer and smaller runs, which show that everything works.
QUICK = {
    "heat": ["equation.cells=[16,16]", "equation.frames=17"],
    "wave": ["equation.cells=[16,16]", "equation.frames=17"],
    "navier-stokes": ["equation.cells=24", "equation.frames=17", "equation.viscosity=[2.0e-2,3.0e-2]"],
    "heat-domain": ["equation.triangle=0.08", "equation.triangle_at_obstacles=0.05", "equation.frames=17"],
    "channel": [
        "equation.triangle=0.08",
        "equation.triangle_at_obstacles=0.025",
        "equation.spin_up=0.1",
        "equation.duration=0.32",
        "equation.frames=17",
    ],
}
SPLIT = ["split.valid=0.1", "split.test=0.2", "split.extrapolate=0.1"]


def folder(quick: bool) -> Path:
    """Where the runs lie: FARFIELD_PHYSICS, or runs/tables of the repository."""
    named = Path(os.environ.get("FARFIELD_PHYSICS", ROOT / "runs" / "tables"))
    return named / "quick" if quick else named


def made(equation: str, quick: bool, workers: int) -> list[Case]:
    """The runs of an equation, simulated first where they are not there."""
    words = [f"study={equation}", *(["runs=10", *SPLIT, *QUICK[equation]] if quick else [])]
    return _made(words, folder(quick) / equation, workers)


def made_longer(equation: str, quick: bool, workers: int, frames: int) -> list[Case]:
    """Four further runs with so many frames as far apart as in the table, from another seed."""
    words = [f"study={equation}", *(QUICK[equation] if quick else [])]
    usual = composed("physics", "simulate", words)["equation"]
    apart = usual["duration"] / (usual["frames"] - 1)
    words += ["runs=4", "seed=4444", "split.valid=0", "split.test=0", "split.extrapolate=0"]
    words += [f"equation.frames={frames}", f"equation.duration={apart * (frames - 1)}"]
    return _made(words, folder(quick) / f"{equation}-{frames}", workers)


def _made(words: Sequence[str], target: Path, workers: int) -> list[Case]:
    if not (target / "runs.csv").exists():
        settings = composed("physics", "simulate", [*words, f"out={target}", f"workers={workers}"])
        note = target.parent / f".{target.name}-run"
        note.mkdir(parents=True, exist_ok=True)
        settings.pop("study", None)
        simulate(run_folder=note, **settings)
    return open_cases(str(target / "*.h5"), Wanted())


def settings_of(case: Case) -> dict[str, object]:
    """What the simulator was called with, the run's own parameters put in."""
    found: dict[str, object] = json.loads(case.origin["settings"])
    return found


def generator_of(case: Case) -> np.random.Generator:
    """The random numbers that the run began with."""
    return np.random.default_rng([int(case.origin["seed"]), int(case.origin["run"])])


def grid_shape(nodes: np.ndarray) -> tuple[int, int] | None:
    """Nodes along both axes of a regular grid, None for any other mesh."""
    x, y = (np.unique(nodes[:, d].round(12)) for d in range(2))
    return (len(x), len(y)) if len(x) * len(y) == len(nodes) else None


def relative_l2(prediction: Tensor, truth: Tensor, sizes: Sequence[int]) -> Tensor:
    """Relative L2 error of each run (R,) over all nodes and all frames but the first, which is given; mean over fields.

    Args:
        prediction, truth: (R, T, N, C). sizes: Components of each field.
    """
    found = []
    pairs = zip(*(x[:, 1:].double().split(list(sizes), -1) for x in (prediction, truth)), strict=True)
    for said, true in pairs:
        found.append((said - true).flatten(1).norm(dim=1) / true.flatten(1).norm(dim=1))
    return torch.stack(found).mean(dim=0)


def persistence(truth: Tensor) -> Tensor:
    """The first frame at all times."""
    return truth[:, :1].expand_as(truth)
