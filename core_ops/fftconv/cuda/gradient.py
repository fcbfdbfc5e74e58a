"""The gradients on tensors: which kernels, how many blocks, in what order.

Shapes: dy, u, gates (B, H, L) with unit stride in time; k (G, Lk) fp32, contiguous; skip (H,) fp32.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import KernelUnavailable
from .gradient_plan import LongBackwardPlan, backward_plan, long_backward_plan, pair_bytes, pair_plan
from .launch import (
    PARTS,
    Kernels,
    Operands,
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
from .plan import IO, Device, RowPlan, device_of, fft_size, wide_intermediates

Gradients = tuple[Tensor, Tensor | None, Tensor | None, Tensor, Tensor | None]
LEAST_BYTES = 8 << 20  # intermediates of long rows under this are made for all channels at once


@dataclass(frozen=True)
class Places:
    """dy, and where the gradients go."""

    dy: Tensor
    du: Tensor
    dpre: Tensor | None
    dpost: Tensor | None
    dk: Tensor
    dskip: Tensor | None

    def channels(self, first: int, count: int, per_group: int) -> "Places":
        """The same for some channels, whole groups."""
        dpre, dpost = (None if x is None else cut(x, first, count) for x in (self.dpre, self.dpost))
        dk = self.dk[first // per_group : (first + count) // per_group]
        dskip = None if self.dskip is None else self.dskip[first : first + count]
        return Places(cut(self.dy, first, count), cut(self.du, first, count), dpre, dpost, dk, dskip)


def backward(x: Operands, dy: Tensor, circular: bool = False) -> Gradients:
    """(du, dpregate, dpostgate, dk (G, Lk) fp32, dskip (H,) fp32).

    Args:
        x: The inputs; no more taps than samples on either side of lag 0, and before it only where one launch holds a
            row: see gradient_plan.leads. dy: (B, H, L), as u.
        circular: Of the circular convolution; L is a power of two, at least 128.
    Raises: KernelUnavailable: no kernel holds a row; see gradient_plan.backward_fits and leads.
    """
    u, index = x.u, x.u.device.index
    du = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    dpre, dpost = (None if g is None else torch.empty_like(du) for g in (x.pregate, x.postgate))
    dk = torch.empty(x.k.shape, device=u.device)
    dskip = None if x.skip is None else torch.empty(u.shape[1], device=u.device)
    to, gates = Places(dy, du, dpre, dpost, dk, dskip), (x.pregate is not None, x.postgate is not None)
    staged, size = aligned(dy, u, x.pregate, x.postgate, du), fft_size(u.shape[2])
    row = row_backward(size, u.dtype, gates, staged, circular, x.lead > 0, index)
    if row is not None:
        row.run(x, to)
        return du, dpre, dpost, dk, dskip
    if x.lead:
        raise KernelUnavailable(f"fftconv: no backward kernel holds taps before lag 0 at L={u.shape[2]}.")
    wide = wide_intermediates(size, u.dtype)
    for moved in (staged, False):
        plan = long_backward_plan(size, u.element_size(), wide, any(gates), device_of(index), moved)
        if plan is not None:
            Long(plan, x, to, moved, wide, circular).run()
            return du, dpre, dpost, dk, dskip
    raise KernelUnavailable(
        f"fftconv: no backward kernel for L={u.shape[2]} in {device_of(index).block_bytes} bytes of shared memory; "
        "take impl='torch'."
    )


def spare_bytes(x: Operands, to: Places) -> int:
    """The most that a call may hold besides inputs and gradients."""
    given = (x.u, x.k, x.pregate, x.postgate, to.dy, to.du, to.dpre, to.dpost, to.dk)
    return 3 * sum(t.numel() * t.element_size() for t in given if t is not None) // 10


@dataclass(frozen=True)
class RowBackward:
    """Gradients of rows that one block holds, or two that share the chip's network, in one launch.

    Args:
        plan: Of the kernel. paired: backward_pair.cuh rather than backward.cuh. kernels: Compiled.
        shared: Bytes of shared memory of a block. circular: Which spectrum. device: The limits.
    """

    plan: RowPlan
    paired: bool
    kernels: Kernels
    shared: int
    circular: bool
    device: Device

    def splits(self, batch: int, count: int, taps: int, spare: int) -> int:
        """In how many parts a channel's rows go: as many as fill the chip, while their sums fit beside the spectra."""
        if self.paired:
            wanted = max(1, min(batch, -(-self.device.sms * self.plan.blocks // (2 * count))))
        else:
            wanted = splits_for(batch, count, self.plan, self.device, 32)
        room = max(1, (spare - count * self.plan.size * 8) // (count * taps * 4))
        return wanted if wanted <= room else -(-batch // -(-batch // room))

    def pieces(self, x: Operands, to: Places) -> Iterator[tuple[int, int, int]]:
        """(first, count, splits) over channels: what they hold at a time fits besides inputs and gradients."""
        taps, spare = x.k.shape[1], spare_bytes(x, to)
        each = self.plan.size * 8 + (taps * 4 if x.per_group > 1 else 0)
        for first, count in channel_chunks(x.u.shape[1], x.per_group, each, spare):
            yield first, count, self.splits(x.u.shape[0], count, taps, spare)

    def run(self, x: Operands, to: Places) -> None:
        """Fill the places."""
        plan, per_group, taps = self.plan, x.per_group, x.k.shape[1]
        batch, _, length = x.u.shape
        for first, count, splits in self.pieces(x, to):
            part, out = x.channels(first, count), to.channels(first, count, per_group)
            kf = spectrum_of(plan, part.k, part.skip, count, self.circular, x.lead)
            whole = splits == 1 and per_group == 1
            parts = out.dk[None] if whole else torch.empty(splits, count, taps, device=x.u.device)
            ins, outs = (out.dy, part.u, part.pregate, part.postgate), (out.du, out.dpre, out.dpost)
            self.kernels.launch(
                "backward_pair" if self.paired else "backward", (2 if self.paired else 1) * count * splits,
                plan.group_threads * plan.groups, self.shared, *(address(t) for t in (*ins, *outs, parts, kf)),
                *strides(*ins, *outs), *(np.int32(n) for n in (batch, count, length, taps, splits, x.lead)),
            )  # fmt: skip
            if not whole:
                torch.sum(parts.view(splits, -1, per_group, taps), (0, 2), out=out.dk)
            if out.dskip is not None:
                torch.sum(parts[..., x.lead], 0, out=out.dskip)
            # the next channels may take this memory
            del kf, parts


@cache
def row_backward(
    size: int, dtype: torch.dtype, gates: tuple[bool, bool], staged: bool, circular: bool, led: bool, index: int
) -> RowBackward | None:
    """How rows of a size go in one launch; None where they need three passes."""
    device, item = device_of(index), dtype.itemsize
    pair = pair_plan(size, device, staged, wide_intermediates(size, dtype))
    plan = backward_plan(size, item, gates, device, staged) if pair is None else pair
    if plan is None:
        return None
    source, shared = (
        ("backward.cuh", plan.backward_bytes(item, *gates)) if pair is None else ("backward_pair.cuh", pair_bytes(plan))
    )
    spectra = spectrum_kind(plan, circular, led)
    own = {**plan.options(IO[dtype], *gates), "SHIFT": spectra["SHIFT"], "LEAD": spectra["LEAD"]}
    names = ("backward" if pair is None else "backward_pair",), ("spectrum",)
    kernels = built_together([(source, own, names[0]), ("spectrum.cuh", spectra, names[1])], index)[0]
    return RowBackward(plan, pair is not None, kernels, shared, circular, device)


@dataclass(frozen=True)
class Signal:
    """What the passes of one signal hand over: points, their low bytes (B, H, N), scales of tiles and of lines."""

    points: Tensor
    low: Tensor | None
    tiles: Tensor
    lines: Tensor


@cache
def passes(
    plan: LongBackwardPlan,
    io: int,
    gates: tuple[bool, bool],
    staged: bool,
    filter_staged: bool,
    wide: bool,
    circular: bool,
    index: int,
) -> list[Kernels]:
    """The column passes of gated signals and of others, of filters, of their gradients, and the rows."""
    pre, post = gates
    plain = plan.column_options(io, (False, False, False), staged, wide, circular)
    gated = plan.column_options(io, (True, post, pre), staged, wide, circular) if pre or post else plain
    forward, inverse, pair = (PARTS["columns.cuh"][i : i + 1] for i in range(3))
    # (gated, as they are): what enters, du with or without a gate
    enters = forward if pre or post else (), () if pre and post else forward
    leaves = (*(inverse if post else ()), *(pair if pre else ())), () if pre else inverse
    wanted = [
        ("columns.cuh", gated, (*enters[0], *leaves[0])), ("columns.cuh", plain, (*enters[1], *leaves[1])),
        ("columns.cuh", plan.filter_options(wide, circular, filter_staged), forward),
        ("columns.cuh", plan.filter_gradient_options(circular), inverse),
        ("long_backward.cuh", plan.row_options(io, post, wide, circular), ("rows_gradient",)),
    ]  # fmt: skip
    return built_together(wanted, index)


class Long:
    """The gradients of rows too long for one chip, by three passes over some channels at a time."""

    def __init__(
        self, plan: LongBackwardPlan, x: Operands, to: Places, staged: bool, wide: bool, circular: bool
    ) -> None:
        self.plan, self.x, self.to, self.staged, self.wide, self.low = plan, x, to, staged, wide, not wide
        self.device, self.filter_staged = device_of(x.u.device.index), aligned(x.k[None])
        # What only rows read may lie where columns leave later: low bytes in two gradients of signals, filters in dk.
        outs = [] if wide or x.u.shape[2] != plan.size else [t for t in (to.dpost, to.dpre, to.du) if t is not None]
        self.lent, self.filters_lent = len(outs) > 1, not wide and x.per_group == 1 and x.k.shape[1] == plan.size
        gates, index = (x.pregate is not None, x.postgate is not None), x.u.device.index
        modules = passes(plan, IO[x.u.dtype], gates, staged, self.filter_staged, wide, circular, index)
        self.gated, self.plain, self.filters, self.leaving, self.rows = modules

    def empty(self, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Unwritten memory."""
        return torch.empty(count, dtype=dtype, device=self.x.u.device)

    def columns(self, kernels: Kernels, name: str, rows: int, shared: int, *arguments: Any) -> None:
        """Launch a pass over columns, of some rows, each block over several."""
        plan = self.plan
        blocks = (
            max(8, 4 * plan.column_blocks) if name == "columns_forward" else 2 * plan.column_blocks
        ) * self.device.sms
        steps = max(1, min(rows, blocks // plan.tiles))
        kernels.launch(name, plan.tiles * steps, plan.threads, shared, *arguments, np.int32(rows))

    def lows(self, out: Places) -> tuple[Tensor | None, Tensor | None]:
        """Memory of two signals' low bytes, (B, H, N)."""
        if not self.low:
            return None, None
        if self.lent:
            first, second, *_ = (t for t in (out.dpost, out.dpre, out.du) if t is not None)
            return first, second
        batch, count, _ = out.dy.shape
        both = self.empty(2 * batch * count * self.plan.size, torch.int16).view(2, batch, count, -1)
        return both[0], both[1]

    def enter(self, signal: Tensor, gate: Tensor | None, low: Tensor | None) -> Signal:
        """Transform the columns of gate * signal."""
        plan, (batch, count, length) = self.plan, signal.shape
        n = batch * count * plan.size
        s = Signal(
            self.empty(n * (2 if self.wide else 1)), low, self.empty(batch * count * plan.column[1] * plan.scales),
            self.empty(batch * count * plan.lines),
        )  # fmt: skip
        self.columns(
            self.plain if gate is None else self.gated, "columns_forward", batch * count,
            plan.forward_bytes(signal.element_size(), gate is not None, self.staged), signal.data_ptr(), address(gate),
            s.points.data_ptr(), s.tiles.data_ptr(), *(() if low is None else (low.data_ptr(), *strides(low))),
            *strides(signal, gate), np.int32(count), np.int32(length),
        )  # fmt: skip
        return s

    def enter_filter(self, k: Tensor, dk: Tensor) -> Signal:
        """Transform the columns of filters (G, Lk)."""
        plan, groups = self.plan, k.shape[0]
        points = dk if self.filters_lent else self.empty(groups * plan.size * (2 if self.wide else 1))
        s = Signal(points, None, self.empty(groups * plan.tiles), self.empty(0))
        self.columns(
            self.filters, "columns_forward", groups, plan.forward_bytes(4, False, self.filter_staged), k.data_ptr(), 0,
            s.points.data_ptr(), s.tiles.data_ptr(), 0, k.stride(0), 0, 0, np.int32(groups), np.int32(k.shape[1]),
        )  # fmt: skip
        return s

    def multiply(self, u: Signal, y: Signal, k: Signal, count: int) -> Tensor:
        """The pass over lines; returns what becomes dk, a channel each."""
        plan, batch = self.plan, self.x.u.shape[0]
        across, slots = plan.lines // plan.lines_a_block, self.device.sms * plan.row_blocks
        blocks = across * max(1, min(count, 8 * slots // across))
        d = self.empty(count * plan.size * 2)
        self.rows.launch(
            "rows_gradient", blocks, plan.row_threads, plan.row_bytes(self.wide), u.points.data_ptr(),
            y.points.data_ptr(), address(u.low), address(y.low), *strides(u.low), u.tiles.data_ptr(),
            y.tiles.data_ptr(), u.lines.data_ptr(), y.lines.data_ptr(), k.points.data_ptr(), k.tiles.data_ptr(),
            d.data_ptr(),
            np.int32(batch), np.int32(count), np.int32(count * plan.tiles // k.tiles.numel()),
        )  # fmt: skip
        return d

    def leave(self, s: Signal, gates: tuple[Tensor, ...], outs: tuple[Tensor, ...]) -> None:
        """outs = gates * the inverse; without a gate the inverse itself."""
        batch, count, length = outs[0].shape
        name = "columns_inverse_pair" if len(outs) == 2 else "columns_inverse"
        held = gates or (None,)
        self.columns(
            self.gated if gates else self.plain, name, batch * count, self.plan.inverse_bytes(self.wide),
            s.points.data_ptr(), s.lines.data_ptr(), *(address(t) for t in (*held, *outs)), *strides(*held, *outs),
            np.int32(count), np.int32(length),
        )  # fmt: skip

    def leave_filter(self, d: Tensor, out: Tensor) -> None:
        """out (H, Lk) = the inverse of what `multiply` returned."""
        plan, (count, taps) = self.plan, out.shape
        tiles = plan.row // plan.filter_columns
        steps = max(1, min(count, 8 * self.device.sms // tiles))
        self.leaving.launch(
            "columns_inverse", tiles * steps, plan.filter_columns * plan.column[1], plan.filter_bytes(), d.data_ptr(),
            0, 0, out.data_ptr(), 0, 0, 0, out.stride(0), np.int32(count), np.int32(taps), np.int32(count),
        )  # fmt: skip

    def channel_bytes(self) -> int:
        """What one channel holds besides inputs and gradients."""
        plan, x, batch = self.plan, self.x, self.x.u.shape[0]
        signals = 2 * batch * (plan.size * (4 if self.lent else plan.point_bytes(self.wide)))
        scales = 8 * batch * (plan.column[1] * plan.scales + plan.lines) + 4 * plan.tiles
        filters = 0 if self.filters_lent else plan.size * (8 if self.wide else 4)
        copies = 4 * x.k.shape[1] * ((x.skip is not None) + (x.per_group > 1))
        return signals + scales + filters + copies + 8 * plan.size

    def run(self) -> None:
        """Fill the places."""
        x, per_group = self.x, self.x.per_group
        limit = max(LEAST_BYTES, spare_bytes(x, self.to))
        for first, count in channel_chunks(x.u.shape[1], per_group, self.channel_bytes(), limit):
            part, out = x.channels(first, count), self.to.channels(first, count, per_group)
            taps = part.k
            if part.skip is not None:
                taps = taps.repeat_interleave(per_group, 0) if per_group > 1 else taps.clone()
                taps[:, 0] += part.skip
            lows = self.lows(out)
            u, y = self.enter(part.u, part.pregate, lows[0]), self.enter(out.dy, part.postgate, lows[1])
            filters = self.enter_filter(taps, out.dk)
            d = self.multiply(u, y, filters, count)
            if out.dpost is not None:
                self.leave(u, (out.dy,), (out.dpost,))
            if part.pregate is None or out.dpre is None:
                self.leave(y, (), (out.du,))
            else:
                self.leave(y, (part.pregate, part.u), (out.du, out.dpre))
            parts = out.dk if per_group == 1 else torch.empty(count, x.k.shape[1], device=x.k.device)
            self.leave_filter(d, parts)
            if per_group > 1:
                torch.sum(parts.view(-1, per_group, x.k.shape[1]), 1, out=out.dk)
            if out.dskip is not None:
                out.dskip.copy_(parts[:, 0])
            # the next chunk may take this memory
            del u, y, filters, d, parts, taps, lows
