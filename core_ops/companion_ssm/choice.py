"""Which implementation divides power series: the registry behind `impl=`."""

import os
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor

from ..dispatch import Implementation, Registry
from . import custom
from .rational import numerator
from .reference import all_pole_reference

# States times length up to which the recurrence is faster on a GPU (H100: at 2^21 0.6 ms against 1.3, at 2^24 3.9).
TRITON_PRODUCTS = 1 << 22


@dataclass(frozen=True)
class Call:
    """What a division asks for.

    Args:
        device: Type of the operands' device. states: d. length: L.
    """

    device: str
    states: int
    length: int


class Run(Protocol):
    """Computes a checked division."""

    def __call__(self, x: Tensor, p: Tensor, length: int, single: bool) -> Tensor: ...


def run_series(x: Tensor, p: Tensor, length: int, single: bool) -> Tensor:
    """By FFTs, as one operator."""
    y: Tensor = custom.all_pole(x, p, length, single, "series")
    return y


def run_triton(x: Tensor, p: Tensor, length: int, single: bool) -> Tensor:
    """By the recurrence, one program a row."""
    y: Tensor = custom.all_pole(x, p, length, single, "triton")
    return y


@cache
def without_triton() -> str | None:
    """Why Triton kernels cannot run at all."""
    return None if find_spec("triton") else "triton is not installed: pip install triton."


def refuses_triton(call: Call) -> str | None:
    """Why the Triton kernels cannot run a call."""
    if call.device != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"the tensors are on {call.device}; take impl='auto', or move them to a GPU."
    return without_triton()


def run_reference(x: Tensor, p: Tensor, length: int, single: bool) -> Tensor:
    """Term by term."""
    return all_pole_reference(x, p, length)


REGISTRY: Registry[Call, Run] = Registry("companion_kernel")
REGISTRY.register(Implementation("triton", run_triton, refuses_triton))
REGISTRY.register(Implementation("series", run_series, lambda call: None))
REGISTRY.register(Implementation("reference", run_reference, lambda call: None, automatic=False))


def choose(impl: str, call: Call) -> Implementation[Call, Run]:
    """The implementation that runs a division; "auto" leaves long recurrences of many states to the series."""
    long = impl == "auto" and call.states * call.length > TRITON_PRODUCTS
    return REGISTRY.choose("series" if long else impl, call)


def all_pole(x: Tensor, p: Tensor, length: int, single: bool, impl: str = "auto") -> Tensor:
    """y[t] = x[t] + sum_{j=1}^{d} p[j - 1] y[t - j], t < length, by the implementation asked for.

    Args:
        x: (R, n), n <= length. p: (R, d). single: Whether 3e-8 of the largest entry is exact enough. impl: As public.
    Returns: (R, length), float64.
    """
    return choose(impl, Call(x.device.type, p.shape[1], length)).run(x, p, length, single)


def taps(a: Tensor, b: Tensor, c: Tensor, length: int, dtype: torch.dtype, impl: str) -> Tensor:
    """k[l] = c^T A^l b, l < length: one fused launch where Triton runs and no gradient is wanted.

    Args:
        a, b, c: (R, d), float64. dtype: Of the result.
    Returns: (R, length).
    """
    chosen = choose(impl, Call(a.device.type, a.shape[1], length))
    learning = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad or c.requires_grad)
    if chosen.name == "triton" and not learning:
        fused: Tensor = custom.companion_taps(a, b, c, length, dtype)
        return fused
    return chosen.run(numerator(a, b, c)[:, :length], a.flip(1), length, dtype == torch.float32).to(dtype)
