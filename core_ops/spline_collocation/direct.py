"""Splines without gradients on a CPU, a partition or queries for each series: solved and evaluated in place.

Series are contiguous from the first transposition to the last, and pieces of them stay in cache.
Shapes: B series; N cells of order r; size, entries of a data vector; Q queries. Inside, rows come first: coefficients
(N r + 1, B). A table (r + 3, S, B) holds the start of every cell, 1 / h, and its r + 1 coefficients.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..banded.batch import broadcast
from .cell import gauss
from .ends import Ends, end_values
from .lookup import CELLS, ROWS, depth, fill, places, places_shape, sample, search

if TYPE_CHECKING:
    from .op import SplineCollocation

# Numbers of a table, and of queries, that one thread works on at once (measured, 2 MiB of cache a core).
TABLE, PIECE = 2**20, 2**16
# Series of a block at least, so that a step of elimination is more than its call; and cells up to which that is so.
SERIES, LONGEST = 1024, 1024
# Up to so many cells elimination is the quickest whatever the number of series.
ELIMINATED = 128
HALF, QUARTER = (
    {dtype: torch.full((), v, dtype=dtype, device="cpu") for dtype in (torch.float32, torch.float64)}
    for v in (-0.5, 0.25)
)


def suits(cells: int, *tensors: Tensor) -> bool:
    """Whether all of it is on a CPU, and nobody wants a gradient or a graph of it."""
    if torch.compiler.is_compiling() or cells > CELLS or any(t.device.type != "cpu" for t in tensors):
        return False
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return False
    return all(torch.autograd.forward_ad.unpack_dual(t).tangent is None for t in tensors)  # type: ignore[no-untyped-call]


def solves(spline: "SplineCollocation", data: Tensor, *x: Tensor) -> bool:
    """Whether `fit`, or with queries `interpolate`, runs a call."""
    # One partition for all has one elimination for all.
    if spline.own_points is not None or spline.ends.periodic or spline.knots.dim() == 1:
        return False
    # Few long systems are quicker reduced than eliminated.
    few = spline.cells > ELIMINATED and spline.knots.shape[:-1].numel() < spline.cells
    return not few and spline.cells <= LONGEST and suits(spline.cells, data, spline.knots, *x)


@functools.cache
def pairs(order: int) -> list[tuple[float, float, float, float, float]]:
    """Lagrange's form on a Gauss cell, a node n and its mirror image 1 - n at a time.

        l_j(s) u_j + l_(r-j)(s) u_(r-j) = (alpha_j + beta_j s) prod_(i != j) q_i(s),  q_i = (s - n_i)(s - (1 - n_i))

    With z = s (1 - s), q_0 = -z and q_i = n_i (1 - n_i) - z: two numbers a pair and one for a node in the middle say
    all, and a query takes half the steps that it takes node by node.

    Returns: For every pair, what of u_j and of u_(r-j) makes alpha_j, then beta_j, for z instead of q_0; n_j (1 - n_j).
    """
    nodes, weights = gauss(order).nodes.tolist(), gauss(order).weights.tolist()
    found = []
    for j in range((order + 1) // 2):
        n, sign = nodes[j], -1 if j else 1
        left, right = sign * weights[j], sign * weights[order - j]
        found.append(((n - 0.5) * left, (0.5 - n) * right, left, right, n * (1 - n)))
    return found


def solve(points: Tensor, inverse: Tensor, v: Tensor, order: int, kinds: Ends) -> None:
    """Thomas' algorithm for the values at the knots; the equations are those of solve.py over r^2 - r + 1.

    Args:
        points: (N, r - 1, B). inverse: 1 / h (N, B). v: (N + 1, B), what the ends are given in its first and last row;
            overwritten by the solution.
    """
    n, heavy = len(inverse), order * order - order + 1
    d0, d1 = gauss(order).derivative[[0, -1]].tolist()
    columns = points.unbind(1)
    at_start, at_end = columns[0] * (d0[1] / heavy), columns[0] * (d1[1] / heavy)
    for k, column in enumerate(columns[1:], 2):
        at_start.add_(column, alpha=d0[k] / heavy)
        at_end.add_(column, alpha=d1[k] / heavy)
    at_start.mul_(inverse)
    at_end.mul_(inverse)
    torch.sub(at_start[1:], at_end[:-1], out=v[1:-1])
    diagonal = torch.empty_like(v)
    torch.add(inverse[1:], inverse[:-1], out=diagonal[1:-1])
    first, last = 1, n - 1
    if kinds.left == "neumann":
        first = 0
        torch.sub(at_start[0], v[0], alpha=1 / heavy, out=v[0])
        diagonal[0] = inverse[0]
    if kinds.right == "neumann":
        last = n
        v[-1].div_(heavy).sub_(at_end[-1])
        diagonal[-1] = inverse[-1]
    side = torch.mul(inverse, (-1) ** order / heavy, out=at_start).unbind()
    rows, pivots, factor = v.unbind(), diagonal.unbind(), at_end[0]
    for i in range(first, last + 1):
        if i > first:
            torch.mul(side[i - 1], pivots[i - 1], out=factor)
            pivots[i].addcmul_(factor, side[i - 1], value=-1)
            rows[i].addcmul_(factor, rows[i - 1], value=-1)
        elif i > 0:
            rows[i].addcmul_(side[i - 1], rows[i - 1], value=-1)
        pivots[i].reciprocal_()
    for i in range(last, first - 1, -1):
        if i < n:
            rows[i].addcmul_(side[i], rows[i + 1], value=-1)
        rows[i].mul_(pivots[i])


def nodal_rows(data: Tensor, knots: Tensor, inverse: Tensor, order: int, kinds: Ends) -> Tensor:
    """Coefficients, rows first: (N r + 1, B)."""
    n = len(inverse)
    first, last = kinds.given
    y = data[:, first : data.shape[-1] - last]
    rows = data.new_empty(n * order + 1, len(data))
    points, v = rows[:-1].view(n, order, -1)[:, 1:], rows[::order]
    points.copy_(y.mT.view(n, order - 1, -1))
    for row, kind in ((0, kinds.left), (-1, kinds.right)):
        if kind == "free":
            cell = gauss(order).to(data)
            v[row] = end_values(y.reshape(len(y), n, order - 1), knots.diff(), cell, order, row == 0)
        else:
            v[row] = data[:, row]
    solve(points, inverse, v, order, kinds)
    return rows


def start_table(knots: Tensor, order: int) -> Tensor:
    """A table whose first two channels are filled."""
    n = knots.shape[-1] - 1
    # An odd number of cache lines a row: with a power of two all cells of a series fall into one set of the cache.
    width = 16 * (-(-len(knots) // 16) | 1)
    table = knots.new_empty(order + 3, depth(n), width)[..., : len(knots)]
    fill(table, knots)
    ends = table[2, :n].copy_(knots.mT[1:])
    torch.sub(ends, table[0, :n], out=table[1, :n]).reciprocal_()
    return table


def finish_table(table: Tensor, rows: Tensor, cells: int, order: int, stride: int) -> None:
    """The coefficients of every cell from its nodal values, rows[stride cell : stride cell + r + 1]."""
    step = rows.stride(0)
    u = rows.as_strided((order + 1, cells, rows.shape[1]), (step, stride * step, 1)).unbind()
    c = table[2:, :cells].unbind()
    for j, (left, right, slope_left, slope_right, _) in enumerate(pairs(order)):
        torch.mul(u[j], left, out=c[2 * j]).add_(u[order - j], alpha=right)
        torch.mul(u[j], slope_left, out=c[2 * j + 1]).add_(u[order - j], alpha=slope_right)
    if order % 2 == 0:
        torch.mul(u[order // 2], -gauss(order).weights[order // 2].item(), out=c[order])


def evaluate(table: Tensor, x: Tensor, y: Tensor, cells: int, order: int, at: Tensor | None) -> Tensor:
    """S at x (B, Q), or (Q), into y (B, Q).

    Returns: The room for places, for the next block.
    """
    series, queries = y.shape
    most = max(1, PIECE * torch.get_num_threads() // queries)
    # Pieces of one size; the last one begins earlier, and repeats a few series.
    count = -(-series // -(-series // most))
    shape = places_shape(count, queries)
    if at is None or at.shape[:-1] != shape:
        at = places(shape, y.dtype)
    shared = x.expand(count, queries).contiguous().view(shape) if x.dim() == 1 else None
    half = HALF[y.dtype]
    for i in range(0, series, count):
        i = min(i, series - count)
        out = y[i : i + count].view(shape)
        q = x[i : i + count].reshape(shape) if shared is None else shared
        search(table, q, at, cells, i, out)
        start, inverse, *c = sample(table, at, cells, i, 0, order + 3).unbind(1)
        t = torch.addcmul(half, torch.sub(q, start, out=start), inverse, out=start)
        blend(t, c, inverse, out, order)
    return at


def blend(t: Tensor, c: list[Tensor], z: Tensor, y: Tensor, order: int) -> None:
    """S from the places s in a cell and its r + 1 coefficients c, into y; c and z are overwritten."""
    torch.addcmul(QUARTER[t.dtype], t, t, value=-1, out=z)
    even = order % 2 == 0
    last = (order + 1) // 2 - 1
    # Pair by pair: their sum so far, and the product of their q.
    total, product = torch.addcmul(c[0], t, c[1], out=y if last == 0 and not even else c[0]), z
    for j, (*_, inner) in enumerate(pairs(order)[1:], 1):
        line, factor = torch.addcmul(c[2 * j], t, c[2 * j + 1], out=c[2 * j]), torch.rsub(z, inner)
        total.mul_(factor)
        total = torch.addcmul(total, product, line, out=y if j == last and not even else total)
        if even or j < last:
            product = factor.mul_(product)
    if even:
        total.mul_(t)
        torch.addcmul(total, product, c[order], out=y)


def blocks(series: int, cells: int, order: int) -> range:
    """The first series of every block whose table is made at once."""
    count = TABLE * torch.get_num_threads() // ((order + 3) * depth(cells))
    least = SERIES if cells <= LONGEST else 1
    most = min(ROWS, max(least, count))
    return range(0, series, max(1, -(-series // max(1, -(-series // most)))))


def flat(*tensors: Tensor) -> tuple[torch.Size, list[Tensor]]:
    """The batch that all broadcast to, and each (B, n) in the widest dtype; queries (Q) for all stay so, last."""
    batch = broadcast(*(t.shape[:-1] for t in tensors))
    dtype = functools.reduce(torch.promote_types, (t.dtype for t in tensors))
    wide = [t.detach().to(dtype) for t in tensors]
    return batch, [
        t if k == 2 and t.dim() == 1 else t.expand(*batch, t.shape[-1]).reshape(batch.numel(), t.shape[-1])
        for k, t in enumerate(wide)
    ]


def fit(data: Tensor, knots: Tensor, order: int, kinds: Ends) -> Tensor:
    """Coefficients (..., N r + 1) of data (..., size) on partitions (..., N + 1)."""
    n = knots.shape[-1] - 1
    batch, (d, p) = flat(data, knots)
    coeffs = data.new_empty(len(d), n * order + 1)
    starts = blocks(len(d), n, order)
    for i in starts:
        part = slice(i, i + starts.step)
        inverse = p[part].mT.contiguous().diff(dim=0).reciprocal_()
        coeffs[part] = nodal_rows(d[part], p[part], inverse, order, kinds).mT
    return coeffs.view(*batch, -1)


def values(nodal: Tensor, stride: int, knots: Tensor, x: Tensor, order: int) -> Tensor:
    """S(x), (..., Q), from the nodal values of every cell, nodal[..., stride cell : stride cell + r + 1]."""
    return _by_blocks(nodal, knots, x, order, stride, lambda u, p, inverse: u.mT.contiguous())


def interpolate(data: Tensor, knots: Tensor, x: Tensor, order: int, kinds: Ends) -> Tensor:
    """S(x), (..., Q), of data (..., size) on partitions (..., N + 1): the coefficients of one block at a time."""
    return _by_blocks(data, knots, x, order, order, lambda d, p, inverse: nodal_rows(d, p, inverse, order, kinds))


def _by_blocks(
    data: Tensor, knots: Tensor, x: Tensor, order: int, stride: int, rows: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """S(x), (..., Q); rows: nodal values, series last, of some series' data, knots and reciprocal widths."""
    n = knots.shape[-1] - 1
    batch, (d, p, q) = flat(data, knots, x)
    y = d.new_empty(len(d), q.shape[-1])
    starts, at = blocks(len(d), n, order), None
    for i in starts if y.numel() else ():
        part = slice(i, i + starts.step)
        table = start_table(p[part], order)
        finish_table(table, rows(d[part], p[part], table[1, :n]), n, order, stride)
        at = evaluate(table, q if q.dim() == 1 else q[part], y[part], n, order, at)
    return y.view(*batch, y.shape[-1]).to(data.dtype)
