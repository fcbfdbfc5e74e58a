"""The fused kernels: a tile of series is solved by scans along its knots, then every query looks its cell up.

The rows of the tridiagonal system are scaled to a unit diagonal; their pivots are q_i = 1 - beta_i / q_(i-1), a scan of
2 x 2 matrices, and both substitutions are scans of linear maps: no loop over cells, and rows are read as a whole. The
transposed system has the same pivots.
Shapes: as in fused.py; a tile is C unknowns, or W queries, of R series. Constants: K = r^2 - r + 1, S = (-1)^r.
"""

# Triton functions carry no types.
# mypy: disallow-untyped-defs=False, disallow-untyped-decorators=False, disallow-untyped-calls=False
# mypy: disallow-incomplete-defs=False

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

# Unknowns and queries in a tile of one warp: few, so that many warps hide each other's waits (docs/decisions/0007).
TILE, QUERIES = 64, 128
# The same for the gradient: unknowns of the transposed solve; series and queries of the sums over cells.
ADJOINT_TILE, SUM_SERIES, SUM_QUERIES = 128, 8, 256


def interpreted() -> bool:
    """Whether TRITON_INTERPRET=1 runs kernels on the CPU."""
    return bool(knobs.runtime.interpret)


@triton.jit
def compose_linear(a0, b0, a1, b1):
    """x -> a1 (a0 x + b0) + b1."""
    return a0 * a1, b0 * a1 + b1


@triton.jit
def compose_matrix(a0, b0, c0, d0, a1, b1, c1, d1):
    """The later matrix times the earlier one."""
    return a1 * a0 + b1 * c0, a1 * b0 + b1 * d0, c1 * a0 + d1 * c0, c1 * b0 + d1 * d0


@triton.jit
def width(knots, row, i, n, live):
    """h_i; 1 outside of the partition."""
    inside = live & (i >= 0) & (i < n)
    left = tl.load(knots + row + i, mask=inside, other=0.0)
    return tl.load(knots + row + i + 1, mask=inside, other=1.0) - left


@triton.jit
def lower_at(knots, row, i, n, live, S: tl.constexpr, K: tl.constexpr, RIGHT: tl.constexpr):
    """What row i of the scaled matrix has left of its diagonal."""
    hl, hr = width(knots, row, i - 1, n, live), width(knots, row, i, n, live)
    out = tl.where((i > 0) & (i < n), (S / K) * hr / (hl + hr), 0.0)
    return tl.where(i == n, (S / K) * RIGHT, out)


@triton.jit
def upper_at(knots, row, i, n, live, S: tl.constexpr, K: tl.constexpr, LEFT: tl.constexpr):
    """What row i of the scaled matrix has right of its diagonal."""
    hl, hr = width(knots, row, i - 1, n, live), width(knots, row, i, n, live)
    out = tl.where((i > 0) & (i < n), (S / K) * hl / (hl + hr), 0.0)
    return tl.where(i == 0, (S / K) * LEFT, out)


@triton.jit
def half_slope(data, table, row, i, n, live, WHICH: tl.constexpr, ORDER: tl.constexpr):
    """D0 . y_i (WHICH = 2) or D1 . y_i (WHICH = 3) over the inner nodes of cell i."""
    inside = live & (i >= 0) & (i < n)
    total = tl.load(data + row + i * (ORDER - 1) + 1, mask=inside, other=0.0)
    total = total * tl.load(table + WHICH * (ORDER + 1) + 1)
    for k in tl.static_range(2, ORDER):
        y = tl.load(data + row + i * (ORDER - 1) + k, mask=inside, other=0.0)
        total += y * tl.load(table + WHICH * (ORDER + 1) + k)
    return total


@triton.jit
def pivots(low, up_before):
    """q_i = 1 - low_i up_(i-1) / q_(i-1)."""
    one = tl.full(low.shape, 1.0, low.dtype)
    beta = low * up_before
    # Where the chain starts or is cut, the matrix forgets what came before: q = 1.
    a, b, c, d = tl.associative_scan((one, -beta, one, tl.zeros_like(one)), 0, compose_matrix)
    return (a + b) / (c + d)


@triton.jit
def substitute(low, up, q, rhs):
    """x of the tridiagonal system with a unit diagonal."""
    inverse = 1.0 / q
    _, z = tl.associative_scan((-low * inverse, rhs * inverse), 0, compose_linear)
    _, x = tl.associative_scan((-up * inverse, z), 0, compose_linear, reverse=True)
    return x


@triton.jit
def find(knots, row, x, n, live, STEPS: tl.constexpr):
    """The cell of x by bisection, the right one at a knot; its start, its width."""
    low, high = tl.zeros(x.shape, tl.int32), tl.zeros(x.shape, tl.int32) + (n - 1)
    for _ in tl.static_range(STEPS):
        middle = (low + high + 1) // 2
        right = tl.load(knots + row + middle, mask=live, other=0.0) <= x
        low = tl.where(right, middle, low)
        high = tl.where(right, high, middle - 1)
    start = tl.load(knots + row + low, mask=live, other=0.0)
    return low, start, tl.load(knots + row + low + 1, mask=live, other=1.0) - start


@triton.jit
def basis(s, table, node: tl.constexpr, ORDER: tl.constexpr, TIMES: tl.constexpr):
    """A derivative of the basis function of a node, in the local coordinate."""
    p = tl.zeros(s.shape, s.dtype) + tl.load(table + ORDER + 1 + node)
    p1, p2 = tl.zeros_like(p), tl.zeros_like(p)
    for j in tl.static_range(ORDER + 1):
        if j != node:
            f = s - tl.load(table + j)
            p2 = p2 * f + 2 * p1
            p1 = p1 * f + p
            p = p * f
    if TIMES == 1:
        p = p1
    if TIMES == 2:
        p = p2
    return p


@triton.jit
def interpolant(s, table, data, v, row, v_row, cell, live, ORDER: tl.constexpr, TIMES: tl.constexpr):
    """The derivatives TIMES and TIMES + 1 of the polynomial of every query's cell, in the local coordinate.

    With p the product of the factors s - s_j so far and t the sum over the nodes so far, a node of weighted value a
    makes t (s - s_k) + a p of t: one pass. The numbered ones are their derivatives.
    """
    zero = tl.zeros(s.shape, s.dtype)
    p, p1, p2, p3, t, t1, t2, t3 = zero + 1.0, zero, zero, zero, zero, zero, zero, zero
    for k in tl.static_range(ORDER + 1):
        f = s - tl.load(table + k)
        a = coefficient(data, v, row, v_row, cell, live, k, ORDER) * tl.load(table + ORDER + 1 + k)
        t3 = t3 * f + 3 * t2 + a * p3
        t2 = t2 * f + 2 * t1 + a * p2
        t1 = t1 * f + t + a * p1
        t = t * f + a * p
        p3 = p3 * f + 3 * p2
        p2 = p2 * f + 2 * p1
        p1 = p1 * f + p
        p = p * f
    if TIMES == 0:
        out = t, t1
    elif TIMES == 1:
        out = t1, t2
    else:
        out = t2, t3
    return out


@triton.jit
def coefficient(data, v, row, v_row, cell, live, node: tl.constexpr, ORDER: tl.constexpr):
    """The value at a node of a cell."""
    if node == 0:
        out = tl.load(v + v_row + cell, mask=live, other=0.0)
    elif node == ORDER:
        out = tl.load(v + v_row + cell + 1, mask=live, other=0.0)
    else:
        out = tl.load(data + row + cell * (ORDER - 1) + node, mask=live, other=0.0)
    return out


@triton.jit
def forward_kernel(
    data, knots, x, table, y, v, series, n, queries, size, knots_stride, x_stride,
    ORDER: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr, TIMES: tl.constexpr, STEPS: tl.constexpr,
    R: tl.constexpr, C: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """v of every series of the tile, then S(x)."""
    K: tl.constexpr = ORDER * ORDER - ORDER + 1
    S: tl.constexpr = 1 - 2 * (ORDER % 2)
    b = tl.program_id(0) * R + tl.arange(0, R)[None, :]
    # A value that is given is no unknown.
    i = tl.arange(0, C)[:, None] + (1 - LEFT)
    live = (b < series) & (i < n + RIGHT)
    row, knots_row = b * size, b * knots_stride
    hl, hr = width(knots, knots_row, i - 1, n, live), width(knots, knots_row, i, n, live)
    at_start = half_slope(data, table, row, i, n, live, 2, ORDER)
    at_end = half_slope(data, table, row, i - 1, n, live, 3, ORDER)
    share = 1.0 / (K * (hl + hr))
    low, up = tl.where(i > 0, S * hr * share, 0.0), S * hl * share
    rhs = (at_start * hl - at_end * hr) * share
    left = tl.load(data + row + 0 * i, mask=live & (i <= 1), other=0.0)
    right = tl.load(data + row + size - 1 + 0 * i, mask=live & (i >= n - 1), other=0.0)
    if LEFT:
        up = tl.where(i == 0, S / K, up)
        rhs = tl.where(i == 0, (at_start - left * hr) / K, rhs)
    else:
        rhs = tl.where(i == 1, rhs - low * left, rhs)
        tl.store(v + b * (n + 1), tl.load(data + row, mask=b < series, other=0.0), mask=b < series)
    if RIGHT:
        low = tl.where(i == n, S / K, low)
        rhs = tl.where(i == n, (right * hl - at_end) / K, rhs)
    else:
        rhs = tl.where(i == n - 1, rhs - up * right, rhs)
        tl.store(v + b * (n + 1) + n, tl.load(data + row + size - 1, mask=b < series, other=0.0), mask=b < series)
    rhs = tl.where(live, rhs, 0.0)
    low = tl.where(live, low, 0.0)
    up_before = upper_at(knots, knots_row, i - 1, n, live, S, K, LEFT)
    q = pivots(low, up_before)
    tl.store(v + b * (n + 1) + i, substitute(low, tl.where(live & (i < n - 1 + RIGHT), up, 0.0), q, rhs), mask=live)
    # What follows reads neighbours' values.
    tl.debug_barrier()
    b = tl.program_id(0) * R + tl.arange(0, R)[:, None]
    row, knots_row = b * size, b * knots_stride
    for first in range(0, queries, W):
        j = first + tl.arange(0, W)[None, :]
        here = (b < series) & (j < queries)
        at = tl.load(x + b * x_stride + j, mask=here, other=0.0)
        cell, start, h = find(knots, knots_row, at, n, here, STEPS)
        s = (at - start) / h
        total, _ = interpolant(s, table, data, v, row, b * (n + 1), cell, here, ORDER, TIMES)
        if TIMES >= 1:
            total = total / h
        if TIMES == 2:
            total = total / h
        tl.store(y + b * queries + j, total, mask=here)


@triton.jit
def cells_kernel(
    g, data, knots, x, table, v, d_x, sums, series, n, queries, size, knots_stride, x_stride,
    ORDER: tl.constexpr, TIMES: tl.constexpr, STEPS: tl.constexpr, R: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """d_x, and for every cell the sums over its queries that the other gradients are made of: (N, r + 3, B).

    The program that owns a series adds to its sums, piece of queries by piece: always in the same order.
    """
    b = tl.program_id(0) * R + tl.arange(0, R)[None, :]
    live = b < series
    row, knots_row = b * size, b * knots_stride
    for first in range(0, queries, W):
        j = first + tl.arange(0, W)[:, None]
        here = live & (j < queries)
        at = tl.load(x + b * x_stride + j, mask=here, other=0.0)
        dy = tl.load(g + b * queries + j, mask=here, other=0.0)
        cell, start, h = find(knots, knots_row, at, n, here, STEPS)
        s = (at - start) / h
        if TIMES >= 1:
            dy = dy / h
        if TIMES == 2:
            dy = dy / h
        value, slope = interpolant(s, table, data, v, row, b * (n + 1), cell, here, ORDER, TIMES)
        slope = dy * slope / h
        tl.store(d_x + b * queries + j, slope, mask=here)
        stretch = TIMES * dy * value / h
        at_start, at_end = slope * (s - 1.0) + stretch, -slope * s - stretch
        for k in tl.static_range(ORDER + 3):
            if k <= ORDER:
                part = dy * basis(s, table, k, ORDER, TIMES)
            elif k == ORDER + 1:
                part = at_start
            else:
                part = at_end
            part = tl.where(here, part, 0.0)
            for i in range(n):
                out = sums + (i * (ORDER + 3) + k) * series + b
                mine = tl.sum(tl.where(cell == i, part, 0.0), 0, keep_dims=True)
                tl.store(out, tl.load(out, mask=live, other=0.0) + mine, mask=live)


@triton.jit
def width_gradient(
    data, knots, table, v, mu, row, knots_row, v_row, i, n, live, S: tl.constexpr, K: tl.constexpr, ORDER: tl.constexpr
):
    """The gradient of h_i that the C1 equations of its two knots carry."""
    inside = live & (i >= 0) & (i < n)
    h = width(knots, knots_row, i, n, live)
    v0 = tl.load(v + v_row + i, mask=inside, other=0.0)
    v1 = tl.load(v + v_row + i + 1, mask=inside, other=0.0)
    m0 = tl.load(mu + v_row + i, mask=inside, other=0.0)
    m1 = tl.load(mu + v_row + i + 1, mask=inside, other=0.0)
    from_start = K * v0 + S * v1 - half_slope(data, table, row, i, n, live, 2, ORDER)
    from_end = S * v0 + K * v1 + half_slope(data, table, row, i, n, live, 3, ORDER)
    return (m0 * from_start + m1 * from_end) / (h * h)


@triton.jit
def adjoint_kernel(
    data, knots, table, v, sums, mu, d_data, d_knots, series, n, size, knots_stride,
    ORDER: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """The transposed solve, and from it the gradients of data and knots."""
    K: tl.constexpr = ORDER * ORDER - ORDER + 1
    S: tl.constexpr = 1 - 2 * (ORDER % 2)
    b = tl.program_id(0) * R + tl.arange(0, R)[None, :]
    i = tl.arange(0, C)[:, None]
    live = (b < series) & (i <= n)
    inside = live & (i < n)
    row, knots_row, v_row = b * size, b * knots_stride, b * (n + 1)
    cell_sums = sums + i * (ORDER + 3) * series + b
    rhs = tl.load(cell_sums, mask=inside, other=0.0)
    rhs += tl.load(cell_sums - 3 * series, mask=live & (i > 0), other=0.0)
    before = upper_at(knots, knots_row, i - 1, n, live, S, K, LEFT)
    before = tl.where(i > 0, before, 0.0)
    after = tl.where(i < n, lower_at(knots, knots_row, i + 1, n, live, S, K, RIGHT), 0.0)
    q = pivots(lower_at(knots, knots_row, i, n, live, S, K, RIGHT), before)
    x = substitute(before, after, q, rhs)
    hl, hr = width(knots, knots_row, i - 1, n, live), width(knots, knots_row, i, n, live)
    m = tl.where((i > 0) & (i < n), x * hl * hr / (hl + hr) / K, 0.0)
    if LEFT:
        m = tl.where(i == 0, x * hr / K, m)
    if RIGHT:
        m = tl.where(i == n, x * hl / K, m)
    tl.store(mu + v_row + i, m, mask=live)
    tl.store(d_data + row + 0 * i, -m if LEFT else x, mask=live & (i == 0))
    tl.store(d_data + row + size - 1 + 0 * i, m if RIGHT else x, mask=live & (i == n))
    tl.debug_barrier()
    m_end = tl.load(mu + v_row + i + 1, mask=inside, other=0.0)
    for k in tl.static_range(1, ORDER):
        direct = tl.load(cell_sums + k * series, mask=inside, other=0.0)
        through = m * tl.load(table + 2 * (ORDER + 1) + k) - m_end * tl.load(table + 3 * (ORDER + 1) + k)
        tl.store(d_data + row + i * (ORDER - 1) + k, direct + through / hr, mask=inside)
    total = width_gradient(data, knots, table, v, mu, row, knots_row, v_row, i - 1, n, live, S, K, ORDER)
    total -= width_gradient(data, knots, table, v, mu, row, knots_row, v_row, i, n, live, S, K, ORDER)
    total += tl.load(cell_sums + (ORDER + 1) * series, mask=inside, other=0.0)
    total += tl.load(cell_sums - series, mask=live & (i > 0), other=0.0)
    tl.store(d_knots + v_row + i, total, mask=live)


def tile(unknowns: int, size: int) -> tuple[int, int]:
    """R and C: as many series as fit into a tile with all their unknowns."""
    c = max(2, triton.next_power_of_2(unknowns))
    return max(1, min(32, size // c)), c


def stride(x: Tensor) -> int:
    """0 where one row serves all series."""
    return 0 if x.shape[0] == 1 else x.shape[1]


def launch_forward(
    data: Tensor, knots: Tensor, x: Tensor, table: Tensor, y: Tensor, v: Tensor, order: int, left: bool, right: bool,
    times: int,
) -> None:  # fmt: skip
    """Write y and v."""
    n, series = knots.shape[1] - 1, data.shape[0]
    if series == 0:
        return
    r, c = tile(n - 1 + left + right, TILE)
    forward_kernel[(triton.cdiv(series, r),)](
        data, knots, x, table, y, v, series, n, x.shape[1], data.shape[1], stride(knots), stride(x),
        ORDER=order, LEFT=int(left), RIGHT=int(right), TIMES=times, STEPS=(n - 1).bit_length(), R=r, C=c,
        W=QUERIES // r, num_warps=1,
    )  # fmt: skip


def launch_backward(
    g: Tensor, data: Tensor, knots: Tensor, x: Tensor, v: Tensor, table: Tensor, outputs: tuple[Tensor, Tensor, Tensor],
    order: int, left: bool, right: bool, times: int,
) -> None:  # fmt: skip
    """Write the gradients of data, knots and x."""
    d_data, d_knots, d_x = outputs
    n, series, queries = knots.shape[1] - 1, data.shape[0], x.shape[1]
    if series == 0:
        return
    sums = torch.zeros(n, order + 3, series, dtype=data.dtype, device=data.device)
    cells_kernel[(triton.cdiv(series, SUM_SERIES),)](
        g, data, knots, x, table, v, d_x, sums, series, n, queries, data.shape[1], stride(knots), stride(x),
        ORDER=order, TIMES=times, STEPS=(n - 1).bit_length(), R=SUM_SERIES,
        W=SUM_QUERIES // SUM_SERIES, num_warps=1,
    )  # fmt: skip
    r, c = tile(n + 1, ADJOINT_TILE)
    adjoint_kernel[(triton.cdiv(series, r),)](
        data, knots, table, v, sums, torch.empty_like(v), d_data, d_knots, series, n, data.shape[1], stride(knots),
        ORDER=order, LEFT=int(left), RIGHT=int(right), R=r, C=c, num_warps=1,
    )  # fmt: skip
