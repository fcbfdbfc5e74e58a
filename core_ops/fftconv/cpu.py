"""fftconv on a CPU: the plan of plans.py, run on boxes of rows by a crew of threads.

Shapes: u, pregate (B, H, L); y, dy, postgate (B, H, outputs); k, dk (G, Lk); skip (H,); seq_idx (B, L).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .blocks import run_blocks, run_blocks_dk, run_taps
from .composite import segments
from .crew import Crew
from .long import run_right_angle, run_right_angle_dk
from .modes import Problem
from .operands import Sink, Source
from .plans import CpuPlan, planned, split_size
from .rows import run_rfft, run_rfft_dk
from .runner import Filter, Job, Spectra

# Samples of the rfft plan, padding included, that go through torch's own threads as one box: handing boxes to a crew
# costs more than it saves.
AT_ONCE = 1 << 22
RUNNERS = {"taps": run_taps, "blocks": run_blocks, "rfft": run_rfft, "right_angle": run_right_angle}
RUNNERS_DK = {"blocks": run_blocks_dk, "rfft": run_rfft_dk, "right_angle": run_right_angle_dk}
Part = tuple[slice, slice, slice]


def grouped(x: Tensor, groups: int) -> Tensor:
    """(B, H, ...) as (B, G, H / G, ...)."""
    # A split of one dimension: a view whatever the strides.
    return x.view(x.shape[0], groups, x.shape[1] // groups, x.shape[2])


def packed(seq_idx: Tensor) -> Iterator[Part]:
    """Where each packed sequence lies in a (B, H, L) tensor."""
    for b, cuts in enumerate(segments(seq_idx)):
        for i, j in cuts:
            yield slice(b, b + 1), slice(None), slice(i, j)


def cut(x: Tensor | None, part: Part) -> Tensor | None:
    """The part of a tensor that may be absent."""
    return x if x is None else x[part]


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
        for part in packed(seq_idx):
            own = (window[0], part[2].stop - part[2].start, 0)
            convolve(
                u[part], k, y[part], pregate=cut(pregate, part), postgate=cut(postgate, part), skip=skip, seq_idx=None,
                window=own, flip=flip, dtype=dtype,
            )  # fmt: skip
        return
    groups, outputs = k.shape[0], window[1]
    crew = Crew.of_caller()
    double = dtype == torch.float64
    problem, plan = planned(
        u.shape[2], k.shape[1], *window, u.shape[0], groups, u.shape[1] // groups, double, crew.size, False
    )
    if problem is None or plan is None:
        y.zero_()
        return
    small = plan.kind == "rfft" and groups == u.shape[1] and u.shape[0] * groups * plan.size <= AT_ONCE
    if small and len(problem.pieces) == 1 and problem.outputs == outputs and not problem.alias:
        convolve_at_once(u, Filter(k, flip, spectra), y, pregate, postgate, skip, problem, plan, dtype)
        return
    source = Source(grouped(u, groups), None if pregate is None else grouped(pregate, groups))
    skips = None if skip is None else skip.to(dtype).view(groups, -1)
    gate = None if postgate is None else grouped(postgate, groups)
    sink = Sink(grouped(y, groups), gate, skips, min(outputs, u.shape[-1]))
    if problem.outputs < outputs:
        y[..., : problem.o0] = 0
        y[..., problem.o1 :] = 0
    if plan.kind == "split":
        convolve_split(source, sink, k, window, flip, dtype)
        return
    RUNNERS[plan.kind](Job(problem, plan, crew, source, dtype), sink, Filter(k, flip, spectra))


def convolve_at_once(
    u: Tensor,
    k: Filter,
    y: Tensor,
    pregate: Tensor | None,
    postgate: Tensor | None,
    skip: Tensor | None,
    problem: Problem,
    plan: CpuPlan,
    dtype: torch.dtype,
) -> None:
    """All rows of the rfft plan as one box: of few samples, the sharing out would cost more than the transforms."""
    size, here = plan.size, problem.here
    with torch.inference_mode():
        x = u[..., -here : problem.lx - here].to(dtype)
        if pregate is not None:
            x = x * pregate[..., -here : problem.lx - here].to(dtype)
        spectrum = None if k.spectra is None else k.spectra.get(0)
        if spectrum is None:
            taps = k.k.flip(-1) if k.flip else k.k
            spectrum = torch.fft.rfft(taps[:, problem.k0 : problem.k1].to(dtype), n=size)
            if k.spectra is not None:
                k.spectra[0] = spectrum
        value = torch.fft.irfft(torch.fft.rfft(x, n=size).mul_(spectrum), n=size)
        value = value[..., problem.start : problem.start + problem.outputs]
        if skip is not None:
            shared = min(y.shape[-1], u.shape[-1])
            value[..., :shared].addcmul_(x[..., here : here + shared], skip.to(dtype)[:, None])
        if postgate is not None:
            value.mul_(postgate)
        y.copy_(value)


def convolve_split(
    source: Source, sink: Sink, k: Tensor, window: tuple[int, int, int], flip: bool, dtype: torch.dtype
) -> None:
    """Rows too long for the scratch bound: blocks of outputs times blocks of taps, each a window of its own."""
    (start, outputs, period), taps, size = window, k.shape[1], split_size(dtype == torch.float64)
    batch, groups, width = source.u.shape[:3]
    for b, g, r in [(b, g, r) for g in range(groups) for b in range(batch) for r in range(width)]:
        u = source.u[b, g, None, r, None]
        pregate = None if source.gate is None else source.gate[b, g, None, r, None]
        for i in range(0, outputs, size):
            n = min(size, outputs - i)
            total, part = (torch.zeros(1, 1, n, dtype=dtype) for _ in range(2))
            for j in range(0, taps, size):
                m = min(size, taps - j)
                block = k[g : g + 1, taps - j - m : taps - j] if flip else k[g : g + 1, j : j + m]
                convolve(
                    u, block, part, pregate=pregate, postgate=None, skip=None, seq_idx=None,
                    window=(start + i - j, n, period), flip=flip, dtype=dtype,
                )  # fmt: skip
                total += part
            if sink.skip is not None and i < sink.shared:
                reach = slice(i, min(i + n, sink.shared))
                v = u[..., reach].to(dtype)
                v = v if pregate is None else v * pregate[..., reach]
                total[..., : v.shape[-1]] += sink.skip[g, r] * v
            if sink.gate is not None:
                total *= sink.gate[b, g, r, i : i + n]
            sink.y[b, g, r, i : i + n] = total[0, 0]


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
    """Write dk[g, m], the sum over rows of the group and over t of (postgate * dy)[t] (pregate * u)[start + t - m].

    Args:
        dk: Written; its dtype computes. start, period: Of the window that made y; see modes.py.
    """
    if seq_idx is not None:
        dk.zero_()
        add = torch.empty_like(dk)
        for part in packed(seq_idx):
            correlate(
                dy[part], u[part], add, pregate=cut(pregate, part), postgate=cut(postgate, part), seq_idx=None,
                start=start, period=0,
            )  # fmt: skip
            dk += add
        return
    groups, taps = dk.shape
    dk.zero_()
    if period and taps > period:
        one = dk[:, :period]
        correlate(dy, u, one, pregate=pregate, postgate=postgate, seq_idx=None, start=start, period=period)
        for at in range(period, taps, period):
            dk[:, at : at + period] = one[:, : taps - at]
        return
    source = Source(grouped(u, groups), None if pregate is None else grouped(pregate, groups))
    given = Source(grouped(dy, groups), None if postgate is None else grouped(postgate, groups))
    crew = Crew.of_caller()
    double, width = dk.dtype == torch.float64, u.shape[1] // groups
    problem, plan = planned(
        u.shape[2], taps, start, dy.shape[2], period, u.shape[0], groups, width, double, crew.size, True
    )
    if problem is None or plan is None:
        return
    if plan.kind == "split":
        correlate_split(dy, u, dk, pregate, postgate, start, period)
        return
    outputs = Problem(((0, problem.o0, problem.outputs),), problem.outputs, 0, 0, 0, 0, 0, 0, 0)
    job = Job(problem, plan, crew, source, dk.dtype)
    RUNNERS_DK[plan.kind](job, given, outputs, dk[:, problem.k0 : problem.k1])


def correlate_split(
    dy: Tensor, u: Tensor, dk: Tensor, pregate: Tensor | None, postgate: Tensor | None, start: int, period: int
) -> None:
    """Rows too long for the scratch bound: blocks of outputs times blocks of taps, each a window of its own."""
    size = split_size(dk.dtype == torch.float64)
    rows, per = range(u.shape[1]), u.shape[1] // dk.shape[0]
    for b, h in [(b, h) for h in rows for b in range(u.shape[0])]:
        row = (slice(b, b + 1), slice(h, h + 1))
        for i in range(0, dy.shape[-1], size):
            at = (*row, slice(i, i + size))
            for j in range(0, dk.shape[1], size):
                target = dk[h // per, None, j : j + size]
                add = torch.empty_like(target)
                correlate(
                    dy[at], u[row], add, pregate=None if pregate is None else pregate[row],
                    postgate=cut(postgate, at), seq_idx=None, start=start + i - j, period=period,
                )  # fmt: skip
                target += add
