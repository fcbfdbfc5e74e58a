"""impl="cuda" of fftconv: which calls the kernels take, and the operators with their gradients.

Shapes: u (B, H, L), k (G, Lk), gates as u (postgate as the output), skip (H,), seq_idx (B, L).
"""

import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ...errors import KernelUnavailable
from ..call import Call, unavailable_transform
from ..composite import fftconv_composite
from ..modes import window
from . import engine, forms, packing
from .forms import Convolve, Differentiate, Gate
from .forward import forward_fits
from .gradient_plan import leads
from .launch import Spectra
from .plan import IO, LONGEST


def missing_package() -> str | None:
    """What is missing to compile and launch kernels."""
    if find_spec("cuda") is not None and find_spec("cuda.core") is not None:
        return None
    return "the package cuda-core is missing: pip install 'farfield[cuda]'."


MISSING = missing_package()
PLAIN = (Tensor, torch.nn.Parameter)
warned: set[str] = set()


def toolchain() -> str | None:
    """What is missing; warns the first time it is missed on a machine with a GPU."""
    if MISSING is not None and MISSING not in warned and not torch.compiler.is_compiling():
        warned.add(MISSING)
        warnings.warn(f"fftconv: torch.fft runs on this GPU, the faster kernels do not: {MISSING}", stacklevel=3)
    return MISSING


def rows_length(call: Call) -> int:
    """Samples of the rows of a call, see forms.py; at most that many where seq_idx cuts them."""
    if call.mode == "circular":
        return call.length if call.length == LONGEST else call.length + min(call.taps, call.length) - 1
    ahead = min(call.start, call.length - 1) if call.mode == "two_sided" else 0
    return call.outputs + ahead


def refuses(call: Call) -> str | None:
    """Why the CUDA kernels cannot run a call; None where they can."""
    if call.device != "cuda":
        return f"u is on {call.device}; move the tensors to a GPU, or take impl='auto'."
    missing = toolchain() or unavailable_transform(call)
    if missing is not None:
        return missing
    if call.double or call.precision == "fp16x" or call.dtype not in IO:
        return f"its arithmetic is fp32, asked for: {call.dtype}, precision={call.precision!r}; take impl='torch'."
    length = rows_length(call)
    if length > LONGEST:
        return f"mode={call.mode!r} needs rows of {length} samples, the kernels hold {LONGEST}; take impl='torch'."
    # Whether this GPU's shared memory holds a row: an operator that is compiled finds out when it runs.
    if torch.compiler.is_compiling() or forward_fits(length, call.dtype, (True, True), torch.cuda.current_device()):
        return None
    return f"no kernel holds {length} samples in this GPU's shared memory; take impl='torch'."


def convolve(
    run: Convolve,
    u: Tensor,
    k: Tensor,
    pregate: Gate,
    postgate: Gate,
    skip: Gate,
    seq_idx: Tensor | None,
    mode: str,
) -> Tensor:
    """The output of a call by what runs its rows; contiguous, in u's dtype."""
    dtype = engine.dtype_of(u, pregate, postgate)
    if seq_idx is None:
        form = forms.form_of(mode, u.shape[2], k.shape[1], True)
        y = forms.convolve(run, form, u, k, pregate, postgate, skip, dtype)
    else:
        y = packing.convolve_packed(run, mode, u, k, pregate, postgate, skip, seq_idx, dtype)
    return y if y.dtype == u.dtype and y.is_contiguous() else y.to(u.dtype).contiguous()


def differentiate(
    run: Differentiate,
    dy: Tensor,
    u: Tensor,
    k: Tensor,
    pregate: Gate,
    postgate: Gate,
    skip: Gate,
    seq_idx: Tensor | None,
    mode: str,
) -> list[Tensor]:
    """The gradients of a call by what runs its rows: those that are there, contiguous; dk and dskip in fp32."""
    dtype = engine.dtype_of(u, pregate, postgate)
    if seq_idx is None:
        gates, index = (pregate is not None, postgate is not None), u.device.index
        form = forms.form_of(mode, u.shape[2], k.shape[1], leads(u.shape[2], dtype.itemsize, gates, index))
        grads = forms.differentiate(run, form, dy, u, k, pregate, postgate, skip, dtype)
    else:
        grads = packing.differentiate_packed(run, mode, dy, u, k, pregate, postgate, skip, seq_idx, dtype)
    pairs = zip(grads, (u, None, pregate, postgate, None), strict=True)
    return [(d.float() if like is None else d.to(like.dtype)).contiguous() for d, like in pairs if d is not None]


def refuse_capture(seq_idx: Tensor | None) -> None:
    """Packed sequences are sorted by length on the host, which a CUDA graph cannot do again.

    Raises: KernelUnavailable.
    """
    if seq_idx is not None and torch.cuda.is_current_stream_capturing():
        raise KernelUnavailable(
            "fftconv: seq_idx is read on the host and cannot be captured in a CUDA graph; capture calls without it, or "
            "pad the sequences to rows of their own."
        )


def eager(u: Tensor, k: Tensor, pregate: Gate, postgate: Gate, skip: Gate, seq_idx: Tensor | None, mode: str) -> Tensor:
    """conv_cuda without the operator, for calls that nothing observes: it costs the host less."""
    refuse_capture(seq_idx)
    with torch.cuda.device(u.device):
        return convolve(engine.by_kernels, u, k, pregate, postgate, skip, seq_idx, mode)


@torch.library.custom_op("farfield::fftconv_cuda", mutates_args=(), device_types="cuda")
def conv_cuda(
    u: Tensor,
    k: Tensor,
    pregate: Tensor | None,
    postgate: Tensor | None,
    skip: Tensor | None,
    seq_idx: Tensor | None = None,
    mode: str = "causal",
) -> Tensor:
    """y = postgate * (conv(pregate * u, k) + skip * (pregate * u)), contiguous, in u's dtype."""
    return eager(u, k, pregate, postgate, skip, seq_idx, mode)


@conv_cuda.register_fake
def _(
    u: Tensor,
    k: Tensor,
    pregate: Tensor | None,
    postgate: Tensor | None,
    skip: Tensor | None,
    seq_idx: Tensor | None = None,
    mode: str = "causal",
) -> Tensor:
    return u.new_empty(u.shape[0], u.shape[1], u.shape[2] + (k.shape[1] - 1 if mode == "full" else 0))


def eager_gradients(
    dy: Tensor, u: Tensor, k: Tensor, pregate: Gate, postgate: Gate, skip: Gate, seq_idx: Tensor | None, mode: str
) -> list[Tensor]:
    """conv_cuda_backward without the operator."""
    refuse_capture(seq_idx)
    with torch.cuda.device(u.device):
        return differentiate(engine.gradients_by_kernels, dy, u, k, pregate, postgate, skip, seq_idx, mode)


@torch.library.custom_op("farfield::fftconv_cuda_backward", mutates_args=(), device_types="cuda")
def conv_cuda_backward(
    dy: Tensor,
    u: Tensor,
    k: Tensor,
    pregate: Tensor | None,
    postgate: Tensor | None,
    skip: Tensor | None,
    seq_idx: Tensor | None = None,
    mode: str = "causal",
) -> list[Tensor]:
    """[du, dk (fp32), dpregate, dpostgate, dskip (fp32)] of those that are there, in this order."""
    return eager_gradients(dy, u, k, pregate, postgate, skip, seq_idx, mode)


@conv_cuda_backward.register_fake
def _(
    dy: Tensor,
    u: Tensor,
    k: Tensor,
    pregate: Tensor | None,
    postgate: Tensor | None,
    skip: Tensor | None,
    seq_idx: Tensor | None = None,
    mode: str = "causal",
) -> list[Tensor]:
    dk = k.new_empty(k.shape, dtype=torch.float32)
    dskip = None if skip is None else skip.new_empty(skip.shape, dtype=torch.float32)
    gates = [None if g is None else g.new_empty(g.shape) for g in (pregate, postgate)]
    return [x for x in (u.new_empty(u.shape), dk, *gates, dskip) if x is not None]


def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep the inputs only."""
    ctx.save_for_backward(*inputs[:6])
    ctx.mode = inputs[6]


def gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of conv_cuda; where they are to be differentiated again, out of torch.fft calls."""
    *given, seq_idx = ctx.saved_tensors
    if torch.is_grad_enabled():
        return (*differentiable_gradients(dy, given, seq_idx, ctx.mode), None, None)
    run: Callable[..., list[Tensor]] = conv_cuda_backward if observed(dy, *given) else eager_gradients
    found = iter(run(dy, *given, seq_idx, ctx.mode))
    return (*(None if x is None else next(found).to(x.dtype) for x in given), None, None)


def differentiable_gradients(
    dy: Tensor, given: list[Tensor | None], seq_idx: Tensor | None, mode: str
) -> list[Tensor | None]:
    """The gradients of a call with a graph behind them."""
    u, k, pregate, postgate, skip = given
    assert u is not None
    assert k is not None
    start, outputs, period = window(mode, u.shape[2], k.shape[1])
    y = fftconv_composite(u, k, pregate, postgate, skip, seq_idx, start, outputs, period, torch.float32)
    wanted = [x for x in given if x is not None and x.requires_grad]
    found = iter(torch.autograd.grad(y, wanted, dy, create_graph=True))
    return [next(found) if x is not None and x.requires_grad else None for x in given]


conv_cuda.register_autograd(gradients, setup_context=keep)


def observed(*given: Gate) -> bool:
    """Whether autograd, a compiler, a dispatch mode or a subclass of Tensor has to see an operator."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return True
    wanted = torch.is_grad_enabled()
    return any(x is not None and ((wanted and x.requires_grad) or type(x) not in PLAIN) for x in given)


def run_cuda(
    call: Call, u: Tensor, k: Tensor, pregate: Gate, postgate: Gate, skip: Gate, seq_idx: Tensor | None
) -> Tensor:
    """A checked call by the CUDA kernels."""
    if call.blh:
        u = u.transpose(1, 2)
        pregate, postgate = (None if g is None else g.transpose(1, 2) for g in (pregate, postgate))
    run = conv_cuda if observed(u, k, pregate, postgate, skip) else eager
    y: Tensor = run(u, k, pregate, postgate, skip, seq_idx, call.mode)
    return y.transpose(1, 2).contiguous() if call.blh else y


def run_with_spectra(
    call: Call, u: Tensor, k: Tensor, pregate: Gate, postgate: Gate, skip: Gate, spectra: Spectra | None
) -> Tensor:
    """A checked call, without gradients, whose filter's spectra are read from, or kept in, `spectra`."""
    if call.blh:
        u = u.transpose(1, 2)
        pregate, postgate = (None if g is None else g.transpose(1, 2) for g in (pregate, postgate))
    run = partial(engine.by_kernels, spectra=spectra)
    with torch.cuda.device(u.device):
        y = convolve(run, u, k, pregate, postgate, skip, None, call.mode)
    return y.transpose(1, 2).contiguous() if call.blh else y
