"""Fields between a few nodes: a fixed linear map from values there to values anywhere in the domain.

Shapes: n nodes, d axes, m coefficients, Q points, K entries of a stencil, C components.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from farfield.apps.physics.kept import Kept
from farfield.core_ops.errors import DomainError, DtypeError, ShapeError

# Up to so many entries a map is one dense matrix; beyond, every point looks up its own few coefficients.
MATRIX_ENTRIES = 2**24
# Points taken together, so that what belongs to them stays in a cache.
PIECE = 2**15


class Stencil(NamedTuple):
    """value = sum_k weights[k] coefficients[at[k]], for every point: at (Q, K) int32, weights (Q, K)."""

    at: Tensor
    weights: Tensor


class SpaceMap(ABC):
    """Which places a field is known at, and what follows from that for every other place.

    Attributes:
        nodes: (n, d) float64.
        boundary: Numbers of nodes by part of the boundary.
    """

    nodes: Tensor
    boundary: dict[str, Tensor]

    def __init__(self) -> None:
        self._kept = Kept()

    @property
    def dimensions(self) -> int:
        """d."""
        return int(self.nodes.shape[1])

    @abstractmethod
    def coefficients(self, values: Tensor) -> Tensor:
        """What a stencil looks among: (..., n, C) to (..., m, C), linear and differentiable."""

    @abstractmethod
    def stencil(
        self,
        points: Tensor,
        derivative: Sequence[int] | None = None,
        shift: Tensor | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> Stencil:
        """Where each point (Q, d) looks, for the value or a partial derivative of order 2 at most.

        Args:
            points: (Q, d). derivative: Order along each axis. shift: (Q,), added to where it looks. dtype: Of the
                weights, float64 or float32; the place is found in float64.
        Raises: DomainError: a point outside of the domain.
        """

    @abstractmethod
    def contains(self, points: Tensor) -> Tensor:
        """Whether each point (Q, d) lies in the domain, its boundary included: (Q,)."""

    @abstractmethod
    def integral(self) -> Tensor:
        """Weights (n,) float64: their product with values at the nodes is the integral over the domain."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON from which `from_state` makes the map again."""

    @abstractmethod
    def mesh(self, resolution: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Points (M, d) and cells that show the field: those of the domain's mesh, or so many to a cell's side."""

    def evaluate(self, values: Tensor, points: Tensor, derivative: Sequence[int] | None = None) -> Tensor:
        """The field at points.

        Args:
            values: (..., n, C), any floating dtype and device; differentiable.
            points: (Q, d).
            derivative: Order along each axis, 2 at most; None is the value.
        Returns: (..., Q, C).
        Raises: ShapeError: values for another number of nodes. DomainError: a point outside.
        """
        if values.dim() < 2 or values.shape[-2] != len(self.nodes):
            raise ShapeError(f"values of shape {tuple(values.shape)} came; needed: (..., {len(self.nodes)}, C).")
        if len(points) * len(self.nodes) <= MATRIX_ENTRIES:
            return self.matrix(points, derivative, dtype=values.dtype, device=values.device) @ values
        table = self.coefficients(values).movedim(-2, 0)
        rows = table.reshape(len(table), -1)
        found = [look_up(rows, *self.stencil(p, derivative)) for p in torch.split(self.checked(points), PIECE)]
        return torch.cat(found).reshape(len(points), *table.shape[1:]).movedim(0, -2)

    def matrix(
        self,
        points: Tensor,
        derivative: Sequence[int] | None = None,
        *,
        dtype: torch.dtype = torch.float64,
        device: Any = "cpu",
    ) -> Tensor:
        """The map from values at the nodes to the field at points, (Q, n), dense; the last eight are kept."""
        orders = self.orders(derivative)
        return self._kept.get(points, orders, dtype, device, lambda: self.build_matrix(self.checked(points), orders))

    def build_matrix(self, points: Tensor, orders: tuple[int, ...]) -> Tensor:
        """`matrix` in float64, from stencils."""
        table = self.coefficients(torch.eye(len(self.nodes), dtype=torch.float64)[..., None])[..., 0].mT.contiguous()
        return torch.cat([look_up(table, *self.stencil(p, orders)) for p in torch.split(points, PIECE)])

    def check(self, points: Tensor) -> None:
        """Refuses points outside of the domain.

        Raises: ShapeError; DomainError: outside, inside an obstacle, or no number.
        """
        points = self.checked(points)
        if not bool((inside := self.contains(points)).all()):
            self.refuse(points, inside)

    def refuse(self, points: Tensor, inside: Tensor) -> None:
        """Says which points lie outside.

        Raises: DomainError.
        """
        low, high = self.nodes.amin(0).tolist(), self.nodes.amax(0).tolist()
        first = int((~inside).nonzero()[0])
        place = points[first].tolist()
        in_box = all(a <= x <= b for a, x, b in zip(low, place, high, strict=True))
        box = " x ".join(f"[{a:g}, {b:g}]" for a, b in zip(low, high, strict=True))
        raise DomainError(
            f"{int((~inside).sum())} of {len(points)} points lie outside of the domain, the first,"
            f" number {first}, at ({', '.join(f'{x:g}' for x in place)})"
            f"{', inside an obstacle' if in_box else f', which spans {box}'}; drop them: contains(points) tells which"
        )

    def checked(self, points: Tensor) -> Tensor:
        """The points in float64 on the CPU.

        Raises: ShapeError, DtypeError.
        """
        if not isinstance(points, Tensor) or not points.is_floating_point():
            raise DtypeError(f"points are {getattr(points, 'dtype', type(points).__name__)}; needed: a float tensor.")
        if points.dim() != 2 or points.shape[1] != self.dimensions:
            raise ShapeError(f"points of shape {tuple(points.shape)} came; needed: (Q, {self.dimensions}).")
        return points.detach().to("cpu", torch.float64)

    def orders(self, derivative: Sequence[int] | None) -> tuple[int, ...]:
        """Orders of a derivative along each axis.

        Raises: ShapeError: another number of axes, or an order above 2 in all.
        """
        found = (0,) * self.dimensions if derivative is None else tuple(int(k) for k in derivative)
        if len(found) != self.dimensions or min(found) < 0 or max(found) > 2:
            raise ShapeError(f"derivative={derivative} came; needed: {self.dimensions} orders from 0 to 2.")
        return found


def look_up(table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows: table (m, F), index and weights (Q, K), to (Q, F)."""
    # One pass over the rows, without (Q, K, F) between: ten times a gather and a product on a CPU.
    return torch.nn.functional.embedding_bag(
        index.to(table.device), table, per_sample_weights=weights.to(table), mode="sum"
    )


def from_state(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> SpaceMap:
    """The map that `state` described.

    Raises: KeyError: a kind that this version does not know.
    """
    from farfield.apps.physics.irregular import Irregular
    from farfield.apps.physics.rectangle import Rectangle

    kinds: dict[str, Any] = {"rectangle": Rectangle, "irregular": Irregular}
    found: SpaceMap = kinds[str(about["kind"])].from_state(tensors, about)
    return found
