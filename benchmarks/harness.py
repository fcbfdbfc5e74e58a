"""Times several providers side by side, refuses wrong results and writes the CSV rows that every benchmark shares.

A benchmark is a generator of rows:

    def cases(bench: Bench) -> Iterator[Row]:
        times = measure_together({"farfield": ours, "torch": theirs}, expected=y64, tolerance=1e-5)
        for provider, t in times.items():
            yield bench.row("short_conv", provider, "fwd", shape(B=1, H=64, L=4096, K=3), "fp32", times=t)

    if __name__ == "__main__":
        main("short_conv", cases)
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import dataclasses
import datetime
import functools
import math
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = [
    *("name", "provider", "pass", "shape", "dtype", "p20_ms", "p50_ms", "p80_ms", "floor_ms", "peak_bytes"),
    *("rel_err", "metric", "value", "machine", "torch", "commit", "date"),
]
KEY = ("name", "provider", "pass", "shape", "dtype", "metric", "machine")
PASSES = ("fwd", "bwd", "fwdbwd", "")
GPUS = ("h200", "h100")
# Bytes per second of a copy, measured once on a quiet machine: floors of different runs are the same.
BANDWIDTHS = {"h100": 3.03e12}

Result = torch.Tensor | Sequence[torch.Tensor]


class WrongResult(AssertionError):
    """A provider's output is too far from float64 to be worth timing."""


@dataclasses.dataclass(frozen=True)
class Times:
    """What one provider took: percentiles in ms, peak bytes above the start, relative L2 error (None: not compared)."""

    p20_ms: float
    p50_ms: float
    p80_ms: float
    peak_bytes: int | None
    rel_err: float | None
    samples_ms: tuple[float, ...]


@functools.cache
def measured_commit() -> str:
    """The commit measured: git's, or FARFIELD_COMMIT where there is no git, or "unknown"."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("FARFIELD_COMMIT", "unknown")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of `results/<machine>/<word>.csv`; `passes` is the column `pass`, None is an empty field."""

    name: str
    provider: str
    passes: str
    shape: str
    dtype: str
    machine: str
    p20_ms: float | None = None
    p50_ms: float | None = None
    p80_ms: float | None = None
    floor_ms: float | None = None
    peak_bytes: int | None = None
    rel_err: float | None = None
    metric: str = ""
    value: float | None = None
    torch: str = torch.__version__
    commit: str = dataclasses.field(default_factory=measured_commit)
    date: str = dataclasses.field(default_factory=lambda: datetime.date.today().isoformat())

    def __post_init__(self) -> None:
        """Refuses rows that the schema has no place for."""
        if self.passes not in PASSES:
            raise ValueError(f"pass is {self.passes!r}; accepted: {', '.join(map(repr, PASSES))}")
        if bool(self.metric) != (self.value is not None):
            raise ValueError(f"metric={self.metric!r} value={self.value!r}; give both or none")

    def record(self) -> dict[str, str]:
        """The row as CSV fields, in the order of COLUMNS."""
        fields = dataclasses.asdict(self) | {"pass": self.passes}
        return {c: _text(fields[c]) for c in COLUMNS}


@dataclasses.dataclass(frozen=True)
class Bench:
    """What a benchmark may ask of its run: device, smoke shapes or all, seconds for a comparison."""

    device: torch.device
    quick: bool
    seconds: float

    @property
    def machine(self) -> str:
        """h100, h200 or cpu."""
        return machine(self.device)

    def row(
        self,
        name: str,
        provider: str,
        passes: str,
        shape: str,
        dtype: str,
        *,
        times: Times | None = None,
        moved_bytes: int | None = None,
        metric: str = "",
        value: float | None = None,
    ) -> Row:
        """A row of this machine; moved_bytes (read plus written, at least) gives the floor."""
        took = (
            {}
            if times is None
            else {k: getattr(times, k) for k in ("p20_ms", "p50_ms", "p80_ms", "peak_bytes", "rel_err")}
        )
        floor = None if moved_bytes is None else floor_ms(moved_bytes, self.device)
        return Row(
            name, provider, passes, shape, dtype, self.machine, floor_ms=floor, metric=metric, value=value, **took
        )


def shape(**sizes: int | str) -> str:
    """`key=value` pairs joined by spaces, in the order given: shape(B=64, L=4096) is "B=64 L=4096"."""
    return " ".join(f"{k}={v}" for k, v in sizes.items())


def machine(device: torch.device | str) -> str:
    """The name of the folder of results: cpu, h100, h200, or another GPU's own name in lower case."""
    device = torch.device(device)
    if device.type != "cuda":
        return "cpu"
    name = torch.cuda.get_device_name(device).lower()
    return next((gpu for gpu in GPUS if gpu in name), name.replace(" ", "-"))


def relative_error(y: Result, expected: Result) -> float:
    """Relative L2 distance ||y - expected|| / ||expected||, in float64; the worst over a tuple of tensors."""
    ys, es = _tensors(y), _tensors(expected)
    if len(ys) != len(es):
        raise WrongResult(f"{len(ys)} tensors came, {len(es)} expected")
    worst = 0.0
    for a, e in zip(ys, es, strict=True):
        if a.shape != e.shape:
            raise WrongResult(f"shape {tuple(a.shape)} came, {tuple(e.shape)} expected")
        e64 = e.detach().to(torch.float64)
        norm = e64.norm().item()
        if norm == 0.0:
            raise ValueError("the expected result is all zero: nothing can be compared with it")
        err = (a.detach().to(e64) - e64).norm().item() / norm
        worst = err if math.isnan(err) else max(worst, err)
    return worst


def measure_together(
    providers: Mapping[str, Callable[[], Result]],
    *,
    expected: Result | None = None,
    tolerance: float | Mapping[str, float] = 1e-3,
    seconds: float = 2.0,
    min_rounds: int = 5,
    max_rounds: int = 200,
    sample_ms: float = 1.0,
) -> dict[str, Times]:
    """Times all providers in one run, turn by turn, so that a busy machine slows all of them alike.

    Args:
        providers: Functions without arguments that return their result (a tensor or several).
        expected: The result in float64; every provider is compared with it before it is timed.
        tolerance: Greatest relative L2 error, one for all or one a provider.
        seconds: Stop after this time, but not before min_rounds.
        sample_ms: A sample repeats a shorter call until it lasts this long.
    Returns: Times by provider; samples_ms[i] of all providers were taken in the same round.
    Raises: WrongResult: an output is NaN or further than tolerance from expected.
    """
    errors: dict[str, float | None] = {}
    peaks: dict[str, int | None] = {}
    calls: dict[str, int] = {}
    on_gpu: dict[str, bool] = {}
    for name, fn in providers.items():
        y = fn()
        on_gpu[name] = any(t.is_cuda for t in _tensors(y))
        errors[name] = None
        if expected is not None:
            err = relative_error(y, expected)
            limit = tolerance if isinstance(tolerance, float | int) else tolerance[name]
            if not err <= limit:
                raise WrongResult(f"{name}: relative error {err:.3g} exceeds {limit:.3g}; a wrong result is not timed")
            errors[name] = err
        del y
        peaks[name] = peak_bytes(fn, on_gpu=on_gpu[name])
        calls[name] = max(1, math.ceil(sample_ms / max(_time_ms(fn, 1, on_gpu[name]), 1e-4)))
    samples: dict[str, list[float]] = {name: [] for name in providers}
    order = list(providers)
    stop = time.perf_counter() + seconds
    while len(samples[order[0]]) < max_rounds:
        if len(samples[order[0]]) >= min_rounds and time.perf_counter() > stop:
            break
        for name in order:
            samples[name].append(_time_ms(providers[name], calls[name], on_gpu[name]))
        order = order[1:] + order[:1]
    return {
        name: Times(*_percentiles(s), peak_bytes=peaks[name], rel_err=errors[name], samples_ms=tuple(s))
        for name, s in samples.items()
    }


def measure(
    fn: Callable[[], Result], *, expected: Result | None = None, tolerance: float = 1e-3, **how: float
) -> Times:
    """`measure_together` of one provider."""
    return measure_together({"it": fn}, expected=expected, tolerance=tolerance, **how)["it"]  # type: ignore[arg-type]


def speedup(times: Mapping[str, Times], ours: str, theirs: str) -> float:
    """How many times faster `ours` is: the median of the ratios of the same round."""
    rounds = zip(times[theirs].samples_ms, times[ours].samples_ms, strict=True)
    return statistics.median(t / o for t, o in rounds)


def peak_bytes(fn: Callable[[], Result], *, on_gpu: bool) -> int | None:
    """Most memory that one call holds above what was held before it: CUDA's own count, or resident memory.

    None where the system does not let a process reset its high-water mark (no Linux, or a sandbox).
    """
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        fn()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    _release_freed_memory()
    if not _reset_high_water():
        return None
    before = _status_bytes("VmRSS")
    fn()
    return max(0, _status_bytes("VmHWM") - before)


@functools.cache
def copy_bandwidth(device: torch.device, n_bytes: int = 2**28) -> float:
    """Bytes per second (read plus written) of copying one large tensor: the best of ten."""
    source = torch.zeros(n_bytes // 4, device=device)
    target = torch.empty_like(source)
    gpu = device.type == "cuda"
    best = min(_time_ms(lambda: target.copy_(source), 1, gpu) for _ in range(10))
    return 2 * n_bytes / (best * 1e-3)


def floor_ms(moved_bytes: int, device: torch.device | str) -> float:
    """The time that memory alone would need: moved bytes by the bandwidth of BANDWIDTHS, or of a copy now."""
    return moved_bytes / (BANDWIDTHS.get(machine(device)) or copy_bandwidth(torch.device(device))) * 1e3


def read_rows(path: Path) -> list[dict[str, str]]:
    """The records of a CSV of results; none when the file is not there."""
    if not path.exists():
        return []
    with path.open(newline="") as f:
        reader = csv.DictReader(f)
        if reader.fieldnames != COLUMNS:
            raise ValueError(f"{path}: columns are {reader.fieldnames}, expected {COLUMNS}; move the file away")
        return list(reader)


def write_rows(rows: Iterable[Row], out: Path, word: str) -> list[Path]:
    """Puts rows into `out/<machine>/<word>.csv`, each in the place of the older row with the same key; atomic."""
    by_path: dict[Path, list[Row]] = {}
    for row in rows:
        by_path.setdefault(out / row.machine / f"{word}.csv", []).append(row)
    for path, new in by_path.items():
        records = {tuple(r[k] for k in KEY): r for r in read_rows(path)}
        for row in new:
            record = row.record()
            records[tuple(record[k] for k in KEY)] = record
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", newline="", dir=path.parent, prefix=f".{word}-", delete=False) as f:
            writer = csv.DictWriter(f, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(records.values())
            f.flush()
            os.fsync(f.fileno())
        os.chmod(f.name, 0o644)
        os.replace(f.name, path)
    return list(by_path)


def main(word: str, cases: Callable[[Bench], Iterable[Row]], argv: Sequence[str] | None = None) -> None:
    """The command line of `python -m benchmarks.bench_<word>`: runs the cases, prints and keeps each row at once."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.bench_{word}", description=cases.__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the CSV files")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--seconds", type=float, default=2.0, help="time for one comparison")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    parser.add_argument("--quick", action="store_true", help="small shapes: shows that it runs, not how fast it is")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    paths: list[Path] = []
    for row in cases(Bench(torch.device(args.device), args.quick, args.seconds)):
        paths = write_rows([row], args.out, word)
        print(line(row), flush=True)
    print(f"written to {', '.join(map(str, paths))}")


def line(row: Row) -> str:
    """One row for a person: the error beside the time, the floor beside both."""
    parts = [f"{row.name} {row.passes:6} {row.shape} {row.dtype} {row.provider:20}"]
    if row.p50_ms is not None:
        parts.append(f"{row.p50_ms:10.4g} ms [{row.p20_ms:.4g}, {row.p80_ms:.4g}]")
    if row.floor_ms is not None and row.p50_ms is not None:
        parts.append(f"{row.p50_ms / row.floor_ms:6.2f} x floor")
    if row.rel_err is not None:
        parts.append(f"err {row.rel_err:.2g}")
    if row.peak_bytes is not None:
        parts.append(f"{row.peak_bytes / 2**20:.1f} MiB")
    if row.metric:
        parts.append(f"{row.metric}={row.value:.6g}")
    return "  ".join(parts)


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _tensors(result: Result) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else list(result)


def _percentiles(samples: Sequence[float]) -> tuple[float, float, float]:
    q = torch.tensor(samples, dtype=torch.float64).quantile(torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64))
    return (q[0].item(), q[1].item(), q[2].item())


def _time_ms(fn: Callable[[], object], calls: int, on_gpu: bool) -> float:
    if on_gpu:
        start, end = (torch.Event("cuda", enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            fn()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / calls
    began = time.perf_counter()
    for _ in range(calls):
        fn()
    return (time.perf_counter() - began) * 1e3 / calls


def _release_freed_memory() -> None:
    # Memory that was freed but is still resident would hide what the next call takes.
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _reset_high_water() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return "VmHWM" in Path("/proc/self/status").read_text()


def _status_bytes(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{field}:")[1].split()[0]) * 1024
