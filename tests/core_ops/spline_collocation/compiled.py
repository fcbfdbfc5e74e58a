"""Compiles fit, evaluation and both in one whole, with gradients; run by test_spline_collocation.py."""

import torch
from torch import Tensor

from farfield.core_ops.spline_collocation import SplineCollocation, TensorCollocation

knots = torch.tensor([[0.0, 0.3, 0.5, 1.0], [0.0, 0.2, 0.6, 1.0]], dtype=torch.float64, requires_grad=True)
data = torch.randn(2, 8, dtype=torch.float64, requires_grad=True)
square = torch.randn(8, 8, dtype=torch.float64, requires_grad=True)
x = torch.rand(2, 6, dtype=torch.float64)
fixed = SplineCollocation(knots[0].detach(), 3)


def together(knots: Tensor, data: Tensor, square: Tensor) -> Tensor:
    return SplineCollocation(knots, 3)(data.sin(), x).square().sum() + 0 * square.sum()


def apart(knots: Tensor, data: Tensor, square: Tensor) -> Tensor:
    spline = SplineCollocation(knots, 3, ends=("neumann", "free"))
    coeffs = spline.fit(data[:, 1:].sin())
    slope = spline.evaluate(coeffs, x, derivative=1)
    return (slope.square().sum() + spline.integrate(coeffs).square().sum()) + 0 * square.sum()


def plane(knots: Tensor, data: Tensor, square: Tensor) -> Tensor:
    field = TensorCollocation(fixed, fixed)
    return field.at(field.fit(square.sin()), x.T).square().sum() + 0 * (knots.sum() + data.sum())


def operator(knots: Tensor, data: Tensor, square: Tensor) -> Tensor:
    return fixed(data.sin(), x[0]).square().sum() + 0 * (knots.sum() + square.sum())


count = 0
for f in (together, apart, plane, operator):
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    leaves = (knots, data, square)
    for got, want in zip(*(torch.autograd.grad(g(*leaves), leaves) for g in (compiled, f)), strict=True):
        assert (got - want).norm() <= 1e-11 * (1 + want.norm()), f.__name__
    count += 1
print(f"{count} compiled")
