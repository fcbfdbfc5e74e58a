"""Runners for short filters: overlap-save blocks, and shifted multiply-adds."""

import torch
from torch import Tensor

from .crew import Each, Lane
from .operands import Rows
from .plans import CHUNK
from .runner import Job


def run_blocks(job: Job) -> None:
    """Overlap-save: real FFTs of `size` samples, of which size - taps + 1 are outputs."""
    problem, size = job.problem, job.plan.size
    hop = size - problem.taps + 1
    frames = -(-problem.outputs // hop)
    # x sample that the first frame begins with.
    lead = problem.start - (problem.taps - 1)

    def work(runs: list[Rows], lane: Lane, each: Each) -> None:
        g0, g1 = runs[0].g0, runs[0].g1
        spectra = job.spectrum(g0, g1, lambda taps: torch.fft.rfft(taps, n=size).div_(size))
        most = max(1, CHUNK // (size * max(1, len_of(runs))))
        tiles = [(rows, f) for rows in runs for f in range(0, frames, most)]

        def tile(i: int, worker: Lane) -> None:
            rows, f = tiles[i]
            count = min(most, frames - f)
            first = f * hop
            x = worker.empty("x", (*rows.shape, (count - 1) * hop + size), job.dtype)
            job.source.load(x, rows, problem, lead + first)
            z = torch.fft.rfft(x.unfold(-1, size, hop)).mul_(spectra[:, None, None])
            value = torch.fft.irfft(z, n=size, norm="forward")[..., problem.taps - 1 :]
            n = min(count * hop, problem.outputs - first)
            job.sink.store(flat(value, worker, n), rows, problem, first, x, lead + first)

        each(len(tiles), tile)

    job.share(work)


def len_of(runs: list[Rows]) -> int:
    """Rows in the largest box."""
    return max(r.shape[0] * r.shape[1] * r.shape[2] for r in runs)


def flat(value: Tensor, worker: Lane, n: int) -> Tensor:
    """Frames (b, g, r, count, hop) as (b, g, r, n) samples."""
    if value.shape[-2] == 1:
        return value[..., 0, :n]
    out = worker.empty("y", (*value.shape[:-2], value.shape[-2] * value.shape[-1]), value.dtype)
    out.view(value.shape).copy_(value)
    return out[..., :n]


def run_taps(job: Job) -> None:
    """Shifted multiply-adds, one for each tap."""
    problem, taps = job.problem, job.problem.taps
    lead = problem.start - (taps - 1)

    def work(runs: list[Rows], lane: Lane, each: Each) -> None:
        k = job.taps(runs[0].g0, runs[0].g1)[:, None, :, None]
        span = min(problem.outputs, max(1, CHUNK // len_of(runs)))
        tiles = [(rows, t) for rows in runs for t in range(0, problem.outputs, span)]

        def tile(i: int, worker: Lane) -> None:
            rows, first = tiles[i]
            n = min(span, problem.outputs - first)
            x = worker.empty("x", (*rows.shape, n + taps - 1), job.dtype)
            job.source.load(x, rows, problem, lead + first)
            y = worker.empty("y", (*rows.shape, n), job.dtype)
            torch.mul(x[..., taps - 1 :], k[:, :, 0], out=y)
            for m in range(1, taps):
                y.addcmul_(x[..., taps - 1 - m : taps - 1 - m + n], k[:, :, m])
            job.sink.store(y, rows, problem, first, x, lead + first)

        each(len(tiles), tile)

    job.share(work)
