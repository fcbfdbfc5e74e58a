"""Runners of the right-angle plan: boxes of rows that stay in a core's cache, one batched FFT each way."""

import torch
from torch import Tensor

from .crew import Each, Lane
from .modes import Problem
from .operands import Rows, Sink, Source
from .right_angle import COMPLEX, direct
from .runner import Filter, Job


def window_of(low: Tensor, high: Tensor, start: int, outputs: int) -> list[tuple[int, Tensor]]:
    """(first output, values) of the window [start, start + outputs) of low followed by high."""
    parts, size = [], low.shape[-1]
    for part, at in ((low, 0), (high, size)):
        lo, hi = max(start, at), min(start + outputs, at + size)
        if lo < hi:
            parts.append((lo - start, part[..., lo - at : hi - at]))
    return parts


def run_right_angle(job: Job, sink: Sink, k: Filter) -> None:
    """Compute a window with one complex FFT a row each way."""
    problem, transform = job.problem, direct(job.plan.size, job.dtype)

    def work(runs: list[Rows], lane: Lane, each: Each) -> None:
        spectra = k.spectrum(job, runs[0].g0, runs[0].g1, lambda taps: transform.forward(taps, lane, "taps"))

        def box(i: int, worker: Lane) -> None:
            rows = runs[i]
            x = job.source.load(worker.empty("x", (*rows.shape, problem.lx), job.dtype), rows, problem)
            z = transform.inverse(transform.forward(x, worker, "z").mul_(spectra[:, None]))
            for first, value in window_of(z.real, z.imag, problem.start, problem.outputs):
                sink.store(value, rows, problem, first, x, 0)

        each(len(runs), box)

    job.share(work)


def lags(dk: Tensor, low: Tensor, high: Tensor, start: int) -> None:
    """dk[m] = C[start - m] of a correlation C whose negative lags lie, with the other sign, at the end of the period."""
    taps = dk.shape[-1]
    early = min(taps, start + 1)
    for first, value in window_of(low, high, start + 1 - early, early):
        dk[..., early - first - value.shape[-1] : early - first] = value.flip(-1)
    late = taps - early
    for first, value in window_of(low, high, 2 * low.shape[-1] - late, late):
        dk[..., taps - first - value.shape[-1] : taps - first] = -value.flip(-1)


def run_right_angle_dk(job: Job, dy: Source, outputs: Problem, dk: Tensor) -> None:
    """The filter's gradient: spectra of x times conjugate spectra of dy, summed over the rows of a filter."""
    problem, transform = job.problem, direct(job.plan.size, job.dtype)

    def work(runs: list[Rows], lane: Lane, each: Each) -> None:
        g0, g1 = runs[0].g0, runs[0].g1
        total = torch.zeros(g1 - g0, transform.size, dtype=COMPLEX[job.dtype])
        # In order, not shared out: the sum has to be the same each time.
        for rows in runs:
            x = job.source.load(lane.empty("x", (*rows.shape, problem.lx), job.dtype), rows, problem)
            z = transform.forward(x, lane, "z")
            x = dy.load(lane.empty("x", (*rows.shape, problem.outputs), job.dtype), rows, outputs)
            total += z.mul_(transform.forward(x, lane, "z").conj_physical_()).sum((0, 2))
        z = transform.inverse(total)
        lags(dk[g0:g1], z.real, z.imag, problem.start)

    job.share(work)
