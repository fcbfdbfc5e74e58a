"""What a call of fftconv asks for, checked in one place.

Shapes: u (B, H, L) or (B, L, H); k (G, Lk); skip (H,); seq_idx (B, L).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..errors import DtypeError, ShapeError
from .modes import MODES, Mode, window

Layout = Literal["bhl", "blh"]
Precision = Literal["auto", "fp32", "fp64", "fp16x"]
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Call:
    """A checked call: sizes, the window, what computes.

    Args:
        batch, channels, length, groups, taps: B, H, L, G, Lk.
        start, outputs, period: The window; see modes.py.
        mode: Its name. blh: Whether time comes before channels. double: Whether float64 computes.
        device: Type of u's device. dtype: Dtype of u. precision: As asked.
        packed: Whether seq_idx is given. gates: How many gates are given. skip: Whether skip is given.
        transformed: Whether a transform of torch.func or a forward-mode gradient is at work.
    """

    batch: int
    channels: int
    length: int
    groups: int
    taps: int
    start: int
    outputs: int
    period: int
    mode: Mode
    blh: bool
    double: bool
    device: str
    dtype: torch.dtype
    precision: str
    packed: bool
    gates: int
    skip: bool
    transformed: bool


def check(
    u: Tensor,
    k: Tensor,
    mode: Mode,
    pregate: Tensor | None,
    postgate: Tensor | None,
    skip: Tensor | None,
    seq_idx: Tensor | None,
    precision: str,
    layout: str,
) -> Call:
    """Check a call of fftconv; see op.py for the arguments.

    Raises: ShapeError, DtypeError: with what arrived and what is accepted.
    """
    if mode not in MODES:
        raise ShapeError(f"fftconv: mode={mode!r}; accepted: {', '.join(MODES)}.")
    if layout not in ("bhl", "blh"):
        raise ShapeError(f"fftconv: layout={layout!r}; accepted: 'bhl' for u (B, H, L), 'blh' for u (B, L, H).")
    if precision not in ("auto", "fp32", "fp64", "fp16x"):
        raise DtypeError(f"fftconv: precision={precision!r}; accepted: auto, fp32, fp64, fp16x.")
    if u.dim() != 3 or 0 in u.shape:
        wanted = "(B, L, H)" if layout == "blh" else "(B, H, L)"
        raise ShapeError(f"fftconv: u has shape {tuple(u.shape)}; needed: {wanted}, no dimension empty.")
    blh = layout == "blh"
    batch, channels, length = (u.shape[0], u.shape[2], u.shape[1]) if blh else u.shape
    if k.dim() != 2 or k.shape[1] < 1 or k.shape[0] < 1 or channels % k.shape[0] != 0:
        raise ShapeError(
            f"fftconv: k has shape {tuple(k.shape)} for {channels} channels; needed: (H, Lk), or (G, Lk) with G "
            f"dividing H={channels}." + (" u is read as (B, H, L): is it layout='blh'?" if not blh else "")
        )
    groups, taps = k.shape
    if mode == "two_sided" and taps % 2 != 1:
        raise ShapeError(f"fftconv: a two_sided filter has an odd number of taps, k[c + m] at lag m; got Lk={taps}.")
    start, outputs, period = window(mode, length, taps)
    for name, gate, samples in (("pregate", pregate, length), ("postgate", postgate, outputs)):
        shape = (batch, samples, channels) if blh else (batch, channels, samples)
        if gate is not None and tuple(gate.shape) != shape:
            hint = "; in mode='full' it covers all L + Lk - 1 outputs" if name == "postgate" and mode == "full" else ""
            raise ShapeError(f"fftconv: {name} has shape {tuple(gate.shape)}; needed: {shape}{hint}.")
    if skip is not None and tuple(skip.shape) != (channels,):
        raise ShapeError(f"fftconv: skip has shape {tuple(skip.shape)}; needed: (H,) = ({channels},).")
    if seq_idx is not None:
        check_packing(seq_idx, mode, batch, length)
    for name, tensor in (("u", u), ("k", k), ("pregate", pregate), ("postgate", postgate), ("skip", skip)):
        if tensor is not None and tensor.dtype not in FLOATS:
            raise DtypeError(f"fftconv: {name} is {tensor.dtype}; accepted: float32, float16, bfloat16, float64.")
    for name, tensor in (("k", k), ("pregate", pregate), ("postgate", postgate), ("skip", skip), ("seq_idx", seq_idx)):
        if tensor is not None and tensor.device != u.device:
            raise DtypeError(f"fftconv: {name} is on {tensor.device}, u on {u.device}; move one of them.")
    double = torch.float64 in (u.dtype, k.dtype)
    if precision == "fp32" and double:
        raise DtypeError(
            f"fftconv: precision='fp32' with u {u.dtype}, k {k.dtype}; take 'auto', or cast both to float32."
        )
    return Call(
        batch, channels, length, groups, taps, start, outputs, period, mode, blh, double or precision == "fp64",
        u.device.type, u.dtype, precision, seq_idx is not None, (pregate is not None) + (postgate is not None),
        skip is not None, transformed(u, k, pregate, postgate, skip),
    )  # fmt: skip


def transformed(*tensors: Tensor | None) -> bool:
    """Whether torch.func (vmap, grad, jvp, ...) or forward-mode AD looks at any of these."""
    if torch.compiler.is_compiling():
        return False
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    given = [x for x in tensors if x is not None]
    if any(wrapped(x) for x in given):
        return True
    if forward_ad._current_level < 0:
        return False
    return any(forward_ad.unpack_dual(x).tangent is not None for x in given)  # type: ignore[no-untyped-call]


def check_packing(seq_idx: Tensor, mode: str, batch: int, length: int) -> None:
    """Check seq_idx (B, L) against the mode.

    Raises: ShapeError, DtypeError.
    """
    if mode not in ("causal", "two_sided"):
        raise ShapeError(
            f"fftconv: seq_idx with mode={mode!r}: the outputs of packed sequences would overlap (full) or have no "
            "common period (circular); accepted: causal, two_sided. Or call once for each sequence."
        )
    if tuple(seq_idx.shape) != (batch, length):
        raise ShapeError(f"fftconv: seq_idx has shape {tuple(seq_idx.shape)}; needed: (B, L) = ({batch}, {length}).")
    if seq_idx.dtype.is_floating_point or seq_idx.dtype.is_complex or seq_idx.dtype == torch.bool:
        raise DtypeError(f"fftconv: seq_idx is {seq_idx.dtype}; accepted: an integer dtype.")


def unavailable_transform(call: Call) -> str | None:
    """Why an operator without rules for transforms cannot run a call under one."""
    if call.transformed:
        return "transforms of torch.func and forward-mode gradients need impl='torch', or impl='auto'."
    return None


def unavailable_fp16x(call: Call) -> str | None:
    """Why a call that asks for fp16x cannot run without a kernel for it."""
    if call.precision == "fp16x":
        return "precision='fp16x' needs a GPU kernel; take precision='auto'."
    return None
