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
from .plan import FORWARD, IO, Device, RowPlan, device_of, fft_size, first_fitting, long_fitting

SPECTRUM_BYTES = 256 << 20  # spectra and intermediates beyond this are made for some channels at a time


@cache
def module(source: str, options: tuple[tuple[str, int], ...], index: int) -> Module:
    """The compiled kernels of one source and set of options."""
    return Module(source, dict(options), torch.device("cuda", index))


def built(source: str, options: dict[str, int], index: int) -> Module:
    """`module`, from a dict."""
    return module(source, tuple(sorted(options.items())), index)


def strides(*tensors: Tensor | None) -> tuple[int, ...]:
    """Batch and channel strides of each, zero for one that is not there."""
    return tuple(s for x in tensors for s in ((0, 0) if x is None else (x.stride(0), x.stride(1))))


def address(x: Tensor | None) -> int:
    """Where a tensor starts, 0 for one that is not there."""
    return 0 if x is None else x.data_ptr()


def aligned(*tensors: Tensor | None) -> bool:
    """Whether every row of every tensor starts at a multiple of 16 bytes."""
    return all(
        x is None or (x.data_ptr() | x.stride(0) * x.element_size() | x.stride(1) * x.element_size()) % 16 == 0
        for x in tensors
    )


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


def spectrum_of(plan: RowPlan, k: Tensor, skip: Tensor | None, channels: int, circular: bool = False) -> Tensor:
    """(H, N, 2): the filters' spectra in the order of the plan's kernels."""
    kf = torch.empty(channels, plan.size, 2, device=k.device)
    options = {**plan.spectrum_options(), "SHIFT": int(not circular)}
    built("spectrum.cuh", options, k.device.index).launch(
        "spectrum", -(-channels // plan.rows), plan.group_threads, plan.spectrum_bytes,
        kf.data_ptr(), k.data_ptr(), k.stride(0), address(skip), np.int32(channels), np.int32(k.shape[1]),
        np.int32(channels // k.shape[0]),
    )  # fmt: skip
    return kf


@dataclass(frozen=True)
class Operands:
    """The inputs of a causal call; gates and skip may be absent."""

    u: Tensor
    k: Tensor
    pregate: Tensor | None
    postgate: Tensor | None
    skip: Tensor | None

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
        )  # fmt: skip


def forward(x: Operands) -> Tensor:
    """y (B, H, L), contiguous.

    Raises: KernelUnavailable: no plan fits this device.
    """
    u = x.u
    y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    device, size, item = device_of(u.device.index), fft_size(u.shape[2]), u.element_size()
    staged, gates = aligned(u, x.pregate, x.postgate, y), (x.pregate is not None, x.postgate is not None)
    plan = first_fitting(FORWARD.get((size, item), ()), device, staged, lambda p: p.forward_bytes(item, gates[0]))
    if plan is None:
        long_forward(x, y, size, staged)
        return y
    options = plan.options(IO[u.dtype], *gates)
    for first, count in channel_chunks(u.shape[1], x.per_group, size * 8 if plan.spectrum == 2 else 0, SPECTRUM_BYTES):
        part, out = x.channels(first, count), cut(y, first, count)
        kf = spectrum_of(plan, part.k, part.skip, count) if plan.spectrum == 2 else None
        splits = splits_for(u.shape[0], count, plan, device, 8 if plan.spectrum == 2 else 64)
        built("onepass.cuh", options, u.device.index).launch(
            "forward", count * splits, plan.group_threads * plan.groups, plan.forward_bytes(item, gates[0]),
            part.u.data_ptr(), address(part.pregate), address(part.postgate), out.data_ptr(), part.k.data_ptr(),
            address(kf), address(part.skip), *strides(part.u, part.pregate, part.postgate, out), part.k.stride(0),
            *(np.int32(n) for n in (u.shape[0], count, u.shape[2], part.k.shape[1], x.per_group, splits)),
        )  # fmt: skip
    return y


def long_forward(x: Operands, y: Tensor, size: int, staged: bool) -> None:
    """y by three passes, over as many channels at a time as SPECTRUM_BYTES of intermediates allow."""
    u, k, item = x.u, x.k, x.u.element_size()
    device, wide, index = device_of(u.device.index), item == 4, u.device.index
    gates = x.pregate is not None, x.postgate is not None
    plan = long_fitting(size, item, device, *gates, staged)
    if plan is None:
        raise KernelUnavailable(
            f"fftconv: impl='cuda' has no plan for L={u.shape[2]} in {device.block_bytes} bytes of shared memory; "
            "take impl='torch'."
        )
    kernels = built("threepass.cuh", plan.options(IO[u.dtype], *gates, staged, wide, device), index)
    filters = built("threepass.cuh", plan.options(0, False, False, aligned(k[None]), wide, device), index)
    point, batch, length, n1 = 8 if wide else 4, u.shape[0], u.shape[2], plan.lines
    k = k.clone() if x.skip is not None and x.per_group == 1 else k
    if x.skip is not None:
        k = k.repeat_interleave(x.per_group, 0) if x.per_group > 1 else k
        k[:, 0] += x.skip
    x = Operands(u, k[:, :length], x.pregate, x.postgate, None)

    def columns(module: Module, name: str, rows: int, shared: int, *arguments: Any) -> None:
        steps = max(1, min(rows, 8 * device.sms // plan.tiles))
        module.launch(name, plan.tiles * steps, plan.threads, shared, *arguments, np.int32(rows))

    limit = max(SPECTRUM_BYTES, 19 * u.numel() * item // 10)
    for first, count in channel_chunks(u.shape[1], x.per_group, size * point * (batch + 1), limit):
        part, out = x.channels(first, count), cut(y, first, count)
        groups = part.k.shape[0]
        w = torch.empty(batch * count * size * point // 4, dtype=torch.int32, device=u.device)
        wk = torch.empty(groups * size * point // 4, dtype=torch.int32, device=u.device)
        scales = torch.empty((batch * count + groups) * plan.tiles + batch * count * n1, device=u.device)
        of_tiles, of_filter = scales, scales[batch * count * plan.tiles :]
        of_rows = of_filter[groups * plan.tiles :]
        sizes = np.int32(count), np.int32(length)
        columns(
            filters, "columns_forward", groups, plan.forward_bytes(4, False, aligned(k[None])), part.k.data_ptr(), 0,
            wk.data_ptr(), of_filter.data_ptr(), 0, part.k.stride(0), 0, 0, np.int32(groups), np.int32(part.k.shape[1]),
        )  # fmt: skip
        columns(
            kernels, "columns_forward", batch * count, plan.forward_bytes(item, gates[0], staged), part.u.data_ptr(),
            address(part.pregate), w.data_ptr(), of_tiles.data_ptr(), *strides(part.u, part.pregate), *sizes,
        )  # fmt: skip
        blocks = n1 * max(1, min(count, 4 * device.sms * plan.row.blocks // n1))
        kernels.launch(
            "rows_product", blocks, plan.row.group_threads, plan.row_bytes(wide), w.data_ptr(), of_tiles.data_ptr(),
            of_rows.data_ptr(), wk.data_ptr(), of_filter.data_ptr(),
            *(np.int32(n) for n in (batch, count, x.per_group)),
        )  # fmt: skip
        columns(
            kernels, "columns_inverse", batch * count, plan.inverse_bytes(item, gates[1], staged, wide, device),
            w.data_ptr(), of_rows.data_ptr(), address(part.postgate), out.data_ptr(), *strides(part.postgate, out),
            *sizes,
        )  # fmt: skip
        # the next chunk may take this memory
        del w, wk, scales, of_tiles, of_filter, of_rows
