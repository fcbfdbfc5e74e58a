"""The Triton kernels compute what the others do; on a CPU by Triton's interpreter (TRITON_INTERPRET=1)."""

import importlib.util
import os

import pytest
import torch
from torch import Tensor

from farfield.core_ops.companion_ssm import (
    companion_kernel,
    companion_step,
    companion_step_,
    rtf_kernel,
)
from farfield.core_ops.companion_ssm.custom import companion_taps, step_in_place
from farfield.core_ops.errors import KernelUnavailable

interpreted = os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton") is not None
DEVICE = "cpu" if interpreted else "cuda"
runs = pytest.mark.skipif(
    not (interpreted or torch.cuda.is_available()), reason="needs a CUDA device, or triton and TRITON_INTERPRET=1"
)


def draw(rows: int, d: int, dtype: torch.dtype) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(rows, d, generator=g, dtype=torch.float64).to(dtype) for _ in range(3))
    return [x.to(DEVICE) for x in (a / a.abs().sum(-1, keepdim=True), b, c)]


def close(y: Tensor, expected: Tensor, bound: float) -> None:
    assert expected.norm() > 0
    assert (y.cpu().double() - expected.cpu().double()).norm() <= bound * expected.cpu().double().norm()


@runs
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("d", "length"), [(1, 1), (1, 40), (5, 3), (7, 97), (70, 130)])
def test_kernels_and_gradients_are_those_of_the_series(d: int, length: int, dtype: torch.dtype) -> None:
    given = draw(3, d, dtype)
    bound = 1e-12 if dtype == torch.float64 else 3e-7
    expected = companion_kernel(*given, length, impl="series")
    close(companion_kernel(*given, length, impl="triton"), expected, bound)
    close(rtf_kernel(given[1], given[0], None, length + 1, impl="triton"),
          rtf_kernel(given[1], given[0], None, length + 1, impl="series"), bound)  # fmt: skip
    leaves = [x.requires_grad_() for x in given]
    y = companion_kernel(*leaves, length, impl="triton")
    close(y, expected, bound)
    w = torch.linspace(-1, 1, length, dtype=dtype, device=DEVICE) + 0.1
    grads = torch.autograd.grad((y * w).sum(), leaves, materialize_grads=True)
    truth = torch.autograd.grad((companion_kernel(*leaves, length, impl="series") * w).sum(), leaves)
    for g, e in zip(grads[1:], truth[1:], strict=True):
        close(g, e, 10 * bound)


@runs
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("d", [1, 6, 64])
def test_the_fused_step_overwrites_the_state(d: int, skip: bool) -> None:
    a, b, c = draw(3, d, torch.float32)
    g = torch.Generator().manual_seed(1)
    state, u, s = (torch.randn(*shape, generator=g).to(DEVICE) for shape in ((5, 3, d), (5, 3), (3,)))
    y, new = companion_step(state, u, a, b, c, s if skip else None)
    close(companion_step_(state, u, a, b, c, s if skip else None), y, 1e-6)
    close(state, new, 1e-6)


@runs
def test_the_operators_pass_opcheck() -> None:
    a, b, c = draw(2, 5, torch.float64)
    utilities = ("test_schema", "test_faketensor")
    torch.library.opcheck(companion_taps, (a, b, c, 20, torch.float32, "triton"), test_utils=utilities)
    state, u = torch.randn(3, 2, 5, dtype=torch.float64, device=DEVICE), torch.randn(3, 2, device=DEVICE).double()
    torch.library.opcheck(step_in_place, (state, u, a, b, c, None), test_utils=utilities)


@pytest.mark.skipif(interpreted, reason="Triton's interpreter takes CPU tensors")
def test_a_cpu_tensor_is_refused_with_what_to_do() -> None:
    a, b, c = (torch.ones(1, 2) for _ in range(3))
    with pytest.raises(KernelUnavailable, match="the tensors are on cpu; take impl='auto'"):
        companion_kernel(a, b, c, 4, impl="triton")


def test_the_step_in_place_works_without_a_kernel() -> None:
    a, b, c, u = torch.rand(2, 3), torch.rand(2, 3), torch.rand(2, 3), torch.rand(1, 2)
    state = torch.rand(1, 2, 3)
    y, new = companion_step(state, u, a, b, c)
    assert torch.allclose(companion_step_(state, u, a, b, c), y)
    assert torch.allclose(state, new)
