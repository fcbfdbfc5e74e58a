"""What runs the rows of a form: the kernels where one holds them and is trusted, torch.fft elsewhere.

Shapes: u, gates, dy (B, H, L); k (G, Lk) fp32; skip (H,).
"""

import torch
from torch import Tensor

from ..composite import fftconv_composite
from . import selfcheck
from .forms import Gate, Gradients
from .gradient import backward
from .gradient_plan import backward_fits
from .launch import Operands, Spectra, forward
from .plan import forward_fits


def rows(x: Gate, dtype: torch.dtype) -> Gate:
    """x in a dtype, with unit stride in time."""
    if x is None:
        return None
    x = x if x.dtype == dtype else x.to(dtype)
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()


def taps(k: Tensor, most: int) -> Tensor:
    """At most so many taps of k, fp32 and contiguous."""
    k = k if k.shape[1] <= most else k[:, :most]
    return k if k.dtype == torch.float32 and k.is_contiguous() else k.float().contiguous()


def dtype_of(u: Tensor, *gates: Gate) -> torch.dtype:
    """The I/O dtype of the kernels: that of u where the gates have it too, else fp32."""
    return u.dtype if all(g is None or g.dtype == u.dtype for g in gates) else torch.float32


def by_torch(u: Tensor, k: Tensor, pregate: Gate, postgate: Gate, skip: Gate, circular: bool, lead: int = 0) -> Tensor:
    """The output by torch.fft."""
    window = (lead, u.shape[2], u.shape[2] if circular else 0)
    with torch.autocast(u.device.type, enabled=False):
        return fftconv_composite(u, k, pregate, postgate, skip, None, *window, torch.float32)


def gradients_by_torch(
    dy: Tensor, u: Tensor, k: Tensor, pregate: Gate, postgate: Gate, skip: Gate, circular: bool
) -> Gradients:
    """The gradients by torch.fft."""
    u, k = u.detach().requires_grad_(), k.detach().requires_grad_()
    pregate, postgate, skip = (x if x is None else x.detach().requires_grad_() for x in (pregate, postgate, skip))
    given = u, k, pregate, postgate, skip
    with torch.enable_grad():
        y = by_torch(u, k, pregate, postgate, skip, circular)
    grads = iter(torch.autograd.grad(y, [x for x in given if x is not None], dy.to(y.dtype)))
    return tuple(None if x is None else next(grads) for x in given)  # type: ignore[return-value]


def by_kernels(
    u: Tensor,
    k: Tensor,
    pregate: Gate,
    postgate: Gate,
    skip: Gate,
    circular: bool,
    lead: int = 0,
    spectra: Spectra | None = None,
) -> Tensor:
    """The output by the kernels, contiguous; with a filter's spectra read from, or kept in, `spectra`."""
    dtype = dtype_of(u, pregate, postgate)
    k = taps(k, lead + u.shape[2])
    skip = None if skip is None else skip.float().contiguous()
    x = Operands(rows(u, dtype), k, rows(pregate, dtype), rows(postgate, dtype), skip, lead)  # type: ignore[arg-type]
    index, gates = u.device.index, (pregate is not None, postgate is not None)
    if forward_fits(u.shape[2], dtype, gates, index) and selfcheck.trusted(
        index, "forward", u.shape[2], dtype, gates, (circular, lead), by_kernels, by_torch
    ):
        return forward(x, circular, spectra)
    return by_torch(u, k, pregate, postgate, skip, circular, lead)


def gradients_by_kernels(
    dy: Tensor, u: Tensor, k: Tensor, pregate: Gate, postgate: Gate, skip: Gate, circular: bool
) -> Gradients:
    """The gradients by the kernels."""
    dtype = dtype_of(u, pregate, postgate)
    count = k.shape[1]
    k = taps(k, u.shape[2])
    skip = None if skip is None else skip.float().contiguous()
    index, gates = u.device.index, (pregate is not None, postgate is not None)
    if backward_fits(u.shape[2], dtype.itemsize, gates, index) and selfcheck.trusted(
        index, "backward", u.shape[2], dtype, gates, (circular,), gradients_by_kernels, gradients_by_torch
    ):
        x = Operands(rows(u, dtype), k, rows(pregate, dtype), rows(postgate, dtype), skip)  # type: ignore[arg-type]
        du, dpre, dpost, dk, dskip = backward(x, rows(dy, dtype), circular)  # type: ignore[arg-type]
    else:
        du, dk, dpre, dpost, dskip = gradients_by_torch(dy, u, k, pregate, postgate, skip, circular)
    if dk.shape[1] < count:
        dk = torch.nn.functional.pad(dk, (0, count - dk.shape[1]))
    return du, dk, dpre, dpost, dskip
