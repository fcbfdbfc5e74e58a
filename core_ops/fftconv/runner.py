"""What every runner of a CPU plan receives, and how its work is shared among the crew."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .crew import Crew, Each, Lane, serial
from .modes import Problem
from .operands import Rows, Source, boxes, filters
from .plans import CpuPlan

# Spectra of a filter by its first group: read where held, filled where not.
Spectra = dict[int, Tensor]


@dataclass(frozen=True)
class Job:
    """One window of a convolution, ready to run.

    Args:
        problem: What. plan: How. crew: Who. source: Reads the rows that are convolved. dtype: What computes.
    """

    problem: Problem
    plan: CpuPlan
    crew: Crew
    source: Source
    dtype: torch.dtype

    def share(self, work: Callable[[list[Rows], Lane, Each], None]) -> None:
        """Run work(boxes of one run of filters, lane, each) for all: the runs in parallel, or what is inside one."""
        batch, groups, width = self.source.u.shape[:3]
        runs = boxes(batch, groups, width, self.plan.most)
        if len(runs) >= self.plan.lanes > 1:
            lanes = [Lane() for _ in range(self.plan.lanes)]
            self.crew.each(lanes)(len(runs), lambda i, lane: work(runs[i], lane, serial(lane)))
            return
        # A whole row in each inner lane, or blocks of one row: no more lanes than the plan counted.
        count = self.plan.lanes if batch * width > 1 < self.plan.lanes else self.crew.size
        inner = self.crew.each([Lane() for _ in range(count)])
        serial(Lane())(len(runs), lambda i, lane: work(runs[i], lane, inner))


@dataclass(frozen=True)
class Filter:
    """The filter of a job, k (G, Lk).

    Args:
        k: As given. flip: Read it backwards. spectra: Kept spectra to read or fill, or None.
    """

    k: Tensor
    flip: bool
    spectra: Spectra | None

    def spectrum(self, job: Job, g0: int, g1: int, make: Callable[[Tensor], Tensor]) -> Tensor:
        """The spectra of filters [g0, g1): kept, or made from the taps that the problem uses."""
        if self.spectra is not None and g0 in self.spectra:
            return self.spectra[g0]
        made = make(self.taps(job, g0, g1))
        if self.spectra is not None:
            made = self.spectra[g0] = made.clone()
        return made

    def taps(self, job: Job, g0: int, g1: int) -> Tensor:
        """The taps of filters [g0, g1) that the problem uses."""
        return filters(self.k, g0, g1, job.problem, self.flip, job.dtype)
