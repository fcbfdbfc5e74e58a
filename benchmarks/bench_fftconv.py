"""fftconv against irfft(rfft(u, 2 L) K) of torch, side by side: `python -m benchmarks.bench_fftconv --out DIR`.

On a GPU the rows are those of fftconv_gpu.py; `--lengths 4096,8192 --passes fwd --ours` runs some of them. On a CPU:
Providers: farfield-auto transforms the filter in each call, farfield-cached is FFTConv with its kept spectrum;
torch-rfft-cached multiplies by a spectrum made beforehand, torch-rfft transforms the filter too.
"""

import argparse
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.fftconv_gpu import gpu_cases
from benchmarks.harness import Bench, Row, main, measure_together, shape, speedup
from farfield.core_ops import FFTConv, explain, fftconv

MILLION = 1 << 20
# (B, H, L, Lk)
SHAPES: tuple[tuple[int, int, int, int], ...] = (
    (1, 1, MILLION, MILLION),
    (1, 8, MILLION, MILLION),
    (1, 32, MILLION, MILLION),
    *((1, h, MILLION, taps) for h in (1, 8) for taps in (1024, 2048, 4096, 8192)),
    (1, 64, 1024, 1024),
    (8, 64, 1024, 1024),
    (8, 256, 256, 256),
    (1, 16, 4096, 4096),
    (8, 64, 4096, 4096),
    (1, 4, 16384, 16384),
    (8, 16, 16384, 16384),
    (1, 2, 32768, 32768),
    (2, 8, 32768, 32768),
    (1, 1, 65536, 65536),
    (2, 8, 65536, 65536),
    (1, 1, 131072, 131072),
    (2, 8, 131072, 131072),
    (1, 8, 100003, 100003),
    (1, 64, 1024, 3),
    (1, 64, 1024, 128),
    (1, 1, 65536, 512),
)
# torch's own transform of 2^21 samples is 3e-6 from float64; ours has to stay under 1e-6.
TOLERANCE = {"farfield-auto": 1e-6, "farfield-cached": 1e-6, "torch-rfft-cached": 1e-5, "torch-rfft": 1e-5}
QUICK = ((1, 2, 4096, 4096), (1, 2, 4096, 64))


def providers(u: Tensor, k: Tensor) -> dict[str, Callable[[], Tensor]]:
    """What is timed on one shape."""
    length = u.shape[-1]
    kept = torch.fft.rfft(k, n=2 * length)
    layer = FFTConv(*k.shape, skip=False, device=u.device).eval()
    with torch.no_grad():
        layer.k.copy_(k)
    return {
        "farfield-auto": lambda: fftconv(u, k),
        "farfield-cached": lambda: layer(u),
        "torch-rfft-cached": lambda: torch.fft.irfft(torch.fft.rfft(u, n=2 * length) * kept, n=2 * length)[
            ..., :length
        ],
        "torch-rfft": lambda: torch.fft.irfft(
            torch.fft.rfft(u, n=2 * length) * torch.fft.rfft(k, n=2 * length), n=2 * length
        )[..., :length],
    }


def cases(bench: Bench) -> Iterator[Row]:
    """Time the causal forward at the shapes of the bars; rows `speedup` are ratios to torch-rfft-cached."""
    for batch, channels, length, taps in QUICK if bench.quick else SHAPES:
        torch.manual_seed(0)
        u = torch.randn(batch, channels, length, device=bench.device)
        k = torch.randn(channels, taps, device=bench.device) / taps**0.5
        with torch.no_grad():
            expected = fftconv(u.double(), k.double(), impl="torch")
            times = measure_together(
                providers(u, k), expected=expected, tolerance=TOLERANCE, seconds=bench.seconds, min_rounds=7
            )
        sizes = shape(B=batch, H=channels, L=length, Lk=taps, plan=explain(u, k).plan, scaled=0)
        moved = 4 * (2 * u.numel() + k.numel())
        for provider, t in times.items():
            yield bench.row("fftconv", provider, "fwd", sizes, "fp32", times=t, moved_bytes=moved)
        for ours in ("farfield-auto", "farfield-cached"):
            ratio = speedup(times, ours, "torch-rfft-cached")
            yield bench.row("fftconv", ours, "fwd", sizes, "fp32", metric="speedup", value=ratio)


def chosen(arguments: list[str]) -> tuple[Callable[[Bench], Iterator[Row]], list[str]]:
    """The cases that the command line asks for, and what is left of it."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--lengths", default="", help="GPU: lengths, separated by commas; all when absent")
    parser.add_argument("--passes", default="fwd,bwd", help="GPU: fwd, bwd or both")
    parser.add_argument("--ours", action="store_true", help="GPU: no peers")
    given, rest = parser.parse_known_args(arguments)
    lengths = {int(word) for word in given.lengths.split(",") if word}

    def run(bench: Bench) -> Iterator[Row]:
        if bench.device.type == "cuda":
            return gpu_cases(bench, lengths, tuple(given.passes.split(",")), not given.ours)
        return cases(bench)

    return run, rest


if __name__ == "__main__":
    main("fftconv", *chosen(sys.argv[1:]))
