"""Points moved inside their cells of a two-dimensional partition: no tensor grid, an almost-block-diagonal system.

Every axis gets the C1 basis of its knots' values and slopes, and r - 3 values inside each cell. A cell of the first
axis then couples with the next one only through the knot between them, whatever happens along the second axis.
Shapes: axis of N cells and order r: L = N (r - 1) + 2 unknowns; points (L_1, L_2, 2) and data (..., L_1, L_2) in the
order of the tensor grid, the first and the last of an axis on its ends.
"""

import torch
from torch import Tensor

from ..banded import almost_block_diagonal_solve
from ..errors import DomainError, ShapeError
from .cell import Cell
from .checks import check_finite, looks
from .evaluate import local_basis, pick
from .op import SplineCollocation


def unknowns(cell: Cell, order: int) -> Tensor:
    """Nodal values of a cell from [value, slope, r - 3 inner values, value, slope]; slopes in the local coordinate."""
    eye = torch.eye(order + 1, dtype=cell.nodes.dtype, device=cell.nodes.device)
    kept = torch.cat([eye[:1], cell.derivative[:1], eye[2 : order - 1], eye[order:], cell.derivative[order:]])
    inverse: Tensor = torch.linalg.inv(kept)
    return inverse


def own_cells(axis: SplineCollocation) -> Tensor:
    """The cell of every entry of an axis' data vector, (L)."""
    inner = torch.arange(axis.cells, device=axis.knots.device).repeat_interleave(axis.order - 1)
    return torch.cat([inner[:1], inner, inner[-1:]])


def rows(axis: SplineCollocation, x: Tensor, at: Tensor, dtype: torch.dtype) -> Tensor:
    """The r + 1 basis values at every x of cells `at`, (..., r + 1), slopes in global units."""
    knots = axis.knots
    cell = axis.cell.to(knots.to(dtype))
    h = pick(knots.diff(), at)
    s = (x - pick(knots[:-1], at)) / h
    values = torch.stack(local_basis(s.to(dtype), at, cell), -1) @ unknowns(cell, axis.order)
    slope = torch.zeros(axis.order + 1, dtype=torch.bool, device=x.device)
    slope[[1, axis.order]] = True
    return torch.where(slope, values * h.to(dtype)[..., None], values)


def spread(axis: SplineCollocation, x: Tensor, dtype: torch.dtype) -> Tensor:
    """The values of all L unknowns' basis functions at x (..., L), (..., L, L)."""
    at, order = own_cells(axis), axis.order
    values = rows(axis, x, at, dtype)
    index = (at[:, None] * (order - 1) + torch.arange(order + 1, device=x.device)).expand(values.shape)
    return values.new_zeros(*x.shape, axis.size).scatter(-1, index, values)


def nodal_values(axis: SplineCollocation, u: Tensor) -> Tensor:
    """Coefficients (..., N r + 1) from the L unknowns (..., L)."""
    order, n = axis.order, axis.cells
    cell = axis.cell.to(u)
    h = axis.knots.diff().to(u)
    windows = u.unfold(-1, order + 1, order - 1)
    ones = torch.ones(n, order - 1, dtype=u.dtype, device=u.device)
    # Columns 1 and r are slopes: from global to local units.
    scale = torch.cat([ones[:, :1], h[:, None], ones[:, 2:], ones[:, :1], h[:, None]], -1)
    local = (windows * scale) @ unknowns(cell, order).mT
    return torch.cat([local[..., :-1].flatten(-2), local[..., -1, -1:]], -1)


def fit_moved(first: SplineCollocation, second: SplineCollocation, points: Tensor, data: Tensor) -> Tensor:
    """Coefficients (..., N_1 r_1 + 1, N_2 r_2 + 1) of the C1 tensor spline through data at moved points.

    Args:
        first, second: Gauss partitions of order 3 or more, ends "dirichlet", one for all series.
        points: (L_1, L_2, 2), row a and column b in the cell that entry (a, b) of the tensor grid has.
        data: (..., L_1, L_2).
    Raises: ShapeError; DomainError: a point outside of its cell.
    Complexity: O(N_1 (r_1 L_2)^3).
    """
    what = "TensorCollocation.fit_moved"
    for axis in (first, second):
        if axis.order < 3 or axis.own_points is not None or axis.knots.dim() > 1 or axis.ends.given != (1, 1):
            raise ShapeError(f"{what}: needed: axes of order 3 or more, ends='dirichlet', one partition, Gauss points.")
        if axis.ends.left != "dirichlet" or axis.ends.right != "dirichlet":
            raise ShapeError(f"{what}: ends are {axis.ends}; needed: 'dirichlet'.")
    sizes = (first.size, second.size)
    if tuple(points.shape) != (*sizes, 2) or tuple(data.shape[-2:]) != sizes:
        raise ShapeError(
            f"{what}: points {tuple(points.shape)}, data {tuple(data.shape)}; needed: {(*sizes, 2)} and"
            f" (..., {sizes[0]}, {sizes[1]})."
        )
    check_finite(what, "data", data, first.check)
    _check_cells(what, first, second, points)
    n, order, width = first.cells, first.order, second.size
    along = rows(first, points[..., 0].mT, own_cells(first), data.dtype).transpose(0, 1)
    across = spread(second, points[..., 1], data.dtype)
    # (L_1, L_2, r + 1, L_2): a point's row over the unknowns of its cell, the second axis innermost.
    matrix = (along[..., :, None] * across[..., None, :]).flatten(-2)
    top, bottom = matrix[0, :, : 2 * width], matrix[-1, :, -2 * width :]
    blocks = matrix[1:-1].reshape(n, (order - 1) * width, (order + 1) * width)
    batch = data.shape[:-2]
    rhs = data.reshape(-1, first.size * width).mT
    u = almost_block_diagonal_solve(top, blocks, bottom, rhs).mT.reshape(*batch, first.size, width)
    u = nodal_values(second, u)
    return nodal_values(first, u.mT).mT


def _check_cells(what: str, first: SplineCollocation, second: SplineCollocation, points: Tensor) -> None:
    if not looks(first.check, points):
        return
    for k, axis in enumerate((first, second)):
        x = points.detach()[..., k] if k == 0 else points.detach()[..., k].mT
        knots = axis.knots.detach()
        slack = 4 * torch.finfo(x.dtype).eps * knots.abs().max()
        low = torch.cat([knots[:1], knots[:-1].repeat_interleave(axis.order - 1), knots[-1:]])[:, None]
        high = torch.cat([knots[:1], knots[1:].repeat_interleave(axis.order - 1), knots[-1:]])[:, None]
        bad = ~((x >= low - slack) & (x <= high + slack))
        if bool(bad.any()):
            a, b = bad.nonzero()[0].tolist()
            where = (a, b) if k == 0 else (b, a)
            raise DomainError(
                f"{what}: point {where} has coordinate {k} = {float(x[a, b]):g}, outside of its cell"
                f" [{float(low[a, 0]):g}, {float(high[a, 0]):g}]; move it inside."
            )
