"""Runners for short filters: overlap-save blocks, and shifted multiply-adds."""

import torch
from torch import Tensor

from .crew import Each, Lane
from .modes import Problem
from .operands import Rows, Sink, Source
from .plans import CHUNK, VECTOR
from .right_angle import COMPLEX
from .runner import Filter, Job


def run_blocks(job: Job, sink: Sink, k: Filter) -> None:
    """Overlap-save: real FFTs of `size` samples, of which size - taps + 1 are outputs."""
    problem, size = job.problem, job.plan.size
    hop = size - problem.taps + 1
    frames = -(-problem.outputs // hop)
    # x sample that the first frame begins with.
    lead = problem.start - (problem.taps - 1)

    def work(runs: list[Rows], lane: Lane, each: Each) -> None:
        g0, g1 = runs[0].g0, runs[0].g1
        # One row is one core's work: a team of threads would only wait for each other.
        spectra = k.spectrum(job, g0, g1, lambda taps: job.crew.alone(lambda: torch.fft.rfft(taps, n=size).div_(size)))
        most = max(1, -(-VECTOR // len_of(runs)), CHUNK // (size * len_of(runs)))
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
            sink.store(flat(value, worker, n), rows, problem, first, x, lead + first)

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


def run_taps(job: Job, sink: Sink, k: Filter) -> None:
    """Shifted multiply-adds, one for each tap."""
    problem, taps = job.problem, job.problem.taps
    lead = problem.start - (taps - 1)

    def work(runs: list[Rows], lane: Lane, each: Each) -> None:
        weights = k.taps(job, runs[0].g0, runs[0].g1)[:, None, :, None]
        span = min(problem.outputs, max(1, CHUNK // len_of(runs)))
        tiles = [(rows, t) for rows in runs for t in range(0, problem.outputs, span)]

        def tile(i: int, worker: Lane) -> None:
            rows, first = tiles[i]
            n = min(span, problem.outputs - first)
            x = worker.empty("x", (*rows.shape, n + taps - 1), job.dtype)
            job.source.load(x, rows, problem, lead + first)
            y = worker.empty("y", (*rows.shape, n), job.dtype)
            torch.mul(x[..., taps - 1 :], weights[:, :, 0], out=y)
            for m in range(1, taps):
                y.addcmul_(x[..., taps - 1 - m : taps - 1 - m + n], weights[:, :, m])
            sink.store(y, rows, problem, first, x, lead + first)

        each(len(tiles), tile)

    job.share(work)


def run_blocks_dk(job: Job, dy: Source, outputs: Problem, dk: Tensor) -> None:
    """The filter's gradient: block by block, spectra of x times conjugate spectra of dy, summed."""
    problem, size = job.problem, job.plan.size
    hop = size - problem.taps + 1
    frames = -(-problem.outputs // hop)
    lead = problem.start - (problem.taps - 1)

    def work(runs: list[Rows], lane: Lane, each: Each) -> None:
        g0, g1 = runs[0].g0, runs[0].g1
        most = max(1, -(-VECTOR // len_of(runs)), CHUNK // (size * len_of(runs)))
        total = torch.zeros(g1 - g0, size // 2 + 1, dtype=COMPLEX[job.dtype])
        # In order, not shared out: the sum has to be the same each time.
        for rows in runs:
            for f in range(0, frames, most):
                count = min(most, frames - f)
                x = lane.empty("x", (*rows.shape, (count - 1) * hop + size), job.dtype)
                job.source.load(x, rows, problem, lead + f * hop)
                z = torch.fft.rfft(x.unfold(-1, size, hop))
                d = dy.load(lane.empty("dy", (*rows.shape, count * hop), job.dtype), rows, outputs, f * hop)
                d = torch.fft.rfft(d.view(*rows.shape, count, hop), n=size)
                total += z.mul_(d.conj_physical_()).sum((0, 2, 3))
        dk[g0:g1] = torch.fft.irfft(total, n=size)[:, : problem.taps].flip(-1)

    job.share(work)
