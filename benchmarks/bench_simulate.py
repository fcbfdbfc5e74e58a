"""Seconds a run of each equation, with its error against a closed form or a published value; heat beside py-pde."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Bench, Row, Times, main, measure_together, shape
from farfield.apps.cli.compose import composed
from farfield.apps.physics.case import Case
from farfield.apps.physics.equations import EQUATIONS

# Drag coefficient and pressure drop of the DFG benchmark 2D-1 (Re = 20), as cited from FeatFlow.
STEADY = torch.tensor([5.57953523384, 0.11752016697], dtype=torch.float64)


def run(kind: str, **values: Any) -> Case:
    """One run with the first value of every list of the recipe, some settings replaced."""
    solve, rng = EQUATIONS[kind].solver(), np.random.default_rng(0)
    found: Case = solve(rng=rng, advance=lambda share: None, **(recipe(kind) | values))
    return found


@cache
def recipe(kind: str) -> dict[str, Any]:
    """Settings of an equation, composed once: that is no part of a run."""
    settings: dict[str, Any] = composed("physics", "simulate", [f"equation={kind}"])["equation"]
    settings.pop("kind")
    return settings | {name: settings[name][0] for name in EQUATIONS[kind].swept}


def last(case: Case, name: str = "u") -> torch.Tensor:
    """The last frame of a field."""
    return torch.from_numpy(case.read(name)[-1].copy())


def heat(n: int) -> tuple[dict[str, Callable[[], torch.Tensor]], torch.Tensor]:
    """One mode at t = 0.1: ours on 2n cells a side, py-pde on n, whose centres are nodes of ours; 11 frames each."""
    import pde

    centre = (np.arange(n) + 0.5) / n
    mode = np.sin(np.pi * centre)[:, None] * np.sin(np.pi * centre)[None]
    grid = pde.CartesianGrid([[0, 1], [0, 1]], [n, n])
    equation = pde.DiffusionPDE(diffusivity=0.1, bc={"value": 0})

    def ours() -> torch.Tensor:
        case = run("heat", cells=[2 * n, 2 * n], initial="mode", modes=1, frames=11)
        return last(case).reshape(2 * n + 1, 2 * n + 1)[1::2, 1::2]

    def theirs() -> torch.Tensor:
        frames = pde.MemoryStorage()
        start = pde.ScalarField(grid, mode)
        keep = frames.tracker(0.01)
        return torch.from_numpy(equation.solve(start, 0.1, solver="scipy", backend="numpy", tracker=keep).data.copy())

    exact = torch.from_numpy(mode * np.exp(-0.1 * 2 * np.pi**2 * 0.1))
    return {"farfield": ours, "py-pde": theirs}, exact


def wave(n: int) -> tuple[Callable[[], torch.Tensor], torch.Tensor]:
    """One undamped mode after two seconds, 101 frames."""
    x = np.linspace(0, 1, n + 1)
    mode = np.sin(3 * np.pi * x)[:, None] * np.sin(3 * np.pi * x)[None]
    exact = torch.from_numpy((mode * np.cos(3 * np.sqrt(2) * np.pi * 2)).reshape(-1, 1))
    return lambda: last(run("wave", cells=[n, n], initial="mode", modes=3, damping=0.0)), exact


def navier_stokes(n: int) -> tuple[Callable[[], torch.Tensor], torch.Tensor]:
    """A Taylor-Green vortex that a mean flow carries along, after two seconds, 101 frames."""
    case = run("navier-stokes", cells=n, initial="taylor-green", modes=2, duration=1e-3, frames=2)
    k, nu, mean = 4 * np.pi, 2e-3, np.array([0.3, 0.1])
    x, y = case.nodes.T - mean[:, None] * 2
    a = 0.5 * np.sqrt(2) * np.exp(-2 * nu * k**2 * 2)
    u = np.stack([a * np.sin(k * x) * np.cos(k * y) + mean[0], mean[1] - a * np.cos(k * x) * np.sin(k * y)], axis=1)
    settings = {"cells": n, "initial": "taylor-green", "modes": 2, "mean_flow": mean.tolist()}
    return lambda: last(run("navier-stokes", **settings)), torch.from_numpy(u)


def burgers(n: int) -> tuple[Callable[[], torch.Tensor], torch.Tensor]:
    """A sine that steepens, after one second, 101 frames, against the transformation of Cole and Hopf."""
    fine, nu = 8192, 5e-3
    k = 2 * np.pi * np.fft.rfftfreq(fine, 1 / fine)
    start = np.exp(-(1 - np.cos(2 * np.pi * np.arange(fine) / fine)) / (4 * np.pi * nu))
    weights = np.fft.rfft(start) * np.exp(-nu * k**2)
    u = -2 * nu * np.fft.irfft(1j * k * weights, fine) / np.fft.irfft(weights, fine)
    exact = torch.from_numpy(u[:: fine // n, None].copy())
    return lambda: last(run("burgers", cells=n, initial="sine", modes=1)), exact


def heat_domain(size: float) -> tuple[Callable[[], torch.Tensor], torch.Tensor]:
    """A source on the square without hole and wall, which the sine modes solve exactly; meshing is not counted."""
    settings = {
        "initial": "mode",
        "modes": 1,
        "amplitude": 0.0,
        "forcing": 2.0,
        "forcing_frequency": 3.0,
        "duration": 0.5,
    }
    bare = {"hole_radius": 0.0, "wall_low": None, "wall_high": None, "triangle": size, "triangle_at_obstacles": size}

    def ours() -> torch.Tensor:
        return last(run("heat-domain", **settings, **bare, hole="insulated", wall="insulated"))

    nodes = run("heat-domain", **(settings | {"frames": 2}), **bare, hole="insulated", wall="insulated").nodes
    middle = last(run("heat", cells=[2, 2], frames=2, **settings))[4, 0]
    return ours, middle * torch.from_numpy(np.prod(np.sin(np.pi * nodes), axis=1))[:, None]


def steady_channel(size: float) -> tuple[Callable[[], torch.Tensor], torch.Tensor]:
    """Drag and pressure drop of the cylinder at Re = 20, after six seconds; meshing is not counted."""

    def ours() -> torch.Tensor:
        settings = {"reynolds": 20.0, "speed": 0.2, "perturbation": 0.0, "spin_up": 5.0, "duration": 1.0, "frames": 3}
        case = run("channel", triangle=5 * size, triangle_at_obstacles=size, **settings)
        p = case.read("p")[-1, :, 0]
        ends = [p[np.hypot(case.nodes[:, 0] - x, case.nodes[:, 1] - 0.2).argmin()] for x in (0.15, 0.25)]
        return torch.tensor([case.results["drag_mean"].value, ends[0] - ends[1]], dtype=torch.float64)

    return ours, STEADY


def shedding(bench: Bench) -> Iterator[Row]:
    """The wake at Re = 100, once: published Strouhal number 0.295 to 0.305, drag 3.22 to 3.24, lift 0.99 to 1.01."""
    began = time.perf_counter()
    case = run("channel", duration=1.0, frames=51)
    took = (time.perf_counter() - began) * 1e3
    at = shape(equation="channel", reynolds=100, vertices=len(case.nodes), simulated_s=4)
    times = Times(took, took, took, None, None, (took,))
    yield bench.row("simulate", "farfield", "", at, "fp64", times=times)
    for metric in ("strouhal", "drag_max", "lift_max"):
        yield bench.row("simulate", "farfield", "", at, "fp64", metric=metric, value=case.results[metric].value)


def cases(bench: Bench) -> Iterator[Row]:
    """Every equation at the size of its recipe; --quick takes small ones and leaves the shedding wake out."""
    quick = bench.quick
    n = 8 if quick else 32
    providers, exact = heat(n)
    tolerance = {"farfield": 1e-12, "py-pde": 0.05}
    for provider, times in measure_together(
        providers, expected=exact, tolerance=tolerance, seconds=bench.seconds
    ).items():
        cells = 2 * n if provider == "farfield" else n
        yield bench.row("simulate", provider, "", shape(equation="heat", cells=cells, frames=11), "fp64", times=times)
    cells, size, fine = (24, 0.1, 0.02) if quick else (64, 0.04, 0.01)
    ours: list[tuple[str, dict[str, Any], Any, float]] = [
        ("wave", {"cells": cells, "frames": 101}, wave(cells), 1e-11),
        ("navier-stokes", {"cells": cells, "frames": 101}, navier_stokes(cells), 1e-4),
        ("burgers", {"cells": 512, "frames": 101}, burgers(512), 1e-5),
        ("heat-domain", {"triangle": size, "frames": 101}, heat_domain(size), 1e-2),
        ("channel", {"reynolds": 20, "triangle_at_obstacles": fine, "simulated_s": 6}, steady_channel(fine), 0.02),
    ]
    for kind, sizes, (run_, exact), limit in ours:
        few = {"min_rounds": 1, "max_rounds": 1} if kind == "channel" else {"min_rounds": 3}
        found = measure_together({"farfield": run_}, expected=exact, tolerance=limit, seconds=bench.seconds, **few)
        yield bench.row("simulate", "farfield", "", shape(equation=kind, **sizes), "fp64", times=found["farfield"])
    if not quick:
        yield from shedding(bench)


if __name__ == "__main__":
    main("simulate", cases)
