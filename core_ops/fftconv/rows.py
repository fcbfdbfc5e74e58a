"""Runners of the rfft plan: boxes of rows that stay in a core's cache, one batched FFT each way."""

import torch
from torch import Tensor

from .crew import Each, Lane
from .modes import Problem
from .operands import Rows, Sink, Source
from .runner import Filter, Job


def window_of(low: Tensor, high: Tensor, start: int, outputs: int) -> list[tuple[int, Tensor]]:
    """(first output, values) of the window [start, start + outputs) of low followed by high."""
    parts, size = [], low.shape[-1]
    for part, at in ((low, 0), (high, size)):
        lo, hi = max(start, at), min(start + outputs, at + size)
        if lo < hi:
            parts.append((lo - start, part[..., lo - at : hi - at]))
    return parts


def read(job: Job, rows: Rows, lane: Lane) -> Tensor:
    """x of a box (b, g, r, lx): a view of u where that is x."""
    x = job.source.view(rows, job.problem, job.dtype)
    if x is None:
        x = job.source.load(lane.empty("x", (*rows.shape, job.problem.lx), job.dtype), rows, job.problem)
    return x


def run_rfft(job: Job, sink: Sink, k: Filter) -> None:
    """Compute a window with one real FFT a row each way."""
    problem, size = job.problem, job.plan.size
    window = slice(problem.start, problem.start + problem.outputs)

    def work(runs: list[Rows], lane: Lane, each: Each) -> None:
        spectra = k.spectrum(job, runs[0].g0, runs[0].g1, lambda taps: torch.fft.rfft(taps, n=size))[:, None]

        def box(i: int, worker: Lane) -> None:
            rows = runs[i]
            x = read(job, rows, worker)
            y = torch.fft.irfft(torch.fft.rfft(x, n=size).mul_(spectra), n=size)
            sink.store(y[..., window], rows, problem, 0, x, 0)

        each(len(runs), box)

    job.share(work)


def lags(dk: Tensor, low: Tensor, high: Tensor, start: int, sign: int) -> None:
    """dk[m] = C[start - m]; negative lags of C lie, times sign, at the end of its period, low followed by high."""
    taps = dk.shape[-1]
    early = min(taps, start + 1)
    for first, value in window_of(low, high, start + 1 - early, early):
        dk[..., early - first - value.shape[-1] : early - first] = value.flip(-1)
    late = taps - early
    for first, value in window_of(low, high, 2 * low.shape[-1] - late, late):
        dk[..., taps - first - value.shape[-1] : taps - first] = value.flip(-1).mul_(sign)


def run_rfft_dk(job: Job, dy: Source, outputs: Problem, dk: Tensor) -> None:
    """The filter's gradient: spectra of x times conjugate spectra of dy, summed over the rows of a filter."""
    size = job.plan.size

    def work(runs: list[Rows], lane: Lane, each: Each) -> None:
        total: Tensor | None = None
        # In order, not shared out: the sum has to be the same each time.
        for rows in runs:
            z = torch.fft.rfft(read(job, rows, lane), n=size)
            d = dy.load(lane.empty("dy", (*rows.shape, outputs.lx), job.dtype), rows, outputs)
            part = z.mul_(torch.fft.rfft(d, n=size).conj_physical_()).sum((0, 2))
            total = part if total is None else total.add_(part)
        y = torch.fft.irfft(total, n=size)
        lags(dk[runs[0].g0 : runs[0].g1], y[..., : size // 2], y[..., size // 2 :], job.problem.start, 1)

    job.share(work)
