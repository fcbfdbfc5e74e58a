"""Krylov columns and closed loops: core_ops on a CPU; on a GPU a few batched products that a CUDA graph can hold."""

from __future__ import annotations

import torch
from torch import Tensor

from farfield.core_ops import companion_ssm


def krylov(a: Tensor, b: Tensor, length: int) -> Tensor:
    """A^l b, l < length: (H, d) x 2 -> (H, d, length)."""
    return _doubled(_matrix(a), b, length) if a.is_cuda else companion_ssm.krylov(a, b, length)


def impulse_response(a: Tensor, b: Tensor, c: Tensor, length: int) -> Tensor:
    """c^T A^l b, l < length: (H, d) x 3 -> (H, length)."""
    if a.is_cuda:
        return torch.einsum("hd,hdl->hl", c, krylov(a, b, length))
    return companion_ssm.companion_kernel(a, b, c, length)


def closed_loop(a: Tensor, b: Tensor, c: Tensor, k: Tensor, horizon: int) -> Tensor:
    """c^T (A + b k^T)^t, t < horizon: (H, d) x 4 -> (H, d, horizon)."""
    if not a.is_cuda:
        return companion_ssm.closed_loop_kernel(a, b, c, k, horizon)
    return _doubled((_matrix(a) + b[..., None] * k[..., None, :]).mT, c, horizon)


def _matrix(a: Tensor) -> Tensor:
    """(H, d) -> (H, d, d): ones below the diagonal, the last column a."""
    shift = torch.diag(torch.ones(a.shape[-1] - 1, dtype=a.dtype, device=a.device), -1)
    return torch.cat([shift[:, :-1].expand(a.shape[0], -1, -1), a[..., None]], -1)


def _doubled(matrix: Tensor, v: Tensor, count: int) -> Tensor:
    """v, A v, A^2 v, ... side by side: twice as many after each product."""
    out, power = v[..., None], matrix
    while out.shape[-1] < count:
        out = torch.cat([out, power @ out[..., : count - out.shape[-1]]], -1)
        if out.shape[-1] < count:
            power = power @ power
    return out
