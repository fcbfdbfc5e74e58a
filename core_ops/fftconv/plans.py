"""Which plan, size and chunk a CPU call takes: small tables from the measurements in README.md."""

import functools
from dataclasses import dataclass
from typing import Literal

from .modes import Problem, problem_of

Kind = Literal["taps", "blocks", "rfft", "right_angle", "split"]

# Heads of 2^m whose transforms cost no more per point than a power of two (MKL, float32).
HEADS: tuple[int, ...] = (8, 9, 10, 12, 14, 15)
# Up to this many taps, shifted multiply-adds.
TAPS_MOST = 8
# Overlap-save where the filter is at most this part of the outputs; its FFT size by taps, the first that holds.
BLOCKS_PART = 4
BLOCK_SIZES: tuple[tuple[int, int], ...] = ((256, 1024), (1024, 4096), (2048, 16384), (12288, 32768), (16384, 65536))
# A right-angle transform of one row is shared among threads from this size on.
SHARE_LEAST = 1 << 17
# Rows that one FFT call computes side by side in vector registers; fewer cost as much.
VECTOR = 16
# (filters, period): with so many filters or more, real FFTs of rows cost least up to this period.
RFFT_PERIODS: tuple[tuple[int, int], ...] = ((4, 1 << 18), (2, 1 << 14), (0, 1 << 13))
# Real samples of the rows that one worker holds at a time: a megabyte or so with the spectra.
CHUNK = 1 << 17
# Bytes of one lane of a right-angle transform in units of its size in fp32 (x, y, two blocked arrays, the filter's
# spectrum), and of its tables.
LANE_BYTES, TABLE_BYTES = 40, 16

scratch_bytes = 256 << 20


def set_scratch_bytes(count: int) -> int:
    """Set the most bytes that a CPU call of fftconv may hold besides its output; returns the former bound.

    Args:
        count: Bytes, at least 8 MiB. The default is 256 MiB.
    Raises: ValueError: less than 8 MiB.
    """
    global scratch_bytes
    if count < 8 << 20:
        raise ValueError(f"set_scratch_bytes: {count} bytes; at least {8 << 20} (8 MiB) are needed.")
    former, scratch_bytes = scratch_bytes, count
    return former


@dataclass(frozen=True)
class CpuPlan:
    """How a problem is computed.

    Args:
        kind: Which runner. size: Of its FFT, complex for right_angle and split, real for blocks;
            0 for taps.
        most: Rows in a chunk. lanes: Workers. scratch: Bytes held at most, tables included. reason: Why.
    """

    kind: Kind
    size: int
    most: int
    lanes: int
    scratch: int
    reason: str


def smooth_size(least: int) -> int:
    """The smallest fast size >= least: even, a head times a power of two."""
    size = 2
    while size < least:
        size *= 2
    if size < 32:
        return size
    return min(head * size // 16 for head in (*HEADS, 16) if head * size // 16 >= least)


def right_angle_size(least: int) -> int:
    """The smallest fast size >= least of a right-angle transform: a multiple of 4096, by 1 to 8 or by a smooth_size."""
    blocks = -(-least // 4096)
    return 4096 * (blocks if blocks <= 10 else smooth_size(blocks))


def chunk_rows(size: int) -> int:
    """Rows in a chunk: a whole number of vectors, some CHUNK samples."""
    return VECTOR * max(1, CHUNK // (VECTOR * size))


def choose(
    problem: Problem, batch: int, groups: int, width: int, double: bool, threads: int, adjoint: bool = False
) -> CpuPlan:
    """The plan of a problem; "split" when no transform of it fits the scratch bound.

    Args:
        problem: What to compute. batch, groups, width: B, G and H / G. double: float64. threads: Of the caller.
        adjoint: Whether it is the filter's gradient.
    """
    real = 8 if double else 4
    rows = batch * groups * width
    if problem.taps <= TAPS_MOST and not adjoint:
        most = max(1, CHUNK // problem.outputs)
        scratch = threads * 3 * real * min(CHUNK, rows * problem.outputs)
        return CpuPlan("taps", 0, most, threads, scratch, f"{problem.taps} taps: shifted multiply-adds cost least")
    if problem.taps * BLOCKS_PART <= problem.outputs:
        size = next((p for taps, p in BLOCK_SIZES if problem.taps <= taps), 0)
        if size and size < problem.outputs:
            most = max(1, CHUNK // max(size, problem.outputs))
            scratch = threads * 8 * real * max(CHUNK, size)
            reason = f"{problem.taps} taps for {problem.outputs} outputs: blocks overlap by less than they save"
            return CpuPlan("blocks", size, most, threads, scratch, reason)
    size = smooth_size(problem.period)
    most_period = next(period for fewest, period in RFFT_PERIODS if groups >= fewest)
    if size <= most_period:
        most = chunk_rows(size)
        scratch = threads * 4 * real * size * min(most, rows)
        reason = f"a real FFT of {size} holds {problem.period} samples; {rows} rows of it cost least"
        return CpuPlan("rfft", size, most, threads, scratch, reason)
    size = right_angle_size((problem.period + 1) // 2)
    lane, table = (n * size * real // 4 for n in (LANE_BYTES, TABLE_BYTES))
    lanes = min(threads, rows, (scratch_bytes - table) // lane)
    if lanes < 1:
        size = split_size(double)
        reason = f"{problem.period} samples do not fit the scratch bound of {scratch_bytes} bytes at once"
        return CpuPlan("split", size, 1, 1, scratch_bytes, reason)
    reason = f"a complex FFT of {size} holds {problem.period} samples, as columns and rows of a matrix"
    return CpuPlan("right_angle", size, 1, lanes, lanes * lane + table, reason)


def split_size(double: bool) -> int:
    """The largest power of two whose right-angle transform, alone, stays under the scratch bound."""
    size = 1 << 14
    while (LANE_BYTES + TABLE_BYTES) * 2 * size * (2 if double else 1) <= scratch_bytes // 2:
        size *= 2
    return size


def planned(
    length: int,
    taps: int,
    start: int,
    outputs: int,
    period: int,
    batch: int,
    groups: int,
    width: int,
    double: bool,
    threads: int,
    adjoint: bool,
) -> tuple[Problem, CpuPlan] | tuple[None, None]:
    """The problem of a window and its plan; (None, None) when every output is zero. Arguments as in `choose`."""
    return planned_under(
        scratch_bytes, length, taps, start, outputs, period, batch, groups, width, double, threads, adjoint
    )


@functools.lru_cache(maxsize=1024)
def planned_under(
    bound: int,
    length: int,
    taps: int,
    start: int,
    outputs: int,
    period: int,
    batch: int,
    groups: int,
    width: int,
    double: bool,
    threads: int,
    adjoint: bool,
) -> tuple[Problem, CpuPlan] | tuple[None, None]:
    """`planned`, remembered for each scratch bound."""
    problem = problem_of(length, taps, start, outputs, period)
    if problem is None:
        return None, None
    return problem, choose(problem, batch, groups, width, double, threads, adjoint)
