"""impl="cuda" of fftconv: which calls the kernels take, and the operators with their gradients.

Shapes: u (B, H, L), k (G, Lk), gates as u, skip (H,); causal.
"""

import warnings
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ..call import Call
from ..composite import fftconv_composite
from .gradient_plan import backward_fits
from .plan import IO, LONGEST


@cache
def toolchain() -> str | None:
    """What is missing to compile and launch; warns the first time it is missed on a machine with a GPU."""
    if find_spec("cuda") is not None and find_spec("cuda.core") is not None:
        return None
    missing = "the package cuda-core is missing: pip install 'farfield[cuda]'."
    warnings.warn(f"fftconv: torch.fft runs on this GPU, the faster kernels do not: {missing}", stacklevel=3)
    return missing


def refuses(call: Call) -> str | None:
    """Why the CUDA kernels cannot run a call; None where they can."""
    if call.device != "cuda":
        return f"u is on {call.device}; move the tensors to a GPU, or take impl='auto'."
    missing = toolchain()
    if missing is not None:
        return missing
    if call.double or call.precision == "fp16x" or call.dtype not in IO:
        return f"its arithmetic is fp32, asked for: {call.dtype}, precision={call.precision!r}; take impl='torch'."
    if call.mode != "causal" or call.packed:
        what = "seq_idx" if call.packed else f"mode={call.mode!r}"
        return f"{what} has no kernel yet; take impl='torch'."
    if call.length > LONGEST:
        return f"L={call.length}; the kernels hold up to L={LONGEST}; take impl='torch'."
    return None


def rows(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """x in a dtype, with unit stride in time."""
    if x is None:
        return None
    x = x.to(dtype)
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()


def operands(u: Tensor, k: Tensor, pregate: Tensor | None, postgate: Tensor | None, skip: Tensor | None) -> Any:
    """What launch.py takes: one dtype for u and gates, fp32 for the filter, no more taps than outputs see."""
    from .launch import Operands

    dtype = u.dtype if all(g is None or g.dtype == u.dtype for g in (pregate, postgate)) else torch.float32
    k = k[:, : u.shape[2]].float().contiguous()
    skip = None if skip is None else skip.float().contiguous()
    return Operands(rows(u, dtype), k, rows(pregate, dtype), rows(postgate, dtype), skip)  # type: ignore[arg-type]


@torch.library.custom_op("farfield::fftconv_cuda", mutates_args=(), device_types="cuda")
def conv_cuda(u: Tensor, k: Tensor, pregate: Tensor | None, postgate: Tensor | None, skip: Tensor | None) -> Tensor:
    """y = postgate * (causal conv(pregate * u, k) + skip * (pregate * u)), contiguous, in u's dtype."""
    from .launch import forward

    return forward(operands(u, k, pregate, postgate, skip)).to(u.dtype)


@conv_cuda.register_fake
def _(u: Tensor, k: Tensor, pregate: Tensor | None, postgate: Tensor | None, skip: Tensor | None) -> Tensor:
    return u.new_empty(u.shape)


@torch.library.custom_op("farfield::fftconv_cuda_backward", mutates_args=(), device_types="cuda")
def conv_cuda_backward(
    dy: Tensor, u: Tensor, k: Tensor, pregate: Tensor | None, postgate: Tensor | None, skip: Tensor | None
) -> list[Tensor]:
    """[du, dk (fp32), dpregate, dpostgate, dskip (fp32)] of those that are there, in this order."""
    from .gradient import backward

    x = operands(u, k, pregate, postgate, skip)
    du, dpre, dpost, dk, dskip = backward(x, rows(dy, x.u.dtype))  # type: ignore[arg-type]
    if dk.shape[1] < k.shape[1]:
        dk = torch.nn.functional.pad(dk, (0, k.shape[1] - dk.shape[1]))
    pairs = ((du, u), (dk, None), (dpre, pregate), (dpost, postgate), (dskip, None))
    return [d if like is None else d.to(like.dtype) for d, like in pairs if d is not None]


def composite_gradients(
    dy: Tensor, u: Tensor, k: Tensor, pregate: Tensor | None, postgate: Tensor | None, skip: Tensor | None
) -> list[Tensor]:
    """The same by torch.fft, where no kernel holds a row."""
    u, k = u.detach().requires_grad_(), k.detach().requires_grad_()
    pregate, postgate, skip = (None if x is None else x.detach().requires_grad_() for x in (pregate, postgate, skip))
    with torch.enable_grad(), torch.autocast("cuda", enabled=False):
        y = fftconv_composite(u, k, pregate, postgate, skip, None, 0, u.shape[2], 0, torch.float32)
    present = [x for x in (u, k, pregate, postgate, skip) if x is not None]
    grads = torch.autograd.grad(y, present, dy.to(y.dtype))
    fp32 = [x is k or x is skip for x in present]
    return [g.float() if wide else g for g, wide in zip(grads, fp32, strict=True)]


@conv_cuda_backward.register_fake
def _(
    dy: Tensor, u: Tensor, k: Tensor, pregate: Tensor | None, postgate: Tensor | None, skip: Tensor | None
) -> list[Tensor]:
    dk = k.new_empty(k.shape, dtype=torch.float32)
    dskip = None if skip is None else skip.new_empty(skip.shape, dtype=torch.float32)
    gates = [None if g is None else g.new_empty(g.shape) for g in (pregate, postgate)]
    return [x for x in (u.new_empty(u.shape), dk, *gates, dskip) if x is not None]


def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep the inputs only."""
    ctx.save_for_backward(*inputs)


def gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of conv_cuda."""
    given = ctx.saved_tensors
    u, gates = given[0], (given[2] is not None, given[3] is not None)
    held = backward_fits(u.shape[2], u.element_size(), gates, u.device.index or 0)
    found = iter((conv_cuda_backward if held else composite_gradients)(dy, *given))
    return tuple(None if x is None else next(found).to(x.dtype) for x in given)


conv_cuda.register_autograd(gradients, setup_context=keep)


def run_cuda(
    call: Call,
    u: Tensor,
    k: Tensor,
    pregate: Tensor | None,
    postgate: Tensor | None,
    skip: Tensor | None,
    seq_idx: Tensor | None,
) -> Tensor:
    """A checked call by the CUDA kernels."""
    if call.blh:
        u = u.transpose(1, 2)
        pregate, postgate = (None if g is None else g.transpose(1, 2) for g in (pregate, postgate))
    y: Tensor = conv_cuda(u, k, pregate, postgate, skip)
    return y.transpose(1, 2).contiguous() if call.blh else y
