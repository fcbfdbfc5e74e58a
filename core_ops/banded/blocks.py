"""Elimination of an almost-block-diagonal matrix, block after block, with partial pivoting in every panel.

Shapes: N blocks of s rows on s + o columns; m rows on top and o - m at the bottom, on o columns; n = N s + o unknowns;
k right-hand sides. The m rows that a panel of m + s rows leaves over go on to the next block.
"""

from typing import Any

import torch
from torch import Tensor
from torch.linalg import solve_triangular

from .batch import broadcast


@torch.library.custom_op("farfield::blocks_factor", mutates_args=())
def factor(top: Tensor, blocks: Tensor, bottom: Tensor) -> list[Tensor]:
    """P, L, U and the columns right of U of every block, then P, L, U of the last o rows."""
    m, o = top.shape[-2:]
    count, s = blocks.shape[-3:-1]
    carried = top
    panels: list[tuple[Tensor, ...]] = []
    for i in range(count):
        work = torch.cat([torch.nn.functional.pad(carried, (0, s)), blocks[..., i, :, :]], -2)
        p, low, up = torch.linalg.lu(work[..., :s])
        right = p.mT @ work[..., s:]
        right_up = solve_triangular(low[..., :s, :], right[..., :s, :], upper=False, unitriangular=True)
        carried = right[..., s:, :] - low[..., s:, :] @ right_up
        panels.append((p, low, up, right_up))
    last = torch.linalg.lu(torch.cat([carried, bottom], -2))
    batch = top.shape[:-2]
    if panels:
        stacked = [torch.stack(part, -3) for part in zip(*panels, strict=True)]
    else:
        stacked = [top.new_empty(*batch, 0, a, b) for a, b in ((m + s, m + s), (m + s, s), (s, s), (s, o))]
    return [*stacked, *(x.contiguous() for x in last)]


@factor.register_fake
def _(top: Tensor, blocks: Tensor, bottom: Tensor) -> list[Tensor]:
    m, o = top.shape[-2:]
    count, s = blocks.shape[-3:-1]
    shapes = [(count, m + s, m + s), (count, m + s, s), (count, s, s), (count, s, o), (o, o), (o, o), (o, o)]
    return [top.new_empty(*top.shape[:-2], *shape) for shape in shapes]


def substitute(factors: list[Tensor], rhs: Tensor, m: int) -> Tensor:
    """x of A x = rhs; rhs (..., n, k) with all batch dimensions."""
    p, low, up, right, p_last, low_last, up_last = factors
    count, s = up.shape[-3], up.shape[-1]
    carried, ys = rhs[..., :m, :], []
    for i in range(count):
        work = torch.cat([carried, rhs[..., m + i * s : m + (i + 1) * s, :]], -2)
        work = p[..., i, :, :].mT @ work
        y = solve_triangular(low[..., i, :s, :], work[..., :s, :], upper=False, unitriangular=True)
        carried = work[..., s:, :] - low[..., i, s:, :] @ y
        ys.append(y)
    work = p_last.mT @ torch.cat([carried, rhs[..., m + count * s :, :]], -2)
    after = solve_triangular(up_last, solve_triangular(low_last, work, upper=False, unitriangular=True), upper=True)
    o = after.shape[-2]
    xs = [after]
    for i in reversed(range(count)):
        x = solve_triangular(up[..., i, :, :], ys[i] - right[..., i, :, :] @ after, upper=True)
        after = torch.cat([x, after], -2)[..., :o, :]
        xs.append(x)
    return torch.cat(xs[::-1], -2)


def substitute_transposed(factors: list[Tensor], rhs: Tensor, m: int) -> Tensor:
    """x of A^T x = rhs; rhs (..., n, k) with all batch dimensions."""
    p, low, up, right, p_last, low_last, up_last = factors
    count, s, o = up.shape[-3], up.shape[-1], right.shape[-1]
    # What the blocks so far take from the next o columns.
    taken, zs = torch.zeros_like(rhs[..., :o, :]), []
    for i in range(count):
        columns = torch.cat([taken, torch.zeros_like(rhs[..., :s, :])], -2)
        z = solve_triangular(up[..., i, :, :].mT, rhs[..., i * s : (i + 1) * s, :] - columns[..., :s, :], upper=False)
        taken = columns[..., s:, :] + right[..., i, :, :].mT @ z
        zs.append(z)
    z = solve_triangular(up_last.mT, rhs[..., count * s :, :] - taken, upper=False)
    rows = p_last @ solve_triangular(low_last.mT, z, upper=True, unitriangular=True)
    carried, parts = rows[..., :m, :], [rows[..., m:, :]]
    for i in reversed(range(count)):
        head = zs[i] - low[..., i, s:, :].mT @ carried
        head = solve_triangular(low[..., i, :s, :].mT, head, upper=True, unitriangular=True)
        rows = p[..., i, :, :] @ torch.cat([head, carried], -2)
        carried = rows[..., :m, :]
        parts.append(rows[..., m:, :])
    return torch.cat([carried, *parts[::-1]], -2)


@torch.library.custom_op("farfield::blocks_solve", mutates_args=())
def solve(top: Tensor, blocks: Tensor, bottom: Tensor, rhs: Tensor, factors: list[Tensor], transposed: bool) -> Tensor:
    """x of A x = rhs or A^T x = rhs; factors are those of A."""
    batch = broadcast(top.shape[:-2], rhs.shape[:-2])
    rhs = rhs.expand(*batch, *rhs.shape[-2:])
    substituted = substitute_transposed if transposed else substitute
    return substituted(factors, rhs, top.shape[-2]).contiguous()


@solve.register_fake
def _(top: Tensor, blocks: Tensor, bottom: Tensor, rhs: Tensor, factors: list[Tensor], transposed: bool) -> Tensor:
    batch = broadcast(top.shape[:-2], rhs.shape[:-2])
    return rhs.new_empty(*batch, *rhs.shape[-2:])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    top, blocks, bottom, rhs, factors, ctx.transposed = inputs
    ctx.rhs_shape = rhs.shape
    ctx.save_for_backward(top, blocks, bottom, output, *factors)


def _backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    top, blocks, bottom, x, *factors = ctx.saved_tensors
    adjoint = solve(top, blocks, bottom, g, factors, not ctx.transposed)
    d_rhs = adjoint.sum_to_size(ctx.rhs_shape) if ctx.needs_input_grad[3] else None
    d_top = d_blocks = d_bottom = None
    if any(ctx.needs_input_grad[:3]):
        rows, columns = (x, adjoint) if ctx.transposed else (adjoint, x)
        m, o = top.shape[-2:]
        count, s = blocks.shape[-3:-1]
        d_top = -(rows[..., :m, :] @ columns[..., :o, :].mT).sum_to_size(top.shape)
        d_bottom = -(rows[..., m + count * s :, :] @ columns[..., count * s :, :].mT).sum_to_size(bottom.shape)
        d_blocks = torch.zeros_like(blocks)
        if count:
            block_rows = rows[..., m : m + count * s, :].unflatten(-2, (count, s))
            # (..., count, k, s + o): the columns of every block.
            windows = columns.unfold(-2, s + o, s)
            d_blocks = -(block_rows @ windows).sum_to_size(blocks.shape)
    return d_top, d_blocks, d_bottom, d_rhs, [None] * len(factors), None


solve.register_autograd(_backward, setup_context=_setup)
