"""companion_ssm against dense Krylov products: kernels, unit poles, spectra, orders, closed loops, states."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import Bench, Row, main, measure_together, shape, speedup
from farfield.core_ops import FilterSpectrum, fftconv
from farfield.core_ops.companion_ssm import (
    closed_loop_kernel,
    companion_kernel,
    companion_spectrum,
    companion_step_,
    last_state,
    rtf_kernel,
)
from farfield.core_ops.companion_ssm.reference import closed_loop_kernel_reference, companion_matrix

# (H, d, L): the layer of SpaceTime's README, and a long one.
KERNELS = ((128, 64, 720), (16, 512, 4096))
# (B, H, d, L): convolutions by a filter that is made each time.
FILTERS = ((1, 128, 64, 720), (50, 128, 64, 720), (1, 16, 512, 4096), (1, 256, 64, 8192), (1, 256, 64, 16384))
ORDERS = (16, 64, 256, 1024, 2048)
# (B, H, d, lag, horizon): its decoder.
DECODER = (50, 128, 64, 336, 720)
TOLERANCE = 1e-6


def doubled(matrix: Tensor, start: Tensor, length: int) -> Tensor:
    """Columns matrix^l start by repeated squaring: (H, d, length)."""
    columns, power = start[..., None], matrix
    while columns.shape[-1] < length:
        columns = torch.cat([columns, power @ columns], -1)
        if columns.shape[-1] < length:
            power = power @ power
    return columns[..., :length]


def dense_kernel(a: Tensor, b: Tensor, c: Tensor, length: int) -> Tensor:
    """The usual way: all states by dense products, then c."""
    return (c[:, None] @ doubled(companion_matrix(a), b, length))[:, 0]


def dense_loop(a: Tensor, b: Tensor, c: Tensor, k: Tensor, horizon: int) -> Tensor:
    """The closed loop by dense products."""
    return doubled((companion_matrix(a) + b[..., None] * k[:, None]).mT, c, horizon)


def dense_last_state(u: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The state after a window, all Krylov columns at hand."""
    return torch.einsum("bhn,hdn->bhd", u, doubled(companion_matrix(a), b, u.shape[-1]).flip(-1))


def draw(bench: Bench, *size: int, count: int = 1) -> list[Tensor]:
    """Random vectors of l1 norm 1."""
    g = torch.Generator().manual_seed(0)
    vectors = [torch.randn(*size, generator=g) for _ in range(count)]
    return [(v / v.abs().sum(-1, keepdim=True)).to(bench.device) for v in vectors]


def compare(
    bench: Bench,
    name: str,
    where: str,
    providers: dict[str, Callable[[], Tensor]],
    expected: Tensor,
    passes: str = "fwd",
) -> Iterator[Row]:
    """Rows of time, and the ratio of each of ours to the dense one where there is one."""
    times = measure_together(providers, expected=expected, tolerance=TOLERANCE, seconds=bench.seconds)
    for provider, t in times.items():
        yield bench.row(name, provider, passes, where, "fp32", times=t)
    for provider in times:
        if provider != "dense" and "dense" in times:
            ratio = speedup(times, provider, "dense")
            yield bench.row(name, provider, passes, where, "fp32", metric="speedup_over_dense", value=ratio)


def cases(bench: Bench) -> Iterator[Row]:
    """companion_ssm and dense products side by side."""
    with torch.no_grad():
        for h, d, length in ((4, 8, 50),) if bench.quick else KERNELS:
            yield from kernel(bench, h, d, length)
        for b, h, d, length in ((2, 4, 8, 50),) if bench.quick else FILTERS:
            yield from spectrum(bench, b, h, d, length)
        yield from order(bench, *((2, 60) if bench.quick else (16, 8192)))
        yield from decoder(bench, *((2, 3, 4, 9, 7) if bench.quick else DECODER))
    yield from gradient(bench, *((4, 8, 50) if bench.quick else KERNELS[0]))


def kernel(bench: Bench, h: int, d: int, length: int) -> Iterator[Row]:
    """Random systems of norm 1, and seasons: d poles on the unit circle."""
    a, b, c = draw(bench, h, d, count=3)
    where = shape(H=h, d=d, L=length)
    wide = [x.double() for x in (a, b, c)]
    providers = {
        "farfield": lambda: companion_kernel(a, b, c, length),
        "farfield-float64": lambda: companion_kernel(*wide, length),
        "dense": lambda: dense_kernel(a, b, c, length),
    }
    yield from compare(bench, "companion_kernel", where, providers, dense_kernel(*wide, length))
    season = torch.zeros_like(a)
    season[:, 0] = 1
    providers = {
        "farfield": lambda: companion_kernel(season, b, c, length),
        "farfield-float64": lambda: companion_kernel(season.double(), b, c, length),
        "dense": lambda: dense_kernel(season, b, c, length),
    }
    yield from compare(
        bench, "companion_kernel", f"{where} poles=unit", providers, dense_kernel(season.double(), *wide[1:], length)
    )
    # Beyond norm 1 nothing is certified: blocks bound what they lose.
    beyond = 1.02 * a
    providers = {"farfield": lambda: companion_kernel(beyond, b, c, length)}
    expected = dense_kernel(beyond.double(), *wide[1:], length)
    yield from compare(bench, "companion_kernel", f"{where} norm=1.02", providers, expected)


def captured(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A CUDA graph of a call, so that Python's time is not in it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = call()

    def replay() -> Tensor:
        graph.replay()
        return y

    return replay


def spectrum(bench: Bench, batch: int, h: int, d: int, length: int) -> Iterator[Row]:
    """Taps alone, then a convolution by taps, by their spectrum in two launches and in one; on a GPU as graphs."""
    a, b, c = draw(bench, h, d, count=3)
    u = torch.randn(batch, h, length, generator=torch.Generator().manual_seed(1)).to(bench.device, torch.bfloat16)
    on_gpu = bench.device.type == "cuda"
    run = captured if on_gpu else lambda call: call
    # A CUDA graph cannot hold the check of "series".
    impls = ("cuda", "triton") if on_gpu else ("series",)
    taps = {impl: partial(companion_kernel, a, b, c, length, impl=impl) for impl in impls}
    providers = {f"farfield-{impl}": run(call) for impl, call in taps.items()}
    truth = companion_kernel(*(x.double() for x in (a, b, c)), length)
    yield from compare(bench, "companion_kernel", f"{shape(H=h, d=d, L=length)} graph={int(on_gpu)}", providers, truth)
    first = taps[impls[0]]
    providers = {
        "farfield": run(lambda: fftconv(u, companion_spectrum(a, b, c, length, impl=impls[0]))),
        "farfield-two-launches": run(lambda: fftconv(u, FilterSpectrum(first()))),
        "farfield-taps": run(lambda: fftconv(u, first())),
    }
    expected = fftconv(u.double(), truth)
    times = measure_together(providers, expected=expected, tolerance=1e-2, seconds=bench.seconds)
    for provider, t in times.items():
        where = f"{shape(B=batch, H=h, d=d, L=length)} graph={int(on_gpu)}"
        yield bench.row("companion_spectrum", provider, "fwd", where, "bf16", times=t)


def order(bench: Bench, h: int, length: int) -> Iterator[Row]:
    """rtf_kernel of all orders, turn by turn: its cost does not depend on the order."""
    providers, truths = {}, []
    for n in (2, 7, 20) if bench.quick else ORDERS:
        num, den = (x / 2 for x in draw(bench, h, n, count=2))
        truths.append(rtf_kernel(num.double(), den.double(), None, length))
        providers[f"N={n}"] = lambda num=num, den=den: rtf_kernel(num, den, None, length)
    for (name, run), truth in zip(providers.items(), truths, strict=True):
        error = (run() - truth).norm() / truth.norm()
        if not error <= TOLERANCE:
            raise AssertionError(f"rtf_kernel {name}: relative error {error:.3g}")
    times = measure_together(providers, seconds=bench.seconds)
    for name, t in times.items():
        yield bench.row("rtf_kernel", "farfield", "fwd", f"{shape(H=h, L=length)} {name}", "fp32", times=t)
    medians = [t.p50_ms for t in times.values()]
    where = shape(H=h, L=length)
    spread = max(medians) / min(medians)
    yield bench.row("rtf_kernel", "farfield", "fwd", where, "fp32", metric="slowest_over_fastest_order", value=spread)


def decoder(bench: Bench, batch: int, h: int, d: int, lag: int, horizon: int) -> Iterator[Row]:
    """The closed loop's kernel, the state after a window, a step."""
    a, b, c, k = draw(bench, h, d, count=4)
    wide = [x.double() for x in (a, b, c, k)]
    providers = {
        "farfield": lambda: closed_loop_kernel(a, b, c, k, horizon),
        "dense": lambda: dense_loop(a, b, c, k, horizon),
    }
    expected = closed_loop_kernel_reference(*wide, horizon)
    yield from compare(bench, "closed_loop_kernel", shape(H=h, d=d, T=horizon), providers, expected)
    u = torch.randn(batch, h, lag, generator=torch.Generator().manual_seed(1)).to(bench.device)
    providers = {"farfield": lambda: last_state(u, a, b), "dense": lambda: dense_last_state(u, a, b)}
    expected = dense_last_state(u.double(), *wide[:2])
    yield from compare(bench, "last_state", shape(B=batch, H=h, d=d, n=lag), providers, expected)
    state, now = torch.zeros(batch, h, d, device=bench.device), u[..., 0].contiguous()
    moved = 2 * state.nbytes
    times = measure_together({"farfield": lambda: companion_step_(state, now, a, b, c)}, seconds=bench.seconds)
    where = shape(B=batch, H=h, d=d)
    yield bench.row("companion_step_", "farfield", "fwd", where, "fp32", times=times["farfield"], moved_bytes=moved)


def gradient(bench: Bench, h: int, d: int, length: int) -> Iterator[Row]:
    """Forward and backward of the kernel."""
    leaves = [x.requires_grad_() for x in draw(bench, h, d, count=3)]
    w = torch.randn(h, length, generator=torch.Generator().manual_seed(2)).to(bench.device)

    def back(f: Callable[..., Tensor], given: list[Tensor], w: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((f(*given, length) * w).sum(), given)

    wide = [x.detach().double().requires_grad_() for x in leaves]
    times = measure_together(
        {"farfield": lambda: back(companion_kernel, leaves, w), "dense": lambda: back(dense_kernel, leaves, w)},
        expected=back(dense_kernel, wide, w.double()),
        tolerance=10 * TOLERANCE,
        seconds=bench.seconds,
    )
    where = shape(H=h, d=d, L=length)
    for provider, t in times.items():
        yield bench.row("companion_kernel", provider, "fwdbwd", where, "fp32", times=t)
    ratio = speedup(times, "farfield", "dense")
    yield bench.row("companion_kernel", "farfield", "fwdbwd", where, "fp32", metric="speedup_over_dense", value=ratio)


if __name__ == "__main__":
    main("companion_ssm", cases)
