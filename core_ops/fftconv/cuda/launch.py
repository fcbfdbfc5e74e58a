"""The kernels on tensors: which options, how many blocks, in what order.

Shapes: u, gates (B, H, L) with unit stride in time; k (G, Lk) fp32, contiguous; skip (H,) fp32.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...nvrtc import Module
from .plan import (
    Device,
    ForwardPlan,
    RowPlan,
)

SOURCES = Path(__file__).parent
SPECTRUM_BYTES = 256 << 20  # spectra and intermediates beyond this are made for some channels at a time
LEAST_BYTES = 32 << 20  # intermediates under this are made for all channels at once
# Kernels of a source that are compiled one by one, in their order there: PART
PARTS = {
    "long_forward.cuh": ("columns_forward", "columns_inverse", "rows_product"),
    "columns.cuh": ("columns_forward", "columns_inverse", "columns_inverse_pair"),
}
# A filter's spectra by what made them: filled where they are not there, read where they are.
Spectra = dict[Any, tuple[Tensor, ...]]


@cache
def module(source: str, options: tuple[tuple[str, int], ...], index: int) -> Module:
    """The compiled kernels of one source and set of options."""
    return Module(SOURCES / source, dict(options), torch.device("cuda", index))


def built(source: str, options: dict[str, int], index: int) -> Module:
    """`module`, from a dict."""
    return module(source, tuple(sorted(options.items())), index)


@dataclass(frozen=True)
class Kernels:
    """Some kernels of one source with one set of options, by their names."""

    modules: dict[str, Module]

    def launch(self, name: str, *arguments: Any) -> None:
        """`Module.launch` of one of them."""
        self.modules[name].launch(name, *arguments)


def built_together(wanted: Sequence[tuple[str, dict[str, int], tuple[str, ...]]], index: int) -> list[Kernels]:
    """The named kernels of several (source, options, names), each compiled on a core of its own."""
    # Two threads that import it at once may find half of it.
    import cuda.core  # noqa: F401

    parts = [
        (source, {**options, "PART": PARTS[source].index(name) + 1} if source in PARTS else options)
        for source, options, names in wanted
        for name in names
    ]
    with ThreadPoolExecutor(len(parts)) as pool:
        apart = [each for i, each in enumerate(parts) if each not in parts[:i]]
        list(pool.map(lambda each: built(each[0], each[1], index), apart))
    ready = iter([built(source, options, index) for source, options in parts])
    return [Kernels({name: next(ready) for name in names}) for _, _, names in wanted]


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
    groups, most = channels // per_group, max(1, limit // max(1, bytes_each) // per_group)
    count = -(-groups // -(-groups // most)) * per_group
    for first in range(0, channels, count):
        yield first, min(count, channels - first)


def splits_for(batch: int, channels: int, plan: RowPlan, device: Device, steps: int) -> int:
    """Blocks a channel: enough to fill the chip, up to eight times that while a block keeps `steps` rounds of rows."""
    slots, rounds = device.sms * plan.blocks, -(-batch // (plan.groups * plan.rows))
    fill, even = -(-slots // channels), min(-(-8 * slots // channels), rounds // steps)
    return max(1, min(rounds, max(fill, even)))


def spectrum_kind(plan: RowPlan, circular: bool, led: bool) -> dict[str, int]:
    """Macros of spectrum.cuh."""
    return {**plan.spectrum_options(), "SHIFT": int(not circular), "LEAD": int(led)}


def spectrum_of(
    plan: RowPlan, k: Tensor, skip: Tensor | None, channels: int, circular: bool = False, lead: int = 0
) -> Tensor:
    """(H, N, 2): the filters' spectra in the order of the plan's kernels; `lead` taps stand before lag 0."""
    kf = torch.empty(channels, plan.size, 2, device=k.device)
    built("spectrum.cuh", spectrum_kind(plan, circular, lead > 0), k.device.index).launch(
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

    plan: ForwardPlan
    sms: int

    def forward(self, kernels: Kernels, rows: int, shared: int, *arguments: Any, filters: bool = False) -> None:
        """Launch `columns_forward` over some rows; filters are few: one wave of blocks, where a block fills a chip."""
        waves = 1 if filters and self.plan.column_blocks == 1 else 8
        steps = max(1, min(rows, waves * self.sms // self.plan.tiles))
        blocks = self.plan.tiles * steps
        kernels.launch("columns_forward", blocks, self.plan.threads, shared, *arguments, np.int32(rows))

    def inverse(self, kernels: Kernels, rows: int, shared: int, *arguments: Any) -> None:
        """Launch `columns_inverse` over some rows."""
        together = max(1, min(rows, self.sms * self.plan.column_blocks // self.plan.tiles))
        waves = min(-(-rows // together), 1 if self.plan.column_blocks == 1 else 8)
        blocks, last = self.plan.tiles * together * waves, (np.int32(rows), np.int32(together))
        kernels.launch("columns_inverse", blocks, self.plan.threads, shared, *arguments, *last)


def filter_columns(columns: Columns, filters: Kernels, k: Tensor, point: int) -> tuple[Tensor, Tensor]:
    """The columns of filters (G, Lk), and their scales."""
    plan, groups = columns.plan, k.shape[0]
    w = torch.empty(groups * plan.size * point // 4, dtype=torch.int32, device=k.device).view(groups, -1)
    scales = torch.empty(groups, plan.tiles, device=k.device)
    columns.forward(
        filters, groups, plan.forward_bytes(4, False, aligned(k[None])), k.data_ptr(), 0, w.data_ptr(),
        scales.data_ptr(), 0, k.stride(0), 0, 0, np.int32(groups), np.int32(k.shape[1]), filters=True,
    )  # fmt: skip
    return w, scales


def intermediate_bytes(output: int, channels: int, size: int) -> int:
    """The most bytes that three passes hold beside an output of so many bytes."""
    if size <= 1 << 15:
        return max(LEAST_BYTES, min(SPECTRUM_BYTES, channels * size * 8) + output // 10)
    return max(LEAST_BYTES, 19 * output // 10)
