"""The definition of every mode of fftconv, as a sum: the truth that every implementation is tested against.

Shapes: u (B, H, L), k (G, Lk) with G dividing H, skip (H,), seq_idx (B, L).
"""

import torch
from torch import Tensor

from .modes import Mode, window


def fftconv_reference(
    u: Tensor,
    k: Tensor,
    *,
    mode: Mode = "causal",
    pregate: Tensor | None = None,
    postgate: Tensor | None = None,
    skip: Tensor | None = None,
    seq_idx: Tensor | None = None,
) -> Tensor:
    """y = postgate * (conv(pregate * u, k) + skip * (pregate * u)), each output its own sum.

    conv(v, k)[t] = sum_s k[t + start - s] v[s], start = 0, or (Lk - 1) / 2 when two_sided; circular takes the index
    modulo L and sums the taps that alias; seq_idx keeps the pairs (t, s) of one segment.

    Args:
        u: Input (B, H, L). k: Filter (G, Lk), G dividing H. pregate: (B, H, L). skip: (H,). seq_idx: (B, L).
        postgate: As the output, (B, H, L), or (B, H, L + Lk - 1) when full.
    Returns: (B, H, L), or (B, H, L + Lk - 1) when full, in the dtype that u, k and the gates promote to.
    Complexity: O(B H L^2) time, O(H L^2) memory.
    Source: the definition of convolution.
    """
    length, taps = u.shape[-1], k.shape[-1]
    start, outputs, period = window(mode, length, taps)
    v = u if pregate is None else pregate * u
    k = k.repeat_interleave(u.shape[1] // k.shape[0], dim=0)
    if period:
        k = torch.nn.functional.pad(k, (0, -taps % period)).reshape(k.shape[0], -1, period).sum(-2)
        taps = period
    lag = torch.arange(outputs, device=u.device)[:, None] + start - torch.arange(length, device=u.device)
    lag = lag % period if period else lag
    toeplitz = k[:, lag.clamp(0, taps - 1)] * ((lag >= 0) & (lag < taps))
    if seq_idx is None:
        y = (toeplitz @ v[..., None].to(toeplitz.dtype)).squeeze(-1)
    else:
        segment = torch.cat([torch.zeros_like(seq_idx[:, :1]), (seq_idx.diff(dim=1) != 0).long().cumsum(1)], dim=1)
        same = segment[:, None, :, None] == segment[:, None, None, :]
        y = ((toeplitz * same) @ v[..., None].to(toeplitz.dtype)).squeeze(-1)
    if skip is not None:
        y = y + torch.nn.functional.pad(skip[:, None] * v, (0, outputs - length))
    return y if postgate is None else postgate * y
