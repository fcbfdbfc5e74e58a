"""Tensor products of splines in two and three dimensions: one small GEMM an axis, never a Kronecker system.

Shapes: d axes; data (..., size_1, .., size_d); coeffs (..., N_1 r_1 + 1, ..); grids (..., Q_1, .., Q_d); points
(..., P, d).
"""

from collections.abc import Callable
from functools import partial
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ShapeError
from .checks import check_finite
from .evaluate import differentiate, local_basis, locate, pick
from .moved import fit_moved
from .op import SplineCollocation


class TensorCollocation:
    """A spline in each of two or three directions, S = (S_1 x .. x S_d) data.

        field = TensorCollocation(SplineCollocation(x_knots, 3), SplineCollocation(y_knots, 5, ends="periodic"))
        u = field(data, xq, yq)                             # data[i, j] at (x.nodes[i], y.nodes[j])
        coeffs = field.fit(data)
        slope = field.at(coeffs, points, derivative=(1, 0))

    Args:
        axes: Two or three splines; orders, ends and partitions of their own. Knots (..., N + 1) give every series its
            own partition of that axis.
    Raises: ShapeError: not two or three axes.
    Complexity: fit and a grid are d products of (..., size) with (Q, size); a point takes prod (r + 1) terms.
    Source: Hua et al. 2023, "GraphSplineNets", arXiv:2310.16397; separable, any order and boundary.
    """

    def __init__(self, *axes: SplineCollocation) -> None:
        if len(axes) not in (2, 3):
            raise ShapeError(f"TensorCollocation: {len(axes)} axes came; needed: 2 or 3 SplineCollocation.")
        self.axes = axes
        # Along one axis the others are batch dimensions.
        self._lines = tuple(_lifted(a, len(axes) - 1) for a in axes)

    @property
    def size(self) -> tuple[int, ...]:
        """The last dimensions of data."""
        return tuple(a.size for a in self.axes)

    @property
    def nodes(self) -> tuple[Tensor, ...]:
        """Where data are taken, axis by axis."""
        return tuple(a.nodes for a in self.axes)

    def fit(self, data: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Coefficients, the values at the tensor grid of all knots and points.

        Args:
            data: (..., size_1, .., size_d), as each axis' data vector.
        Returns: (..., N_1 r_1 + 1, .., N_d r_d + 1).
        Raises: ShapeError, DtypeError; DomainError: NaN or infinity in data.
        """
        self._check_data(data)
        for k, line in enumerate(self._lines):
            data = _along(data, k - len(self.axes), line.solve)
        return data

    def fit_moved(self, points: Float[Tensor, "m n 2"], data: Float[Tensor, "*b m n"]) -> Float[Tensor, "*b p q"]:
        """`fit` of data at points that were moved inside their cells, in two dimensions and from order 3.

        Moving points by more than a fifth of half a cell multiplies errors (README.md); moving knots does not.

        Args:
            points: (size_1, size_2, 2), in the order of the tensor grid: entry (a, b) lies in the cell of
                (nodes[0][a], nodes[1][b]), the first and last of an axis on its ends.
            data: (..., size_1, size_2), the values there.
        Returns: Coefficients, as `fit`. Differentiable in points and data.
        Raises: ShapeError; DomainError: a point outside of its cell.
        Complexity: O(N_1 (r_1 size_2)^3), by `almost_block_diagonal_solve`.
        """
        if len(self.axes) != 2:
            raise ShapeError(f"TensorCollocation.fit_moved: {len(self.axes)} axes; needed: 2.")
        return fit_moved(*self.axes, points, data)

    def __call__(
        self, data: Float[Tensor, "..."], *x: Float[Tensor, "..."], derivative: tuple[int, ...] | None = None
    ) -> Float[Tensor, "..."]:
        """The field on the grid x[0] x .. x x[d - 1]: one cached operator, one GEMM an axis.

        Args:
            data: (..., size_1, .., size_d). x: d tensors of queries, (Q_k). derivative: Of each axis, 0 to 2.
        Returns: (..., Q_1, .., Q_d).
        """
        self._check_data(data)
        times = self._times(x, derivative)
        # The axis that grows least goes first.
        order = sorted(range(len(x)), key=lambda k: x[k].shape[-1] / self.axes[k].size)
        for k in order:
            data = self._apply(data, k, x[k], times[k])
        return data

    def evaluate(
        self, coeffs: Float[Tensor, "..."], *x: Float[Tensor, "..."], derivative: tuple[int, ...] | None = None
    ) -> Float[Tensor, "..."]:
        """The field, or a mixed derivative of it, on a grid, from coefficients.

        Args:
            coeffs: From `fit`. x: d tensors of queries, (Q_k). derivative: Of each axis, 0 to 2.
        Returns: (..., Q_1, .., Q_d).
        """
        times = self._times(x, derivative)
        for k, line in enumerate(self._lines):
            q, t = _queries(x[k], len(self.axes)), times[k]
            coeffs = _along(coeffs, k - len(self.axes), partial(line.evaluate, x=q, derivative=t))
        return coeffs

    def at(
        self, coeffs: Float[Tensor, "..."], points: Float[Tensor, "..."], derivative: tuple[int, ...] | None = None
    ) -> Float[Tensor, "..."]:
        """The field, or a mixed derivative of it, at scattered points.

        Args:
            coeffs: From `fit`. points: (P, d) for all fields, or (..., P, d). derivative: Of each axis, 0 to 2.
        Returns: (..., P). Differentiable in coeffs, points and knots.
        Raises: ShapeError; DomainError: a point outside.
        """
        d = len(self.axes)
        if points.dim() < 2 or points.shape[-1] != d:
            raise ShapeError(f"TensorCollocation.at: points has shape {tuple(points.shape)}; needed: (..., P, {d}).")
        columns = points.unbind(-1)
        times = self._times(columns, derivative)
        firsts, weights = [], []
        for k, axis in enumerate(self.axes):
            q = axis.check_queries("at", columns[k], times[k])
            cell = axis.cell.to(coeffs)
            index, s = locate(axis.knots, q)
            weights.append(local_basis(s.to(coeffs.dtype), index, cell))
            firsts.append(index * (axis.order + (times[k] > 0)))
            if times[k]:
                coeffs = _along(coeffs, k - d, partial(_local, self._lines[k], times=times[k]))
        flat = coeffs.flatten(-d)
        strides = [coeffs.shape[k - d + 1 :].numel() if k < d - 1 else 1 for k in range(d)]
        y: Tensor | None = None
        for offsets in product(*(range(len(w)) for w in weights)):
            index = torch.zeros_like(firsts[0])
            for stride, first, o in zip(strides, firsts, offsets, strict=True):
                index = index + stride * (first + o)
            term = pick(flat, index)
            for k, o in enumerate(offsets):
                term = term * weights[k][o]
            y = term if y is None else y + term
        assert y is not None
        return y

    def integrate(self, coeffs: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The integral over the whole domain, (...)."""
        for k in reversed(range(len(self.axes))):
            coeffs = _lifted(self.axes[k], k).integrate(coeffs)
        return coeffs

    def lebesgue(self, samples: int = 65) -> Float[Tensor, "..."]:
        """The product of the axes' constants: how much the largest error of the data can grow."""
        constants = [a.lebesgue(samples) for a in self.axes]
        total = constants[0]
        for c in constants[1:]:
            total = total * c
        return total

    def _apply(self, data: Tensor, k: int, x: Tensor, times: int) -> Tensor:
        d, line = len(self.axes), self._lines[k]
        if x.dim() > 1 or not line.fixed or x.requires_grad:
            return _along(data, k - d, lambda u: line(u, _queries(x, d), times))
        matrix = line.operator(x, times, dtype=data.dtype)
        if k == d - 1:
            return data @ matrix.mT
        if k == d - 2:
            return matrix @ data
        return _along(data, k - d, lambda u: u @ matrix.mT)

    def _times(self, x: tuple[Tensor, ...], derivative: tuple[int, ...] | None) -> tuple[int, ...]:
        d = len(self.axes)
        times = (0,) * d if derivative is None else tuple(derivative)
        if len(x) != d or len(times) != d:
            raise ShapeError(
                f"TensorCollocation: {len(x)} axes of queries, derivative={derivative}; needed: {d} of both."
            )
        return times

    def _check_data(self, data: Tensor) -> None:
        d = len(self.axes)
        if tuple(data.shape[-d:]) != self.size:
            raise ShapeError(
                f"TensorCollocation: data has shape {tuple(data.shape)}; needed: (...,"
                f" {', '.join(map(str, self.size))}), see `nodes`."
            )
        for axis in self.axes:
            axis.check_dtype("fit", "data", data)
        check_finite("TensorCollocation", "data", data, all(a.check for a in self.axes))


def _lifted(axis: SplineCollocation, dims: int) -> SplineCollocation:
    """The axis with `dims` more batch dimensions before its knots; itself where one partition serves all."""
    if axis.knots.dim() == 1 and (axis.own_points is None or axis.own_points.dim() == 1):
        return axis

    def lift(x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], *(1,) * dims, x.shape[-1])

    own = None if axis.own_points is None else lift(axis.own_points)
    ends = (axis.ends.left, axis.ends.right)
    return SplineCollocation(lift(axis.knots), axis.order, ends=ends, points=own, check=axis.check)


def _queries(x: Tensor, d: int) -> Tensor:
    return x if x.dim() == 1 else x.reshape(*x.shape[:-1], *(1,) * (d - 1), x.shape[-1])


def _along(x: Tensor, dim: int, f: Callable[[Tensor], Tensor]) -> Tensor:
    return f(x.movedim(dim, -1)).movedim(-1, dim)


def _local(line: SplineCollocation, coeffs: Tensor, *, times: int) -> Tensor:
    widths = line.knots.diff().to(coeffs.dtype)
    return differentiate(coeffs, widths, line.cell.to(coeffs), line.order, times)
