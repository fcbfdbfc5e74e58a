"""spline_collocation: fixed operators, a partition a series, two dimensions, adapted knots; against dense solves."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.harness import Bench, Row, main, measure_together, shape, speedup
from farfield.core_ops.banded import tridiagonal_solve
from farfield.core_ops.spline_collocation import SplineCollocation, TensorCollocation, curvature, equidistribute, fused

# (series, cells, order, queries)
LINES = ((10_000, 16, 3, 32), (10_000, 16, 3, 64), (1_000, 64, 5, 256))
GPU_LINES = ((2**19, 16, 3, 64), (2**18, 32, 3, 128), (2**16, 64, 5, 512), (10_000, 16, 3, 64))
QUICK = ((50, 4, 3, 8),)
SYSTEMS = ((10_000, 15), (1, 1_000), (64, 63))
TOLERANCE = 1e-5


def random_knots(series: int, cells: int, device: torch.device) -> Tensor:
    """Partitions of [0, 1] with neighbours of any ratio up to 11."""
    g = torch.Generator(device).manual_seed(0)
    widths = 0.1 + torch.rand(series, cells, generator=g, device=device)
    knots = torch.nn.functional.pad(widths.cumsum(-1), (1, 0))
    return knots / knots[:, -1:]


def dense(spline: SplineCollocation, data: Tensor, x: Tensor) -> Tensor:
    """What a library without banded solves does: every series' collocation matrix, by torch.linalg.solve."""
    n, r, knots = spline.cells, spline.order, spline.knots
    cell = spline.cell.to(data)
    h = knots.diff()
    system = data.new_zeros(*knots.shape[:-1], n + 1, n + 1)
    d0, d1, inner = cell.derivative[0], cell.derivative[-1], data[..., 1:-1].unflatten(-1, (n, r - 1))
    slopes = (inner @ d0[1:-1]) / h, (inner @ d1[1:-1]) / h
    system[..., 0, 0] = system[..., n, n] = 1
    i = torch.arange(1, n, device=data.device)
    system[..., i, i - 1], system[..., i, i + 1] = d1[0] / h[..., :-1], -d0[-1] / h[..., 1:]
    system[..., i, i] = d1[-1] / h[..., :-1] - d0[0] / h[..., 1:]
    rhs = torch.cat([data[..., :1], slopes[0][..., 1:] - slopes[1][..., :-1], data[..., -1:]], -1)
    v = torch.linalg.solve(system, rhs[..., None])[..., 0]
    coeffs = torch.cat([torch.cat([v[..., :-1, None], inner], -1).flatten(-2), v[..., -1:]], -1)
    return spline.evaluate(coeffs, x)


def cases(bench: Bench) -> Iterator[Row]:
    """All rows of this machine."""
    gpu = bench.device.type == "cuda"
    for line in QUICK if bench.quick else GPU_LINES if gpu else LINES:
        yield from fixed(bench, *line)
        yield from own_partitions(bench, *line)
    yield from square(bench)
    yield from systems(bench)
    yield from accuracy(bench)


def inputs(bench: Bench, series: int, cells: int, order: int, queries: int) -> tuple[Tensor, Tensor]:
    """Data of every series, and sorted queries for all."""
    g = torch.Generator(bench.device).manual_seed(1)
    data = torch.randn(series, cells * (order - 1) + 2, generator=g, device=bench.device)
    return data, torch.linspace(0, 1, queries, device=bench.device)


def fixed(bench: Bench, series: int, cells: int, order: int, queries: int) -> Iterator[Row]:
    """One partition for all series: the cached operator, and the solve without it."""
    data, x = inputs(bench, series, cells, order, queries)
    knots = torch.linspace(0, 1, cells + 1, device=bench.device)
    spline = SplineCollocation(knots, order)
    wide = SplineCollocation(knots.double(), order)
    providers: dict[str, Callable[[], Tensor]] = {
        "farfield": lambda: spline(data, x),
        "farfield-solve": lambda: spline(data, x, impl="torch"),
        "torch-dense": lambda: dense(spline, data, x),
    }
    if bench.device.type == "cpu":
        # What is left when all but the product is free.
        matrix = spline.operator(x)
        providers["torch-gemm"] = lambda: data @ matrix.mT
    where = shape(B=series, N=cells, r=order, Q=queries, partition="one")
    yield from rows(
        bench, providers, where, wide(data.double(), x.double()), series, 4 * (data.numel() + series * queries)
    )


def own_partitions(bench: Bench, series: int, cells: int, order: int, queries: int) -> Iterator[Row]:
    """A partition for each series, and queries for all or for each."""
    data, shared = inputs(bench, series, cells, order, queries)
    knots = random_knots(series, cells, bench.device)
    spline = SplineCollocation(knots, order, check=bench.device.type != "cuda")
    g = torch.Generator(bench.device).manual_seed(2)
    own = torch.rand(series, queries, generator=g, device=bench.device)
    for name, x in (("all", shared), ("each", own)):
        providers: dict[str, Callable[[], Tensor]] = {"farfield": lambda x=x: spline(data, x)}
        if bench.device.type == "cuda":
            providers["farfield-torch"] = lambda x=x: spline(data, x, impl="torch")
        else:
            # Coefficients that are kept, and a partition that is new, looked at and thrown away.
            providers["farfield-steps"] = lambda x=x: spline.evaluate(spline.fit(data), x)
            providers["farfield-new"] = lambda x=x: SplineCollocation(knots, order)(data, x)
        providers["torch-dense"] = lambda x=x: dense(spline, data, x)
        wide = SplineCollocation(knots.double(), order)(data.double(), x.double(), impl="torch")
        where = shape(B=series, N=cells, r=order, Q=queries, partition="each", queries=name)
        moved = 4 * (data.numel() + knots.numel() + x.numel() + series * queries)
        with torch.no_grad():
            yield from rows(bench, providers, where, wide, series, moved)
    leaves = (data.clone().requires_grad_(), knots.clone().requires_grad_(), own.clone().requires_grad_())
    dy = torch.randn(series, queries, generator=g, device=bench.device)

    def gradients(impl: str) -> tuple[Tensor, ...]:
        y = SplineCollocation(leaves[1], order, check=False)(leaves[0], leaves[2], impl=impl)
        return torch.autograd.grad(y, leaves, dy)

    impls = {"farfield": "auto"} | ({"farfield-torch": "torch"} if bench.device.type == "cuda" else {})
    times = measure_together({p: (lambda i=i: gradients(i)) for p, i in impls.items()}, seconds=bench.seconds)
    where = shape(B=series, N=cells, r=order, Q=queries, partition="each", queries="each")
    moved = 4 * (3 * data.numel() + 3 * knots.numel() + 3 * own.numel() + 2 * dy.numel())
    for p, t in times.items():
        yield bench.row("spline_collocation", p, "fwdbwd", where, "fp32", times=t, moved_bytes=moved)
    if bench.device.type == "cuda":
        yield from gradients_alone(bench, leaves, dy, order, where)


def gradients_alone(bench: Bench, leaves: tuple[Tensor, ...], dy: Tensor, order: int, where: str) -> Iterator[Row]:
    """The gradients' kernel without its forward, on a GPU."""
    wide = tuple(t.detach().double().requires_grad_() for t in leaves)
    y = SplineCollocation(wide[1], order, check=False)(wide[0], wide[2], impl="torch")
    expected = torch.autograd.grad(y, wide, dy.double())
    data, knots, x = (t.detach() for t in leaves)
    _, v = fused.forward(data, knots, x, order, False, False, 0)
    providers = {"farfield": lambda: fused.backward(dy, data, knots, x, v, order, False, False, 0)}
    times = measure_together(providers, expected=expected, tolerance=TOLERANCE, seconds=bench.seconds)
    moved = 4 * (2 * data.numel() + 3 * knots.numel() + 3 * dy.numel())
    yield bench.row("spline_collocation", "farfield", "bwd", where, "fp32", times=times["farfield"], moved_bytes=moved)


def rows(
    bench: Bench, providers: dict[str, Callable[[], Tensor]], where: str, expected: Tensor, series: int, moved: int
) -> Iterator[Row]:
    """Times, microseconds a series, and the ratio to dense solves."""
    times = measure_together(providers, expected=expected, tolerance=TOLERANCE, seconds=bench.seconds)
    for p, t in times.items():
        yield bench.row("spline_collocation", p, "fwd", where, "fp32", times=t, moved_bytes=moved)
    name = "spline_collocation"
    each = times["farfield"].p50_ms * 1e3 / series
    yield bench.row(name, "farfield", "fwd", where, "fp32", metric="us_per_series", value=each)
    ratio = speedup(times, "farfield", "torch-dense")
    yield bench.row(name, "farfield", "fwd", where, "fp32", metric="speedup_over_dense", value=ratio)


def square(bench: Bench) -> Iterator[Row]:
    """32 x 32 cells of order 3, fitted and evaluated on 256 x 256: with cached operators, and from nothing."""
    knots, x = (torch.linspace(0, 1, n, device=bench.device) for n in (33, 256))

    def build() -> TensorCollocation:
        return TensorCollocation(SplineCollocation(knots, 3), SplineCollocation(knots, 3))

    field = build()
    data = torch.randn(field.size, device=bench.device)
    wide = SplineCollocation(knots.double(), 3).operator(x.double())
    providers = {"farfield": lambda: field(data, x, x), "farfield-cold": lambda: build()(data, x, x)}
    expected = wide @ data.double() @ wide.mT
    times = measure_together(providers, expected=expected, tolerance=TOLERANCE, seconds=bench.seconds)
    for p, t in times.items():
        yield bench.row("spline_collocation", p, "fwd", shape(cells="32x32", r=3, grid="256x256"), "fp32", times=t)
    coeffs, points = field.fit(data), torch.rand(1_000 if bench.quick else 1_000_000, 2, device=bench.device)
    times = measure_together({"farfield": lambda: field.at(coeffs, points)}, seconds=bench.seconds)
    where = shape(cells="32x32", r=3, points=len(points))
    yield bench.row("spline_collocation", "farfield", "fwd", where, "fp32", times=times["farfield"])


def systems(bench: Bench) -> Iterator[Row]:
    """tridiagonal_solve against torch.linalg.solve of the same matrices."""
    for batch, n in ((3, 5),) if bench.quick else SYSTEMS:
        g = torch.Generator(bench.device).manual_seed(3)
        lower, upper = (torch.rand(batch, n - 1, generator=g, device=bench.device) for _ in range(2))
        diag, rhs = (3 + torch.rand(batch, n, generator=g, device=bench.device) for _ in range(2))
        full = torch.diag_embed(lower, -1) + torch.diag_embed(diag) + torch.diag_embed(upper, 1)
        providers = {
            "farfield": lambda m=(lower, diag, upper, rhs): tridiagonal_solve(*m),
            "torch-dense": lambda full=full, rhs=rhs: torch.linalg.solve(full, rhs[..., None])[..., 0],
        }
        expected = torch.linalg.solve(full.double(), rhs.double()[..., None])[..., 0]
        times = measure_together(providers, expected=expected, tolerance=TOLERANCE, seconds=bench.seconds)
        where = shape(B=batch, n=n)
        for p, t in times.items():
            yield bench.row("tridiagonal_solve", p, "fwd", where, "fp32", times=t)
        ratio = speedup(times, "farfield", "torch-dense")
        yield bench.row("tridiagonal_solve", "farfield", "fwd", where, "fp32", metric="speedup_over_dense", value=ratio)


def accuracy(bench: Bench) -> Iterator[Row]:
    """The error of float32, Lebesgue constants, and what adapted knots gain on tanh(60 (x - 0.3))."""
    name = "spline_collocation"
    x = torch.linspace(0, 1, 4001, device=bench.device)
    for order in (3, 5, 8):
        wide = SplineCollocation(torch.linspace(0, 1, 65, dtype=torch.float64, device=bench.device), order)
        data = torch.sin(3 * torch.pi * wide.nodes)
        y = SplineCollocation(wide.knots.float(), order)(data.float(), x)
        error = (y.double() - wide(data, x.double())).abs().max().item()
        yield bench.row(name, "farfield", "", shape(N=64, r=order), "fp32", metric="max_error", value=error)
    for order in (2, 3, 4, 5, 6, 8):
        constant = SplineCollocation(random_knots(20, 12, bench.device).double(), order).lebesgue().max().item()
        yield bench.row(name, "farfield", "", shape(N=12, r=order), "fp64", metric="lebesgue", value=constant)
    fine = SplineCollocation(torch.linspace(0, 1, 1025, dtype=torch.float64, device=bench.device), 3)
    density = curvature(fine, fine.fit(torch.tanh(60 * (fine.nodes - 0.3))))
    for cells in (8, 16, 32):
        errors = []
        for knots in (fine.knots[:: 1024 // cells], equidistribute(fine.knots, density, cells)):
            spline = SplineCollocation(knots, 3)
            y = spline(torch.tanh(60 * (spline.nodes - 0.3)), fine.nodes)
            errors.append((y - torch.tanh(60 * (fine.nodes - 0.3))).abs().max().item())
        gain = errors[0] / errors[1]
        yield bench.row(name, "farfield", "", shape(N=cells, r=3), "fp64", metric="adapted_gain", value=gain)


if __name__ == "__main__":
    main("spline_collocation", cases)
