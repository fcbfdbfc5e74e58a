"""Shifted multiply-adds, or oneDNN's convolution, in tiles that stay in cache.

Shapes: u, y, dy (B, H, L) views in either layout; w, dw (H, K), w[:, K-1-s] at lag s; reach (B, L).
"""

import functools

import torch
from torch import Tensor
from torch.nn.functional import conv1d

# Elements of a tile for each CPU thread: half a MB of u and of y in fp32, within a core's second-level cache.
TILE = 2**17
# On a GPU a tile only bounds the scratch of 16-bit inputs.
GPU_TILE = 2**26
# oneDNN's depthwise kernel (F.conv1d) takes 0.8 ns a sample whatever the taps, up to 7 of them, 16 channels at a time
# and in cache; 4 ns out of it, 6 to 30 ns beyond 7 taps. A shift takes 0.1 ns a tap in fp32 and 10 us a call.
CONV1D_TAPS = 7
CONV1D_CHANNELS = 16
CONV1D_LENGTH = 2**14
CONV1D_ELEMENTS = 2**21
# Up to so many taps shifts win in fp32 once there are SHIFT_ELEMENTS samples.
SHIFT_TAPS = 3
SHIFT_ELEMENTS = 2**18


def tile_shape(u: Tensor, blh: bool) -> tuple[int, int, int]:
    """Batches, channels and steps of a tile: whole rows of the inner dimension as far as they fit."""
    b, h, length = u.shape
    size = GPU_TILE if u.is_cuda else TILE * torch.get_num_threads()
    if blh:
        channels, steps = h, min(length, max(1, size // h))
    else:
        channels, steps = min(h, max(1, size // length)), min(length, size)
    return (min(b, max(1, size // (h * length))) if (channels, steps) == (h, length) else 1), channels, steps


def convolve(
    u: Tensor, w: Tensor, bias: Tensor | None, reach: Tensor | None, y: Tensor, *, reverse: bool, blh: bool
) -> None:
    """Write y[t] = bias + sum_s w[K-1-s] u[t-s], or with u[t+s] when reverse, to y.

    Args:
        u: Input. w: Taps in the dtype that computes. bias: (H,) in that dtype.
        reach: How many earlier positions share the later position's sequence, or None for all.
        y: Output, in u's dtype. reverse: Whether time runs backwards. blh: Whether channels are innermost in memory.
    """
    length, halo = u.shape[-1], min(w.shape[-1], u.shape[-1]) - 1
    batches, channels, steps = tile_shape(u, blh)
    lags = w.t().flip(0)[: halo + 1].contiguous()[..., None]
    tiles = [
        (slice(i, i + batches), slice(j, j + channels), t)
        for i in range(0, u.shape[0], batches)
        for j in range(0, u.shape[1], channels)
        for t in range(0, length, steps)
    ]

    def one(i: int) -> None:
        b, h, t = tiles[i]
        end = min(length, t + steps)
        first, last = (t, min(length, end + halo)) if reverse else (max(0, t - halo), end)
        v, out = u[b, h, first:last], y[b, h, t:end]
        # 16-bit inputs are accumulated in fp32.
        acc = out if u.dtype == w.dtype else torch.empty_like(out, dtype=w.dtype)
        near = None if reach is None else reach[b, first:last]
        accumulate(v.to(w.dtype), t - first, lags[:, h], None if bias is None else bias[h, None], near, acc, reverse)
        if acc is not out:
            out.copy_(acc)

    with torch.inference_mode():
        for i in range(len(tiles)):
            one(i)


def accumulate(
    v: Tensor, at: int, lags: Tensor, bias: Tensor | None, near: Tensor | None, acc: Tensor, reverse: bool
) -> None:
    """acc[t] = bias + sum_s lags[s] v[at + t - s], or v[at + t + s] when reverse; what v does not hold is zero.

    Args:
        v, acc: (b, h, n + halo) and (b, h, n). lags: (K, h, 1). bias: (h, 1). near: reach of v's positions.
    """
    torch.mul(v[..., at : at + acc.shape[-1]], lags[0], out=acc)
    if bias is not None:
        acc.add_(bias)
    for s in range(1, len(lags)):
        # Positions of acc whose term v holds.
        lo, hi = (0, min(acc.shape[-1], v.shape[-1] - at - s)) if reverse else (max(0, s - at), acc.shape[-1])
        if lo >= hi:
            continue
        shift = s if reverse else -s
        term = v[..., at + lo + shift : at + hi + shift]
        if near is not None:
            later = max(shift, 0)
            term = torch.where((near[:, at + lo + later : at + hi + later] >= s)[:, None], term, 0)
        acc[..., lo:hi].addcmul_(term, lags[s])


def takes_conv1d(u: Tensor, w: Tensor, bias: Tensor | None, reach: Tensor | None, blh: bool) -> bool:
    """Whether oneDNN's kernel is the faster one."""
    channels, taps = w.shape
    if u.device.type != "cpu" or reach is not None or blh or taps > CONV1D_TAPS or channels < CONV1D_CHANNELS:
        return False
    if w.dtype != u.dtype or (bias is not None and bias.dtype != u.dtype) or not onednn_computes(u.dtype):
        return False
    if u.shape[-1] > CONV1D_LENGTH:
        return False
    return u.dtype != torch.float32 or u.numel() <= (CONV1D_ELEMENTS if taps > SHIFT_TAPS else SHIFT_ELEMENTS)


@functools.cache
def onednn_computes(dtype: torch.dtype) -> bool:
    """Whether oneDNN has this dtype, accumulated in fp32, on this processor."""
    if not torch._C._has_mkldnn:
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return dtype == torch.float32


def convolve_onednn(u: Tensor, w: Tensor, bias: Tensor | None, *, reverse: bool) -> Tensor:
    """`convolve` by F.conv1d, w and bias in u's dtype; returns a view of a longer output."""
    halo = w.shape[-1] - 1
    full = conv1d(u, (w.flip(1) if reverse else w)[:, None], bias, padding=halo, groups=w.shape[0])
    return full[..., halo:] if reverse else full[..., : u.shape[-1]]


def correlate(dy: Tensor, u: Tensor, reach: Tensor | None, dw: Tensor, *, blh: bool) -> None:
    """Write dw[h, K-1-s] = sum_{b,t} dy[b, h, t] u[b, h, t-s] to dw, summed in dw's dtype."""
    length, taps = u.shape[-1], dw.shape[-1]
    batches, channels, steps = tile_shape(u, blh)
    dw.zero_()
    for i in range(0, u.shape[0], batches):
        for j in range(0, u.shape[1], channels):
            for t in range(0, length, steps):
                b, h, end = slice(i, i + batches), slice(j, j + channels), min(length, t + steps)
                first = max(0, t - taps + 1)
                v, d = u[b, h, first:end].to(dw.dtype), dy[b, h, t:end].to(dw.dtype)
                scratch = torch.empty_like(d)
                for s in range(min(taps, end)):
                    a = max(t, s)
                    term = v[..., a - s - first : end - s - first]
                    if reach is not None:
                        term = torch.where((reach[b, a:end] >= s)[:, None], term, 0)
                    part = torch.mul(d[..., a - t :], term, out=scratch[..., a - t :])
                    dw[h, taps - 1 - s] += part.sum((0, 2))
