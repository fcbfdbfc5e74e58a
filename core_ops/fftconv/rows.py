"""Runner of the right-angle plan: boxes of rows that stay in a core's cache, one batched FFT each way."""

from torch import Tensor

from .crew import Each, Lane
from .operands import Rows
from .right_angle import direct
from .runner import Job


def window_of(z: Tensor, size: int, start: int, outputs: int) -> list[tuple[int, Tensor]]:
    """(first output, values) of the window of y[n] + i y[size + n]."""
    parts = []
    for part, low in ((z.real, 0), (z.imag, size)):
        lo, hi = max(start, low), min(start + outputs, low + size)
        if lo < hi:
            parts.append((lo - start, part[..., lo - low : hi - low]))
    return parts


def run_right_angle(job: Job) -> None:
    """Compute a window with one complex FFT a row."""
    problem, transform = job.problem, direct(job.plan.size, job.dtype)

    def work(runs: list[Rows], lane: Lane, each: Each) -> None:
        g0, g1 = runs[0].g0, runs[0].g1
        spectra = job.spectrum(g0, g1, lambda taps: transform.forward(taps, lane, "taps"))

        def box(i: int, worker: Lane) -> None:
            rows = runs[i]
            x = job.source.load(worker.empty("x", (*rows.shape, problem.lx), job.dtype), rows, problem)
            z = transform.inverse(transform.forward(x, worker, "z").mul_(spectra[:, None]))
            for first, value in window_of(z, transform.size, problem.start, problem.outputs):
                job.sink.store(value, rows, problem, first, x, 0)

        each(len(runs), box)

    job.share(work)
