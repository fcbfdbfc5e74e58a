"""short_conv: checks, the torch.library operators and their gradients.

Shapes: B batch, H channels, L length, K taps.
"""

from typing import Any, Literal, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import DtypeError, ShapeError
from ..fftconv import fftconv
from ..pages import on_huge_pages
from . import shift

Layout = Literal["bhl", "blh"]
# From here on fftconv is faster: 12 to 16 ns a sample and core for any number of taps, where a shift takes 0.4 a tap.
FFT_TAPS = 24
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@torch.library.custom_op("farfield::short_conv", mutates_args=())
def _conv(u: Tensor, w: Tensor, bias: Tensor | None, reach: Tensor | None, reverse: bool, blh: bool) -> Tensor:
    if shift.takes_conv1d(u, w, bias, reach, blh):
        return shift.convolve_onednn(u, w, bias, reverse=reverse).contiguous()
    y = on_huge_pages(torch.empty_like(u, memory_format=torch.contiguous_format))
    dtype = torch.float64 if torch.float64 in (u.dtype, w.dtype) else torch.float32
    wide_bias = None if bias is None else bias.to(dtype)
    shift.convolve(_bhl(u, blh), w.to(dtype), wide_bias, reach, _bhl(y, blh), reverse=reverse, blh=blh)
    return y


@_conv.register_fake
def _(u: Tensor, w: Tensor, bias: Tensor | None, reach: Tensor | None, reverse: bool, blh: bool) -> Tensor:
    return torch.empty_like(u, memory_format=torch.contiguous_format)


@torch.library.custom_op("farfield::short_conv_dw", mutates_args=())
def _conv_dw(dy: Tensor, u: Tensor, reach: Tensor | None, taps: int, double: bool, blh: bool) -> Tensor:
    dw = u.new_empty(u.shape[2 if blh else 1], taps, dtype=torch.float64 if double else torch.float32)
    shift.correlate(_bhl(dy, blh), _bhl(u, blh), reach, dw, blh=blh)
    return dw


@_conv_dw.register_fake
def _(dy: Tensor, u: Tensor, reach: Tensor | None, taps: int | torch.SymInt, double: bool, blh: bool) -> Tensor:
    return u.new_empty(u.shape[2 if blh else 1], taps, dtype=torch.float64 if double else torch.float32)


def _conv_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    u, w, bias, reach, ctx.reverse, ctx.blh = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(u, w, reach)


def _conv_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    u, w, reach = ctx.saved_tensors
    need_u, need_w, need_bias = ctx.needs_input_grad[:3]
    double = torch.float64 in (u.dtype, w.dtype)
    du = _conv(dy, w, None, reach, not ctx.reverse, ctx.blh) if need_u else None
    dw = db = None
    if need_w:
        later, earlier = (u, dy) if ctx.reverse else (dy, u)
        dw = _conv_dw(later, earlier, reach, w.shape[-1], double, ctx.blh).to(w.dtype)
    if need_bias:
        db = dy.sum((0, 1) if ctx.blh else (0, 2), dtype=torch.float64 if double else torch.float32).to(ctx.bias_dtype)
    return du, dw, db, None, None, None


def _conv_dw_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    dy, u, reach, _, _, ctx.blh = inputs
    ctx.save_for_backward(dy, u, reach)


def _conv_dw_backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    dy, u, reach = ctx.saved_tensors
    need_dy, need_u = ctx.needs_input_grad[:2]
    d_dy = _conv(u, g, None, reach, False, ctx.blh).to(dy.dtype) if need_dy else None
    d_u = _conv(dy, g, None, reach, True, ctx.blh).to(u.dtype) if need_u else None
    return d_dy, d_u, None, None, None, None


_conv.register_autograd(_conv_backward, setup_context=_conv_setup)
_conv_dw.register_autograd(_conv_dw_backward, setup_context=_conv_dw_setup)


@overload
def short_conv(
    u: Tensor,
    w: Tensor,
    bias: Tensor | None = ...,
    state: None = ...,
    seq_idx: Tensor | None = ...,
    layout: Layout = ...,
) -> Tensor: ...


@overload
def short_conv(
    u: Tensor, w: Tensor, bias: Tensor | None, state: Tensor, seq_idx: Tensor | None = ..., layout: Layout = ...
) -> tuple[Tensor, Tensor]: ...


@overload
def short_conv(
    u: Tensor,
    w: Tensor,
    bias: Tensor | None = ...,
    *,
    state: Tensor,
    seq_idx: Tensor | None = ...,
    layout: Layout = ...,
) -> tuple[Tensor, Tensor]: ...


def short_conv(
    u: Float[Tensor, "b _ _"],
    w: Float[Tensor, "h k"],
    bias: Float[Tensor, " h"] | None = None,
    state: Float[Tensor, "b h k-1"] | None = None,
    seq_idx: Int[Tensor, "b l"] | None = None,
    layout: Layout = "bhl",
) -> Tensor | tuple[Tensor, Tensor]:
    """Depthwise causal FIR filter of a few taps, y[t] = bias + sum_{s=0}^{K-1} w[K-1-s] u[t-s].

    The last tap, w[:, K-1], multiplies the present and w[:, 0] the oldest input: the order of
    `F.conv1d(u, w[:, None], bias, padding=K-1, groups=H)[..., :L]`, and of HyenaDNA's `short_filter.weight[:, 0]`.

    Args:
        u: Input (B, H, L), or (B, L, H) with layout="blh"; fp32, fp16, bf16 or float64; any strides, L >= 1.
        w: Taps (H, K), K >= 1.
        bias: Added to every output (H,).
        state: The K-1 inputs before u[0], oldest first, (B, H, K-1) in both layouts; they belong to the sequence of
            the first position. Zeros at the start of a sequence.
        seq_idx: Integer (B, L): the sequence of each position of a packed row; the filter starts anew where it changes.
        layout: "bhl" or "blh".
    Returns: y in the shape and dtype of u; with state (y, new_state), new_state (B, H, K-1) in u's dtype
        for the next call (zero where an input is not of the last position's sequence). 16-bit inputs are accumulated
        in fp32; float64 computes in float64. Under autocast u is cast to its dtype, float64 is not.
    Raises: ShapeError: a shape or the layout. DtypeError: a dtype, or tensors on several devices.
    Complexity: O(B H L K) time, memory of the output and tiles of 2 MB a thread; beyond 24 taps that of `fftconv`.
    Source: Poli et al. 2023, "Hyena Hierarchy", arXiv:2302.10866, section 3.2 (short explicit filters).
    """
    y: Tensor
    blh = _check(u, w, bias, state, seq_idx, layout)
    if torch.is_autocast_enabled(u.device.type) and u.dtype != torch.float64:
        u = u.to(torch.get_autocast_dtype(u.device.type))
    if state is None and not _wants_gradient(u, w, bias) and shift.takes_conv1d(u, w, bias, seq_idx, blh):
        return shift.convolve_onednn(u, w, bias, reverse=False)
    if state is None and seq_idx is None and min(w.shape[1], u.shape[1 if blh else 2]) > FFT_TAPS:
        y = fftconv(u, w.flip(1), layout=layout)
        return y if bias is None else y + (bias if blh else bias[:, None]).to(y.dtype)
    if state is None:
        y = _conv(u, w, bias, None if seq_idx is None else _reach(seq_idx), False, blh)
        return y
    time, held = (1, 2)[not blh], state.shape[-1]
    x = torch.cat([_bhl(state.to(u.dtype), blh), u], dim=time)
    reach = None
    if seq_idx is not None:
        reach = _reach(torch.cat([seq_idx[:, :1].expand(-1, held), seq_idx], dim=1))
    y = _conv(x, w, bias, reach, False, blh).narrow(time, held, u.shape[time]).contiguous()
    new_state = _bhl(x, blh)[..., x.shape[time] - held :]
    if reach is not None:
        back = torch.arange(held, 0, -1, device=u.device) - 1
        new_state = torch.where((back <= reach[:, -1:])[:, None], new_state, 0)
    return y, new_state.contiguous().clone()


def _check(
    u: Tensor, w: Tensor, bias: Tensor | None, state: Tensor | None, seq_idx: Tensor | None, layout: str
) -> bool:
    if layout not in ("bhl", "blh"):
        raise ShapeError(f"short_conv: layout={layout!r}; accepted: 'bhl' for u (B, H, L), 'blh' for u (B, L, H).")
    blh = layout == "blh"
    if u.dim() != 3 or 0 in u.shape:
        wanted = "(B, L, H)" if blh else "(B, H, L)"
        raise ShapeError(f"short_conv: u has shape {tuple(u.shape)}; needed: {wanted}, no dimension empty.")
    batch, length, channels = u.shape if blh else (u.shape[0], u.shape[2], u.shape[1])
    if w.dim() != 2 or w.shape[0] != channels or w.shape[1] < 1:
        hint = " A Conv1d weight (H, 1, K) is w[:, 0]." if w.dim() == 3 else " Is it the other layout?"
        raise ShapeError(f"short_conv: w has shape {tuple(w.shape)}; needed: (H, K) with H={channels}, K >= 1.{hint}")
    if bias is not None and bias.shape != (channels,):
        raise ShapeError(f"short_conv: bias has shape {tuple(bias.shape)}; needed: (H,) = ({channels},).")
    if state is not None and state.shape != (batch, channels, w.shape[1] - 1):
        held = (batch, channels, w.shape[1] - 1)
        raise ShapeError(f"short_conv: state has shape {tuple(state.shape)}; needed: (B, H, K-1) = {held}, any layout.")
    for name, x in (("u", u), ("w", w), ("bias", bias), ("state", state)):
        if x is None:
            continue
        if x.dtype not in FLOATS:
            raise DtypeError(f"short_conv: {name} is {x.dtype}; accepted: float32, float16, bfloat16, float64.")
        if x.device != u.device:
            raise DtypeError(f"short_conv: {name} is on {x.device}, u on {u.device}; move one of them.")
    if seq_idx is not None:
        _check_packing(seq_idx, batch, length, u.device)
    return blh


def _check_packing(seq_idx: Tensor, batch: int, length: int, device: torch.device) -> None:
    if seq_idx.shape != (batch, length):
        raise ShapeError(f"short_conv: seq_idx has shape {tuple(seq_idx.shape)}; needed: (B, L) = ({batch}, {length}).")
    if seq_idx.is_floating_point() or seq_idx.is_complex() or seq_idx.dtype == torch.bool:
        raise DtypeError(f"short_conv: seq_idx is {seq_idx.dtype}; accepted: an integer dtype.")
    if seq_idx.device != device:
        raise DtypeError(f"short_conv: seq_idx is on {seq_idx.device}, u on {device}; move one of them.")


def _wants_gradient(u: Tensor, w: Tensor, bias: Tensor | None) -> bool:
    # oneDNN's own backward takes ten times its forward.
    return torch.is_grad_enabled() and (u.requires_grad or w.requires_grad or (bias is not None and bias.requires_grad))


def _bhl(x: Tensor, blh: bool) -> Tensor:
    return x.transpose(1, 2) if blh else x


def _reach(seq_idx: Tensor) -> Tensor:
    # Steps back from each position to the start of its run of equal values.
    here = torch.arange(seq_idx.shape[1], device=seq_idx.device)
    changes = torch.nn.functional.pad(seq_idx[:, 1:] != seq_idx[:, :-1], (1, 0))
    return here - torch.where(changes, here, 0).cummax(1).values
