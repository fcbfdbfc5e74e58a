"""fftconv as torch.library operators: real tensors only, fake kernels, and a backward made of the same two operators.

Shapes: u (B, H, L), or (B, L, H) where blh; k (G, Lk); pregate as u; postgate as the output; skip (H,); seq_idx (B, L).
"""

from typing import Any

import torch
from torch import Tensor

from ..pages import on_huge_pages
from . import cpu


def transpose(x: Tensor | None, blh: bool) -> Tensor | None:
    """A (B, H, L) view of a tensor in either layout."""
    return x.transpose(1, 2) if blh and x is not None else x


def allocate(u: Tensor, outputs: int | torch.SymInt, blh: bool) -> Tensor:
    """The output, contiguous in the layout of u."""
    return u.new_empty((u.shape[0], outputs, u.shape[2]) if blh else (u.shape[0], u.shape[1], outputs))


@torch.library.custom_op("farfield::fftconv", mutates_args=())
def conv(
    u: Tensor,
    k: Tensor,
    pregate: Tensor | None,
    postgate: Tensor | None,
    skip: Tensor | None,
    seq_idx: Tensor | None,
    start: int,
    outputs: int,
    period: int,
    flip: bool,
    blh: bool,
    double: bool,
) -> Tensor:
    """y = postgate * (window of conv(pregate * u, k) + skip * (pregate * u)); flip reverses k. Output as u's dtype."""
    y = on_huge_pages(allocate(u, outputs, blh))
    cpu.convolve(
        u.transpose(1, 2) if blh else u,
        k.detach(),
        y.transpose(1, 2) if blh else y,
        pregate=transpose(pregate, blh),
        postgate=transpose(postgate, blh),
        skip=skip,
        seq_idx=seq_idx,
        window=(start, outputs, period),
        flip=flip,
        dtype=torch.float64 if double else torch.float32,
    )
    return y


@conv.register_fake
def conv_fake(u: Tensor, *rest: Any) -> Tensor:
    """The output's shape; sizes may be symbolic."""
    return allocate(u, rest[6], rest[9])


@torch.library.custom_op("farfield::fftconv_dk", mutates_args=())
def conv_dk(
    dy: Tensor,
    u: Tensor,
    pregate: Tensor | None,
    postgate: Tensor | None,
    seq_idx: Tensor | None,
    groups: int,
    taps: int,
    start: int,
    period: int,
    blh: bool,
    double: bool,
) -> Tensor:
    """dk[g, m], summed over the group's rows and t, of (postgate * dy)[t] (pregate * u)[start + t - m]; (G, Lk)."""
    dk = torch.empty(groups, taps, dtype=torch.float64 if double else torch.float32, device=u.device)
    cpu.correlate(
        dy.transpose(1, 2) if blh else dy,
        u.transpose(1, 2) if blh else u,
        dk,
        pregate=transpose(pregate, blh),
        postgate=transpose(postgate, blh),
        seq_idx=seq_idx,
        start=start,
        period=period,
    )
    return dk


@conv_dk.register_fake
def conv_dk_fake(dy: Tensor, u: Tensor, *rest: Any) -> Tensor:
    """The gradient's shape; sizes may be symbolic."""
    return u.new_empty((rest[3], rest[4]), dtype=torch.float64 if rest[8] else torch.float32)


def conv_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep what the backward of conv reads."""
    ctx.save_for_backward(*inputs[:6])
    ctx.options = inputs[6:]


def conv_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    """Gradients of conv: the transpose in u is conv with the reversed filter, in k it is conv_dk."""
    u, k, pregate, postgate, skip, seq_idx = ctx.saved_tensors
    start, outputs, period, flip, blh, double = ctx.options
    need = ctx.needs_input_grad
    time = 1 if blh else 2
    length, taps = u.shape[time], k.shape[1]
    du = dk = dpre = dpost = dskip = None
    if need[0] or need[2]:
        turned = (taps - 1 - start, length, period, not flip, blh, double)
        if pregate is None or not need[2]:
            du = conv(dy, k, postgate, pregate, skip, seq_idx, *turned)
        else:
            dv = conv(dy, k, postgate, None, skip, seq_idx, *turned)
            du, dpre = dv * pregate, dv * u
    if need[1]:
        dk = conv_dk(dy, u, pregate, postgate, seq_idx, k.shape[0], taps, start, period, blh, double)
        dk = (dk.flip(-1) if flip else dk).to(k.dtype)
    if need[3]:
        dpost = dy * conv(u, k, pregate, None, skip, seq_idx, *ctx.options)
    if need[4]:
        shared = min(outputs, length)
        product = torch.float64 if double else torch.float32
        total = dy.narrow(time, 0, shared).to(product) * u.narrow(time, 0, shared)
        for gate in (pregate, postgate):
            total = total if gate is None else total * gate.narrow(time, 0, shared)
        dskip = total.sum((0, time)).to(skip.dtype)
    grads = [None if g is None else g.to(x.dtype) for g, x in ((du, u), (dk, k), (dpre, pregate), (dpost, postgate))]
    return (*grads, dskip, None, None, None, None, None, None, None)


def conv_dk_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep what the backward of conv_dk reads."""
    ctx.save_for_backward(*inputs[:5])
    ctx.options = inputs[6:]


def conv_dk_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    """Gradients of conv_dk, which is bilinear: conv with the incoming gradient as the filter."""
    dy, u, pregate, postgate, seq_idx = ctx.saved_tensors
    taps, start, period, blh, double = ctx.options
    need = ctx.needs_input_grad
    time = 1 if blh else 2
    ddy = du = dpre = dpost = None
    if need[0] or need[3]:
        options = (start, dy.shape[time], period, False, blh, double)
        z = conv(u, g, pregate, None, None, seq_idx, *options)
        ddy, dpost = z if postgate is None else z * postgate, z * dy
    if need[1] or need[2]:
        options = (taps - 1 - start, u.shape[time], period, True, blh, double)
        z = conv(dy, g, postgate, None, None, seq_idx, *options)
        du, dpre = z if pregate is None else z * pregate, z * u
    pairs = ((ddy, dy), (du, u), (dpre, pregate), (dpost, postgate))
    grads = [None if x is None or d is None else d.to(x.dtype) for d, x in pairs]
    return (*grads, None, None, None, None, None, None, None)


conv.register_autograd(conv_backward, setup_context=conv_context)
conv_dk.register_autograd(conv_dk_backward, setup_context=conv_dk_context)
