"""fftconv on a CPU."""

import torch
from torch import Tensor

from .composite import fftconv_composite, segments


def convolve(
    u: Tensor,
    k: Tensor,
    y: Tensor,
    *,
    pregate: Tensor | None,
    postgate: Tensor | None,
    skip: Tensor | None,
    seq_idx: Tensor | None,
    window: tuple[int, int, int],
    flip: bool,
    dtype: torch.dtype,
) -> None:
    """Write the window of the gated convolution to y."""
    k = k.flip(-1) if flip else k
    y.copy_(fftconv_composite(u, k, pregate, postgate, skip, seq_idx, *window, dtype))


def correlate(
    dy: Tensor,
    u: Tensor,
    dk: Tensor,
    *,
    pregate: Tensor | None,
    postgate: Tensor | None,
    seq_idx: Tensor | None,
    start: int,
    period: int,
) -> None:
    """Write the filter's gradient to dk."""
    b, h, length = u.shape
    m = dy.shape[-1]
    g, taps = dk.shape
    if seq_idx is not None:
        dk.zero_()
        part = torch.empty_like(dk)
        for row, cuts in enumerate(segments(seq_idx)):
            for i, j in cuts:
                gates = [None if x is None else x[row : row + 1, :, i:j] for x in (pregate, postgate)]
                correlate(
                    dy[row : row + 1, :, i:j],
                    u[row : row + 1, :, i:j],
                    part,
                    pregate=gates[0],
                    postgate=gates[1],
                    seq_idx=None,
                    start=start,
                    period=0,
                )
                dk += part
        return
    v = u.to(dk.dtype) if pregate is None else u.to(dk.dtype) * pregate
    d = dy.to(dk.dtype) if postgate is None else dy.to(dk.dtype) * postgate
    r = fftconv_composite(
        d.reshape(1, b * h, m),
        v.reshape(b * h, length).flip(-1),
        None,
        None,
        None,
        None,
        length - 1 - start,
        taps,
        period,
        dk.dtype,
    )
    dk.copy_(r.view(b, g, h // g, taps).sum((0, 2)))
