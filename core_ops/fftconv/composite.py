"""fftconv out of torch.fft calls: any device, differentiable to any order, under vmap and jvp.

Shapes: u (B, H, L), k (G, Lk) with G dividing H, skip (H,), seq_idx (B, L).
"""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import pad

from .modes import linear_problem
from .plans import smooth_size


def segments(seq_idx: Tensor) -> list[list[tuple[int, int]]]:
    """The [first, last) of each run of equal values, for each row of seq_idx (B, L)."""
    length = seq_idx.shape[1]
    rows = []
    for row in seq_idx:
        cuts = [0, *((row[1:] != row[:-1]).nonzero().flatten() + 1).tolist(), length]
        rows.append(list(pairwise(cuts)))
    return rows


def alias(k: Tensor, period: int) -> Tensor:
    """Fold a filter (..., Lk) onto one period: the taps that alias are summed."""
    padded = pad(k, (0, -k.shape[-1] % period))
    return padded.reshape(*k.shape[:-1], -1, period).sum(-2)


def convolve(v: Tensor, k: Tensor, start: int, outputs: int, period: int) -> Tensor:
    """One window of conv(v, k); see modes.py.

    Args:
        v: Input (B, H, L). k: Filter (H, Lk), in the dtype that computes.
        start: First output. outputs: How many. period: 0 for linear.
    Returns: (B, H, outputs).
    Complexity: O(B H P log P) time and O(B H P) memory, P the smooth size that holds the window.
    """
    if period:
        y = convolve(v, alias(k, period), 0, 2 * period - 1, 0)
        y = y[..., :period] + pad(y[..., period:], (0, 1))
        index = (torch.arange(outputs, device=v.device) + start) % period
        return y[..., index]
    t = linear_problem(v.shape[-1], k.shape[-1], start, outputs)
    if t is None:
        return pad(v[..., :1] * 0 + k[:, :1] * 0, (0, outputs - 1))
    size = smooth_size(t.period)
    spectrum = torch.fft.rfft(v[..., -t.here : t.lx - t.here], n=size) * torch.fft.rfft(k[..., t.k0 : t.k1], n=size)
    y = torch.fft.irfft(spectrum, n=size)[..., t.start : t.start + t.outputs]
    return pad(y, (t.o0, outputs - t.o1))


def fftconv_composite(
    u: Tensor,
    k: Tensor,
    pregate: Tensor | None,
    postgate: Tensor | None,
    skip: Tensor | None,
    seq_idx: Tensor | None,
    start: int,
    outputs: int,
    period: int,
    dtype: torch.dtype,
) -> Tensor:
    """y = postgate * (conv(pregate * u, k) + skip * (pregate * u)) out of torch.fft calls.

    Args:
        u: Input (B, H, L). k: Filter (G, Lk). pregate: As u. postgate: (B, H, outputs). skip: (H,).
        seq_idx: (B, L), outputs equal to L. start, outputs, period: The window; see modes.py.
        dtype: What computes, torch.float32 or torch.float64.
    Returns: (B, H, outputs) in u's dtype.
    Complexity: O(B H L log L) time; memory some six times the spectrum, 8 B H L bytes each in fp32.
    """
    v = u.to(dtype) if pregate is None else u.to(dtype) * pregate.to(dtype)
    filters = k.to(dtype).repeat_interleave(u.shape[1] // k.shape[0], dim=0)
    if seq_idx is None:
        y = convolve(v, filters, start, outputs, period)
    else:
        rows = [
            torch.cat([convolve(v[b, None, :, i:j], filters, start, j - i, 0) for i, j in cuts], dim=-1)
            for b, cuts in enumerate(segments(seq_idx))
        ]
        y = torch.cat(rows, dim=0)
    if skip is not None:
        shared = min(outputs, u.shape[-1])
        y = y + pad(skip.to(dtype)[:, None] * v[..., :shared], (0, outputs - shared))
    if postgate is not None:
        y = y * postgate.to(dtype)
    return y.to(u.dtype)
