"""Compiles a scan and a layer whole on a GPU, forward and backward; run by test_cuda.py."""

import torch

from farfield.core_ops.companion_ssm import CompanionSSM, companion_scan

a, b, c = (torch.randn(3, 16, device="cuda") / 16 for _ in range(3))
u = torch.randn(2, 3, 500, device="cuda")
with torch.no_grad():
    y = torch.compile(companion_scan, fullgraph=True, backend="aot_eager")(u, a, b, c)
    expected = companion_scan(u, a, b, c)
assert (y - expected).norm() <= 1e-6 * expected.norm()
layer = CompanionSSM(3, 16, device="cuda")
parameters = list(layer.parameters())
ours = torch.autograd.grad(torch.compile(layer, fullgraph=True, backend="aot_eager")(u).square().sum(), parameters)
theirs = torch.autograd.grad(layer(u).square().sum(), parameters)
assert all((x - e).norm() <= 1e-4 * e.norm() for x, e in zip(ours, theirs, strict=True))
print("compiled")
