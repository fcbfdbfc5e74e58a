"""The forward of long rows: plans of long_forward.cuh and their three launches.

Shapes: u, gates, y (B, H, L); N = N1 N2 >= L points a row.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ...errors import KernelUnavailable
from .launch import (
    PARTS,
    Columns,
    Kernels,
    Operands,
    Spectra,
    address,
    aligned,
    built_together,
    channel_chunks,
    cut,
    filter_columns,
    intermediate_bytes,
    strides,
    with_skip,
)
from .plan import IO, RESERVED, ROWS, Device, ForwardPlan, device_of, wide_intermediates

ROW_WAVES = 4  # blocks of rows, in what the chip holds at a time
SHORT = {n: replace(ROWS[n], blocks=blocks) for n, blocks in ((128, 16), (256, 16), (512, 16), (1024, 8))}
# N -> plans, best first as measured on an H100 (docs/decisions); the narrower columns are for less shared memory
FORWARD_PLANS: dict[int, tuple[ForwardPlan, ...]] = {
    8192: (ForwardPlan((16, 4), SHORT[128], column_blocks=4),),
    16384: (ForwardPlan((32, 4), SHORT[128], column_blocks=4), ForwardPlan((16, 4), SHORT[256], column_blocks=2)),
    32768: (ForwardPlan((32, 4), SHORT[256], columns=64), ForwardPlan((32, 4), SHORT[256], column_blocks=4)),
    65536: (ForwardPlan((32, 8), SHORT[256]), ForwardPlan((32, 4), SHORT[512], columns=16)),
    131072: (ForwardPlan((32, 16), SHORT[256], column_blocks=1), ForwardPlan((32, 8), SHORT[512], columns=16)),
    262144: (ForwardPlan((32, 16), SHORT[512], column_blocks=1), ForwardPlan((32, 8), SHORT[1024], columns=16)),
    524288: (ForwardPlan((32, 16), SHORT[1024], column_blocks=1), ForwardPlan((32, 8), ROWS[2048], columns=16)),
    1048576: (ForwardPlan((32, 16), ROWS[2048], column_blocks=1), ForwardPlan((32, 8), ROWS[4096], columns=16)),
    2097152: (ForwardPlan((32, 16), ROWS[4096], column_blocks=1), ForwardPlan((32, 8), ROWS[8192], columns=16)),
    4194304: (
        ForwardPlan((32, 16), ROWS[8192], column_blocks=1),
        ForwardPlan((32, 16), ROWS[8192], columns=16, column_blocks=1),
    ),
}


def fitted(
    plan: ForwardPlan, item: int, device: Device, gates: tuple[bool, bool], staged: bool, wide: bool
) -> ForwardPlan | None:
    """A plan with the tiles and blocks that shared memory holds: blocks go before a second tile."""

    def needed(plan: ForwardPlan) -> int:
        forward = max(plan.forward_bytes(item, gates[0], staged), plan.forward_bytes(4, False, True))
        return max(forward, plan.inverse_bytes(item, gates[1], staged, wide, device))

    single = replace(plan, inverse_deep=1)
    for tiles in (plan, replace(plan, forward_deep=1), single, replace(single, forward_deep=1)):
        if plan.column_blocks * (needed(tiles) + RESERVED) <= device.sm_bytes:
            break
    if max(needed(tiles), tiles.row_bytes(wide)) > device.block_bytes:
        return None
    columns = max(1, min(plan.column_blocks, device.sm_bytes // (needed(tiles) + RESERVED)))
    rows = max(1, min(plan.row.blocks, device.sm_bytes // (tiles.row_bytes(wide) + RESERVED)))
    return replace(tiles, column_blocks=columns, row=replace(plan.row, blocks=rows))


def forward_plan(
    size: int, dtype: torch.dtype, device: Device, gates: tuple[bool, bool], staged: bool
) -> ForwardPlan | None:
    """The first plan that fits a device."""
    wide = wide_intermediates(size, dtype)
    fits = (fitted(plan, dtype.itemsize, device, gates, staged, wide) for plan in FORWARD_PLANS.get(size, ()))
    return next((plan for plan in fits if plan is not None), None)


@cache
def passes(
    plan: ForwardPlan,
    dtype: torch.dtype,
    gates: tuple[bool, bool],
    staged: bool,
    filter_staged: bool,
    circular: bool,
    index: int,
) -> list[Kernels]:
    """long_forward.cuh of a plan, and of its filters."""
    device, wide = device_of(index), wide_intermediates(plan.size, dtype)
    options = (
        plan.options(IO[dtype], *gates, staged, wide, device),
        plan.options(0, False, False, filter_staged, wide, device),
    )
    kinds = zip(options, (PARTS["long_forward.cuh"], ("columns_forward",)), strict=True)
    return built_together([("long_forward.cuh", {**o, "SHIFT": int(not circular)}, names) for o, names in kinds], index)


def long_forward(
    x: Operands,
    y: Tensor,
    size: int,
    staged: bool,
    circular: bool = False,
    spectra: Spectra | None = None,
    plan: ForwardPlan | None = None,
) -> None:
    """y by three passes, over as many channels at a time as the bound on intermediates allows.

    Args:
        x, y: The inputs; the output, contiguous. size: N. staged: Whether every row starts at a multiple of 16 bytes.
        circular: With period L = N. spectra: Read for the filter's columns, and filled. plan: Taken as it is.
    Raises: KernelUnavailable: no plan fits this device.
    """
    u, k, item, index = x.u, x.k, x.u.element_size(), x.u.device.index
    device, wide = device_of(index), wide_intermediates(size, u.dtype)
    gates = x.pregate is not None, x.postgate is not None
    plan = plan or forward_plan(size, u.dtype, device, gates, staged)
    if plan is None:
        staged, plan = False, forward_plan(size, u.dtype, device, gates, False)
    if plan is None:
        raise KernelUnavailable(
            f"fftconv: impl='cuda' has no plan for L={u.shape[2]} in {device.block_bytes} bytes of shared memory; "
            "take impl='torch'."
        )
    kernels, filters = passes(plan, u.dtype, gates, staged, aligned(k[None]), circular, index)
    point, batch, length, n1, columns = 8 if wide else 4, u.shape[0], u.shape[2], plan.lines, Columns(plan, device.sms)
    key = (plan.column, plan.columns, plan.row.radices, wide)
    limit = intermediate_bytes(y.numel() * item, u.shape[1], size)
    of_filters = (k.shape[0] if x.skip is None else u.shape[1]) * size * point
    held = None if spectra is None else spectra.get(key)
    if held is None and (spectra is not None or 4 * of_filters <= limit):
        held = filter_columns(columns, filters, with_skip(x), point)
        if spectra is not None:
            spectra[key] = held
        else:
            limit -= of_filters
    own = 0 if held is not None else size * point + (k.shape[1] * 4 if x.skip is not None else 0)
    for first, count in channel_chunks(u.shape[1], x.per_group, size * point * batch + own, limit):
        part, out = x.channels(first, count), cut(y, first, count)
        if held is None:
            wk, of_filter = filter_columns(columns, filters, with_skip(part), point)
        else:
            one = u.shape[1] // held[0].shape[0]
            wk, of_filter = (t[first // one : (first + count) // one] for t in held)
        w = torch.empty(batch * count * size * point // 4, dtype=torch.int32, device=u.device)
        of_tiles, of_rows = (torch.empty(batch * count * n, device=u.device) for n in (plan.tiles, n1))
        sizes = np.int32(count), np.int32(length)
        columns.forward(
            kernels, batch * count, plan.forward_bytes(item, gates[0], staged), part.u.data_ptr(),
            address(part.pregate), w.data_ptr(), of_tiles.data_ptr(), *strides(part.u, part.pregate), *sizes,
        )  # fmt: skip
        together = max(1, min(count, device.sms * plan.row.blocks // n1))
        waves = max(1, min(-(-count // together), ROW_WAVES * device.sms * plan.row.blocks // (n1 * together)))
        kernels.launch(
            "rows_product", n1 * together * waves, plan.row.group_threads, plan.row_bytes(wide), w.data_ptr(),
            of_tiles.data_ptr(), of_rows.data_ptr(), wk.data_ptr(), of_filter.data_ptr(),
            *(np.int32(n) for n in (batch, count, count // wk.shape[0], together)),
        )  # fmt: skip
        columns.inverse(
            kernels, batch * count, plan.inverse_bytes(item, gates[1], staged, wide, device),
            w.data_ptr(), of_rows.data_ptr(), address(part.postgate), out.data_ptr(), *strides(part.postgate, out),
            *sizes,
        )  # fmt: skip
        # the next chunk may take this memory
        del w, wk, of_tiles, of_filter, of_rows
