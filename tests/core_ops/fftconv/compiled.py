"""Compiles fftconv whole, with dynamic shapes, in every mode, and FFTConv; run by test_op.py."""

import torch
from torch import Tensor

from farfield.core_ops import FFTConv, fftconv

compiled_count = 0
for mode in ("causal", "full", "circular", "two_sided"):

    def f(u: Tensor, k: Tensor, p: Tensor, q: Tensor, skip: Tensor, mode: str = mode) -> Tensor:
        y = fftconv(u * 2, k, pregate=p, postgate=q, skip=skip, mode=mode)  # type: ignore[arg-type]
        return torch.tanh(y).square().sum()

    torch._dynamo.reset()
    compiled = torch.compile(f, fullgraph=True, dynamic=True, backend="aot_eager")
    for length, taps in ((8, 5), (33, 7), (50, 51)):
        total = length + taps - 1 if mode == "full" else length
        shapes = [(2, 4, length), (2, taps), (2, 4, length), (2, 4, total), (4,)]
        given = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
        ours = [compiled(*given), *torch.autograd.grad(compiled(*given), given)]
        expected = [f(*given), *torch.autograd.grad(f(*given), given)]
        for a, b in zip(ours, expected, strict=True):
            assert b.norm() > 0
            assert (a - b).norm() <= 1e-12 * b.norm(), (mode, length)
    compiled_count += 1

with torch.no_grad():
    layer = FFTConv(2, 30).eval()
    whole = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        u = torch.randn(1, 2, 30)
        assert torch.allclose(whole(u), layer(u), atol=1e-6)
    compiled_count += 1
print(compiled_count, "compiled")
