"""Definitions: the matrix written out, and torch.linalg.solve."""

import torch
from torch import Tensor


def dense_from_bands(bands: Tensor, lower: int, upper: int) -> Tensor:
    """A[i, j] = bands[upper + i - j, j] where -upper <= i - j <= lower, else 0.

    Args:
        bands: (..., lower + upper + 1, n). lower, upper: Diagonals below and above the main one.
    Returns: (..., n, n).
    """
    n = bands.shape[-1]
    a = bands.new_zeros(*bands.shape[:-2], n, n)
    for i in range(n):
        for j in range(max(0, i - lower), min(n, i + upper + 1)):
            a[..., i, j] = bands[..., upper + i - j, j]
    return a


def dense_from_blocks(top: Tensor, blocks: Tensor, bottom: Tensor) -> Tensor:
    """top on the first o columns, blocks[i] on the s + o columns from i s, bottom on the last o columns.

    Args:
        top: (..., m, o). blocks: (..., N, s, s + o). bottom: (..., o - m, o).
    Returns: (..., N s + o, N s + o).
    """
    m, o = top.shape[-2:]
    count, s = blocks.shape[-3:-1]
    n = count * s + o
    a = top.new_zeros(*top.shape[:-2], n, n)
    a[..., :m, :o] = top
    for i in range(count):
        a[..., m + i * s : m + (i + 1) * s, i * s : (i + 1) * s + o] = blocks[..., i, :, :]
    a[..., n - (o - m) :, n - o :] = bottom
    return a


def tridiagonal_solve_reference(lower: Tensor, diag: Tensor, upper: Tensor, rhs: Tensor) -> Tensor:
    """Solve by the dense matrix; shapes as in tridiagonal_solve, without broadcasting."""
    a = torch.diag_embed(diag) + torch.diag_embed(lower, -1) + torch.diag_embed(upper, 1)
    x: Tensor = torch.linalg.solve(a, rhs[..., None])
    return x[..., 0]


def banded_solve_reference(bands: Tensor, rhs: Tensor, lower: int, upper: int) -> Tensor:
    """Solve by the dense matrix; rhs (..., n, k)."""
    x: Tensor = torch.linalg.solve(dense_from_bands(bands, lower, upper), rhs)
    return x
