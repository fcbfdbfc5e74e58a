"""The fused kernel against the plain path, with gradients; run by test_fused.py.

On a GPU, or on a CPU with TRITON_INTERPRET=1.
"""

import torch
from torch import Tensor

from farfield.core_ops.spline_collocation import SplineCollocation, fused

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# (series, cells, queries, order, ends, derivative, dtype)
CASES: list[tuple[int, int, int, int, str | tuple[str, str], int, torch.dtype]] = [
    (3, 1, 5, 3, "dirichlet", 0, torch.float64),
    (3, 16, 33, 3, "dirichlet", 0, torch.float64),
    (5, 7, 20, 2, "neumann", 0, torch.float64),
    (5, 7, 20, 5, ("free", "neumann"), 1, torch.float64),
    (4, 12, 30, 4, ("dirichlet", "neumann"), 2, torch.float64),
    (40, 5, 7, 8, ("neumann", "dirichlet"), 1, torch.float64),
    (5, 64, 40, 5, "dirichlet", 0, torch.float32),
]
EPS = {torch.float64: 1e-14, torch.float32: 1e-6}


def relative(y: Tensor, expected: Tensor) -> float:
    """Relative L2 distance."""
    assert y.shape == expected.shape
    return ((y - expected).norm() / expected.norm()).item()


count = 0
for series, cells, queries, order, ends, derivative, dtype in CASES:
    for shared in (False, True):
        g = torch.Generator().manual_seed(series)
        batch = () if shared else (series,)
        widths = 0.1 + torch.rand(*batch, cells, generator=g, dtype=torch.float64)
        knots = torch.nn.functional.pad(widths.cumsum(-1), (1, 0))
        knots = (knots / knots[..., -1:]).to(DEVICE, dtype).requires_grad_()
        spline = SplineCollocation(knots, order, ends=ends)
        data = torch.randn(series, spline.size, generator=g, dtype=torch.float64).to(DEVICE, dtype).requires_grad_()
        x = torch.rand(*batch, queries, generator=g, dtype=torch.float64).to(DEVICE, dtype).requires_grad_()
        ours, plain = (spline(data, x, derivative, impl=impl) for impl in ("triton", "torch"))
        assert relative(ours, plain) < EPS[dtype], (cells, order, ends)
        cotangent = torch.randn(ours.shape, generator=g, dtype=torch.float64).to(DEVICE, dtype)
        got, want, again = (
            torch.autograd.grad(spline(data, x, derivative, impl=impl), (data, knots, x), cotangent)
            for impl in ("triton", "torch", "triton")
        )
        for a, b, c in zip(got, want, again, strict=True):
            assert relative(a, b) < 4 * EPS[dtype], (cells, order, ends)
            assert torch.equal(a, c)
        count += 1

knots = torch.linspace(0, 1, 4, dtype=torch.float64, device=DEVICE)[None]
full, x = torch.randn(2, 8, dtype=torch.float64, device=DEVICE), torch.rand(2, 3, dtype=torch.float64, device=DEVICE)
options = (3, False, False, 0)
torch.library.opcheck(fused.forward, (*(t.clone().requires_grad_() for t in (full, knots, x)), *options))
y, v = fused.forward(full, knots, x, *options)
torch.library.opcheck(fused.backward, (y, full, knots, x, v, *options))
print(f"{count} equal")
