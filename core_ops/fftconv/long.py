"""Runners of the right-angle plan: one long row at a time, its blocks in a core's cache."""

from torch import Tensor

from .crew import Each, Lane, serial
from .modes import Problem
from .operands import Rows, Sink, Source
from .plans import SHARE_LEAST
from .right_angle import BLOCK, COMPLEX, RightAngle, right_angle
from .rows import lags
from .runner import Filter, Job


def staged(job: Job, source: Source, problem: Problem, transform: RightAngle, rows: Rows, lane: Lane) -> Tensor:
    """One row as (1 or 2, N1, N2): the given tensor itself where it is that already."""
    row = source.whole(rows, problem, transform.size, job.dtype)
    if row is None:
        folds = 1 if problem.lx <= transform.size else 2
        row = source.load(lane.empty("x", (1, 1, 1, folds * transform.size), job.dtype), rows, problem)
    return row.view(-1, transform.n1, transform.n2)


def run_right_angle(job: Job, sink: Sink, k: Filter) -> None:
    """Compute a window row by row with one complex FFT each way, as columns and rows of a matrix."""
    problem, transform = job.problem, right_angle(job.plan.size, job.dtype)
    size, shape = transform.size, (transform.n1, transform.n2)
    ends = problem.start + problem.outputs

    def work(runs: list[Rows], lane: Lane, each: Each) -> None:
        blocks = each if size >= SHARE_LEAST else serial(lane)

        def transformed(taps: Tensor) -> Tensor:
            folds = 1 if problem.taps <= size else 2
            x = taps[0]
            if problem.taps != size or not x.is_contiguous():
                x = lane.empty("x", (folds * size,), job.dtype)
                x[: problem.taps] = taps[0]
                x[problem.taps :] = 0
            spectrum = lane.empty("spectrum", shape, COMPLEX[job.dtype])

            def keep(i: int, z: Tensor) -> None:
                spectrum[i * BLOCK : (i + 1) * BLOCK] = z

            transform.forward(x.view(folds, *shape), lane, blocks, keep)
            return spectrum

        spectrum = k.spectrum(job, runs[0].g0, runs[0].g1, transformed)

        def one(rows: Rows, lane: Lane, each: Each) -> None:
            back = transform.returning(lane)

            def middle(i: int, z: Tensor) -> None:
                transform.untwist(i, z.mul_(spectrum[i * BLOCK : (i + 1) * BLOCK]), back)

            x = staged(job, job.source, problem, transform, rows, lane)
            transform.forward(x, lane, each, middle)
            low = sink.whole(rows, problem, size, job.dtype)
            if low is not None:
                transform.inverse(back, each, low.view(shape), None)
                return
            y = lane.empty("y", (2, *shape) if ends > size else (1, *shape), job.dtype)
            transform.inverse(back, each, y[0] if problem.start < size else None, y[1] if ends > size else None)
            value = y.view(1, 1, 1, -1)[..., problem.start : ends]
            sink.store(value, rows, problem, 0, x.reshape(1, 1, 1, -1), 0)

        if len(runs) >= job.plan.lanes > 1:
            each(len(runs), lambda i, worker: one(runs[i], worker, serial(worker)))
            return
        for rows in runs:
            one(rows, lane, blocks)

    job.share(work)


def run_right_angle_dk(job: Job, dy: Source, outputs: Problem, dk: Tensor) -> None:
    """The filter's gradient: spectra of x times conjugate spectra of dy, summed over the rows of a filter."""
    problem, transform = job.problem, right_angle(job.plan.size, job.dtype)
    shape = (transform.n1, transform.n2)

    def work(runs: list[Rows], lane: Lane, each: Each) -> None:
        each = each if transform.size >= SHARE_LEAST else serial(lane)
        spectrum = lane.empty("spectrum", shape, COMPLEX[job.dtype])
        total = lane.empty("total", shape, COMPLEX[job.dtype]).zero_()

        def keep(i: int, z: Tensor) -> None:
            spectrum[i * BLOCK : (i + 1) * BLOCK] = z.conj_physical_()

        def add(i: int, z: Tensor) -> None:
            at = slice(i * BLOCK, (i + 1) * BLOCK)
            total[at].addcmul_(z, spectrum[at])

        for rows in runs:
            transform.forward(staged(job, dy, outputs, transform, rows, lane), lane, each, keep)
            transform.forward(staged(job, job.source, problem, transform, rows, lane), lane, each, add)
        back = transform.returning(lane)
        each(shape[0] // BLOCK, lambda i, worker: transform.untwist(i, total[i * BLOCK : (i + 1) * BLOCK], back))
        y = lane.empty("x", (2, *shape), job.dtype)
        transform.inverse(back, each, y[0], y[1])
        g = runs[0].g0
        lags(dk[g], y[0].view(-1), y[1].view(-1), problem.start, -1)

    job.share(work)
