"""The gradients on tensors: which kernels, how many blocks, in what order.

Shapes: dy, u, gates (B, H, L) with unit stride in time; k (G, Lk) fp32, contiguous; skip (H,) fp32.
"""

import numpy as np
import torch
from torch import Tensor

from ...errors import KernelUnavailable
from .gradient_plan import backward_plan
from .launch import (
    SPECTRUM_BYTES,
    Operands,
    address,
    aligned,
    built,
    channel_chunks,
    cut,
    spectrum_of,
    splits_for,
    strides,
)
from .plan import IO, device_of, fft_size

Gradients = tuple[Tensor, Tensor | None, Tensor | None, Tensor, Tensor | None]


def backward(x: Operands, dy: Tensor, circular: bool = False) -> Gradients:
    """(du, dpregate, dpostgate, dk (G, Lk) fp32, dskip (H,) fp32).

    Args:
        x: The inputs. dy: (B, H, L), as u.
        circular: Of the circular convolution; L is a power of two, at least 128.
    Raises: KernelUnavailable: no kernel holds a row; see gradient_plan.backward_fits.
    """
    u = x.u
    device, size, item = device_of(u.device.index), fft_size(u.shape[2]), u.element_size()
    du = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    dpre, dpost = (None if g is None else torch.empty_like(du) for g in (x.pregate, x.postgate))
    gates = x.pregate is not None, x.postgate is not None
    staged = aligned(dy, u, x.pregate, x.postgate, du)
    plan = backward_plan(u.shape[2], item, gates, device, staged)
    if plan is None:
        raise KernelUnavailable(f"fftconv: no backward kernel for L={u.shape[2]}; take impl='torch'.")
    options = {**plan.options(IO[u.dtype], *gates), "SHIFT": int(not circular), "SCRATCH": plan.scratch}
    taps, channels = x.k.shape[1], u.shape[1]
    dk = torch.zeros(x.k.shape, device=u.device) if taps > size else torch.empty(x.k.shape, device=u.device)
    dskip = None if x.skip is None else torch.empty(channels, device=u.device)
    for first, count in channel_chunks(channels, x.per_group, size * 8 * (1 + 2 * plan.scratch), SPECTRUM_BYTES):
        part = x.channels(first, count)
        splits = splits_for(u.shape[0], count, plan, device, 32)
        kf = spectrum_of(plan, part.k, part.skip, count, circular)
        scratch = torch.empty(count * splits * 2 * size * 2, device=u.device) if plan.scratch else None
        parts = torch.empty(splits, count, min(taps, size), device=u.device)
        skips = None if dskip is None else torch.empty(splits, count, device=u.device)
        outs = [None if o is None else cut(o, first, count) for o in (du, dpre, dpost)]
        ins = (cut(dy, first, count), part.u, part.pregate, part.postgate)
        built("backward.cuh", options, u.device.index).launch(
            "backward", count * splits, plan.group_threads * plan.groups, plan.backward_bytes(item, *gates),
            *(address(t) for t in (*ins, *outs, parts, skips, kf, scratch)), *strides(*ins, *outs),
            *(np.int32(n) for n in (u.shape[0], count, u.shape[2], parts.shape[2], splits)),
        )  # fmt: skip
        rows = slice(first // x.per_group, (first + count) // x.per_group)
        dk[rows, : parts.shape[2]] = parts.view(splits, -1, x.per_group, parts.shape[2]).sum((0, 2))
        if dskip is not None and skips is not None:
            dskip[first : first + count] = skips.sum(0)
    return du, dpre, dpost, dk, dskip
