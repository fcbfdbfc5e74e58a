"""Runner of the four-step plan: one long row at a time, its blocks in a core's cache."""

from torch import Tensor

from .crew import Each, Lane
from .operands import Rows
from .right_angle import BLOCK, COMPLEX, FourStep, four_step
from .runner import Job


def staged(job: Job, transform: FourStep, rows: Rows, lane: Lane) -> Tensor:
    """x of one row as (1 or 2, N1, N2): u itself where it is that already."""
    size = transform.size
    row = job.source.whole(rows, job.problem, size, job.dtype)
    if row is None:
        folds = 1 if job.problem.lx <= size else 2
        row = job.source.load(lane.empty("x", (1, 1, 1, folds * size), job.dtype), rows, job.problem)
    return row.view(-1, transform.n1, transform.n2)


def run_four_step(job: Job) -> None:
    """Compute a window row by row with one complex FFT each way, as columns and rows of a matrix."""
    problem, transform = job.problem, four_step(job.plan.size, job.dtype)
    size, shape = transform.size, (transform.n1, transform.n2)
    ends = problem.start + problem.outputs

    def work(runs: list[Rows], lane: Lane, each: Each) -> None:
        def transformed(taps: Tensor) -> Tensor:
            folds = 1 if problem.taps <= size else 2
            x = lane.empty("x", (folds * size,), job.dtype)
            x[: problem.taps] = taps[0]
            x[problem.taps :] = 0
            spectrum = lane.empty("spectrum", shape, COMPLEX[job.dtype])

            def keep(i: int, z: Tensor) -> None:
                spectrum[i * BLOCK : (i + 1) * BLOCK] = z

            transform.forward(x.view(folds, *shape), lane, each, keep)
            return spectrum

        spectrum = job.spectrum(runs[0].g0, runs[0].g1, transformed)
        for rows in runs:
            x = staged(job, transform, rows, lane)

            def middle(i: int, z: Tensor) -> None:
                transform.untwist(i, z.mul_(spectrum[i * BLOCK : (i + 1) * BLOCK]), lane)

            transform.forward(x, lane, each, middle)
            low = job.sink.whole(rows, problem, size, job.dtype)
            if low is not None:
                transform.inverse(lane, each, low.view(shape), None)
                continue
            y = lane.empty("y", (2 if ends > size else 1, size), job.dtype)
            used = problem.start < size
            transform.inverse(lane, each, y[0].view(shape) if used else None, y[1].view(shape) if ends > size else None)
            value = y.view(1, 1, 1, -1)[..., problem.start : ends]
            job.sink.store(value, rows, problem, 0, x.reshape(1, 1, 1, -1), 0)

    job.share(work)
