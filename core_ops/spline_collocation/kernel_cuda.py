"""The CUDA kernels of spline.cuh: which options run a call, the constants of a cell, launches.

Shapes: as in fused.py.
"""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..nvrtc import Module
from .cell import gauss

SOURCE = Path(__file__).with_name("spline.cuh")
# Shared memory of a block that every device has.
SHARED = 48 << 10
# Warps of a block; blocks of a multiprocessor that registers are rationed for, forward and backward; queries of a lane
# in flight: the fastest of those measured (docs/decisions/0007).
WARPS, BLOCKS, UNROLL = 4, {False: 10, True: 8}, 4


@dataclass(frozen=True)
class Plan:
    """How a call is spread over a warp.

    Args:
        order: r. left, right: Whether slopes are given there. times: The derivative. wide: Whether float64. cells: N.
    """

    order: int
    left: bool
    right: bool
    times: int
    wide: bool
    cells: int

    @property
    def lanes(self) -> int:
        """Lanes of a series."""
        return min(32, max(8, 1 << (self.entries - 1).bit_length()))

    @property
    def entries(self) -> int:
        """Cells or unknowns, whichever are more."""
        return max(self.cells, self.cells - 1 + self.left + self.right)

    @property
    def held(self) -> int:
        """Cells of a lane."""
        return -(-self.entries // self.lanes)

    @property
    def steps(self) -> int:
        """Of the search for a cell."""
        return (self.cells - 1).bit_length()

    @property
    def reduce(self) -> int:
        """Steps of the reduction until what still couples neighbours is below rounding."""
        strength, steps = 1 / (self.order**2 - self.order + 1), 0
        while strength > torch.finfo(self.dtype).eps / 2 and 1 << steps < self.entries:
            strength, steps = strength**2 / (1 - strength**2), steps + 1
        return steps

    @property
    def dtype(self) -> torch.dtype:
        """Of all numbers."""
        return torch.float64 if self.wide else torch.float32

    def bytes(self, backward: bool) -> int:
        """Shared memory of a warp, as Kept counts it."""
        series, cells, tree = 32 // self.lanes, self.lanes * self.held, 1 << self.steps
        table = cells * (self.order - self.times + (not backward))
        table = max(table, cells * (self.order - 1) + 2) if backward else table
        numbers = tree + 2 * cells + 1 + table + 32 * (1 + self.held) * backward
        return (8 if self.wide else 4) * series * numbers

    def warps_of(self, backward: bool) -> int:
        """Warps of a block that shared memory has room for."""
        return max(1, min(WARPS, SHARED // self.bytes(backward)))

    def options(self, backward: bool) -> dict[str, int | str]:
        """Macros."""
        points = [*(2 * gauss(self.order).nodes[1:-1] - 1).tolist(), *[0.0] * (8 - self.order)]
        warps = self.warps_of(backward)
        rationed = BLOCKS[backward] if not self.wide and warps == WARPS and self.held <= 2 else 1
        return {
            "BACKWARD": int(backward), "WIDE": int(self.wide), "ORDER": self.order, "TIMES": self.times,
            "LEFT": int(self.left), "RIGHT": int(self.right), "STEPS": self.steps, "REDUCE": self.reduce,
            "LANES": self.lanes, "HELD": self.held, "WARPS": warps, "BLOCKS": rationed,
            "UNROLL": UNROLL, **{f"POINT_{k + 1}": str(point) for k, point in enumerate(points)},
        }  # fmt: skip


@cache
def module(plan: Plan, backward: bool, index: int) -> Module:
    """The compiled kernels of a plan on a device."""
    return Module(SOURCE, plan.options(backward), torch.device("cuda", index))


def stride(x: Tensor) -> int:
    """0 where one row serves all series."""
    return 0 if x.shape[0] == 1 else x.shape[1]


def launch(plan: Plan, name: str, tensors: tuple[Tensor, ...], series: int, sizes: tuple[int, ...]) -> None:
    """Run a kernel over all series."""
    if series == 0:
        return
    backward = name == "spline_backward"
    warps = plan.warps_of(backward)
    grid = math.ceil(series / (warps * (32 // plan.lanes)))
    device = tensors[0].device
    with torch.cuda.device(device):
        module(plan, backward, device.index).launch(
            name, grid, 32 * warps, warps * plan.bytes(backward), *(t.data_ptr() for t in tensors),
            *(np.int32(k) for k in (series, *sizes)),
        )  # fmt: skip


def launch_forward(plan: Plan, full: Tensor, knots: Tensor, x: Tensor, y: Tensor, v: Tensor) -> None:
    """Write y and v."""
    sizes = (plan.cells, x.shape[1], full.shape[1], stride(knots), stride(x))
    launch(plan, "spline_forward", (full, knots, x, y, v), full.shape[0], sizes)


def launch_backward(
    plan: Plan, g: Tensor, full: Tensor, knots: Tensor, x: Tensor, v: Tensor, outputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Write the gradients of full, knots and x."""
    sizes = (plan.cells, x.shape[1], full.shape[1], stride(knots), stride(x))
    launch(plan, "spline_backward", (g, full, knots, x, v, *outputs), full.shape[0], sizes)
