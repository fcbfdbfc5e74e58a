"""Matrices that are constant along their antidiagonals, with a gradient that sums those at the speed of memory.

Shapes: * any leading dimensions, n terms, r rows, m columns, n = r + m - 1.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad


class Hankel(torch.autograd.Function):
    """v (*, n) to X[i, j] = v[i + j], (*, r, m); its adjoint, of any order, is the sums over antidiagonals."""

    generate_vmap_rule = True

    @staticmethod
    def forward(v: Tensor, columns: int) -> Tensor:
        """One copy; a matrix product would make it of the view too."""
        return v.unfold(-1, columns, 1).contiguous()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Rows of m + r - 1 in the place of m + r move each row one step further: columns then are antidiagonals."""
        rows, columns = gradient.shape[-2:]
        wide = pad(gradient, (0, rows)).flatten(-2)
        terms = columns + rows - 1
        return wide[..., : rows * terms].reshape(*gradient.shape[:-2], rows, terms).sum(-2), None


def hankel(v: Tensor, columns: int) -> Tensor:
    """X[i, j] = v[i + j] with m columns: (*, n) to (*, n - m + 1, m)."""
    x: Tensor = Hankel.apply(v, columns)  # type: ignore[no-untyped-call]
    return x


def lower_toeplitz(v: Tensor) -> Tensor:
    """T[i, j] = v[i - j], zero above the diagonal: (*, d) to (*, d, d)."""
    d = v.shape[-1]
    return hankel(pad(v, (d - 1, 0)), d).flip(-1)
