"""fftconv on a GPU: ours, torch's rfft, FlashFFTConv where it is importable, the byte floor; forward and backward.

A row is y = q * causal(p * u, k) or its gradients. Times of scaled rows are for B H = 49,152. `sets` inputs take turns,
so that no input is in the cache; timer=graph replays one CUDA graph over all of them, timer=events times single calls
from an idle GPU, launches included. k is transformed in every call unless the row says cached=1.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import torch
from torch import Tensor

from benchmarks.harness import Bench, Row, Times, WrongResult, peak_bytes, shape
from farfield.core_ops import FilterSpectrum, KernelUnavailable, fftconv
from farfield.core_ops.fftconv.cuda.impl import conv_cuda_backward

# (L, B, H): as the peers were measured.
SCALED = (
    *((1 << m, 64, 768) for m in range(7, 13)),
    *((8192, 32, 768), (16384, 16, 768), (32768, 8, 768), (65536, 8, 384), (131072, 8, 192), (262144, 8, 96)),
    *((524288, 8, 48), (1 << 20, 8, 32), (1 << 21, 8, 16), (1 << 22, 8, 8)),
)
# (L, B, H): timed as they are, the last one is HyenaDNA's.
UNSCALED = (*((length, b, 768) for length in (1024, 4096, 32768) for b in (1, 2, 8)), (1 << 20, 1, 256))
FP32, FP16 = (128, 1024, 4096, 8192, 32768, 131072, 1 << 20), (4096, 32768, 1 << 20)
NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
CHANNELS = 49152
# Inputs that take turns in every row.
SETS = 4
# Relative L2 error beyond which nothing is timed: ours, torch's, the peer's; of dk, in every dtype.
DK = (2e-6, 1e-4, 2e-2)
BOUNDS = {torch.float32: (1e-6, 1e-5, 1e-5), torch.float16: (5e-4, 1e-3, 3e-3), torch.bfloat16: (2e-3, 4e-3, 1e-2)}
COLD = """
import sys, time, torch
from farfield.core_ops import fftconv
from farfield.core_ops.fftconv.cuda.impl import eager_gradients
length = int(sys.argv[1])
u, k = torch.randn(1, 16, length, device="cuda").bfloat16(), torch.randn(16, length, device="cuda")
torch.cuda.synchronize()
began = time.perf_counter()
if sys.argv[2] == "fwd":
    fftconv(u, k, pregate=u, postgate=u, impl="cuda")
else:
    eager_gradients(u, u, k, u, u, None, None, "causal")
torch.cuda.synchronize()
print(time.perf_counter() - began)
"""
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclasses.dataclass(frozen=True)
class Case:
    """One shape, dtype and pass: inputs u, k, p, q, dy."""

    length: int
    batch: int
    channels: int
    dtype: torch.dtype
    passes: str
    scaled: bool

    def inputs(self, device: torch.device) -> list[Inputs]:
        """Random inputs."""
        torch.manual_seed(0)
        size = (self.batch, self.channels, self.length)

        def normal() -> Tensor:
            return torch.randn(size, device=device, dtype=self.dtype)

        return [(normal(), torch.randn(size[1:], device=device), normal(), normal(), normal()) for _ in range(SETS)]

    def floor_bytes(self) -> int:
        """u, p, q, y, or the same with dy and three gradients, of the rows that are reported."""
        rows = CHANNELS if self.scaled else self.batch * self.channels
        return (4 if self.passes == "fwd" else 7) * self.dtype.itemsize * rows * self.length

    def sizes(self, **more: int | str) -> str:
        """The column `shape`."""
        given: dict[str, int | str] = {"B": self.batch, "H": self.channels, "L": self.length, "causal": 1, "gated": 1}
        return shape(**given, **more, **({} if self.scaled else {"scaled": 0}))


def transformed(u: Tensor, k: Tensor, p: Tensor, q: Tensor, spectrum: Tensor | None) -> Tensor:
    """torch's rfft in fp32."""
    n = 2 * u.shape[-1]
    kf = torch.fft.rfft(k, n) if spectrum is None else spectrum
    return (q * torch.fft.irfft(torch.fft.rfft(u.float() * p, n) * kf, n)[..., : u.shape[-1]]).to(u.dtype)


def exact(given: Inputs, batch: int, channels: int) -> tuple[Tensor, ...]:
    """y, du, dp, dq of some rows, and dk of the first channel, in float64."""
    u, k, p, q, dy = (x[:channels].double() if x.dim() == 2 else x[:, :channels].double() for x in given)
    length, n = u.shape[-1], 2 * u.shape[-1]
    kf = torch.fft.rfft(k, n)

    def convolved(x: Tensor, spectrum: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(x, n) * spectrum, n)[..., :length]

    some = slice(0, batch)
    c = convolved(u[some] * p[some], kf)
    d = convolved(q[some] * dy[some], kf.conj())
    of_k = torch.fft.rfft(q[:, :1] * dy[:, :1], n) * torch.fft.rfft(u[:, :1] * p[:, :1], n).conj()
    dk = torch.fft.irfft(of_k.sum(0), n)[..., :length]
    return q[some] * c, p[some] * d, u[some] * d, dy[some] * c, dk


def distance(a: Tensor, b: Tensor) -> float:
    """Relative L2; NaN counts as infinite."""
    d = ((a.double() - b).norm() / b.norm()).item()
    return d if d == d else float("inf")


def checked(case: Case, given: Inputs, result: Tensor | tuple[Tensor, ...], name: str) -> float:
    """The error on part of the rows.

    Raises: WrongResult: beyond the bound.
    """
    column = 0 if name.startswith("cuda") else 1 if name.startswith("torch") else 2
    bound, channels, batch = BOUNDS[case.dtype][column], 2 if case.length < 1 << 20 else 1, min(2, case.batch)
    y, du, dp, dq, dk = exact(given, batch, channels)
    if isinstance(result, Tensor):
        error = distance(result[:batch, :channels], y)
    else:
        error = max(distance(a[:batch, :channels], b) for a, b in zip(result[:3], (du, dp, dq), strict=True))
        if not distance(result[3][:1], dk) <= DK[column]:
            raise WrongResult(f"{name} {case}: dk is {distance(result[3][:1], dk):.2g} from float64")
    if not error <= bound:
        raise WrongResult(f"{name} {case}: relative error {error:.3g} exceeds {bound:.3g}")
    return error


def timed(run: Callable[[Inputs], object], sets: list[Inputs], timer: str, scale: float, seconds: float) -> Times:
    """Percentiles of at most 15 samples of a call."""
    for given in sets:
        run(given)
    peak = peak_bytes(lambda: run(sets[0]), on_gpu=True)  # type: ignore[arg-type, return-value]
    graph = None
    if timer == "graph":
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        with torch.cuda.graph(graph, stream=stream):
            for given in sets:
                run(given)
        # The first replay also uploads the graph.
        graph.replay()
    samples: list[float] = []
    spent = 0.0
    while len(samples) < 9 or (len(samples) < 15 and spent < seconds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        if graph is None:
            run(sets[len(samples) % len(sets)])
        else:
            graph.replay()
        end.record()
        end.synchronize()
        spent += start.elapsed_time(end) / 1e3
        samples.append(start.elapsed_time(end) / (1 if graph is None else len(sets)) * scale)
    q = torch.tensor(samples, dtype=torch.float64).quantile(torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64))
    del graph
    return Times(q[0].item(), q[1].item(), q[2].item(), peak, None, tuple(samples))


def forwards(case: Case) -> Iterator[tuple[str, int, Callable[[Inputs], Tensor]]]:
    """(provider, cached, run) of the forward."""
    kept: dict[int, FilterSpectrum] = {}
    spectra: dict[int, Tensor] = {}

    def cached(given: Inputs) -> Tensor:
        u, k, p, q, _ = given
        return fftconv(u, kept.setdefault(id(k), FilterSpectrum(k)), pregate=p, postgate=q, impl="cuda")

    def torch_cached(given: Inputs) -> Tensor:
        u, k, p, q, _ = given
        if id(k) not in spectra:
            spectra[id(k)] = torch.fft.rfft(k, 2 * case.length)
        return transformed(u, k, p, q, spectra[id(k)])

    yield "cuda-fp32", 0, lambda g: fftconv(g[0], g[1], pregate=g[2], postgate=g[3], impl="cuda")
    yield "cuda-fp32", 1, cached
    yield "torch-rfft", 0, lambda g: transformed(*g[:4], None)
    yield "torch-rfft", 1, torch_cached
    if find_spec("flashfftconv") is not None and case.dtype != torch.float32 and case.length <= 1 << 21:
        yield "flashfftconv", 0, lambda g: fftconv(g[0], g[1], pregate=g[2], postgate=g[3], impl="flashfftconv")


def backwards(case: Case) -> Iterator[tuple[str, int, Callable[[Inputs], tuple[Tensor, ...]]]]:
    """(provider, cached, run) of du, dp, dq, dk."""
    graphs: dict[tuple[str, int], tuple[Tensor, list[Tensor]]] = {}

    def ours(given: Inputs) -> tuple[Tensor, ...]:
        u, k, p, q, dy = given
        du, dk, dp, dq = conv_cuda_backward(dy, u, k, p, q, None)
        return du, dp, dq, dk

    def theirs(name: str, given: Inputs) -> tuple[Tensor, ...]:
        key = (name, id(given[1]))
        if key not in graphs:
            # The graphs of another provider go: four sets of torch's hold some 30 GB.
            for other in [each for each in graphs if each[0] != name]:
                del graphs[other]
            u, k, p, q = leaves = [x.detach().requires_grad_() for x in given[:4]]
            torch_s = name == "torch-rfft"
            y = transformed(u, k, p, q, None) if torch_s else fftconv(u, k, pregate=p, postgate=q, impl=name)
            graphs[key] = (y, leaves)
        y, leaves = graphs[key]
        with torch.enable_grad():
            du, dk, dp, dq = torch.autograd.grad(y, leaves, given[4], retain_graph=True)
        return du, dp, dq, dk

    yield "cuda-fp32", 0, ours
    names = ["torch-rfft"]
    if find_spec("flashfftconv") is not None and case.dtype != torch.float32 and case.length <= 1 << 21:
        names.append("flashfftconv")
    for name in names:
        yield name, 0, lambda g, name=name: theirs(name, g)  # type: ignore[misc]


def measured(bench: Bench, case: Case, peers: bool, timers: tuple[str, ...]) -> Iterator[Row]:
    """The rows of a case; a provider that is wrong or does not fit is named on stdout and has none."""
    torch.cuda.empty_cache()
    sets = case.inputs(bench.device)
    scale = CHANNELS / (case.batch * case.channels) if case.scaled else 1.0
    grad = torch.enable_grad() if case.passes == "bwd" else torch.no_grad()
    for name, cached, run in forwards(case) if case.passes == "fwd" else backwards(case):
        if not peers and not name.startswith("cuda"):
            continue
        # What autograd runs goes to the stream of its forward, outside any capture.
        by_autograd = case.passes == "bwd" and not name.startswith("cuda")
        # FlashFFTConv launches on the default stream, whatever torch's is: a capture would miss its kernels.
        for timer in ("events",) if by_autograd or name == "flashfftconv" else timers:
            try:
                with grad:
                    distant = checked(case, sets[0], run(sets[0]), name)
                    times = timed(run, sets, timer, scale, bench.seconds)
            except (torch.OutOfMemoryError, WrongResult, KernelUnavailable) as error:
                print(f"NOT TIMED: {name} {case}: {str(error).splitlines()[0]}", flush=True)
                torch.cuda.empty_cache()
                continue
            more: dict[str, int | str] = {"sets": SETS, "timer": timer, **({"cached": 1} if cached else {})}
            yield bench.row(
                "fftconv", name, case.passes, case.sizes(**more), NAMES[case.dtype],
                times=dataclasses.replace(times, rel_err=distant), moved_bytes=case.floor_bytes(),
            )  # fmt: skip


def plan_times(bench: Bench) -> Iterator[Row]:
    """Seconds of a first call in a fresh process, with an empty and with a filled cache of cubins."""
    for length, kind in ((4096, "fwd"), (1 << 20, "fwd"), (1 << 22, "fwd"), (8192, "bwd"), (1 << 20, "bwd")):
        with tempfile.TemporaryDirectory() as folder:
            for metric in ("cold_plan_s", "cached_plan_s"):
                # NVRTC keeps a cache of its own.
                environment = os.environ | {"FARFIELD_CACHE": folder, "CUDA_CACHE_PATH": folder}
                command = [sys.executable, "-c", COLD, str(length), kind]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                sizes = shape(B=1, H=16, L=length, causal=1, gated=1)
                yield bench.row(
                    "fftconv", "cuda-fp32", kind, sizes, "bf16", metric=metric, value=float(done.stdout.split()[-1])
                )


def gpu_cases(bench: Bench, lengths: set[int], passes: tuple[str, ...], peers: bool) -> Iterator[Row]:
    """All rows on a GPU, or those of some lengths and passes."""
    wanted = [s for s in SCALED if not lengths or s[0] in lengths]
    if bench.quick:
        wanted = [(1024, 4, 64)]
    for length, batch, channels in wanted:
        for kind in passes:
            yield from measured(bench, Case(length, batch, channels, torch.bfloat16, kind, True), peers, ("graph",))
    for dtype, some in ((torch.float32, FP32), (torch.float16, FP16)):
        for length, batch, channels in wanted:
            if length in some and "fwd" in passes:
                yield from measured(bench, Case(length, batch, channels, dtype, "fwd", True), peers, ("graph",))
    for length, batch, channels in UNSCALED:
        if (not lengths or length in lengths) and not bench.quick:
            for kind in passes:
                case = Case(length, batch, channels, torch.bfloat16, kind, False)
                yield from measured(bench, case, False, ("graph", "events"))
    if not lengths:
        yield from plan_times(bench)
