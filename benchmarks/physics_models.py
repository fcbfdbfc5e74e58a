"""The networks of the tables of physics: ours and its peers, trained on the same runs for the same wall time.

All are settings of the one recipe of an equation, recipes/physics/experiment/<equation>.yaml:

    adaptive   GraphSplineNets, end to end through both splines, partitions where the training runs need them
    uniform    the same on uniform partitions
    post-hoc   as adaptive, but trained on values at the coarse nodes and times only; the splines come afterwards
    full       the same network on every node of the data and every frame, no splines
    full-longer
               one seed of full for PATIENCE times as long
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.peers import fno
from farfield.apps.cli.compose import composed
from farfield.apps.physics.ensemble import Ensemble
from farfield.apps.physics.runs import Runs
from farfield.apps.physics.symmetry import motions, moved, places_after
from farfield.apps.physics.train import train_runs

OURS = ("adaptive", "uniform", "post-hoc", "full", "full-longer")
PATIENCE = 1.5
FNO = "neuraloperator-fno"
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "adaptive": {"model": {}, "trainer": {}},
    "uniform": {"model": {"adapt_space": False, "adapt_time": False}, "trainer": {}},
    "post-hoc": {"model": {"loss": "nodes"}, "trainer": {}},
    "full": {
        "model": {
            "space": "nodes",
            "stride": 1,
            "order_time": 1,
            "adapt_space": False,
            "adapt_time": False,
            "levels": 1,
        },
        "trainer": {"batch": 8},
    },
}
CHANGES["full-longer"] = {"model": CHANGES["full"]["model"] | {"members": 1}, "trainer": CHANGES["full"]["trainer"]}
# Validated once, at the end: all the wall time is training.
PACE = {"val_every": 10**6, "checkpoint_every": 10**6}
QUICK = {"model": {"width": 16, "blocks": 2, "members": 2, "nodes": 60}, "trainer": {"batch": 4, "unroll": [1, 2]}}


class Settings(NamedTuple):
    """What a network is made and trained with."""

    model: dict[str, Any]
    trainer: dict[str, Any]
    precision: str
    seed: int


def settings(equation: str, variant: str, quick: bool, words: tuple[str, ...] = ()) -> Settings:
    """The recipe of an equation as a variant has it; words replace settings of the recipe."""
    found = composed("physics", "train", [f"experiment={equation}", "data=given", *words])
    model, trainer = copy.deepcopy(found["model"]), copy.deepcopy(found["trainer"])
    for change in (CHANGES[variant], *([QUICK] if quick else [])):
        model |= change["model"]
        trainer |= change["trainer"]
    if model["space"] == "nodes":
        # A network that knows its nodes by their neighbours alone cannot tell shifted runs apart.
        trainer["symmetries"] = [s for s in trainer["symmetries"] if s != "shift"]
    return Settings(model, trainer | PACE, found["precision"], found["seed"])


def trained(
    equation: str,
    variant: str,
    runs: Runs,
    *,
    seconds: float,
    work: Path,
    device: torch.device,
    quick: bool,
    words: tuple[str, ...] = (),
) -> Ensemble:
    """The ensemble of a variant, trained first where `work` has none."""
    target = work / equation / variant
    if not (target / "config.json").exists():
        chosen = settings(equation, variant, quick, words)
        ensemble = train_runs(
            runs,
            run_folder=work / equation / f"{variant}-run",
            model=chosen.model,
            trainer=chosen.trainer,
            device=str(device),
            precision=chosen.precision if device.type == "cuda" else "fp32",
            seed=chosen.seed,
            budget=f"{seconds * (PATIENCE if variant == 'full-longer' else 1):g}s",
        )
        ensemble.save(target)
    return Ensemble.load(target)


def lengthened(ensemble: Ensemble, times: np.ndarray) -> Ensemble:
    """The ensemble with more intervals, as long as its last one, until all times are reached."""
    knots = list(ensemble.clock.knots)
    while knots[-1] < len(times) - 1:
        knots.append(2 * knots[-1] - knots[-2])
    net = copy.deepcopy(ensemble.net)
    if not ensemble.clock.even:
        # Every interval has its own scale of change: added ones have the last one's.
        net.change = torch.cat([net.change, net.change[-1:].expand(len(knots) - 1 - len(net.change), -1, -1)])
    return replace(ensemble, net=net, clock=replace(ensemble.clock, times=times, knots=tuple(knots)))


def trained_fno(
    equation: str, runs: Runs, shape: tuple[int, int], *, seconds: float, work: Path, device: torch.device, quick: bool
) -> fno.Fno:
    """FNO of as many seeds, trained first where `work` has none."""
    chosen = settings(equation, "adaptive", quick)
    target = work / equation / "fno.pt"
    if not target.exists():
        train = runs.part("train")
        ways = list(motions(train, chosen.trainer["symmetries"]))
        values = [moved(train.values, places_after(train.nodes, train, way), train.fields, way) for way in ways]
        small: dict[str, Any] = {"modes": 4, "width": 8, "batch": 4} if quick else {}
        found = fno.train(
            torch.cat(values),
            train.static.float().repeat(len(ways), 1),
            shape,
            torch.from_numpy(runs.held.all(axis=1)),
            periodic=any(runs.period),
            seconds=seconds,
            seeds=[chosen.seed + k for k in range(chosen.model["members"])],
            device=device,
            **small,
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.save(found, target)
        (work / equation / "fno.json").write_text(json.dumps({"seconds": found.seconds, "steps": found.steps}))
    # The file is our own, of this run.
    loaded: fno.Fno = torch.load(target, weights_only=False, map_location=device)
    return loaded
