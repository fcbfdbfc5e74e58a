"""Definitions: a companion system is stepped, a rational function is divided term by term.

Shapes: * any leading dimensions, d states, L length, T horizon.
"""

import torch
from torch import Tensor


def companion_matrix(a: Tensor) -> Tensor:
    """A (*, d, d): ones on the subdiagonal, a in the last column.

    Args:
        a: (*, d).
    """
    d = a.shape[-1]
    shift = torch.diag(a.new_ones(d - 1), -1)
    last = torch.zeros_like(shift)
    last[:, -1] = 1
    return shift + a[..., None] * last


def krylov_reference(a: Tensor, b: Tensor, length: int) -> Tensor:
    """Columns A^l b, l < length: (*, d, L), by repeated products."""
    matrix, columns = companion_matrix(a), [b]
    for _ in range(length - 1):
        columns.append((matrix @ columns[-1][..., None])[..., 0])
    return torch.stack(columns, -1)


def companion_kernel_reference(a: Tensor, b: Tensor, c: Tensor, length: int) -> Tensor:
    """k[l] = c^T A^l b, l < length: (*, L)."""
    return (c[..., None] * krylov_reference(a, b, length)).sum(-2)


def closed_loop_kernel_reference(a: Tensor, b: Tensor, c: Tensor, k: Tensor, horizon: int) -> Tensor:
    """Columns (M^T)^t c, M = A + b k^T, t < horizon: (*, d, T)."""
    matrix = companion_matrix(a) + b[..., None] * k[..., None, :]
    columns = [c.expand(matrix.shape[:-1])]
    for _ in range(horizon - 1):
        columns.append((columns[-1][..., None, :] @ matrix)[..., 0, :])
    return torch.stack(columns, -1)


def all_pole_reference(x: Tensor, p: Tensor, length: int) -> Tensor:
    """y[t] = x[t] + sum_{j=1}^{d} p[j - 1] y[t - j], t < length; x is zero beyond its end: (*, L)."""
    y: list[Tensor] = []
    for t in range(length):
        terms = [p[..., j] * y[t - 1 - j] for j in range(min(t, p.shape[-1]))]
        first = x[..., t] if t < x.shape[-1] else torch.zeros_like(x[..., 0])
        y.append(first + sum(terms))
    return torch.stack(y, -1)
