"""Which plan, size and chunk a CPU call takes: small tables from the measurements in README.md."""

from dataclasses import dataclass
from typing import Literal

from .modes import Problem

Kind = Literal["taps", "blocks", "right_angle", "four_step", "split"]

# Heads of 2^m whose transforms cost no more per point than a power of two (MKL, float32).
HEADS: tuple[int, ...] = (8, 9, 10, 12, 14, 15)
# Up to this many taps, shifted multiply-adds.
TAPS_MOST = 8
# Overlap-save where the filter is at most this part of the outputs; its FFT size by taps, the first that holds.
BLOCKS_PART = 4
BLOCK_SIZES: tuple[tuple[int, int], ...] = ((64, 1024), (256, 2048), (1024, 8192), (4096, 16384), (16384, 65536))
# From this size on one row is transformed as columns and rows.
FOUR_STEP_LEAST = 1 << 16
# Real samples of the rows that one worker holds at a time: a megabyte or so with the spectra.
CHUNK = 1 << 16
# Bytes of one FourStep in units of its size in fp32: x, y, two blocked arrays, the filter's spectrum; and its tables.
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
        kind: Which runner. size: Of its FFT, complex for right_angle, four_step and split, real for blocks;
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
    size = smooth_size((problem.period + 1) // 2)
    if size < FOUR_STEP_LEAST:
        most = max(1, CHUNK // size)
        scratch = threads * 10 * real * max(min(CHUNK, rows * size), size)
        reason = f"a complex FFT of {size} holds {problem.period} samples, and rows stay in a core's cache"
        return CpuPlan("right_angle", size, most, threads, scratch, reason)
    lane, table = (n * size * real // 4 for n in (LANE_BYTES, TABLE_BYTES))
    lanes = min(threads, groups, (scratch_bytes - table) // lane)
    if lanes < 1:
        size = split_size(double)
        reason = f"{problem.period} samples do not fit the scratch bound of {scratch_bytes} bytes at once"
        return CpuPlan("split", size, 1, 1, scratch_bytes, reason)
    reason = f"a complex FFT of {size} holds {problem.period} samples, as columns and rows of a matrix"
    return CpuPlan("four_step", size, 1, lanes, lanes * lane + table, reason)


def split_size(double: bool) -> int:
    """The largest power of two whose FourStep, alone, stays under the scratch bound."""
    size = FOUR_STEP_LEAST // 4
    while (LANE_BYTES + TABLE_BYTES) * 2 * size * (2 if double else 1) <= scratch_bytes // 2:
        size *= 2
    return size
