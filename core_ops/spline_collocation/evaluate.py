"""Values, derivatives and integrals of a spline from its nodal coefficients.

Shapes: N cells of order r; knots (..., N + 1); coeffs (..., N r + 1); x (..., Q). Batch dimensions broadcast.
"""

import torch
from torch import Tensor

from ..banded.batch import broadcast
from .cell import QUADRATURE, Cell, basis

# Up to so many inner knots a query's cell is counted, not searched, on a CPU (measured).
COUNTED = 32
# Numbers of a piece of series that is evaluated at once on a CPU: its temporaries stay in cache.
PIECE = 2**17


def pick(table: Tensor, index: Tensor) -> Tensor:
    """table[..., index]; index (Q) serves all rows, or has rows of its own."""
    if index.dim() == 1:
        return table[..., index]
    batch = broadcast(table.shape[:-1], index.shape[:-1])
    return table.expand(*batch, table.shape[-1]).gather(-1, index.expand(*batch, index.shape[-1]))


def find(inner: Tensor, x: Tensor) -> Tensor:
    """How many of the inner knots (..., N - 1) are at most x, (Q) or (..., Q): the cell, the right one at a knot."""
    if inner.dim() == 1:
        return torch.searchsorted(inner.contiguous(), x.contiguous(), right=True)
    plain = x.is_cuda or torch.compiler.is_compiling() or inner.shape[-1] == 0
    if x.dim() == 1 and not plain:
        # The fewer knots are looked up among the sorted queries, then counted along these.
        ordered, order = x.sort()
        first = torch.searchsorted(ordered, inner.contiguous())
        steps = torch.zeros(*inner.shape[:-1], len(x) + 1, dtype=torch.int64)
        counts = steps.scatter_add_(-1, first, torch.ones_like(first)).cumsum(-1)[..., :-1]
        return counts if bool((order.diff() > 0).all()) else counts[..., order.argsort()]
    batch = broadcast(inner.shape[:-1], x.shape[:-1])
    inner, x = inner.expand(*batch, inner.shape[-1]), x.expand(*batch, x.shape[-1])
    if plain or inner.shape[-1] > COUNTED:
        return torch.searchsorted(inner.contiguous(), x.contiguous(), right=True)
    # Vectorized sums, where a search waits for each comparison; sign(0) = 0 counts half, and is rounded up.
    total, gap = torch.zeros_like(x), torch.empty_like(x)
    for i in range(inner.shape[-1]):
        total += torch.sub(x, inner[..., i : i + 1], out=gap).sign_()
    return total.add_(inner.shape[-1] + 1).mul_(0.5).long()


def locate(knots: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The cell of every x, and its place s in that cell, 0 at its start and 1 at its end."""
    at = find(knots.detach()[..., 1:-1].to(x.dtype), x.detach())
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
    own = cell.nodes.dim() > 1
    needs = torch.is_grad_enabled() and (coeffs.requires_grad or knots.requires_grad or x.requires_grad)
    if not (own or needs or coeffs.is_cuda or torch.compiler.is_compiling()) and max(knots.dim(), x.dim()) > 1:
        batch = broadcast(coeffs.shape[:-1], knots.shape[:-1], x.shape[:-1])
        rows = max(1, PIECE // max(x.shape[-1], coeffs.shape[-1]))
        if batch.numel() > rows:
            return _in_pieces(coeffs, knots, x, cell, order, derivative, batch, rows)
    return piece(coeffs, knots, x, cell, order, derivative)


def _in_pieces(
    coeffs: Tensor, knots: Tensor, x: Tensor, cell: Cell, order: int, derivative: int, batch: torch.Size, rows: int
) -> Tensor:
    flat = [t if t.dim() == 1 else t.expand(*batch, t.shape[-1]).reshape(-1, t.shape[-1]) for t in (coeffs, knots, x)]
    y = coeffs.new_empty(batch.numel(), x.shape[-1])
    for i in range(0, len(y), rows):
        c, k, q = (t if t.dim() == 1 else t[i : i + rows] for t in flat)
        y[i : i + rows] = piece(c, k, q, cell, order, derivative)
    return y.reshape(*batch, x.shape[-1])


def piece(coeffs: Tensor, knots: Tensor, x: Tensor, cell: Cell, order: int, derivative: int) -> Tensor:
    """`values` of all series at once."""
    at, s = locate(knots, x)
    weights = local_basis(s.to(coeffs.dtype), at, cell)
    if derivative == 0:
        return combine(weights, coeffs, at, order)
    table = differentiate(coeffs, knots.diff().to(coeffs.dtype), cell, order, derivative)
    return combine(weights, table, at, order + 1)


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
