"""What every runner of a CPU plan receives, and how its work is shared among the crew."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .crew import Crew, Each, Lane, serial
from .modes import Problem
from .operands import Rows, Sink, Source, boxes
from .plans import CpuPlan

# Spectra of a filter by its first group: read where held, filled where not.
Spectra = dict[int, Tensor]


@dataclass(frozen=True)
class Job:
    """One window of a convolution, ready to run.

    Args:
        problem: What. plan: How. crew: Who. source: Reads rows. sink: Writes rows.
        taps: (g0, g1) -> the filters' taps. dtype: What computes. spectra: Kept spectra, or None.
    """

    problem: Problem
    plan: CpuPlan
    crew: Crew
    source: Source
    sink: Sink
    taps: Callable[[int, int], Tensor]
    dtype: torch.dtype
    spectra: Spectra | None

    def spectrum(self, g0: int, g1: int, make: Callable[[Tensor], Tensor]) -> Tensor:
        """The spectra of filters [g0, g1): kept, or made from their taps."""
        if self.spectra is None:
            return make(self.taps(g0, g1))
        if g0 not in self.spectra:
            self.spectra[g0] = make(self.taps(g0, g1)).clone()
        return self.spectra[g0]

    def share(self, work: Callable[[list[Rows], Lane, Each], None]) -> None:
        """Run work(boxes of one run of filters, lane, each) for all: the runs in parallel, or what is inside one."""
        batch, groups, width = self.source.u.shape[:3]
        runs = boxes(batch, groups, width, self.plan.most)
        lanes = [Lane() for _ in range(self.plan.lanes)]
        if len(runs) >= len(lanes) > 1:
            self.crew.each(lanes)(len(runs), lambda i, lane: work(runs[i], lane, serial(lane)))
            return
        inner = self.crew.each([Lane() for _ in range(self.crew.size)])
        serial(lanes[0])(len(runs), lambda i, lane: work(runs[i], lane, inner))
