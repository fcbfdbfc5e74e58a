"""farfield::all_pole, y[t] = x[t] + sum_{j=1}^{d} p[j] y[t - j], as an operator of torch with gradients of any order.

Shapes: x (R, n), p (R, d), y (R, L); float64.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..fftconv import fftconv
from .division import divide


def by_triton(x: Tensor, p: Tensor, length: int, single: bool) -> Tensor:
    """The recurrence, one program a row."""
    from .kernel_triton import all_pole_triton

    return all_pole_triton(x, p, length, single)


def by_cuda(x: Tensor, p: Tensor, length: int, single: bool) -> Tensor:
    """The recurrence in blocks, one block of threads a row."""
    from .cuda import all_pole_cuda

    return all_pole_cuda(x, p, length, single)


DIVIDERS: dict[str, Callable[[Tensor, Tensor, int, bool], Tensor]] = {
    "cuda": by_cuda,
    "triton": by_triton,
    "series": divide,
}


@torch.library.custom_op("farfield::all_pole", mutates_args=())
def all_pole(x: Tensor, p: Tensor, length: int, single: bool, by: str) -> Tensor:
    """y = x / (1 - sum_j p[j] z^j) modulo z^length; single: 3e-8 of the largest entry is exact enough; by: DIVIDERS."""
    return DIVIDERS[by](x.detach(), p.detach(), length, single).contiguous()


@all_pole.register_fake
def _(x: Tensor, p: Tensor, length: int | torch.SymInt, single: bool, by: str) -> Tensor:
    return x.new_empty(x.shape[0], length)


@torch.library.custom_op("farfield::companion_taps", mutates_args=())
def companion_taps(a: Tensor, b: Tensor, c: Tensor, length: int, dtype: torch.dtype, by: str) -> Tensor:
    """k[l] = c^T A^l b by one launch of "cuda" or "triton", without gradient: a, b, c (R, d); k (R, L)."""
    if by == "cuda":
        from .cuda import companion_cuda

        return companion_cuda(a, b, c, length, dtype)
    from .kernel_triton import companion_triton

    return companion_triton(a.double(), b.double(), c.double(), length, dtype)


@companion_taps.register_fake
def _(a: Tensor, b: Tensor, c: Tensor, length: int | torch.SymInt, dtype: torch.dtype, by: str) -> Tensor:
    return a.new_empty(a.shape[0], length, dtype=dtype)


@torch.library.custom_op("farfield::companion_step", mutates_args=("state",))
def step_in_place(state: Tensor, u: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor | None) -> Tensor:
    """One step of a companion system by one Triton kernel: the state is overwritten, y (B, H) returned."""
    from .kernel_triton import step_triton

    return step_triton(state, u, a, b, c, skip)


@step_in_place.register_fake
def _(state: Tensor, u: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor | None) -> Tensor:
    return torch.empty_like(u)


def lagged_products(g: Tensor, y: Tensor, lags: int | torch.SymInt) -> Tensor:
    """out[j - 1] = sum_t g[t] y[t - j], j = 1..lags: a causal convolution with g reversed."""
    length = y.shape[1]
    within = min(lags, length - 1)
    if within == 0:
        return (g * 0).sum(1, keepdim=True).expand(-1, lags)
    products = fftconv(g.flip(1)[None], y)[0]
    found = products[:, length - 1 - within : length - 1].flip(1)
    return torch.cat([found, found.new_zeros(found.shape[0], lags - within)], 1)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, p, *ctx.options = inputs
    ctx.terms = x.shape[1]
    ctx.save_for_backward(p, output)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    # dx solves the same recurrence backwards in time.
    p, y = ctx.saved_tensors
    g = all_pole(dy.flip(1), p, *ctx.options).flip(1)
    dx = dp = None
    if ctx.needs_input_grad[0]:
        dx = pad(g[:, : ctx.terms], (0, max(0, ctx.terms - g.shape[1])))
    if ctx.needs_input_grad[1]:
        dp = lagged_products(g, y, p.shape[1])
    return dx, dp, None, None, None


all_pole.register_autograd(_backward, setup_context=_setup)
