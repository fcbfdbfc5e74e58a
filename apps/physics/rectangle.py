"""Intervals, rectangles and boxes: tensor splines through Gauss points, any partition.

Shapes: N_k cells of axis k, n_k nodes along it; n = prod n_k nodes, the last axis fastest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from farfield.apps.physics.mesh import grid_cells
from farfield.apps.physics.sampling import line_matrix
from farfield.apps.physics.space import SpaceMap, Stencil
from farfield.core_ops.errors import DomainError, ShapeError
from farfield.core_ops.spline_collocation import SplineCollocation

SIDES = (("left", "right"), ("bottom", "top"), ("front", "back"))


class Rectangle(SpaceMap):
    """C1 splines of order r along each axis; nodes at Gauss points of every cell, and on sides that are held.

    Args:
        partitions: One for each of one to three axes: knots (N_k + 1), rising.
        order: Of all axes, or one each; 2 to 8.
        ends: "dirichlet" (the sides have nodes), "periodic" or "free" (no nodes there); of all axes, or one each.
    Raises: ShapeError, DomainError: a partition or an order that is none.
    """

    def __init__(
        self,
        partitions: Sequence[Tensor | Sequence[float]],
        order: int | Sequence[int] = 3,
        ends: str | Sequence[str] = "dirichlet",
    ) -> None:
        super().__init__()
        d = len(partitions)
        if d not in (1, 2, 3):
            raise ShapeError(f"Rectangle: {d} partitions came; needed: one for each of 1 to 3 axes.")
        degrees = [order] * d if isinstance(order, int) else list(order)
        kinds = [ends] * d if isinstance(ends, str) else list(ends)
        if len(degrees) != d or len(kinds) != d or "neumann" in kinds:
            raise ShapeError(
                f"Rectangle: order={order}, ends={ends} for {d} axes; one of each an axis is accepted, ends dirichlet,"
                " periodic or free."
            )
        self.axes = tuple(
            SplineCollocation(torch.as_tensor(p, dtype=torch.float64).detach().cpu(), r, ends=e)
            for p, r, e in zip(partitions, degrees, kinds, strict=True)
        )
        fits = [a.fit(torch.eye(a.size, dtype=torch.float64)).mT.contiguous() for a in self.axes]
        self._set([a.nodes for a in self.axes], fits, given=False)

    def _set(self, lines: Sequence[Tensor], fits: list[Tensor], given: bool) -> None:
        """Nodes along each axis, and the coefficients (N_k r + 1, n_k) that values there give."""
        self.given, self._fits = given, fits
        self.shape = tuple(len(line) for line in lines)
        self.nodes = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).reshape(-1, len(lines))
        offsets = torch.zeros(1, dtype=torch.int32)
        for axis, fit in zip(self.axes, self._fits, strict=True):
            offsets = (offsets[:, None] * len(fit) + torch.arange(axis.order + 1, dtype=torch.int32)).flatten()
        self._offsets = offsets
        self.boundary = {}
        for k, axis in enumerate(self.axes):
            for name, at, there in zip(SIDES[k], (0, -1), axis.ends.given, strict=True):
                if there:
                    self.boundary[name] = (self.nodes[:, k] == axis.knots[at]).nonzero()[:, 0]

    @classmethod
    def uniform(
        cls,
        low: Sequence[float],
        high: Sequence[float],
        cells: Sequence[int],
        order: int | Sequence[int] = 3,
        ends: str | Sequence[str] = "dirichlet",
    ) -> Rectangle:
        """Cells of one width along each axis."""
        knots = [torch.linspace(a, b, n + 1, dtype=torch.float64) for a, b, n in zip(low, high, cells, strict=True)]
        return cls(knots, order, ends)

    @classmethod
    def through(cls, lines: Sequence[NDArray[np.float64]], period: Sequence[float | None]) -> Rectangle:
        """Cubic splines through the nodes of a full grid, C2 along each axis.

        Args:
            lines: Positions along each axis, rising. period: Length of each axis that wraps around, else None.
        """
        knots, ends = [], []
        for line, length in zip(lines, period, strict=True):
            knots.append(torch.from_numpy(line if length is None else np.append(line, line[0] + length)))
            ends.append("dirichlet" if length is None else "periodic")
        made = cls(knots, 3, ends)
        fits = []
        for axis, line, length in zip(made.axes, lines, period, strict=True):
            inner = torch.cat([axis.knots[:-1, None], axis.points.reshape(axis.cells, -1)], 1).flatten()
            places = torch.cat([inner, axis.knots[-1:]]).numpy()
            fits.append(torch.from_numpy(line_matrix(line, places, length)))
        made._set([torch.from_numpy(line) for line in lines], fits, given=True)
        return made

    def coefficients(self, values: Tensor) -> Tensor:
        """(..., n, C) to (..., m, C), one small GEMM an axis."""
        return self._along_axes(values, [fit.to(values) for fit in self._fits]).flatten(-self.dimensions - 1, -2)

    def grid(self, values: Tensor, *x: Tensor, derivative: Sequence[int] | None = None) -> Tensor:
        """The field on the grid x[0] x .. : one small GEMM an axis.

        Args:
            values: (..., n, C). x: Positions (Q_k,) along each axis.
        Returns: (..., Q_1, .., Q_d, C).
        """
        if len(x) != self.dimensions:
            raise ShapeError(f"Rectangle.grid: {len(x)} axes of positions came; needed: {self.dimensions}.")
        orders = self.orders(derivative)
        maps = [self._rows(n, q.double(), k).to(values) for n, (q, k) in enumerate(zip(x, orders, strict=True))]
        return self._along_axes(values, maps)

    def _rows(self, axis: int, x: Tensor, derivative: int) -> Tensor:
        """The map from values along an axis to positions there, (Q_k, n_k)."""
        spline = self.axes[axis]
        if not self.given:
            return spline.operator(x, derivative)
        first, weights = spline.stencil(x, derivative)
        block = self._fits[axis][first[:, None] + torch.arange(spline.order + 1)]
        return (weights[:, None] @ block)[:, 0]

    def _along_axes(self, values: Tensor, maps: Sequence[Tensor]) -> Tensor:
        out = values.reshape(*values.shape[:-2], *self.shape, values.shape[-1])
        for k, matrix in enumerate(maps):
            out = torch.tensordot(out, matrix, ([k - self.dimensions - 1], [1])).movedim(-1, k - self.dimensions - 1)
        return out

    def stencil(
        self,
        points: Tensor,
        derivative: Sequence[int] | None = None,
        shift: Tensor | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> Stencil:
        """As of `SpaceMap.stencil`; K = prod (r_k + 1)."""
        points = self.checked(points)
        try:
            found = [
                a.stencil(points[:, k], n, dtype)
                for k, (a, n) in enumerate(zip(self.axes, self.orders(derivative), strict=True))
            ]
        except DomainError:
            self.check(points)
            raise
        first, rows = found[0][0], found[0][1].mT
        for (more, w), fit in zip(found[1:], self._fits[1:], strict=True):
            first = torch.add(more, first, alpha=len(fit))
            rows = (rows[:, None] * w.mT).flatten(0, 1)
        first = first if shift is None else first + shift
        return Stencil(first.int()[:, None] + self._offsets, rows.mT.contiguous())

    def build_matrix(self, points: Tensor, orders: tuple[int, ...]) -> Tensor:
        """`matrix` in float64: products of the axes' rows."""
        self.check(points)
        rows = torch.ones(len(points), 1, dtype=torch.float64)
        for n, (x, k) in enumerate(zip(points.unbind(1), orders, strict=True)):
            rows = (rows[:, :, None] * self._rows(n, x.contiguous(), k)[:, None, :]).flatten(1)
        return rows

    def contains(self, points: Tensor) -> Tensor:
        """As of `SpaceMap.contains`; an axis that wraps around has no outside."""
        points = self.checked(points)
        inside = points.isfinite().all(1)
        for axis, x in zip(self.axes, points.unbind(1), strict=True):
            if not axis.ends.periodic:
                low, high = axis.knots[0], axis.knots[-1]
                slack = 4 * torch.finfo(x.dtype).eps * torch.maximum(low.abs(), high.abs())
                inside = inside & (x >= low - slack) & (x <= high + slack)
        return inside

    def integral(self) -> Tensor:
        """As of `SpaceMap.integral`; exact for the spline."""
        weights = torch.ones(1, dtype=torch.float64)
        for axis, fit in zip(self.axes, self._fits, strict=True):
            weights = (weights[:, None] * axis.integrate(fit.mT)[None]).flatten()
        return weights

    def mesh(self, resolution: int) -> tuple[Tensor, dict[str, Tensor]]:
        """A grid of `resolution` points to a cell of each axis."""
        axes = []
        for axis in self.axes:
            share = torch.arange(resolution, dtype=torch.float64) / resolution
            inner = axis.knots[:-1, None] + axis.knots.diff()[:, None] * share
            axes.append(torch.cat([inner.flatten(), axis.knots[-1:]]))
        points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, self.dimensions)
        cells = grid_cells(tuple(len(a) for a in axes))
        return points, {kind: torch.from_numpy(index) for kind, index in cells.items()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON."""
        about = {"kind": "rectangle", "order": [a.order for a in self.axes], "ends": [a.ends.left for a in self.axes]}
        return {f"knots{k}": a.knots for k, a in enumerate(self.axes)}, about | {"given": self.given}

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Rectangle:
        """The map that `state` described."""
        if about.get("given"):
            knots = [tensors[f"knots{k}"] for k in range(len(about["order"]))]
            around = [end == "periodic" for end in about["ends"]]
            lines = [(k[:-1] if wraps else k).numpy() for k, wraps in zip(knots, around, strict=True)]
            return cls.through(lines, [float(k[-1] - k[0]) if w else None for k, w in zip(knots, around, strict=True)])
        return cls([tensors[f"knots{k}"] for k in range(len(about["order"]))], about["order"], about["ends"])
