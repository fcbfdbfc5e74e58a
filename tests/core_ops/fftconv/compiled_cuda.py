"""Compiles fftconv whole on a GPU, forward and backward, in every mode; run by test_cuda_modes.py."""

import torch
from torch import Tensor

from farfield.core_ops import FFTConv, fftconv

compiled_count = 0
for mode in ("causal", "full", "circular", "two_sided"):

    def f(u: Tensor, k: Tensor, p: Tensor, q: Tensor, skip: Tensor, mode: str = mode) -> Tensor:
        return fftconv(u * 2, k, pregate=p, postgate=q, skip=skip, mode=mode)  # type: ignore[arg-type]

    torch._dynamo.reset()
    compiled = torch.compile(f, fullgraph=True, dynamic=True, backend="aot_eager")
    for length, taps in ((130, 131), (300, 51)):
        total = length + taps - 1 if mode == "full" else length
        shapes = [(2, 4, length), (2, taps), (2, 4, length), (2, 4, total), (4,)]
        given = [torch.randn(s, device="cuda", requires_grad=True) for s in shapes]
        y, want = compiled(*given), f(*given)
        assert want.norm() > 0
        assert torch.equal(y, want), (mode, length)
        dy = torch.randn_like(want)
        for a, b in zip(torch.autograd.grad(y, given, dy), torch.autograd.grad(want, given, dy), strict=True):
            assert torch.equal(a, b), (mode, length)
    compiled_count += 1

with torch.no_grad():
    layer = FFTConv(2, 30, device="cuda").eval()
    whole = torch.compile(layer, fullgraph=True, backend="aot_eager")
    u = torch.randn(1, 2, 30, device="cuda")
    assert torch.allclose(whole(u), layer(u), atol=1e-6)
    compiled_count += 1
print(compiled_count, "compiled")
