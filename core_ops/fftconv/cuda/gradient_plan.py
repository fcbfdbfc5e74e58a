"""Which kernel options run the backward of rows of a length on a device: measured choices first.

Letters: N1 lines and N2 points a line of a long row, T threads a line.
"""

from dataclasses import dataclass, replace
from functools import cache

from .plan import RESERVED, Device, RowPlan, and_unstaged, device_of, fft_size, first_fitting, radix_table_bytes


@dataclass(frozen=True)
class LongBackwardPlan:
    """Three passes: options of columns.cuh and long_backward.cuh.

    Args:
        column: N1 = c1 c3; c1 points a thread.
        radices: N2 = r1 r2 r3; r1 points a thread.
        columns: Columns a block of the column passes. column_blocks: Blocks a multiprocessor should hold.
        row_blocks: The same for the rows.
        held: The filter's spectrum waits in shared memory rather than in registers.
    """

    column: tuple[int, int]
    radices: tuple[int, int, int]
    columns: int = 32
    column_blocks: int = 2
    row_blocks: int = 1
    held: bool = False

    @property
    def lines(self) -> int:
        """N1."""
        return self.column[0] * self.column[1]

    @property
    def row(self) -> int:
        """N2."""
        r1, r2, r3 = self.radices
        return r1 * r2 * r3

    @property
    def size(self) -> int:
        """N."""
        return self.lines * self.row

    @property
    def tiles(self) -> int:
        """Blocks across a row."""
        return self.row // self.columns

    @property
    def scales(self) -> int:
        """Scales of a line that leaves the columns."""
        return self.row // min(32, self.columns)

    @property
    def threads(self) -> int:
        """Threads of the column passes."""
        return self.columns * self.column[1]

    @property
    def line_threads(self) -> int:
        """T."""
        return self.row // self.radices[0]

    @property
    def lines_a_block(self) -> int:
        """Lines of a signal that a block of the rows holds."""
        return max(1, 16 // self.line_threads)

    @property
    def row_threads(self) -> int:
        """Threads of a block of the rows."""
        return 2 * self.lines_a_block * self.line_threads

    @property
    def filter_columns(self) -> int:
        """Columns a block where the filter's gradient, in fp32, leaves."""
        return min(32, max(8, 4096 // self.lines))

    def point_bytes(self, wide: bool) -> int:
        """What a point of a signal takes between the passes."""
        return 8 if wide else 6

    def forward_bytes(self, item: int, gate: bool, staged: bool) -> int:
        """Shared memory of `columns_forward`."""
        area = self.lines * self.columns
        return area * 8 + area * item * (1 + gate) * staged + 128

    def inverse_bytes(self, wide: bool) -> int:
        """Shared memory of `columns_inverse` and `columns_inverse_pair`."""
        area = self.lines * self.columns
        return area * 8 + area * (8 if wide else 4) + self.lines * 4

    def filter_bytes(self) -> int:
        """Shared memory of `columns_inverse` where the filter's gradient leaves."""
        return self.lines * (self.filter_columns * 16 + 4)

    def row_bytes(self, wide: bool) -> int:
        """Shared memory of `rows_gradient`."""
        r1, r2, r3 = self.radices
        exchange = r1 * r2 * (r3 + 2) + (8 if r3 == 8 else 0)
        slot = self.row * self.point_bytes(wide) + (0 if wide else self.scales * 4)
        sides, held = 2 * self.lines_a_block, self.row * 8 if self.held else 0
        return radix_table_bytes(r1, r2, r3) + sides * (exchange * 8 + slot + self.row * 8) + held + 128

    def column_bytes(self, item: int, wide: bool, gate: bool, staged: bool) -> int:
        """Shared memory of a block over the columns of signals."""
        return max(self.forward_bytes(item, gate, staged), self.inverse_bytes(wide))

    def options(self, io: int, wide: bool, circular: bool) -> dict[str, int]:
        """Macros of intermediate.cuh."""
        r1, r2, r3 = self.radices
        return {
            "COL1": self.column[0], "COL3": self.column[1], "COLS": self.columns, "RADIX1": r1, "RADIX2": r2,
            "RADIX3": r3, "SHIFT": int(not circular), "IO": io, "WIDE": int(wide), "LOW": int(not wide),
        }  # fmt: skip

    def column_options(
        self, io: int, gates: tuple[bool, bool, bool], staged: bool, wide: bool, circular: bool
    ) -> dict[str, int]:
        """Macros of columns.cuh; gates: of columns_forward, of columns_inverse, whether there is a pair."""
        pre, post, pair = (int(g) for g in gates)
        return {
            **self.options(io, wide, circular), "COLMINB": self.column_blocks, "PRE": pre, "POST": post, "PAIR": pair,
            "STAGED": int(staged),
        }  # fmt: skip

    def filter_options(self, wide: bool, circular: bool, staged: bool) -> dict[str, int]:
        """Macros of columns.cuh for the filter's columns."""
        return {**self.column_options(0, (False, False, False), staged, wide, circular), "LOW": 0}

    def filter_gradient_options(self, circular: bool) -> dict[str, int]:
        """Macros of columns.cuh where the filter's gradient leaves."""
        options = self.column_options(0, (False, False, False), False, True, circular)
        return {**options, "COLS": self.filter_columns, "COLMINB": 1}

    def row_options(self, io: int, postgate: bool, wide: bool, circular: bool) -> dict[str, int]:
        """Macros of long_backward.cuh."""
        return {
            **self.options(io, wide, circular), "FILTER_WIDE": int(wide), "POST": int(postgate),
            "MINB": self.row_blocks, "HELD": int(self.held),
        }  # fmt: skip

    def fitted(self, item: int, wide: bool, gate: bool, staged: bool, device: Device) -> "LongBackwardPlan | None":
        """The plan with as many blocks as a device's shared memory holds; None where not even one fits."""
        columns, rows = self.column_bytes(item, wide, gate, staged), self.row_bytes(wide)
        if max(columns, rows, self.forward_bytes(4, False, True), self.filter_bytes()) > device.block_bytes:
            return None
        return replace(
            self,
            column_blocks=max(1, min(self.column_blocks, device.sm_bytes // (columns + RESERVED))),
            row_blocks=max(1, min(self.row_blocks, device.sm_bytes // (rows + RESERVED))),
        )


BACK_8K = RowPlan((32, 16, 16), spectrum=2)
BACKWARD: dict[int, tuple[RowPlan, ...]] = {
    128: and_unstaged(RowPlan((16, 1, 8), groups=2, blocks=6, spectrum=2)),
    256: and_unstaged(RowPlan((16, 1, 16), groups=2, blocks=6, spectrum=2)),
    512: and_unstaged(RowPlan((16, 2, 16), blocks=12, spectrum=2)),
    1024: and_unstaged(RowPlan((16, 4, 16), blocks=6, spectrum=2)),
    2048: and_unstaged(RowPlan((16, 8, 16), blocks=3, spectrum=2)),
    4096: and_unstaged(RowPlan((16, 16, 16), blocks=2, spectrum=2)),
    8192: and_unstaged(BACK_8K, replace(BACK_8K, padded=0, staged=2)),
}


# Shared memory of a block that only devices with clusters give: before compute capability 9.0 it is 163 KB at most.
CLUSTERED = 200 << 10
# N -> two blocks a row
PAIRS = {
    4096: RowPlan((32, 8, 16), blocks=4, spectrum=2, padded=0, staged=0),
    8192: RowPlan((32, 16, 16), blocks=2, spectrum=2, padded=0, staged=0),
    16384: RowPlan((32, 32, 16), spectrum=2, padded=0, staged=0),
}


def pair_bytes(plan: RowPlan) -> int:
    """Shared memory of `backward_pair`."""
    return plan.spectrum_bytes + plan.size * 4


def pair_plan(size: int, device: Device, staged: bool, wide: bool) -> RowPlan | None:
    """The plan of backward_pair.cuh where it is the fastest: rows that are not aligned, or too long and wide.

    Args:
        size: N. device: The limits. staged: Whether rows start at multiples of 16 bytes.
        wide: Whether three passes would keep fp32 between them.
    """
    plan = PAIRS.get(size)
    others = staged and (size < 16384 or not wide)
    return None if others or device.block_bytes < CLUSTERED else plan


def backward_plan(size: int, item: int, gates: tuple[bool, bool], device: Device, staged: bool) -> RowPlan | None:
    """The plan of backward.cuh for rows of a size; None where none fits."""
    plans = BACKWARD.get(size, ())
    return first_fitting(plans, device, staged, lambda p: p.backward_bytes(item, *gates))


# N2 -> radices, blocks a multiprocessor, whether the filter's spectrum waits in shared memory
ROWS: dict[int, tuple[tuple[int, int, int], int, bool]] = {
    128: ((16, 1, 8), 16, False),
    256: ((16, 1, 16), 16, False),
    512: ((16, 2, 16), 7, True),
    1024: ((16, 4, 16), 4, True),
    2048: ((16, 8, 16), 2, True),
    4096: ((16, 16, 16), 1, True),
}


def over(column: tuple[int, int], row: int, columns: int = 32, column_blocks: int = 2) -> LongBackwardPlan:
    """A plan by the number of points of its lines."""
    radices, blocks, held = ROWS[row]
    return LongBackwardPlan(column, radices, columns, column_blocks, blocks, held)


def lean(plan: LongBackwardPlan) -> LongBackwardPlan:
    """The plan with as little shared memory as it can do with."""
    return replace(plan, held=False)


# N -> plans, best first as measured on an H100; the later ones are for less shared memory, or for fp32 in between
LONG_BACKWARD: dict[int, tuple[LongBackwardPlan, ...]] = {
    8192: (over((16, 4), 128, column_blocks=4),),
    16384: (over((32, 4), 128, columns=64), over((32, 4), 128, column_blocks=4), over((16, 4), 256)),
    32768: (over((32, 4), 256, columns=64), over((32, 4), 256, column_blocks=4), over((16, 4), 512)),
    65536: (over((32, 8), 256, columns=64, column_blocks=1), over((32, 8), 256), over((32, 4), 512, columns=16)),
    131072: (over((32, 16), 256, column_blocks=1), over((32, 8), 512, columns=16)),
    262144: (over((32, 16), 512, column_blocks=1), over((32, 8), 1024, columns=16)),
    524288: (over((32, 16), 1024, column_blocks=1), over((32, 8), 2048, columns=16)),
    1048576: (
        over((32, 16), 2048, column_blocks=1),
        over((32, 16), 2048, columns=16),
        lean(over((32, 32), 1024, columns=8, column_blocks=1)),
    ),
    2097152: (over((32, 16), 4096, column_blocks=1), lean(over((32, 16), 4096, columns=16))),
    4194304: (
        over((32, 32), 4096, columns=16, column_blocks=1),
        lean(over((32, 32), 4096, columns=8, column_blocks=1)),
    ),
}


def long_backward_plan(
    size: int, item: int, wide: bool, gate: bool, device: Device, staged: bool
) -> LongBackwardPlan | None:
    """The first plan of three passes that fits.

    Args:
        size: N. item: Bytes of a sample. wide: fp32 between the passes. gate: Whether a signal is gated.
        device: The limits. staged: Whether rows start at multiples of 16 bytes.
    """
    for plan in LONG_BACKWARD.get(size, ()):
        fitted = plan.fitted(item, wide, gate, staged, device)
        if fitted is not None:
            return fitted
    return None


@cache
def backward_fits(length: int, item: int, gates: tuple[bool, bool], index: int) -> bool:
    """Whether kernels on this device hold what the backward of a row needs, however it is aligned."""
    size, device = fft_size(length), device_of(index)
    if backward_plan(size, item, gates, device, False) or pair_plan(size, device, False, True):
        return True
    return long_backward_plan(size, item, True, any(gates), device, False) is not None


@cache
def leads(length: int, item: int, gates: tuple[bool, bool], index: int | None) -> bool:
    """Whether the backward of such rows takes taps before lag 0 as they are: where one block holds a row, or no GPU."""
    return index is None or backward_plan(fft_size(length), item, gates, device_of(index), False) is not None
