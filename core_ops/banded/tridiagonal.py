"""tridiagonal_solve: elimination without pivoting, along the rows or all rows at once.

Shapes: n unknowns; inside, rows come first: lower, upper (n - 1, ...), diag, rhs, x (n, ...), systems contiguous.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DtypeError, ShapeError
from .batch import broadcast

# Systems times log2(n) up to which reducing all rows at once beats n steps over the batch (measured, one core).
REDUCTION_SYSTEMS = 2048


def eliminate(lower: Tensor, diag: Tensor, upper: Tensor, rhs: Tensor) -> Tensor:
    """Thomas' algorithm, one row after the other, all systems at once."""
    n = len(diag)
    x = rhs.clone(memory_format=torch.contiguous_format)
    inverse = torch.empty_like(diag, memory_format=torch.contiguous_format)
    torch.reciprocal(diag[0], out=inverse[0])
    for i in range(1, n):
        factor = lower[i - 1] * inverse[i - 1]
        torch.addcmul(diag[i], factor, upper[i - 1], value=-1, out=inverse[i]).reciprocal_()
        x[i].addcmul_(factor, x[i - 1], value=-1)
    x[n - 1].mul_(inverse[n - 1])
    for i in range(n - 2, -1, -1):
        x[i].addcmul_(upper[i], x[i + 1], value=-1).mul_(inverse[i])
    return x


def shift(x: Tensor, rows: int, fill: float = 0.0) -> Tensor:
    """y[i] = x[i - rows], `fill` where x has no such row."""
    outside = torch.full_like(x[: abs(rows)], fill)
    return torch.cat([outside, x[:-rows]] if rows > 0 else [x[-rows:], outside])


def reduce(lower: Tensor, diag: Tensor, upper: Tensor, rhs: Tensor) -> Tensor:
    """Parallel cyclic reduction: in log2(n) steps every row loses its neighbours."""
    n = len(diag)
    below, above = torch.cat([torch.zeros_like(diag[:1]), lower]), torch.cat([upper, torch.zeros_like(diag[:1])])
    stride = 1
    while stride < n:
        # Rows outside the matrix are identity rows.
        alpha, gamma = -below / shift(diag, stride, 1.0), -above / shift(diag, -stride, 1.0)
        diag = diag + alpha * shift(above, stride) + gamma * shift(below, -stride)
        rhs = rhs + alpha * shift(rhs, stride) + gamma * shift(rhs, -stride)
        below, above = alpha * shift(below, stride), gamma * shift(above, -stride)
        stride *= 2
    return rhs / diag


@torch.library.custom_op("farfield::tridiagonal_solve", mutates_args=())
def solve(lower: Tensor, diag: Tensor, upper: Tensor, rhs: Tensor) -> Tensor:
    """x of systems whose rows come first: lower and upper (n - 1, ...), diag and rhs (n, ...), all of one rank.

    Only rhs may have batch dimensions that the matrix has not. Returns: (n, ...).
    """
    n = len(diag)
    shape = broadcast(diag.shape, rhs.shape)
    rhs = rhs.expand(shape)
    if rhs.is_cuda or shape[1:].numel() * n.bit_length() <= REDUCTION_SYSTEMS:
        return reduce(lower, diag, upper, rhs).contiguous()
    return eliminate(lower.contiguous(), diag.contiguous(), upper.contiguous(), rhs)


@solve.register_fake
def _(lower: Tensor, diag: Tensor, upper: Tensor, rhs: Tensor) -> Tensor:
    return rhs.new_empty(broadcast(diag.shape, rhs.shape))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    lower, diag, upper, rhs = inputs
    ctx.save_for_backward(lower, diag, upper, output)
    ctx.rhs_shape = rhs.shape


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    lower, diag, upper, x = ctx.saved_tensors
    need = ctx.needs_input_grad
    # The same solve with the transposed matrix.
    adjoint = solve(upper, diag, lower, g)
    d_lower = -(adjoint[1:] * x[:-1]).sum_to_size(lower.shape) if need[0] else None
    d_diag = -(adjoint * x).sum_to_size(diag.shape) if need[1] else None
    d_upper = -(adjoint[:-1] * x[1:]).sum_to_size(upper.shape) if need[2] else None
    d_rhs = adjoint.sum_to_size(ctx.rhs_shape) if need[3] else None
    return d_lower, d_diag, d_upper, d_rhs


solve.register_autograd(_backward, setup_context=_setup)


def rows_first(x: Tensor, rank: int) -> Tensor:
    """(..., n) as (n, ...) of a rank, so that batch dimensions broadcast behind the rows."""
    return x.reshape(*(1,) * (rank - x.dim()), *x.shape).movedim(-1, 0)


def tridiagonal_solve(
    lower: Float[Tensor, "*#b m"],
    diag: Float[Tensor, "*#b n"],
    upper: Float[Tensor, "*#b m"],
    rhs: Float[Tensor, "*#b n"],
) -> Float[Tensor, "*b n"]:
    """Solve lower[i-1] x[i-1] + diag[i] x[i] + upper[i] x[i+1] = rhs[i], without pivoting.

    For matrices that are diagonally dominant (by rows or columns) or symmetric positive definite; others go to
    `banded_solve`, which pivots.

    Args:
        lower: Below the diagonal (..., n - 1). diag: (..., n). upper: Above it (..., n - 1).
        rhs: (..., n); batch dimensions broadcast, so that one matrix serves many right-hand sides. float32 or float64.
    Returns: x (..., n). Differentiable to any order in all four; the gradient is the solve with the transpose.
    Raises: ShapeError: lengths or batches do not fit. DtypeError: dtypes differ, or are neither float32 nor float64.
    Complexity: O(n) a system; few long systems are reduced in log2(n) steps over all rows, O(n log n).
    Source: Thomas 1949; Hockney and Jesshope 1981 (parallel cyclic reduction).
    """
    named = {"lower": lower, "diag": diag, "upper": upper, "rhs": rhs}
    for name, t in named.items():
        if t.dim() < 1:
            raise ShapeError(f"tridiagonal_solve: {name} is a scalar; needed: its rows as last dimension.")
        if t.dtype != diag.dtype or t.dtype not in (torch.float32, torch.float64) or t.device != diag.device:
            raise DtypeError(
                f"tridiagonal_solve: {name} is {t.dtype} on {t.device}, diag is {diag.dtype} on {diag.device};"
                " needed: all float32 or all float64, on one device."
            )
    n = diag.shape[-1]
    if n < 1 or (lower.shape[-1], upper.shape[-1], rhs.shape[-1]) != (n - 1, n - 1, n):
        got = ", ".join(f"{k} {tuple(x.shape)}" for k, x in named.items())
        raise ShapeError(f"tridiagonal_solve: {got}; needed: n - 1, n, n - 1 and n as last dimensions, n >= 1.")
    try:
        matrix = broadcast(*(x.shape[:-1] for x in (lower, diag, upper)))
        broadcast(matrix, rhs.shape[:-1])
    except RuntimeError as e:
        got = ", ".join(f"{k} {tuple(x.shape)}" for k, x in named.items())
        raise ShapeError(f"tridiagonal_solve: {got}; their batch dimensions do not broadcast.") from e
    # The operator broadcasts between matrix and right-hand side only.
    wide = (lower.expand(*matrix, n - 1), diag.expand(*matrix, n), upper.expand(*matrix, n - 1), rhs)
    rank = max(len(matrix) + 1, rhs.dim())
    x: Tensor = solve(*(rows_first(t, rank) for t in wide))
    return x.movedim(0, -1)
