"""field: a value at any place and time, one and a million at once; on rectangles and on a mesh; beside scipy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Bench, Row, Times, main, measure_together, shape
from farfield.apps.physics.coarsen import choose
from farfield.apps.physics.equations.domain import Bar, Disk, Domain, triangulate
from farfield.apps.physics.field import Field
from farfield.apps.physics.irregular import Irregular
from farfield.apps.physics.rectangle import Rectangle
from farfield.apps.physics.space import SpaceMap
from farfield.apps.physics.times import TimeMap

DOMAIN = Domain((1.0, 1.0), (Disk("hole", (0.3, 0.65), 0.12), Bar("wall", (0.6, 0.2), (0.62, 0.8))))
QUERIES = (1, 1_000, 1_000_000)
COMPONENTS = 3


def truth(p: Tensor, t: Tensor) -> Tensor:
    """Three smooth components."""
    x, y = p[..., 0], p[..., 1]
    wave = [torch.sin(4 * x + k) * torch.cos(3 * y - k) * torch.cos(5 * t) for k in range(COMPONENTS)]
    return torch.stack([w + k for k, w in enumerate(wave)], -1)


def field_on(space: SpaceMap, time_map: TimeMap, dtype: torch.dtype) -> Field:
    """The field of `truth`, known at the map's nodes and times."""
    values = truth(space.nodes[None], time_map.nodes[:, None]).to(dtype)
    return Field(space, time_map, values, [f"u{k}" for k in range(COMPONENTS)])


def spaces(quick: bool) -> Iterator[tuple[str, SpaceMap, float]]:
    """Maps, and the error that their few nodes leave."""
    cells = 4 if quick else 8
    yield f"rectangle-{cells}x{cells}", Rectangle.uniform([0, 0], [1, 1], [cells, cells]), 2e-3
    nodes, triangles = triangulate(DOMAIN, 0.1 if quick else 0.03, 0.02)
    parts = DOMAIN.boundary(nodes)
    count = 100 if quick else 400
    chosen = choose(nodes, {"triangle": triangles}, count, parts)
    yield (
        f"mesh-{len(nodes)}-chosen-{count}",
        Irregular(nodes, {"triangle": triangles}, parts, chosen, list(parts)),
        3e-2,
    )


def cases(bench: Bench) -> Iterator[Row]:
    """All rows."""
    time_map = TimeMap.collocation(torch.linspace(0, 1, 9))
    for name, space, error in spaces(bench.quick):
        for dtype, word in ((torch.float32, "fp32"), (torch.float64, "fp64")):
            field = field_on(space, time_map, dtype)
            for count in QUERIES[:2] if bench.quick else QUERIES:
                p, t = queries(space, count)
                exact = truth(p, t)
                provider: dict[str, Callable[[], Tensor]] = {"farfield": lambda f=field, p=p, t=t: f(p, t)}
                found = measure_together(provider, expected=exact, tolerance=5 * error, seconds=bench.seconds)[
                    "farfield"
                ]
                where = shape(space=name, C=COMPONENTS, time_cells=8, Q=count)
                yield bench.row("field", "farfield", "", where, word, times=found)
        yield from once(bench, name, space, time_map)
    if not bench.quick:
        yield from scipy_rows(bench)


def queries(space: SpaceMap, count: int) -> tuple[Tensor, Tensor]:
    """Points of the domain and times, in no order."""
    rng = np.random.default_rng(0)
    p = torch.from_numpy(rng.random((2 * count + 50, 2)))
    p = p[space.contains(p)][:count]
    return p, torch.from_numpy(rng.random(len(p)))


def once(bench: Bench, name: str, space: SpaceMap, time_map: TimeMap) -> Iterator[Row]:
    """What the first query waits for: the tables; and every node of the map at all times, 101 frames."""
    began = time.perf_counter()
    field_on(space, time_map, torch.float32)(*queries(space, 1))
    took = (time.perf_counter() - began) * 1e3
    where = shape(space=name, C=COMPONENTS, time_cells=8, first_query="yes")
    yield bench.row("field", "farfield", "", where, "fp32", times=Times(took, took, took, None, None, (took,)))
    field, frames = field_on(space, time_map, torch.float32), torch.linspace(0, 1, 101, dtype=torch.float64)
    points = space.mesh(4)[0]
    found = measure_together({"farfield": lambda: field.frames(points, frames)}, seconds=bench.seconds)["farfield"]
    where = shape(space=name, C=COMPONENTS, time_cells=8, frames=101, points=len(points))
    yield bench.row("field", "farfield", "", where, "fp32", times=found)


def scipy_rows(bench: Bench) -> Iterator[Row]:
    """A million queries with scipy on a grid of as many values: splines of a whole grid, and piecewise linear ones."""
    from scipy.interpolate import RegularGridInterpolator
    from scipy.ndimage import map_coordinates, spline_filter

    space, times = Rectangle.uniform([0, 0], [1, 1], [8, 8]), TimeMap.collocation(torch.linspace(0, 1, 9))
    field = field_on(space, times, torch.float64)
    p, t = queries(space, 1_000_000)
    n = [len(times.nodes), *space.shape]
    axes = [torch.linspace(0, 1, k, dtype=torch.float64) for k in n]
    grid = truth(torch.stack(torch.meshgrid(*axes[1:], indexing="ij"), -1)[None], axes[0][:, None, None]).numpy()
    filtered = [spline_filter(grid[..., k], 3, mode="mirror") for k in range(COMPONENTS)]
    place = np.stack([t.numpy() * (n[0] - 1), p[:, 0].numpy() * (n[1] - 1), p[:, 1].numpy() * (n[2] - 1)])
    linear = RegularGridInterpolator([a.numpy() for a in axes], grid)

    def splines() -> Tensor:
        found = [map_coordinates(f, place, order=3, mode="mirror", prefilter=False) for f in filtered]
        return torch.from_numpy(np.stack(found, axis=-1))

    providers = {
        "farfield": lambda: field(p, t),
        "scipy-map_coordinates": splines,
        "scipy-linear": lambda: torch.from_numpy(linear(np.stack([t.numpy(), *p.numpy().T], axis=-1))),
    }
    found = measure_together(providers, expected=truth(p, t), tolerance=0.1, seconds=bench.seconds)
    where = shape(values="x".join(map(str, n)), C=COMPONENTS, Q=len(p), beside="scipy")
    for provider, took in found.items():
        yield bench.row("field", provider, "", where, "fp64", times=took)


if __name__ == "__main__":
    main("field", cases)
