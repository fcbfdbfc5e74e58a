"""The forward on tensors: one launch where a row fits on one multiprocessor, three passes beyond.

Shapes: u, gates, y (B, H, L) with unit stride in time; k (G, Lk) fp32, contiguous; skip (H,) fp32.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from .launch import (
    SPECTRUM_BYTES,
    Kernels,
    Operands,
    Spectra,
    address,
    aligned,
    built_together,
    channel_chunks,
    cut,
    spectrum_kind,
    spectrum_of,
    splits_for,
    strides,
)
from .long_forward import forward_plan, long_forward
from .plan import FORWARD, IO, RowPlan, device_of, fft_size, first_fitting


@cache
def row_plan(size: int, dtype: torch.dtype, pregate: bool, staged: bool, index: int) -> RowPlan | None:
    """The one-launch plan of rows; None where three passes are needed."""
    item = dtype.itemsize
    plans = FORWARD.get((size, item), ())
    return first_fitting(plans, device_of(index), staged, lambda p: p.forward_bytes(item, pregate))


@cache
def row_kernel(
    plan: RowPlan, dtype: torch.dtype, gates: tuple[bool, bool], circular: bool, led: bool, index: int
) -> tuple[Kernels, int, int]:
    """onepass.cuh of a plan, the threads of a block, its shared memory; what makes its spectra is built beside it."""
    own, spectra = plan.options(IO[dtype], *gates), spectrum_kind(plan, circular, led)
    wanted = [("onepass.cuh", {**own, "SHIFT": int(not circular)}, ("forward",))]
    if plan.spectrum >= 2:
        wanted.append(("spectrum.cuh", spectra, ("spectrum",)))
    kernels = built_together(wanted, index)[0]
    return kernels, plan.group_threads * plan.groups, plan.forward_bytes(dtype.itemsize, gates[0])


def forward(x: Operands, circular: bool = False, spectra: Spectra | None = None) -> Tensor:
    """y (B, H, L), contiguous.

    Args:
        x: The inputs. circular: With period L, a power of two, at least 128.
        spectra: Read for the filter's spectrum, and filled.
    Raises: KernelUnavailable: no plan fits this device.
    """
    u, index = x.u, x.u.device.index
    y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    size, gates = fft_size(u.shape[2]), (x.pregate is not None, x.postgate is not None)
    staged = aligned(u, x.pregate, x.postgate, y)
    plan = row_plan(size, u.dtype, gates[0], staged, index)
    if plan is None:
        long_forward(x, y, size, staged, circular, spectra)
        return y
    whole = None
    if x.lead or spectra is not None:
        plan = replace(plan, spectrum=3 if plan.size == 4096 else 2)
    kernels, threads, shared = row_kernel(plan, u.dtype, gates, circular, x.lead > 0, index)
    if spectra is not None:
        if plan.radices not in spectra:
            spectra[plan.radices] = (spectrum_of(plan, x.k, x.skip, u.shape[1], circular, x.lead),)
        (whole,) = spectra[plan.radices]
    reads, device = plan.spectrum >= 2, device_of(index)
    made = size * 8 if reads and whole is None else 0
    for first, count in channel_chunks(u.shape[1], x.per_group, made, SPECTRUM_BYTES):
        part, out = (x, y) if count == u.shape[1] else (x.channels(first, count), cut(y, first, count))
        kf = None if whole is None else whole[first : first + count]
        kf = spectrum_of(plan, part.k, part.skip, count, circular, x.lead) if made else kf
        splits = splits_for(u.shape[0], count, plan, device, 8 if plan.spectrum == 2 else 64)
        kernels.launch(
            "forward", count * splits, threads, shared, part.u.data_ptr(), address(part.pregate),
            address(part.postgate), out.data_ptr(), part.k.data_ptr(), address(kf), address(part.skip),
            *strides(part.u, part.pregate, part.postgate, out), part.k.stride(0),
            *(np.int32(n) for n in (u.shape[0], count, u.shape[2], part.k.shape[1], x.per_group, splits)),
        )  # fmt: skip
    return y


@cache
def forward_fits(length: int, dtype: torch.dtype, gates: tuple[bool, bool], index: int) -> bool:
    """Whether a kernel on this device holds a row, however it is aligned."""
    size, item, device = fft_size(length), dtype.itemsize, device_of(index)
    if first_fitting(FORWARD.get((size, item), ()), device, False, lambda p: p.forward_bytes(item, gates[0])):
        return True
    return forward_plan(size, dtype, device, gates, False) is not None
