"""The gradients on tensors: which kernels, how many blocks, in what order.

Shapes: dy, u, gates (B, H, L) with unit stride in time; k (G, Lk) fp32, contiguous; skip (H,) fp32.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import KernelUnavailable
from .gradient_plan import LongBackwardPlan, backward_plan, long_backward_plan, pair_bytes, pair_plan
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
from .nvrtc import Module
from .plan import IO, RowPlan, device_of, fft_size, wide_intermediates

Gradients = tuple[Tensor, Tensor | None, Tensor | None, Tensor, Tensor | None]
LEAST_BYTES = 32 << 20  # intermediates under this are made for all channels at once


@dataclass(frozen=True)
class Places:
    """dy, and where the gradients of rows go."""

    dy: Tensor
    du: Tensor
    dpre: Tensor | None
    dpost: Tensor | None

    def channels(self, first: int, count: int) -> "Places":
        """The same for some channels."""
        dpre, dpost = (None if x is None else cut(x, first, count) for x in (self.dpre, self.dpost))
        return Places(cut(self.dy, first, count), cut(self.du, first, count), dpre, dpost)


def backward(x: Operands, dy: Tensor, circular: bool = False) -> Gradients:
    """(du, dpregate, dpostgate, dk (G, Lk) fp32, dskip (H,) fp32).

    Args:
        x: The inputs; no more taps than samples. dy: (B, H, L), as u.
        circular: Of the circular convolution; L is a power of two, at least 128.
    Raises: KernelUnavailable: no kernel holds a row; see gradient_plan.backward_fits.
    """
    u = x.u
    device, size, item = device_of(u.device.index), fft_size(u.shape[2]), u.element_size()
    du = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    dpre, dpost = (None if g is None else torch.empty_like(du) for g in (x.pregate, x.postgate))
    to, gates = Places(dy, du, dpre, dpost), (x.pregate is not None, x.postgate is not None)
    staged, wide = aligned(dy, u, x.pregate, x.postgate, du), wide_intermediates(size, u.dtype)
    plan = backward_plan(u.shape[2], item, gates, device, staged)
    if plan is not None:
        dk, dskip = one_launch(x, to, plan, circular)
        return du, dpre, dpost, dk, dskip
    pair = pair_plan(u.shape[2], device)
    if pair is not None:
        dk, dskip = two_blocks(x, to, pair, circular)
        return du, dpre, dpost, dk, dskip
    for moved in (staged, False):
        long = long_backward_plan(size, item, wide, any(gates), device, moved)
        if long is not None:
            dk, dskip = Long(long, x, to, moved, wide, circular).run()
            return du, dpre, dpost, dk, dskip
    raise KernelUnavailable(
        f"fftconv: no backward kernel for L={u.shape[2]} in {device.block_bytes} bytes of shared memory; "
        "take impl='torch'."
    )


def one_launch(x: Operands, to: Places, plan: RowPlan, circular: bool) -> tuple[Tensor, Tensor | None]:
    """dk and dskip; fills the places. A row stays on one chip."""
    u, device, gates = x.u, device_of(x.u.device.index), (x.pregate is not None, x.postgate is not None)
    size, item = plan.size, u.element_size()
    options = {**plan.options(IO[u.dtype], *gates), "SHIFT": int(not circular), "SCRATCH": plan.scratch}
    kernels = built("backward.cuh", options, u.device.index)
    taps, channels = x.k.shape[1], u.shape[1]
    dk = torch.empty(x.k.shape, device=u.device)
    dskip = None if x.skip is None else torch.empty(channels, device=u.device)
    for first, count in channel_chunks(channels, x.per_group, size * 8 * (1 + 2 * plan.scratch), SPECTRUM_BYTES):
        part, out = x.channels(first, count), to.channels(first, count)
        splits = splits_for(u.shape[0], count, plan, device, 32)
        kf = spectrum_of(plan, part.k, part.skip, count, circular)
        scratch = torch.empty(count * splits * 2 * size * 2, device=u.device) if plan.scratch else None
        parts = torch.empty(splits, count, taps, device=u.device)
        skips = None if dskip is None else torch.empty(splits, count, device=u.device)
        ins, outs = (out.dy, part.u, part.pregate, part.postgate), (out.du, out.dpre, out.dpost)
        kernels.launch(
            "backward", count * splits, plan.group_threads * plan.groups, plan.backward_bytes(item, *gates),
            *(address(t) for t in (*ins, *outs, parts, skips, kf, scratch)), *strides(*ins, *outs),
            *(np.int32(n) for n in (u.shape[0], count, u.shape[2], taps, splits)),
        )  # fmt: skip
        rows = slice(first // x.per_group, (first + count) // x.per_group)
        dk[rows] = parts.view(splits, -1, x.per_group, taps).sum((0, 2))
        if dskip is not None and skips is not None:
            dskip[first : first + count] = skips.sum(0)
    return dk, dskip


def two_blocks(x: Operands, to: Places, plan: RowPlan, circular: bool) -> tuple[Tensor, Tensor | None]:
    """dk and dskip; fills the places. A row takes two multiprocessors."""
    u, device, index = x.u, device_of(x.u.device.index), x.u.device.index
    gates = x.pregate is not None, x.postgate is not None
    kernels = built("backward_pair.cuh", {**plan.options(IO[u.dtype], *gates), "SHIFT": int(not circular)}, index)
    batch, channels, length = u.shape
    taps = x.k.shape[1]
    dk = torch.empty(x.k.shape, device=u.device)
    dskip = None if x.skip is None else torch.empty(channels, device=u.device)
    for first, count in channel_chunks(channels, x.per_group, plan.size * 8, SPECTRUM_BYTES):
        part, out = x.channels(first, count), to.channels(first, count)
        splits = max(1, min(batch, -(-device.sms // (2 * count))))
        kf = spectrum_of(plan, part.k, part.skip, count, circular)
        parts = torch.empty(splits, count, taps, device=u.device)
        ins, outs = (out.dy, part.u, part.pregate, part.postgate), (out.du, out.dpre, out.dpost)
        kernels.launch(
            "backward_pair", 2 * count * splits, plan.row_threads, pair_bytes(plan),
            *(address(t) for t in (*ins, *outs, parts, kf)), *strides(*ins, *outs),
            *(np.int32(n) for n in (batch, count, length, taps, splits)),
        )  # fmt: skip
        rows = slice(first // x.per_group, (first + count) // x.per_group)
        dk[rows] = parts.view(splits, -1, x.per_group, taps).sum((0, 2))
        if dskip is not None:
            dskip[first : first + count] = parts[..., 0].sum(0)
    return dk, dskip


@cache
def steps_for(rows: int, tiles: int, slots: int) -> int:
    """How many rows at a time column passes take: least rounds of `slots` blocks, each with a start to pay.

    Args:
        rows: To transform. tiles: Blocks across a row. slots: Blocks that the device holds.
    """

    def cost(rounds: int) -> float:
        waves = -(-steps(rounds) * tiles // slots)
        return waves * (rounds + 0.25)

    def steps(rounds: int) -> int:
        return -(-rows // rounds)

    return steps(min(range(1, rows * tiles // slots + 3), key=cost))


@dataclass(frozen=True)
class Signal:
    """What the passes of one signal hand over: points, their low bytes, scales of tiles and of lines."""

    points: Tensor
    low: Tensor | None
    tiles: Tensor
    lines: Tensor


class Long:
    """The gradients of rows too long for one chip, by three passes over some channels at a time."""

    def __init__(
        self, plan: LongBackwardPlan, x: Operands, to: Places, staged: bool, wide: bool, circular: bool
    ) -> None:
        u, pre, post = x.u, x.pregate is not None, x.postgate is not None
        self.plan, self.x, self.to, self.staged, self.wide = plan, x, to, staged, wide
        self.device, self.low = device_of(u.device.index), plan.low and not wide
        io, index = IO[u.dtype], u.device.index

        def columns(*gates: bool) -> Module:
            return built("columns.cuh", plan.column_options(io, gates, staged, wide, circular), index)  # type: ignore[arg-type]

        self.gated = columns(True, post, pre) if pre or post else columns(False, False, False)
        self.plain = self.gated if pre and post else columns(False, False, False)
        self.filter_staged = aligned(x.k[None])
        self.filters = built("columns.cuh", plan.filter_options(wide, circular, self.filter_staged), index)
        self.leaving = built("columns.cuh", plan.filter_gradient_options(circular), index)
        self.rows = built("long_backward.cuh", plan.row_options(io, post, wide, circular), index)

    def empty(self, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Unwritten memory."""
        return torch.empty(count, dtype=dtype, device=self.x.u.device)

    def columns(self, module: Module, name: str, rows: int, shared: int, *arguments: Any) -> None:
        """Launch a pass over columns, of some rows."""
        plan = self.plan
        steps = steps_for(rows, plan.tiles, plan.column_blocks * self.device.sms)
        module.launch(name, plan.tiles * steps, plan.threads, shared, *arguments, np.int32(rows))

    def enter(self, signal: Tensor, gate: Tensor | None) -> Signal:
        """Transform the columns of gate * signal."""
        plan, (batch, count, length) = self.plan, signal.shape
        n = batch * count * plan.size
        low = self.empty(n, torch.int16) if self.low else None
        s = Signal(
            self.empty(n * (2 if self.wide else 1)), low, self.empty(batch * count * plan.column[1] * plan.scales),
            self.empty(batch * count * plan.lines),
        )  # fmt: skip
        self.columns(
            self.plain if gate is None else self.gated, "columns_forward", batch * count,
            plan.forward_bytes(signal.element_size(), gate is not None, self.staged), signal.data_ptr(), address(gate),
            s.points.data_ptr(), s.tiles.data_ptr(), *(() if low is None else (low.data_ptr(),)),
            *strides(signal, gate), np.int32(count), np.int32(length),
        )  # fmt: skip
        return s

    def enter_filter(self, k: Tensor) -> Signal:
        """Transform the columns of filters (G, Lk)."""
        plan, groups = self.plan, k.shape[0]
        s = Signal(
            self.empty(groups * plan.size * (2 if self.wide else 1)), None, self.empty(groups * plan.tiles),
            self.empty(0),
        )  # fmt: skip
        self.columns(
            self.filters, "columns_forward", groups, plan.forward_bytes(4, False, self.filter_staged), k.data_ptr(), 0,
            s.points.data_ptr(), s.tiles.data_ptr(), 0, k.stride(0), 0, 0, np.int32(groups), np.int32(k.shape[1]),
        )  # fmt: skip
        return s

    def multiply(self, u: Signal, y: Signal, k: Signal, count: int) -> Tensor:
        """The pass over lines; returns what becomes dk, a channel each."""
        plan, batch = self.plan, self.x.u.shape[0]
        across = plan.lines // plan.lines_a_block
        blocks = across * max(1, min(count, plan.row_waves * self.device.sms * plan.row_blocks // across))
        d = self.empty(count * plan.size * 2)
        self.rows.launch(
            "rows_gradient", blocks, plan.row_threads, plan.row_bytes(self.wide), u.points.data_ptr(),
            y.points.data_ptr(), address(u.low), address(y.low), u.tiles.data_ptr(), y.tiles.data_ptr(),
            u.lines.data_ptr(), y.lines.data_ptr(), k.points.data_ptr(), k.tiles.data_ptr(), d.data_ptr(),
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
        steps = steps_for(count, tiles, 3 * self.device.sms)
        self.leaving.launch(
            "columns_inverse", tiles * steps, plan.filter_columns * plan.column[1], plan.filter_bytes(), d.data_ptr(),
            0, 0, out.data_ptr(), 0, 0, 0, out.stride(0), np.int32(count), np.int32(taps), np.int32(count),
        )  # fmt: skip

    def run(self) -> tuple[Tensor, Tensor | None]:
        """dk and dskip; fills the places."""
        x, to, per_group = self.x, self.to, self.x.per_group
        k, skip, (batch, channels, _) = x.k, x.skip, x.u.shape
        dk = torch.empty(k.shape, device=k.device)
        dskip = None if skip is None else torch.empty(channels, device=k.device)
        everything = (x.u, to.dy, to.du, x.pregate, to.dpre, x.postgate, to.dpost)
        limit = max(LEAST_BYTES, 3 * sum(t.numel() * t.element_size() for t in everything if t is not None) // 10)
        each = self.plan.size * (2 * batch * self.plan.point_bytes(self.wide) + 20)
        for first, count in channel_chunks(channels, per_group, each, limit):
            part, out = x.channels(first, count), to.channels(first, count)
            taps = part.k
            if part.skip is not None:
                taps = taps.repeat_interleave(per_group, 0) if per_group > 1 else taps.clone()
                taps[:, 0] += part.skip
            u, y = self.enter(part.u, part.pregate), self.enter(out.dy, part.postgate)
            filters = self.enter_filter(taps)
            d = self.multiply(u, y, filters, count)
            if out.dpost is not None:
                self.leave(u, (out.dy,), (out.dpost,))
            if part.pregate is None or out.dpre is None:
                self.leave(y, (), (out.du,))
            else:
                self.leave(y, (part.pregate, part.u), (out.du, out.dpre))
            filter_rows = slice(first // per_group, (first + count) // per_group)
            parts = dk[filter_rows] if per_group == 1 else torch.empty(count, k.shape[1], device=k.device)
            self.leave_filter(d, parts)
            if per_group > 1:
                dk[filter_rows] = parts.view(-1, per_group, k.shape[1]).sum(1)
            if dskip is not None:
                dskip[first : first + count] = parts[:, 0]
            # the next chunk may take this memory
            del u, y, filters, d, parts, taps
        return dk, dskip
