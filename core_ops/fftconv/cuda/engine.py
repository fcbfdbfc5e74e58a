"""What runs the rows of a form: the kernels where one holds them and is trusted, torch.fft elsewhere.

Shapes: u, gates, dy (B, H, L); k (G, Lk) fp32; skip (H,).
"""

import torch
from torch import Tensor

from ..composite import fftconv_composite
from ..plans import smooth_size
from . import selfcheck
from .forms import Gate, Gradients
from .forward import forward, forward_fits
from .gradient import backward
from .gradient_plan import backward_fits
from .launch import Operands, Spectra


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
    dy: Tensor, u: Tensor, k: Tensor, pregate: Gate, postgate: Gate, skip: Gate, circular: bool, lead: int = 0
) -> Gradients:
    """The gradients by torch.fft, written out: inside an operator autograd does not record."""
    length, count, size = u.shape[2], k.shape[1], smooth_size(2 * u.shape[2])
    v = u.float() if pregate is None else u.float() * pregate
    w = dy.float() if postgate is None else dy.float() * postgate
    fv, fw = torch.fft.rfft(v, n=size), torch.fft.rfft(w, n=size)
    filters = torch.nn.functional.pad(k.float(), (0, size - count)).roll(-lead, 1)
    fk = torch.fft.rfft(filters).repeat_interleave(u.shape[1] // k.shape[0], 0)

    def samples(spectrum: Tensor, many: int, wrapped: slice) -> Tensor:
        x: Tensor = torch.fft.irfft(spectrum, n=size)
        return x[..., :many] + x[..., wrapped] if circular else x[..., :many]

    # A period of L adds what one of 2 L or more keeps apart: outputs from L on, and those before 0, at the end.
    before = slice(size - length, size)
    dv = samples(fw * fk.conj(), length, before)
    per_filter = (fw * fv.conj()).sum(0).unflatten(0, (k.shape[0], -1)).sum(1)
    if lead:
        dk = torch.fft.irfft(per_filter, n=size).roll(lead, 1)[:, :count]
    else:
        dk = samples(per_filter, count, slice(size - length, size - length + count))
    y = None if postgate is None else samples(fv * fk, length, slice(length, 2 * length))
    if skip is not None:
        dv = dv + skip.float()[:, None] * w
        y = None if y is None else y + skip.float()[:, None] * v
    return (
        (dv if pregate is None else dv * pregate).to(u.dtype),
        dk,
        None if pregate is None else (dv * u).to(pregate.dtype),
        None if postgate is None or y is None else (y * dy).to(postgate.dtype),
        None if skip is None else (v * w).sum((0, 2)),
    )


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
    dy: Tensor, u: Tensor, k: Tensor, pregate: Gate, postgate: Gate, skip: Gate, circular: bool, lead: int = 0
) -> Gradients:
    """The gradients by the kernels."""
    dtype = dtype_of(u, pregate, postgate)
    count = k.shape[1]
    k = taps(k, lead + u.shape[2])
    skip = None if skip is None else skip.float().contiguous()
    index, gates = u.device.index, (pregate is not None, postgate is not None)
    if backward_fits(u.shape[2], dtype.itemsize, gates, index) and selfcheck.trusted(
        index, "backward", u.shape[2], dtype, gates, (circular, lead), gradients_by_kernels, gradients_by_torch
    ):
        x = Operands(rows(u, dtype), k, rows(pregate, dtype), rows(postgate, dtype), skip, lead)  # type: ignore[arg-type]
        du, dpre, dpost, dk, dskip = backward(x, rows(dy, dtype), circular)  # type: ignore[arg-type]
    else:
        du, dk, dpre, dpost, dskip = gradients_by_torch(dy, u, k, pregate, postgate, skip, circular, lead)
    if dk.shape[1] < count:
        dk = torch.nn.functional.pad(dk, (0, count - dk.shape[1]))
    return du, dk, dpre, dpost, dskip
