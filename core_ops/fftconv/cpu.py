"""fftconv on a CPU: the plan of plans.py, run on boxes of rows by a crew of threads.

Shapes: u, pregate (B, H, L); y, postgate (B, H, outputs); k (G, Lk); skip (H,); seq_idx (B, L).
"""

import torch
from torch import Tensor

from .blocks import run_blocks, run_taps
from .composite import segments
from .crew import Crew
from .long import run_four_step
from .modes import Problem, problem_of
from .operands import Sink, Source, filters
from .plans import CpuPlan, choose
from .rows import run_right_angle
from .runner import Job, Spectra

RUNNERS = {"taps": run_taps, "blocks": run_blocks, "right_angle": run_right_angle, "four_step": run_four_step}


def grouped(x: Tensor, groups: int) -> Tensor:
    """(B, H, ...) as (B, G, H / G, ...)."""
    return x.unflatten(1, (groups, x.shape[1] // groups))


def convolve(
    u: Tensor,
    k: Tensor,
    y: Tensor,
    *,
    pregate: Tensor | None,
    postgate: Tensor | None,
    skip: Tensor | None,
    seq_idx: Tensor | None,
    window: tuple[int, int, int],
    flip: bool,
    dtype: torch.dtype,
    spectra: Spectra | None = None,
) -> None:
    """Write postgate * (window of conv(pregate * u, k) + skip * (pregate * u)) to y.

    Args:
        y: Written, in its own dtype and strides. window: start, outputs, period; see modes.py.
        flip: Reverse k first. dtype: What computes. spectra: Spectra of k to read, or to fill for the next call.
    """
    if seq_idx is not None:
        for b, cuts in enumerate(segments(seq_idx)):
            for i, j in cuts:
                part = (slice(b, b + 1), slice(None), slice(i, j))
                gates = [x if x is None else x[part] for x in (pregate, postgate)]
                convolve(
                    u[part], k, y[part], pregate=gates[0], postgate=gates[1], skip=skip, seq_idx=None,
                    window=(window[0], j - i, 0), flip=flip, dtype=dtype,
                )  # fmt: skip
        return
    groups = k.shape[0]
    start, outputs, period = window
    u5, y5 = grouped(u, groups), grouped(y, groups)
    skips = None if skip is None else skip.to(dtype).view(groups, -1)
    source = Source(u5, None if pregate is None else grouped(pregate, groups))
    sink = Sink(y5, None if postgate is None else grouped(postgate, groups), skips, min(outputs, u.shape[-1]))
    problem = problem_of(u.shape[-1], k.shape[-1], start, outputs, period)
    if problem is None:
        y.zero_()
        return
    y[..., : problem.o0] = 0
    y[..., problem.o1 :] = 0
    crew = Crew.of_caller()
    plan = choose(problem, u.shape[0], groups, u5.shape[2], dtype == torch.float64, crew.size)
    if plan is None:
        raise NotImplementedError

    def taps(g0: int, g1: int) -> Tensor:
        return filters(k, g0, g1, problem, flip, dtype)

    RUNNERS[plan.kind](Job(problem, plan, crew, source, sink, taps, dtype, spectra))


def correlate(
    dy: Tensor,
    u: Tensor,
    dk: Tensor,
    *,
    pregate: Tensor | None,
    postgate: Tensor | None,
    seq_idx: Tensor | None,
    start: int,
    period: int,
) -> None:
    """Write the filter's gradient to dk."""
    from .composite import fftconv_composite

    b, h, length = u.shape
    m = dy.shape[-1]
    g, taps = dk.shape
    if seq_idx is not None:
        dk.zero_()
        part = torch.empty_like(dk)
        for row, cuts in enumerate(segments(seq_idx)):
            for i, j in cuts:
                gates = [None if x is None else x[row : row + 1, :, i:j] for x in (pregate, postgate)]
                correlate(
                    dy[row : row + 1, :, i:j],
                    u[row : row + 1, :, i:j],
                    part,
                    pregate=gates[0],
                    postgate=gates[1],
                    seq_idx=None,
                    start=start,
                    period=0,
                )
                dk += part
        return
    v = u.to(dk.dtype) if pregate is None else u.to(dk.dtype) * pregate
    d = dy.to(dk.dtype) if postgate is None else dy.to(dk.dtype) * postgate
    r = fftconv_composite(
        d.reshape(1, b * h, m),
        v.reshape(b * h, length).flip(-1),
        None,
        None,
        None,
        None,
        length - 1 - start,
        taps,
        period,
        dk.dtype,
    )
    dk.copy_(r.view(b, g, h // g, taps).sum((0, 2)))
