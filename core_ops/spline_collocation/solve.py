"""The values at the knots: one tridiagonal system that makes the spline C1.

Cell i, of width h_i, has the nodal values [v_i, y_i1 .. y_i(r-1), v_(i+1)]; with D0 and D1 the derivatives of its basis
at 0 and 1, the slope from the left less the slope from the right is zero at each interior knot:
    D1 . u_i / h_i - D0 . u_(i+1) / h_(i+1) = 0.
Shapes: N cells; M = N (r - 1) points; data (..., size), size = M and one for every end that is given.
"""

import torch
from torch import Tensor

from ..banded import banded_solve
from ..banded.batch import broadcast
from ..banded.tridiagonal import rows_first
from ..banded.tridiagonal import solve as tridiagonal
from .cell import Cell
from .ends import Ends, end_values


def split(data: Tensor, cells: int, order: int, ends: Ends) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """The given left end (...), the values (..., N, r - 1) and the given right end (...) of a data vector."""
    first, last = ends.given
    y = data[..., first : data.shape[-1] - last].reshape(*data.shape[:-1], cells, order - 1)
    return data[..., 0] if first else None, y, data[..., -1] if last else None


def knot_values(data: Tensor, widths: Tensor, cell: Cell, order: int, ends: Ends) -> Tensor:
    """v: the spline's values at all knots.

    Args:
        data: (..., size). widths: (..., N). cell: Gauss points in all cells, or nodes (..., N, r + 1) of each.
    Returns: (..., N + 1).
    """
    n = widths.shape[-1]
    left, y, right = split(data, n, order, ends)
    if left is None and not ends.periodic:
        left = end_values(y, widths, cell, order, True)
    if right is None and not ends.periodic:
        right = end_values(y, widths, cell, order, False)
    # Cells first and series last, so that every step below runs over contiguous series.
    rank = max(data.dim(), widths.dim(), *(t.dim() + 1 for t in (left, right) if t is not None))
    scale = (1 / rows_first(widths, rank)).contiguous()
    points = rows_first(y.flatten(-2), rank).contiguous()
    inner = [points[k :: order - 1] for k in range(order - 1)]
    d0, d1 = (_of_cells(cell.derivative[..., row, :], rank) for row in (0, -1))
    # Slopes at a cell's start and end that its inner values alone give, and those that v at its start and end adds.
    at_start, at_end = scale * _dot(d0[1:-1], inner), -scale * _dot(d1[1:-1], inner)
    start, end, up, low = -d0[0] * scale, d1[-1] * scale, -d0[-1] * scale, d1[0] * scale
    if ends.periodic:
        return _circle(start, end, low, up, at_start, at_end, cell).movedim(0, -1)
    assert left is not None
    assert right is not None
    left, right = (t.reshape(1, *(1,) * (rank - 1 - t.dim()), *t.shape) for t in (left, right))
    diag, rhs = [start[1:] + end[:-1]], [at_start[1:] + at_end[:-1]]
    first, last = 1, n - 1
    if ends.left == "neumann":
        diag, rhs, first = [start[:1], *diag], [at_start[:1] - left, *rhs], 0
    if ends.right == "neumann":
        diag, rhs, last = [*diag, end[-1:]], [*rhs, at_end[-1:] + right], n
    # A value that is given goes to the right-hand side of its neighbour, where there is one.
    if ends.left != "neumann" and len(whole := _stack(rhs)) > 0:
        rhs = [whole[:1] - low[:1] * left, whole[1:]]
    if ends.right != "neumann" and len(whole := _stack(rhs)) > 0:
        rhs = [whole[:-1], whole[-1:] - up[-1:] * right]
    v = _solve(low[first:last], _stack(diag), up[first:last], _stack(rhs), cell) if last >= first else _stack(rhs)
    parts = [] if ends.left == "neumann" else [left]
    parts += [v] if ends.right == "neumann" else [v, right]
    return _stack(parts).movedim(0, -1)


def _stack(parts: list[Tensor]) -> Tensor:
    batch = broadcast(*(p.shape[1:] for p in parts))
    return parts[0] if len(parts) == 1 else torch.cat([p.expand(len(p), *batch) for p in parts])


def _dot(weights: list[Tensor], inner: list[Tensor]) -> Tensor:
    total = weights[0] * inner[0]
    for w, u in zip(weights[1:], inner[1:], strict=True):
        total = total + w * u
    return total


def _of_cells(row: Tensor, rank: int) -> list[Tensor]:
    # The constants of Gauss' cell stay scalars.
    return [row[k] if row.dim() == 1 else rows_first(row[..., k], rank) for k in range(row.shape[-1])]


def _solve(lower: Tensor, diag: Tensor, upper: Tensor, rhs: Tensor, cell: Cell) -> Tensor:
    if cell.nodes.dim() == 1:
        x: Tensor = tridiagonal(lower, diag, upper, rhs)
        return x
    # Points that were moved off Gauss' leave neither symmetry nor dominance: rows are exchanged.
    bands = torch.stack([t.movedim(0, -1) for t in (_pad(upper, 1, 0), diag, _pad(lower, 0, 1))], -2)
    return banded_solve(bands, rhs.movedim(0, -1)[..., None], 1, 1)[..., 0].movedim(-1, 0)


def _pad(x: Tensor, before: int, after: int) -> Tensor:
    return torch.cat([x.new_zeros(before, *x.shape[1:]), x, x.new_zeros(after, *x.shape[1:])])


def _circle(
    start: Tensor, end: Tensor, low: Tensor, up: Tensor, at_start: Tensor, at_end: Tensor, cell: Cell
) -> Tensor:
    # Rows 1 to N - 1 for v_0 = 0 and for v_0 = 1, then row 0.
    diag0, rhs0 = start[:1] + end[-1:], at_start[:1] + at_end[-1:]
    n = len(start)
    if n == 1:
        v0 = rhs0 / (diag0 + up[:1] + low[:1])
        return torch.cat([v0, v0])
    diag, rhs = start[1:] + end[:-1], at_start[1:] + at_end[:-1]
    # Row 1 sees v_0 through cell 0, row N - 1 sees it through the last cell.
    to_zero = _pad(low[:1], 0, n - 2) + _pad(up[-1:], n - 2, 0)
    x, z = _solve(low[1:-1], diag, up[1:-1], rhs, cell), _solve(low[1:-1], diag, up[1:-1], to_zero, cell)
    v0 = (rhs0 - up[:1] * x[:1] - low[-1:] * x[-1:]) / (diag0 - up[:1] * z[:1] - low[-1:] * z[-1:])
    return torch.cat([v0, x - v0 * z, v0])


def nodal(v: Tensor, y: Tensor) -> Tensor:
    """Coefficients: the values at knots and points in order, (..., N r + 1).

    Args:
        v: (..., N + 1). y: (..., N, r - 1).
    """
    batch = broadcast(v.shape[:-1], y.shape[:-2])
    n, order = y.shape[-2], y.shape[-1] + 1
    coeffs = v.new_empty(*batch, n * order + 1)
    coeffs[..., ::order] = v
    coeffs[..., :-1].view(*batch, n, order)[..., 1:] = y
    return coeffs


def narrow(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """A float64 operator in a dtype. Its entries fall by rho_r a cell; those far below rounding are zero, not denormal.

    Denormal numbers make a GEMM on a CPU twenty times slower.
    """
    return torch.where(matrix.abs() < torch.finfo(dtype).eps ** 3, 0, matrix).to(dtype)
