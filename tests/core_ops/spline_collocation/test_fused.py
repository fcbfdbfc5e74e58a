"""The fused kernel equals the plain path, with its gradients: on a GPU, or interpreted on a CPU with triton."""

import importlib.util
import os

import pytest
import torch
from torch import Tensor

from farfield.core_ops.errors import KernelUnavailable
from farfield.core_ops.spline_collocation import SplineCollocation, fused

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

# (series, cells, queries, order, ends, derivative, dtype)
CASES = [
    (3, 1, 5, 3, "dirichlet", 0, torch.float64),
    (3, 16, 33, 3, "dirichlet", 0, torch.float64),
    (5, 7, 20, 2, "neumann", 0, torch.float64),
    (5, 7, 20, 5, ("free", "neumann"), 1, torch.float64),
    (4, 12, 200, 4, ("dirichlet", "neumann"), 2, torch.float64),
    (3, 2, 600, 3, "dirichlet", 0, torch.float64),
    (9, 5, 7, 8, ("neumann", "dirichlet"), 1, torch.float64),
    (5, 64, 40, 5, "dirichlet", 0, torch.float32),
]
EPS = {torch.float64: 1e-14, torch.float32: 1e-6}


def _relative(y: Tensor, expected: Tensor) -> float:
    assert y.shape == expected.shape
    return ((y - expected).norm() / expected.norm()).item()


@needs_triton
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("series", "cells", "queries", "order", "ends", "derivative", "dtype"), CASES)
def test_kernel_equals_the_plain_path(
    series: int, cells: int, queries: int, order: int, ends: str, derivative: int, dtype: torch.dtype, shared: bool
) -> None:
    g = torch.Generator().manual_seed(series)
    batch = () if shared else (series,)
    widths = 0.1 + torch.rand(*batch, cells, generator=g, dtype=torch.float64)
    knots = torch.nn.functional.pad(widths.cumsum(-1), (1, 0))
    knots = (knots / knots[..., -1:]).to(DEVICE, dtype).requires_grad_()
    spline = SplineCollocation(knots, order, ends=ends)
    data = torch.randn(series, spline.size, generator=g, dtype=torch.float64).to(DEVICE, dtype).requires_grad_()
    x = torch.rand(*batch, queries, generator=g, dtype=torch.float64).to(DEVICE, dtype).requires_grad_()
    ours, plain = (spline(data, x, derivative, impl=impl) for impl in ("triton", "torch"))
    assert _relative(ours, plain) < EPS[dtype]
    cotangent = torch.randn(ours.shape, generator=g, dtype=torch.float64).to(DEVICE, dtype)
    got, want = (torch.autograd.grad(y, (data, knots, x), cotangent) for y in (ours, plain))
    for a, b in zip(got, want, strict=True):
        assert _relative(a, b) < 4 * EPS[dtype]


@needs_triton
def test_operators_pass_opcheck() -> None:
    knots = torch.linspace(0, 1, 4, dtype=torch.float64, device=DEVICE)[None]
    full = torch.randn(2, 8, dtype=torch.float64, device=DEVICE)
    x = torch.rand(2, 3, dtype=torch.float64, device=DEVICE)
    options = (3, False, False, 0)
    leaves = tuple(t.clone().requires_grad_() for t in (full, knots, x))
    torch.library.opcheck(fused.forward, (*leaves, *options))
    y, v = fused.forward(full, knots, x, *options)
    torch.library.opcheck(fused.backward, (y, full, knots, x, v, *options))


@needs_triton
@pytest.mark.parametrize("ends", ["periodic", "dirichlet"])
def test_what_has_no_kernel_is_told(ends: str) -> None:
    spline = SplineCollocation(torch.linspace(0, 1, 1001, device=DEVICE), 3, ends=ends)
    with pytest.raises(KernelUnavailable, match="impl='torch'"):
        spline(torch.ones(spline.size, device=DEVICE), spline.knots[:3], impl="triton")


@pytest.mark.skipif(DEVICE == "cuda", reason="needs a machine without a GPU")
def test_without_a_gpu_the_kernel_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    spline = SplineCollocation(torch.linspace(0, 1, 5), 3)
    with pytest.raises(KernelUnavailable, match=r"triton|NVIDIA"):
        spline(torch.ones(10), spline.knots, impl="triton")
