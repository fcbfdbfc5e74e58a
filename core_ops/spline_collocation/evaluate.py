"""Values, derivatives and integrals of a spline from its nodal coefficients.

Shapes: N cells of order r; knots (..., N + 1); coeffs (..., N r + 1); x (..., Q). Batch dimensions broadcast.
"""

import torch
from torch import Tensor

from ..banded.batch import broadcast
from . import direct
from .cell import QUADRATURE, Cell, basis
from .lookup import CELLS, ROWS
from .lookup import find as look_up

# From so many queries on they are looked up on a CPU; fewer are searched one by one (measured).
LOOKED_UP = 2**12


def pick(table: Tensor, index: Tensor) -> Tensor:
    """table[..., index]; index (Q) serves all rows, or has rows of its own."""
    if index.dim() == 1:
        return table[..., index]
    batch = broadcast(table.shape[:-1], index.shape[:-1])
    return table.expand(*batch, table.shape[-1]).gather(-1, index.expand(*batch, index.shape[-1]))


def find(knots: Tensor, x: Tensor) -> Tensor:
    """The cell of every query, (Q) or (..., Q), between knots (..., N + 1): the right one at a knot."""
    if knots.dim() == 1:
        return torch.searchsorted(knots[1:-1].contiguous(), x.contiguous(), right=True)
    batch = broadcast(knots.shape[:-1], x.shape[:-1])
    knots, x = (t.expand(*batch, t.shape[-1]) for t in (knots, x))
    plain = torch.compiler.is_compiling() or x.device.type != "cpu" or x.numel() < LOOKED_UP
    if plain or batch.numel() > ROWS or knots.shape[-1] > CELLS:
        return torch.searchsorted(knots[..., 1:-1].contiguous(), x.contiguous(), right=True)
    return look_up(knots.reshape(-1, knots.shape[-1]), x.reshape(-1, x.shape[-1])).view(x.shape)


def locate(knots: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The cell of every x, and its place s in that cell, 0 at its start and 1 at its end."""
    at = find(knots.detach().to(x.dtype), x.detach())
    return at, (x - pick(knots[..., :-1], at)) * pick(1 / knots.diff(), at)


def local_basis(s: Tensor, at: Tensor, cell: Cell) -> list[Tensor]:
    """The r + 1 basis functions at places s of cells `at`."""
    if cell.nodes.dim() == 1:
        return basis(s, cell.nodes.unbind(), cell.weights.unbind())
    pairs = ((pick(cell.nodes[..., k], at), pick(cell.weights[..., k], at)) for k in range(cell.nodes.shape[-1]))
    nodes, weights = zip(*pairs, strict=True)
    return basis(s, nodes, weights)


def combine(weights: list[Tensor], table: Tensor, at: Tensor, stride: int) -> Tensor:
    """sum_k weights[k] table[..., stride at + k], the nodal values of cells `at`."""
    end = table.shape[-1] - len(weights) + 1
    # The values at node k of all cells are one strided view.
    y = pick(table[..., :end:stride], at) * weights[0]
    for k in range(1, len(weights)):
        y = torch.addcmul(y, pick(table[..., k : end + k : stride], at), weights[k])
    return y


def differentiate(coeffs: Tensor, widths: Tensor, cell: Cell, order: int, times: int) -> Tensor:
    """Nodal values of a derivative, cell by cell since it may jump at knots; (..., N (r + 1))."""
    local = coeffs.unfold(-1, order + 1, order)
    for _ in range(times):
        matrix = cell.derivative.mT
        local = local @ matrix if matrix.dim() == 2 else (local[..., None, :] @ matrix)[..., 0, :]
        local = local / widths[..., None]
    return local.flatten(-2)


def values(coeffs: Tensor, knots: Tensor, x: Tensor, cell: Cell, order: int, derivative: int) -> Tensor:
    """S(x), S'(x) or S''(x), (..., Q), in the dtype of coeffs."""
    table, stride = coeffs, order
    if derivative > 0:
        table = differentiate(coeffs, knots.diff().to(coeffs.dtype), cell, order, derivative)
        stride = order + 1
    # Tables of all cells pay where queries are not much fewer.
    many = max(knots.dim(), x.dim()) > 1 and 4 * x.shape[-1] >= knots.shape[-1]
    if many and cell.nodes.dim() == 1 and direct.suits(knots.shape[-1], coeffs, knots, x):
        return direct.values(table, stride, knots, x, order)
    at, s = locate(knots, x)
    return combine(local_basis(s.to(coeffs.dtype), at, cell), table, at, stride)


def antiderivative(coeffs: Tensor, knots: Tensor, x: Tensor, cell: Cell, order: int) -> Tensor:
    """The integral from the first knot to x, (..., Q)."""
    widths = knots.diff().to(coeffs.dtype)
    at, s = locate(knots, x)
    s = s.to(coeffs.dtype)
    points, weights = QUADRATURE[order // 2 + 1]
    ones = torch.ones_like(widths)
    every = torch.arange(widths.shape[-1], device=coeffs.device)
    whole = torch.zeros_like(widths)
    part = torch.zeros_like(s)
    for point, weight in zip(points, weights, strict=True):
        whole = whole + weight * combine(local_basis(point * ones, every, cell), coeffs, every, order)
        part = part + weight * combine(local_basis(point * s, at, cell), coeffs, at, order)
    before = torch.nn.functional.pad((whole * widths).cumsum(-1), (1, 0))
    return pick(before, at) + part * s * pick(widths, at)
