"""Compiles companion_ssm whole, checks its operator, asks for what is not there; run by test_companion_ssm.py."""

import pytest
import torch
from torch import Tensor

from farfield.core_ops import ShapeError
from farfield.core_ops.companion_ssm import (
    RTF,
    CompanionSSM,
    closed_loop_factors,
    closed_loop_kernel,
    closed_loop_outputs,
    companion_scan,
    last_state,
    rtf_kernel,
)
from farfield.core_ops.companion_ssm.custom import all_pole

torch.manual_seed(0)
a, b, c, k = (torch.nn.functional.normalize(torch.randn(2, 6), p=1, dim=-1).requires_grad_() for _ in range(4))
u = torch.randn(2, 2, 30)
layers = [CompanionSSM(2, 6), RTF(2, 6, init="montel", constraint="l1_montel", bidirectional=True)]


def f(a: Tensor, b: Tensor, c: Tensor, k: Tensor) -> Tensor:
    """A number that depends on every function."""
    y = companion_scan(u, a, b, c).square().mean() + rtf_kernel(b, a, None, 20).square().sum()
    x = last_state(u, a, b)
    ahead = torch.einsum("bhd,hdt->bht", x, closed_loop_kernel(a, b, c, k, 12))
    y = y + closed_loop_outputs(x.transpose(0, 1), *closed_loop_factors(a, b, c, k, 12)).square().sum()
    return y + ahead.square().mean() + sum(layer(u).square().mean() for layer in layers)


leaves = (a, b, c, k, *(p for layer in layers for p in layer.parameters()))
compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
mine = torch.autograd.grad(compiled(a, b, c, k), leaves)
for g, expected in zip(mine, torch.autograd.grad(f(a, b, c, k), leaves), strict=True):
    assert expected.norm() > 0
    assert (g - expected).norm() <= 1e-5 * expected.norm()
print("compiled")

x, p = (v.detach().double().requires_grad_() for v in (b, a))
torch.library.opcheck(all_pole, (x, p, 40, True, "series"))
print("checked")

for ask, known in (
    (lambda: companion_scan(u, a, b, c, form="both"), "'parallel', 'step'"),  # type: ignore[call-overload]
    (lambda: RTF(6, 4, init="xavier"), "'zeros', 'montel'"),  # type: ignore[arg-type]
    (lambda: RTF(6, 4, constraint="l2"), "'none', 'l1_montel'"),  # type: ignore[arg-type]
):
    with pytest.raises((ShapeError, ValueError), match=known):
        ask()
print("refused")
