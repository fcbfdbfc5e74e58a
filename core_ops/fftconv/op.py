"""The public fftconv: checks, choice of implementation, dispatch.

Shapes: B batch, H channels, L samples, G groups of channels with one filter each, Lk taps.
"""

from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..dispatch import Implementation, Registry
from .call import Call, Layout, Precision, check, unavailable_fp16x, unavailable_transform
from .composite import fftconv_composite
from .cuda.impl import refuses as refuses_cuda
from .cuda.impl import run_cuda
from .custom import conv, transpose
from .flashfft import refuses as refuses_flashfftconv
from .flashfft import run_flashfftconv
from .modes import Mode
from .reference import fftconv_reference
from .spectrum import FilterSpectrum

Gate = Tensor | None


class Run(Protocol):
    """Computes a checked call."""

    def __call__(
        self, call: Call, u: Tensor, k: Tensor, pregate: Gate, postgate: Gate, skip: Gate, seq_idx: Gate
    ) -> Tensor: ...


def computing(call: Call) -> torch.dtype:
    """What computes a call."""
    return torch.float64 if call.double else torch.float32


def run_cpu(call: Call, u: Tensor, k: Tensor, pregate: Gate, postgate: Gate, skip: Gate, seq_idx: Gate) -> Tensor:
    """The measured CPU plans, as one operator."""
    window = (call.start, call.outputs, call.period)
    y: Tensor = conv(u, k, pregate, postgate, skip, seq_idx, *window, False, call.blh, call.double)
    return y


def run_torch(call: Call, u: Tensor, k: Tensor, pregate: Gate, postgate: Gate, skip: Gate, seq_idx: Gate) -> Tensor:
    """The composite of torch.fft calls."""
    v = u.transpose(1, 2) if call.blh else u
    gates = (transpose(pregate, call.blh), transpose(postgate, call.blh))
    window = (call.start, call.outputs, call.period)
    with torch.autocast(call.device, enabled=False):
        y = fftconv_composite(v, k, *gates, skip, seq_idx, *window, computing(call))
    return y.transpose(1, 2).contiguous() if call.blh else y


def run_reference(call: Call, u: Tensor, k: Tensor, pregate: Gate, postgate: Gate, skip: Gate, seq_idx: Gate) -> Tensor:
    """The definition, in what computes."""
    dtype = computing(call)
    v = (u.transpose(1, 2) if call.blh else u).to(dtype)
    pregate, postgate = (x if x is None else x.to(dtype) for x in (transpose(g, call.blh) for g in (pregate, postgate)))
    skip = skip if skip is None else skip.to(dtype)
    with torch.autocast(call.device, enabled=False):
        y = fftconv_reference(
            v, k.to(dtype), mode=call.mode, pregate=pregate, postgate=postgate, skip=skip, seq_idx=seq_idx
        )
    y = y.to(u.dtype)
    return y.transpose(1, 2).contiguous() if call.blh else y


def refuses_cpu(call: Call) -> str | None:
    """Why the CPU plans cannot run a call."""
    if call.device != "cpu":
        return f"u is on {call.device}; take impl='auto', or move the tensors to the CPU."
    return unavailable_transform(call) or unavailable_fp16x(call)


REGISTRY: Registry[Call, Run] = Registry("fftconv")
REGISTRY.register(Implementation("cpu", run_cpu, refuses_cpu))
REGISTRY.register(Implementation("cuda", run_cuda, refuses_cuda))
REGISTRY.register(Implementation("torch", run_torch, unavailable_fp16x))
REGISTRY.register(Implementation("flashfftconv", run_flashfftconv, refuses_flashfftconv, automatic=False))
REGISTRY.register(Implementation("reference", run_reference, unavailable_fp16x, automatic=False))


# x and y stand for h and l, or for l and h with layout="blh"; p and q for h and the outputs.
def fftconv(
    u: Float[Tensor, "b x y"],
    k: Float[Tensor, "g lk"] | FilterSpectrum,
    *,
    mode: Mode = "causal",
    pregate: Float[Tensor, "b x y"] | None = None,
    postgate: Float[Tensor, "b p q"] | None = None,
    skip: Float[Tensor, "h"] | None = None,
    seq_idx: Int[Tensor, "b l"] | None = None,
    precision: Precision = "auto",
    impl: str = "auto",
    layout: Layout = "bhl",
) -> Float[Tensor, "b p q"]:
    """Long convolution with gates, y = postgate * (conv(pregate * u, k) + skip * (pregate * u)).

    conv(v, k)[t] is, for v of L samples and k of Lk taps,
        causal     sum_{s <= t} k[t - s] v[s]               t < L
        full       the same                                 t < L + Lk - 1
        circular   sum_s k[(t - s) mod L] v[s], the taps beyond L aliased    t < L
        two_sided  sum_s k[c + t - s] v[s], c = (Lk - 1) / 2, Lk odd         t < L

    Args:
        u: Input (B, H, L), or (B, L, H) with layout="blh"; float32, float16, bfloat16 or float64, any strides.
        k: Filter (H, Lk), or (G, Lk) with G dividing H: channel h reads filter h // (H / G). Lk may be shorter or
            longer than L; float32 or float64; a 16-bit k is upcast. Or FilterSpectrum(k): calls without gradients
            transform the filter once.
        mode: Which outputs, see above.
        pregate: Multiplies u, of its shape.
        postgate: Multiplies the output, of its shape: in mode "full" it covers all L + Lk - 1 outputs.
        skip: (H,), how much of pregate * u is added; in mode "full" to the first L outputs.
        seq_idx: (B, L) integers; sequences packed in a row, a new one wherever the value changes: no output sees
            another sequence. With causal and two_sided.
        precision: "auto" computes in float32, or in float64 where u or k is; "fp32", "fp64" say which; "fp16x"
            (16-bit operands) needs a GPU kernel.
        impl: "auto", "cpu" (measured plans), "torch" (torch.fft calls, any device, any transform of torch.func),
            "cuda" (compiled kernels for NVIDIA GPUs), "flashfftconv" (that package, where it is importable) or
            "reference" (the definition, O(L^2)).
        layout: "bhl" or "blh", of u, the gates and the output.
    Returns: (B, H, L), (B, H, L + Lk - 1) when full, or the same with time before channels; in u's dtype. Under
        autocast nothing is cast: inputs keep their dtypes, the sums are float32.
    Raises: ShapeError, DtypeError: what arrived, what is accepted. KernelUnavailable: impl cannot run the call.
    Complexity: O(B H L log L) time; memory: the output and a scratch bound, 256 MB unless set_scratch_bytes says so.
    Source: Fu et al. 2023, "FlashFFTConv", arXiv:2311.05908, for the fused form; README.md for the algorithms.
    """
    kept = k if isinstance(k, FilterSpectrum) else None
    k = k.k if isinstance(k, FilterSpectrum) else k
    call = check(u, k, mode, pregate, postgate, skip, seq_idx, precision, layout)
    chosen = REGISTRY.choose(impl, call)
    if kept is not None and chosen.name in ("cpu", "cuda") and kept.serves(u, pregate, postgate, skip, seq_idx):
        return kept.run(chosen.name, call, u, pregate, postgate, skip)
    return chosen.run(call, u, k, pregate, postgate, skip, seq_idx)
