"""Batched, differentiable banded, tridiagonal and almost-block-diagonal solvers. Start at README.md."""

from .op import almost_block_diagonal_solve, banded_solve
from .tridiagonal import tridiagonal_solve

__all__ = ["almost_block_diagonal_solve", "banded_solve", "tridiagonal_solve"]
