"""The public banded and almost-block-diagonal solves: checks, and a band as blocks.

Shapes: n unknowns, k right-hand sides; a band of l diagonals below and u above; N blocks of s rows on s + o columns.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DomainError, DtypeError, ShapeError
from . import blocks as panels
from .batch import broadcast

# Rows of a panel when a band is cut into blocks: enough work for one call of LAPACK.
PANEL = 16


def solve_blocks(what: str, top: Tensor, blocks: Tensor, bottom: Tensor, rhs: Tensor) -> Tensor:
    """Factor once, solve; rhs (..., n) or (..., n, k) by `almost_block_diagonal_solve`'s rule."""
    with torch.no_grad():
        factors = panels.factor(top.detach(), blocks.detach(), bottom.detach())
        # On a GPU the look would wait for the device; there a singular matrix gives inf or NaN.
        if not (top.is_cuda or torch.compiler.is_compiling()):
            pivots = torch.cat([factors[2].diagonal(0, -2, -1).flatten(), factors[6].diagonal(0, -2, -1).flatten()])
            if not bool((pivots.isfinite() & (pivots != 0)).all()):
                raise DomainError(
                    f"{what}: the matrix is singular or not finite; look for an empty row or a NaN in it."
                )
    x: Tensor = panels.solve(top, blocks, bottom, rhs, factors, False)
    return x


def check_dtypes(what: str, **tensors: Tensor) -> None:
    """All float32 or all float64, on one device."""
    first_name, first = next(iter(tensors.items()))
    for name, x in tensors.items():
        if x.dtype != first.dtype or x.dtype not in (torch.float32, torch.float64) or x.device != first.device:
            raise DtypeError(
                f"{what}: {name} is {x.dtype} on {x.device}, {first_name} is {first.dtype} on {first.device};"
                " needed: all float32 or all float64, on one device."
            )


def check_batch(what: str, **tensors: tuple[Tensor, int]) -> torch.Size:
    """The batch that all tensors, each less its last dimensions, broadcast to."""
    try:
        return broadcast(*(x.shape[: x.dim() - last] for x, last in tensors.values()))
    except RuntimeError as e:
        got = ", ".join(f"{name} {tuple(x.shape)}" for name, (x, _) in tensors.items())
        raise ShapeError(f"{what}: {got}; their batch dimensions do not broadcast.") from e


def almost_block_diagonal_solve(
    top: Float[Tensor, "*#b m o"],
    blocks: Float[Tensor, "*#b count s w"],
    bottom: Float[Tensor, "*#b p o"],
    rhs: Float[Tensor, "*#b n k"],
) -> Float[Tensor, "*b n k"]:
    """Solve A x = rhs where A is almost block diagonal: COLROW's form, with partial pivoting.

        top                      m rows on the first o columns
        blocks[i]                s rows on the s + o columns from i s on
        bottom                   o - m rows on the last o columns

    Args:
        top: (..., m, o), 0 <= m <= o. blocks: (..., N, s, s + o), N >= 0, s >= 1. bottom: (..., o - m, o).
        rhs: (..., N s + o, k). Batch dimensions broadcast. float32 or float64.
    Returns: x (..., N s + o, k). Differentiable to any order in all four; the gradient reuses the factors, transposed.
    Raises: ShapeError, DtypeError: what arrived, what is accepted. DomainError: A is singular (not looked at on a GPU,
        where the result is inf or NaN).
    Complexity: O(N (m + s)^2 (s + o) + N (m + s) (s + o) k) time, O(N (m + s) (s + o)) memory.
    Source: Diaz, Fairweather, Keast 1983, ACM TOMS 9, "COLROW": the same matrices; here rows are exchanged within
        panels of m + s rows, and the fill-in that COLROW's alternating exchanges avoid stays inside the panel.
    """
    what = "almost_block_diagonal_solve"
    given = {"top": top, "blocks": blocks, "bottom": bottom, "rhs": rhs}
    got = ", ".join(f"{name} {tuple(x.shape)}" for name, x in given.items())
    if top.dim() < 2 or blocks.dim() < 3 or bottom.dim() < 2 or rhs.dim() < 2:
        raise ShapeError(f"{what}: {got}; needed: (..., m, o), (..., N, s, s + o), (..., o - m, o), (..., n, k).")
    check_dtypes(what, **given)
    m, o = top.shape[-2:]
    count, s, width = blocks.shape[-3:]
    if m > o or o < 1 or s < 1 or width != s + o or tuple(bottom.shape[-2:]) != (o - m, o):
        raise ShapeError(f"{what}: {got}; needed: top (m, o), blocks (N, s, s + o), bottom (o - m, o), o >= m.")
    if rhs.shape[-2] != count * s + o:
        raise ShapeError(f"{what}: rhs has {rhs.shape[-2]} rows; needed: N s + o = {count * s + o}.")
    check_batch(what, top=(top, 2), blocks=(blocks, 3), bottom=(bottom, 2), rhs=(rhs, 2))
    batch = check_batch(what, top=(top, 2), blocks=(blocks, 3), bottom=(bottom, 2))
    top, bottom = top.expand(*batch, m, o), bottom.expand(*batch, o - m, o)
    return solve_blocks(what, top, blocks.expand(*batch, count, s, width), bottom, rhs)


def banded_solve(
    bands: Float[Tensor, "*#b d n"], rhs: Float[Tensor, "*#b n k"], lower: int, upper: int
) -> Float[Tensor, "*b n k"]:
    """Solve A x = rhs for a banded A, A[i, j] = bands[upper + i - j, j], with partial pivoting.

    Args:
        bands: (..., lower + upper + 1, n), the diagonals as rows, the highest first: scipy.linalg.solve_banded's
            layout. What lies outside the matrix is not read.
        rhs: (..., n, k). Batch dimensions broadcast. float32 or float64.
        lower, upper: Diagonals below and above the main one.
    Returns: x (..., n, k). Differentiable to any order in bands and rhs.
    Raises: ShapeError, DtypeError: what arrived, what is accepted. DomainError: A is singular (not looked at on a GPU).
    Complexity: O(n (lower + upper)(lower + k)) time.
    Source: Golub and Van Loan, Matrix Computations, section 4.3; in panels, as almost_block_diagonal_solve.
    """
    what = "banded_solve"
    if bands.dim() < 2 or rhs.dim() < 2:
        raise ShapeError(
            f"{what}: bands {tuple(bands.shape)}, rhs {tuple(rhs.shape)}; needed: (..., d, n), (..., n, k)."
        )
    n = bands.shape[-1]
    if lower < 0 or upper < 0 or bands.shape[-2] != lower + upper + 1 or n < 1:
        raise ShapeError(
            f"{what}: bands {tuple(bands.shape)}, lower={lower}, upper={upper}; needed: lower + upper + 1 rows, n >= 1."
        )
    if rhs.shape[-2] != n:
        raise ShapeError(f"{what}: rhs has {rhs.shape[-2]} rows, bands {n} columns; needed: the same.")
    check_dtypes(what, bands=bands, rhs=rhs)
    check_batch(what, bands=(bands, 2), rhs=(rhs, 2))
    # One unknown needs a block too.
    o = max(1, lower + upper)
    s = max(PANEL, o)
    count = max(0, -(-(n - o) // s))
    padded = count * s + o
    first = s * torch.arange(count, device=bands.device)[:, None]
    row, column = (torch.arange(k, device=bands.device) for k in (s, s + o))
    top = entries(bands, upper, torch.arange(lower, device=bands.device), column[:o])
    blocks = entries(bands, upper, first + lower + row, first + column)
    end = torch.arange(lower + count * s, padded, device=bands.device)
    bottom = entries(bands, upper, end, count * s + column[:o])
    x = solve_blocks(what, top, blocks, bottom, torch.nn.functional.pad(rhs, (0, 0, 0, padded - n)))
    return x[..., :n, :]


def entries(bands: Tensor, upper: int, rows: Tensor, columns: Tensor) -> Tensor:
    """A[rows, columns] of a band, (..., rows, columns); the identity from row n on.

    Args:
        bands: (..., d, n). rows, columns: Indices (..., r) and (..., c).
    """
    d, n = bands.shape[-2:]
    i, j = rows[..., :, None], columns[..., None, :]
    band = upper + i - j
    inside = (band >= 0) & (band < d) & (i < n) & (j < n)
    picked = bands[..., band.clamp(0, d - 1), j.clamp(max=n - 1).expand_as(band)]
    return torch.where(inside, picked, ((i == j) & (i >= n)).to(bands.dtype))
