"""Compiles the three solves whole, with gradients; run by test_banded.py."""

import torch
from torch import Tensor

from farfield.core_ops.banded import almost_block_diagonal_solve, banded_solve, tridiagonal_solve

g = torch.Generator().manual_seed(0)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()


def tridiagonal(lower: Tensor, diag: Tensor, upper: Tensor, rhs: Tensor) -> Tensor:
    return tridiagonal_solve(lower.tanh(), 3 + diag.sigmoid(), upper.tanh(), rhs).square().sum()


def banded(bands: Tensor, rhs: Tensor) -> Tensor:
    return banded_solve(bands.sin(), rhs, 1, 1).square().sum()


def blocks(top: Tensor, rows: Tensor, bottom: Tensor, rhs: Tensor) -> Tensor:
    return almost_block_diagonal_solve(top, rows.sin(), bottom, rhs).square().sum()


count = 0
for f, leaves in (
    (tridiagonal, (random(2, 8), random(2, 9), random(2, 8), random(2, 9))),
    (banded, (random(2, 3, 20), random(2, 20, 1))),
    (blocks, (random(1, 3), random(3, 2, 5), random(2, 3), random(9, 2))),
):
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    for got, want in zip(*(torch.autograd.grad(h(*leaves), leaves) for h in (compiled, f)), strict=True):
        assert want.norm() > 0
        assert (got - want).norm() <= 1e-10 * want.norm(), f.__name__
    count += 1
print(f"{count} compiled")
