"""The kernels on tensors: which options, how many blocks, in what order.

Shapes: u, gates (B, H, L) with unit stride in time; k (G, Lk) fp32, contiguous; skip (H,) fp32.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import KernelUnavailable
from .nvrtc import Module
from .plan import (
    IO,
    Device,
    LongPlan,
    RowPlan,
    device_of,
    long_fitting,
    wide_intermediates,
)

SPECTRUM_BYTES = 256 << 20  # spectra and intermediates beyond this are made for some channels at a time
LEAST_BYTES = 32 << 20  # intermediates under this are made for all channels at once
# A filter's spectra by what made them: filled where they are not there, read where they are.
Spectra = dict[Any, tuple[Tensor, ...]]


@cache
def module(source: str, options: tuple[tuple[str, int], ...], index: int) -> Module:
    """The compiled kernels of one source and set of options."""
    return Module(source, dict(options), torch.device("cuda", index))


def built(source: str, options: dict[str, int], index: int) -> Module:
    """`module`, from a dict."""
    return module(source, tuple(sorted(options.items())), index)


def strides(*tensors: Tensor | None) -> tuple[int, ...]:
    """Batch and channel strides of each, zero for one that is not there."""
    return tuple(s for x in tensors for s in ((0, 0) if x is None else x.stride()[:2]))


def address(x: Tensor | None) -> int:
    """Where a tensor starts, 0 for one that is not there."""
    return 0 if x is None else x.data_ptr()


def aligned(*tensors: Tensor | None) -> bool:
    """Whether every row of every tensor starts at a multiple of 16 bytes."""
    for x in tensors:
        if x is not None:
            batch, channel, _ = x.stride()
            if (x.data_ptr() | (batch | channel) * x.element_size()) % 16:
                return False
    return True


def cut(x: Tensor, first: int, count: int) -> Tensor:
    """Channels first : first + count."""
    return x[:, first : first + count]


def channel_chunks(channels: int, per_group: int, bytes_each: int, limit: int) -> Iterator[tuple[int, int]]:
    """(first, count) over channels: equal parts of whole groups, each under a limit where one group allows it."""
    groups = channels // per_group
    parts = min(groups, max(1, -(-channels * bytes_each // limit)))
    count = -(-groups // parts) * per_group
    for first in range(0, channels, count):
        yield first, min(count, channels - first)


def splits_for(batch: int, channels: int, plan: RowPlan, device: Device, steps: int) -> int:
    """Blocks a channel: enough to fill the chip, up to eight times that while a block keeps `steps` rounds of rows."""
    slots, rounds = device.sms * plan.blocks, -(-batch // (plan.groups * plan.rows))
    fill, even = -(-slots // channels), min(-(-8 * slots // channels), rounds // steps)
    return max(1, min(rounds, max(fill, even)))


def spectrum_of(
    plan: RowPlan, k: Tensor, skip: Tensor | None, channels: int, circular: bool = False, lead: int = 0
) -> Tensor:
    """(H, N, 2): the filters' spectra in the order of the plan's kernels; `lead` taps stand before lag 0."""
    kf = torch.empty(channels, plan.size, 2, device=k.device)
    options = {**plan.spectrum_options(), "SHIFT": int(not circular), "LEAD": int(lead > 0)}
    built("spectrum.cuh", options, k.device.index).launch(
        "spectrum", -(-channels // plan.rows), plan.group_threads, plan.spectrum_bytes,
        kf.data_ptr(), k.data_ptr(), k.stride(0), address(skip), np.int32(channels), np.int32(k.shape[1]),
        np.int32(channels // k.shape[0]), np.int32(lead),
    )  # fmt: skip
    return kf


@dataclass(frozen=True)
class Operands:
    """The inputs of a call; gates and skip may be absent; `lead` taps stand before lag 0, where one launch does it."""

    u: Tensor
    k: Tensor
    pregate: Tensor | None
    postgate: Tensor | None
    skip: Tensor | None
    lead: int = 0

    @property
    def per_group(self) -> int:
        """Channels that share a filter."""
        return self.u.shape[1] // self.k.shape[0]

    def channels(self, first: int, count: int) -> "Operands":
        """The same for some channels, whole groups."""
        return Operands(
            cut(self.u, first, count), self.k[first // self.per_group : (first + count) // self.per_group],
            None if self.pregate is None else cut(self.pregate, first, count),
            None if self.postgate is None else cut(self.postgate, first, count),
            None if self.skip is None else self.skip[first : first + count],
            self.lead,
        )  # fmt: skip


def with_skip(x: Operands) -> Tensor:
    """The filters with skip added at lag 0, one a channel then."""
    if x.skip is None:
        return x.k
    k = x.k.repeat_interleave(x.per_group, 0) if x.per_group > 1 else x.k.clone()
    k[:, 0] += x.skip
    return k


@dataclass(frozen=True)
class Columns:
    """The column passes of a long plan on a device."""

    plan: LongPlan
    sms: int

    def __call__(self, module: Module, name: str, rows: int, shared: int, *arguments: Any) -> None:
        """Launch one over some rows."""
        steps = max(1, min(rows, 8 * self.sms // self.plan.tiles))
        module.launch(name, self.plan.tiles * steps, self.plan.threads, shared, *arguments, np.int32(rows))


def filter_columns(columns: Columns, filters: Module, k: Tensor, point: int) -> tuple[Tensor, Tensor]:
    """The columns of filters (G, Lk), and their scales."""
    plan, groups = columns.plan, k.shape[0]
    w = torch.empty(groups * plan.size * point // 4, dtype=torch.int32, device=k.device).view(groups, -1)
    scales = torch.empty(groups, plan.tiles, device=k.device)
    columns(
        filters, "columns_forward", groups, plan.forward_bytes(4, False, aligned(k[None])), k.data_ptr(), 0,
        w.data_ptr(), scales.data_ptr(), 0, k.stride(0), 0, 0, np.int32(groups), np.int32(k.shape[1]),
    )  # fmt: skip
    return w, scales


def long_forward(
    x: Operands, y: Tensor, size: int, staged: bool, circular: bool = False, spectra: Spectra | None = None
) -> None:
    """y by three passes, over as many channels at a time as the bound on intermediates allows."""
    u, k, item, index = x.u, x.k, x.u.element_size(), x.u.device.index
    device, wide = device_of(index), wide_intermediates(size, u.dtype)
    gates = x.pregate is not None, x.postgate is not None
    plan = long_fitting(size, item, device, *gates, staged, wide)
    if plan is None:
        staged, plan = False, long_fitting(size, item, device, *gates, False, wide)
    if plan is None:
        raise KernelUnavailable(
            f"fftconv: impl='cuda' has no plan for L={u.shape[2]} in {device.block_bytes} bytes of shared memory; "
            "take impl='torch'."
        )
    shift = {"SHIFT": int(not circular)}
    kernels = built("threepass.cuh", {**plan.options(IO[u.dtype], *gates, staged, wide, device), **shift}, index)
    filters = built("threepass.cuh", {**plan.options(0, False, False, aligned(k[None]), wide, device), **shift}, index)
    point, batch, length, n1, columns = 8 if wide else 4, u.shape[0], u.shape[2], plan.lines, Columns(plan, device.sms)
    key = (plan.column, plan.columns, plan.row.radices, wide)
    if spectra is not None and key not in spectra:
        spectra[key] = filter_columns(columns, filters, with_skip(x), point)
    held = None if spectra is None else spectra[key]
    own = 0 if held is not None else size * point + (k.shape[1] * 4 if x.skip is not None else 0)
    per_channel = size * point * batch + own
    limit = intermediate_bytes(y.numel() * item, u.shape[1], size)
    for first, count in channel_chunks(u.shape[1], x.per_group, per_channel, limit):
        part, out = x.channels(first, count), cut(y, first, count)
        if held is None:
            wk, of_filter = filter_columns(columns, filters, with_skip(part), point)
        else:
            one = u.shape[1] // held[0].shape[0]
            wk, of_filter = (t[first // one : (first + count) // one] for t in held)
        w = torch.empty(batch * count * size * point // 4, dtype=torch.int32, device=u.device)
        of_tiles, of_rows = (torch.empty(batch * count * n, device=u.device) for n in (plan.tiles, n1))
        sizes = np.int32(count), np.int32(length)
        columns(
            kernels, "columns_forward", batch * count, plan.forward_bytes(item, gates[0], staged), part.u.data_ptr(),
            address(part.pregate), w.data_ptr(), of_tiles.data_ptr(), *strides(part.u, part.pregate), *sizes,
        )  # fmt: skip
        blocks = n1 * max(1, min(count, 4 * device.sms * plan.row.blocks // n1))
        kernels.launch(
            "rows_product", blocks, plan.row.group_threads, plan.row_bytes(wide), w.data_ptr(), of_tiles.data_ptr(),
            of_rows.data_ptr(), wk.data_ptr(), of_filter.data_ptr(),
            *(np.int32(n) for n in (batch, count, count // wk.shape[0])),
        )  # fmt: skip
        columns(
            kernels, "columns_inverse", batch * count, plan.inverse_bytes(item, gates[1], staged, wide, device),
            w.data_ptr(), of_rows.data_ptr(), address(part.postgate), out.data_ptr(), *strides(part.postgate, out),
            *sizes,
        )  # fmt: skip
        # the next chunk may take this memory
        del w, wk, of_tiles, of_filter, of_rows


def intermediate_bytes(output: int, channels: int, size: int) -> int:
    """The most bytes that three passes hold beside an output of so many bytes."""
    if size <= 1 << 15:
        return max(LEAST_BYTES, min(SPECTRUM_BYTES, channels * size * 8) + output // 10)
    return max(LEAST_BYTES, 19 * output // 10)
