"""recurrence.cuh on tensors: its sizes, which calls it takes, taps with or without their spectra, quotients of series.

Shapes: R rows, d states, n terms of x, L length, H channels, N points of a spectrum.
"""

import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..fftconv.cuda.impl import MISSING
from ..fftconv.cuda.launch import SOURCES, address
from ..fftconv.cuda.plan import FORWARD, RowPlan, device_of, fft_size
from ..fftconv.cuda.selfcheck import RUN_ON, architecture, capability
from ..nvrtc import Module

SOURCE = Path(__file__).parent / "recurrence.cuh"
# Outputs of a lane, which up to so many lanes share.
OUTPUTS, MOST_SHARED = 8, 8
# A step in which all threads wait for each other takes as long as so many products.
STEP = 24_000
# The most terms of a block, where there are not more states.
MOST_TERMS = 1 << 12
# The longest transform in the launch: a longer one leaves a multiprocessor room for one block.
FUSED = 1 << 13


def places(groups: int) -> int:
    """Float64 numbers that a vector of so many groups of four takes."""
    return 4 * (groups + 4) + (groups + 4) // 4 * 2


def padded(states: int) -> int:
    """States, with the zeros behind them."""
    return math.ceil(states / 16) * 16


def shared_bytes(states: int, block: int, series: bool) -> int:
    """Shared memory of the recurrence."""
    small, wide = places(padded(states) // 4), places(block // 4)
    if series:
        return 8 * (small + max(small, wide) + 2 * wide)
    return 8 * (3 * small + wide + max(5 * small, wide))


@cache
def block_terms(states: int, length: int, given: int) -> int:
    """Terms of a block: few steps and little work; the past must reach over all states.

    Args:
        states: d. length: L. given: Terms of the numerator.
    """
    lags = padded(states)

    def cost(block: int) -> int:
        grown = max(0, math.ceil(math.log2(block / 64)))
        blocks = math.ceil(length / block)
        most = lags if given <= lags else max(lags, block // 2)
        return (grown + blocks) * STEP + (grown + blocks - 1) * lags * lags // 2 + block * (lags + blocks * most)

    whole = math.ceil(length / 16) * 16
    parts = (math.ceil(length / p / 16) * 16 for p in range(1, length // 16 + 2))
    return min((s for s in parts if min(lags, whole) <= s <= max(lags, MOST_TERMS)), key=cost)


def threads(states: int) -> int:
    """Threads of a block: more where a block has much to sum, fewer where several share a multiprocessor."""
    return 512 if states > 128 else 256


def split(states: int, block: int) -> int:
    """Lanes that share an output, so that all threads have one."""
    return min(MOST_SHARED, 1 << max(0, math.ceil(math.log2(threads(states) * OUTPUTS / block))))


def refuses(states: int, length: int) -> str | None:
    """Why the kernel cannot run such rows on the current device."""
    if MISSING is not None:
        return MISSING
    index = torch.cuda.current_device()
    if capability(index) not in RUN_ON:
        return f"it was never run on {architecture(index)} by its authors; take impl='triton' or 'series'."
    needed = (shared_bytes(states, block_terms(states, length, n), n > 0) for n in (0, length))
    if max(needed) > device_of(index).block_bytes:
        return f"{states} states do not fit this GPU's shared memory; take impl='triton' or 'series'."
    return None


def options(states: int, block: int, wide: bool, out: bool, series: bool, plan: RowPlan | None) -> dict[str, int]:
    """Macros of recurrence.cuh: wide operands, wide results; a plan where spectra are wanted."""
    own = {"BLOCK": threads(states), "SPLIT": split(states, block), "IN": int(wide), "OUT": int(out)}
    own |= {"SERIES": int(series), "SPECTRUM": int(plan is not None)}
    return own if plan is None else {**own, **plan.spectrum_options()}


@cache
def module(options: tuple[tuple[str, int], ...], index: int) -> Module:
    """The compiled kernel."""
    return Module(SOURCE, dict(options), torch.device("cuda", index), (SOURCES,))


def start(
    a: Tensor, b: Tensor, c: Tensor | None, out: Tensor | None, kf: Tensor | None, skip: Tensor | None, given: int,
    length: int, double: bool, plan: RowPlan | None,
) -> None:  # fmt: skip
    """Launch over the rows of a (R, d)."""
    rows, states = a.shape
    series = c is None
    block = block_terms(states, length, given)
    macros = options(states, block, a.dtype == torch.float64, double, series, plan)
    kernel = module(tuple(macros.items()), a.device.index)
    shared = shared_bytes(states, block, series)
    if plan is not None:
        shared = max(shared, plan.spectrum_bytes) + 4 * length
    c = b if c is None else c
    each = 1 if kf is None else kf.shape[0] // rows
    with torch.cuda.device(a.device):
        kernel.launch(
            "recurrence", rows, macros["BLOCK"], shared, a.data_ptr(), b.data_ptr(), c.data_ptr(), a.stride(0),
            b.stride(0), c.stride(0), address(out), address(kf), address(skip),
            *(np.int32(n) for n in (each, states, given, length, block)),
        )  # fmt: skip


def alike(*operands: Tensor) -> list[Tensor]:
    """Operands of one dtype, float32 or float64, with unit stride along the states."""
    dtype = operands[0].dtype if all(x.dtype == operands[0].dtype for x in operands) else torch.float64
    return [x.to(dtype) if x.stride(1) == 1 or x.shape[1] == 1 else x.to(dtype).contiguous() for x in operands]


def all_pole_cuda(x: Tensor, p: Tensor, length: int, single: bool) -> Tensor:
    """division.divide by the recurrence, no transfer to the host: (R, n), (R, d) to (R, L), float64."""
    p, x = alike(p, x)
    y = x.new_empty(x.shape[0], length)
    if y.numel():
        start(p, x, None, y, None, None, min(x.shape[1], length), length, True, None)
    return y


def companion_cuda(a: Tensor, b: Tensor, c: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """k[l] = c^T A^l b in one launch, without gradient: a, b, c (R, d); k (R, L) in dtype."""
    a, b, c = alike(a, b, c)
    k = a.new_empty(a.shape[0], length, dtype=dtype)
    if k.numel():
        start(a, b, c, k, None, None, a.shape[1], length, dtype == torch.float64, None)
    return k


def spectrum_plan(states: int, length: int, index: int) -> RowPlan | None:
    """The rows whose spectra the same launch can make; None where there is no such kernel or it does not fit."""
    size = fft_size(length)
    if size > FUSED:
        return None
    plans, own = FORWARD[size, 4], shared_bytes(states, block_terms(states, length, states), False)
    return plans[0] if max(own, plans[0].spectrum_bytes) + 4 * length <= device_of(index).block_bytes else None


def companion_spectra(
    a: Tensor, b: Tensor, c: Tensor, length: int, skip: Tensor | None, channels: int, plan: RowPlan
) -> tuple[Tensor, Tensor]:
    """Taps and their spectra in one launch: k (R, L) and kf (H, N, 2), float32, as `fftconv`'s kernels read them.

    Args:
        a, b, c: (R, d), R dividing H. skip: (H,), added to tap 0 of the spectra. plan: From spectrum_plan.
    """
    a, b, c = alike(a, b, c)
    k = a.new_empty(a.shape[0], length, dtype=torch.float32)
    kf = k.new_empty(channels, plan.size, 2)
    skip = None if skip is None else skip.detach().float().contiguous()
    start(a, b, c, k, kf, skip, a.shape[1], length, False, plan)
    return k, kf
