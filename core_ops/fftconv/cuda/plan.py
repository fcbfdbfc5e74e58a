"""Which kernel options run rows of a length on a device: sizes as the sources count them, measured choices first.

Letters: N points of a transform, T threads a row, E points a thread.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property

import torch

IO = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
RESERVED = 1 << 10  # shared memory that the driver keeps for each block
ONE_LAUNCH = 1 << 14  # the longest rows of one launch
LONGEST = 1 << 22


@dataclass(frozen=True)
class Device:
    """What a plan must fit: shared memory of a block and of a multiprocessor, how many of those."""

    block_bytes: int
    sm_bytes: int
    sms: int


@cache
def device_of(index: int) -> Device:
    """The limits of a CUDA device, as it states them."""
    props = torch.cuda.get_device_properties(index)
    return Device(
        props.shared_memory_per_block_optin,  # type: ignore[attr-defined]
        props.shared_memory_per_multiprocessor,
        props.multi_processor_count,
    )


def radix_table_bytes(r1: int, r2: int, r3: int) -> int:
    """Bytes of the twiddles of stage 2 (Row::TABLE)."""
    log2 = r2.bit_length() - 1
    return ((log2 + 1) // 2 + 1) // 2 * (r1 + r3) * 16


@dataclass(frozen=True)
class RowPlan:
    """A one-launch kernel: options of onepass.cuh and backward.cuh.

    Args:
        radices: N = r1 r2 r3; r1 points a thread.
        groups: Groups of threads in a block. blocks: Blocks a multiprocessor should hold (bounds registers).
        spectrum: 0 made in registers, 1 in shared memory, 2 read from memory, 3 read once.
        padded: Lines in shared memory are padded rather than swizzled.
        staged: Rows pass through shared memory; 2, in backward.cuh: with fewer places.
    """

    radices: tuple[int, int, int]
    groups: int = 1
    blocks: int = 1
    spectrum: int = 0
    padded: int = 1
    staged: int = 1

    @cached_property
    def size(self) -> int:
        """N."""
        r1, r2, r3 = self.radices
        return r1 * r2 * r3

    @cached_property
    def row_threads(self) -> int:
        """T."""
        return self.size // self.radices[0]

    @cached_property
    def group_threads(self) -> int:
        """Threads of a group."""
        return max(32, self.row_threads)

    @cached_property
    def rows(self) -> int:
        """Rows of a group."""
        return self.group_threads // self.row_threads

    @cached_property
    def exchange_bytes(self) -> int:
        """The table and the rows of one group."""
        r1, r2, r3 = self.radices
        row = r1 * r2 * (r3 + 2 * self.padded) + (8 if r3 == 8 else 0)
        return self.rows * row * 8

    @cached_property
    def spectrum_bytes(self) -> int:
        """Shared memory of the kernel `spectrum`."""
        return radix_table_bytes(*self.radices) + self.exchange_bytes

    def slot_bytes(self, item: int) -> int:
        """One staged tensor of one group."""
        return self.rows * (self.size * item + (16 if self.rows > 1 else 0))

    def forward_bytes(self, item: int, pregate: bool) -> int:
        """Shared memory of `forward`."""
        held = self.size * 8 if self.spectrum == 1 else 0
        group = self.exchange_bytes + (2 + pregate) * self.slot_bytes(item) * self.staged
        return radix_table_bytes(*self.radices) + self.groups * group + held

    def backward_bytes(self, item: int, pregate: bool, postgate: bool) -> int:
        """Shared memory of `backward`."""
        kept = self.rows * self.size * 8
        slots = (0, 3 + pregate + postgate, 2 + (pregate or postgate))[self.staged]
        group = self.exchange_bytes + kept + slots * self.slot_bytes(item)
        return radix_table_bytes(*self.radices) + self.groups * group

    def spectrum_options(self) -> dict[str, int]:
        """Macros of spectrum.cuh."""
        r1, r2, r3 = self.radices
        return {"RADIX1": r1, "RADIX2": r2, "RADIX3": r3, "SHIFT": 1, "PADDED": self.padded, "LEAD": 0}

    def options(self, io: int, pregate: bool, postgate: bool) -> dict[str, int]:
        """Macros of onepass.cuh and backward.cuh."""
        return {
            **self.spectrum_options(), "IO": io, "PRE": int(pregate), "POST": int(postgate), "GROUPS": self.groups,
            "MINB": self.blocks, "KF": self.spectrum, "STAGED": self.staged,
        }  # fmt: skip


@dataclass(frozen=True)
class ForwardPlan:
    """The three passes of long_forward.cuh.

    Args:
        column: N1 = c1 c3; c1 points a thread. columns: Columns a block. column_blocks: Blocks a multiprocessor.
        row: N2, with how many blocks a multiprocessor.
        forward_deep, inverse_deep: Tiles that a block of a column pass holds; with 2, the next one arrives all along.
    """

    column: tuple[int, int]
    row: RowPlan
    columns: int = 32
    column_blocks: int = 2
    forward_deep: int = 2
    inverse_deep: int = 2

    @property
    def lines(self) -> int:
        """N1."""
        return self.column[0] * self.column[1]

    @property
    def size(self) -> int:
        """N."""
        return self.lines * self.row.size

    @property
    def tiles(self) -> int:
        """Blocks across a row."""
        return self.row.size // self.columns

    @property
    def threads(self) -> int:
        """Threads of the column passes."""
        return self.columns * self.column[1]

    def forward_bytes(self, item: int, pregate: bool, staged: bool) -> int:
        """Shared memory of `columns_forward`."""
        area = self.lines * self.columns
        return area * 4 + self.forward_deep * area * item * (1 + pregate) * staged + 128

    def inverse_bytes(self, item: int, postgate: bool, staged: bool, wide: bool, device: Device) -> int:
        """Shared memory of `columns_inverse`."""
        area = self.lines * self.columns
        return self.inverse_deep * (area * (8 if wide else 4) + self.lines * 4 + area * item * (postgate and staged))

    def row_bytes(self, wide: bool) -> int:
        """Shared memory of `rows_product`."""
        slot = self.row.rows * (self.row.size * (8 if wide else 4) + self.tiles * 4)
        return self.row.spectrum_bytes + 384 + slot

    def options(
        self, io: int, pregate: bool, postgate: bool, staged: bool, wide: bool, device: Device
    ) -> dict[str, int]:
        """Macros of long_forward.cuh."""
        r1, r2, r3 = self.row.radices
        return {
            "COL1": self.column[0], "COL3": self.column[1], "COLS": self.columns, "COLMINB": self.column_blocks,
            "RADIX1": r1, "RADIX2": r2, "RADIX3": r3, "MINB": self.row.blocks, "PADDED": 1, "SHIFT": 1,
            "IO": io, "PRE": int(pregate), "POST": int(postgate), "STAGED": int(staged), "WIDE": int(wide),
            "FILTER_WIDE": int(wide), "BLOCK_BYTES": device.block_bytes, "FORWARD_DEEP": self.forward_deep,
            "INVERSE_DEEP": self.inverse_deep,
        }  # fmt: skip


def fft_size(length: int) -> int:
    """The power of two that holds a row."""
    return max(128, 1 << (length - 1).bit_length())


def first_fitting(
    plans: Iterable[RowPlan], device: Device, staged: bool, needed: Callable[[RowPlan], int]
) -> RowPlan | None:
    """The first plan whose block fits the device, with as many blocks as its shared memory holds.

    Args:
        plans: Best first. device: The limits. staged: Whether rows start at multiples of 16 bytes.
        needed: Bytes of shared memory of a plan.
    """
    for plan in plans:
        if (staged or not plan.staged) and needed(plan) <= device.block_bytes:
            held = max(1, device.sm_bytes // (needed(plan) + RESERVED))
            return plan if held >= plan.blocks else replace(plan, blocks=held)
    return None


def and_unstaged(*plans: RowPlan) -> tuple[RowPlan, ...]:
    """Plans, then the same for rows that are not aligned."""
    return (*plans, *(replace(p, staged=0) for p in plans[:1]))


SMALL = {
    128: and_unstaged(RowPlan((16, 1, 8), groups=2, blocks=8)),
    256: and_unstaged(RowPlan((16, 1, 16), groups=2, blocks=8)),
    512: and_unstaged(RowPlan((16, 2, 16), groups=2, blocks=8)),
    1024: and_unstaged(RowPlan((16, 4, 16), blocks=8)),
    2048: and_unstaged(RowPlan((16, 8, 16), blocks=4)),
    4096: and_unstaged(RowPlan((16, 16, 16), blocks=2)),
}
ROW_8K = RowPlan((32, 16, 16), blocks=2, spectrum=2, padded=0)
ROW_16K = RowPlan((32, 32, 16), spectrum=2, padded=0)
# (N, bytes of an element) -> plans, best first, as measured on an H100 (docs/decisions)
FORWARD: dict[tuple[int, int], tuple[RowPlan, ...]] = {
    **{(size, item): plans for size, plans in SMALL.items() for item in (2, 4)},
    (8192, 2): and_unstaged(ROW_8K),
    (8192, 4): and_unstaged(replace(ROW_8K, blocks=1)),
    (16384, 2): and_unstaged(ROW_16K),
    (16384, 4): (replace(ROW_16K, staged=0),),
}

ROWS = {
    128: RowPlan((16, 1, 8), blocks=14),
    256: RowPlan((16, 1, 16), blocks=12),
    512: RowPlan((16, 2, 16), blocks=14),
    1024: RowPlan((16, 4, 16), blocks=7),
    2048: RowPlan((16, 8, 16), blocks=4),
    4096: RowPlan((16, 16, 16), blocks=2),
    8192: RowPlan((32, 16, 16), blocks=1),
}


def wide_intermediates(size: int, dtype: torch.dtype) -> bool:
    """Whether what lies between the passes is fp32: where fp16 would be seen beside the rounding of the output."""
    return dtype == torch.float32 or (dtype == torch.float16 and size <= 1 << 15)
