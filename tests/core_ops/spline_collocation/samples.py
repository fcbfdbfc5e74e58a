"""Partitions, data and queries that tests of splines share."""

import math

import torch
from torch import Tensor

from farfield.core_ops.spline_collocation import SplineCollocation

ENDS = ["dirichlet", "neumann", "free", ("neumann", "free"), ("dirichlet", "neumann"), ("free", "dirichlet")]


def partition(*shape: int, seed: int = 0, least: float = 0.1) -> Tensor:
    """Increasing knots that start below zero."""
    g = torch.Generator().manual_seed(seed)
    widths = least + torch.rand(*shape[:-1], shape[-1] - 1, generator=g, dtype=torch.float64)
    return torch.nn.functional.pad(widths.cumsum(-1), (1, 0)) - 0.7


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inside(knots: Tensor, count: int, seed: int = 2) -> Tensor:
    u = torch.rand(*knots.shape[:-1], count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return knots[..., :1] + u * (knots[..., -1:] - knots[..., :1])


def data_of(spline: SplineCollocation, c: Tensor) -> Tensor:
    """What a polynomial with these coefficients gives the spline: values, and slopes at Neumann's ends."""
    nodes = spline.nodes
    data = polynomial(c, nodes)
    if spline.ends.left == "neumann":
        data = torch.cat([polynomial(c, nodes[..., :1], 1), data[..., 1:]], -1)
    if spline.ends.right == "neumann":
        data = torch.cat([data[..., :-1], polynomial(c, nodes[..., -1:], 1)], -1)
    return data


def polynomial(c: Tensor, x: Tensor, derivative: int = 0) -> Tensor:
    total = torch.zeros_like(x)
    for i in range(derivative, len(c)):
        total = total + c[i] * math.perm(i, derivative) * x ** (i - derivative)
    return total


def relative(y: Tensor, expected: Tensor) -> float:
    assert y.shape == expected.shape
    return ((y - expected).abs().max() / expected.abs().max()).item()
