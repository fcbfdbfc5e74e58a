"""Filters whose spectra are kept between calls: what is kept, when it is made anew, the calls that read it.

Shapes: k (G, Lk); u (B, H, L), or (B, L, H) where the call says blh.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..pages import on_huge_pages
from . import cpu
from .call import Call
from .cuda.forms import form_of
from .cuda.impl import run_with_spectra
from .cuda.plan import ONE_LAUNCH, fft_size, wide_intermediates
from .custom import allocate, transpose
from .modes import Problem
from .plans import CpuPlan, planned
from .runner import Spectra

Gate = Tensor | None
# The largest spectrum that is kept.
CACHE_BYTES = 1 << 30


class FilterSpectrum:
    """A filter for many calls without gradients: `fftconv(u, FilterSpectrum(k))` transforms k once.

    The first call of a length makes the spectrum in the order that its kernels want, the next ones of that length read
    it, on a CPU and on a GPU. It is made anew when k or skip was changed in place. Calls that want gradients, are
    packed or compiled use k itself.

    Args:
        k: (G, Lk). cache_bytes: Largest spectrum that is kept. kept: Where to keep it.
    Complexity: a call without the filter's transform; memory 8 bytes a point and filter, 16 in float64.
    """

    def __init__(self, k: Tensor, *, cache_bytes: int = CACHE_BYTES, kept: dict[Any, Any] | None = None) -> None:
        self.k, self.cache_bytes = k, cache_bytes
        self.kept: dict[Any, Any] = {} if kept is None else kept

    def serves(self, u: Tensor, pregate: Gate, postgate: Gate, skip: Gate, seq_idx: Gate) -> bool:
        """Whether a call may read kept spectra: no gradients, not packed, not compiled."""
        given = (u, self.k, pregate, postgate, skip)
        wanted = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in given)
        plain = type(u) is Tensor and seq_idx is None and not torch.compiler.is_compiling()
        return plain and not (wanted or self.k.is_inference() or (skip is not None and skip.is_inference()))

    def spectra(self, *key: Any) -> dict[Any, Any]:
        """What is kept of this filter under a key, empty at first; one filter and one length at a time."""
        whole = (self.k.data_ptr(), self.k._version, self.k.dtype, *key)
        if whole not in self.kept:
            self.kept.clear()
            self.kept[whole] = {}
        held: dict[Any, Any] = self.kept[whole]
        return held

    def run(self, name: str, call: Call, u: Tensor, pregate: Gate, postgate: Gate, skip: Gate) -> Tensor:
        """A checked call that this serves, by "cpu" or "cuda"."""
        if name == "cuda":
            return run_with_spectra(call, u, self.k, pregate, postgate, skip, self.on_gpu(call, skip))
        return self.run_cpu(call, u, pregate, postgate, skip)

    def on_gpu(self, call: Call, skip: Gate) -> dict[Any, Any] | None:
        """The kernels' spectra of a call, None where they would exceed cache_bytes: skip is a tap of theirs."""
        if bytes_on_gpu(call) > self.cache_bytes:
            return None
        return self.of_calls(call.mode, call.length, call.channels, skip)

    def of_calls(self, mode: str, length: int, channels: int, skip: Gate) -> dict[Any, Any]:
        """The kernels' spectra of calls on a GPU, by the radices of what reads them: callers may fill it."""
        added = None if skip is None else (skip.data_ptr(), skip._version, skip.dtype)
        return self.spectra("cuda", added, mode, length, channels)

    @torch.no_grad()
    def run_cpu(self, call: Call, u: Tensor, pregate: Gate, postgate: Gate, skip: Gate) -> Tensor:
        """The CPU plan of a checked call."""
        y = on_huge_pages(allocate(u, call.outputs, call.blh))
        blh = call.blh
        cpu.convolve(
            u.transpose(1, 2) if blh else u, self.k, y.transpose(1, 2) if blh else y,
            pregate=transpose(pregate, blh), postgate=transpose(postgate, blh), skip=skip, seq_idx=None,
            window=(call.start, call.outputs, call.period), flip=False,
            dtype=torch.float64 if call.double else torch.float32, spectra=self.on_cpu(call),
        )  # fmt: skip
        return y

    def on_cpu(self, call: Call) -> Spectra | None:
        """The spectra of a call's CPU plan; None where it has none or they would exceed cache_bytes."""
        problem, plan = planned_for(call)
        if problem is None or plan is None:
            return None
        if plan.kind in ("taps", "split") or call.groups * plan.size * (16 if call.double else 8) > self.cache_bytes:
            return None
        cut = (problem.k0, problem.k1, problem.alias)
        return self.spectra(plan.kind, plan.size, plan.most, *cut, call.double)


@cache
def bytes_on_gpu(call: Call) -> int:
    """Of the spectra that the kernels keep for a call."""
    size = fft_size(form_of(call.mode, call.length, call.taps, True).length)
    each = call.channels if call.skip or size <= ONE_LAUNCH else call.groups
    point = 4 if size > ONE_LAUNCH and not wide_intermediates(size, call.dtype) else 8
    return each * size * point


def planned_for(call: Call) -> tuple[Problem, CpuPlan] | tuple[None, None]:
    """The problem and the CPU plan of a checked call."""
    width, threads = call.channels // call.groups, torch.get_num_threads()
    window = (call.start, call.outputs, call.period)
    return planned(call.length, call.taps, *window, call.batch, call.groups, width, call.double, threads, False)
