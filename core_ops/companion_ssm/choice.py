"""Which implementation divides power series: the registry behind `impl=`."""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor

from ..dispatch import Implementation, Registry
from ..fftconv import FilterSpectrum
from ..fftconv.call import transformed
from ..fftconv.cuda.impl import MISSING, observed
from ..fftconv.spectrum import CACHE_BYTES
from . import custom
from .rational import numerator
from .reference import all_pole_reference

# States times length up to which a recurrence is faster on a GPU than FFTs, best first (H100: at 2^24 "cuda" takes 0.50
# ms, "series" 1.3; at 2^21 "triton" 0.56, at 2^24 3.9).
PRODUCTS = {"cuda": 1 << 24, "triton": 1 << 22}
# Why Triton kernels cannot run at all; looked up once, since torch.compile cannot trace the look-up.
WITHOUT_TRITON = None if find_spec("triton") else "triton is not installed: pip install triton."


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


def run_cuda(x: Tensor, p: Tensor, length: int, single: bool) -> Tensor:
    """By the recurrence in blocks, one block of threads a row."""
    y: Tensor = custom.all_pole(x, p, length, single, "cuda")
    return y


def refuses_cuda(call: Call) -> str | None:
    """Why the CUDA kernel cannot run a call."""
    if call.device != "cuda":
        return f"the tensors are on {call.device}; take impl='auto', or move them to a GPU."
    from .cuda import refuses

    # A call that is compiled finds out what fits when it runs.
    return MISSING if torch.compiler.is_compiling() else refuses(call.states, call.length)


def run_triton(x: Tensor, p: Tensor, length: int, single: bool) -> Tensor:
    """By the recurrence, one program a row."""
    y: Tensor = custom.all_pole(x, p, length, single, "triton")
    return y


def refuses_triton(call: Call) -> str | None:
    """Why the Triton kernels cannot run a call."""
    if call.device != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"the tensors are on {call.device}; take impl='auto', or move them to a GPU."
    return WITHOUT_TRITON


def run_reference(x: Tensor, p: Tensor, length: int, single: bool) -> Tensor:
    """Term by term."""
    return all_pole_reference(x, p, length)


REGISTRY: Registry[Call, Run] = Registry("companion_kernel")
REGISTRY.register(Implementation("cuda", run_cuda, refuses_cuda))
REGISTRY.register(Implementation("triton", run_triton, refuses_triton))
REGISTRY.register(Implementation("series", run_series, lambda call: None))
REGISTRY.register(Implementation("reference", run_reference, lambda call: None, automatic=False))


def choose(impl: str, call: Call) -> Implementation[Call, Run]:
    """The implementation that runs a division; "auto" leaves long recurrences of many states to the series."""
    if impl == "auto":
        products = call.states * call.length
        # What fits is unknown while a call is compiled.
        known = (name for name in PRODUCTS if name != "cuda" or not torch.compiler.is_compiling())
        fast = (name for name in known if products <= PRODUCTS[name])
        impl = next((name for name in fast if REGISTRY.implementations[name].refuses(call) is None), "series")
        REGISTRY.log_once(impl)
    return REGISTRY.choose(impl, call)


def all_pole(x: Tensor, p: Tensor, length: int, single: bool, impl: str = "auto") -> Tensor:
    """y[t] = x[t] + sum_{j=1}^{d} p[j - 1] y[t - j], t < length, by the implementation asked for.

    Args:
        x: (R, n), n <= length. p: (R, d). single: Whether 3e-8 of the largest entry is exact enough. impl: As public.
    Returns: (R, length), float64.
    """
    return choose(impl, Call(x.device.type, p.shape[1], length)).run(x, p, length, single)


def learns(*operands: Tensor) -> bool:
    """Whether a gradient of any of these is wanted."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in operands)


def with_spectrum(
    a: Tensor, b: Tensor, c: Tensor, length: int, skip: Tensor | None, impl: str
) -> FilterSpectrum | None:
    """The filter and its spectrum by one launch; None where no kernel does it, or gradients or transforms look at it.

    Args:
        a, b, c: (R, d). skip: (H,) of the calls, R dividing H.
    """
    device, states = a.device, a.shape[1]
    if choose(impl, Call(device.type, states, length)).name != "cuda":
        return None
    singles = all(x.dtype == torch.float32 for x in (a, b, c))
    if (
        not singles
        or observed(a, b, c, skip)
        or transformed(a, b, c, skip)
        or (skip is not None and skip.is_inference())
    ):
        return None
    from .cuda import companion_spectra, spectrum_plan

    plan, channels = spectrum_plan(states, length, device.index), a.shape[0] if skip is None else skip.shape[0]
    if plan is None or channels * plan.size * 8 > CACHE_BYTES:
        return None
    # FilterSpectrum counts the changes of its taps, which tensors of inference mode do not.
    with torch.inference_mode(False):
        k, kf = companion_spectra(a, b, c, length, skip, channels, plan)
        kept = FilterSpectrum(k)
        kept.of_calls("causal", length, channels, skip)[plan.radices] = (kf,)
    return kept


def taps(a: Tensor, b: Tensor, c: Tensor, length: int, dtype: torch.dtype, impl: str) -> Tensor:
    """k[l] = c^T A^l b, l < length: one launch where a recurrence runs and no gradient is wanted.

    Args:
        a, b, c: (R, d). dtype: Of the result.
    Returns: (R, length).
    """
    chosen = choose(impl, Call(a.device.type, a.shape[1], length))
    if chosen.name in PRODUCTS and not learns(a, b, c):
        fused: Tensor = custom.companion_taps(a, b, c, length, dtype, chosen.name)
        return fused
    a, b, c = a.double(), b.double(), c.double()
    return chosen.run(numerator(a, b, c)[:, :length], a.flip(1), length, dtype == torch.float32).to(dtype)
