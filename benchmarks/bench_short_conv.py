"""short_conv against F.conv1d(groups=H): forward and forward with backward, 3 to 128 taps."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import conv1d

from benchmarks.harness import Bench, Row, main, measure_together, shape, speedup
from farfield.core_ops import short_conv

TAPS = (3, 4, 7, 16, 31, 128)
# (B, H, L): a training batch, one genome window of HyenaDNA's 3 d_model channels, one channel, many short rows.
SHAPES = ((8, 384, 1024), (1, 384, 4096), (1, 64, 131072), (1, 384, 65536), (1, 1, 1048576), (64, 64, 16))
QUICK = ((2, 16, 256), (1, 1, 4096))
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 5e-3}


def torch_conv1d(u: Tensor, w: Tensor, bias: Tensor) -> Tensor:
    """The usual causal depthwise convolution of torch."""
    return conv1d(u, w[:, None], bias, padding=w.shape[1] - 1, groups=w.shape[0])[..., : u.shape[-1]]


def with_backward(f: Callable[..., Tensor], inputs: tuple[Tensor, ...], dy: Tensor) -> tuple[Tensor, ...]:
    """The gradients of all inputs."""
    return torch.autograd.grad(f(*inputs), inputs, dy)


def cases(bench: Bench) -> Iterator[Row]:
    """short_conv and F.conv1d side by side."""
    dtypes = {"fp32": torch.float32} if bench.device.type == "cpu" else {"fp32": torch.float32, "bf16": torch.bfloat16}
    for name, dtype in dtypes.items():
        for b, h, length in QUICK if bench.quick else SHAPES:
            for taps in TAPS:
                yield from case(bench, name, dtype, b, h, length, taps)


def case(bench: Bench, name: str, dtype: torch.dtype, b: int, h: int, length: int, taps: int) -> Iterator[Row]:
    """One shape: rows of time, and the ratio of each pass."""
    g = torch.Generator(bench.device).manual_seed(0)
    u, w, bias = (
        torch.randn(*size, generator=g, device=bench.device, dtype=dtype) for size in ((b, h, length), (h, taps), (h,))
    )
    where = shape(B=b, H=h, L=length, K=taps)
    moved = 2 * u.nbytes
    providers: dict[str, Callable[..., Tensor]] = {"farfield": short_conv, "torch-conv1d": torch_conv1d}
    wide = [x.double() for x in (u, w, bias)]
    times = measure_together(
        {p: (lambda f=f: f(u, w, bias)) for p, f in providers.items()},
        expected=torch_conv1d(*wide),
        tolerance=TOLERANCE[dtype],
        seconds=bench.seconds,
    )
    for p, t in times.items():
        yield bench.row("short_conv", p, "fwd", where, name, times=t, moved_bytes=moved)
    ratio = speedup(times, "farfield", "torch-conv1d")
    yield bench.row("short_conv", "farfield", "fwd", where, name, metric="speedup_over_conv1d", value=ratio)
    # oneDNN's backward takes minutes for many taps.
    if taps > 7:
        return
    leaves = tuple(x.requires_grad_() for x in (u, w, bias))
    wide_leaves = tuple(x.requires_grad_() for x in wide)
    dy = torch.randn(u.shape, generator=g, device=bench.device, dtype=dtype)
    times = measure_together(
        {p: (lambda f=f: with_backward(f, leaves, dy)) for p, f in providers.items()},
        expected=with_backward(torch_conv1d, wide_leaves, dy.double()),
        # torch sums a filter's gradient over a million samples in fp32, one after the other.
        tolerance={"farfield": 10 * TOLERANCE[dtype], "torch-conv1d": 100 * TOLERANCE[dtype]},
        seconds=bench.seconds,
    )
    for p, t in times.items():
        yield bench.row("short_conv", p, "fwdbwd", where, name, times=t, moved_bytes=3 * moved)
    ratio = speedup(times, "farfield", "torch-conv1d")
    yield bench.row("short_conv", "farfield", "fwdbwd", where, name, metric="speedup_over_conv1d", value=ratio)


if __name__ == "__main__":
    main("short_conv", cases)
