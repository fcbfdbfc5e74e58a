"""GraphSplineNets beside its peers and the simulators: error, time a rollout, nodes, steps; everything of one equation.

    python -m benchmarks.bench_graphsplinenets --equations heat --train-seconds 60

Runs are simulated where they are not there (runs/tables, or FARFIELD_PHYSICS). --stage train and --stage measure
split the work: networks can be trained before, and are measured with nothing beside them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import physics_solvers
from benchmarks.harness import Bench, Row, Times, main, shape
from benchmarks.peers import fno
from benchmarks.physics_checks import FORCES, force_errors, held_error, walls
from benchmarks.physics_models import FNO, OURS, lengthened, trained, trained_fno
from benchmarks.physics_study import (
    EQUATIONS,
    FIELDS,
    grid_shape,
    made,
    made_longer,
    persistence,
    relative_l2,
    settings_of,
)
from farfield.apps.physics.case import Case
from farfield.apps.physics.ensemble import Ensemble
from farfield.apps.physics.runs import Runs

NAME = "graphsplinenets"
# Frames of the long rollouts: 200 steps of the data.
LONG = 201
# Samples of a rollout's time, and rollouts in each.
TIMED, REPEATS = 7, 10
SOLVER = "farfield-solver-cpu"
Network = Ensemble | fno.Fno


def options() -> tuple[argparse.Namespace, list[str]]:
    """What this benchmark is asked beyond what every one is."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--equations", default=",".join(EQUATIONS), help="separated by commas")
    parser.add_argument("--variants", default=",".join((*OURS, FNO)), help="networks, separated by commas")
    parser.add_argument("--train-seconds", type=float, default=None, help="wall time of each training (60; quick: 8)")
    parser.add_argument("--stage", default="all", choices=("all", "data", "train", "measure", "solve"))
    parser.add_argument("--work", type=Path, default=None, help="folder that keeps trained networks")
    parser.add_argument("--workers", type=int, default=2, help="processes that simulate")
    parser.add_argument("--set", action="append", default=[], help="settings of the recipe, as model.width=96")
    return parser.parse_known_args()


class Table:
    """One equation: its runs, its networks, its rows."""

    def __init__(self, bench: Bench, equation: str, asked: argparse.Namespace, work: Path) -> None:
        self.bench, self.equation, self.asked, self.work = bench, equation, asked, work
        self.seconds = asked.train_seconds or (8.0 if bench.quick else 60.0)
        self.cases = made(equation, bench.quick, asked.workers)
        self.runs = Runs.of(self.cases, fields=FIELDS[equation])
        self.sizes = [count for _, count in self.runs.fields]
        self.grid = grid_shape(self.runs.nodes)
        self.chosen = [v for v in asked.variants.split(",") if v != FNO or (self.grid and fno.available())]

    def train(self) -> None:
        """All networks, one after another."""
        for variant in self.chosen:
            began = time.perf_counter()
            self.network(variant)
            print(f"{self.equation} {variant}: ready after {time.perf_counter() - began:.1f} s", flush=True)

    def network(self, variant: str) -> Network:
        """The trained networks of a variant."""
        how: dict[str, Any] = {
            "seconds": self.seconds,
            "work": self.work,
            "device": self.bench.device,
            "quick": self.bench.quick,
        }
        if variant == FNO:
            assert self.grid is not None
            return trained_fno(self.equation, self.runs, self.grid, **how)
        return trained(self.equation, variant, self.runs, words=tuple(self.asked.set), **how)

    def measure(self) -> Iterator[Row]:
        """Errors by split, times, checks."""
        for variant in self.chosen:
            yield from self.rows(variant)

    def solve(self) -> Iterator[Row]:
        """Persistence, and the simulator on coarser grids."""
        for split in self.splits():
            part = self.runs.part(split)
            still = persistence(part.values)
            yield self.row("persistence", split, 0, 0, error=relative_l2(still, part.values, self.sizes))
            if self.equation == "channel":
                found = force_errors(self.cases_of(split), part.values, [still])
                for metric, value in ((m, v) for m, v in found.items() if np.isfinite(v)):
                    yield self.row("persistence", split, 0, 0, metric=metric, value=value)
        yield from self.solvers()

    def splits(self) -> list[str]:
        """Unseen runs: parameters between those trained on, and beyond them."""
        return [s for s in ("test", "extrapolate") if self.runs.has(s)]

    def rows(self, variant: str) -> Iterator[Row]:
        """One network: relative L2 (mean, least and greatest of the seeds) by split, time, checks."""
        network = self.network(variant)
        provider = FNO if variant == FNO else f"farfield-{variant}"
        nodes, steps = self.size(network)
        for split in self.splits():
            part = self.runs.part(split)
            said = self.rollouts(network, part)
            errors = torch.stack([relative_l2(s, part.values, self.sizes) for s in said])
            times = self.timed(network, part) if split == "test" else None
            yield self.row(provider, split, nodes, steps, error=errors, times=times)
            found = _spread("relative_l2", errors.mean(dim=1))
            together = relative_l2(torch.stack(said).mean(dim=0), part.values, self.sizes)
            found["relative_l2_ensemble"] = float(together.mean())
            if self.equation == "channel":
                found |= force_errors(self.cases_of(split), part.values, said)
            if split == "test":
                found |= self.once(network, part, said)
            for metric, value in found.items():
                if np.isfinite(value):
                    yield self.row(provider, split, nodes, steps, metric=metric, value=value)

    def once(self, network: Network, part: Runs, said: list[Tensor]) -> dict[str, float]:
        """What is shown once: training, boundaries, walls, 200 steps."""
        if isinstance(network, Ensemble):
            found = {"train_s": float(network.about["train_seconds"]), "train_steps": float(network.about["max_steps"])}
            if network.places.space is not None:
                found["dirichlet_error"] = held_error(network, self.cases_of(part.split[0])[0])
                alone = relative_l2(network.projected(part), part.values, self.sizes)
                found["splines_through_truth"] = float(alone.mean())
        else:
            found = {"train_s": network.seconds, "train_steps": float(network.steps)}
            held = torch.from_numpy(self.runs.held)
            if held.any():
                found["dirichlet_error"] = float((said[0] - part.values)[:, :, held].abs().max())
        if self.equation == "heat-domain":
            found |= walls(network, settings_of(self.cases[0]))
        return found | self.far(network)

    def far(self, network: Network) -> dict[str, float]:
        """Rollouts of 200 steps of the data: error, greatest value by the truth's, drift of the mean."""
        longer = self.longer()
        if isinstance(network, Ensemble):
            network = lengthened(network, longer.times)
        far = self.rollouts(network, longer)
        errors = torch.stack([relative_l2(f, longer.values, self.sizes).mean() for f in far])
        growth = max(float(f.abs().max() / longer.values.abs().max()) for f in far)
        drift = float(np.mean([_drift(f, longer.values) for f in far]))
        found = {"relative_l2_200": float(errors.mean()), **_spread("relative_l2_200", errors)}
        return found | {"growth_200": growth, "mean_drift_200": drift}

    def cases_of(self, split: str) -> list[Case]:
        """The runs of a split, in the order of `Runs.part`."""
        return [c for c in self.cases if c.origin["split"] == split]

    def longer(self) -> Runs:
        """Runs of 200 steps."""
        return Runs.of(longer_cases(self.equation, self.bench.quick, self.asked.workers), like=self.runs)

    def size(self, network: Network) -> tuple[int, int]:
        """Nodes, calls of the network a rollout."""
        if isinstance(network, fno.Fno):
            return len(self.runs.nodes), -(-(len(self.runs.times) - 1) // network.window)
        return network.nodes, network.steps

    def rollouts(self, network: Network, part: Runs) -> list[Tensor]:
        """(R, T, N, C) of each seed, on the CPU."""
        device = self.bench.device
        if isinstance(network, Ensemble):
            return list(network.members(part, str(device)))
        first, static = part.values[:, 0].to(device), part.static.float().to(device)
        with torch.no_grad():
            return [network.rollout(first, static, len(part.times), k).cpu() for k in range(len(network.models))]

    def timed(self, network: Network, part: Runs) -> Times:
        """Milliseconds a rollout of one run, all frames at all nodes, from its first frame on the device."""
        one, device = part.take([0]), self.bench.device
        if isinstance(network, Ensemble):
            samples = [network.seconds(one, str(device), repeats=REPEATS) for _ in range(TIMED)]
        else:
            call = _captured(network, one, device)
            samples = [_seconds(call, device) for _ in range(TIMED)]
        low, middle, high = np.quantile(samples, [0.2, 0.5, 0.8]) * 1e3
        return Times(low, middle, high, None, None, tuple(s * 1e3 for s in samples))

    def solvers(self) -> Iterator[Row]:
        """The simulator on the CPU, one thread, on grids from coarse to that of the data."""
        test = self.cases_of("test")[: 2 if self.equation == "channel" else 4]
        own = settings_of_grid(self.equation, test[0])
        for level in [*physics_solvers.LEVELS[self.equation], own]:
            solved = [physics_solvers.solve(c, self.equation, level, FIELDS[self.equation]) for c in test]
            if any(s is None for s in solved):
                print(f"{self.equation} {level}: refused as too coarse", flush=True)
                continue
            done = [s for s in solved if s is not None]
            took = np.quantile([s.seconds for s in done], [0.2, 0.5, 0.8]) * 1e3
            times = Times(*took, None, None, tuple(s.seconds * 1e3 for s in done))
            nodes, steps = len(done[0].case.nodes), len(self.runs.times) - 1
            if self.equation != "channel":
                said = torch.from_numpy(np.stack([s.values for s in done]))
                error = relative_l2(said, Runs.of(test, like=self.runs).values, self.sizes)
                yield self.row(SOLVER, "test", nodes, steps, error=error, times=times)
                continue
            # Another grid sheds at other moments: its wake is compared, not its fields.
            yield self.row(SOLVER, "test", nodes, steps, times=times)
            for metric in FORCES:
                pairs = [
                    (s.case.results[metric].value, c.results[metric].value) for s, c in zip(done, test, strict=True)
                ]
                off = float(np.mean([abs(a - b) / max(abs(b), 1e-9) for a, b in pairs]))
                yield self.row(SOLVER, "test", nodes, steps, metric=f"{metric}_error", value=off)

    def row(
        self,
        provider: str,
        split: str,
        nodes: int,
        steps: int,
        *,
        error: Tensor | None = None,
        times: Times | None = None,
        metric: str = "",
        value: float | None = None,
    ) -> Row:
        """One line of the CSV."""
        at = shape(equation=self.equation, split=split, nodes=nodes, steps=steps)
        kind = "fp64" if "solver" in provider else "fp32"
        row = self.bench.row(NAME, provider, "fwd" if times else "", at, kind, times=times, metric=metric, value=value)
        return row if error is None else replace(row, rel_err=float(error.mean()))


def longer_cases(equation: str, quick: bool, workers: int) -> list[Case]:
    """Runs of 200 steps."""
    return made_longer(equation, quick, workers, 33 if quick else LONG)


def settings_of_grid(equation: str, case: Case) -> dict[str, object]:
    """The grid that the data themselves were made on."""
    names = ("cells",) if equation in ("heat", "wave", "navier-stokes") else ("triangle", "triangle_at_obstacles")
    return {name: settings_of(case)[name] for name in names}


def _spread(name: str, of_seed: Tensor) -> dict[str, float]:
    return {f"{name}_least": float(of_seed.min()), f"{name}_greatest": float(of_seed.max())}


def _drift(said: Tensor, true: Tensor) -> float:
    """How far the mean over nodes goes astray at the last frame, by the spread of the field at the first."""
    off = (said[:, -1].mean(dim=1) - true[:, -1].mean(dim=1)).abs()
    spread = true[:, 0].std(dim=1)
    # The speed of a wave that starts from rest has no spread yet.
    return float((off / spread)[spread > 0].mean())


def _captured(network: fno.Fno, part: Runs, device: torch.device) -> Callable[[], object]:
    """One rollout, as a graph of the GPU where the FFT allows it."""
    first, static = part.values[:, 0].to(device), part.static.float().to(device)

    def call() -> Tensor:
        with torch.no_grad():
            return network.rollout(first, static, len(part.times), 0)

    call()
    if device.type != "cuda":
        return call
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    repeats = REPEATS if device.type == "cuda" else 2
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / repeats


def cases(bench: Bench) -> Iterator[Row]:
    """Tables of physics; --equations, --variants, --train-seconds, --stage, --work, --workers, --set model.width=96."""
    asked, _ = options()
    with tempfile.TemporaryDirectory() as scratch:
        work = asked.work or Path(scratch)
        for equation in asked.equations.split(","):
            if asked.stage == "data":
                made(equation, bench.quick, asked.workers)
                longer_cases(equation, bench.quick, asked.workers)
                continue
            table = Table(bench, equation, asked, work)
            if asked.stage in ("all", "train"):
                table.train()
            if asked.stage in ("all", "measure"):
                yield from table.measure()
            if asked.stage in ("all", "solve"):
                yield from table.solve()


if __name__ == "__main__":
    main(NAME, cases, options()[1] if len(sys.argv) > 1 else [])
